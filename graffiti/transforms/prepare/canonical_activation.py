"""Activations that have an op of their own."""

from __future__ import annotations

from graffiti.graph.functions import FUNCTIONS
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult


class CanonicalActivation(Pass):
    """``activation`` stands for functions by table; what is more than a table gets its own op, what is less too.

    1. ``linear`` → ``identity``. 2. ``relu`` → ``relu``. 3. ``relu6`` → ``relu`` up to 6. 4. ``leaky_relu`` →
       ``leaky_relu`` of
    slope 0.2. 5. ``softmax`` → ``softmax``. 6. ``leaky_relu`` of slope 0 → ``relu``. 7. Other functions: left alone.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in graph.nodes:
            if node.op == "activation" and attr(node, "function") in FUNCTIONS:
                op, attrs = FUNCTIONS[attr(node, "function")].as_node(attr(node, "parameters"))
            elif node.op == "leaky_relu" and attr(node, "alpha") == 0:
                op, attrs = FUNCTIONS["relu"].as_node()
            else:
                continue
            if op != node.op:
                node.op, node.attrs, modified = op, attrs, True
        return PassResult(graph, modified)
