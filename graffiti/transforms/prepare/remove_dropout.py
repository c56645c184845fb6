"""Dropout and its kind: nothing is left of them at inference."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.match import splice_out
from graffiti.graph.passes import Pass, PassResult


class RemoveDropout(Pass):
    """``dropout(x) → x``.

    1. Readers of the dropout, and the graph's outputs, take its input.
    2. Several in a row: all go.
    3. Other ops: left alone.

    Retraining is without dropout too: fine-tuning of a quantized network has the quantizers' noise already.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``remove_training_nodes``.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        found = [node for node in graph.nodes if node.op == "dropout"]
        for node in found:
            splice_out(graph, node, node.inputs[0])
        return PassResult(graph, bool(found))
