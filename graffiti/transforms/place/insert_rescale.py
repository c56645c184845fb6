"""Rescale points: requantizers where the inputs of add, concat, maximum and minimum cannot share the grid they are
on.
"""

from __future__ import annotations

from graffiti.config import QuantizerSpec
from graffiti.graph.functions import Interval
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert import attributes
from graffiti.transforms.place.layers import is_leaky_relu
from graffiti.transforms.place.plan import Plan

ROLES = ("activation", "rescale")


def owner(graph: Graph, value: str) -> Node | None:
    """The quantizer that serves ``value`` and nothing else, perhaps through ops that only move codes; else ``None``."""
    readers, producers = graph.users(), graph.producers()
    while True:
        if len(readers.get(value, ())) > 1 or value in graph.outputs:
            return None
        node = producers.get(value)
        if node is None:
            return None
        if node.op == "fake_quantize":
            return node
        if not OPS[node.op].moves_codes or len(node.inputs) != 1:
            return None
        value = node.inputs[0]


class InsertRescale(Pass):
    """Every input of a meeting op gets a quantizer that it may share with the others.

    1. An input whose quantizer also serves another reader (identity shortcut): ``<op>_rescale_<i>`` behind it.
    2. An input that is on no grid of its own (what a concat or another meeting op hands on, a network input): the same.
    3. An input whose quantizer has other bits, another rounding, or shares a threshold with others: the same.
    4. A constant input: a quantizer on the constant.
    5. An input whose quantizer serves this op alone, directly or through moves: nothing, it is shared as it is.
    6. One input only, one value on all inputs, a leaky ReLU, a layer in float: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        intervals = self.plan.intervals(graph)
        for node in list(graph.nodes):
            if OPS[node.op].meets and not self.plan.in_float(node) and not is_leaky_relu(graph, node):
                values = list(dict.fromkeys(node.inputs))
                if len(values) > 1:
                    for value in values:
                        modified |= self._rescale(graph, node, value, intervals[value])
        return PassResult(graph, modified)

    def _rescale(self, graph: Graph, node: Node, value: str, interval: Interval) -> bool:
        spec = self.plan.activation(node.name, node) if OPS[node.op].keeps_format else (
            self.plan.scheme(node) or self.plan.default).activations
        rounding = self.plan.rounding(spec, node)
        own = owner(graph, value)
        if (
            own is not None and own.attrs["role"] in ROLES
            and (own.attrs["group"] is None or own.attrs["group"] == group_of(node))
        ):
            if own.attrs["bits"] == spec.bits and own.attrs["rounding"] == rounding:
                return False
        index = node.inputs.index(value)
        if graph.is_constant(value):
            return self._constant(graph, node, value, spec, rounding, index, interval)
        attrs = attributes(spec, signed=self.plan.signed(spec, interval), rounding=rounding, role="rescale")
        name = f"{node.name}_rescale_{index}"
        quantizer = graph.insert("fake_quantize", (value,), name, attrs, before=node, layer=name)
        node.inputs = tuple(quantizer.name if v == value else v for v in node.inputs)
        return True

    @staticmethod
    def _constant(
        graph: Graph, node: Node, value: str, spec: QuantizerSpec, rounding: str, index: int, interval: Interval
    ) -> bool:
        attrs = attributes(spec, signed=interval[0] < 0, rounding=rounding, role="rescale")
        quantizer = graph.insert("fake_quantize", (value,), f"{node.name}/q_constant_{index}", attrs, before=node)
        node.inputs = tuple(quantizer.name if v == value else v for v in node.inputs)
        return True


def group_of(node: Node) -> str:
    """The name of the threshold that a meeting op's inputs share."""
    return f"{node.name}_inputs"
