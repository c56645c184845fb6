"""What conversion has to know about a network: where each compute layer stands, and what stands behind batch norms."""

from __future__ import annotations

import dataclasses

import keras

from graffiti.keras_io import compat, functions, intervals
from graffiti.low_bit.layers import computes


@dataclasses.dataclass
class Place:
    """Where a layer stands; over all of its calls.

    Attributes:
        path: its name, ``inner/layer`` in a nested model.
        first: whether a call sees the network's inputs through no other compute layer.
        last: whether the network's outputs see it through none.
        signed: whether an input may be negative.
        relu: of a batch norm, the ReLU layer that alone uses its output, or that of its residual sum.
        residual: of a batch norm, the sum of two tensors that alone uses its output, and which of the two that is.
    """

    path: str
    first: bool = False
    last: bool = False
    signed: bool = False
    relu: keras.layers.Layer | None = None
    residual: tuple[keras.layers.Layer, int] | None = None


@dataclasses.dataclass(frozen=True)
class _Facts:
    """About a tensor: the compute layers right behind which it stands, and what it can be."""

    sources: frozenset = frozenset()
    interval: intervals.Interval = intervals.EVERYTHING


def analyse(model: keras.Model) -> dict[int, Place]:
    """Places of all layers of a Functional or Sequential model, nested ones included, by ``id`` of the layer."""
    places: dict[int, Place] = {}
    outputs = _walk(
        model, [_Facts(interval=intervals.of_dtype(str(tensor.dtype))) for tensor in model.inputs], "", places
    )
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
            for tensor, fact in zip(call.outputs, _after(call, before, prefix, places)):
                facts[id(tensor)] = fact
        _pair_batch_norms(calls, {id(x) for x in tensors.outputs}, places)
        return [facts[id(x)] for x in tensors.outputs]


def _after(call: compat.Call, before: list[_Facts], prefix: str, places: dict[int, Place]) -> list[_Facts]:
    operation = call.operation
    if isinstance(operation, keras.Model) and compat.is_functional(operation):
        return _walk(operation, before, f"{prefix}{operation.name}/", places)
    sources = frozenset().union(*(fact.sources for fact in before)) if before else frozenset()
    found = intervals.of_call(call, [fact.interval for fact in before])
    if not isinstance(operation, keras.layers.Layer):
        return [_Facts(sources, interval) for interval in found]
    place = places.setdefault(id(operation), Place(f"{prefix}{operation.name}"))
    if computes(operation):
        place.first |= not sources
        place.signed |= not before or any(fact.interval[0] < 0 for fact in before)
        sources = frozenset([id(operation)])
    return [_Facts(sources, interval) for interval in found]


def is_relu(layer) -> bool:
    """Whether a layer is ``max(x, 0)`` and nothing else."""
    meaning = functions.find(layer) if isinstance(layer, (keras.layers.ReLU, keras.layers.Activation)) else None
    return meaning is not None and meaning.node == ("relu", {"max_value": None})


def _pair_batch_norms(calls, outputs: set[int], places: dict[int, Place]) -> None:
    """Batch norms with what one pass can compute with them: a ReLU, the sum with another tensor of the same shape,
    or both.
    """
    users: dict[int, list] = {}
    count: dict[int, int] = {}
    for call in calls:
        count[id(call.operation)] = count.get(id(call.operation), 0) + 1
        for tensor in call.inputs:
            users.setdefault(id(tensor), []).append(call)

    def only_reader(call):
        """The call that alone uses a call's output, where both layers are called once."""
        readers = users.get(id(call.outputs[0]), [])
        alone = (
            len(readers) == 1 and id(call.outputs[0]) not in outputs
            and count[id(call.operation)] == count[id(readers[0].operation)] == 1
        )
        return readers[0] if alone else None

    taken: set[int] = set()
    for call in calls:
        layer = call.operation
        if type(layer) is not keras.layers.BatchNormalization:
            continue
        place, reader = places[id(layer)], only_reader(call)
        if (
            reader is not None and type(reader.operation) is keras.layers.Add and id(reader) not in taken
            and _same_kind(reader.inputs, layer, reader.operation)
        ):
            taken.add(id(reader))
            place.residual = reader.operation, [id(x) for x in reader.inputs].index(id(call.outputs[0]))
            reader = only_reader(reader)
        if reader is not None and is_relu(reader.operation):
            place.relu = reader.operation


def _same_kind(tensors, *layers) -> bool:
    """Whether there are two tensors of one shape, and layers of one dtype policy."""
    return (
        len(tensors) == 2 and tensors[0].shape == tensors[1].shape
        and len({layer.dtype_policy.name for layer in layers}) == 1
    )
