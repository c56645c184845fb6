"""Batch norm folding evaluated: ``fold_kernel`` and ``fold_bias`` become constants."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.numerics import fold


class FoldConstants(Pass):
    """The inference form of folding, by ``numerics/fold.py``; the constant takes the node's name.

    1. ``fold_kernel``, ``fold_bias`` of constants: evaluated. 2. Any other node: left alone.
    """

    stage = "fakequant"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in [node for node in graph.nodes if node.op in ("fold_kernel", "fold_bias")]:
            missing = [value for value in node.inputs if not graph.is_constant(value)]
            if missing:
                raise ValueError(
                    f"{node.op} {node.name!r} folds constants, but {missing[0]!r} is computed; fold it before lowering"
                )
            array = _evaluate(node, [graph.constants[value] for value in node.inputs])
            graph.nodes = [other for other in graph.nodes if other is not node]
            graph.constants[node.name] = array
            modified = True
        if modified:
            graph.prune()
        return PassResult(graph, modified)


def _evaluate(node: Node, arrays: list):
    if node.op == "fold_kernel":
        kernel, gamma, variance = arrays
        return fold.fold_kernel(kernel, gamma, variance, attr(node, "epsilon"), attr(node, "channel_axis"))
    bias, gamma, beta, mean, variance = arrays
    return fold.fold_bias(bias, gamma, beta, mean, variance, attr(node, "epsilon"))
