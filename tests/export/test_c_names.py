"""User's names as C identifiers, comments and strings."""

from __future__ import annotations

import re

import c_graphs
import pytest

from graffiti.export.c.harness import CModel
from graffiti.export.c.names import KEYWORDS, Names, comment, identifier, model_identifier, string_literal


@pytest.mark.parametrize("text, expected", [
    ("conv2d_1", "conv2d_1"), ("block/conv", "block_conv"), ("modèle", "modele"), ("模型", "value"), ("3x3", "n3x3"),
    ("__init__", "init"), ("", "value"),
    ("a--b", "a_b"), ("naïve 模 net", "naive_net"),
])
def test_identifier(text, expected):
    assert identifier(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("resnet8", "resnet8"), ("int", "model_int"), ("main", "model_main"), ("String", "model_String"),
    ("graffiti", "model_graffiti"), ("8bit", "n8bit"), ("网", "model"),
])
def test_model_identifier(text, expected):
    assert model_identifier(text) == expected


def test_names_are_unique_without_regard_to_case():
    names = Names("net_", reserved=["net_run"])
    assert (
        [names.unique(t) for t in ("a/b", "a b", "A_B", "run", "run")]
        == ["net_a_b", "net_a_b_2", "net_A_B_3", "net_run_2", "net_run_3"]
    )
    assert Names().unique("while") not in KEYWORDS


def test_text_cannot_leave_a_comment_or_a_string():
    assert "*/" not in comment("end */ x ??/ \n é") and comment("a\\\nb??/") == "a__b__/"
    assert string_literal('a"b\\c??/é\n') == '"a\\042b\\134c\\077\\077/\\303\\251\\012"'
    assert re.fullmatch(r'"[ -~]*"', string_literal("模型\x00"))


@pytest.mark.parametrize("name", ["int", "main", "graffiti", "3 é", "網", "input", "NULL", "string", "vectors"])
def test_awkward_names_compile_and_run(name, tmp_path):
    """Names of the model, inputs and layers that collide with C, with the export's own names and with each other."""
    builder = c_graphs.Builder((4, 4, 3), name=name)
    graph = builder.graph
    a = builder.add_input((4, 4, 3), c_graphs.S8(-7), "while")
    b = builder.add_input((4, 4, 3), c_graphs.S8(-7), "While */ ??/")
    y = builder.node("requantize", "run", builder.node("add", "é/1", a, b), format=c_graphs.S8(-7))
    y = builder.node("requantize", "arena", builder.node("add", "e/1", y, builder.input), format=c_graphs.S8(-6))
    kernel = builder.kernel("trace", (3, 3, 3, 4))
    builder.kernel("Trace", (3, 3, 3, 4))
    y = builder.conv(y, 4, 'layer "x" \\', kernel=kernel)
    z = builder.conv(y, 4, "output", kernel=builder.kernel("input_while", (3, 3, 4, 4)))
    graph = builder.finish(z, y)
    inputs = c_graphs.real_inputs(graph, 3)
    traced = CModel(graph, ("-O0",)).run_all(inputs)
    assert 'layer "x" \\_q' in traced and "run" in traced
