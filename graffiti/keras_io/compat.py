"""The only file that touches what Keras does not document: call records, operation classes, structures of models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from graffiti.graph.ir import Graph

_SEPARATOR = ">"  # stands for "/" in the names of Keras layers, which may not contain it
_FOREIGN = re.compile(r"[^A-Za-z0-9_.\\/>:-]")  # what a TensorFlow scope, and so a layer's name, may not hold
_ESCAPED = re.compile(r"-u([1-9a-f][0-9a-f]*)-")


def layer_name(value: str) -> str:
    """The name of the Keras layer for a graph value; ``value_name`` reads it back.

    Only a model's inputs can have names with other characters than a TensorFlow scope takes; what is named after them
    (a quantizer) has ``-u20-`` for a space.
    """
    return _FOREIGN.sub(lambda match: f"-u{ord(match[0]):x}-", value).replace("/", _SEPARATOR).replace(":", ".")


def value_name(layer: str) -> str:
    """The name of the graph value for a Keras layer."""
    def character(match: re.Match) -> str:
        found = chr(int(match[1], 16)) if int(match[1], 16) < 0x110000 else ""
        return found if layer_name(found) == match[0] else match[0]

    return _ESCAPED.sub(character, layer).replace(_SEPARATOR, "/")


def input_layer_name(value: str) -> str:
    """The name of the input layer for a graph's input: Keras takes any characters there but ``/``."""
    return value.replace("/", _SEPARATOR)


def input_name(tensor: keras.KerasTensor) -> str:
    """The name of a model's input: its layer's, which a saved model keeps (an unnamed tensor has another one in
    every process).
    """
    history = getattr(tensor, "_keras_history", None)
    layer = None if history is None else history.operation
    return (layer.name if isinstance(layer, keras.layers.InputLayer) else tensor.name).replace(_SEPARATOR, "/")


def output_names(model: keras.Model, outputs: list[keras.KerasTensor]) -> list[str]:
    """What Keras calls a model's outputs, in their order: the model's own list, else the layers that made them."""
    names = getattr(model, "output_names", None)
    if names and len(names) == len(outputs):
        return [str(name) for name in names]
    return [maker(x) for x in outputs]


def maker(tensor: keras.KerasTensor) -> str:
    """The name of the layer or operation that a symbolic tensor comes from."""
    return str(tensor._keras_history.operation.name)


def exact_dtype(tensor: keras.KerasTensor) -> str:
    """The dtype of integers, booleans and text; ``float32`` for all reals, which is how a graph holds them."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float32" if "float" in dtype else dtype


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation (a layer, a model or a ``keras.ops`` operation) in a symbolic model."""

    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[keras.KerasTensor]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The symbolic tensors among the arguments, in order."""
        return [x for x in keras.tree.flatten((self.args, self.kwargs)) if isinstance(x, keras.KerasTensor)]

    @property
    def first_inputs(self) -> list[keras.KerasTensor]:
        """Those of the first argument: what a model takes."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()), ())
        return [x for x in keras.tree.flatten(first) if isinstance(x, keras.KerasTensor)]


@dataclasses.dataclass(frozen=True)
class Symbolic:
    """A model as tensors: what goes in, what comes out, and in which structures."""

    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    input_structure: Any
    output_structure: Any


class Untraceable(ValueError):
    """A model whose calls cannot be seen."""


def ends(model: keras.Model, graph: Graph):
    """What data is checked against: the model, or for a subclassed one its name and inputs as they were traced."""
    if is_functional(model):
        return model
    inputs = [
        keras.KerasTensor(graph.shape(name), dtype, name=name)
        for name, dtype in zip(graph.inputs, graph.interface["input_dtypes"])
    ]
    return types.SimpleNamespace(name=model.name, inputs=inputs)


def check_model(model) -> None:
    """Refuse what no reader can read.

    Raises:
        TypeError: where ``model`` is not a Keras 3 model.
        ValueError: where it is not built.
    """
    if not isinstance(model, keras.Model):
        module = type(model).__module__
        hint = "; convert it with graffiti.tfmot.convert first" if module.startswith(("tf_keras", "tensorflow")) else ""
        raise TypeError(f"expected a keras.Model (Keras 3), got {module}.{type(model).__name__}{hint}")
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: give it a keras.Input first, or call model.build(input_shape) or the "
            "model itself on data"
        )


def is_functional(model) -> bool:
    """Whether the model already consists of symbolic tensors (Functional, built Sequential)."""
    return bool(getattr(model, "inputs", None)) and bool(getattr(model, "outputs", None))


@contextlib.contextmanager
def symbolic(model: keras.Model) -> Iterator[Symbolic]:
    """The model as symbolic tensors; a subclassed one is traced on symbolic inputs of its built shapes.

    What tracing adds to the call records of the user's layers is taken away again at the end.

    Raises:
        ValueError: where the model cannot be traced.
    """
    if is_functional(model):
        inner = getattr(model, "_functional", None) or model
        yield Symbolic(list(model.inputs), list(model.outputs), inner._inputs_struct, inner._outputs_struct)
        return
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise Untraceable(
            f"model {model.name!r} does not know its input shape: Keras could not trace its call, or nobody called "
            "model.build(input_shape); write it as a Functional model, or with keras.ops only"
        )
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    before = {id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers}
    def make(shape, name):
        return keras.Input(batch_shape=(None, *shape[1:]), name=name)

    if len(shapes) == 1:
        inputs: Any = _map_shapes(next(iter(shapes.values())), make)
        arguments = {}
    else:  # call(self, left, right): Keras says which is which
        arguments = {
            name.removesuffix("_shape"): _map_shapes(shape, make, name.removesuffix("_shape"))
            for name, shape in shapes.items()
        }
        inputs = list(arguments.values())
    try:
        try:
            outputs = model.call(**arguments) if arguments else model.call(inputs)
        except Exception as error:
            raise Untraceable(
                f"model {model.name!r} cannot be traced on symbolic inputs ({' '.join(str(error).split())[:300]}); "
                "write it as a Functional model, or with keras.ops only"
            ) from error
        flat = keras.tree.flatten(outputs)
        if not flat or any(getattr(x, "_keras_history", None) is None for x in flat):
            raise Untraceable(
                f"model {model.name!r} cannot be traced on symbolic inputs (its outputs do not follow from them); "
                "write it as a Functional model"
            )
        yield Symbolic(keras.tree.flatten(inputs), flat, inputs, outputs)
    finally:
        for layer in layers:
            inbound, outbound = before[id(layer)]
            del layer._inbound_nodes[inbound:], layer._outbound_nodes[outbound:]


def _map_shapes(shape, make, name: str = "input"):
    if isinstance(shape, dict):
        return {key: _map_shapes(part, make, key) for key, part in shape.items()}
    if isinstance(shape, (list, tuple)) and shape and isinstance(shape[0], (list, tuple, dict)):
        return [_map_shapes(part, make, f"{name}_{index}") for index, part in enumerate(shape)]
    return make(tuple(shape), name)


def calls(inputs: list[keras.KerasTensor], outputs: list[keras.KerasTensor]) -> list[Call]:
    """Every call between ``inputs`` and ``outputs``, in topological order.

    Raises:
        ValueError: where an output does not depend on the inputs alone.
    """
    done, ordered = {id(x) for x in inputs}, []
    for output in outputs:
        stack = [output]
        while stack:
            tensor = stack[-1]
            if id(tensor) in done:
                stack.pop()
                continue
            history = getattr(tensor, "_keras_history", None)
            if history is None or history.operation is None or isinstance(history.operation, keras.layers.InputLayer):
                raise ValueError(
                    f"the tensor {tensor.name!r} is not computed from the model's inputs; make it an input"
                )
            node = history.operation._inbound_nodes[history.node_index]
            missing = [x for x in node.arguments.keras_tensors if id(x) not in done]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            done.update(id(x) for x in node.outputs)
            ordered.append(
                Call(history.operation, tuple(node.arguments.args), dict(node.arguments.kwargs), list(node.outputs))
            )
    return ordered


def as_run(model: keras.Model, found: list[Call]) -> list[Call]:
    """Calls in the order in which Keras runs them, where that matters: a layer takes masks off tensors that others
    read.

    Args:
        model: that the calls are in.
        found: what ``calls`` returned.
    """
    by_depth = getattr(getattr(model, "_functional", None) or model, "_nodes_by_depth", None)
    if by_depth is None or not any(takes_masks_away(call.operation) for call in found):
        return found
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    ranks = {id(node.outputs[0]): rank for rank, node in enumerate(nodes)}
    if any(id(call.outputs[0]) not in ranks for call in found):
        return found
    return sorted(found, key=lambda call: ranks[id(call.outputs[0])])


# ---- masks -----------------------------------------------------------------------------------------------------------
def mask_of(tensor) -> keras.KerasTensor | None:
    """The mask that Keras hung on a symbolic tensor."""
    return getattr(tensor, "_keras_mask", None)


def mask_arguments(call: Call, mask: Callable[[Any], Any]) -> dict[str, Any]:
    """The mask arguments that Keras fills in by itself when a layer is called: name → mask, in the structure of the
    argument it belongs to.

    Args:
        call: of a layer.
        mask: a tensor's mask, or ``None``.
    """
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, _MASKS_MATTER_IN_TRAINING):
        return {}
    if isinstance(layer, keras.layers.TimeDistributed) and "mask" not in inspect.signature(layer.layer.call).parameters:
        return {}
    parameters = inspect.signature(call.operation.call)
    try:
        bound = parameters.bind(*call.args, **call.kwargs).arguments
    except TypeError:  # a class that changes its arguments on the way: it says where its masks are, or has none
        return {}
    tensors = {
        name: value for name, value in bound.items()
        if name in parameters.parameters and any(map(_is_symbolic, keras.tree.flatten(value)))
    }
    names = {"mask": next(iter(tensors))} if len(tensors) == 1 else {f"{name}_mask": name for name in tensors}
    found = {
        name: keras.tree.map_structure(lambda x: mask(x) if _is_symbolic(x) else None, tensors[source])
        for name, source in names.items() if name in parameters.parameters and bound.get(name) is None
    }
    return {name: value for name, value in found.items() if any(map(_is_symbolic, keras.tree.flatten(value)))}


def looks_at_masks(operation) -> bool:
    """Whether a layer may look at the masks that hang on its inputs, and not only at what it is given by name.

    Attention of Keras takes its query's mask from there, whatever ``query_mask`` says; a maximum, minimum or product of
    tensors leaves out what is masked; and a user's layer hands its inputs on to layers inside.
    """
    if isinstance(operation, _LOOK_AT_MASKS):
        return True
    foreign = (
        isinstance(operation, keras.layers.Layer) and not type(operation).__module__.startswith(("keras.", "graffiti."))
    )
    return foreign and len(sublayers(operation)) > 1


_LOOK_AT_MASKS = (
    keras.layers.MultiHeadAttention, keras.layers.Maximum, keras.layers.Minimum, keras.layers.Multiply,
)


def takes_mask(layer) -> bool:
    """Whether a layer's call has an argument for a mask, which Keras fills in."""
    return any(name == "mask" or name.endswith("_mask") for name in inspect.signature(layer.call).parameters)


def takes_masks_away(operation) -> bool:
    """Whether a layer takes the masks off its inputs: whoever reads these after it, in the same run, sees none."""
    return isinstance(operation, keras.layers.MultiHeadAttention)


def output_masks(call: Call, mask: Callable[[Any], Any]) -> list[keras.KerasTensor | None]:
    """The masks of a call's outputs when the model runs, by the layer's own rule; the layer stays as it is.

    Symbolic tensors say what Keras thought when the model was made; a mask may be gone by the time a layer looks.

    Args: as ``mask_arguments``.
    """
    known = [mask_of(tensor) for tensor in call.outputs]
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or not layer.supports_masking:
        return known
    first = call.args[0] if call.args else next(iter(call.kwargs.values()))
    if takes_masks_away(layer):
        return [mask(first), *(None for _ in known[1:])]
    previous = call.kwargs.get("mask")
    as_known = previous is not None or all(mask_of(x) is mask(x) for x in call.inputs)
    if as_known and all(part is not None for part in known):
        return known
    if previous is None:
        previous = keras.tree.map_structure(lambda x: mask(x) if _is_symbolic(x) else None, first)
    makers = {
        id(x): mask_source for x in call.inputs if (mask_source := getattr(x, "_keras_history", None)) is not None
    }
    before = [(history.operation, len(history.operation._outbound_nodes)) for history in makers.values()]
    try:
        found = keras.tree.flatten(layer.compute_mask(first, previous))
    except Exception:  # a rule that wants real tensors
        return known
    finally:
        for operation, count in before:
            del operation._outbound_nodes[count:]
    found += [None] * (len(call.outputs) - len(found))
    known = known if as_known else [None] * len(known)
    return [own if own is not None else other if _is_symbolic(other) else None for own, other in zip(known, found)]


def _is_symbolic(value) -> bool:
    return isinstance(value, keras.KerasTensor)


_MASKS_MATTER_IN_TRAINING = (keras.layers.BatchNormalization,)  # at inference the same with a mask and without


def operation_kind(operation) -> str | None:
    """The class name of a ``keras.ops`` operation (``Add``, ``Relu`` ...); ``None`` for layers and foreign classes."""
    if isinstance(operation, keras.layers.Layer) or not type(operation).__module__.startswith("keras."):
        return None
    return type(operation).__name__


# ---- layers that islands hold ----------------------------------------------------------------------------------------
def sublayers(operation) -> list[keras.layers.Layer]:
    """A layer and every layer inside it, in an order that a copy of it has too; nothing for other operations."""
    return list(operation._flatten_layers()) if isinstance(operation, keras.layers.Layer) else []


def overrides(layer, method: str) -> bool:
    """Whether a layer's class has a method of its own where ``keras.layers.Layer`` has a default."""
    return getattr(type(layer), method, None) is not getattr(keras.layers.Layer, method, None)


def states(layer) -> list[keras.Variable]:
    """The variables that a stateful layer carries from call to call (Keras does not count them among its weights)."""
    if not getattr(layer, "stateful", False):
        return []
    return [state for state in keras.tree.flatten(getattr(layer, "states", None)) if isinstance(state, keras.Variable)]


def seeds(operation) -> list[keras.Variable]:
    """The seeds that a layer, and those inside it, draw random numbers from."""
    return list(
        {
            id(generator): generator.state for layer in sublayers(operation) for generator in layer._seed_generators
        }.values()
    )


def is_tracked_list(value) -> bool:
    """Whether this is a list or tuple that Keras or TensorFlow wrapped to see what is put into it."""
    return (
        isinstance(value, (list, tuple)) and not hasattr(value, "_fields")
        and type(value).__name__ in ("ListWrapper", "TrackedList", "_TupleWrapper")
    )


def function_name(function) -> str:
    """What a file says of a function: its registered name, or its own."""
    if isinstance(function, functools.partial):
        return f"partial of {function_name(function.func)}"
    return keras.saving.get_registered_name(function) if hasattr(function, "__name__") else type(function).__name__


_IMAGES = keras.layers.RandomFlip.__mro__[1]  # what all augmentation layers of Keras derive from; it has no public name


def is_augmentation(layer) -> bool:
    """Whether a layer is of Keras' family of image augmentation (``Resizing`` and others are too)."""
    return isinstance(layer, _IMAGES)


def is_idle(layer, tensor: keras.KerasTensor) -> bool:
    """Whether an image layer of Keras returns what it is given at inference: it only augments.

    The family has others too (``Resizing``, ``Equalization``), and nothing says which is which; so it is asked, on
    dark, bright and flat noise.
    """
    before = [(seed, keras.ops.convert_to_numpy(seed)) for seed in seeds(layer)]
    try:
        return _returns_its_input(layer, tensor)
    finally:
        for seed, value in before:
            seed.assign(value)


def _returns_its_input(layer, tensor: keras.KerasTensor) -> bool:
    shape = (2, *(size or 8 for size in tensor.shape[1:]))
    generator = np.random.default_rng(0)
    for low, high in ((0.0, 1.0), (0.0, 255.0), (100.0, 140.0), (-1.0, 1.0)):
        images = generator.uniform(low, high, shape).astype(np.float32)
        result = np.asarray(keras.ops.convert_to_numpy(layer(images, training=False)))
        if result.shape != images.shape or not np.array_equal(result, images.astype(result.dtype)):
            return False
    return True


def own_functions(operation) -> list[tuple[int, str, Any]]:
    """The functions that a user gave a layer (or that one inside it): ``(number of the layer inside, attribute,
    function)``.
    """
    return [
        (index, attribute, value)
        for index, layer in enumerate(sublayers(operation) or [operation])
        for attribute, value in vars(layer).items()
        if _is_own_function(layer, attribute, value)
    ]


def _is_own_function(layer, attribute: str, value) -> bool:
    if (
        not callable(value) or isinstance(value, (type, keras.Operation, types.MethodType))
        or hasattr(value, "get_config")
    ):
        return False
    if callable(getattr(type(layer), attribute, None)):  # a method that Keras wrapped for this layer
        return False
    module = getattr(value, "__module__", None) or ""
    return (
        isinstance(value, (types.FunctionType, types.BuiltinFunctionType, functools.partial, np.ufunc))
        and not module.startswith("keras.")
        or (not module.startswith(("keras.", "tensorflow.")) and attribute in _FUNCTION_ATTRIBUTES)
    )


_FUNCTION_ATTRIBUTES = ("activation", "recurrent_activation", "function", "mask", "_output_shape")


def serialized(operation) -> dict[str, Any]:
    """``keras.saving.serialize_keras_object``, with ``linear`` in the places of the user's own functions (which no
    file can hold).
    """
    if not own_functions(operation):
        return keras.saving.serialize_keras_object(operation)
    kind, name = type(operation), keras.saving.get_registered_name(type(operation))
    public = kind.__module__.startswith("keras.")
    return {
        "module": "keras.layers" if public and isinstance(operation, keras.layers.Layer) else kind.__module__,
        "class_name": kind.__name__,
        "config": keras.saving.serialize_keras_object(_config(operation)), "registered_name": None if public else name,
    }


def _config(operation) -> dict[str, Any]:
    """``get_config``; of a stand-in with ``linear`` for functions where there are any."""
    return type(operation).get_config(_stand_in(operation, {}) if own_functions(operation) else operation)


def _stand_in(layer, memo: dict[int, Any]):
    """An object of the layer's class with its attributes, and those of the layers inside, but for functions."""
    if id(layer) not in memo:
        twin = memo[id(layer)] = object.__new__(type(layer))
        own = {attribute for index, attribute, _ in own_functions(layer) if index == 0}
        for attribute, value in vars(layer).items():
            vars(twin)[attribute] = keras.activations.linear if attribute in own else _replaced(value, memo)
    return memo[id(layer)]


def _replaced(value, memo: dict[int, Any]):
    if isinstance(value, keras.layers.Layer):
        return _stand_in(value, memo)
    if isinstance(value, (list, tuple)) and any(isinstance(part, keras.layers.Layer) for part in value):
        return [_replaced(part, memo) for part in value]
    return value


class Twins:
    """Copies of layers and operations, each made once; layers that hold one another hold each other's copies."""

    def __init__(self) -> None:
        self._twins: dict[int, tuple[Any, Any]] = {}  # the original keeps its id its own

    def of(self, operation, name: str | None = None):
        """The copy of a layer or operation, not built; its functions are the original's.

        Raises:
            ValueError: where its class cannot make it again from its config.
        """
        if id(operation) in self._twins:
            twin = self._twins[id(operation)][1]
        elif isinstance(operation, keras.layers.Layer):
            twin = self._copy(operation, name)
        else:
            twin = object.__new__(type(operation))  # an operation has no weights: its attributes are all there is
            vars(twin).update({**vars(operation), "_inbound_nodes": [], "_outbound_nodes": []})
            self._twins[id(operation)] = operation, twin
        if name is not None and twin.name != name:
            twin.name = name
        return twin

    def _copy(self, layer, name: str | None):
        config = _config(layer)
        if name is not None and "name" in config:
            config["name"] = name
        try:
            with keras.saving.custom_object_scope(_classes(layer)):
                twin = type(layer).from_config(config)
        except Exception as error:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied: its class does not take back its own "
                f"get_config ({' '.join(str(error).split())[:300]})"
            ) from error
        pairs = list(zip(sublayers(layer), sublayers(twin)))
        if len(sublayers(layer)) != len(sublayers(twin)) or any(type(a) is not type(b) for a, b in pairs):
            if not _made_when_built(layer):
                raise ValueError(
                    f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied: from its get_config follow other "
                    "layers inside than it has; "
                    "two classes in it may have one name, or get_config leaves something out"
                )
        for index, attribute, function in own_functions(layer):
            if index < len(pairs):
                setattr(pairs[index][1], attribute, function)
        for original, copy in pairs:
            self._join(original, copy)
        for original, copy in pairs:
            self._twins.setdefault(id(original), (original, copy))
        return twin

    def _join(self, original, copy) -> None:
        """Let a copy hold the copies that exist already of the layers that the original holds."""
        for attribute, value in vars(original).items():
            if isinstance(value, keras.layers.Layer) and id(value) in self._twins:
                mine, other = vars(copy).get(attribute), self._twins[id(value)][1]
                if isinstance(mine, keras.layers.Layer) and mine is not other:
                    setattr(copy, attribute, other)
                    if mine in copy._layers:
                        copy._layers.remove(mine)


def rename_maker(tensor: keras.KerasTensor, name: str) -> None:
    """Give another name to the operation that a symbolic tensor comes from."""
    tensor._keras_history.operation.name = name


def _made_when_built(layer) -> bool:
    """Whether a layer makes layers in ``build``: a copy that is not built yet has fewer."""
    return overrides(layer, "build")


def _classes(layer) -> dict[str, Any]:
    """The user's classes that a layer's config may name, by the names that it gives them."""
    found: dict[str, Any] = {}
    for part in sublayers(layer):
        for value in (part, *vars(part).values()):
            kind = type(value)
            if not kind.__module__.startswith(("keras.", "builtins")) and hasattr(value, "get_config"):
                found[kind.__name__] = found[keras.saving.get_registered_name(kind)] = kind
    return found


@contextlib.contextmanager
def default_policy(policy: str) -> Iterator[None]:
    """The dtype policy of layers that are made without one."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


# ---- models ----------------------------------------------------------------------------------------------------------
def is_keras_own(model: keras.Model) -> bool:
    """Whether a model's class is Keras' own ``Model`` or ``Sequential``, no subclass."""
    return type(model).__module__.startswith("keras.")


def as_class(model: keras.Model, kind: type) -> keras.Model:
    """The same layers and tensors as a model of another class, compiled as the model is.

    Args:
        model: Functional, or a built Sequential.
        kind: ``keras.Model``, ``keras.Sequential`` or a subclass; Sequential where the model is.
    """
    if isinstance(model, keras.Sequential):
        made = kind([model._layers[0], *model.layers], name=model.name, trainable=model.trainable)
    else:
        made = kind(model.input, model.output, name=model.name)
    if model.compiled:
        made.compile_from_config(model.get_compile_config())
    return made


def named_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer with a stable name, those inside others too (``conv/kernel_quantizer``), each once, in order."""
    seen: set[int] = set()
    stack = [(layer.name, layer) for layer in reversed(model.layers)]
    while stack:
        path, layer = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield path, layer
        if isinstance(layer, keras.Model):
            inner = [(f"{path}/{part.name}", part) for part in layer.layers]
        else:
            inner = []
            for key, value in vars(layer).items():
                parts = () if key.startswith("_") else value if isinstance(value, (list, tuple)) else [value]
                inner.extend((f"{path}/{key}", part) for part in parts if isinstance(part, keras.layers.Layer))
        stack.extend(reversed(inner))


# ---- optimizers ------------------------------------------------------------------------------------------------------
def optimized(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The variables that a built optimizer moves, in the order of its own variables; empty before it is built."""
    return list(optimizer._trainable_variables) if optimizer.built else []


def variable_index(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Where a variable stands in ``optimized``."""
    return optimizer._get_variable_index(variable)


# ---- Keras 2: frozen, so its nodes can be relied on ------------------------------------------------------------------
def is_keras2_graph(model) -> bool:
    """Whether a ``tf_keras`` model (not Sequential) consists of symbolic tensors."""
    return bool(getattr(model, "_is_graph_network", False))


def keras2_nodes(model) -> Iterator[Any]:
    """The calls of a ``tf_keras`` model, its inputs aside, in topological order."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        yield from (node for node in model._nodes_by_depth[depth] if not node.is_input)


def keras2_maker(tensor) -> str:
    """The name of the ``tf_keras`` layer that a symbolic tensor comes from."""
    return tensor._keras_history.layer.name


def call_count(layer) -> int:
    """How often a layer, of Keras 2 or 3, was called on symbolic tensors."""
    return len(layer._inbound_nodes)


# ---- state of models -------------------------------------------------------------------------------------------------
def reset_states(model) -> None:
    """States of every stateful layer of a model (or in a layer) zero."""
    for layer in sublayers(model):
        for state in states(layer):
            state.assign(keras.ops.zeros_like(state.value))


@contextlib.contextmanager
def kept_state(model: keras.Model, *, but: type[keras.layers.Layer] | None = None) -> Iterator[None]:
    """Whatever calls of the model move within: states, statistics, seeds are afterwards what they were; not those of
    layers of the class ``but``.
    """
    changing = {
        id(variable) for layer in sublayers(model) if but is not None and isinstance(layer, but)
        for variable in layer.variables
    }
    variables = [
        *(v for v in model.non_trainable_variables if id(v) not in changing),
        *(state for layer in sublayers(model) for state in states(layer))
    ]
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)
