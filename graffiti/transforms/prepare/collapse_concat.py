"""A concat of concats is one concat."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult


class CollapseConcat(Pass):
    """``concat(concat(a, b), c) → concat(a, b, c)``: one shared scale, no tensor in between.

    1. An inner concat along the same axis: its inputs take its place, in order.
    2. Any depth, several inner ones, one inner one read twice by the same concat.
    3. The same axis written differently (−1 and rank−1): the same axis.
    4. Another axis: left alone.
    5. The inner concat has another reader or is an output: left alone.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 5.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        # inner ones come first, so depth takes care of itself
        for node in [n for n in graph.nodes if n.op == "concat"]:
            for value in dict.fromkeys(node.inputs):
                inner = graph.producer(value)
                if inner is None or inner.op != "concat" or _axis(graph, inner) != _axis(graph, node):
                    continue
                if only_reader(graph, value) is not node:
                    continue
                node.inputs = tuple(part for v in node.inputs for part in (inner.inputs if v == value else (v,)))
                graph.remove(inner)
                modified = True
        return PassResult(graph, modified)


def _axis(graph: Graph, node: Node) -> int:
    return attr(node, "axis") % len(graph.shape(node.output))
