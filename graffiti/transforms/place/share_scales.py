"""Merged thresholds: one trained number for the quantizers whose integers meet."""

from __future__ import annotations

from collections.abc import Sequence

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.place.insert_rescale import group_of, owner
from graffiti.transforms.place.layers import is_leaky_relu
from graffiti.transforms.place.plan import Plan

# of one threshold, hence of all members
SHARED = ("quantizer", "narrow", "rounding", "trainable", "calibration", "log2_threshold")


def merge_thresholds(members: Sequence[Node], group: str) -> bool:
    """Give quantizers one shared ``log2_threshold``; its gradient is the sum of the members' gradients.

    Args:
        members: ``fake_quantize`` nodes; changed in place.
        group: the shared threshold's name.

    Returns:
        Whether anything changed.

    Raises:
        ValueError: where the members differ in bits or signedness: one threshold would then mean several scales.

    References: Jain et al., arXiv 1903.08066; Graffitist, threshold merging.
    """
    first = members[0]
    for other in members[1:]:
        for key in ("bits", "signed"):
            if other.attrs[key] != first.attrs[key]:
                raise ValueError(
                    f"{first.name!r} and {other.name!r} cannot share the threshold {group!r}: {key} is "
                    f"{first.attrs[key]} "
                    f"and {other.attrs[key]}; quantizers that share a threshold agree on bits and signedness"
                )
    changed = False
    for member in members:
        attrs = {**{key: first.attrs[key] for key in SHARED}, "group": group}
        if any(member.attrs[key] != value for key, value in attrs.items()):
            member.attrs.update(attrs)
            changed = True
    return changed


class ShareScales(Pass):
    """The inputs of one add, subtract, concat or maximum share one threshold, published section 4.

    1. Two or more inputs with quantizers of their own (rescale points included): one group ``<op>_inputs``.
    2. Members of different bits or signedness: an error that names them.
    3. One input, a leaky ReLU (shared already), an op in float: left alone.
    """

    stage = "fakequant"

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in graph.nodes:
            if not OPS[node.op].meets or self.plan.in_float(node) or is_leaky_relu(graph, node):
                continue
            values = list(dict.fromkeys(node.inputs))
            members = [own for own in (owner(graph, value) for value in values) if own is not None]
            if len(members) < 2:
                continue
            if len(members) != len(values):
                raise ValueError(
                    f"an input of {node.op} {node.name!r} has no quantizer of its own; run insert_rescale first"
                )
            if merge_thresholds(members, group_of(node)):
                modified = True
                self.plan.note(node.name, "shared", f"{', '.join(repr(m.name) for m in members)} share one threshold")
        return PassResult(graph, modified)
