"""What has no fixed-point form is kept as a Keras layer in float, an island, with the reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from graffiti.graph import affine, border
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.prepare import (
    affine_to_depthwise,
    canonical_average_pool,
    mean_to_average_pool,
    unfuse_leaky_relu,
)

Config = dict[str, Any]


def _keras(name: str, **config) -> Config:
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


def _own(name: str, **config) -> Config:
    return {"module": None, "class_name": name, "config": config, "registered_name": f"graffiti>{name}"}


def _average_pool(graph: Graph, node: Node) -> Config:
    rank = len(graph.shape(node.output)) - 2
    return _keras(f"AveragePooling{rank}D", **{key: attr(node, key) for key in ("pool_size", "strides", "padding")})


def _leaky_relu_reason(graph: Graph, node: Node) -> str | None:
    return None if attr(node, "alpha") <= 1 else f"a leaky ReLU with a slope above 1 ({attr(node, 'alpha')}) has no fixed-point form"


def _prelu(graph: Graph, node: Node) -> Config:
    alpha, shape = graph.shape(node.inputs[1]), graph.shape(node.inputs[0])
    return _keras("PReLU", shared_axes=[axis for axis, (size, length) in enumerate(zip(alpha, shape[1:]), 1) if size == 1 and length != 1] or None)


# op -> its layer's config, and why it is still there
ISLANDS: dict[str, tuple[Callable[[Graph, Node], Config], Callable[[Graph, Node], str | None]]] = {
    "mean": (
        lambda graph, node: _own("Reduce", operation="mean" if attr(node, "divide") else "sum", axes=attr(node, "axes"), keepdims=attr(node, "keepdims")),
        mean_to_average_pool.reason_against,
    ),
    "average_pool": (_average_pool, canonical_average_pool.reason_against),
    "rescaling": (
        lambda graph, node: _own("Affine", **dict(zip(affine.KEYS, (value.tolist() for value in affine.numbers(graph, node))))),
        affine_to_depthwise.reason_against,
    ),
    "batch_norm": (
        lambda graph, node: _keras("BatchNormalization", epsilon=attr(node, "epsilon"), momentum=attr(node, "momentum")),
        affine_to_depthwise.reason_against,
    ),
    "prelu": (_prelu, unfuse_leaky_relu.reason_against),
    "leaky_relu": (lambda graph, node: _keras("LeakyReLU", negative_slope=attr(node, "alpha")), _leaky_relu_reason),
}


QUANTIZED = ("average_pool",)  # ops of ISLANDS that a fakequant graph holds where nothing stands against them


class LeaveInFloat(Pass):
    """Float ops that the passes before could not rewrite → ``island``; the name stays.

    1. ``mean`` over unknown lengths. 2. ``average_pool`` over the border of an image of
    unknown size. 3. ``batch_norm`` and ``rescaling`` of unknown shapes. 4. ``leaky_relu`` with a slope above 1, ``prelu``
    with slopes on both sides of 1.
    5. Ops that a fakequant graph may hold: left alone. Islands too, and ``rescaling`` at the border.
    6. The same ops where a pass before could have rewritten them: left alone, for that is a mistake in the pipeline; ``ensures`` says so.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        at_border = {id(node) for node in border.nodes(graph)}
        for node in graph.nodes:
            if node.op not in ISLANDS or id(node) in at_border:
                continue
            layer, reason = ISLANDS[node.op]
            why = reason(graph, node)
            if why is None or not all(graph.is_constant(value) for value in node.inputs[1:]):
                continue
            config = layer(graph, node)
            trainable = not any(graph.training.get(value, {}).get("trainable", True) is False for value in node.inputs[1:])
            config["config"] = {"name": node.name.replace("/", "_"), "trainable": trainable, "dtype": "float32", **config["config"]}
            node.attrs = {
                "layer": config, "output_shapes": (graph.shape(node.output),), "reason": why, "weights": node.inputs[1:], "call": None,
            }
            node.op, node.inputs = "island", node.inputs[:1]
            modified = True
        return PassResult(graph, modified)

    def ensures(self, graph: Graph) -> Iterable[str]:
        at_border = {id(node) for node in border.nodes(graph) if node.op == "rescaling"}
        for node in graph.nodes:
            if id(node) in at_border:
                continue
            if (node.op in ISLANDS and node.op not in QUANTIZED) or "fakequant" not in OPS[node.op].stages:
                yield f"{node.op} {node.name!r} is still there, which a fakequant graph cannot hold; a pass before must rewrite it"
