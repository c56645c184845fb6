"""What the values of an integer graph are made of, and how two executors' arrays of one value are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from graffiti.graph.ir import Graph
from graffiti.graph.ops import OPS
from graffiti.numerics.formats import QFormat

EXACT, SOFTMAX, FLOAT = "exact", "softmax", "float"  # Values.kinds
SOFTMAX_ERROR = 1e-5  # the exponential of every library rounds otherwise in its last bits; shares lie in [0, 1]


@dataclasses.dataclass(frozen=True)
class Values:
    """A graph's values by what they are made of.

    Attributes:
        kinds: value → ``exact``: codes, inputs, and reals that follow from them without a rounding of their own
            (compared with ``==``); ``softmax``: computed from exact values by a softmax, in float, by each runtime's
            own exponential; ``float``:
            computed by a Keras layer left in float, or from such a result.
        ends: output, or a real value right before it → the codes that it is made of by a scale, moves and a softmax;
            none behind a Keras layer left in float.
    """

    graph: Graph
    kinds: dict[str, str]
    ends: dict[str, list[str]]

    @classmethod
    def of(cls, graph: Graph) -> Values:
        """Look at a graph of stage ``integer``."""
        kinds = dict.fromkeys((*graph.inputs, *graph.constants), EXACT)
        for node in graph.nodes:
            given = {kinds[value] for value in node.inputs}
            if node.op == "island" or FLOAT in given or (node.op == "softmax" and SOFTMAX in given):
                kind = FLOAT
            else:
                kind = SOFTMAX if node.op == "softmax" or SOFTMAX in given else EXACT
            for out in node.outputs:
                kinds[out] = EXACT if graph.format(out) is not None else kind
        found = cls(graph, kinds, {})
        found.ends.update({value: found._codes(value) for value in found._reals()})
        return found

    def uncompared(self, output: str, compared: Collection[str]) -> bool:
        """Whether an output does not follow from what was compared: neither it itself nor all the codes that it is
        made of.
        """
        if output in compared:
            return False
        node = self.graph.producers().get(output)
        if node is None or not _moves(node.op):
            return output not in self.graph.inputs and output not in self.graph.constants
        return any(self.uncompared(value, compared) for value in node.inputs if value not in self.graph.constants)

    def _reals(self) -> list[str]:
        """The outputs, and the reals between them and their codes."""
        found: list[str] = []
        producers, waiting = self.graph.producers(), list(reversed(self.graph.outputs))
        while waiting:
            value = waiting.pop()
            if value in found or (found and value not in self.graph.outputs and self.graph.format(value) is not None):
                continue
            found.append(value)
            if value in producers and _moves(producers[value].op):
                waiting += [name for name in reversed(producers[value].inputs) if self.graph.format(name) is None]
        return found

    def _codes(self, value: str) -> list[str]:
        """The codes that a value is made of, nearest first."""
        found: list[str] = []
        producers, waiting = self.graph.producers(), [value]
        while waiting:
            name = waiting.pop(0)
            if self.graph.format(name) is not None and name not in found and name not in self.graph.constants:
                found.append(name)
            if name in producers and _moves(producers[name].op):
                waiting += producers[name].inputs
        return found


def _moves(op: str) -> bool:
    """Whether an op computes nothing that codes do not say: moves, the scale, and the softmax at the end."""
    return op in ("dequantize", "softmax") or OPS[op].moves_codes


def comparable(
    format: QFormat | None, expected: np.ndarray, got: np.ndarray, *, keras: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as integers; reals bit by bit, where the two zeros are one and so is every NaN.

    Args:
        format: of the value; ``None`` for reals.
        expected: the reference's.
        got: an executor's.
        keras: whether ``got`` is what Keras holds: reals of float32 for codes.
    """
    if format is not None:
        return (
            (as_keras_holds(expected, format), np.asarray(got, np.float64) / format.scale) if keras else (expected, got)
        )
    return _bits(expected), _bits(got)


def _bits(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    array = np.asarray(array, np.float32) + np.float32(0)  # makes one zero of the two
    return np.where(np.isnan(array), np.float32(np.nan), array).view(np.int32)


def as_keras_holds(codes: np.ndarray, format: QFormat) -> np.ndarray:
    """Codes as float32 holds them: exact to 24 bits, round to odd beyond (ARCHITECTURE, 'Exactness', point 2)."""
    codes = np.asarray(codes, np.int64)
    if format.bits <= 24:
        return codes
    magnitude = np.abs(codes)
    extra = np.maximum(np.frexp(magnitude.astype(np.float64))[1] - 24, 0)
    kept = magnitude >> extra
    kept |= (magnitude & ((np.int64(1) << extra) - 1)) != 0
    return np.where(codes < 0, -1, 1) * (kept << extra)
