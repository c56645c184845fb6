"""Dead code: what no output depends on."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult


class RemoveDead(Pass):
    """Keep what the outputs need.

    1. Nodes and constants that no output depends on: removed.
    2. Graph inputs, also unread ones: kept, they are the model's signature.
    3. Constants that a node owns without reading them (an island's weights): kept with the node.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        return PassResult(graph, graph.prune())
