"""A separable convolution is a depthwise and a 1x1 convolution."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult


class SplitSeparableConv(Pass):
    """``separable_conv(x, d, p) → conv(depthwise_conv(x, d), p)``.

    1. Without a bias: ``s/depthwise`` and ``s``.
    2. With a bias behind it: ``s/depthwise``, ``s/product``, and the bias stays where it is, on the second product.
    3. One and two spatial axes, strides, dilation, padding and depth multiplier: all on the first product.
    4. A separable layer called twice: both calls read the same two kernels.

    The value between the two is a quantized activation (published: weight q8, output q8 signed).

    References: Jain et al., arXiv 1903.08066; Graffitist, "depthwise conv directly followed by conv".
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in [n for n in graph.nodes if n.op == "separable_conv"]:
            x, depthwise_kernel, pointwise_kernel = node.inputs
            window = {key: attr(node, key) for key in ("strides", "padding", "dilation")}
            depthwise = graph.insert(
                "depthwise_conv", (x, depthwise_kernel), f"{node.of_layer}/depthwise", window, before=node,
            )
            ones = (1,) * len(window["strides"])
            node.op, node.inputs = "conv", (depthwise.output, pointwise_kernel)
            node.attrs = {"strides": ones, "padding": "valid", "dilation": ones, "groups": 1}
            modified = True
        return PassResult(graph, modified)
