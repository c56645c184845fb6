"""The first step of placing: the stage says that quantizers may come."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult


class BeginFakequant(Pass):
    """1. A float graph: the same graph of stage ``fakequant``."""

    stage = "float"
    result_stage = "fakequant"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        graph.stage = "fakequant"
        return PassResult(graph, True)
