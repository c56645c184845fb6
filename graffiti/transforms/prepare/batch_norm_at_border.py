"""A batch norm directly behind an input is an affine map of real numbers."""

from __future__ import annotations

import numpy as np

from graffiti.graph import affine, border
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Note, Pass, PassResult
from graffiti.numerics import fold


class BatchNormAtBorder(Pass):
    """``batch_norm`` of real values that come in → ``rescaling`` by ``m = gamma/sqrt(variance + epsilon)`` and ``beta -
    mean*m``.

    No layer in front could take it, and behind a quantizer it would come too late: columns of different size would have
    met on one scale. From then on it is the inference form with fixed numbers: retraining leaves them as they are, and
    the layer behind it learns instead.

    1. Behind an input, also with moves, rescalings or other batch norms in between: replaced.
    2. Behind anything else: left to ``fold_batch_norm`` and ``affine_to_depthwise``.
    3. Parameters that are computed: left alone.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        found = [node for node in border.nodes(graph) if node.op == "batch_norm"]
        notes: list[Note] = []
        for node in found:
            parameters = node.inputs[1:]
            gamma, beta, mean, variance = (graph.constants[value] for value in parameters)
            epsilon, channels = attr(node, "epsilon"), graph.shape(node.output)[-1]
            scale = fold.fold_kernel(np.ones_like(gamma), gamma, variance, epsilon, -1)
            offset = fold.fold_bias(np.zeros_like(beta), gamma, beta, mean, variance, epsilon)
            node.op, node.inputs = "rescaling", node.inputs[:1]
            node.attrs = affine.attributes_of(graph, node.name, scale, offset, channels)
            if any("regularizer" in graph.training.get(value, {}) for value in parameters):
                notes.append(
                    Note(
                        node.name, "its regularizers are left out of the loss, since its numbers are no longer trained",
                        "training"
                    )
                )
        if found:
            graph.prune()
        return PassResult(graph, bool(found), tuple(notes))
