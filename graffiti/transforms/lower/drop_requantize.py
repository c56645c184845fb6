"""Requantizations that change nothing are taken out."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult


class DropRequantize(Pass):
    """1. Same format before and behind, and no limits that cut: readers and outputs take the input.
    2. Another exponent, width or signedness, or limits inside the format's range (a ReLU): left alone."""

    stage = "integer"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        dropped = [node for node in graph.nodes if node.op == "requantize" and _changes_nothing(graph, node)]
        for node in dropped:
            graph.replace_uses(node.name, node.inputs[0])
            graph.remove(node)
        return PassResult(graph, bool(dropped))


def _changes_nothing(graph: Graph, node: Node) -> bool:
    format, low, high = attr(node, "format"), attr(node, "low"), attr(node, "high")
    if graph.format(node.inputs[0]) != format:
        return False
    return (low is None or low <= format.qmin) and (high is None or high >= format.qmax)
