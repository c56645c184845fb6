"""The largest codes that every value of an integer graph can take, from the actual weights: what float32 must hold."""

from __future__ import annotations

import numpy as np

from graffiti.graph import interval_rules
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS, attributes
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import shift_right

Range = tuple[int, int]
EXACT = 1 << 24  # float32 holds every integer up to here, and any sum whose terms' magnitudes add up to at most this



def weight_sums(kernel: np.ndarray, op: str) -> np.ndarray:
    """``sum(|w|)`` of every output channel, int64."""
    form = OPS[op].kernel
    assert form is not None, "a product has a kernel"
    return np.abs(form.rows(kernel.astype(np.int64))).sum(0)


def magnitude(range: Range) -> int:
    """The largest magnitude of a range."""
    return max(-range[0], range[1])


def is_wide(range: Range) -> bool:
    """Whether float32 cannot hold every code of a range, so that the value travels in float64."""
    return magnitude(range) > EXACT


def code_ranges(graph: Graph) -> dict[str, Range]:
    """``(lowest, highest)`` code of every value that has a format.

    Products and sums by interval arithmetic, everything else from its inputs and its format. A range never leaves the
    value's format: lowering proved that no accumulator does.
    """
    found: dict[str, Range] = {}
    for name, format in ((n, graph.format(n)) for n in (*graph.inputs, *graph.constants)):
        if format is not None:
            array = graph.constants.get(name)
            found[name] = (
                (format.qmin, format.qmax) if array is None or not array.size else (int(array.min()), int(array.max()))
            )
    for node in graph.nodes:
        for out in node.outputs:
            format = graph.format(out)
            if format is not None:
                low, high = _range(graph, node, [found[v] for v in node.inputs if v in found])
                found[out] = max(low, format.qmin), min(high, format.qmax)
    return found


def _range(graph: Graph, node: Node, given: list[Range]) -> Range:
    attrs = attributes(node)
    if node.op in PRODUCTS:
        top = magnitude(given[0]) * int(weight_sums(graph.constants[node.inputs[1]], node.op).max(initial=0))
        return -top, top
    if node.op == "multiply":
        corners = [a * b for a in given[0] for b in given[1]]
        return min(corners), max(corners)
    if OPS[node.op].binary or node.op == "bias_add":  # codes at one exponent follow the rule of the reals
        rule = interval_rules.add if node.op == "bias_add" else OPS[node.op].interval_rule
        least, most = rule(interval_rules.Site(graph, node, attrs, given))
        return int(least), int(most)
    if node.op == "relu":
        low, high = (max(end, 0) for end in given[0])
        return (low, high) if attrs["max_code"] is None else (min(low, attrs["max_code"]), min(high, attrs["max_code"]))
    if node.op == "lookup":
        return given[1]
    if node.op in ("quantize", "average_pool"):
        return attrs["format"].qmin, attrs["format"].qmax
    if node.op == "requantize":
        return _requantized(graph, node, given[0])
    if node.op == "pad":
        return min(given[0][0], 0), max(given[0][1], 0)
    return min(low for low, _ in given), max(high for _, high in given)  # moves, pools


def limits(node: Node) -> Range:
    """``[low, high]`` that a quantize or requantize saturates to, within its format."""
    attrs = attributes(node)
    format: QFormat = attrs["format"]
    return format.limits(attrs.get("low"), attrs.get("high"))


def _requantized(graph: Graph, node: Node, given: Range) -> Range:
    low, high = limits(node)
    source, target = graph.format(node.inputs[0]), graph.format(node.output)
    if source is None or target is None or source.per_channel or target.per_channel:
        return low, high
    shift = max(target.exponents[0] - source.exponents[0], -31)
    ends = shift_right(np.array(given), shift, attributes(node)["rounding"])
    return int(np.clip(ends[0], low, high)), int(np.clip(ends[1], low, high))
