"""Average pools are products with the constant 1/(window size), so that one quantized reciprocal does the division."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.numerics.windows import window_pads
from graffiti.transforms.prepare.replace_nodes import ReplaceNodes


class AveragePoolToDepthwise(ReplaceNodes):
    """``average_pool → depthwise_conv`` by ``<pool>/reciprocal``, same strides and padding.

    1. Every window lies inside the image (VALID, or SAME that adds no zeros): a kernel ``(*window, channels, 1)`` of
       ``1/(kh*kw)``, as published.
    2. SAME with windows that reach over the border: the published transform divides by ``kh*kw`` there too and so
       changes the network. Here ``<pool>/sum``, a depthwise_conv by ones, is followed by ``multiply`` with the
       constant map ``(1, height, width, 1)`` of the reciprocals of the true window sizes.
    3. A window of one pixel (with strides): nothing to average, a ``max_pool`` that only moves values.
    4. SAME over the border of an image of unknown size: left alone, with a note.
    5. More than two spatial axes, or an unknown number of channels: left alone, with a note.

    The last node keeps the pool's name. Folding of batch norm comes before, lest it fold into the constant.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 3; C9 of its specification.
    """

    op = "average_pool"

    def reason_against(self, graph: Graph, node: Node) -> str | None:
        return reason_against(graph, node)

    def replace(self, graph: Graph, pool: Node) -> None:
        window, strides, padding = (attr(pool, key) for key in ("pool_size", "strides", "padding"))
        (x,), channels = pool.inputs, graph.shape(pool.inputs[0])[-1]
        if all(n == 1 for n in window):
            pool.op = "max_pool"
            return
        attrs = {"strides": strides, "padding": padding, "dilation": (1,) * len(window)}
        shape = (*window, channels, 1)
        if not _over_the_border(graph, pool):
            reciprocal = graph.add_constant(f"{pool.name}/reciprocal", np.full(shape, 1 / np.prod(window), np.float32))
            pool.op, pool.inputs, pool.attrs = "depthwise_conv", (x, reciprocal), attrs
            return
        ones = graph.add_constant(f"{pool.name}/ones", np.ones(shape, np.float32))
        total = graph.insert("depthwise_conv", (x, ones), f"{pool.name}/sum", attrs, before=pool)
        counts = np.ones((1,))
        for size, length, stride in zip(graph.shape(x)[1:-1], window, strides):  # unknown only where the window is 1
            counts = counts[..., None] * (1 if size is None else window_counts(size, length, stride))
        reciprocal = graph.add_constant(f"{pool.name}/reciprocal", (1 / counts[..., None]).astype(np.float32))
        pool.op, pool.inputs, pool.attrs = "multiply", (total.output, reciprocal), {}


def window_counts(size: int, window: int, stride: int) -> np.ndarray:
    """How many elements of a row of ``size`` each window of a SAME pool covers, ``(ceil(size/stride),)``."""
    before, _ = window_pads(size, window, stride, 1, "same")
    start = np.arange(-(-size // stride)) * stride - before
    return np.minimum(start + window, size) - np.maximum(start, 0)


def _over_the_border(graph: Graph, pool: Node) -> bool:
    spatial = graph.shape(pool.inputs[0])[1:-1]
    return attr(pool, "padding") == "same" and any(
        size is not None and window > 1 and any(window_pads(size, window, stride, 1, "same"))
        for size, window, stride in zip(spatial, attr(pool, "pool_size"), attr(pool, "strides"))
    )


def reason_against(graph: Graph, pool: Node) -> str | None:
    """Why an ``average_pool`` cannot become a product; ``None`` where it can."""
    shape, window = graph.shape(pool.inputs[0]), attr(pool, "pool_size")
    if len(shape) not in (3, 4):
        return f"an average pool has a fixed-point form over one or two spatial axes, this one is over {len(shape) - 2}"
    if all(n == 1 for n in window):
        return None
    if shape[-1] is None:
        return "an average pool needs a known number of channels"
    if attr(pool, "padding") == "same" and any(size is None and n > 1 for size, n in zip(shape[1:-1], window)):
        return f"a 'same' average pool of an image of unknown size {shape} has unknown windows at the border; give the model a fixed input size"
    return None
