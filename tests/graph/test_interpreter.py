"""The oracle: the published numbers through a graph (C10, C11), every op by name, memory, inputs, islands, faults."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph import interpreter
from graffiti.graph.ir import Node
from graffiti.graph.ops import OPS
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph
from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat

C10 = """
integer graph c10
input %x:f32[_,3]
const %w:s8@-7[3,2] = [[38, -70], [102, 13], [-54, 122]]
const %b:s16@-14[2] = [213, -6554]
%x_q = quantize(%x) {format=u8@-7}
%product = dense(%x_q, %w)
%accumulator = requantize(%product) {format=s16@-14}
%sum = bias_add(%accumulator, %b)
%y_q = requantize(%sum) {format=u8@-8, low=0}
%y = dequantize(%y_q)
output %y
"""
C11 = """
integer graph c11
input %x:f32[_,2]
const %alpha:s16@-18[1] = [26214]
%x_q = quantize(%x) {format=s16@-14}
%product = multiply(%x_q, %alpha)
%slope = requantize(%product) {format=s16@-14}
%largest = maximum(%x_q, %slope)
%y_q = requantize(%largest) {format=s8@-7}
%y = dequantize(%y_q)
output %y
"""


def test_c10_compute_layer():
    graph = parse(C10)
    verify_graph(graph)
    w = reference.quantize([[0.30, -0.55], [0.80, 0.10], [-0.42, 0.95]], QFormat(8, True, -7))
    assert (w == graph.constants["w"]).all()
    assert (reference.quantize([0.013, -0.4], QFormat(16, True, -14)) == graph.constants["b"]).all()
    values = interpreter.run(graph, np.array([[0.7, 0.2, 1.1]]), values=True)
    assert values["x_q"].tolist() == [[90, 26, 141]]
    assert values["product"].tolist() == values["accumulator"].tolist() == [[-1542, 11240]]
    assert values["y_q"].tolist() == [[0, 73]]
    assert values["y"].tolist() == [[0, 0.28515625]]
    assert [values[name].dtype for name in ("x", "x_q", "product", "accumulator", "y_q", "y")] == [
        np.float32, np.uint8, np.int32, np.int16, np.uint8, np.float32,
    ]


def test_c11_leaky_relu():
    graph = parse(C11)
    verify_graph(graph)
    assert (
        reference.quantize(0.1, QFormat(16, True, -18)) == 26214
        and 26214 * 2.0**-18 == pytest.approx(0.0999985, abs=1e-7)
    )
    values = interpreter.run(graph, np.array([[-1.3, 0.8]]), values=True)
    assert (
        (values["x_q"] * 2.0**-14).tolist()
        == [[pytest.approx(-1.2999878, abs=1e-7), pytest.approx(0.7999878, abs=1e-7)]]
    )
    assert values["y"].tolist() == [[-0.1328125, 0.796875]]


ALL_OPS = """
integer graph everything
input %x:f32[_,6,6,4]
input %v:f32[_,6,4]
const %shift:f32[6,1] = random(9)
const %k:s8n@-7[3,3,2,8] = random(1)
const %kd:s8@-7[3,3,4,2] = random(2)
const %kt:s8@-6[3,3,5,4] = random(3)
const %k1:s8@[-7,-6,-8][2,4,3] = random(4)
const %kf:s4@-3[16,5] = random(5)
const %bias:s32@-14[8] = [1, -2, 3, -4, 5, -6, 7, -8]
const %map:u8@-8[1,6,6,1] = random(7)
const %t:u8@-8[256] = random(8)
%xq = quantize(%x) {format=s8@-7, rounding='half_away'}
%vr = rescaling(%v) {scale=(1.5, 1.0, -1.0, 0.5), offset='shift'}
%vq = quantize(%vr) {format=s8@-6}
%c = conv(%xq, %k) {strides=(2, 1), padding='same', dilation=(1, 1), groups=2}
%cr = requantize(%c) {format=s16@-9, rounding='floor'}
%d = depthwise_conv(%xq, %kd) {strides=(1, 1), padding='same', dilation=(2, 2)}
%dr = requantize(%d) {format=s8@-5, rounding='half_up', low=0, high=96}
%ct = conv_transpose(%xq, %kt) {strides=(2, 2), padding='same', output_padding=(1, 1)}
%ctr = requantize(%ct) {format=u8@-4}
%c1 = conv(%vq, %k1) {strides=(1,), padding='valid', dilation=(2,)}
%c1r = requantize(%c1) {format=s8@-4}
%m = multiply(%xq, %map)
%mr = requantize(%m) {format=s8@-7}
%a = add(%xq, %mr)
%s = subtract(%a, %a)
%ar = requantize(%a) {format=s8@-6}
%mx = maximum(%xq, %mr)
%mn = minimum(%xq, %mr)
%rl = relu(%mx) {max_code=60}
%l = lookup(%xq, %t) {format=u8@-8}
%p = max_pool(%l) {pool_size=(3, 3), strides=(2, 2), padding='same'}
%av = average_pool(%xq) {pool_size=(3, 2), strides=(2, 2), padding='same', format=u8@-9, rounding='half_up', low=3}
%g = global_max_pool(%mx) {axes=(1, 2)}
%j = concat(%mx, %rl) {axis=-1}
%pd = pad(%j) {pads=((1, 0), (0, 2), (0, 0))}
%cp = crop(%pd) {crops=((0, 1), (1, 0), (0, 4))}
%sl = slice(%cp) {slices=((0, None, 1), (1, 6, 2), (0, None, 1))}
%tk = take(%sl) {axis=2, indices=(2, 2, 0)}
%u = upsample(%tk) {size=(1, 2)}
%pm = permute(%u) {dims=(3, 1, 2)}
%f = reshape(%g) {shape=(2, 2)}
%f4 = reshape(%pd) {shape=(28, 16)}
%fd = dense(%f4, %kf)
%fr = requantize(%fd) {format=s8@-6}
%y0 = dequantize(%fr)
%y1 = softmax(%y0)
%o1 = dequantize(%cr)
%o2 = dequantize(%dr)
%o3 = dequantize(%ctr)
%o4 = dequantize(%c1r)
%o5 = dequantize(%ar)
%o6 = dequantize(%p)
%o7 = dequantize(%pm)
%o8 = dequantize(%f)
%o9 = dequantize(%s)
%o10 = dequantize(%av)
%xb = bias_add(%c, %bias)
%ob = dequantize(%xb)
output %y1, %o1, %o2, %o3, %o4, %o5, %o6, %o7, %o8, %o9, %o10, %ob
"""


def everything(batch=3):
    graph = parse(ALL_OPS)
    verify_graph(graph)
    rng = np.random.default_rng(0)
    return graph, {"x": rng.uniform(-1.2, 1.2, (batch, 6, 6, 4)), "v": rng.uniform(-3, 3, (batch, 6, 4))}


def test_every_integer_op_runs_and_has_the_type_it_says():
    graph, inputs = everything()
    integer = {name for name, row in OPS.items() if "integer" in row.stages}
    assert {node.op for node in graph.nodes} == integer - {"island"} and set(interpreter.RULES) == integer - {"island"}
    values = interpreter.run(graph, inputs, values=True)
    assert set(values) == set(graph.types) - set(graph.constants)
    for name, array in values.items():
        type = graph.types[name]
        assert array.dtype == (np.float32 if type.format is None else type.format.dtype), name
        assert array.shape == (3, *type.shape[1:]), name
    # each through the reference by hand, from the values in front of it
    v, k = values, graph.constants
    by_hand = {
        "xq": reference.quantize(np.float32(inputs["x"]), QFormat(8, True, -7), "half_away"),
        "c": reference.conv(v["xq"], k["k"], (2, 1), "same", (1, 1), 2),
        "cr": reference.requantize(v["c"], QFormat(32, True, -14), QFormat(16, True, -9), "floor"),
        "d": reference.depthwise_conv(v["xq"], k["kd"], (1, 1), "same", (2, 2)),
        "dr": reference.requantize(v["d"], QFormat(32, True, -14), QFormat(8, True, -5), "half_up", 0, 96),
        "ct": reference.conv_transpose(v["xq"], k["kt"], (2, 2), "same", (1, 1)),
        "c1": reference.conv(v["vq"], k["k1"], (1,), "valid", (2,)),
        "c1r": reference.requantize(v["c1"], QFormat(32, True, (-13, -12, -14)), QFormat(8, True, -4)),
        "m": v["xq"].astype(int) * k["map"].astype(int),
        "a": v["xq"].astype(int) + v["mr"].astype(int),
        "s": np.zeros_like(v["a"]),
        "mx": np.maximum(v["xq"], v["mr"]),
        "mn": np.minimum(v["xq"], v["mr"]),
        "rl": np.clip(v["mx"], 0, 60),
        "l": k["t"][v["xq"].astype(int) + 128],
        "p": reference.max_pool(v["l"], (3, 3), (2, 2), "same"),
        "av": reference.average_pool(
            v["xq"], (3, 2), (2, 2), "same", QFormat(8, True, -7), QFormat(8, False, -9), "half_up", 3
        ),
        "g": v["mx"].max((1, 2)),
        "j": np.concatenate([v["mx"], v["rl"]], -1),
        "pd": np.pad(v["j"], ((0, 0), (1, 0), (0, 2), (0, 0))),
        "cp": v["pd"][:, :-1, 1:, :-4],
        "sl": v["cp"][:, :, 1:6:2],
        "tk": v["sl"][:, :, [2, 2, 0]],
        "u": np.repeat(v["tk"], 2, 2),
        "pm": v["u"].transpose(0, 3, 1, 2),
        "f": v["g"].reshape(-1, 2, 2),
        "fd": v["f4"].astype(int) @ k["kf"].astype(int),
        "xb": v["c"].astype(int) + k["bias"],
        "y0": v["fr"] * np.float32(2.0**-6),
        "y1": reference.softmax(v["y0"]),
    }
    for name, expected in by_hand.items():
        assert (values[name] == expected).all(), name


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_outputs_do_not_depend_on_how_they_are_asked_for(batch):
    graph, inputs = everything(batch)
    values = interpreter.run(graph, inputs, values=True)
    for given in (inputs, [inputs["x"], inputs["v"]]):
        outputs = interpreter.run(graph, given)
        assert len(outputs) == len(graph.outputs)
        for name, array in zip(graph.outputs, outputs):
            assert array.dtype == np.float32 and array.shape[0] == batch and (array == values[name]).all()
    alone = [interpreter.run(graph, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(batch)]
    for position in range(len(graph.outputs)):
        assert all((one[position][0] == outputs[position][i]).all() for i, one in enumerate(alone))


def test_intermediate_values_are_freed():
    graph = parse("integer graph g\ninput %a:s8@0[_,4]\n" + "".join(
        f"%v{i} = relu(%{'a' if i == 0 else f'v{i - 1}'})\n" for i in range(9)
    ) + "output %v8")
    alive = []

    def compute(node, arrays):
        alive.append(len(gc_probe))
        gc_probe[node.name] = array = np.array(arrays[0])
        return [array]

    import weakref

    gc_probe = weakref.WeakValueDictionary()
    interpreter.walk(graph, np.zeros((2, 4), np.int8), compute)
    assert max(alive) <= 2  # the value being read and the one just made


def test_softmax_may_be_left_out():
    graph, inputs = everything()
    values = interpreter.run(graph, inputs, values=True)
    assert (interpreter.run(graph, inputs, softmax=False)[0] == values["y0"]).all()
    assert not (values["y0"] == values["y1"]).all()


def test_an_input_may_hold_codes_and_be_an_output_twice():
    graph = parse("integer graph g\ninput %a:s8@-3[_,2]\n%r = relu(%a)\noutput %r, %a, %r")
    r, a, again = interpreter.run(graph, np.array([[-3, 4]]))
    assert r.tolist() == again.tolist() == [[0, 4]] and a.tolist() == [[-3, 4]] and a.dtype == np.int8
    with pytest.raises(ValueError, match="input 'a' takes integer codes, got dtype float64"):
        interpreter.run(graph, np.zeros((1, 2)))
    with pytest.raises(
        ValueError, match=r"an input: the codes of 'a' run from 0 to 200, outside 8-bit signed \[-128, 127\]"
    ):
        interpreter.run(graph, np.array([[0, 200]]))


def test_an_accumulator_that_overflows_is_an_error():
    graph = parse("""
        integer graph g
        input %a:u16@0[_,3]
        const %k:s16@0[3,1] = full(32767)
        %c = dense(%a, %k)
        output %c
    """)
    assert interpreter.run(graph, np.full((1, 3), 21846, np.uint16))[0].tolist() == [[32767 * 21846 * 3]]
    with pytest.raises(ValueError, match=r"node 'c' \(dense\): the codes of 'c' run from .* outside 32-bit signed"):
        interpreter.run(graph, np.full((1, 3), 21847, np.uint16))


def test_islands():
    graph = parse("""
        integer graph g
        input %x:f32[_,2]
        %q = quantize(%x) {format=s8@-4}
        %d = dequantize(%q)
        %i, %i:1 = island(%d) {layer={}, output_shapes=((None, 2), (None, 1)), reason='no rule for Attention'}
        %iq = quantize(%i) {format=s8@-4}
        %y = dequantize(%iq)
        output %y, %i:1
    """)
    seen = []

    def island(node: Node, arrays):
        seen.append((node.name, arrays[0].tolist()))
        return [arrays[0] * 2, arrays[0].sum(-1, keepdims=True)]

    y, total = interpreter.run(graph, np.array([[0.5, 1.03]]), island=island)
    assert (
        seen == [("i", [[0.5, 1.0]])] and y.tolist() == [[1.0, 2.0]] and total.tolist() == [[1.5]]
        and total.dtype == np.float32
    )
    with pytest.raises(ValueError, match=r"layer 'i' stayed in float \(no rule for Attention\) .* pass island="):
        interpreter.run(graph, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="has 2 outputs, 1 were computed"):
        interpreter.run(graph, np.zeros((1, 2)), island=lambda node, arrays: arrays[0])


def test_wrong_inputs_are_sentences():
    graph, inputs = everything()
    with pytest.raises(ValueError, match=r"has 2 inputs \(x, v\), got 1 arrays"):
        interpreter.run(graph, inputs["x"])
    with pytest.raises(ValueError, match=r"missing: \['v'\], unknown: \['w'\]"):
        interpreter.run(graph, {"x": inputs["x"], "w": inputs["v"]})
    with pytest.raises(ValueError, match=r"input 'v' has shape \(None, 6, 4\) \(None: any size\), got \(3, 6, 5\)"):
        interpreter.run(graph, [inputs["x"], np.zeros((3, 6, 5))])
    with pytest.raises(ValueError, match="one batch size, got 3 examples for 'x' and 2 for 'v'"):
        interpreter.run(graph, [inputs["x"], inputs["v"][:2]])
    with pytest.raises(ValueError, match="input 'x' takes numbers, got dtype <U1"):
        interpreter.run(graph, [np.full((3, 6, 6, 4), "a"), inputs["v"]])
    inputs["x"][1, 2, 3, 0] = np.nan
    with pytest.raises(ValueError, match="the tensor 'x' holds 1 NaN"):
        interpreter.run(graph, inputs)
    with pytest.raises(ValueError, match="runs integer graphs, got stage 'float'"):
        interpreter.run(parse("float graph g\ninput %x:f32[_,2]\noutput %x"), np.zeros((1, 2)))


def test_float64_and_uint8_inputs_become_float32_first():
    graph = parse("integer graph g\ninput %x:f32[_,1]\n%q = quantize(%x) {format=s8@0}\noutput %q")
    below_half = np.array([[0.5 + 1e-12]])  # float32 rounds it to the tie, which goes to even
    assert interpreter.run(graph, below_half)[0].tolist() == [[0]]
    assert interpreter.run(graph, np.array([[100]], np.uint8))[0].tolist() == [[100]]
