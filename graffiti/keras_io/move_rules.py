"""What moves of Keras read as: slices, splits, flips, repetitions, stacks ... in a few general ops.

``slice`` cuts and steps, ``take`` lists indices along one axis, ``reshape``, ``permute`` and ``concat`` do the rest.
Nothing here computes, so codes pass unchanged. What touches the batch axis, or needs a length that is not known, is an
island with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

Move = tuple[str, dict[str, Any]]
Rule = Callable[[Any, Any], None]
WHOLE = (0, None, 1)
NO_NUMBERS = ("string", "bool")


class NoMove(ValueError):
    """Why a call is no move of codes."""


def _rule(moves: Callable[[Any, Any], Sequence[Move]]) -> Rule:
    """A rule of one output from a function that lists the moves, or says by ``NoMove`` why there are none."""
    def rule(reading, operation) -> None:
        try:
            _numbers(reading)
            found = list(moves(reading, operation))
        except NoMove as why:
            return reading.island(f"{why} has no fixed-point form")
        reading.result(emit(reading, reading.x, found, reading.name))
    return rule


def _numbers(reading) -> None:
    found = {str(tensor.dtype) for tensor in reading.call.inputs} & set(NO_NUMBERS)
    if found:
        raise NoMove(f"a move of {found.pop()} values")


def emit(reading, value: str, moves: Sequence[Move], name: str) -> str:
    """Nodes for moves, one after another.

    Args:
        reading: of the Keras operation (``read.Reading``).
        value: the graph's value that is moved.
        moves: those that change nothing are left out; an ``identity`` stands for none at all.
        name: of the last node; those before are ``name/<op><number>``.

    Returns:
        The value behind the last one.
    """
    moves = useful(moves) or [("identity", {})]
    for number, (op, attrs) in enumerate(moves, 1):
        value = reading.emit(op, [value], attrs, name=name if number == len(moves) else f"{name}/{op}{number}")
    return value


def useful(moves: Sequence[Move]) -> list[Move]:
    """Without slices of everything and permutations that keep the order."""
    return [
        (op, attrs) for op, attrs in moves
        if not (
            (op == "slice" and all(each == WHOLE for each in attrs["slices"]))
            or (op == "permute" and list(attrs["dims"]) == sorted(attrs["dims"]))
        )
    ]


def _along(rank: int, axis: int, part: tuple[int, int | None, int]) -> Move:
    """A slice of one axis."""
    return "slice", {"slices": tuple(part if i == axis else WHOLE for i in range(1, rank))}


def _take(axis: int, indices) -> Move:
    return "take", {"axis": axis, "indices": tuple(int(i) for i in indices)}


def repeated(axis: int, size: int, factor: int) -> Move:
    """Every index of an axis several times.

    Args:
        axis: counted with the batch axis.
        size: of the axis.
        factor: how often each index comes, one behind the other.
    """
    return _take(axis, np.repeat(np.arange(size), factor))


def _reshape(shape: Sequence[int | None]) -> Move:
    if any(n is None for n in shape[1:]):
        raise NoMove(f"a move to the unknown lengths of {tuple(shape)}")
    return "reshape", {"shape": tuple(int(n) for n in shape[1:] if n is not None)}


def _inner_axis(axis, rank: int, what: str) -> int:
    """An axis counted from 0, which is not the batch."""
    axis = int(axis) + rank if axis < 0 else int(axis)
    if not 0 < axis < rank:
        raise NoMove(f"{what} along the batch")
    return axis


def _length(reading, axis: int, what: str) -> int:
    size = reading.input_shape[axis]
    if size is None:
        raise NoMove(f"{what} along an axis of unknown length")
    return int(size)


def _integers(values, what: str) -> np.ndarray:
    if (
        isinstance(values, keras.KerasTensor)
        or any(isinstance(v, keras.KerasTensor) for v in (values if isinstance(values, (list, tuple)) else ()))
    ):
        raise NoMove(f"{what} by computed numbers")
    array = np.asarray(
        keras.ops.convert_to_numpy(values) if not isinstance(values, (int, list, tuple, np.ndarray)) else values
    )
    if array.dtype.kind not in "iu":
        raise NoMove(f"{what} by other numbers than integers")
    return array


# ---- slices ----------------------------------------------------------------------------------------------------------
def _getitem(reading, operation) -> list[Move]:
    """``x[key]``: slices with steps, integers, ``None`` and an ellipsis; a negative step is a slice and a flip."""
    key = reading.call.args[1] if len(reading.call.args) > 1 else reading.call.kwargs["key"]
    key = list(key) if isinstance(key, tuple) else [key]
    shape = reading.input_shape
    if any(
        not isinstance(part, (slice, int, np.integer, type(None), type(Ellipsis))) or isinstance(part, bool)
        for part in key
    ):
        raise NoMove("an index by an array or a computed number")
    named = sum(part is not None and part is not Ellipsis for part in key)
    dots = next((place for place, part in enumerate(key) if part is Ellipsis), len(key))
    key[dots : dots + 1] = [slice(None)] * (len(shape) - named)
    if (
        key[0] is None or not isinstance(key[0], slice) or key[0].start not in (None, 0) or key[0].stop is not None
        or key[0].step not in (None, 1)
    ):
        raise NoMove("a slice of the batch")
    slices, takes, reshaped, axis = [], [], False, 0
    for part in key[1:]:
        if part is None:
            reshaped = True
            continue
        axis += 1
        reshaped |= not isinstance(part, slice)
        each, take = _part(part, shape[axis])
        slices.append(each)
        takes += [] if take is None else [_take(axis, take)]
    moves: list[Move] = [("slice", {"slices": tuple(slices)}), *takes]
    return [*moves, _reshape(reading.shape)] if reshaped else moves


def _part(part, size: int | None) -> tuple[tuple[int, int | None, int], Sequence[int] | None]:
    """One axis of a key as a slice, and the indices to take where the step is negative."""
    if not isinstance(part, slice):
        if size is None and part < 0:
            raise NoMove("an index from the end of an unknown length")
        first = int(part) + (size or 0 if part < 0 else 0)
        return (first, first + 1, 1), None
    if any(isinstance(end, keras.KerasTensor) for end in (part.start, part.stop, part.step)):
        raise NoMove("a slice between computed ends")
    if size is None:
        start, stop, step = part.start or 0, part.stop, part.step or 1
        if start < 0 or step < 0 or (stop is not None):
            raise NoMove("a slice to an end, or backwards, along an axis of unknown length")
        return (int(start), None, int(step)), None
    indices = range(size)[part]
    if not len(indices):
        raise NoMove("an empty slice")
    if indices.step < 0:
        return WHOLE, indices
    stop = indices[-1] + 1
    return (indices.start, None if indices[-1] + indices.step >= size else stop, indices.step), None


def _slice(reading, operation) -> list[Move]:
    starts = _integers(
        reading.call.args[1] if len(reading.call.args) > 1 else reading.call.kwargs["start_indices"], "a slice"
    ).reshape(-1)
    sizes = [int(n) for n in operation.shape]
    if starts[0] != 0 or sizes[0] != -1:
        raise NoMove("a slice of the batch")
    parts = []
    for axis, (start, count) in enumerate(zip(starts[1:], sizes[1:]), 1):
        size = _length(reading, axis, "a slice")
        stop = size if count == -1 else int(start) + count
        parts.append((int(start), None if stop == size else stop, 1))
    return [("slice", {"slices": tuple(parts)})]


def split(reading, operation) -> None:
    """One ``slice`` for each output: the first is called like the call, the others ``name/1``, ``name/2`` ..."""
    try:
        _numbers(reading)
        rank = len(reading.input_shape)
        axis = _inner_axis(operation.axis, rank, "a split")
        size, start, lists = _length(reading, axis, "a split"), 0, []
        for output in reading.call.outputs:
            stop = start + int(output.shape[axis])
            lists.append([_along(rank, axis, (start, None if stop == size else stop, 1))])
            start = stop
        if any(output.shape[axis] == 0 for output in reading.call.outputs):
            raise NoMove("an empty part of a split")
    except NoMove as why:
        return reading.island(f"{why} has no fixed-point form")
    _several(reading, lists)


def unstack(reading, operation) -> None:
    """One ``slice`` and one ``reshape`` for each output."""
    try:
        _numbers(reading)
        rank = len(reading.input_shape)
        axis = _inner_axis(operation.axis, rank, "unstacking")
        size = _length(reading, axis, "unstacking")
        lists = [
            [_along(rank, axis, (i, None if i + 1 == size else i + 1, 1)), _reshape(output.shape)]
            for i, output in enumerate(reading.call.outputs)
        ]
    except NoMove as why:
        return reading.island(f"{why} has no fixed-point form")
    _several(reading, lists)


def _several(reading, lists: Sequence[Sequence[Move]]) -> None:
    for number, moves in enumerate(lists):
        reading.result(emit(reading, reading.x, moves, f"{reading.name}/{number}" if number else reading.name), number)


def _center_crop(reading, layer) -> list[Move]:
    height, width = reading.input_shape[-3:-1]
    if len(reading.input_shape) != 4 or height is None or width is None:
        raise NoMove("a centre crop of an image of unknown size")
    if layer.height > height or layer.width > width:
        raise NoMove("a centre crop that enlarges the image")
    top, left = (height - layer.height) // 2, (width - layer.width) // 2
    return [("crop", {"crops": ((top, height - layer.height - top), (left, width - layer.width - left), (0, 0))})]


def _crop_images(reading, operation) -> list[Move]:
    if operation.data_format == "channels_first" or len(reading.input_shape) != 4:
        raise NoMove("a crop of channels-first images, or of one image")
    (height, width), (out_height, out_width) = reading.input_shape[1:3], reading.shape[1:3]
    if None in (height, width, out_height, out_width):
        raise NoMove("a crop of an image of unknown size")

    def pair(before, after, size, target):
        front = before if before is not None else size - target - (after or 0)
        return int(front), int(size - target - front)

    vertical = pair(operation.top_cropping, operation.bottom_cropping, height, out_height)
    horizontal = pair(operation.left_cropping, operation.right_cropping, width, out_width)
    return [("crop", {"crops": (vertical, horizontal, (0, 0))})]


# ---- lists of indices ------------------------------------------------------------------------------------------------
def _flip(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    if operation.axis is None:
        raise NoMove("a flip along the batch")
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    axes = [_inner_axis(axis, rank, "a flip") for axis in axes]
    return [_take(axis, range(_length(reading, axis, "a flip"))[::-1]) for axis in axes]


def _repeat(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    if operation.axis is None:
        raise NoMove("a repetition along the batch")
    axis = _inner_axis(operation.axis, rank, "a repetition")
    size, repeats = _length(reading, axis, "a repetition"), _integers(operation.repeats, "a repetition")
    return [_take(axis, np.repeat(np.arange(size), repeats))]


def _tile(reading, operation) -> list[Move]:
    rank, repeats = len(reading.input_shape), _integers(operation.repeats, "a tiling").reshape(-1).tolist()
    repeats = [1] * (rank - len(repeats)) + repeats
    if len(repeats) > rank or repeats[0] != 1:
        raise NoMove("a tiling along the batch")
    return (
        [
            _take(axis, np.tile(np.arange(_length(reading, axis, "a tiling")), n)) for axis, n in enumerate(repeats)
            if n != 1
        ]
        or [("identity", {})]
    )


def _roll(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    if operation.axis is None:
        raise NoMove("a roll along the batch")
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    shifts = np.broadcast_to(_integers(operation.shift, "a roll").reshape(-1), (len(axes),))
    axes = [_inner_axis(axis, rank, "a roll") for axis in axes]
    return [
        _take(axis, np.roll(np.arange(_length(reading, axis, "a roll")), shift)) for axis, shift in zip(axes, shifts)
    ]


def _take_operation(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    if operation.axis is None:
        raise NoMove("taking along the batch")
    axis = _inner_axis(operation.axis, rank, "taking")
    size = _length(reading, axis, "taking")
    indices = _integers(
        reading.call.args[1] if len(reading.call.args) > 1 else reading.call.kwargs["indices"], "taking"
    )
    flat = np.where(indices < 0, indices + size, indices).reshape(-1)
    if not flat.size or flat.min() < 0 or flat.max() >= size:
        raise NoMove("taking indices that are not there")
    return [_take(axis, flat), *([] if indices.ndim == 1 else [_reshape(reading.shape)])]


def _repeat_vector(reading, layer) -> list[Move]:
    return [_reshape((None, 1, reading.input_shape[-1])), _take(1, [0] * int(layer.n))]


def _rot90(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    first, second = (_inner_axis(axis, rank, "a rotation") for axis in operation.axes)
    turns = operation.k % 4
    if turns % 2 == 0 and tuple(reading.shape) != tuple(reading.input_shape):  # Keras swaps the sizes for every k
        raise NoMove("a half turn of an image that is not square")
    dims = list(range(1, rank))
    dims[first - 1], dims[second - 1] = second, first
    swap: Move = ("permute", {"dims": tuple(dims)})
    back = {axis: _take(axis, range(_length(reading, axis, "a rotation"))[::-1]) for axis in (first, second)}
    by_turns: dict[int, list[Move]] = {
        0: [("identity", {})], 1: [back[second], swap], 2: [back[first], back[second]], 3: [back[first], swap]
    }
    return by_turns[turns]


# ---- axes in another order, and joined -------------------------------------------------------------------------------
def _permute(rank: int, order: Sequence[int]) -> list[Move]:
    if order[0] != 0:
        raise NoMove("a transpose that moves the batch axis")
    return [("permute", {"dims": tuple(order[1:])})]


def _swapaxes(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    order = list(range(rank))
    first, second = operation.axis1 % rank, operation.axis2 % rank
    order[first], order[second] = second, first
    return _permute(rank, order)


def _moveaxis(reading, operation) -> list[Move]:
    rank = len(reading.input_shape)
    sources, targets = (
        [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
        for axes in (operation.source, operation.destination)
    )
    order = [axis for axis in range(rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources)):
        order.insert(target, source)
    return _permute(rank, order)


def stack(reading, operation) -> None:
    """A ``reshape`` of each input and a ``concat``."""
    try:
        _numbers(reading)
        axis = _inner_axis(operation.axis, len(reading.shape), "stacking")
        one = list(reading.shape)
        one[axis] = 1
        move = _reshape(one)
    except NoMove as why:
        return reading.island(f"{why} has no fixed-point form")
    parts = {
        value: emit(reading, value, [move], f"{reading.name}/{number}")
        for number, value in enumerate(dict.fromkeys(reading.values))
    }
    reading.emit_result("concat", [parts[value] for value in reading.values], {"axis": axis})


def join(axis: int) -> Rule:
    """``hstack`` and ``dstack``: a concat along an axis that they say."""
    def rule(reading, operation) -> None:
        if len(reading.input_shape) <= axis or any(str(tensor.dtype) in NO_NUMBERS for tensor in reading.call.inputs):
            return reading.island("stacking of tensors with fewer axes, or of no numbers, has no fixed-point form")
        reading.emit_result("concat", reading.values, {"axis": axis})
    return rule


def _blocks(reading, operation) -> list[Move]:
    """Depth to space and back: one axis order between two reshapes."""
    if getattr(operation, "data_format", "channels_last") == "channels_first" or len(reading.input_shape) != 4:
        raise NoMove("blocks of channels-first images, or of one image")
    size = int(operation.block_size)
    _, height, width, channels = reading.input_shape
    if None in (height, width, channels):
        raise NoMove("blocks of an image of unknown size")
    if type(operation).__name__ == "DepthToSpace":
        parts, order = (height, width, size, size, channels // size**2), (1, 3, 2, 4, 5)
    else:
        parts, order = (height // size, size, width // size, size, channels), (1, 3, 2, 4, 5)
    return [_reshape((None, *parts)), ("permute", {"dims": order}), _reshape(reading.shape)]


LAYER_MOVES: dict[type, Rule] = {
    keras.layers.CenterCrop: _rule(_center_crop), keras.layers.RepeatVector: _rule(_repeat_vector),
}
OPERATION_MOVES: dict[str, Rule] = {
    "GetItem": _rule(_getitem), "Slice": _rule(_slice), "Split": split, "ArraySplit": split, "Unstack": unstack,
    "CropImages": _rule(_crop_images),
    "Flip": _rule(_flip), "Repeat": _rule(_repeat), "Tile": _rule(_tile), "Roll": _rule(_roll),
    "Take": _rule(_take_operation), "Rot90": _rule(_rot90),
    "Swapaxes": _rule(_swapaxes), "Moveaxis": _rule(_moveaxis), "Stack": stack, "Hstack": join(1), "Dstack": join(2),
    "DepthToSpace": _rule(_blocks), "SpaceToDepth": _rule(_blocks),
}
