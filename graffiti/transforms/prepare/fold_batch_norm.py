"""Batch norm folded into the compute layer in front of it."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.numerics import fold
from graffiti.transforms.prepare.clusters import Cluster, foldable


class FoldBatchNorm(Pass):
    """``batch_norm(x*w + b) → x*w' + b'`` with ``w' = w*m``, ``b' = beta + (b - mean)*m``, ``m = gamma/sqrt(variance +
    epsilon)``.

    In training the parameters stay what they are, trainable, and the nodes ``c/folded_kernel = fold_kernel(...)`` and
    ``c/folded_bias = fold_bias(...)`` compute ``w'`` and ``b'``; for inference ``c/kernel`` and ``c/bias`` take their
    values.

    1. conv, depthwise_conv, dense or conv_transpose ``c/product``, bias ``c``, batch norm: ``c`` is the normalised
       value.
    2. No bias: ``c`` becomes ``c/product`` and ``c`` is a new bias_add; the bias is a constant of zeros.
    3. The batch norm's readers, and the graph's outputs, read ``c`` from then on.
    4. A layer called several times with one batch norm (a layer shared as a whole): folded once, shared as before.
    5. The product or the biased value has another reader or is an output: left alone.
    6. Calls of one kernel with different batch norms, or one batch norm behind different kernels: left alone.
    7. Something between product and batch norm (an activation, a pad), or a kernel that is no constant: left alone.

    What is left alone is ``affine_to_depthwise``'s, which comes before this pass and gives those batch norms a product
    of their own.

    Args:
        training: which of the two forms.

    References: Jain et al., arXiv 1903.08066; section 5 and C8 of its specification. The order of operations is in
    ``numerics/fold.py``.
    """

    stage = "float"

    def __init__(self, *, training: bool = True) -> None:
        self.training = training

    def run(self, graph: Graph) -> PassResult:
        graph = graph.copy()
        layers = foldable(graph)
        for calls in layers:
            base = calls[0].product.of_layer
            bias = calls[0].bias or self._zeros(graph, calls[0], f"{base}/bias")
            kernel, bias = (self._nodes if self.training else self._values)(graph, calls[0], base, bias)
            for call in calls:
                _rewire(graph, call, kernel, bias)
        if layers and not self.training:
            graph.prune()
        return PassResult(graph, bool(layers))

    @staticmethod
    def _zeros(graph: Graph, call: Cluster, name: str) -> str:
        """A bias where the layer has none; it stays where the kernel stays."""
        bias = graph.add_constant(name, np.zeros_like(graph.constants[call.parameters[1]]))
        if "trainable" in graph.training.get(call.kernel, {}):
            graph.training[bias] = {"trainable": graph.training[call.kernel]["trainable"]}
        return bias

    @staticmethod
    def _nodes(graph: Graph, call: Cluster, base: str, bias: str) -> tuple[str, str]:
        """Fold by nodes that read the parameters; these get the layer's name, for they are its weights now."""
        names = []
        for value, role in zip(call.parameters, ("gamma", "beta", "mean", "variance")):
            name = value if value == f"{base}/{role}" else graph.unique(f"{base}/{role}")
            if name != value:
                graph.rename(value, name)
            names.append(name)
        gamma, beta, mean, variance = names
        norm = {key: attr(call.batch_norm, key) for key in ("epsilon", "momentum")}
        axis = {"epsilon": norm["epsilon"], "channel_axis": call.channel_axis}
        kernel = graph.insert(
            "fold_kernel", (call.kernel, gamma, variance), f"{base}/folded_kernel", axis, before=call.product
        )
        bias_node = graph.insert(
            "fold_bias", (bias, gamma, beta, mean, variance), f"{base}/folded_bias", norm, before=call.product
        )
        return kernel.output, bias_node.output

    @staticmethod
    def _values(graph: Graph, call: Cluster, base: str, bias: str) -> tuple[str, str]:
        """Fold into the constants."""
        gamma, beta, mean, variance = (graph.constants[value] for value in call.parameters)
        epsilon = attr(call.batch_norm, "epsilon")
        axis = call.channel_axis
        graph.constants[call.kernel] = fold.fold_kernel(graph.constants[call.kernel], gamma, variance, epsilon, axis)
        graph.constants[bias] = fold.fold_bias(graph.constants[bias], gamma, beta, mean, variance, epsilon)
        return call.kernel, bias


def _rewire(graph: Graph, call: Cluster, kernel: str, bias: str) -> None:
    """Let the cluster's last node be a bias_add named like the compute layer."""
    product, norm = call.product, call.batch_norm
    product.inputs = (product.inputs[0], kernel)
    if call.bias_add is not None:
        call.bias_add.inputs = (call.bias_add.inputs[0], bias)
        graph.replace_uses(norm.output, call.bias_add.output)
        graph.remove(norm)
        return
    norm.op, norm.inputs, norm.attrs = "bias_add", (product.output, bias), {}
    if product.of_layer == norm.of_layer:
        return  # the product was made for this batch norm, which names the cluster (affine_to_depthwise)
    name, norm.layer = product.name, product.of_layer
    graph.rename(name, graph.unique(f"{name}/product"))
    graph.rename(norm.name, name)
