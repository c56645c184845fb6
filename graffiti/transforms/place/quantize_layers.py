"""Quantizers inside the compute layers: on the kernel, on the bias, and on a narrow accumulator."""

from __future__ import annotations

from graffiti.config import QuantizerSpec, Scheme
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import attributes
from graffiti.transforms.place.layers import is_leaky_relu
from graffiti.transforms.place.plan import Plan


class QuantizeLayers(Pass):
    """``product → bias_add`` becomes ``q(sum(q(w)*x) + q(b))``, published section 4 and 6.

    1. conv, depthwise_conv, conv_transpose, dense: ``c/q_kernel`` on the (folded) kernel; per tensor or one threshold
       for each output channel. Layers that share a kernel share its quantizer.
    2. With a bias and a 32-bit accumulator: ``c/q_bias`` at the exponent ``e_x + e_w``, nothing behind the product.
    3. With a bias and a narrow accumulator (published, 16 bits): ``c/accumulator`` behind the product and ``c/q_bias``
       share one threshold, one group for all calls of one layer.
    4. Without a bias: the weight only; the output gets the ordinary output quantizer.
    5. ``multiply`` by a constant that is no leaky ReLU's: the constant like a weight.
    6. Layers in float, quantized kernels: left alone. Average pools become products later, and only where a scheme asks
       for it.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        self._groups: dict[str, str] = {}  # kernel -> group of the narrow accumulators of all its calls
        for node in list(graph.nodes):
            if self.plan.in_float(node):
                continue
            if node.op in PRODUCTS:
                modified |= self._product(graph, node)
            elif node.op == "multiply" and not self._in_leaky_relu(graph, node):
                modified |= self._scale(graph, node)
        return PassResult(graph, modified)

    def _product(self, graph: Graph, product: Node) -> bool:
        kernel = product.inputs[1]
        if _quantized(graph, kernel):
            return False
        scheme, spec = self.plan.scheme(product) or self.plan.default, self.plan.weights(product)
        biases = [
            node for node in graph.consumers(product.name) if node.op == "bias_add" and node.inputs[0] == product.name
        ]
        # a product without a bias may be one of several in its layer
        cluster = product.of_layer if biases else product.name
        q_kernel = self._kernel(graph, product, kernel, f"{cluster}/q_kernel", spec)
        product.inputs = (product.inputs[0], q_kernel, *product.inputs[2:])
        for bias_add in biases:
            self._bias(graph, product, bias_add, cluster, scheme, kernel)
        what = f"weights {_text(spec)}"
        if biases:
            narrow = scheme.accumulator_bits != 32
            what += (
                f", bias s{scheme.bias_bits}, accumulator "
                f"s{scheme.accumulator_bits}{' sharing one threshold' if narrow else ''}"
            )
        self.plan.note(cluster, "quantized", what)
        self._note_folded(graph, kernel, cluster)
        return True

    def _kernel(self, graph: Graph, product: Node, kernel: str, name: str, spec: QuantizerSpec) -> str:
        form = OPS[product.op].kernel
        attrs = attributes(
            spec, signed=True, rounding=self.plan.rounding(spec, product), role="weight",
            channel_axis=form.channel_axis if form is not None and spec.per_channel else None,
        )
        for reader in graph.consumers(kernel):  # a layer called twice has one kernel and one threshold for it
            if reader.op == "fake_quantize" and reader.attrs == attrs:
                return reader.name
        return graph.insert("fake_quantize", (kernel,), name, attrs, before=product).name

    def _bias(self, graph: Graph, product: Node, bias_add: Node, cluster: str, scheme: Scheme, kernel: str) -> None:
        bias = bias_add.inputs[1]
        if scheme.accumulator_bits == 32:
            inputs = (bias, product.inputs[0], product.inputs[1])
            q_bias = graph.insert(
                "quantize_bias", inputs, f"{cluster}/q_bias", {"bits": scheme.bias_bits}, before=bias_add
            )
            bias_add.inputs = (product.name, q_bias.name)
            return
        group = self._groups.setdefault(kernel, f"{cluster}/accumulator")
        spec = QuantizerSpec(
            scheme.accumulator_bits, signed=True, trainable=scheme.activations.trainable, calibration="max",
            quantizer=scheme.activations.quantizer,
        )
        attrs = attributes(spec, signed=True, rounding=scheme.rounding, role="accumulator", group=group)
        accumulator = graph.insert("fake_quantize", (product.name,), f"{cluster}/accumulator", attrs, before=bias_add)
        q_bias = graph.insert("fake_quantize", (bias,), f"{cluster}/q_bias", {**attrs, "role": "bias"}, before=bias_add)
        bias_add.inputs = (accumulator.name, q_bias.name)

    def _scale(self, graph: Graph, multiply: Node) -> bool:
        x, constant = multiply.inputs
        if graph.is_constant(x):
            x, constant = constant, x
        if not graph.is_constant(constant) or graph.is_constant(x):
            return False
        spec = self.plan.weights(multiply).replace(per_channel=False)
        q_scale = self._kernel(graph, multiply, constant, f"{multiply.name}/q_scale", spec)
        multiply.inputs = (x, q_scale)
        self.plan.note(multiply.name, "quantized", f"constant {_text(spec)}")
        return True

    @staticmethod
    def _in_leaky_relu(graph: Graph, multiply: Node) -> bool:
        return any(
            is_leaky_relu(graph, node) and node.inputs[1] == multiply.name for node in graph.consumers(multiply.name)
        )

    def _note_folded(self, graph: Graph, kernel: str, cluster: str) -> None:
        producer = graph.producer(kernel)
        if producer is not None and producer.op == "fold_kernel":
            self.plan.note(cluster, "folded", "batch norm folded into kernel and bias")


def _quantized(graph: Graph, value: str) -> bool:
    producer = graph.producer(value)
    return producer is not None and producer.op == "fake_quantize"


def _text(spec: QuantizerSpec) -> str:
    return f"s{spec.bits}{'n' if spec.narrow else ''} {'per channel' if spec.per_channel else 'per tensor'}"
