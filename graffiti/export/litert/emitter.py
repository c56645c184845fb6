"""What the rules that write ops work with: every value of the graph as an integer tensor, a float tensor, or both.

A value with a format of at most 16 bits lives in an integer tensor of its own name. Accumulators, which LiteRT never
shows, exist only inside a fused operator or, where a chain cannot be fused, as float32 tensors that hold them exactly
(below 2**24 steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graffiti.export.base import Problem
from graffiti.export.litert.flatbuffer import ModelWriter, Quantization
from graffiti.export.litert.layout import Layout, layout_of
from graffiti.graph.ir import Graph, Node
from graffiti.numerics.formats import QFormat

EXACT = 2**24  # float32 holds every integer up to here
RUNTIMES = ("xnnpack", "builtin")
# what is run → whose differences it may have
KERNELS = {"xnnpack": "xnnpack", "builtin": "builtin", "micro": "builtin"}
ARITHMETICS = ("int8", "native", "half_up", "float32")

Shape = Sequence["int | None"]


class Unsupported(Exception):
    """A node cannot be written; carries the problem."""

    def __init__(self, node: Node, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.problem = Problem(node.name, node.op, reason, fix)


class Emitter:
    """State of one export.

    Attributes:
        graph: the integer graph.
        writer: the flatbuffer.
        integers: value → its integer tensor.
        reals: value → its float tensor.
        bound: value → largest magnitude of its codes, where it is known to be less than the format's.
        inexact: runtime → values whose own operator may round otherwise than the graph does.
        rounded: values whose float tensor is the nearest float32 only, because what reads it was proven not to mind.
        arithmetic: what computes: ``int8``, ``native``, ``half_up`` or ``float32`` (``LiteRTExporter.write``).
    """

    def __init__(self, graph: Graph, arithmetic: str = "int8") -> None:
        self.graph = graph
        self.arithmetic = arithmetic
        self.writer = ModelWriter(graph.name)
        self.users = graph.users()
        self.integers: dict[str, int] = {}
        self.reals: dict[str, int] = {}
        self.bound: dict[str, int] = {}
        self.rounded: set[str] = set()
        self.inexact: dict[str, set[str]] = {runtime: set() for runtime in RUNTIMES}

    # ---- formats and shapes ------------------------------------------------------------------------------------------
    def format(self, value: str) -> QFormat:
        """The format of a value of codes."""
        format = self.graph.format(value)
        if format is None:
            raise TypeError(f"{value!r} is float and has no format")
        return format

    def layout(self, value: str) -> Layout | None:
        """How ``value`` is stored as an integer, ``None`` where it cannot be or is float."""
        format = self.graph.format(value)
        return None if format is None else layout_of(format)

    def largest(self, value: str) -> int:
        """The largest magnitude a code of ``value`` can have."""
        format = self.format(value)
        return min(self.bound.get(value, 2**40), max(-format.qmin, format.qmax))

    # ---- tensors -----------------------------------------------------------------------------------------------------
    def declare(self, value: str) -> int:
        """A new integer tensor that holds ``value`` from now on."""
        layout = self.layout(value)
        if layout is None:
            raise TypeError(f"{value!r} has no integer tensor")
        self.integers[value] = self.writer.tensor(value, self.graph.shape(value), layout.dtype, layout.quantization)
        return self.integers[value]

    def declare_real(self, value: str, *, exactly: bool = True) -> int:
        """A new float tensor that holds ``value`` from now on, under its name if it holds it exactly and no integer
        tensor does.
        """
        name = value if exactly and value not in self.integers else f"{value}/real"
        if not exactly:
            self.rounded.add(value)
        self.reals[value] = self.writer.tensor(name, self.graph.shape(value), "float32")
        return self.reals[value]

    def temporary(self, owner: str, shape: Shape, like: int | Layout | None = None) -> int:
        """A tensor without a counterpart in the graph: float, or an integer one in a layout."""
        name = self.writer.unique(f"{owner}/litert")
        if isinstance(like, Layout):
            return self.writer.tensor(name, shape, like.dtype, like.quantization)
        return self.writer.tensor(name, shape, "float32")

    def real(self, value: str) -> int:
        """The float tensor of a value; dequantized here where there is only an integer one."""
        if value not in self.reals:
            if self.graph.is_constant(value):
                return self.real_constant(value)
            source = self.integers[value]
            self.op(
                "DEQUANTIZE", [source], [self.declare_real(value)], version=2 if self._dtype(value) == "int8" else 3
            )
        return self.reals[value]

    def real_constant(self, value: str, array: np.ndarray | None = None) -> int:
        """A constant of codes as the reals it means, float32; exact for codes below 2**24."""
        if value not in self.reals or array is not None:
            codes = self.graph.constants[value].astype(np.float64)
            scaled = np.ldexp(codes, np.asarray(self.format(value).exponent, np.int64)) if array is None else array
            tensor = self.writer.constant(f"{value}/real", np.asarray(scaled, np.float32))
            if array is not None:
                return tensor
            self.reals[value] = tensor
        return self.reals[value]

    def scalar(self, owner: str, value: float) -> int:
        """A float32 constant."""
        return self.writer.constant(self.writer.unique(f"{owner}/constant"), np.float32(value).reshape(()))

    def vector(self, owner: str, values: Sequence[int]) -> int:
        """An int32 vector constant: a shape, axes, sizes."""
        return self.writer.constant(self.writer.unique(f"{owner}/constant"), np.asarray(values, np.int32))

    def stored(self, name: str, codes: np.ndarray, quantization: Quantization) -> int:
        """A constant of small integers."""
        return self.writer.constant(name, codes, quantization)

    def _dtype(self, value: str) -> str:
        layout = self.layout(value)
        return "float32" if layout is None else layout.dtype

    # ---- operators ---------------------------------------------------------------------------------------------------
    def op(
        self, op: str, inputs: Sequence[int], outputs: Sequence[int], options: Mapping[str, Any] | None = None, *,
        version: int = 1, kind: str | None = None
    ) -> None:
        """Write an operator."""
        self.writer.operator(op, inputs, outputs, options, version=version, kind=kind)

    def reshape(self, tensor: int, shape: Shape, owner: str, like: Layout | None, out: int | None = None) -> int:
        """A tensor under another shape, ``(None, ...)``; ``out`` is made where it is not given."""
        out = self.temporary(owner, shape, like) if out is None else out
        self.op("RESHAPE", [tensor, self.vector(owner, [-1 if n is None else n for n in shape])], [out], kind="Reshape")
        return out

    def clamp(self, tensor: int, value: str, low: int, high: int, out: int) -> None:
        """``min(max(tensor, low), high)`` on stored integers of ``value``'s layout, into ``out``."""
        layout = self.layout(value)
        assert layout is not None
        ends = [("MAXIMUM", low)] * (low > layout.saturates[0]) + [("MINIMUM", high)] * (high < layout.saturates[1])
        for number, (op, end) in enumerate(ends):
            target = out if number == len(ends) - 1 else self.temporary(value, self.graph.shape(value), layout)
            limit = self.stored(
                f"{value}/limit", np.asarray([end + layout.zero_point], layout.dtype), layout.quantization
            )
            self.op(op, [tensor, limit], [target], version=3 if layout.dtype == "int16" else 2, kind="MaximumMinimum")
            tensor = target

    def problem_where(self, condition: bool, node: Node, reason: str, fix: str) -> None:
        """Stop at this node if ``condition`` holds."""
        if condition:
            raise Unsupported(node, reason, fix)


def elements(shape: Shape) -> int:
    """How many numbers one example has."""
    return math.prod(n or 1 for n in shape[1:])
