"""Quantizers on the network's inputs."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import REAL, attributes, insert_after, wants_codes
from graffiti.transforms.place.plan import Plan


class QuantizeInputs(Pass):
    """An input ``x`` that a quantized op reads gets ``x_q``, right behind it.

    1. Signedness ``auto``: unsigned where the plan says that the input is never negative, else signed.
    2. Readers in float (islands, layers that a rule keeps in float) go on reading ``x`` itself.
    3. An input that only such layers read, or that is an output as it is: no quantizer.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for value in reversed(graph.inputs):  # each goes in front: the last first keeps their order
            readers = [node for node in graph.consumers(value) if wants_codes(graph, self.plan, node, value, REAL)]
            if not readers:
                continue
            spec = self.plan.activation(value, None)
            signed = value not in self.plan.unsigned_inputs if spec.signed == "auto" else bool(spec.signed)
            attrs = attributes(spec, signed=signed, rounding=self.plan.rounding(spec, None), role="input")
            insert_after(graph, value, f"{value}_q", attrs, readers)
            modified = True
        return PassResult(graph, modified)
