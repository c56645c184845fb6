"""Means over the image are average pools of the image's size."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import splice_out
from graffiti.graph.ops import attr
from graffiti.transforms.prepare.replace_nodes import ReplaceNodes


class MeanToAveragePool(ReplaceNodes):
    """``mean`` over spatial axes → ``average_pool`` (VALID, window = image), then a reshape where the axes go.

    1. All spatial axes, ``keepdims``: the pool has the mean's name.
    2. All spatial axes, no ``keepdims``: ``<mean>/pool`` and the reshape ``<mean>``.
    3. Some of the spatial axes: a window of 1 along the others.
    4. Nothing to average (the axes have length 1): only the reshape, or nothing.
    5. The length of an averaged axis is unknown: left alone, with a note.
    6. The batch, the channels, or a tensor without spatial axes or with more than two: left alone, with a note.

    Published with stride 1; the stride does not matter for a 1x1 output, here it is the window.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 2.
    """

    op = "mean"

    def reason_against(self, graph: Graph, node: Node) -> str | None:
        return reason_against(graph, node)

    def replace(self, graph: Graph, node: Node) -> None:
        shape, axes = graph.shape(node.inputs[0]), set(attr(node, "axes"))
        keepdims = attr(node, "keepdims")
        window = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))[1:-1]
        pool = {"pool_size": window, "strides": window, "padding": "valid"}
        value = node.inputs[0]
        if keepdims and any(n != 1 for n in window):
            node.op, node.attrs = "average_pool", pool
            return
        if any(n != 1 for n in window):
            value = graph.insert("average_pool", (value,), f"{node.name}/pool", pool, before=node).output
        if keepdims:
            return splice_out(graph, node, value)
        node.op, node.inputs, node.attrs = "reshape", (value,), {"shape": graph.shape(node.output)[1:]}


def reason_against(graph: Graph, node: Node) -> str | None:
    """Why a ``mean`` cannot become an average pool; ``None`` where it can."""
    shape, axes = graph.shape(node.inputs[0]), set(attr(node, "axes"))
    if len(shape) not in (3, 4) or not axes or not axes <= set(range(1, len(shape) - 1)):
        return f"only a mean over spatial axes of a (batch, ..., channels) tensor is an average pool; this one is over axes {sorted(axes)} of {shape}"
    if any(shape[axis] is None for axis in axes):
        return f"the mean over axes {sorted(axes)} of {shape} needs known lengths there; give the model a fixed input size"
    if not attr(node, "keepdims") and None in graph.shape(node.output)[1:]:
        return f"the mean leaves the unknown lengths of {shape} behind; give the model a fixed input size"
    return None
