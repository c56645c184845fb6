"""Every invariant of a graph: a valid graph passes, and each way to break one gives its own sentence."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.ir import Node, TensorType
from graffiti.graph.printer import parse
from graffiti.graph.verify import GraphError, problems, verify_graph
from graffiti.numerics.formats import QFormat

INTEGER = """
integer graph net
input %x:f32[_,8,8,4]
const %c/kernel:s8@[-7,-8,-7,-6][3,3,4,4] = random(1)
const %c/bias:s32@[-14,-15,-14,-13][4] = [1, 2, 3, 4]
const %t:u8@-8[256] = random(3)
const %d/kernel:s8@-7[256,10] = random(4)
%x_q = quantize(%x) {format=s8@-7}
%c/product = conv(%x_q, %c/kernel) {strides=(1, 1), padding='same', dilation=(1, 1), groups=1}
%c = bias_add(%c/product, %c/bias)
%c_q = requantize(%c) {format=s8@-7, low=0, high=96}
%s = add(%c_q, %x_q)
%s_q = requantize(%s) {format=s8@-6, rounding='half_even'}
%l = lookup(%s_q, %t) {format=u8@-8}
%j = concat(%x_q, %c_q) {axis=-1}
%p = max_pool(%l) {pool_size=(2, 2), strides=(1, 1), padding='same'}
%r = relu(%x_q) {max_code=96}
%f = reshape(%p) {shape=(256,)}
%d = dense(%f, %d/kernel)
%d_q = requantize(%d) {format=s8@-3}
%y = dequantize(%d_q)
%z = softmax(%y)
%j_y = dequantize(%j)
%r_y = dequantize(%r)
output %z, %j_y, %r_y
"""
FLOAT = """
float graph net
input %x:f32[_,8,8,4]
const %k:f32[3,3,4,6] = random(1)
const %b:f32[6] = random(2)
const %gamma:f32[6] = random(3)
const %variance:f32[6] = full(1.0)
%c = conv(%x, %k) {strides=(2, 2), padding='valid', dilation=(1, 1)}
%bias = bias_add(%c, %b)
%n = batch_norm(%bias, %gamma, %b, %b, %variance) {epsilon=0.001}
%p = average_pool(%n) {pool_size=(3, 3), strides=(3, 3)}
%m = mean(%n) {axes=(1, 2)}
%y = permute(%p) {dims=(3, 1, 2)}
output %y, %m
"""
FAKEQUANT = ("""
fakequant graph net
input %x:f32[_,4]
const %k:f32[4,6] = random(1)
const %b:f32[6] = random(2)
%x_q = fake_quantize(%x) {bits=8, signed=True, log2_threshold=(0.5,)}
%q_k = fake_quantize(%k) {bits=8, signed=True, narrow=True, channel_axis=-1, role='weight', log2_threshold=(0.0, 0.0, 0.0, 1.0, 1.0, 2.0)}
%p = dense(%x_q, %q_k)
%q_b = quantize_bias(%b, %x_q, %q_k)
%y = bias_add(%p, %q_b)
%y_q = fake_quantize(%y) {bits=8, signed=True, group='shared'}
%z_q = fake_quantize(%p) {bits=8, signed=True, group='shared'}
output %y_q, %z_q
""")


@pytest.mark.parametrize("text", [INTEGER, FLOAT, FAKEQUANT], ids=["integer", "float", "fakequant"])
def test_valid_graphs_have_no_problems(text):
    graph = parse(text)
    assert problems(graph) == []
    verify_graph(graph)


def set_attr(name, **attrs):
    return lambda graph: graph.node(name).attrs.update(attrs)


def drop_attr(name, key):
    return lambda graph: graph.node(name).attrs.pop(key)


def set_inputs(name, *inputs):
    return lambda graph: setattr(graph.node(name), "inputs", inputs)


def set_type(name, shape, format=None):
    return lambda graph: graph.types.update({name: TensorType(shape, format)})


def set_constant(name, array):
    return lambda graph: graph.constants.update({name: array})


def rekind(name, op, **attrs):
    def change(graph):
        node = graph.node(name)
        node.op, node.attrs = op, attrs
    return change


def move_first(name):
    def change(graph):
        node = graph.node(name)
        graph.nodes.remove(node)
        graph.nodes.insert(0, node)
    return change


FAULTS = [
    # the graph as a whole
    (INTEGER, move_first("c"), r"node 'c' \(bias_add\) reads 'c/product', which a later node makes: sort the graph"),
    (INTEGER, set_inputs("d", "nowhere", "d/kernel"), r"node 'd' \(dense\) reads 'nowhere', which nothing defines"),
    (INTEGER, lambda g: g.nodes.append(Node("relu", ("x_q",), ("c",))), r"node 'c' \(relu\) defines 'c' a second time"),
    (INTEGER, lambda g: g.inputs.append("t"), "constant 't' is defined twice"),
    (INTEGER, lambda g: g.outputs.append("gone"), "the graph returns 'gone', which nothing defines"),
    (INTEGER, lambda g: g.outputs.clear(), "the graph returns nothing"),
    (INTEGER, lambda g: g.types.pop("c"), "the value 'c' has no type"),
    (INTEGER, set_type("ghost", (1,)), "there is a type for 'ghost', which is no value of the graph"),
    (INTEGER, lambda g: setattr(g, "stage", "half"), "a stage is one of float, fakequant, integer, got 'half'"),
    (INTEGER, lambda g: setattr(g.node("c"), "outputs", ()), "a node of op 'bias_add' has no outputs"),
    # form
    (INTEGER, rekind("r", "reluu"), r"node 'r' \(reluu\): there is no such op"),
    (
        INTEGER, rekind("r", "training_only", layer="Dropout"),
        r"node 'r' \(training_only\): the op stands in float and fakequant graphs only, this one is integer"
    ),
    (INTEGER, set_inputs("c", "c/product"), r"expected 2 inputs \(x bias\), got 1"),
    (INTEGER, set_inputs("j"), r"expected at least 1 inputs \(x...\), got 0"),
    (INTEGER, drop_attr("c/product", "strides"), r"node 'c/product' \(conv\): the attribute 'strides' is missing"),
    (
        INTEGER, set_attr("c/product", stride=2),
        r"the attribute 'stride' is unknown; expected strides, padding, dilation, groups"
    ),
    (FLOAT, set_attr("bias", x=1), "the attribute 'x' is unknown; expected fixed"),
    # attribute values
    (
        INTEGER, set_attr("c/product", strides=(1,)),
        "strides must be 2 positive integers, one per spatial axis, got \\(1,\\)"
    ),
    (INTEGER, set_attr("c/product", dilation=(0, 1)), "dilation must be 2 positive integers"),
    (INTEGER, set_attr("p", padding="full"), "padding is same or valid, got 'full'"),
    (
        INTEGER, set_attr("d_q", rounding="nearest"),
        "rounding is one of half_even, half_up, half_away, floor, got 'nearest'"
    ),
    (INTEGER, set_attr("d_q", low=-300), "low must be a code of s8@-3, got -300"),
    (INTEGER, set_attr("c_q", low=97), "low must not exceed high, got 97 and 96"),
    (INTEGER, set_attr("d_q", format="s8@-3"), "format must be a QFormat, got 's8@-3'"),
    (INTEGER, set_attr("j", axis=0), "axis must be one of 1 to 3 \\(or negative, never the batch\\), got 0"),
    (INTEGER, set_attr("r", max_value=6.0), "an integer ReLU is limited by max_code"),
    (FLOAT, set_attr("y", dims=(1, 2, 2)), "dims must be an order of the axes 1 to 3"),
    (FLOAT, set_attr("m", axes=(0, 1)), "axes must be among 1 to 3 \\(never the batch\\)"),
    (FLOAT, rekind("y", "pad", pads=((1, 1), (0, 0))), r"pads must be 3 pairs \(before, after\)"),
    (FLOAT, rekind("y", "crop", crops=((1, 1), (0, 0), (0, -1))), "crops must be 3 pairs"),
    (FLOAT, rekind("y", "slice", slices=((0, None, 1), (3, 3, 1), (0, None, 1))), "slices must be 3 triples"),
    (FLOAT, rekind("y", "slice", slices=((0, None, 1), (0, None, 1))), "slices must be 3 triples"),
    (FLOAT, rekind("y", "take", axis=1, indices=()), "indices must be at least one of 0 to"),
    (FLOAT, rekind("y", "take", axis=1, indices=(0, 100)), "indices must be at least one of 0 to"),
    (FLOAT, rekind("y", "take", axis=0, indices=(0,)), "axis must be one of 1 to 3"),
    (FAKEQUANT, set_attr("x_q", bits=17), "bits must be 2 to 16, got 17"),
    (FAKEQUANT, set_attr("x_q", signed=False, narrow=True), "an unsigned quantizer cannot be narrow"),
    (
        FAKEQUANT, set_attr("q_k", log2_threshold=(0.0,)),
        r"log2_threshold must hold 6 values \(channel_axis -1\), got 1"
    ),
    (
        FAKEQUANT, set_attr("z_q", bits=4),
        "quantizers 'y_q' and 'z_q' share the threshold 'shared' but have bits 8 and 4"
    ),
    (FAKEQUANT, set_attr("z_q", signed=False), "share the threshold 'shared' but have signed True and False"),
    (
        FAKEQUANT, set_attr("z_q", log2_threshold=(1.0,)),
        "share the threshold 'shared' but have log2_threshold None and"
    ),
    # shapes
    (INTEGER, set_attr("c/product", groups=2), "the kernel \\(3, 3, 4, 4\\) expects 8 input channels, got 4"),
    (INTEGER, set_attr("f", shape=(255,)), r"256 elements do not fill the shape \(255,\)"),
    (INTEGER, set_inputs("c", "c/product", "t"), r"'t' must have shape \(4,\), one value per channel, got \(256,\)"),
    (INTEGER, set_inputs("j", "x_q", "t"), r"the shapes \(None, 8, 8, 4\) and \(256,\) differ beside axis 3"),
    (
        FLOAT, rekind("y", "crop", crops=((1, 1), (0, 0), (0, 0))),
        "holds nothing; the window or crop is larger than the input"
    ),
    (FLOAT, set_inputs("bias", "c", "k"), r"'k' must have shape \(6,\)"),
    (FLOAT, rekind("y", "add"), r"expected 2 inputs \(x y\), got 1"),
    (INTEGER, set_inputs("s", "c_q", "t"), "do not broadcast"),
    # formats
    (INTEGER, set_inputs("r", "x"), "'x' is float; the op takes codes, put a quantize in front"),
    (INTEGER, set_inputs("z", "d_q"), r"'d_q' holds codes \(s8@-3\); the op takes floats, put a dequantize in front"),
    (INTEGER, set_attr("x_q", format=QFormat(8, True, (-7,) * 4)), "an activation has one exponent"),
    (
        INTEGER, set_inputs("s", "c", "x_q"),
        r"'c' is at exponent \(-14, -15, -14, -13\), 'x_q' at -7; sums need one exponent"
    ),
    (INTEGER, set_inputs("j", "x_q", "l"), "'x_q' has the format s8@-7, 'l' has u8@-8; all inputs need one format"),
    (
        INTEGER, set_attr("l", format=QFormat(8, False, -7)),
        "the table holds codes of u8@-8, the attribute format says u8@-7"
    ),
    (
        INTEGER,
        lambda g: (
            set_attr("s_q", format=QFormat(4, True, -6))(g), set_type("s_q", (None, 8, 8, 4), QFormat(4, True, -6))(g)
        ),
        "the table must have 16 entries, one per code of s4@-6"
    ),
    (INTEGER, set_attr("d_q", format=QFormat(8, True, (0, 1))), "exponents per channel must be 10, got \\[2\\]"),
    (
        FLOAT, set_type("c", (None, 3, 3, 6), QFormat(8, True, 0)),
        "'c' has the format s8@0; values of a float graph are float32"
    ),
    # types
    (
        INTEGER, set_type("d", (None, 10), QFormat(32, True, -14)),
        r"the type of 'd' is s32@-14\[_,10\], from its inputs follows s32@-15\[_,10\]"
    ),
    (FLOAT, set_type("m", (None, 1, 1, 6)), r"the type of 'm' is f32\[_,1,1,6\], from its inputs follows f32\[_,6\]"),
    # constants
    (INTEGER, set_constant("t", np.zeros(256, np.int16)), "constant 't' is int16; its format u8@-8 is stored as uint8"),
    (INTEGER, set_constant("t", np.zeros(255, np.uint8)), r"constant 't' has shape \(255,\), its type says \(256,\)"),
    (
        INTEGER, lambda g: g.add_constant("w", np.zeros(3, np.float32)),
        "constant 'w' is float; an integer graph holds codes"
    ),
    (
        INTEGER, lambda g: g.add_constant("w", np.array([8, 0], np.int8), QFormat(4, True, 0)),
        "constant 'w' holds codes from 0 to 8; s4@0 has -8 to 7"
    ),
    (FLOAT, set_constant("b", np.zeros(6)), "constant 'b' is float64; a constant without a format is float32"),
    (
        FLOAT, lambda g: g.add_constant("w", np.zeros(3, np.int8), QFormat(8, True, 0)),
        "constant 'w' has the format s8@0; a float graph holds float32"
    ),
    (
        FLOAT, lambda g: g.node("y").attrs.update(weights=("gone",)),
        "names 'gone' in its attributes, which is no constant"
    ),
    # how users see it
    (
        INTEGER, lambda g: g.interface.update(outputs=[0, {"a": 1, "b": 7}]),
        r"lists the outputs \[0, 1, 7\]; expected numbers from 0 to 2"
    ),
    (INTEGER, lambda g: g.interface.update(outputs=-1), r"lists the outputs \[-1\]"),
    (INTEGER, lambda g: g.interface.update(inputs=["x"]), r"lists the inputs \['x'\]; expected numbers from 0 to 0"),
    (
        INTEGER, lambda g: g.interface.update(input_dtypes=["uint8", "int8"]),
        "names the dtypes of 2 inputs, the graph has 1"
    ),
]


@pytest.mark.parametrize("text, change, message", FAULTS, ids=[fault[2][:40] for fault in FAULTS])
def test_each_fault_has_its_sentence(text, change, message):
    graph = parse(text)
    change(graph)
    with pytest.raises(GraphError, match=message):
        verify_graph(graph)


def test_the_first_ten_faults_are_listed():
    graph = parse(INTEGER)
    for index in range(14):
        graph.types[f"ghost{index:02}"] = TensorType(())
    with pytest.raises(GraphError) as caught:
        verify_graph(graph)
    assert "ghost09" in str(caught.value) and "ghost10" not in str(caught.value) and "and 4 more" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_islands_keep_float_weights_and_moves_may_stand_beside_them():
    graph = parse("""
        integer graph g
        input %x:f32[_,4,4]
        const %i/w:f32[2] = [0.5, 1.0]
        %i, %i:1 = island(%x) {layer={'class': 'Attention'}, output_shapes=((None, 4, 4), (None, 2)), reason='no rule', weights=('i/w',)}
        %f = reshape(%i) {shape=(16,)}
        %f_q = quantize(%f) {format=s8@-7}
        %y = dequantize(%f_q)
        output %y, %i:1
    """)
    assert problems(graph) == []
    graph.node("i").inputs = ("f_q",)
    assert any("which a later node makes" in fault for fault in problems(graph))
