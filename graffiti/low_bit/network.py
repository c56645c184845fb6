"""What conversion has to know about a network: where each compute layer stands, and which batch norms have a ReLU behind them."""

from __future__ import annotations

import dataclasses

import keras

from graffiti.keras_io import compat
from graffiti.low_bit.layers import computes

_POSITIVE_FUNCTIONS = ("relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential")
_POSITIVE_OPERATIONS = ("Relu", "Relu6", "Sigmoid", "Softmax", "Softplus", "Exp", "Absolute", "Square")
_KEEPS_SIGN = (
    keras.layers.Add, keras.layers.AveragePooling1D, keras.layers.AveragePooling2D, keras.layers.Average, keras.layers.Concatenate, keras.layers.Cropping1D,
    keras.layers.Cropping2D, keras.layers.Dropout, keras.layers.Flatten, keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D, keras.layers.Identity, keras.layers.MaxPooling1D, keras.layers.MaxPooling2D,
    keras.layers.Maximum, keras.layers.Minimum, keras.layers.Multiply, keras.layers.Permute, keras.layers.RepeatVector, keras.layers.Reshape,
    keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
)


@dataclasses.dataclass
class Place:
    """Where a layer stands; over all of its calls.

    Attributes:
        path: its name, ``inner/layer`` in a nested model.
        first: whether a call sees the network's inputs through no other compute layer.
        last: whether the network's outputs see it through none.
        signed: whether an input may be negative.
        relu: of a batch norm, the ReLU layer that alone uses its output.
    """

    path: str
    first: bool = False
    last: bool = False
    signed: bool = False
    relu: keras.layers.Layer | None = None


@dataclasses.dataclass(frozen=True)
class _Facts:
    """About a tensor: the compute layers right behind which it stands, and whether it may be negative."""

    sources: frozenset = frozenset()
    signed: bool = True


def analyse(model: keras.Model) -> dict[int, Place]:
    """Places of all layers of a Functional or Sequential model, nested ones included, by ``id`` of the layer."""
    places: dict[int, Place] = {}
    outputs = _walk(model, [_Facts()] * len(model.inputs), "", places)
    for facts in outputs:
        for source in facts.sources:
            places[source].last = True
    return places


def _walk(model: keras.Model, inputs: list[_Facts], prefix: str, places: dict[int, Place]) -> list[_Facts]:
    with compat.symbolic(model) as tensors:
        facts = {id(tensor): fact for tensor, fact in zip(tensors.inputs, inputs)}
        calls = compat.calls(tensors.inputs, tensors.outputs)
        for call in calls:
            before = [facts[id(x)] for x in call.inputs]
            for tensor, fact in zip(call.outputs, _after(call.operation, before, prefix, places, len(call.outputs))):
                facts[id(tensor)] = fact
        _pair_relus(calls, {id(x) for x in tensors.outputs}, places)
        return [facts[id(x)] for x in tensors.outputs]


def _after(operation, before: list[_Facts], prefix: str, places: dict[int, Place], outputs: int) -> list[_Facts]:
    sources = frozenset().union(*(fact.sources for fact in before)) if before else frozenset()
    signed = any(fact.signed for fact in before) or not before
    if not isinstance(operation, keras.layers.Layer):
        return [_Facts(sources, compat.operation_kind(operation) not in _POSITIVE_OPERATIONS)] * outputs
    path = f"{prefix}{operation.name}"
    if isinstance(operation, keras.Model) and compat.is_functional(operation):
        return _walk(operation, before, f"{path}/", places)
    place = places.setdefault(id(operation), Place(path))
    if computes(operation):
        place.first |= not sources
        place.signed |= signed
        return [_Facts(frozenset([id(operation)]), not _positive(getattr(operation, "activation", None)))] * outputs
    if isinstance(operation, _KEEPS_SIGN):
        return [_Facts(sources, signed)] * outputs
    positive = isinstance(operation, keras.layers.Softmax) or is_relu(operation) or _positive(getattr(operation, "activation", None))
    return [_Facts(sources, not positive)] * outputs


def _positive(activation) -> bool:
    return getattr(activation, "__name__", None) in _POSITIVE_FUNCTIONS


def is_relu(layer) -> bool:
    """Whether a layer is ``max(x, 0)`` and nothing else."""
    if type(layer) is keras.layers.ReLU:
        return layer.max_value is None and not layer.negative_slope and not layer.threshold
    return type(layer) is keras.layers.Activation and layer.activation is keras.activations.relu


def _pair_relus(calls, outputs: set[int], places: dict[int, Place]) -> None:
    users: dict[int, list] = {}
    count: dict[int, int] = {}
    for call in calls:
        count[id(call.operation)] = count.get(id(call.operation), 0) + 1
        for tensor in call.inputs:
            users.setdefault(id(tensor), []).append(call.operation)
    for call in calls:
        layer = call.operation
        if type(layer) is not keras.layers.BatchNormalization or count[id(layer)] > 1 or id(call.outputs[0]) in outputs:
            continue
        behind = users.get(id(call.outputs[0]), [])
        if len(behind) == 1 and is_relu(behind[0]) and count[id(behind[0])] == 1:
            places[id(layer)].relu = behind[0]
