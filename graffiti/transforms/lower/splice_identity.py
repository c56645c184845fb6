"""Identity nodes taken out of a fakequant graph."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult


class SpliceIdentity(Pass):
    """1. ``identity(x)``: its readers read ``x``, an output that it was becomes ``x``. 2. Anything else: left alone."""

    stage = "fakequant"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        spliced = [node for node in graph.nodes if node.op == "identity"]
        for node in spliced:
            graph.replace_uses(node.name, node.inputs[0])
            graph.remove(node)
        return PassResult(graph, bool(spliced))
