"""Bytes of a program: the encoder's half of ``ops/kernels/program_format.inc``, where the layout is written down.

Tensors and steps go in; ``ProgramWriter.finish`` plans the arena and returns the blob. Offsets, sizes and strides count
elements of one image; the runner multiplies by the images of a block.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graffiti.graph import memory
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime import program_format
from graffiti.runtime.library import OPERATIONS, type_number
from graffiti.runtime.program_format import Field

FORMAT = program_format.load()
ARENA, INPUT, OUTPUT = 0, 1, 2

_ALIGNMENT = 64
# images worked on together: as many as leave their tensors in the second-level cache
_BLOCK_BYTES, _MAX_BLOCK = 128 * 1024, 32


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
    def _add(self, step: str, **values) -> None:
        """Write a step: a value for each field of its row in ``program_format.inc``."""
        fields = FORMAT.steps[step]
        reads = [values[f.name] for f in fields if f.kind in ("READ", "OPTIONAL_READ") and values[f.name] is not None]
        writes = [values[f.name] for f in fields if f.kind == "WRITE"]
        self._steps.append((FORMAT.kinds[step], self._words(fields, values), tuple(reads), tuple(writes)))

    def _words(self, fields: tuple[Field, ...], values: dict[str, Any]) -> list[int]:
        """Values as the words of these fields, in their order; arrays go into the data."""
        if {field.name for field in fields} != set(values):
            raise TypeError(f"the fields are {', '.join(field.name for field in fields)}; got {', '.join(values)}")
        words: list[int] = []
        for field in fields:
            value = values[field.name]
            if field.kind == "RECORD":
                words += self._words(FORMAT.records[field.of], value)
            elif field.kind == "NUMBERS":
                words += map(int, value)
            else:
                words.append(self._word(field.kind, value))
        return words

    def _word(self, kind: str, value: Any) -> int:
        if value is None and kind.startswith("OPTIONAL_"):
            return -1
        match kind.removeprefix("OPTIONAL_"):
            case "READ" | "WRITE":
                return value.index
            case "DATA":
                return self.data(value)
            case "TYPE":
                return type_number(value)
            case "ROUNDING":
                return ROUNDING_MODES.index(value)
            case "OPERATION":
                return OPERATIONS[value]
        return int(value)

    def rescale(self, x: Tensor, y: Tensor, scale: np.ndarray, offset: np.ndarray) -> None:
        """``x * scale + offset`` in float32; both arrays, as long as each other, repeat over ``x``."""
        scale, offset = scale.astype(np.float32), offset.astype(np.float32)
        self._add("Rescale", x=x, y=y, count=scale.size, scale=scale, offset=offset)

    def quantize(self, x: Tensor, y: Tensor, exponent: int, mode: str, low: int, high: int) -> None:
        """Floats to codes."""
        self._add("Quantize", x=x, y=y, exponent=exponent, rounding=mode, low=low, high=high)

    def dequantize(self, x: Tensor, y: Tensor, exponents: Sequence[int], channels: int) -> None:
        """Codes to floats."""
        stored = np.asarray(exponents, np.int32)
        self._add("Dequantize", x=x, y=y, channels=channels, exponents=stored, count=len(exponents))

    def conv(
        self, x: Tensor, view: View, shape: dict[str, int], kernel: np.ndarray, bias: np.ndarray | None,
        rounding: Rounding | None,
    ) -> None:
        """A convolution, its bias and its requantization; the kernel is ``(height, width, in/groups, out)``."""
        self._add(
            "Conv", x=x, y=view.tensor, y_offset=view.offset, y_stride=view.stride, shape=shape,
            kernel_type=kernel.dtype, kernel=kernel, bias=None if bias is None else bias.astype(np.int32),
            to=_requantization(rounding))

    def binary(
        self, operation: str, x: Tensor, y: Tensor | np.ndarray, out: Tensor, channels: int, rounding: Rounding | None,
    ) -> None:
        """Elementwise; an array ``y`` repeats over ``x``."""
        tensor, constant, count = (None, y, y.size) if isinstance(y, np.ndarray) else (y, None, 1)
        self._add(
            "Binary", operation=operation, x=x, y=tensor, constant=constant, y_type=y.dtype, y_count=count, out=out,
            channels=channels, to=_requantization(rounding))

    def requantize(self, x: Tensor, y: Tensor, channels: int, rounding: Rounding) -> None:
        """Codes to another format."""
        self._add("Requantize", x=x, y=y, channels=channels, to=_requantization(rounding))

    def lookup(self, x: Tensor, y: Tensor, low: int, table: np.ndarray) -> None:
        """``table[code - low]``; the table has the dtype of ``y``."""
        self._add("Lookup", x=x, y=y, low=low, table=table, entries=len(table))

    def max_pool(self, x: Tensor, y: Tensor, shape: dict[str, int]) -> None:
        """The largest code of each window."""
        self._add("MaxPool", x=x, y=y, shape=shape)

    def average_pool(self, x: Tensor, y: Tensor, shape: dict[str, int], rounding: Rounding, divide: bool) -> None:
        """The mean of each window, rounded once; the sum where it does not divide."""
        self._add("AveragePool", x=x, y=y, shape=shape, divide=divide, to=_requantization(rounding))

    def zero(self, y: Tensor) -> None:
        """All zeros."""
        self._add("Zero", y=y)

    def constant(self, y: Tensor, array: np.ndarray) -> None:
        """The same array for every image."""
        self._add("Constant", y=y, array=array)

    def move(
        self, x: Tensor, y: Tensor, sizes: Sequence[int], x_strides: Sequence[int], y_strides: Sequence[int],
        x_offset: int = 0, y_offset: int = 0,
    ) -> None:
        """``y[y_offset + i·y_strides] = x[x_offset + i·x_strides]`` for all ``i`` below ``sizes``."""
        axes: list[list[int]] = []
        for size, a, b in zip(sizes, x_strides, y_strides):
            if size == 1:
                continue
            if axes and axes[-1][1] == size * a and axes[-1][2] == size * b:  # one run with the axis in front
                axes[-1] = [axes[-1][0] * size, a, b]
            else:
                axes.append([size, a, b])
        sizes, x_strides, y_strides = ([axis[k] for axis in axes] for k in range(3))
        self._add(
            "Move", x=x, y=y, x_offset=x_offset, y_offset=y_offset, rank=len(axes), sizes=sizes, x_strides=x_strides,
            y_strides=y_strides)

    # ---- the blob ----------------------------------------------------------------------------------------------------
    def finish(self) -> bytes:
        """Plan the arena and write everything down."""
        steps = [([str(t.index) for t in reads], [str(t.index) for t in writes]) for _, _, reads, writes in self._steps]
        lives = memory.lifetimes(steps)
        planned = [t for t in self.tensors if t.place == ARENA and str(t.index) in lives]
        plan = memory.plan(
            [-(-t.bytes // _ALIGNMENT) * _ALIGNMENT for t in planned], [lives[str(t.index)] for t in planned],
            _ALIGNMENT
        )
        for tensor, offset in zip(planned, plan.offsets):
            tensor.number = offset
        arena = -(-plan.total // _ALIGNMENT) * _ALIGNMENT
        block = max(1, min(_MAX_BLOCK, _BLOCK_BYTES // max(arena, 1)))
        self._data += bytes(-len(self._data) % 8)
        words: list[int] = [t.index for t in (*self.inputs, *self.outputs)]
        for t in self.tensors:
            elements = 0 if t.place == ARENA and str(t.index) not in lives else t.elements
            values = {"type": t.dtype, "place": t.place, "offset": t.number, "elements": elements}
            words += self._words(FORMAT.records["Tensor"], values)
        for step, view in self._values:
            words += self._words(FORMAT.records["Value"], {"step": step, **vars(view)})
        for kind, arguments, _, _ in self._steps:
            words += [kind, len(arguments), *arguments]
        header = {
            "magic": FORMAT.magic, "version": FORMAT.version, "tensors": len(self.tensors), "steps": len(self._steps),
            "inputs": len(self.inputs), "outputs": len(self.outputs), "values": len(self._values), "arena": arena,
            "block": block, "data": len(self._data)}
        size = 8 * (len(FORMAT.records["Header"]) + len(words)) + len(self._data)
        first = self._words(FORMAT.records["Header"], {**header, "size": size})
        return np.asarray([*first, *words], "<i8").tobytes() + bytes(self._data)


def _requantization(rounding: Rounding | None) -> dict[str, Any]:
    """The values of the record ``Requantization``."""
    if rounding is None:
        return {"shift": None, "count": 0, "rounding": ROUNDING_MODES[0], "low": 0, "high": 0, "type": np.int8}
    shifts = np.asarray(rounding.shift, np.int32)
    return {
        "shift": shifts, "count": len(shifts), "rounding": rounding.mode, "low": rounding.low, "high": rounding.high,
        "type": rounding.dtype}
