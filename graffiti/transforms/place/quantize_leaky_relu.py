"""Quantizers inside a leaky ReLU: ``q8(max(q'16(x), q'16(q16(alpha) * q'16(x))))``."""

from __future__ import annotations

from graffiti.config import QuantizerSpec
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import attributes, insert_after
from graffiti.transforms.place.layers import is_leaky_relu
from graffiti.transforms.place.plan import Plan


class QuantizeLeakyRelu(Pass):
    """Published section 6; ``q'`` marks the two quantizers that share one threshold.

    1. ``maximum(x, multiply(x, alpha))``: ``x_q16`` on x, ``<l>/q_alpha`` on alpha (fixed), a 16-bit quantizer on the
       product in one group with ``x_q16``, and ``<l>_q``, 8 bits, behind the maximum.
    2. PReLU, whose slopes are trained: the same, per channel or per element; their threshold is trained too.
    3. x is on an 8-bit grid already: the same; ``x_q16`` is then a change of exponent.
    4. A maximum of two other values, or a leaky ReLU that has quantizers: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in list(graph.nodes):
            if is_leaky_relu(graph, node) and not self.plan.in_float(node):
                multiply = graph.producer(node.inputs[1])
                if multiply is not None and multiply.op == "multiply":  # a fake_quantize here: done already
                    self._quantize(graph, node, multiply)
                    modified = True
        return PassResult(graph, modified)

    def _quantize(self, graph: Graph, maximum: Node, multiply: Node) -> None:
        scheme = self.plan.scheme(maximum) or self.plan.default
        x, bits, rounding = maximum.inputs[0], scheme.leaky_relu_bits, scheme.rounding
        wide = QuantizerSpec(
            bits, signed=True, trainable=scheme.activations.trainable, calibration="max",
            quantizer=scheme.activations.quantizer,
        )
        group = f"{maximum.name}/inputs"
        shared = attributes(wide, signed=True, rounding=rounding, role="activation", group=group)
        insert_after(graph, x, f"{x}_q{bits}", shared, (maximum, multiply))
        alpha = attributes(
            wide.replace(trainable=bool(attr(multiply, "trained"))), signed=True, rounding=rounding, role="alpha"
        )
        q_alpha = graph.insert(
            "fake_quantize", (multiply.inputs[1],), f"{maximum.name}/q_alpha", alpha, before=multiply
        )
        multiply.inputs = (multiply.inputs[0], q_alpha.name)
        insert_after(graph, multiply.name, f"{multiply.name}_q", dict(shared), (maximum,))
        spec = self.plan.activation(maximum.name, maximum)
        signed = self.plan.signed(spec, self.plan.intervals(graph)[maximum.name])
        out = attributes(spec, signed=signed, rounding=self.plan.rounding(spec, maximum), role="activation")
        insert_after(graph, maximum.name, f"{maximum.name}_q", out)
        self.plan.note(maximum.name, "shared", f"x and alpha*x, {bits} bits, share one threshold")
