"""Leaky ReLU as a maximum of two tensors, so that both can be quantized."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Note, Pass, PassResult


class UnfuseLeakyRelu(Pass):
    """``leaky_relu(x) → maximum(x, x*alpha)`` with the constants ``<l>/alpha``; the product is ``<l>/scaled``.

    1. Slopes below 1, negative ones too: replaced; the maximum keeps the name.
    2. Slopes above 1: ``max(x, alpha*x)`` is another function; left alone, with a note.
    3. ``prelu``, its slopes a trained constant: the same. Where no slope is below 1, the minimum of both.
    4. ``prelu`` with slopes on both sides of 1, or computed ones: left alone, with a note.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 4; C11 of its specification.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified, notes = graph.copy(), False, []
        for node in [n for n in graph.nodes if n.op == "leaky_relu"]:
            slope, (x,) = attr(node, "alpha"), node.inputs
            if slope > 1:
                notes.append(
                    Note(node.name, f"max(x, alpha*x) is leaky ReLU only for slopes up to 1, this one has {slope}")
                )
                continue
            alpha = graph.add_constant(f"{node.name}/alpha", np.full((1,), slope, np.float32))
            scaled = graph.insert("multiply", (x, alpha), f"{node.name}/scaled", before=node)
            node.op, node.inputs, node.attrs = "maximum", (x, scaled.output), {}
            modified = True
        for node in [n for n in graph.nodes if n.op == "prelu"]:
            why = reason_against(graph, node)
            if why is not None:
                notes.append(Note(node.name, why))
                continue
            x, alpha = node.inputs
            scaled = graph.insert("multiply", (x, alpha), f"{node.name}/scaled", {"trained": True}, before=node)
            node.op, node.inputs, modified = (
                "maximum" if graph.constants[alpha].max(initial=0) <= 1 else "minimum", (x, scaled.output), True
            )
        return PassResult(graph, modified, tuple(notes))


def reason_against(graph: Graph, node: Node) -> str | None:
    """Why a ``prelu`` cannot become a maximum or a minimum; ``None`` where it can."""
    alpha = node.inputs[1]
    if not graph.is_constant(alpha):
        return "a PReLU whose slopes are computed has no fixed-point form"
    slopes = graph.constants[alpha]
    if (slopes > 1).any() and (slopes < 1).any():
        return f"a PReLU with slopes on both sides of 1 ({slopes.min():g} to {slopes.max():g}) has no fixed-point form"
    return None
