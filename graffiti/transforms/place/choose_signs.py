"""Signedness where it depends on other tensors: on a grid that several share."""

from __future__ import annotations

from graffiti.graph.functions import Interval
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert_rescale import owner
from graffiti.transforms.place.layers import is_leaky_relu
from graffiti.transforms.place.plan import Plan


class ChooseSigns(Pass):
    """Inputs of one meeting op agree; a quantizer changed here serves only the op it is changed for.

    1. Inputs of add, concat, maximum of both signednesses: all become signed (a ReLU output in a signed grid loses one
       bit; the other way round would lose the negative values).
    2. A maximum with a value that cannot be negative: all unsigned, since ``max(x, y) = max(max(x, 0), y)``. Not where
       the scheme has the published signs, or says itself which.
    3. Inputs that agree, ops in float: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        intervals = self.plan.intervals(graph)
        for node in graph.nodes:
            if OPS[node.op].meets and not self.plan.in_float(node) and not is_leaky_relu(graph, node):
                modified |= self._agree(graph, node, [intervals[value] for value in node.inputs])
        return PassResult(graph, modified)

    def _agree(self, graph: Graph, node: Node, intervals: list[Interval]) -> bool:
        members = [own for own in (owner(graph, value) for value in dict.fromkeys(node.inputs)) if own is not None]
        if len({own.attrs["signed"] for own in members}) < 2:
            return False
        scheme = self.plan.scheme(node) or self.plan.default
        free = scheme.signs == "intervals" and scheme.activations.signed == "auto"
        signed = not (node.op == "maximum" and free and any(low >= 0 for low, _ in intervals))
        for own in members:
            own.attrs.update(signed=signed, narrow=own.attrs["narrow"] and signed)
        return True
