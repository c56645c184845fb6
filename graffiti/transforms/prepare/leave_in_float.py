"""What has no fixed-point form is kept as a Keras layer in float, an island, with the reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graffiti.graph import border, layer_forms
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.prepare import (
    affine_to_depthwise,
    canonical_average_pool,
    mean_to_average_pool,
    unfuse_leaky_relu,
)


def _leaky_relu_reason(graph: Graph, node: Node) -> str | None:
    return (None if attr(node, "alpha") <= 1 else f"a leaky ReLU with a slope above 1 ({attr(node, 'alpha')}) has no "
                                                  "fixed-point form")


# op -> why it is still there
REASONS: dict[str, Callable[[Graph, Node], str | None]] = {
    "mean": mean_to_average_pool.reason_against,
    "average_pool": canonical_average_pool.reason_against,
    "rescaling": affine_to_depthwise.reason_against,
    "batch_norm": affine_to_depthwise.reason_against,
    "prelu": unfuse_leaky_relu.reason_against,
    "leaky_relu": _leaky_relu_reason,
}


QUANTIZED = ("average_pool",)  # ops of REASONS that a fakequant graph holds where nothing stands against them


class LeaveInFloat(Pass):
    """Float ops that the passes before could not rewrite → ``island``; the name stays.

    1. ``mean`` over unknown lengths. 2. ``average_pool`` over the border of an image of
    unknown size. 3. ``batch_norm`` and ``rescaling`` of unknown shapes. 4. ``leaky_relu`` with a slope above 1,
    ``prelu`` with slopes on both sides of 1.
    5. Ops that a fakequant graph may hold: left alone. Islands too, and ``rescaling`` at the border.
    6. The same ops where a pass before could have rewritten them: left alone, for that is a mistake in the pipeline;
       ``ensures`` says so.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        at_border = {id(node) for node in border.nodes(graph)}
        for node in graph.nodes:
            if node.op not in REASONS or id(node) in at_border:
                continue
            why = REASONS[node.op](graph, node)
            if why is None or not all(graph.is_constant(value) for value in node.inputs[1:]):
                continue
            settings = [graph.training.get(value, {}) for value in node.inputs[1:]]
            trainable = all(setting.get("trainable", True) is not False for setting in settings)
            form, name = layer_forms.form_of(graph, node), node.name.replace("/", "_")
            layer = form.serialized(name=name, trainable=trainable, dtype="float32")
            node.attrs = {
                "layer": layer, "output_shapes": (graph.shape(node.output),), "reason": why, "weights": node.inputs[1:],
                "roles": tuple(OPS[node.op].inputs.split()[1:]), "call": None,
            }
            node.op, node.inputs = "island", node.inputs[:1]
            modified = True
        return PassResult(graph, modified)

    def ensures(self, graph: Graph) -> Iterable[str]:
        at_border = {id(node) for node in border.nodes(graph) if node.op == "rescaling"}
        for node in graph.nodes:
            if id(node) in at_border:
                continue
            if (node.op in REASONS and node.op not in QUANTIZED) or "fakequant" not in OPS[node.op].stages:
                yield (
                    f"{node.op} {node.name!r} is still there, which a fakequant graph cannot hold; "
                    "a pass before must rewrite it"
                )
