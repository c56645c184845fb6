"""Quantizers of an average pool: a fixed unsigned reciprocal, and an output that is rounded down."""

from __future__ import annotations

from graffiti.config import QuantizerSpec
from graffiti.graph.ir import Graph, Node
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import attributes, insert_after
from graffiti.transforms.place.layers import is_average_pool, is_window_sum
from graffiti.transforms.place.plan import Plan


class QuantizeAveragePool(Pass):
    """``q8(sum(q8(r) * x))`` with ``r = 1/(kh*kw)``, published section 6.

    1. ``depthwise_conv(x, p/reciprocal)``: ``p/q_reciprocal`` (unsigned, MAX, not trained) and ``p_q``, floor.
    2. Partial windows (``same`` padding): ``multiply(depthwise_conv(x, ones), p/reciprocal)``; the ones are quantized
       without error, their sum is stored in 16 bits, the map of reciprocals as in 1.
    3. The output is signed where the input can be negative.
    4. Pools in float, or quantized already: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in list(graph.nodes):
            if self.plan.in_float(node) or not is_average_pool(graph, node) or not graph.is_constant(node.inputs[1]):
                continue
            self._quantize(graph, node)
            modified = True
        return PassResult(graph, modified)

    def _quantize(self, graph: Graph, pool: Node) -> None:
        scheme = self.plan.scheme(pool) or self.plan.default
        reciprocal = QuantizerSpec(
            scheme.reciprocal_bits, signed=False, trainable=False, calibration="max", quantizer=scheme.activations.quantizer,
        )
        attrs = attributes(reciprocal, signed=False, rounding="half_even", role="reciprocal")
        q = graph.insert("fake_quantize", (pool.inputs[1],), f"{pool.name}/q_reciprocal", attrs, before=pool)
        pool.inputs = (pool.inputs[0], q.name)
        window_sum = graph.producer(pool.inputs[0])
        if pool.op == "multiply" and window_sum is not None and is_window_sum(graph, window_sum):
            self._quantize_sum(graph, window_sum, pool, scheme.activations)
        spec = self.plan.activation(pool.name, pool)
        signed = self.plan.signed(spec, self.plan.intervals(graph)[pool.name])
        attrs = attributes(spec, signed=signed, rounding="floor", role="activation")
        insert_after(graph, pool.name, f"{pool.name}_q", attrs)
        self.plan.note(pool.name, "quantized", f"average pool by a fixed reciprocal of {reciprocal.bits} bits")

    @staticmethod
    def _quantize_sum(graph: Graph, window_sum: Node, pool: Node, activations: QuantizerSpec) -> None:
        # 1 = 64 * 2**-6 exactly: MAX would saturate it to 127/128, the search for the least error does not
        ones = QuantizerSpec(8, signed=True, trainable=False, calibration="mse", quantizer=activations.quantizer)
        attrs = attributes(ones, signed=True, rounding="half_even", role="reciprocal")
        q = graph.insert("fake_quantize", (window_sum.inputs[1],), f"{window_sum.name}/q_kernel", attrs, before=window_sum)
        window_sum.inputs = (window_sum.inputs[0], q.name)
        wide = QuantizerSpec(16, trainable=activations.trainable, calibration="max", quantizer=activations.quantizer)
        # signed also for sums that cannot be negative: 15 of 16 bits are plenty, and int16 is what LiteRT and most chips hold
        attrs = attributes(wide, signed=True, rounding="half_even", role="activation")
        insert_after(graph, window_sum.name, f"{window_sum.name}_q", attrs, (pool,))
