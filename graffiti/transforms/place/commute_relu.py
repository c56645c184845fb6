"""ReLU behind a pool goes in front of it, so that one unsigned quantizer right behind the ReLU serves the pool."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import ACCUMULATOR, kinds
from graffiti.transforms.place.plan import Plan


class CommuteRelu(Pass):
    """``relu(move(a)) → move(relu(a))`` where ``a`` is an accumulator; exact, because ReLU is monotone and keeps zero.

    1. One or several of max_pool, reshape, permute, crop, slice, take, pad, upsample between the accumulator and the
       ReLU: the ReLU (with or without a maximum) moves in front of all of them.
    2. A value in between, or the accumulator, has another reader or is an output: left alone; the moved value is
       then quantized signed and the ReLU works on codes.
    3. What is moved is on a grid already (an input, a quantized value): left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for relu in [node for node in graph.nodes if node.op == "relu"]:
            chain = self._chain(graph, relu)
            if not chain:
                continue
            first, last, head = chain[-1], chain[0], chain[-1].inputs[0]
            graph.replace_uses(relu.name, last.name)
            relu.inputs = (head,)
            first.inputs = (relu.name,)
            graph.types[relu.name] = graph.types[head]
            graph.sort()
            modified = True
        return PassResult(graph, modified)

    def _chain(self, graph: Graph, relu: Node) -> list[Node]:
        """The moves in front of a ReLU, last first; empty where they do not end at an accumulator of their own."""
        kind, value = kinds(graph, self.plan), relu.inputs[0]
        chain: list[Node] = []
        if self.plan.in_float(relu):
            return []
        while True:
            if only_reader(graph, value) is None:
                return []
            node = graph.producer(value)
            if node is None:
                return []
            row = OPS[node.op]
            if not (row.moves_codes and row.integer) or row.variadic or self.plan.in_float(node):
                return chain if kind[value] == ACCUMULATOR else []
            chain.append(node)
            value = node.inputs[0]
