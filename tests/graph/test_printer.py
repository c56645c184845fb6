"""Graphs as text: the round trip is exact, what is written by hand is understood, faults name their line."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.ir import Graph, Node, TensorType
from graffiti.graph.printer import INLINE, parse, to_text
from graffiti.graph.verify import verify_graph
from graffiti.numerics.formats import QFormat

INTEGER = """\
integer graph small
input %x:f32[_,8,8,3]
const %c/kernel:s8n@-7[3,3,3,4] = random(1)
const %c/bias:s32@-14[4] = [3, -5, 0, 100]
%x_q:u8@-7[_,8,8,3] = quantize(%x) {format=u8@-7}
%c/product:s32@-14[_,8,8,4] = conv(%x_q, %c/kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
%c:s32@-14[_,8,8,4] = bias_add(%c/product, %c/bias)
%c_q:u8@-6[_,8,8,4] = requantize(%c) {format=u8@-6, rounding='half_even', low=0}
%y:f32[_,8,8,4] = dequantize(%c_q)
output %y
"""


def same(a: Graph, b: Graph) -> None:
    assert (a.stage, a.name, a.inputs, a.outputs, a.interface) == (b.stage, b.name, b.inputs, b.outputs, b.interface)
    assert a.types == b.types and list(a.constants) == list(b.constants)
    assert (
        [(n.op, n.inputs, n.outputs, n.attrs) for n in a.nodes]
        == [(n.op, n.inputs, n.outputs, n.attrs) for n in b.nodes]
    )
    assert [list(n.attrs) for n in a.nodes] == [list(n.attrs) for n in b.nodes]
    for name, array in a.constants.items():
        assert (
            array.dtype == b.constants[name].dtype
            and np.array_equal(array, b.constants[name], equal_nan=array.dtype.kind == "f")
        )


def test_hand_written_text_round_trips():
    graph = parse(INTEGER)
    verify_graph(graph)
    text = to_text(graph)
    assert text == INTEGER.replace(" = random(1)", "")
    same(parse(text, graph.constants), graph)
    assert to_text(parse(text, graph.constants)) == text


def test_node_types_may_be_left_out():
    stripped = "\n".join(
        line.split(":")[0] + " =" + line.split("=", 1)[1] if line.startswith("%") else line
        for line in INTEGER.splitlines()
    )
    assert ":s32@-14[_" not in stripped
    same(parse(stripped), parse(INTEGER))


def test_random_values_are_within_the_format_and_repeatable():
    graph = parse(INTEGER)
    kernel = graph.constants["c/kernel"]
    assert kernel.dtype == np.int8 and kernel.min() >= -127 and len(np.unique(kernel)) > 50
    assert (kernel == parse(INTEGER).constants["c/kernel"]).all()
    reals = parse("float graph g\nconst %k:f32[50] = random(2)\nconst %h:f32[2,2] = full(0.5)\noutput %k").constants
    assert reals["k"].dtype == np.float32 and -1 <= reals["k"].min() < 0 < reals["k"].max() <= 1
    assert (reals["h"] == np.full((2, 2), 0.5, np.float32)).all()


def awkward() -> Graph:
    """Every kind of name, attribute, type and constant that a graph may hold."""
    graph = Graph(
        "fakequant", name='a "quoted" näme',
        interface={"inputs": {"x": (None, 3)}, "dtypes": ["uint8", None], "flag": True}
    )
    names = [
        "x", "in ner/x:call1", 'q"uote', "naïve/ünïcode", "a:1", "back\\slash", "line\nbreak\u2028", "comma, (paren)",
        "%percent", "#hash", "ends:"
    ]
    for name in names:
        graph.inputs.append(name)
        graph.types[name] = TensorType((None, 3))
    graph.types["scalar"] = TensorType(())
    graph.constants["scalar"] = np.float32(0.1) + np.zeros((), np.float32)
    attrs = {
        "bits": 8, "signed": False, "group": "it's # a \"group\"", "log2_threshold": (0.1, -1e-30, float("inf")),
        "one": (1,), "empty": (), "list": [1, [2, ()]],
        "map": {"a": {"b": (None, True)}, 3: -2}, "format": QFormat(8, True, (-7, 3), True),
        "nested": (QFormat(16, False, 2), "text\n"), "minus": -0.0,
    }
    previous = "x"
    for index, name in enumerate(names[1:]):
        node = Node("fake_quantize", (previous, name), (f"n{index}", f"n{index}:1"), dict(attrs))
        graph.nodes.append(node)
        graph.types[f"n{index}"] = TensorType((None, 3))
        graph.types[f"n{index}:1"] = TensorType((), QFormat(8, True, (-1, 2)))
        previous = f"n{index}"
    rng = np.random.default_rng(0)
    for name, array in {
        "k/small": np.array([[0.1, 1e-45, 3.4e38], [-0.0, np.inf, 1 / 3]], np.float32),
        "k/large": rng.normal(size=(5, 7)).astype(np.float32),
        "k/none": np.zeros((0, 3), np.float32), "k/nan": np.array([np.nan, 1], np.float32), "k/double": np.array([0.1]),
    }.items():
        graph.add_constant(name, array)
    graph.add_constant("k/codes", np.array([-128, 127], np.int8), QFormat(8, True, -7))
    graph.outputs = [previous, "x", previous, "k/small"]
    return graph


def test_awkward_graph_round_trips():
    graph = awkward()
    same(parse(to_text(graph), graph.constants), graph)
    assert to_text(parse(to_text(graph), graph.constants)) == to_text(graph)


def test_inlined_values_are_exact():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    graph = Graph("float", outputs=["k"])
    graph.add_constant("k", values)
    same(parse(to_text(graph, inline=10**6)), graph)


def test_only_small_constants_are_inlined():
    graph = Graph("float", outputs=["a"])
    graph.add_constant("a", np.ones(INLINE, np.float32))
    graph.add_constant("b", np.ones(INLINE + 1, np.float32))
    text = to_text(graph)
    assert f"const %a:f32[{INLINE}] = [1.0, " in text and f"const %b:f32[{INLINE + 1}]\n" in text
    with pytest.raises(ValueError, match="constant 'b' is only declared"):
        parse(text)


def test_numpy_scalars_become_plain_and_other_objects_are_refused():
    graph = parse("float graph g\ninput %x:f32[_,2]\n%y = relu(%x) {max_value=6.0}\noutput %y")
    graph.nodes[0].attrs["max_value"] = np.float32(6)
    assert "{max_value=6.0}" in to_text(graph)
    graph.nodes[0].attrs["max_value"] = {1, 2}
    with pytest.raises(
        TypeError, match="attribute 'max_value' of node 'y' must be a plain Python value or a QFormat .* got set"
    ):
        to_text(graph)


def test_comments_and_spaces():
    graph = parse("""
        # a graph

        float graph g     # trailing
        input %x : f32[_, 2]  # "quoted"
        %y = relu( %x ) { max_value = 6.0 }
        const %k: f32[2] = [1, 2]
        output %y , %y
    """.replace("%x :", "%x:"))
    assert (
        graph.outputs == ["y", "y"] and graph.types["y"] == TensorType((None, 2))
        and graph.constants["k"].tolist() == [1, 2]
    )


@pytest.mark.parametrize("line, message", [
    ("%y = nothing(%x)", "there is no op 'nothing'"),
    ("%y = relu(%z)", "does not follow from its inputs"),
    ("%y = relu(%x", r"expected '\)'"),
    ("%y = relu(%x) max_value=6", "expected attributes in braces"),
    ("%y = relu(%x) {max_value=}", "expected Python literals"),
    ("%y = relu(%x) {max_value=open('f')}", "expected a Python literal or a format like s8@-7, not .open"),
    ("%y = relu(%x) {6}", "expected attributes as {key=value"),
    ("%y:q8[2] = relu(%x)", "expected a type like"),
    ("%x = relu(%x)", "the value 'x' is defined twice"),
    ("y = relu(%x)", "expected '%'"),
    ("%y, %z = relu(%x)", "relu has 1 outputs"),
    ("const %k:f32[2] = [1, 2, 3]", "declared with shape"),
    ("const %k:f32[_] = [1]", "type with a full shape"),
    ("const %k:f32[2] = [1, 2", "expected Python literals"),
    ("const %k:s8@0[1] = [200]", "expected integers from -128 to 127"),
    ("const %k:s8@0[1] = [0.5]", "expected integers from -128 to 127"),
    ("input %k", "input 'k' needs a type"),
    ("input %k:f32[2] more", "did not expect 'more'"),
    ("float graph again", "expected '%'"),
])
def test_faults_name_the_line(line, message):
    with pytest.raises(ValueError, match=rf"graph text, line 3: .*{message}"):
        parse(f"float graph g\ninput %x:f32[_,2]\n{line}\noutput %x")


def test_text_that_is_no_graph():
    for text in ("", "# nothing", "float graph g\ninput %x:f32[2]"):
        with pytest.raises(ValueError, match="starts with 'integer graph name' and ends with an output line"):
            parse(text)
    with pytest.raises(ValueError, match="line 1: expected a first line like"):
        parse("hello")
    with pytest.raises(ValueError, match="line 4: expected nothing after the output line"):
        parse("float graph g\ninput %x:f32[2]\noutput %x\n%y = relu(%x)")
