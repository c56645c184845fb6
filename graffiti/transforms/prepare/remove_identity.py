"""Identities, and ops that do nothing to the tensor they get."""

from __future__ import annotations

from collections.abc import Callable

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import splice_out
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult


def _all_one(graph: Graph, node: Node) -> bool:
    return all(n == 1 for n in (*attr(node, "pool_size"), *attr(node, "strides")))


def _keeps_shape(graph: Graph, node: Node) -> bool:
    before = graph.shape(node.inputs[0])[1:]
    return None not in before and before == tuple(attr(node, "shape"))


def _scales_nothing(graph: Graph, node: Node) -> bool:
    return _only(attr(node, "scale"), 1.0) and _only(attr(node, "offset"), 0.0)


def _only(value, number: float) -> bool:
    return all(v == number for v in (value if isinstance(value, (tuple, list)) else (value,)))


NOTHING: dict[str, Callable[[Graph, Node], bool]] = {  # op -> whether this node returns its first input as it is
    "identity": lambda graph, node: True,
    "reshape": _keeps_shape,
    "permute": lambda graph, node: tuple(attr(node, "dims")) == tuple(range(1, len(graph.shape(node.inputs[0])))),
    "pad": lambda graph, node: not any(n for pair in attr(node, "pads") for n in pair),
    "crop": lambda graph, node: not any(n for pair in attr(node, "crops") for n in pair),
    "slice": lambda graph, node: all(s == (0, None, 1) for s in map(tuple, attr(node, "slices"))),
    "take": lambda graph, node: tuple(attr(node, "indices")) == tuple(
        range(graph.shape(node.inputs[0])[attr(node, "axis")] or 0)
    ),
    "upsample": lambda graph, node: all(n == 1 for n in attr(node, "size")),
    "concat": lambda graph, node: len(node.inputs) == 1,
    "max_pool": _all_one,
    "average_pool": _all_one,
    "rescaling": _scales_nothing,
    "leaky_relu": lambda graph, node: attr(node, "alpha") == 1,
}


def does_nothing(graph: Graph, node: Node) -> bool:
    """Whether a node returns its first input as it is, seen from its attributes and shapes."""
    return node.op in NOTHING and NOTHING[node.op](graph, node)


class RemoveIdentity(Pass):
    """Every node that returns its input as it is goes; its readers, and the graph's outputs, take the input.

    1. ``identity``.
    2. Moves that move nothing: a reshape to the same shape, a permutation in order, zero padding or cropping of
       nothing, upsampling by 1, a concat of one tensor, a pool of window and stride 1.
    3. ``rescaling`` by 1 with offset 0, ``leaky_relu`` with slope 1.
    4. The same ops where they do something, and reshapes of unknown shapes: left alone.

    References: Jain et al., arXiv 1903.08066; Graffitist, identity splicing.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in list(graph.nodes):
            if does_nothing(graph, node):
                splice_out(graph, node, node.inputs[0])
                modified = True
        return PassResult(graph, modified)
