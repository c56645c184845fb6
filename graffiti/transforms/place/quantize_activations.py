"""The output quantizers: wherever a value that is not on a grid is read by an op that computes on codes."""

from __future__ import annotations

from graffiti.graph.functions import Interval
from graffiti.graph.ir import Graph, Node
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import ACCUMULATOR, REAL, attributes, insert_after, kinds, wants_codes
from graffiti.transforms.place.plan import Plan


class QuantizeActivations(Pass):
    """``v_q`` behind a value ``v``, published section 1 and 4.

    A value that cannot be negative, whatever the input and the trained weights (``Plan.intervals``), has no sign bit.

    1. ReLU, ReLU6: behind the ReLU and none in front of it, whatever the ReLU reads (accumulator or codes).
    2. ``bias_add``, a product without a bias, an average, ``add``, ``subtract``, ``multiply`` with no ReLU behind:
       behind it. Where a ReLU and other ops read it, the ReLU reads the accumulator and the others share one quantizer.
    3. ``activation``: in front (unless on a grid already) and behind it.
    4. Ops that move codes (pools, pad, reshape ...): no quantizer of their own, they are quantized in front.
    5. What an island, a softmax or a layer in float hands to a quantized op.
    6. A graph output that is an accumulator: as 1 and 2.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        intervals = self.plan.intervals(graph)
        for node in list(graph.nodes):
            for value in node.outputs:
                modified |= self._quantize(graph, node, value, intervals[value])
        return PassResult(graph, modified)

    def _quantize(self, graph: Graph, node: Node, value: str, interval: Interval) -> bool:
        kind = kinds(graph, self.plan)[value]
        if kind not in (ACCUMULATOR, REAL):
            return False
        readers = [reader for reader in graph.consumers(value) if wants_codes(graph, self.plan, reader, value, kind)]
        is_output = kind == ACCUMULATOR and value in graph.outputs
        if not readers and not is_output:
            return False
        spec = self.plan.activation(value, node)
        attrs = attributes(
            spec, signed=self.plan.signed(spec, interval), rounding=self.plan.rounding(spec, node), role="activation"
        )
        quantizer = insert_after(graph, value, f"{value}_q", attrs, readers)
        if is_output:
            graph.outputs = [quantizer.name if out == value else out for out in graph.outputs]
        return True
