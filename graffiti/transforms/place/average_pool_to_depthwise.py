"""The published form of an average pool: a product with the constant 1/(window size)."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.numerics.windows import pool_counts
from graffiti.transforms.prepare.canonical_average_pool import over_the_border


def average_pool_to_depthwise(graph: Graph, pool: Node) -> tuple[str, Node | None]:
    """``average_pool → depthwise_conv`` by ``<pool>/reciprocal``, same strides and padding, in the caller's own graph.

    1. Every window lies inside the image (VALID, or SAME that adds no zeros): a kernel ``(*window, channels, 1)`` of
       ``1/(kh*kw)``, as published.
    2. SAME with windows that reach over the border: the published transform divides by ``kh*kw`` there too and so
       changes the network. Here ``<pool>/sum``, a depthwise_conv by ones, is followed by ``multiply`` with the
       constant map ``(1, height, width, 1)`` of the reciprocals of the true window sizes.

    The last node keeps the pool's name.

    Returns:
        The constant of reciprocals, and the sum of case 2 or ``None``.

    References: Jain et al., arXiv 1903.08066; Graffitist, ``preprocess_layers`` step 3; C9 of its specification.
    """
    window, strides, padding = (attr(pool, key) for key in ("pool_size", "strides", "padding"))
    (x,), channels = pool.inputs, graph.shape(pool.inputs[0])[-1]
    attrs = {"strides": strides, "padding": padding, "dilation": (1,) * len(window)}
    shape = (*window, channels, 1)
    if not over_the_border(graph, pool):
        reciprocal = graph.add_constant(f"{pool.name}/reciprocal", np.full(shape, 1 / np.prod(window), np.float32))
        pool.op, pool.inputs, pool.attrs = "depthwise_conv", (x, reciprocal), attrs
        return reciprocal, None
    ones = graph.add_constant(f"{pool.name}/ones", np.ones(shape, np.float32))
    total = graph.insert("depthwise_conv", (x, ones), f"{pool.name}/sum", attrs, before=pool)
    sizes = [size or 1 for size in graph.shape(x)[1:-1]]  # unknown only where the window is 1
    counts = np.asarray(pool_counts(sizes, window, strides, padding), np.float64)
    reciprocal = graph.add_constant(f"{pool.name}/reciprocal", (1 / counts[None]).astype(np.float32))
    pool.op, pool.inputs, pool.attrs = "multiply", (total.output, reciprocal), {}
    return reciprocal, total
