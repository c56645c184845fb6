"""Identity nodes, and what matters in training only, taken out of a fakequant graph."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult


class SpliceIdentity(Pass):
    """1. ``identity(x)``, ``training_only(x)``: its readers read ``x``, an output that it was becomes ``x``. 2. How
    constants are trained, and masks of outputs with all that only they need: forgotten. 3. Anything else: left alone.
    """

    stage = "fakequant"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        spliced = [node for node in graph.nodes if node.op in ("identity", "training_only")]
        for node in spliced:
            graph.replace_uses(node.name, node.inputs[0])
            graph.remove(node)
        modified = bool(spliced or graph.training or "output_masks" in graph.interface)
        graph.training = {}
        if "output_masks" in graph.interface:
            graph.interface = {key: value for key, value in graph.interface.items() if key != "output_masks"}
            graph.prune()
        return PassResult(graph, modified)
