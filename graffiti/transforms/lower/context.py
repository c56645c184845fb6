"""What the lowering rules share: the graph they read, the graph they write, and what became of each value."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from graffiti.graph import border
from graffiti.graph.ir import Graph, Node, TensorType
from graffiti.numerics.formats import QFormat


@dataclasses.dataclass
class Lowering:
    """One walk over a fakequant graph in topological order.

    Args:
        source: stage ``fakequant``; not changed.
        target: stage ``integer``; grows.
        values: source value → target value.
        pending: nodes that the quantizer behind them absorbs (ReLU, activation), by their output.
        dequantized: target value of codes → its float twin.
        joined: target values of float that join the network's outputs.
        border: target values that are made of the inputs by moves and affine maps: real numbers that no quantizer
            rounded yet.
    """

    source: Graph
    target: Graph
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    pending: dict[str, Node] = dataclasses.field(default_factory=dict)
    dequantized: dict[str, str] = dataclasses.field(default_factory=dict)
    border: set[str] = dataclasses.field(default_factory=set)

    joined: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.joins = frozenset(border.joins(self.source))
        self.border.update(self.target.inputs)
        self.readers = self.source.users()
        self.producers = self.source.producers()
        self.layers = {node.name: node.layer for node in self.source.nodes}

    def format(self, value: str) -> QFormat | None:
        """Format of what a source value became, ``None`` where it is float."""
        return self.target.format(self.values[value])

    def has_codes(self, value: str) -> bool:
        """Whether a source value became codes."""
        return value in self.values and self.format(value) is not None

    def at_border(self, value: str) -> bool:
        """Whether a source value became a real number of the border."""
        return self.values.get(value) in self.border

    def emit(self, op: str, inputs: tuple[str, ...], name: str, attrs: dict[str, Any] | None = None) -> str:
        """Add a node to the target; ``inputs`` are target values. Returns its value."""
        if name in self.target.types:
            raise ValueError(f"lowering {self.source.name!r} makes {name!r} twice; names in a graph are unique")
        return self.target.insert(op, inputs, name, attrs, layer=self.layers.get(name)).name

    def constant(self, name: str, codes: np.ndarray, format: QFormat | None) -> str:
        """Add a constant to the target."""
        array = np.asarray(codes, np.float32 if format is None else format.dtype)
        self.target.constants[name] = array
        self.target.types[name] = TensorType(tuple(array.shape), format)
        return name

    def keep(self, name: str) -> str:
        """A constant of the source that an island holds: in the target as it is, whatever its dtype."""
        self.target.constants[name], self.target.types[name] = self.source.constants[name], self.source.types[name]
        return name

    def real(self, value: str) -> str:
        """The target's float twin of a source value: itself, or dequantized (once)."""
        if value not in self.values:
            if self.source.is_constant(value):
                self.values[value] = self.constant(value, self.source.constants[value], None)
            else:
                raise ValueError(f"{value!r} has no value of its own in the integer graph; put a quantizer behind it")
        codes = self.values[value]
        if self.target.format(codes) is None:
            return codes
        if codes not in self.dequantized:
            name = self.target.unique(f"{codes}/dequantized")
            self.dequantized[codes] = self.emit("dequantize", (codes,), name)
        return self.dequantized[codes]
