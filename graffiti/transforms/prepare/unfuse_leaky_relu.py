"""Leaky ReLU as a maximum of two tensors, so that both can be quantized."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Note, Pass, PassResult


class UnfuseLeakyRelu(Pass):
    """``leaky_relu(x) → maximum(x, x*alpha)`` with the constants ``<l>/alpha``; the product is ``<l>/scaled``.

    1. Slopes below 1, negative ones too: replaced; the maximum keeps the name.
    2. Slopes above 1: ``max(x, alpha*x)`` is another function; left alone, with a note.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 4; C11 of its specification.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified, notes = graph.copy(), False, []
        for node in [n for n in graph.nodes if n.op == "leaky_relu"]:
            slope, (x,) = attr(node, "alpha"), node.inputs
            if slope > 1:
                notes.append(Note(node.name, f"max(x, alpha*x) is leaky ReLU only for slopes up to 1, this one has {slope}"))
                continue
            alpha = graph.add_constant(f"{node.name}/alpha", np.full((1,), slope, np.float32))
            scaled = graph.insert("multiply", (x, alpha), f"{node.name}/scaled", before=node)
            node.op, node.inputs, node.attrs = "maximum", (x, scaled.output), {}
            modified = True
        return PassResult(graph, modified, tuple(notes))
