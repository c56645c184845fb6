"""Which layer a node is part of: said by the node, in texts by its name; and that no pass decides by a name."""

from __future__ import annotations

import pytest

from graffiti.config import Rule
from graffiti.graph.ir import Graph
from graffiti.graph.printer import parse, to_text
from graffiti.schemes import get_static
from graffiti.transforms import pipelines

TEXT = """float graph net
input %x:f32[_,8,8,3]
const %c/kernel:f32[3,3,3,4] = random(1)
const %c/bias:f32[4] = random(2)
const %bn/gamma:f32[4] = full(1.5)
const %bn/beta:f32[4] = random(3)
const %bn/mean:f32[4] = random(4)
const %bn/variance:f32[4] = full(0.5)
const %s/dk:f32[3,3,4,1] = random(5)
const %s/pk:f32[1,1,4,4] = random(6)
const %s/bias:f32[4] = random(7)
const %b2/gamma:f32[4] = full(1.5)
const %b2/beta:f32[4] = random(8)
const %b2/mean:f32[4] = random(9)
const %b2/variance:f32[4] = full(0.5)
const %d/kernel:f32[4,5] = random(10)
%c/product = conv(%x, %c/kernel) {strides=(1, 1), padding='same', dilation=(1, 1), groups=1}
%c = bias_add(%c/product, %c/bias)
%bn = batch_norm(%c, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) {epsilon=0.01}
%r = relu(%bn)
%s/product = separable_conv(%r, %s/dk, %s/pk) {strides=(1, 1), padding='same', dilation=(1, 1)}
%s/linear = bias_add(%s/product, %s/bias)
%s = leaky_relu(%s/linear) {alpha=0.25}
%b2 = batch_norm(%s, %b2/gamma, %b2/beta, %b2/mean, %b2/variance) {epsilon=0.01}
%a = add(%r, %b2)
%p = average_pool(%a) {pool_size=(2, 2), strides=(2, 2)}
%m = mean(%p) {axes=(1, 2)}
%d = dense(%m, %d/kernel)
output %d
"""


def layers(graph: Graph) -> dict[str, str]:
    return {node.name: node.of_layer for node in graph.nodes}


def test_a_text_says_it_by_names():
    found = layers(parse(TEXT))
    assert found["c/product"] == found["c"] == "c" and found["s/linear"] == "s" and found["bn"] == "bn"


def test_a_text_may_say_it_and_that_counts():
    graph = parse(TEXT.replace("%c/product = conv(%x, %c/kernel)", "%c/product = conv(%x, %c/kernel) of %other"))
    assert layers(graph)["c/product"] == "other"
    text = to_text(graph)
    assert " of %other {strides" in text and text.count(" of ") == 1
    assert layers(parse(text, graph.constants)) == layers(graph)
    assert " of " not in to_text(parse(TEXT))


def test_it_survives_names_and_lowering():
    graph = parse(TEXT)
    graph.rename("c/product", "z")
    assert layers(graph)["z"] == "c" and layers(graph.copy())["z"] == "c"
    prepared = pipelines.prepare(graph)
    assert {layer for name, layer in layers(prepared).items() if name.startswith(("c", "s"))} == {"c", "s"}
    placed, _ = pipelines.place(prepared, "int8")
    lowered = pipelines.sketch(placed)
    products = {node.name: node.of_layer for node in lowered.nodes if node.op in ("conv", "depthwise_conv", "dense")}
    assert set(products.values()) == {"c", "s", "b2", "d"}


def test_a_new_node_is_part_of_what_it_stands_beside():
    graph = parse(TEXT)
    node = graph.node("s/linear")
    assert graph.insert("relu", ("s/linear",), "new", after=node).of_layer == "s"
    assert graph.insert("relu", ("s/linear",), "newer", before=node, layer="mine").of_layer == "mine"
    assert graph.insert("relu", ("s/linear",), "newest").of_layer == "newest"


def scrambled(graph: Graph) -> Graph:
    """The same graph, every node and constant called by a number; layers stay."""
    graph = graph.copy()
    for number, name in enumerate([*graph.constants, *(node.name for node in graph.nodes)]):
        graph.rename(name, f"v{number}")
    return graph


def decisions(graph: Graph, scheme: str) -> list:
    placed, lines = pipelines.place(
        pipelines.prepare(graph), scheme, [Rule("s", get_static(scheme).replace(leaky_relu_bits=12))]
    )
    kinds = [
        (node.op, node.of_layer if node.op in ("conv", "depthwise_conv", "dense", "bias_add") else "")
        for node in placed.nodes
    ]
    settings = [{key: value for key, value in node.attrs.items() if key != "group"} for node in placed.nodes]
    return [kinds, settings, [line.kind if hasattr(line, "kind") else line.what for line in lines]]


@pytest.mark.parametrize("scheme", ["int8", "int8_per_channel", "graffitist_int8"])
def test_no_pass_decides_by_a_name(scheme):
    graph = parse(TEXT)
    assert decisions(scrambled(graph), scheme) == decisions(graph, scheme)
