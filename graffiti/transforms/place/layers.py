"""The Keras layers that a graph's nodes stand for, as rules see them."""

from __future__ import annotations

from graffiti.config import LayerInfo
from graffiti.graph import layer_forms
from graffiti.graph.functions import FUNCTIONS
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS
from graffiti.transforms.prepare.remove_identity import does_nothing


def is_leaky_relu(graph: Graph, node: Node) -> bool:
    """Whether a ``maximum`` (or ``minimum``) is that of x and alpha*x, also with quantizers put in."""
    if not OPS[node.op].selects:
        return False
    producers = graph.producers()

    def through(value: str) -> str:
        while value in producers and producers[value].op == "fake_quantize":
            value = producers[value].inputs[0]
        return value

    x, scaled = (producers.get(through(value)) for value in node.inputs)
    return scaled is not None and scaled.op == "multiply" and through(scaled.inputs[0]) == through(node.inputs[0]) and (
        graph.is_constant(through(scaled.inputs[1])))


def layers(graph: Graph) -> dict[str, LayerInfo]:
    """Layer path → what a rule sees of it, in the graph's order."""
    members: dict[str, list[Node]] = {}
    for node in graph.nodes:
        members.setdefault(node.of_layer, []).append(node)
    return {path: LayerInfo(path, _classes(graph, nodes), _op(nodes)) for path, nodes in members.items()}


def dropped(graph: Graph) -> dict[str, LayerInfo]:
    """The layers of a graph as it was read that do nothing at inference; preparing drops them."""
    nothing = {node.name for node in graph.nodes if does_nothing(graph, node)}
    return {path: info for path, info in layers(graph).items() if path in nothing}


def _op(nodes: list[Node]) -> str:
    for node in nodes:
        if node.op in PRODUCTS:
            return node.op
    return nodes[-1].op


def _classes(graph: Graph, nodes: list[Node]) -> tuple[str, ...]:
    products = [node for node in nodes if node.op in PRODUCTS]
    found: dict[str, None] = {}
    for node in products or nodes:
        if node.op == "identity" and node.attrs.get("layer"):
            found[node.attrs["layer"]] = None
        elif node.op == "activation":
            names = FUNCTIONS[node.attrs["function"]].keras if node.attrs["function"] in FUNCTIONS else ()
            found.update(
                dict.fromkeys(("Activation", *(name.split(".")[1] for name in names if name.startswith("layers."))))
            )
        elif node.op == "island":
            layer = node.attrs["layer"]
            found[str(layer.get("class_name", "island") if isinstance(layer, dict) else layer)] = None
        elif node.op == "training_only":
            found[node.attrs["layer"]] = None
        elif is_leaky_relu(graph, node):
            found.update(dict.fromkeys(("LeakyReLU", "PReLU")))
        else:
            found.update(dict.fromkeys(layer_forms.class_names(graph, node)))
    if [node.op for node in products] == ["depthwise_conv", "conv"]:
        found.update(dict.fromkeys(("SeparableConv1D", "SeparableConv2D")))
    return tuple(found)
