"""Activations that have an op of their own."""

from __future__ import annotations

from typing import Any

from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult

OWN_OP: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("identity", {}),
    "relu": ("relu", {"max_value": None}),
    "relu6": ("relu", {"max_value": 6.0}),
    "leaky_relu": ("leaky_relu", {"alpha": 0.2}),  # Keras' default slope
    "softmax": ("softmax", {"axis": -1}),
}


class CanonicalActivation(Pass):
    """``activation`` stands for functions by table; what is more than a table gets its own op, what is less too.

    1. ``linear`` → ``identity``. 2. ``relu`` → ``relu``. 3. ``relu6`` → ``relu`` up to 6. 4. ``leaky_relu`` → ``leaky_relu`` of
    slope 0.2. 5. ``softmax`` → ``softmax``. 6. ``leaky_relu`` of slope 0 → ``relu``. 7. Other functions: left alone.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in graph.nodes:
            known = OWN_OP.get(attr(node, "function")) if node.op == "activation" else None
            if known is None and node.op == "leaky_relu" and attr(node, "alpha") == 0:
                known = OWN_OP["relu"]
            if known is not None:
                node.op, node.attrs, modified = known[0], dict(known[1]), True
        return PassResult(graph, modified)
