"""Islands: Keras layers that stay in float, as a config plus arrays in the graph, and how they are run.

An ``island`` node's ``layer`` is Keras' own serialized object, its ``weights`` and ``state`` are constants of the
graph, and ``call`` says how it takes its inputs: the arguments with ``{"input": i}``, ``{"array": j}``, ``{"slice":
[...]}`` ... in the places of tensors, arrays and slices, and ``masks``, pairs ``(i, j)``: input ``j`` is the mask that
hangs on input ``i``, as Keras has it.

In the process that read the model the config also knows the layer itself (``LayerConfig.live``): copies of it are made
by its own class, with its own functions, so that names play no part: two classes of one name are two classes, a lambda
needs no source. What is written to a file is the config alone; it names the classes and functions that a loader must
provide, and holds no code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti.graph.ir import Graph, Node
from graffiti.keras_io import compat
from graffiti.layers import WithMask

_INPUT, _ARRAY, _OBJECT, _SLICE, _ELLIPSIS, _DICT = _MARKS = ("input", "array", "object", "slice", "ellipsis", "dict")
# kinds of state: load_own_variables, states of a stateful layer, load_assets
_OWN, _STATES, _ASSET = "own", "states", "asset"


class LayerConfig(dict):
    """A serialized layer or operation that knows what it was made from, in this process.

    Attributes:
        live: the layer or operation of the model that was read; never changed.
        objects: arguments of the call that are no plain values.
    """

    live: Any = None
    objects: tuple = ()

    def __reduce__(self):
        return dict, (dict(self),)  # another process gets the config alone


@dataclasses.dataclass(frozen=True)
class Description:
    """A call as plain values.

    Attributes:
        layer: the config.
        call: the structure of the arguments.
        inputs: the symbolic tensors among them, in the order of their numbers.
        weights: ``(name, variable)``.
        state: ``(number of the layer inside, kind, key, variable or array)`` of what the layer keeps beside
            ``weights``.
        arrays: arguments that are arrays.
    """

    layer: LayerConfig
    call: dict[str, Any]
    inputs: list[keras.KerasTensor]
    weights: list[tuple[str, Any]]
    state: list[tuple[int, str, str, Any]]
    arrays: list[np.ndarray]


# ---- a call → plain values -------------------------------------------------------------------------------------------
def describe(operation, args: tuple, kwargs: dict[str, Any]) -> Description:
    """A call as plain values.

    Args:
        operation: a layer, a model or a ``keras.ops`` operation.
        args: its positional arguments, symbolic tensors and arrays included.
        kwargs: its named arguments; ``training`` is dropped: islands are run at inference.

    Raises:
        ValueError: where the layer cannot be made again, because it does not say how.
    """
    layer = config_of(operation)
    weights = (
        [(weight.name, weight) for weight in operation.weights] if isinstance(operation, keras.layers.Layer) else []
    )
    inputs: list[keras.KerasTensor] = []
    arrays: list[np.ndarray] = []
    objects: list[Any] = []

    def plain(value):
        if isinstance(value, keras.KerasTensor):
            inputs.append(value)
            return {_INPUT: len(inputs) - 1}
        if isinstance(value, (np.ndarray, keras.Variable)) or keras.ops.is_tensor(value):
            arrays.append(np.asarray(keras.ops.convert_to_numpy(value)))
            return {_ARRAY: len(arrays) - 1}
        if isinstance(value, dict):  # in the user's order; a layer may well go by it
            parts = {key: plain(part) for key, part in value.items()}
            return {_DICT: parts} if len(parts) == 1 and next(iter(parts)) in _MARKS else parts
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple) or compat.is_tracked_list(value):
            return (list if isinstance(value, list) else tuple)(plain(part) for part in value)
        if isinstance(value, slice):
            return {_SLICE: [plain(part) for part in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {_ELLIPSIS: True}
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        objects.append(value)
        return {_OBJECT: len(objects) - 1}

    call = {
        "args": plain(tuple(args)), "kwargs": plain({key: value for key, value in kwargs.items() if key != "training"}),
        "weights": len(weights)
    }
    layer.objects = tuple(objects)
    return Description(layer, call, inputs, weights, list(_state(operation)), arrays)


def config_of(operation) -> LayerConfig:
    """The serialized form of a layer or operation.

    Functions of the user's that it computes with are named in ``functions``: ``(number of the layer inside, attribute,
    name)``.

    Raises:
        ValueError: where it has no ``get_config``.
    """
    functions = [
        (index, attribute, compat.function_name(function))
        for index, attribute, function in compat.own_functions(operation)
    ]
    try:
        config = json.loads(json.dumps(compat.serialized(operation)))
    except Exception as error:
        if isinstance(operation, keras.layers.Layer):
            raise ValueError(
                f"layer {operation.name!r} ({type(operation).__name__}) has no fixed-point form and cannot be kept in "
                "float either, because Keras "
                "cannot serialize it; give it a get_config that returns plain values"
            ) from error
        kind = type(operation)  # an operation with functions in it: this process only
        config = {
            "module": kind.__module__, "class_name": kind.__name__, "config": None, "registered_name": kind.__name__
        }
        functions = functions or [(0, "", kind.__name__)]
    result = LayerConfig(config, **({"functions": [list(entry) for entry in functions]} if functions else {}))
    result.live = operation
    return result


def _state(operation) -> Iterator[tuple[int, str, str, Any]]:
    """What Keras' own saving keeps of a layer and the layers inside beside their weights, and the states of stateful
    ones.
    """
    for index, layer in enumerate(compat.sublayers(operation)):
        with tempfile.TemporaryDirectory() as folder:
            if compat.overrides(layer, "save_assets"):
                layer.save_assets(folder)
            for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file()):
                yield index, _ASSET, path.relative_to(folder).as_posix(), np.frombuffer(path.read_bytes(), np.uint8)
        if compat.overrides(layer, "load_own_variables"):
            store: dict[str, Any] = {}
            layer.save_own_variables(store)
            yield from ((index, _OWN, str(key), value) for key, value in store.items())
        for number, variable in enumerate(compat.states(layer)):
            yield index, _STATES, str(number), variable


# ---- plain values → a layer ------------------------------------------------------------------------------------------
def restore(node: Node, name: str | None = None):
    """The layer or operation of an island that was read from a file, without its weights.

    Raises:
        ValueError: where a class or a function is missing; one sentence that names it.
    """
    config = json.loads(json.dumps(node.attrs["layer"]))
    functions = config.pop("functions", [])
    if name is not None and "config" in config and isinstance(config["config"], dict) and "name" in config["config"]:
        config["config"]["name"] = name
    found = {}
    for index, attribute, function in functions:
        found[index, attribute] = keras.saving.get_registered_object(function)
        if found[index, attribute] is None:
            raise ValueError(
                f"the float layer {node.name!r} ({config.get('class_name')}) computes with the function {function!r}, "
                "which a file does not hold (nothing in it is run); "
                "register it with keras.saving.register_keras_serializable before the model is made, and import it "
                "before loading, or convert the model again"
            )
    try:
        layer = keras.saving.deserialize_keras_object(config)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the float layer {node.name!r} cannot be made again ({reason[:300]}); its class "
            f"{config.get('class_name')!r} must be registered with "
            "keras.saving.register_keras_serializable and imported, or named in keras.saving.custom_object_scope"
        ) from error
    layers = compat.sublayers(layer)
    for (index, attribute), function in found.items():
        setattr(layers[index] if layers else layer, attribute, function)
    return layer


class Workshop:
    """Makes the layers of islands: one for each layer of the model, however often it is called and whoever holds it.

    Args:
        graph: the graph whose islands are made.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._made: dict[str, Any] = {}
        self._twins = compat.Twins()
        self._filled: dict[str, Node] = {}

    def layer(self, node: Node, name: str | None = None):
        """The layer or operation of an island; another call of it gives the same one."""
        instance = node.attrs.get("instance") or node.name
        if instance not in self._made:
            live = getattr(node.attrs["layer"], "live", None)
            self._made[instance] = restore(node, name) if live is None else self._twins.of(live, name)
            self._load_files(node, self._made[instance])
        return self._made[instance]

    def fill(self, node: Node, *, again: bool = False) -> None:
        """Give the built layer of an island its arrays, once (``again``: whatever it holds by now)."""
        instance = node.attrs.get("instance") or node.name
        if instance in self._filled and not again:
            return
        self._filled.setdefault(instance, node)
        layer, names = self._made[instance], node.attrs.get("weights", ())
        count = (node.attrs.get("call") or {"weights": len(names)})["weights"]
        if count:
            layer.set_weights([self.graph.constants[name] for name in names[:count]])
        inner = compat.sublayers(layer)
        stores: dict[int, dict[str, Any]] = {}
        for index, kind, key, name in node.attrs.get("state", ()):
            if kind == _OWN:
                stores.setdefault(index, {})[key] = self.graph.constants[name]
            elif kind == _STATES:
                compat.states(inner[int(index)])[int(key)].assign(self.graph.constants[name])
        for index, store in stores.items():
            inner[int(index)].load_own_variables(store)

    def reset_states(self) -> None:
        """Everything that layers keep from call to call as the graph has it; states of stateful layers zero, as
        ``reset_states`` of Keras has them.
        """
        for node in self._filled.values():
            self.fill(node, again=True)
            compat.reset_states(self._made[node.attrs.get("instance") or node.name])

    def _load_files(self, node: Node, layer) -> None:
        """What a layer keeps in files, before it is called: its shapes may follow from it. In the order of Keras:
        variables, then files.
        """
        inner = compat.sublayers(layer)
        assets: dict[int, list[tuple[str, str]]] = {}
        for index, kind, key, name in node.attrs.get("state", ()):
            if kind == _ASSET:
                assets.setdefault(int(index), []).append((key, name))
        for index, files in assets.items():
            if store := {
                key: self.graph.constants[name] for i, kind, key, name in node.attrs["state"]
                if kind == _OWN and int(i) == index
            }:
                inner[index].load_own_variables(store)
            with tempfile.TemporaryDirectory() as folder:
                for key, name in files:
                    path = pathlib.Path(folder, key).resolve()
                    if pathlib.Path(folder).resolve() not in path.parents:
                        raise ValueError(
                            f"the float layer {node.name!r} has a file named {key!r}, outside its own folder; the "
                            "graph was changed"
                        )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(np.asarray(self.graph.constants[name], np.uint8).tobytes())
                inner[index].load_assets(folder)


def arguments(node: Node, graph: Graph, inputs: list, hang: Callable[[int, Any, Any], Any]) -> tuple[list, dict]:
    """The arguments of an island's call, with ``inputs`` and arrays in their places.

    Args:
        node: an ``island``; its attribute ``call`` says what stands where, and without one the inputs are the
            arguments.
        graph: holds the arrays that the call was made with.
        inputs: arrays or tensors, in the order of the node's inputs.
        hang: ``(number of the input, input, mask) -> input`` with the mask on it.

    Returns:
        ``(args, kwargs)``.

    Raises:
        ValueError: where an argument was an object of the process that read the model.
    """
    call = (
        node.attrs.get("call")
        or {
            "args": [{_INPUT: i} for i in range(len(inputs))], "kwargs": {},
            "weights": len(node.attrs.get("weights", ()))
        }
    )
    arrays = [graph.constants[name] for name in node.attrs.get("weights", ())[call["weights"]:]]
    objects = getattr(node.attrs["layer"], "objects", ())
    masked = {index: hang(index, inputs[index], inputs[mask]) for index, mask in call.get("masks", ())}
    inputs = [masked.get(index, value) for index, value in enumerate(inputs)]

    def fill(value):
        if isinstance(value, dict):
            mark = next(iter(value)) if len(value) == 1 else None
            if mark == _INPUT:
                return inputs[value[_INPUT]]
            if mark == _ARRAY:
                return arrays[value[_ARRAY]]
            if mark == _SLICE:
                return slice(*(fill(part) for part in value[_SLICE]))
            if mark == _ELLIPSIS:
                return Ellipsis
            if mark == _OBJECT:
                if value[_OBJECT] >= len(objects):
                    raise ValueError(
                        f"the float layer {node.name!r} is called with an object that only the process that read the "
                        "model has; convert the model again"
                    )
                return objects[value[_OBJECT]]
            return {key: fill(part) for key, part in (value[_DICT] if mark == _DICT else value).items()}
        return type(value)(fill(part) for part in value) if isinstance(value, (list, tuple)) else value

    return list(fill(call["args"])), fill(call["kwargs"])


# ---- running ---------------------------------------------------------------------------------------------------------
class IslandRunner:
    """Runs islands on numpy arrays at inference; every layer is made once, and runs as a ``tf.function`` as in
    ``Model.predict``: TensorFlow fuses float ops there, and fused ones round differently than single ones.

    A stateful layer starts from what the graph holds and carries its state from call to call, as in Keras. Random
    numbers that a layer draws at inference start from one seed at every call.

    Args:
        graph: the graph whose islands are run; its constants are their weights.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._workshop = Workshop(graph)
        self._functions: dict[str, Any] = {}
        self._seeds: dict[str, list] = {}

    def __call__(self, node: Node, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of one island, numpy arrays in the order of the node's outputs."""
        dtypes = node.attrs.get("input_dtypes") or ["float32"] * len(arrays)
        if node.name not in self._functions:
            self._functions[node.name] = self._function(node, dtypes)
        for seed in self._seeds[node.name]:
            seed.assign(keras.ops.zeros_like(seed.value))
        tensors = [_tensor(array, dtype) for array, dtype in zip(arrays, dtypes, strict=True)]
        results = keras.tree.flatten(self._functions[node.name](*tensors))
        return [_array(part) for part in results]

    def prepare(self) -> None:
        """Make every layer now: what a file names and this process lacks is missed before anything is computed."""
        for node in self.graph.nodes:
            if node.op == "island":
                self._workshop.layer(node)

    def reset_states(self) -> None:
        """Let stateful layers begin anew: states zero, whatever else they keep as the graph has it."""
        self._workshop.reset_states()

    def _function(self, node: Node, dtypes):
        """Build the layer on symbolic tensors, which moves no state, and give it its arrays."""
        layer = self._workshop.layer(node)
        training = {"training": False} if isinstance(layer, keras.layers.Layer) else {}
        hang = WithMask()

        def call(*inputs):
            args, kwargs = arguments(node, self.graph, list(inputs), lambda index, x, mask: hang([x, mask]))
            return layer(*args, **{**kwargs, **training})

        call(
            *(
                keras.Input(batch_shape=self.graph.shape(value), dtype=dtype)
                for value, dtype in zip(node.inputs, dtypes)
            )
        )
        self._workshop.fill(node)
        self._seeds[node.name] = compat.seeds(layer)
        signature = [tf.TensorSpec(self.graph.shape(value), dtype) for value, dtype in zip(node.inputs, dtypes)]
        function = tf.function(call, input_signature=signature, autograph=False)
        try:
            function.get_concrete_function()  # one trace for every batch size, as in ``Model.predict``
        except Exception:  # whatever a layer raises that must know its batch size; a fault of its own shows in the call
            return tf.function(call, autograph=False)
        return function


def _tensor(array: np.ndarray, dtype: str):
    return (
        tf.constant(np.asarray(array, object), tf.string) if dtype == "string"
        else keras.ops.convert_to_tensor(np.asarray(array), dtype)
    )


def _array(value) -> np.ndarray:
    array = np.asarray(value if tf.is_tensor(value) and value.dtype == tf.string else keras.ops.convert_to_numpy(value))
    return array.astype(np.float32) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


@contextlib.contextmanager
def started(model: keras.Model, graph: Graph) -> Iterator[None]:
    """The model with what its float layers keep from call to call as the graph has it; afterwards with its own
    again.
    """
    with compat.kept_state(model):
        layers = {compat.value_name(layer.name): layer for layer in model.layers}
        for node in graph.nodes:
            layer = layers.get(node.attrs.get("instance") or node.name) if node.op == "island" else None
            if layer is None:
                continue
            for variable, name in zip(layer.weights, node.attrs.get("weights", ())):
                if not variable.trainable:
                    variable.assign(graph.constants[name])
            inner = compat.sublayers(layer)
            for index, kind, key, name in node.attrs.get("state", ()):
                if kind == _STATES:
                    compat.states(inner[int(index)])[int(key)].assign(graph.constants[name])
        yield


def needs(graph: Graph) -> list[dict[str, str]]:
    """What a loader of the graph must provide: classes and functions that neither Keras nor graffiti has."""
    found = []
    for node in graph.nodes:
        layer = node.attrs.get("layer") if node.op == "island" else None
        if isinstance(layer, Mapping):
            found += [{"layer": node.name, "class": name} for name in _foreign_classes(layer)]
            found += [{"layer": node.name, "function": str(function)} for _, _, function in layer.get("functions", ())]
    return found


def _foreign_classes(value) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "class_name" in value and "module" in value and value.get("class_name") != "function":
            module = value.get("module") or ""
            if (
                not str(module).startswith(("keras", "graffiti"))
                and not str(value.get("registered_name") or "").startswith("graffiti>")
            ):
                yield str(value.get("registered_name") or value["class_name"])
        for part in value.values():
            yield from _foreign_classes(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _foreign_classes(part)
