"""Bytes of a program: the encoder's half of ``ops/kernels/program_reader.cc``, where the layout is written down.

Tensors and steps go in; ``ProgramWriter.finish`` plans the arena and returns the blob. Offsets, sizes and strides count
elements of one image; the runner multiplies by the images of a block.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from graffiti.graph import memory
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime.library import ConvShape, PoolShape, type_number

MAGIC, VERSION = 0x3147525046415247, 1
ARENA, INPUT, OUTPUT = 0, 1, 2
QUANTIZE, DEQUANTIZE, CONV, BINARY, REQUANTIZE, LOOKUP, MAX_POOL, MOVE, ZERO, CONSTANT, RESCALE, AVERAGE_POOL = range(1, 13)
OPERATIONS = {"add": 0, "subtract": 1, "multiply": 2, "maximum": 3, "reverse_subtract": 4, "minimum": 5}

_ALIGNMENT = 64
_BLOCK_BYTES, _MAX_BLOCK = 128 * 1024, 32  # images worked on together: as many as leave their tensors in the second-level cache


@dataclasses.dataclass
class Tensor:
    """An array of ``elements`` values for each image; ``place`` and ``number`` say where it lies."""

    dtype: np.dtype
    elements: int
    place: int = ARENA
    number: int = 0
    index: int = -1

    @property
    def bytes(self) -> int:
        """Of one image."""
        return self.elements * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Rounding:
    """``clamp(round(x / 2**shift), low, high)`` stored as ``dtype``; ``shift`` is one number or one per channel."""

    shift: tuple[int, ...]
    low: int
    high: int
    dtype: np.dtype
    mode: str


@dataclasses.dataclass(frozen=True)
class View:
    """What a step wrote: ``rows`` runs of ``inner`` elements, ``stride`` apart, from ``offset`` of a tensor."""

    tensor: Tensor
    offset: int
    rows: int
    inner: int
    stride: int


class ProgramWriter:
    """Collects the tensors and steps of a program."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self._steps: list[tuple[int, list[int], tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        self._values: list[tuple[int, View]] = []
        self._data = bytearray()
        self._stored: dict[bytes, int] = {}

    # ---- tensors and data ------------------------------------------------------------------------------------------
    def tensor(self, dtype, shape: Iterable[int]) -> Tensor:
        """A new tensor in the arena."""
        tensor = Tensor(np.dtype(dtype), math.prod(shape), index=len(self.tensors))
        type_number(tensor.dtype)
        self.tensors.append(tensor)
        return tensor

    def input(self, dtype, shape: Iterable[int]) -> Tensor:
        """The next input of the program."""
        tensor = self.tensor(dtype, shape)
        tensor.place, tensor.number = INPUT, len(self.inputs)
        self.inputs.append(tensor)
        return tensor

    def output(self, tensor: Tensor) -> None:
        """Let a tensor of the arena be the next output."""
        if tensor.place != ARENA:
            raise ValueError("only a tensor of the arena can become an output")
        tensor.place, tensor.number = OUTPUT, len(self.outputs)
        self.outputs.append(tensor)

    def value(self, view: View) -> int:
        """Note what the last step wrote, for the debug run; returns its number."""
        self._values.append((len(self._steps) - 1, view))
        return len(self._values) - 1

    def data(self, array: np.ndarray) -> int:
        """Store an array once; returns its byte offset."""
        raw = np.ascontiguousarray(array).tobytes()
        if raw not in self._stored:
            self._data += bytes(-len(self._data) % 8)
            self._stored[raw] = len(self._data)
            self._data += raw
        return self._stored[raw]

    # ---- steps -------------------------------------------------------------------------------------------------------
    def _add(self, kind: int, words: Sequence[int], reads: Iterable[Tensor], writes: Tensor) -> None:
        self._steps.append((kind, [int(word) for word in words], tuple(reads), (writes,)))

    def _rounding(self, rounding: Rounding | None) -> list[int]:
        if rounding is None:
            return [-1, 0, 0, 0, 0, 0]
        shifts = np.asarray(rounding.shift, np.int32)
        return [self.data(shifts), len(shifts), ROUNDING_MODES.index(rounding.mode), rounding.low, rounding.high, type_number(rounding.dtype)]

    def rescale(self, x: Tensor, y: Tensor, scale: np.ndarray, offset: np.ndarray) -> None:
        """``x * scale + offset`` in float32; both arrays, as long as each other, repeat over ``x``."""
        self._add(RESCALE, [x.index, y.index, scale.size, self.data(scale.astype(np.float32)), self.data(offset.astype(np.float32))], [x], y)

    def quantize(self, x: Tensor, y: Tensor, exponent: int, mode: str, low: int, high: int) -> None:
        """Floats to codes."""
        self._add(QUANTIZE, [x.index, y.index, exponent, ROUNDING_MODES.index(mode), low, high], [x], y)

    def dequantize(self, x: Tensor, y: Tensor, exponents: Sequence[int], channels: int) -> None:
        """Codes to floats."""
        stored = self.data(np.asarray(exponents, np.int32))
        self._add(DEQUANTIZE, [x.index, y.index, channels, stored, len(exponents)], [x], y)

    def conv(self, x: Tensor, view: View, shape: dict[str, int], kernel: np.ndarray, bias: np.ndarray | None, rounding: Rounding | None) -> None:
        """A convolution, its bias and its requantization; the kernel is ``(height, width, in/groups, out)``."""
        words = [x.index, view.tensor.index, view.offset, view.stride, *(shape[name] for name in ConvShape.NAMES), type_number(kernel.dtype), self.data(kernel),
                 -1 if bias is None else self.data(bias.astype(np.int32)), *self._rounding(rounding)]
        self._add(CONV, words, [x], view.tensor)

    def binary(self, operation: str, x: Tensor, y: Tensor | np.ndarray, out: Tensor, channels: int, rounding: Rounding | None) -> None:
        """Elementwise; an array ``y`` repeats over ``x``."""
        if isinstance(y, np.ndarray):
            reads, middle = [x], [-1, self.data(y), type_number(y.dtype), y.size]
        else:
            reads, middle = [x, y], [y.index, 0, 0, 1]
        self._add(BINARY, [OPERATIONS[operation], x.index, *middle, out.index, channels, *self._rounding(rounding)], reads, out)

    def requantize(self, x: Tensor, y: Tensor, channels: int, rounding: Rounding) -> None:
        """Codes to another format."""
        self._add(REQUANTIZE, [x.index, y.index, channels, *self._rounding(rounding)], [x], y)

    def lookup(self, x: Tensor, y: Tensor, low: int, table: np.ndarray) -> None:
        """``table[code - low]``; the table has the dtype of ``y``."""
        self._add(LOOKUP, [x.index, y.index, low, self.data(table), len(table)], [x], y)

    def max_pool(self, x: Tensor, y: Tensor, shape: dict[str, int]) -> None:
        """The largest code of each window."""
        self._add(MAX_POOL, [x.index, y.index, *(shape[name] for name in PoolShape.NAMES)], [x], y)

    def average_pool(self, x: Tensor, y: Tensor, shape: dict[str, int], rounding: Rounding, divide: bool) -> None:
        """The mean of each window, rounded once; the sum where it does not divide."""
        self._add(AVERAGE_POOL, [x.index, y.index, *(shape[name] for name in PoolShape.NAMES), int(divide), *self._rounding(rounding)], [x], y)

    def zero(self, y: Tensor) -> None:
        """All zeros."""
        self._add(ZERO, [y.index], [], y)

    def constant(self, y: Tensor, array: np.ndarray) -> None:
        """The same array for every image."""
        self._add(CONSTANT, [y.index, self.data(array)], [], y)

    def move(self, x: Tensor, y: Tensor, sizes: Sequence[int], x_strides: Sequence[int], y_strides: Sequence[int], x_offset: int = 0, y_offset: int = 0) -> None:
        """``y[y_offset + i·y_strides] = x[x_offset + i·x_strides]`` for all ``i`` below ``sizes``."""
        axes: list[list[int]] = []
        for size, a, b in zip(sizes, x_strides, y_strides):
            if size == 1:
                continue
            if axes and axes[-1][1] == size * a and axes[-1][2] == size * b:  # one run with the axis in front
                axes[-1] = [axes[-1][0] * size, a, b]
            else:
                axes.append([size, a, b])
        words = [x.index, y.index, x_offset, y_offset, len(axes), *(axis[k] for k in range(3) for axis in axes)]
        self._add(MOVE, words, [x], y)

    # ---- the blob ------------------------------------------------------------------------------------------------------
    def finish(self) -> bytes:
        """Plan the arena and write everything down."""
        steps = [([str(t.index) for t in reads], [str(t.index) for t in writes]) for _, _, reads, writes in self._steps]
        lives = memory.lifetimes(steps)
        planned = [t for t in self.tensors if t.place == ARENA and str(t.index) in lives]
        plan = memory.plan([-(-t.bytes // _ALIGNMENT) * _ALIGNMENT for t in planned], [lives[str(t.index)] for t in planned], _ALIGNMENT)
        for tensor, offset in zip(planned, plan.offsets):
            tensor.number = offset
        arena = -(-plan.total // _ALIGNMENT) * _ALIGNMENT
        block = max(1, min(_MAX_BLOCK, _BLOCK_BYTES // max(arena, 1)))
        self._data += bytes(-len(self._data) % 8)
        words: list[int] = [t.index for t in (*self.inputs, *self.outputs)]
        for t in self.tensors:
            unused = t.place == ARENA and str(t.index) not in lives
            words += [type_number(t.dtype), t.place, t.number, 0 if unused else t.elements]
        for step, view in self._values:
            words += [step, view.tensor.index, view.offset, view.rows, view.inner, view.stride]
        for kind, arguments, _, _ in self._steps:
            words += [kind, len(arguments), *arguments]
        size = 8 * (11 + len(words)) + len(self._data)
        header = [MAGIC, VERSION, size, len(self.tensors), len(self._steps), len(self.inputs), len(self.outputs), len(self._values), arena, block, len(self._data)]
        return np.asarray([*header, *words], "<i8").tobytes() + bytes(self._data)
