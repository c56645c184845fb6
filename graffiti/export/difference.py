"""How far a runtime's tensors may lie from the graph's, in steps: a bound that holds for every input.

An exporter knows which operators compute otherwise than the graph, and how far each one's own result may be off. What
follows gets that difference as an input: a product multiplies it by the sum of its weights' magnitudes, a shift divides
it, saturation and the format's range cut it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from graffiti.export.onnx.ranges import weight_sums
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS, attr


def bounds(graph: Graph, inexact: Mapping[str, int]) -> dict[str, int]:
    """Value → largest difference in steps, for every value that may differ.

    Args:
        graph: of stage ``integer``.
        inexact: values whose own operator may be off → by how many steps at most.
    """
    worst: dict[str, int] = {}
    for node in graph.nodes:
        given = [worst.get(value, 0) for value in node.inputs]
        difference = _through(graph, node, given) if any(given) else 0
        difference += max(inexact.get(value, 0) for value in node.outputs)
        format = graph.format(node.outputs[0])
        if format is not None:
            difference = min(difference, format.qmax - format.qmin)
        if difference:
            worst.update(dict.fromkeys(node.outputs, difference))
    return worst


def _through(graph: Graph, node: Node, given: list[int]) -> int:
    """A node's difference where its inputs differ by ``given``."""
    if node.op in PRODUCTS:
        return given[0] * int(weight_sums(graph.constants[node.inputs[1]], node.op).max(initial=0))
    if OPS[node.op].sums:
        return sum(given)
    if node.op == "multiply":
        a, b = (_magnitude(graph, value) for value in node.inputs)
        return given[0] * b + given[1] * a + given[0] * given[1]
    # a mean differs by what its inputs differ at most, and may fall on the other side of a tie
    if node.op == "average_pool":
        left = graph.format(node.inputs[0]).exponents[0] - attr(node, "format").exponents[0]  # type: ignore[union-attr]
        return math.ceil(
            math.ldexp(given[0] * (1 if attr(node, "divide") else math.prod(attr(node, "pool_size"))), left)
        )
    if node.op == "requantize":
        source = graph.format(node.inputs[0])
        assert source is not None
        shift = (
            attr(node, "format").exponents[0] - min(source.exponents) if len(set(source.exponents)) == 1
            else attr(node, "format").exponents[0] - max(source.exponents)
        )
        return math.ceil(math.ldexp(given[0], -shift))
    if node.op == "lookup":
        table = graph.constants[node.inputs[1]].astype(np.int64)
        reach = min(given[0], len(table) - 1)
        return max(int(np.abs(table[step:] - table[:-step]).max(initial=0)) for step in range(1, reach + 1))
    return max(given)


def _magnitude(graph: Graph, value: str) -> int:
    """The largest code of a value: a constant's own, else what its format holds."""
    if value in graph.constants:
        return int(np.abs(graph.constants[value].astype(np.int64)).max(initial=0))
    format = graph.format(value)
    assert format is not None
    return max(-format.qmin, format.qmax)
