"""Quantizers where the border ends: on the network's inputs, or behind the affine maps that stand in front of it."""

from __future__ import annotations

from graffiti.graph.ir import Graph
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import REAL, attributes, insert_after, wants_codes
from graffiti.transforms.place.plan import Plan


class QuantizeInputs(Pass):
    """A value ``x`` of the border that a quantized op reads gets ``x_q``, right behind it.

    1. Signedness ``auto``: unsigned where the plan says that the value is never negative, else signed.
    2. Readers in float (islands, layers that a rule keeps in float, the border itself) go on reading ``x``.
    3. An input that only such readers have, or that is an output as it is: no quantizer.
    4. What an affine map of the border makes (``rescaling``): the same, and where it is an output it leaves as codes. A
       rule for that layer says which.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for value in reversed(self.plan.border):  # each goes in front: the last first keeps their order
            producer = graph.producer(value)
            readers = [node for node in graph.consumers(value) if wants_codes(graph, self.plan, node, value, REAL)]
            leaves = producer is not None and value in graph.outputs
            if not readers and not leaves:
                continue
            # a rule may name the input itself
            named = self.plan.of_input.get(self._input(graph, value), self.plan.default)
            scheme = (
                named if producer is None or self.plan.of_node.get(producer.name) in (None, self.plan.default)
                else self.plan.of_node[producer.name] or named
            )
            spec = scheme.inputs or scheme.activations
            signed = value not in self.plan.unsigned_inputs if spec.signed == "auto" else bool(spec.signed)
            attrs = attributes(spec, signed=signed, rounding=spec.rounding or scheme.rounding, role="input")
            quantizer = insert_after(graph, value, f"{value}_q", attrs, readers)
            if leaves:
                graph.outputs = [quantizer.name if out == value else out for out in graph.outputs]
            modified = True
        return PassResult(graph, modified)

    @staticmethod
    def _input(graph: Graph, value: str) -> str:
        """The graph input that a value of the border comes from."""
        producer = graph.producer(value)
        while producer is not None:
            value = producer.inputs[0]
            producer = graph.producer(value)
        return value
