"""The published average pool, where a scheme asks for it: a fixed unsigned reciprocal, and an output that is rounded
down.
"""

from __future__ import annotations

from graffiti.config import QuantizerSpec
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.average_pool_to_depthwise import average_pool_to_depthwise
from graffiti.transforms.place.insert import attributes, insert_after
from graffiti.transforms.place.plan import Plan


class QuantizeAveragePool(Pass):
    """``q8(sum(q8(r) * x))`` with ``r = 1/(kh*kw)``, published section 6.

    1. ``reciprocal_bits`` of the scheme is a number: the pool becomes ``depthwise_conv(x, p/q_reciprocal)`` with
       ``p/q_reciprocal`` unsigned, MAX, not trained, and ``p_q``, floor.
    2. Partial windows (``same`` padding) there: ``multiply(depthwise_conv(x, ones), p/q_reciprocal)``; the ones are
       quantized without error, their sum is stored in 16 bits, the map of reciprocals as in 1.
    3. The output is signed where the input can be negative.
    4. ``reciprocal_bits`` is ``None``, or a sum (``divide`` false): left alone. The quantizer that
       ``quantize_activations`` puts behind it rounds the exact mean by the scheme's mode.
    5. Pools in float: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in list(graph.nodes):
            scheme = self.plan.scheme(node)
            if node.op != "average_pool" or scheme is None:
                continue
            if scheme.reciprocal_bits is None or not attr(node, "divide"):
                self.plan.note(
                    node.name, "quantized", f"the exact {'mean' if attr(node, 'divide') else 'sum'}, rounded once"
                )
                continue
            self._quantize(graph, node, scheme.reciprocal_bits, scheme.activations)
            self.plan.note(
                node.name, "quantized", f"average pool by a fixed reciprocal of {scheme.reciprocal_bits} bits"
            )
            modified = True
        return PassResult(graph, modified)

    def _quantize(self, graph: Graph, pool: Node, bits: int, activations: QuantizerSpec) -> None:
        constant, window_sum = average_pool_to_depthwise(graph, pool)
        reciprocal = QuantizerSpec(
            bits, signed=False, trainable=False, calibration="max", quantizer=activations.quantizer
        )
        attrs = attributes(reciprocal, signed=False, rounding="half_even", role="reciprocal")
        q = graph.insert("fake_quantize", (constant,), f"{pool.name}/q_reciprocal", attrs, before=pool)
        pool.inputs = (pool.inputs[0], q.name)
        if window_sum is not None:
            self._quantize_sum(graph, window_sum, pool, activations)
        spec = self.plan.activation(pool.name, pool)
        signed = self.plan.signed(spec, self.plan.intervals(graph)[pool.name])
        attrs = attributes(spec, signed=signed, rounding="floor", role="activation")
        insert_after(graph, pool.name, f"{pool.name}_q", attrs)

    @staticmethod
    def _quantize_sum(graph: Graph, window_sum: Node, pool: Node, activations: QuantizerSpec) -> None:
        # 1 = 64 * 2**-6 exactly: MAX would saturate it to 127/128, the search for the least error does not
        ones = QuantizerSpec(8, signed=True, trainable=False, calibration="mse", quantizer=activations.quantizer)
        attrs = attributes(ones, signed=True, rounding="half_even", role="reciprocal")
        q = graph.insert(
            "fake_quantize", (window_sum.inputs[1],), f"{window_sum.name}/q_kernel", attrs, before=window_sum
        )
        window_sum.inputs = (window_sum.inputs[0], q.name)
        wide = QuantizerSpec(16, trainable=activations.trainable, calibration="max", quantizer=activations.quantizer)
        # signed also for sums that cannot be negative: 15 of 16 bits are plenty, and int16 is what LiteRT and most
        # chips hold
        attrs = attributes(wide, signed=True, rounding="half_even", role="activation")
        insert_after(graph, window_sum.name, f"{window_sum.name}_q", attrs, (pool,))
