"""The proof that the accumulator is wide enough: interval analysis over the actual weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from graffiti.graph import interval_rules
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attr, attributes
from graffiti.graph.passes import Pass, PassResult
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import divide, shift_right

# lowest and highest code, int64, scalar or one for each index of the last axis
Interval = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Overflow:
    """A sum that may leave its register.

    Attributes:
        layer: where.
        op: the sum's.
        bound: the largest magnitude that some input may reach.
    """

    layer: str
    op: str
    bound: int


class AccumulatorOverflow(ValueError):
    """An accumulator could overflow for some input.

    Args:
        message: one sentence.
        overflows: where.
        bits: width of the register.

    Attributes:
        overflows: an ``Overflow(layer, op, bound)`` for each such layer, in the order of the graph.
        bits: width of the register that they leave.
    """

    def __init__(self, message: str, overflows: Iterable[Overflow] = (), bits: int = 32) -> None:
        super().__init__(message)
        self.overflows, self.bits = list(overflows), bits


class ProveAccumulators(Pass):
    """Bounds every tensor's codes from the inputs' ranges and the actual constants; changes nothing.

    For a product ``sum_k w_k*x_k`` with ``x_k`` in ``[l, h]`` and zero (padding counts as zero): at most
    ``sum_k max(w_k*l, w_k*h, 0)``, at least ``sum_k min(w_k*l, w_k*h, 0)``, per output channel. Every term's interval
    holds zero, so the bound holds for partial sums in any order, too.

    For an average the sum of its window is bounded, not the code behind the division.

    1. All within the register: nothing. 2. A product, a bias, a sum, a multiply or a window's sum that may leave it:
       ``AccumulatorOverflow``
    with the first layer's name and the bound, and the names of the others.

    Args:
        bits: width of the register that sums are added in.
    """

    stage = "integer"

    def __init__(self, bits: int = 32) -> None:
        self.bits = bits

    def run(self, graph: Graph) -> PassResult:
        intervals(graph, self.bits)
        return PassResult(graph, False)


def intervals(graph: Graph, bits: int = 32) -> dict[str, Interval]:
    """The proven range of every value of codes, constants included.

    Args:
        graph: of stage ``integer``.
        bits: width of the register that sums are added in.

    Raises:
        AccumulatorOverflow: see ``ProveAccumulators``.
    """
    found, overflows = prove(graph, bits)
    if overflows:
        first, others = overflows[0], [repr(overflow.layer) for overflow in overflows[1:]]
        raise AccumulatorOverflow(
            f"layer {first.layer!r} ({first.op}): its accumulator may reach {first.bound}, more than the "
            f"{(1 << (bits - 1)) - 1} that {bits} bits hold; "
            "use fewer bits for its weights or input, or keep it in float with a rule"
            + (f" (and so may {', '.join(others)})" if others else ""),
            overflows, bits
        )
    return found


def prove(graph: Graph, bits: int = 32) -> tuple[dict[str, Interval], list[Overflow]]:
    """The range of every value of codes, and the sums that may leave a register of ``bits`` (cut to it for what
    follows).
    """
    low_end, high_end = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    found: dict[str, Interval] = {}
    overflows: list[Overflow] = []
    for name, array in graph.constants.items():
        if graph.format(name) is not None and array.size:
            found[name] = (np.int64(array.min()), np.int64(array.max()))
    for name in graph.inputs:
        format = graph.format(name)
        if format is not None:
            found[name] = (np.int64(format.qmin), np.int64(format.qmax))
    for node in graph.nodes:
        format = graph.types[node.name].format
        if format is None:
            continue
        low, high = _interval(graph, node, format, [found.get(value) for value in node.inputs])
        if node.op == "average_pool":
            sums = _window_sum(graph, node, _whole(found[node.inputs[0]]))
            if sums[0] < low_end or sums[1] > high_end:
                overflows.append(Overflow(node.name, node.op, max(-sums[0], sums[1])))
        if OPS[node.op].accumulates and (low.min() < low_end or high.max() > high_end):
            overflows.append(Overflow(node.of_layer, node.op, max(-int(low.min()), int(high.max()))))
            low, high = np.clip(low, low_end, high_end), np.clip(high, low_end, high_end)
        found[node.name] = (low, high)
    return found, overflows


def _interval(graph: Graph, node: Node, format: QFormat, inputs: list[Interval | None]) -> Interval:
    if OPS[node.op].kernel is not None:
        return _product(graph, node, _whole(inputs[0]))
    if node.op == "multiply":
        corners = [a * b for a in _whole(inputs[0]) for b in _whole(inputs[1])]
        return np.asarray(min(corners)), np.asarray(max(corners))
    if node.op == "bias_add" and node.inputs[1] in graph.constants:
        bias = graph.constants[node.inputs[1]].astype(np.int64)
        low, high = inputs[0]  # type: ignore[misc]
        return low + bias, high + bias
    if OPS[node.op].binary or node.op == "bias_add":  # codes at one exponent follow the rule of the reals
        rule = interval_rules.add if node.op == "bias_add" else OPS[node.op].interval_rule
        site = interval_rules.Site(graph, node, attributes(node), [_whole(interval) for interval in inputs])
        least, most = rule(site)
        return np.asarray(least), np.asarray(most)
    if node.op == "average_pool":
        return _average(graph, node, format, _whole(inputs[0]))
    if node.op == "requantize":
        return _requantize(graph, node, format, inputs[0])
    if node.op == "relu":
        low, high = _whole(inputs[0])
        return np.asarray(max(low, 0)), np.asarray(max(high, 0))
    if node.op == "lookup":
        return tuple(np.asarray(bound) for bound in _whole(inputs[1]))  # type: ignore[return-value]
    if node.op == "quantize":
        return np.asarray(format.qmin, np.int64), np.asarray(format.qmax, np.int64)
    # moves: any input's code, or a padded zero
    ranges = [_whole(interval) for interval in inputs if interval is not None]
    zero = [0] if node.op == "pad" else []
    return np.asarray(min([r[0] for r in ranges] + zero)), np.asarray(max([r[1] for r in ranges] + zero))


def _whole(interval: Interval | None) -> tuple[int, int]:
    """The range over all channels, as Python integers (their products do not overflow)."""
    assert interval is not None, "every value of codes has a range"
    return int(np.min(interval[0])), int(np.max(interval[1]))


def _product(graph: Graph, node: Node, x: tuple[int, int]) -> Interval:
    form = OPS[node.op].kernel
    assert form is not None, "a product has a kernel"
    kernel = form.rows(graph.constants[node.inputs[1]].astype(np.int64))
    low, high = min(x[0], 0), max(x[1], 0)
    positive, negative = np.maximum(kernel, 0), np.minimum(kernel, 0)
    return (positive * low + negative * high).sum(0), (positive * high + negative * low).sum(0)


def _window_sum(graph: Graph, node: Node, x: tuple[int, int]) -> tuple[int, int]:
    """The lowest and highest sum of a window, partial sums included: the window may reach over the border, its terms
    have either sign.
    """
    count = math.prod(attr(node, "pool_size"))
    return count * min(x[0], 0), count * max(x[1], 0)


def _average(graph: Graph, node: Node, format: QFormat, x: tuple[int, int]) -> Interval:
    """A mean lies between the lowest and the highest code; a sum between the sums. Both through the rounding, within
    the limits.
    """
    low, high = format.limits(attr(node, "low"), attr(node, "high"))
    ends = x if attr(node, "divide") else _window_sum(graph, node, x)
    shift = format.exponents[0] - graph.format(node.inputs[0]).exponents[0]  # type: ignore[union-attr]
    bounds = [
        int(np.clip(divide(np.clip(end, -(1 << 31), 1 << 31), 1, shift, attr(node, "rounding")), low, high))
        for end in ends
    ]
    return np.asarray(bounds[0]), np.asarray(bounds[1])


def _requantize(graph: Graph, node: Node, format: QFormat, x: Interval | None) -> Interval:
    """The input's range through the rounding shift (monotone), within the limits."""
    assert x is not None, "every value of codes has a range"
    low, high = format.limits(attr(node, "low"), attr(node, "high"))
    shift = format.exponent - np.asarray(graph.format(node.inputs[0]).exponent, np.int64)  # type: ignore[union-attr]
    if shift.min() < -30:  # a left shift this long saturates anything but zero
        return np.asarray(low, np.int64), np.asarray(high, np.int64)
    bounds = [np.clip(shift_right(bound, shift, attr(node, "rounding")), low, high) for bound in x]
    return np.asarray(bounds[0].min()), np.asarray(bounds[1].max())
