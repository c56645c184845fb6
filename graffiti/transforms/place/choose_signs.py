"""Signedness where it depends on other tensors: shared grids and average pools."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import source
from graffiti.transforms.place.insert_rescale import MEETING, owner
from graffiti.transforms.place.layers import is_average_pool, is_leaky_relu
from graffiti.transforms.place.plan import Plan


class ChooseSigns(Pass):
    """One walk in topological order; a quantizer changed here serves only the op it is changed for.

    1. Inputs of add, concat, maximum of both signednesses: all become signed (a ReLU output in a signed grid loses one
       bit; the other way round would lose the negative values).
    2. A rescale point copies the signedness of what it reads, then 1 holds.
    3. An average pool's output: signed where the pool's input is (published: Darknet).
    4. Inputs that agree, ops in float: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in graph.nodes:
            if node.op in MEETING and not self.plan.in_float(node) and not is_leaky_relu(graph, node):
                modified |= self._agree(graph, node)
            elif node.op == "fake_quantize" and node.attrs["role"] in ("activation", "rescale"):
                modified |= self._follow(graph, node)
        return PassResult(graph, modified)

    @staticmethod
    def _agree(graph: Graph, node: Node) -> bool:
        members = [own for own in (owner(graph, value) for value in dict.fromkeys(node.inputs)) if own is not None]
        if len({own.attrs["signed"] for own in members}) < 2:
            return False
        for own in members:
            own.attrs["signed"] = True
        return True

    def _follow(self, graph: Graph, quantizer: Node) -> bool:
        value = quantizer.inputs[0]
        if quantizer.attrs["role"] == "activation":
            pool = graph.producer(value)
            if pool is None or not is_average_pool(graph, pool):
                return False
            value = _pooled(graph, pool)
        origin = source(graph, value)
        if origin is None or quantizer.attrs["signed"] or not origin.attrs["signed"]:
            return False
        quantizer.attrs["signed"] = True
        return True


def _pooled(graph: Graph, pool: Node) -> str:
    """What a pool averages, through the sum of partial windows, which is signed always."""
    if pool.op != "multiply":
        return pool.inputs[0]
    window_sum = graph.producer(pool.inputs[0])
    if window_sum is not None and window_sum.op == "fake_quantize":
        window_sum = graph.producer(window_sum.inputs[0])
    return pool.inputs[0] if window_sum is None else window_sum.inputs[0]
