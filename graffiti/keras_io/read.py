"""``read``: a Keras model → a graph, float or fakequant. It reads; it changes nothing.

What each layer class reads as is in the tables of ``float_rules.py`` and ``quantized_rules.py``; this file walks the
model and gives the rules what they need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from graffiti import layers
from graffiti.graph.ir import Graph, Node, TensorType, name_layers
from graffiti.graph.ops import OPS
from graffiti.keras_io import compat, islands, training

KeepFloat = Callable[[str, Any], bool]


def read(model: keras.Model, *, keep_float: KeepFloat | None = None) -> Graph:
    """A Keras model as a graph.

    Args:
        model: a built Sequential, Functional (nested models are inlined, their names prefixed ``inner/layer``), or a
            subclassed model whose ``call`` can be traced on symbolic inputs; float, or quantized by graffiti.
        keep_float: ``(node name, layer) -> bool``; layers for which it is true are read as islands.

    Returns:
        A graph of stage ``fakequant`` where the model has graffiti's quantizers, else ``float``. Layers without a rule
        are ``island`` nodes with a reason.

    Raises:
        TypeError: where ``model`` is not a Keras 3 model.
        ValueError: where it is not built, cannot be traced, or has NaN or Inf in its weights.
    """
    return read_with_tensors(model, keep_float=keep_float)[0]


def read_with_tensors(
    model: keras.Model, *, keep_float: KeepFloat | None = None
) -> tuple[Graph, dict[str, keras.KerasTensor]]:
    """As ``read``, with the model's symbolic tensors by graph value name (those of the outermost model)."""
    compat.check_model(model)
    with compat.symbolic(model) as symbolic:
        reader = Reader(model, keep_float)
        reader.leaving = {id(tensor) for tensor in symbolic.outputs}
        reader.inputs(symbolic)
        reader.calls(compat.as_run(model, compat.calls(symbolic.inputs, symbolic.outputs)), prefix="")
        reader.ties()
        graph = reader.graph
        graph.outputs = [reader.value(tensor) for tensor in symbolic.outputs]
        order = {id(tensor): index for index, tensor in enumerate(symbolic.outputs)}
        graph.interface["outputs"] = _indices(symbolic.output_structure, order)
        graph.interface["output_names"] = compat.output_names(model, symbolic.outputs)
        masks = reader.read_masks([reader.mask(tensor) for tensor in symbolic.outputs])
        if any(masks):
            graph.interface["output_masks"] = masks
        # what is computed in float64 (a constant of numpy's makes it so) is float32 here
        graph.interface["output_dtypes"] = [
            str(tensor.dtype).replace("float64", "float32") for tensor in symbolic.outputs
        ]
    name_layers(graph)
    tensors = {name: tensor for name, tensor in reader.tensors.items() if name in graph.types}
    return graph, tensors


def _indices(structure, order: dict[int, int]):
    """A structure of symbolic tensors as the same structure of numbers, in plain lists, tuples and dicts."""
    if isinstance(structure, dict):
        return {key: _indices(part, order) for key, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        parts = [_indices(part, order) for part in structure]
        return tuple(parts) if isinstance(structure, tuple) else parts
    return order[id(structure)]


class Reader:
    """What rules work with: the graph so far, and the graph values of symbolic tensors.

    Args:
        model: the model being read.
        keep_float: see ``read``.
    """

    def __init__(self, model: keras.Model, keep_float: KeepFloat | None = None) -> None:
        quantized = any(_is_quantizing(layer) for layer in compat.sublayers(model))
        self.graph = Graph("fakequant" if quantized else "float", name=model.name)
        self.trainable = bool(model.trainable)
        self.keep_float = keep_float or (lambda name, layer: False)
        self.leaving: set[int] = set()               # tensors that the model returns
        self.tensors: dict[str, keras.KerasTensor] = {}
        self._values: dict[int, str] = {}
        self._alive: list[Any] = []                  # keeps every tensor seen, so that its id stays its own
        self._constants: dict[Any, str] = {}
        self._activations: dict[tuple[int, int], Any] = {}
        self.shared: dict[int, str] = {}             # variable -> the constant that rules made of it
        self.turned: set[str] = set()                # those of them that have other axes than the variable
        self.instances: dict[int, str] = {}          # layer in an island -> the first node that it is
        self._call_counts: dict[Any, int] = {}
        self._masks: dict[int, keras.KerasTensor | None] = {}

    # ---- walking ------------------------------------------------------------------------------------------------
    def inputs(self, symbolic: compat.Symbolic) -> None:
        """The graph's inputs, named like the model's."""
        for tensor in symbolic.inputs:
            name = self.graph.unique(compat.input_name(tensor))
            self.graph.inputs.append(name)
            self.graph.types[name] = TensorType(tuple(tensor.shape), dtype=compat.exact_dtype(tensor))
            self.bind(tensor, name)
        order = {id(tensor): index for index, tensor in enumerate(symbolic.inputs)}
        self.graph.interface["inputs"] = _indices(symbolic.input_structure, order)
        self.graph.interface["input_dtypes"] = [str(tensor.dtype) for tensor in symbolic.inputs]

    def calls(self, calls: Sequence[compat.Call], prefix: str) -> None:
        """Read calls in order."""
        from graffiti.keras_io import float_rules, quantized_rules

        for call in calls:
            operation = call.operation
            number = self._call_counts.get((prefix, id(operation)), 0)
            self._call_counts[prefix, id(operation)] = number + 1
            path = prefix + compat.value_name(operation.name)
            if isinstance(operation, keras.Model):
                try:
                    self._inline(call, f"{path}/" if number == 0 else f"{path}_call{number}/")
                    continue
                except compat.Untraceable as error:
                    untraceable = str(error)
                hung = self._hung_masks(call)
                Reading(self, call, path, number, prefix, hung).island(untraceable)
                continue
            masks, hung = compat.mask_arguments(call, self.mask), self._hung_masks(call)
            if masks and not hung:
                self.read_masks(keras.tree.flatten(masks))
                call = dataclasses.replace(call, kwargs={**call.kwargs, **masks})
            self._masks.update((id(x), mask) for x, mask in zip(call.outputs, compat.output_masks(call, self.mask)))
            if compat.takes_masks_away(operation):
                self._masks.update((id(x), None) for x in call.inputs)
            reading = Reading(self, call, path, number, prefix, hung)
            if masks or hung:
                reading.island("it is given a mask, which has no fixed-point form")
                continue
            if self.keep_float(reading.name, operation):
                reading.island("kept in float by a rule")
                continue
            quantized = quantized_rules.find(operation)
            rule = quantized or float_rules.find(operation)
            if rule is None:
                reading.island(f"{type(operation).__name__} has no fixed-point form yet")
            else:
                before = len(self.graph.nodes)
                rule(reading, operation)
                for node in self.graph.nodes[before:] if quantized else ():
                    node.layer = ""  # such a layer knows the names of its nodes, and no more
                self._keep_exact(reading, before)
                reading.activity(operation)
            reading.check()

    def _keep_exact(self, reading: Reading, before: int) -> None:
        """What computes on integers or booleans is no fixed point: the call becomes an island. Moves may stay."""
        made = self.graph.nodes[before:]
        if (
            all(compat.exact_dtype(x) == "float32" for x in reading.call.outputs)
            or all(OPS[node.op].moves_codes for node in made)
        ):
            return
        self.graph.nodes = self.graph.nodes[:before]
        for out in (out for node in made for out in node.outputs):
            del self.graph.types[out]
        reading.island(f"it computes on {reading.call.outputs[0].dtype} values")

    def ties(self) -> None:
        """Say which weights of islands are variables that other layers have, too."""
        held = {name: marks[1] for marks, name in self._constants.items() if marks[0] == "island" and len(marks) == 2}
        for node in self.graph.nodes:
            if node.op == "island":
                names = [
                    (index, self.shared.get(held.get(name, 0))) for index, name in enumerate(node.attrs["weights"])
                ]
                ties = [(index, name) for index, name in names if name is not None]
                for key, turned in (("ties", False), ("turned_ties", True)):
                    if found := tuple(tie for tie in ties if (tie[1] in self.turned) is turned):
                        node.attrs[key] = found

    def _inline(self, call: compat.Call, prefix: str) -> None:
        with compat.symbolic(call.operation) as inner:
            given = call.first_inputs  # a call may carry masks beside them
            for outside, inside in zip(given, inner.inputs, strict=True):
                self.bind(inside, self.value(outside), outermost=False)
            self._masks.update((id(inside), self.mask(outside)) for outside, inside in zip(given, inner.inputs))
            self.calls(compat.as_run(call.operation, compat.calls(inner.inputs, inner.outputs)), prefix)
            for outside, inside in zip(call.outputs, inner.outputs, strict=True):
                self.bind(outside, self.value(inside))
            self._masks.update((id(outside), self.mask(inside)) for outside, inside in zip(call.outputs, inner.outputs))
            self._masks.update((id(outside), self.mask(inside)) for outside, inside in zip(given, inner.inputs))

    def mask(self, tensor) -> keras.KerasTensor | None:
        """The mask that layers see on a tensor by now when the model runs: what hangs there, and nobody took away."""
        return self._masks[id(tensor)] if id(tensor) in self._masks else compat.mask_of(tensor)

    def read_masks(self, masks: Sequence[keras.KerasTensor | None]) -> list[str | None]:
        """The values of masks; what computes them is read where nothing needed it before."""
        wanted = [mask for mask in masks if mask is not None]
        self._alive.extend(wanted)
        known = [
            tensor for tensor in self._alive if isinstance(tensor, keras.KerasTensor) and id(tensor) in self._values
        ]
        self.calls(compat.calls(known, wanted), prefix="")
        return [None if mask is None else self.value(mask) for mask in masks]

    def _hung_masks(self, call: compat.Call) -> dict[int, str]:
        """The masks on a call's inputs, where the layer may look at them there: ``id`` of a tensor → value of its
        mask.
        """
        masks = (
            {id(tensor): self.mask(tensor) for tensor in call.inputs} if compat.looks_at_masks(call.operation) else {}
        )
        hung = {key: mask for key, mask in masks.items() if mask is not None}
        return {key: str(value) for key, value in zip(hung, self.read_masks(list(hung.values())))}

    def activation(self, operation, function):
        """An activation that a layer computes at its end as a layer of its own, the same one for every call."""
        key = (id(operation), id(function))
        if key not in self._activations:
            self._activations[key] = keras.layers.Activation(function, name=f"{operation.name}_activation")
            self._alive.append((operation, function))
        return self._activations[key]

    # ---- values -------------------------------------------------------------------------------------------------
    def bind(self, tensor: keras.KerasTensor, value: str, *, outermost: bool = True) -> None:
        """Say which graph value a symbolic tensor is."""
        self._values[id(tensor)] = value
        self._alive.append(tensor)
        if outermost:
            self.tensors.setdefault(value, tensor)

    def value(self, tensor: keras.KerasTensor) -> str:
        """The graph value of a symbolic tensor."""
        if id(tensor) not in self._values:
            raise ValueError(
                f"the tensor {tensor.name!r} of shape {tensor.shape} is an exponent, not a value of the graph; do not "
                "use it outside graffiti's layers"
            )
        return self._values[id(tensor)]

    def constant(self, name: str, value, key: Any = None, layer: str = "") -> str:
        """A float32 constant; the same ``key`` gives the same constant again.

        Raises:
            ValueError: for NaN or Inf, naming the layer.
        """
        if key is not None and key in self._constants:
            return self._constants[key]
        array = np.array(keras.ops.convert_to_numpy(value), np.float32)
        if not np.isfinite(array).all():
            raise ValueError(
                f"layer {layer or name.rsplit('/', 1)[0]!r} has {int(np.count_nonzero(~np.isfinite(array)))} NaN or "
                f"Inf in {name!r}; repair its weights first"
            )
        stored = self.graph.add_constant(name, array)
        if key is not None:
            self._constants[key] = stored
            self._alive.append(value)
            if isinstance(value, keras.Variable):
                self.shared[id(value)] = stored
        return stored


class Reading:
    """One call being read.

    Attributes:
        name: the graph name of what the call returns.
        path: the layer's name with the names of the models around it; weights are called ``path/weight``.
        call: the call itself.
        number: how often the layer was called before.
        prefix: of the names around it.
        hung: ``id`` of an input → value of the mask that hangs on it and that the layer may look at.
    """

    def __init__(
        self, reader: Reader, call: compat.Call, path: str, number: int, prefix: str, hung: dict[int, str] | None = None
    ) -> None:
        self.reader, self.call, self.path, self.number, self.prefix, self.hung = (
            reader, call, path, number, prefix, hung or {}
        )
        self.graph = reader.graph
        self.activity_kept = False
        self.name = self.graph.unique(path if number == 0 else f"{path}_call{number}")

    @property
    def leaves(self) -> bool:
        """Whether an output of the call is one of the model's."""
        return any(id(x) in self.reader.leaving for x in self.call.outputs)

    @property
    def x(self) -> str:
        """The first input's value."""
        return self.reader.value(self.call.inputs[0])

    @property
    def values(self) -> list[str]:
        """All inputs' values."""
        return [self.reader.value(tensor) for tensor in self.call.inputs]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of the first output."""
        return tuple(self.call.outputs[0].shape)

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of the first input."""
        return tuple(self.call.inputs[0].shape)

    def weight(self, role: str, variable, name: str | None = None, *, array=None, trainable: bool | None = None) -> str:
        """A weight of the layer as a constant; every call of the layer reads the same one.

        Args:
            role: what it is in the layer, for its name.
            variable: the ``keras.Variable``.
            name: another name than ``path/role``.
            array: its numbers in the shape that the graph takes.
            trainable: whether training moves it; what the variable says by default.
        """
        value = self.reader.constant(
            name or f"{self.path}/{role}", variable if array is None else array, key=(id(variable), role),
            layer=self.path
        )
        if trainable is None:
            trainable = bool(getattr(variable, "trainable", True) and self.call.operation.trainable)
        reshaped = array is not None and tuple(np.shape(array)) != tuple(variable.shape)
        if isinstance(variable, keras.Variable):
            self.reader.shared[id(variable)] = value
            if array is not None and not np.array_equal(array, variable):
                self.reader.turned.add(value)
        settings = training.settings(
            variable, trainable=trainable and self.reader.trainable, path=self.path, reshaped=reshaped
        )
        if settings:
            self.graph.training[value] = settings
        return value

    def activity(self, layer, kernel: str | None = None) -> None:
        """Keep the regularizer of what a layer gives: with the kernel whose layer ends there, or as a node behind
        the call's result.
        """
        regularizer = getattr(layer, "activity_regularizer", None)
        if regularizer is None or self.activity_kept:
            return
        self.activity_kept = True
        config = training.plain(regularizer, f"the activity regularizer of layer {self.path!r}")
        if kernel is not None:
            self.graph.training[kernel] = {**self.graph.training.get(kernel, {}), "activity": config}
            return
        attrs = {"layer": "ActivityLoss", "config": {"regularizer": config}}
        self.result(
            self.emit("training_only", [self.reader.value(self.call.outputs[0])], attrs, name=f"{self.name}/activity")
        )

    def absent(self, role: str, value) -> str:
        """Numbers in the place of a weight that the layer has not: training leaves them alone."""
        name = self.constant(role, value)
        self.graph.training[name] = {"trainable": None}
        return name

    def constant(self, role: str, value, name: str | None = None) -> str:
        """Numbers that are no weight of the layer."""
        return self.reader.constant(
            name or f"{self.path}/{role}", value, key=(id(self.call.operation), role), layer=self.path
        )

    def emit(
        self, op: str, inputs: Sequence[str], attrs: dict[str, Any] | None = None, *, name: str | None = None
    ) -> str:
        """One node; the last one of a call has the call's name, which is the default."""
        return self.graph.insert(op, inputs, name or self.name, attrs, layer=self.name).name

    def result(self, value: str, output: int = 0) -> None:
        """Say which value an output of the call is."""
        self.reader.bind(self.call.outputs[output], value, outermost=not self.prefix)

    def emit_result(self, op: str, inputs: Sequence[str], attrs: dict[str, Any] | None = None) -> None:
        """The call's only or last node."""
        self.result(self.emit(op, inputs, attrs))

    def island(self, reason: str, operation=None) -> None:
        """Keep the call in float as it is."""
        self.activity_kept = True  # the layer itself is kept, with all it has
        described = islands.describe(operation or self.call.operation, self.call.args, self.call.kwargs)
        self.results(
            self.add_island(
                described, [self.reader.value(tensor) for tensor in described.inputs], self.call.outputs, reason
            )
        )

    def results(self, node: Node) -> None:
        """All outputs of the call are those of a node."""
        for index, value in enumerate(node.outputs):
            self.result(value, index)

    def add_island(
        self, described: islands.Description, inputs: Sequence[str], results: Sequence[keras.KerasTensor], reason: str,
        name: str | None = None
    ) -> Node:
        """An ``island`` node that gives tensors like ``results``."""
        graph, name, live = self.graph, name or self.name, described.layer.live
        attrs: dict[str, Any] = {
            "layer": described.layer, "output_shapes": tuple(tuple(x.shape) for x in results), "reason": reason,
            "weights": (
                *(self._held(role, variable) for role, variable in described.weights),
                *(
                    self._held(f"argument_{index}", array, key=(self.call.outputs[0], index))
                    for index, array in enumerate(described.arrays)
                ),
            ),
            "roles": tuple(role for role, _ in described.weights),
            "call": described.call,
        }
        hung = [
            (index, self.hung[id(tensor)]) for index, tensor in enumerate(described.inputs) if id(tensor) in self.hung
        ]
        masks = list(dict.fromkeys(mask for _, mask in hung))
        if hung:
            attrs["call"] = {
                **described.call, "masks": tuple((index, len(inputs) + masks.index(mask)) for index, mask in hung)
            }
        if described.state:
            attrs["state"] = tuple(
                (index, kind, key, self._held(f"{kind}_{key}", value, key=(live, index, kind, key)))
                for index, kind, key, value in described.state
            )
        mask_dtypes = [str(graph.types[mask].dtype) for mask in masks]
        for what, tensors, more in (("input_dtypes", described.inputs, mask_dtypes), ("output_dtypes", results, [])):
            dtypes = (*(compat.exact_dtype(tensor) for tensor in tensors), *more)
            if any(dtype != "float32" for dtype in dtypes):
                attrs[what] = dtypes
        first = self.reader.instances.setdefault(id(live), name)
        if first != name:
            attrs["instance"] = first
        outputs = (name, *(f"{name}:{index}" for index in range(1, len(results))))
        node = Node("island", (*inputs, *masks), outputs, attrs, self.name)
        graph.nodes.append(node)
        for output, tensor in zip(node.outputs, results):
            graph.types[output] = TensorType(tuple(tensor.shape), dtype=compat.exact_dtype(tensor))
        return node

    def _held(self, role: str, value, key: tuple | None = None) -> str:
        """The constant of something that an island holds; the same variable is the same constant."""
        marks = (
            ("island", id(value)) if isinstance(value, keras.Variable)
            else ("island", *(part if isinstance(part, (str, int)) else id(part) for part in key or (value,)))
        )
        if marks not in self.reader._constants:
            array = np.asarray(keras.ops.convert_to_numpy(value))
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"layer {self.path!r} has NaN or Inf in {role!r}; repair its weights first")
            self.reader._constants[marks] = self.graph.add_constant(f"{self.path}/{role}", array)
            self.reader._alive.append((value, key))
        return self.reader._constants[marks]

    def check(self) -> None:
        """The shape rules of the graph and of Keras must agree."""
        for tensor in self.call.outputs:
            value = self.reader._values.get(id(tensor))
            if value is not None and tuple(self.graph.shape(value)) != tuple(tensor.shape):
                raise ValueError(
                    f"layer {self.path!r} has the output shape {tuple(tensor.shape)} in Keras but "
                    f"{tuple(self.graph.shape(value))} in the graph; "
                    "this is a bug of graffiti, please report it with the layer's configuration"
                )


def _is_quantizing(layer) -> bool:
    if isinstance(layer, layers.QuantizedProduct):
        return layer.kernel_quantizer is not None
    if isinstance(layer, layers.ConstantMultiply):
        return layer.quantizer is not None
    return isinstance(layer, (layers.Quantize, layers.LookupActivation, layers.InFloat))
