"""What emitters write into: constants in flash, the addresses of tensors, and the lines of the ``run`` function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graffiti.export.c.fuse import INT32_MAX, INT32_MIN, Stage, Step
from graffiti.export.c.names import Names
from graffiti.export.c.types import S4, S32, TYPES, U8, CType, pack_nibbles, smallest, type_of
from graffiti.graph.ir import Graph
from graffiti.numerics.formats import QFormat

_LINE = 120
ROUNDING = {
    "half_even": "GRAFFITI_HALF_EVEN", "half_up": "GRAFFITI_HALF_UP", "half_away": "GRAFFITI_HALF_AWAY",
    "floor": "GRAFFITI_FLOOR"
}


def literal(value: int) -> str:
    """An int32 as C text; the lowest one has no literal of its own."""
    return "INT32_MIN" if value == INT32_MIN else "INT32_MAX" if value == INT32_MAX else str(value)


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a tensor lies: an offset in the arena (``base`` is ``None``), or a pointer of the caller."""

    base: str | None
    offset: int = 0

    def expression(self, extra_bytes: int = 0) -> str:
        """A C expression of type pointer to (const) void or to the elements."""
        if self.base is None:
            return f"AT({self.offset + extra_bytes})"
        return f"(uint8_t *){self.base} + {extra_bytes}" if extra_bytes else self.base

    def readable(self, extra_bytes: int = 0) -> str:
        """The same for a tensor that is read, where the caller's pointer may be to const."""
        return (
            f"(const uint8_t *){self.base} + {extra_bytes}" if extra_bytes and self.base is not None
            else self.expression(extra_bytes)
        )


class Writer:
    """Collects the text of one model's ``.c`` file.

    Args:
        graph: the graph of codes.
        prefix: the model's identifier.
        addresses: value → where it lies, for everything that is no constant.
        reserved: identifiers of the function's arguments.

    Attributes:
        definitions: the constants, one C definition each.
        flash: bytes of the arrays among them.
    """

    def __init__(self, graph: Graph, prefix: str, addresses: dict[str, Address], reserved: Sequence[str] = ()) -> None:
        self.graph, self.addresses = graph, addresses
        self.definitions: list[str] = []
        self.flash = 0
        taken = [
            f"{prefix}_{word}"
            for word in (
                "run", "trace", "trace_callback", "arena", *(f"{v}quantize_{a}" for v in ("", "de") for a in reserved)
            )
        ]
        self._names = Names(f"{prefix}_", reserved=[*taken, *reserved])
        self._known: dict[tuple, str] = {}

    # ---- constants -----------------------------------------------------------------------------------------------
    def array(self, name: str, values, type: CType) -> str:
        """Define a constant array (once for equal contents); returns its identifier."""
        values = np.asarray(values).reshape(-1)
        if not type.holds(values):
            raise ValueError(
                f"constant {name!r} has values from {values.min()} to {values.max()}, which {type.c} does not hold"
            )
        data = values.astype(type.dtype)
        key = (type.c, data.tobytes())
        if key not in self._known:
            identifier = self._known[key] = self._names.unique(name)
            lines, line = [], "   "
            for text in (literal(int(v)) for v in data):
                if len(line) + len(text) + 2 > _LINE:
                    lines.append(line)
                    line = "   "
                line += f" {text},"
            body = "\n".join([*lines, line])
            self.definitions.append(f"static const {type.c} {identifier}[{len(data)}] GRAFFITI_FLASH = {{\n{body}\n}};")
            self.flash += data.nbytes
        return self._known[key]

    def constant(self, value: str, types: tuple[CType, ...] = TYPES, values=None) -> tuple[str, CType]:
        """A constant of the graph (or ``values`` in its place, packed otherwise) in the smallest of ``types`` that
        holds it.
        """
        values = np.asarray(self.graph.constants[value] if values is None else values)
        type = smallest(values, types)
        return self.array(value, values, type), type

    def kernel(self, name: str, rows: np.ndarray, type: CType) -> str:
        """Define a kernel of ``rows`` (the last axis is what a row holds), packed two to a byte where ``type`` is
        S4.
        """
        if type == S4:
            return self.array(name, pack_nibbles(rows.reshape(-1, rows.shape[-1])), U8)
        return self.array(name, rows, type)

    def struct(self, type: str, name: str, body: str) -> str:
        """Define a constant struct (once for equal contents); returns its identifier."""
        key = (type, body)
        if key not in self._known:
            identifier = self._known[key] = self._names.unique(name)
            self.definitions.append(f"static const {type} {identifier} = {body};")
        return self._known[key]

    def loops(self, name: str, sizes: Sequence[int], a_steps: Sequence[int], b_steps: Sequence[int]) -> str:
        """Define a nest of loops; returns a pointer to it."""
        body = ", ".join("{" + ", ".join(map(str, values)) + "}" for values in (sizes, a_steps, b_steps))
        return "&" + self.struct("graffiti_loops", f"{name}_loops", f"{{{len(sizes)}, {body}}}")

    def epilogue(self, step: Step) -> str:
        """Define the stages of a step and the type of its output; returns a pointer to it."""
        stages = [self._stage(step, stage) for stage in step.stages]
        type = type_of(format_of(self.graph, step.output)).enum
        pointer = "NULL"
        if stages:
            key = ("stages", tuple(stages))
            if key not in self._known:
                self._known[key] = pointer = self._names.unique(step.output, "_stages")
                self.definitions.append(
                    f"static const graffiti_stage {pointer}[{len(stages)}] = {{{', '.join(stages)}}};"
                )
            pointer = self._known[key]
        return (
            "&" + self.struct("graffiti_epilogue", f"{step.output}_epilogue", f"{{{pointer}, {len(stages)}, {type}}}")
        )

    def _stage(self, step: Step, stage: Stage) -> str:
        channels = example_shape(self.graph, step.output)[-1]
        bias = shifts = "NULL"
        if stage.bias is not None:
            bias = self.array(
                stage.bias, np.broadcast_to(self.graph.constants[stage.bias].reshape(-1), (channels,)), S32
            )
        if isinstance(stage.shift, tuple):
            shifts = self.array(f"{step.output}/shifts", np.asarray(stage.shift), TYPES[0])
        shift = 0 if isinstance(stage.shift, tuple) else stage.shift
        return f"{{{bias}, {shifts}, {shift}, {ROUNDING[stage.rounding]}, {literal(stage.low)}, {literal(stage.high)}}}"

    # ---- tensors -------------------------------------------------------------------------------------------------
    def type(self, value: str) -> CType:
        """The storage type of a tensor."""
        return type_of(format_of(self.graph, value))

    def read(self, value: str, extra_bytes: int = 0) -> str:
        """A pointer to a tensor that is read."""
        return self.addresses[value].readable(extra_bytes)

    def write(self, value: str, extra_bytes: int = 0) -> str:
        """A pointer to a tensor that is written."""
        return self.addresses[value].expression(extra_bytes)

    def operand(self, value: str) -> tuple[str, CType]:
        """Pointer and type of a tensor or constant that is read."""
        return self.constant(value) if self.graph.is_constant(value) else (self.read(value), self.type(value))


def format_of(graph: Graph, value: str) -> QFormat:
    """The format of a value that holds codes."""
    format = graph.format(value)
    if format is None:
        raise ValueError(f"tensor {value!r} is float32; only codes can be exported")
    return format


def example_shape(graph: Graph, value: str) -> tuple[int, ...]:
    """The shape of one example of a tensor; for a constant the part that broadcasts against one example."""
    shape = graph.shape(value)
    if not graph.is_constant(value):
        # CExporter.supports refuses unknown sizes
        return tuple(int(n) for n in shape[1:])  # type: ignore[arg-type]
    return tuple(int(n) for n in shape)  # type: ignore[arg-type]


def count_of(graph: Graph, value: str) -> int:
    """Elements of one example."""
    return int(np.prod(example_shape(graph, value), dtype=np.int64))
