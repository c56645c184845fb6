"""The only file that touches what Keras does not document: call records, operation classes, structures of models."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import keras

_SEPARATOR = ">"  # stands for "/" in the names of Keras layers, which may not contain it
_FOREIGN = re.compile(r"[^A-Za-z0-9_.\\/>:-]")  # what a TensorFlow scope, and so a layer's name, may not hold
_ESCAPED = re.compile(r"-u([1-9a-f][0-9a-f]*)-")


def layer_name(value: str) -> str:
    """The name of the Keras layer for a graph value; ``value_name`` reads it back.

    Only a model's inputs can have names with other characters than a TensorFlow scope takes; what is named after them (a quantizer)
    has ``-u20-`` for a space.
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
    """The name of a model's input: its layer's, which a saved model keeps (an unnamed tensor has another one in every process)."""
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


@dataclasses.dataclass(frozen=True)
class Symbolic:
    """A model as tensors: what goes in, what comes out, and in which structures."""

    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    input_structure: Any
    output_structure: Any


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
            f"model {model.name!r} is not built: give it a keras.Input first, or call model.build(input_shape) or the model itself on data"
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
        raise ValueError(f"model {model.name!r} does not know its input shape; call model.build(input_shape), or use a Functional model")
    shape = next(iter(shapes.values()))
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    before = {id(layer): (len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers}
    inputs = _map_shapes(shape, lambda s, name: keras.Input(batch_shape=(None, *s[1:]), name=name))
    try:
        try:
            outputs = model.call(inputs)
        except Exception as error:
            raise ValueError(
                f"model {model.name!r} cannot be traced on symbolic inputs ({error}); write it as a Functional model, or with keras.ops only"
            ) from error
        yield Symbolic(keras.tree.flatten(inputs), keras.tree.flatten(outputs), inputs, outputs)
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
                raise ValueError(f"the tensor {tensor.name!r} is not computed from the model's inputs; make it an input")
            node = history.operation._inbound_nodes[history.node_index]
            missing = [x for x in node.arguments.keras_tensors if id(x) not in done]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            done.update(id(x) for x in node.outputs)
            ordered.append(Call(history.operation, tuple(node.arguments.args), dict(node.arguments.kwargs), list(node.outputs)))
    return ordered


def operation_kind(operation) -> str | None:
    """The class name of a ``keras.ops`` operation (``Add``, ``Relu`` ...); ``None`` for layers and foreign classes."""
    if isinstance(operation, keras.layers.Layer) or not type(operation).__module__.startswith("keras."):
        return None
    return type(operation).__name__
