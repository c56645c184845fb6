"""What the place passes agree on: which scheme holds for which node, and the decisions made so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping

from graffiti import schemes
from graffiti.config import LayerInfo, QuantizerSpec, ReportLine, Rule, Scheme
from graffiti.graph import border, interval_rules
from graffiti.graph.functions import Interval
from graffiti.graph.intervals import intervals
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS
from graffiti.transforms.place.layers import layers

MAX_NAMES = 12


@dataclasses.dataclass
class Plan:
    """The scheme of every node of one graph.

    Args:
        default: the scheme where no rule speaks; it also holds for the graph's inputs.
        of_input: graph input → scheme of a rule that names it.
        of_node: node name → scheme, ``None`` where the node stays in float.
        unsigned_inputs: graph inputs that are never negative.
        first: compute nodes that see an input of the network.
        last: compute nodes that make an output of the network.
        final: values that leave the network, perhaps after moves or softmax.
        border: values of real numbers in front of the first quantizers: the inputs, and what ``graph/border.py`` makes
            of them.
        joins: concats that only join what leaves the network, and the moves behind them: they work on real numbers.
        lines: the report, in the order of decisions.
    """

    default: Scheme
    of_node: dict[str, Scheme | None] = dataclasses.field(default_factory=dict)
    of_input: dict[str, Scheme] = dataclasses.field(default_factory=dict)
    unsigned_inputs: frozenset[str] = frozenset()
    first: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    final: frozenset[str] = frozenset()
    border: tuple[str, ...] = ()
    joins: frozenset[str] = frozenset()
    lines: list[ReportLine] = dataclasses.field(default_factory=list)

    def scheme(self, node: Node) -> Scheme | None:
        """The node's scheme; ``None`` where it computes in float."""
        return None if OPS[node.op].on_reals else self.of_node.get(node.name, self.default)

    def in_float(self, node: Node) -> bool:
        """Whether the node computes on real values."""
        return self.scheme(node) is None

    def weights(self, node: Node) -> QuantizerSpec:
        """The spec of a compute node's kernel; the first and last layers may have their own."""
        scheme = self.scheme(node) or self.default
        if node.name in self.first and scheme.first_layer is not None:
            return scheme.first_layer
        if node.name in self.last and scheme.last_layer is not None:
            return scheme.last_layer
        return scheme.weights

    def activation(self, value: str, producer: Node | None) -> QuantizerSpec:
        """The spec of a stored value."""
        scheme = self.default if producer is None else self.scheme(producer) or self.default
        if producer is None:
            return scheme.inputs or scheme.activations
        if value in self.final and scheme.outputs is not None:
            return scheme.outputs
        return scheme.activations

    def rounding(self, spec: QuantizerSpec, producer: Node | None) -> str:
        """The rounding mode of a spec that belongs to a node."""
        scheme = self.default if producer is None else self.scheme(producer) or self.default
        return spec.rounding or scheme.rounding

    def signed(self, spec: QuantizerSpec, interval: Interval) -> bool:
        """Whether a stored value has a sign bit: as its spec says, else where it can be negative."""
        return interval[0] < 0 if spec.signed == "auto" else bool(spec.signed)

    def intervals(self, graph: Graph) -> dict[str, Interval]:
        """What every value can be, as far as its scheme lets that be known (``Scheme.signs``)."""
        def published(node: Node) -> interval_rules.Rule | None:
            if (self.scheme(node) or self.default).signs != "published" or interval_rules.averages(graph, node):
                return None
            row = OPS[node.op]
            return interval_rules.anything if row.accumulates else interval_rules.same if row.selects else None

        return intervals(graph, dict.fromkeys(self.unsigned_inputs, (0.0, math.inf)), rule=published)

    def note(self, layer: str, what: str, why: str) -> None:
        """Add a line to the report."""
        self.lines.append(ReportLine(layer, what, why))


def make_plan(
    graph: Graph, scheme: str | Scheme, rules: Iterable[Rule] = (), unsigned_inputs: Collection[str] = (),
    dropped: Mapping[str, LayerInfo] | None = None,
) -> Plan:
    """Resolve the scheme and the rules for every node of a prepared float graph.

    Args:
        graph: stage ``float``, prepared.
        scheme: a preset's name, a config or a ``Scheme``.
        rules: exceptions; the first that matches a layer holds.
        unsigned_inputs: names of the graph inputs, and of other values of the border, that are never negative.
        dropped: layers of the model that preparing dropped; a rule may name them.

    Raises:
        ValueError: where the graph is not prepared, a rule matches no layer, or an input's name is unknown.
    """
    for node in graph.nodes:
        if OPS[node.op].unprepared:
            raise ValueError(
                f"{node.op} {node.name!r} has no quantized form; prepare the graph before placing quantizers"
            )
    inside = border.nodes(graph)
    plan = Plan(
        schemes.get_static(scheme), unsigned_inputs=frozenset(unsigned_inputs),
        border=tuple(border.values(graph, inside))
    )
    unknown = sorted(plan.unsigned_inputs - set(plan.border))
    if unknown:
        raise ValueError(
            f"unsigned_inputs names {', '.join(unknown)}; the graph's inputs are {', '.join(graph.inputs)}"
        )
    chosen = _apply_rules(graph, plan.default, list(rules), plan, dropped or {})
    for node in graph.nodes:
        plan.of_node[node.name] = chosen[node.of_layer]
        if node.op == "softmax" and plan.of_node[node.name] is not None:  # a layer of its own, or the end of one
            plan.note(node.name, "float", "softmax is computed on the dequantized logits")
    for node in inside:
        if node.op == "rescaling":
            plan.note(
                node.name, "folded",
                "into the border: computed on real numbers, in front of the first quantizer; retraining leaves its "
                "numbers as they are"
            )
        else:
            plan.of_node[node.name] = None
    plan.joins = frozenset(border.joins(graph))
    for node in graph.nodes:
        if node.name in plan.joins:
            if node.op == "concat" and not plan.in_float(node):
                plan.note(
                    node.name, "quantized",
                    "joins what leaves the network, behind the quantizers: each part keeps a scale of its own"
                )
            plan.of_node[node.name] = None
    for node in graph.nodes:
        reason = None if plan.in_float(node) else _unsupported(graph, node)
        if reason:
            plan.of_node[node.name] = None
            plan.note(node.name, "float", reason)
    plan.first = frozenset(_edge_products(graph, plan, forward=True))
    plan.last = frozenset(_edge_products(graph, plan, forward=False))
    plan.final = frozenset(_final_values(graph))
    return plan


def _apply_rules(
    graph: Graph, default: Scheme, rules: list[Rule], plan: Plan, dropped: Mapping[str, LayerInfo]
) -> dict[str, Scheme | None]:
    known = layers(graph)
    used = set()
    chosen: dict[str, Scheme | None] = {}
    for path, info in known.items():
        chosen[path] = default
        for index, rule in enumerate(rules):
            if rule.matches(info):
                used.add(index)
                chosen[path] = None if rule.scheme is None else schemes.get_static(rule.scheme)
                if rule.scheme is None:
                    plan.note(path, "float", f"the rule {rule} keeps it so")
                break
        if info.op == "island":
            node = graph.node(path) if path in {n.name for n in graph.nodes} else None
            plan.note(path, "float", (node.attrs.get("reason") if node else "") or "no integer form of this layer")
    for index, rule in enumerate(rules):
        if index not in used and not any(rule.matches(info) for info in known.values()):
            if _names_something_else(graph, rule, plan, dropped):
                continue
            shown = ", ".join(list(known)[:MAX_NAMES]) + (", ..." if len(known) > MAX_NAMES else "")
            raise ValueError(f"the rule {rule} matches no layer; correct it or take it out. The layers are: {shown}")
    return chosen


def _names_something_else(graph: Graph, rule: Rule, plan: Plan, dropped: Mapping[str, LayerInfo]) -> bool:
    """Whether a rule that matches no layer of the graph speaks about a dropped layer (nothing to do) or an input
    (its quantizer).
    """
    idle = [path for path, info in dropped.items() if rule.matches(info)]
    for path in idle:
        plan.note(path, "dropped", f"it does nothing at inference; the rule {rule} has nothing to decide")
    inputs = [name for name in graph.inputs if rule.matches(LayerInfo(name, ("InputLayer",), "input"))]
    for name in inputs:
        if rule.scheme is None:
            readers = ", ".join(repr(node.name) for node in graph.consumers(name)) or "nothing"
            raise ValueError(
                f"the rule {rule} names the input {name!r}, which computes nothing; to leave what reads it in float, "
                f"name those layers: {readers}"
            )
        plan.of_input[name] = schemes.get_static(rule.scheme)
    return bool(idle or inputs)


def _unsupported(graph: Graph, node: Node) -> str | None:
    """Why a node has no integer form here; ``None`` where it has one."""
    if node.op in PRODUCTS and not _is_parameter(graph, node.inputs[1]):
        return f"{node.op} by a kernel that is no constant has no integer form"
    if node.op == "multiply" and not any(graph.is_constant(value) for value in node.inputs):
        return "multiply has an integer form only where one operand is a constant"
    if node.op == "bias_add":
        producer = graph.producer(node.inputs[0])
        if producer is None or producer.op not in PRODUCTS:
            return "a bias has an integer form only right behind a product"
    if OPS[node.op].moves_codes and graph.types[node.output].dtype != "float32" and _is_exact(graph, node.output):
        return f"it moves {graph.types[node.output].dtype} values, which something behind it takes as they are"
    return None


def _is_exact(graph: Graph, value: str) -> bool:
    """Whether integers are returned, or read by an island, perhaps after more moves: rounded to codes they would be
    others.
    """
    return (value in graph.outputs or any(
        reader.op == "island"
        or (
            OPS[reader.op].moves_codes and graph.types[reader.output].dtype != "float32"
            and _is_exact(graph, reader.output)
        )
        for reader in graph.consumers(value)
    ))


def _is_parameter(graph: Graph, value: str) -> bool:
    """Whether a value depends on constants only."""
    if graph.is_constant(value):
        return True
    producer = graph.producer(value)
    return producer is not None and all(_is_parameter(graph, v) for v in producer.inputs)


def _edge_products(graph: Graph, plan: Plan, *, forward: bool) -> set[str]:
    """Compute nodes with no other compute node between them and an edge of the network, and those in the same layer.

    Products that mix nothing (a depthwise 1x1 window: an affine map per channel) do not hide the layer behind them.
    """
    hidden: set[str] = set()  # values on the far side of a compute node
    found: set[str] = set()
    if forward:
        for node in graph.nodes:
            behind = any(value in hidden for value in node.inputs)
            if node.op in PRODUCTS and not behind:
                found.add(node.name)
            if behind or _hides(graph, node):
                hidden.update(node.outputs)
    else:
        reached = set(graph.outputs)
        for node in reversed(graph.nodes):
            if any(out in reached for out in node.outputs):
                if node.op in PRODUCTS:
                    found.add(node.name)
                if not _hides(graph, node):
                    reached.update(value for value in node.inputs if not graph.is_constant(value))
    found = {name for name in found if not plan.in_float(graph.node(name))}
    scopes = {node.of_layer for node in graph.nodes if node.name in found}
    return found | {n.name for n in graph.nodes if n.op in PRODUCTS and n.of_layer in scopes}


def _hides(graph: Graph, node: Node) -> bool:
    if node.op not in PRODUCTS:
        return False
    return node.op != "depthwise_conv" or any(size != 1 for size in graph.shape(node.inputs[1])[:-2])


def _final_values(graph: Graph) -> set[str]:
    """Values that reach an output through moves, ReLU's own output and softmax only."""
    final = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(out in final for out in node.outputs) and (OPS[node.op].moves_codes or node.op == "softmax"):
            final.update(node.inputs)
    return final
