"""Means are average pools: over the image of the image's size, over other axes of rows that are made for it."""

from __future__ import annotations

import math

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import splice_out
from graffiti.graph.ops import attr
from graffiti.transforms.prepare.replace_nodes import ReplaceNodes


class MeanToAveragePool(ReplaceNodes):
    """``mean`` → ``average_pool`` (VALID, window = what is averaged), then a reshape where the axes go.

    1. All spatial axes, ``keepdims``: the pool has the mean's name.
    2. All spatial axes, no ``keepdims``: ``<mean>/pool`` and the reshape ``<mean>``.
    3. Some of the spatial axes: a window of 1 along the others.
    4. Nothing to average (the axes have length 1): only the reshape, or nothing.
    5. Other axes (the channels, a tensor without spatial axes or with more than two): ``<mean>/turned`` brings the
       averaged axes to the front, the reshape ``<mean>/rows`` makes one axis of them and one of the others, and the
       pool averages the rows.
    6. A sum (``divide`` false): the same, its pool does not divide.
    7. The length of an averaged axis is unknown, or any length in 5: left alone, with a note. The batch likewise.

    Published with stride 1; the stride does not matter for a 1x1 output, here it is the window.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 2.
    """

    op = "mean"

    def reason_against(self, graph: Graph, node: Node) -> str | None:
        return reason_against(graph, node)

    def replace(self, graph: Graph, node: Node) -> None:
        shape, axes = graph.shape(node.inputs[0]), set(attr(node, "axes"))
        keepdims, divide = attr(node, "keepdims"), {} if attr(node, "divide") else {"divide": False}
        if not _over_the_image(shape, axes):
            return self._rows(graph, node, divide)
        window = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))[1:-1]
        pool = {"pool_size": window, "strides": window, "padding": "valid", **divide}
        value = node.inputs[0]
        if keepdims and any(n != 1 for n in window):
            node.op, node.attrs = "average_pool", pool
            return
        if any(n != 1 for n in window):
            value = graph.insert("average_pool", (value,), f"{node.name}/pool", pool, before=node).output
        if keepdims:
            return splice_out(graph, node, value)
        node.op, node.inputs, node.attrs = "reshape", (value,), {"shape": graph.shape(node.output)[1:]}

    @staticmethod
    def _rows(graph: Graph, node: Node, divide: dict[str, bool]) -> None:
        shape, (value,) = graph.shape(node.inputs[0]), node.inputs
        averaged = [axis for axis in range(1, len(shape)) if axis in attr(node, "axes")]
        kept = [axis for axis in range(1, len(shape)) if axis not in averaged]
        if [*averaged, *kept] != sorted(averaged + kept):
            value = graph.insert(
                "permute", (value,), f"{node.name}/turned", {"dims": (*averaged, *kept)}, before=node
            ).output
        # all known: see reason_against
        count, rest = (math.prod(shape[axis] or 0 for axis in axes) for axes in (averaged, kept))
        if count != 1:
            value = graph.insert("reshape", (value,), f"{node.name}/rows", {"shape": (count, rest)}, before=node).output
            pool = {"pool_size": (count,), "strides": (count,), "padding": "valid", **divide}
            value = graph.insert("average_pool", (value,), f"{node.name}/pool", pool, before=node).output
        node.op, node.inputs, node.attrs = "reshape", (value,), {"shape": graph.shape(node.output)[1:]}


def _over_the_image(shape: tuple[int | None, ...], axes: set[int]) -> bool:
    return len(shape) in (3, 4) and axes <= set(range(1, len(shape) - 1))


def reason_against(graph: Graph, node: Node) -> str | None:
    """Why a ``mean`` cannot become an average pool; ``None`` where it can."""
    shape, axes = graph.shape(node.inputs[0]), set(attr(node, "axes"))
    if not axes or not axes <= set(range(1, len(shape))):
        return f"a mean over the batch has no fixed-point form; this one is over axes {sorted(axes)} of {shape}"
    if not _over_the_image(shape, axes) and None in shape[1:]:
        return f"the mean over axes {sorted(axes)} of {shape} needs known lengths; give the model a fixed input size"
    if any(shape[axis] is None for axis in axes):
        return (
            f"the mean over axes {sorted(axes)} of {shape} needs known lengths there; give the model a fixed "
            "input size"
        )
    if not attr(node, "keepdims") and None in graph.shape(node.output)[1:]:
        return f"the mean leaves the unknown lengths of {shape} behind; give the model a fixed input size"
    return None
