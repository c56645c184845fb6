"""Each lowering step on small graphs as text: before, after, what it leaves alone, what it refuses."""

import networks
import numpy as np
import pytest
from networks import text

from graffiti.graph.interpreter import run
from graffiti.graph.ops import infer_all
from graffiti.graph.passes import snapshot
from graffiti.graph.printer import parse, to_text
from graffiti.graph.verify import verify_graph
from graffiti.transforms import pipelines
from graffiti.transforms.lower.convert import Convert
from graffiti.transforms.lower.drop_requantize import DropRequantize
from graffiti.transforms.lower.fold_constants import FoldConstants
from graffiti.transforms.lower.splice_identity import SpliceIdentity

Q = "bits=8, signed=True, log2_threshold"  # s8 at exponent ceil(log2) - 7
U = "bits=8, signed=False, log2_threshold"
CONV = "strides=(1, 1), padding='same', dilation=(1, 1)"


def graph(body, stage="fakequant"):
    result = parse(f"{stage} graph net\n{body}")
    infer_all(result)
    return result


def apply(step, before):
    """Run a pass; it must keep its input and report honestly, and the result must be valid and stay as it is."""
    kept = snapshot(before)
    result = step(before)
    assert snapshot(before) == kept, "the pass changed its input"
    assert result.modified == (snapshot(result.graph) != kept)
    verify_graph(result.graph)
    if result.graph.stage == before.stage:
        again = step(result.graph)
        assert not again.modified and snapshot(again.graph) == snapshot(result.graph)
    return result.graph


def becomes(step, body, expected, stage="fakequant"):
    result = apply(step, graph(body, stage))
    assert to_text(result).splitlines()[1:] == text(expected).splitlines()


def refuses(body, message, error=ValueError, step=None):
    with pytest.raises(error, match=message):
        (step or Convert())(graph(body))


# ---- before the conversion -------------------------------------------------------------------------------------------
def test_identity_is_spliced():
    becomes(SpliceIdentity(), f"""
        input %x: f32[_,4]
        %i = identity(%x)
        %q = fake_quantize(%i) {{{Q}=(0.0,)}}
        %o = identity(%q)
        output %o, %q""", f"""
        input %x:f32[_,4]
        %q:f32[_,4] = fake_quantize(%x) {{{Q}=(0.0,)}}
        output %q, %q""")
    plain = graph(f"input %x: f32[_,4]\n%q = fake_quantize(%x) {{{Q}=(0.0,)}}\noutput %q")
    assert not SpliceIdentity()(plain).modified


FOLD = """const %c/kernel: f32[2,2] = [[1.0, 2.0], [3.0, 4.0]]
const %c/bias: f32[2] = [1.0, 1.0]
const %c/gamma: f32[2] = [2.0, -1.0]
const %c/beta: f32[2] = [0.5, 0.25]
const %c/mean: f32[2] = [0.0, 3.0]
const %c/variance: f32[2] = [3.0, 15.0]
%c/folded_kernel = fold_kernel(%c/kernel, %c/gamma, %c/variance) {epsilon=1.0, channel_axis=-1}
%c/folded_bias = fold_bias(%c/bias, %c/gamma, %c/beta, %c/mean, %c/variance) {epsilon=1.0}
"""


def test_folds_are_evaluated():
    result = apply(FoldConstants(), graph(f"input %x: f32[_,2]\n{FOLD}%p = dense(%x, %c/folded_kernel)\n%c = "
                                          "bias_add(%p, %c/folded_bias)\noutput %c"))
    assert result.constants["c/folded_kernel"].tolist() == [[1.0, -0.5], [3.0, -1.0]]  # gamma/sqrt(v+1) = 1, -1/4
    assert result.constants["c/folded_bias"].tolist() == [1.5, 0.75]
    assert sorted(result.constants) == ["c/folded_bias", "c/folded_kernel"]
    assert not FoldConstants()(graph("input %x: f32[_,2]\n%r = relu(%x)\noutput %r")).modified


def test_folds_of_computed_values_are_refused():
    refuses("input %x: f32[_,2]\nconst %g: f32[2] = [1.0, 1.0]\n%f = fold_kernel(%x, %g, %g) {epsilon=1.0, "
            "channel_axis=-1}\noutput %f",
            "'x' is computed; fold it before lowering", step=FoldConstants())


# ---- quantizers ------------------------------------------------------------------------------------------------------
def test_quantizers_become_quantize_requantize_and_codes():
    becomes(Convert(), f"""
        input %x: f32[_,2]
        const %k: f32[2,2] = [[0.5, -1.0], [0.26, 7.0]]
        %x_q = fake_quantize(%x) {{{Q}=(0.3,)}}
        %q_k = fake_quantize(%k) {{bits=4, signed=True, narrow=True, log2_threshold=(0.0,)}}
        %y = dense(%x_q, %q_k)
        %y_q = fake_quantize(%y) {{{U}=(-1.5,), rounding='floor'}}
        output %y_q""", """
        input %x:f32[_,2]
        const %q_k:s4n@-3[2,2] = [[4, -7], [2, 7]]
        %x_q:s8@-6[_,2] = quantize(%x) {format=s8@-6, rounding='half_even'}
        %y:s32@-9[_,2] = dense(%x_q, %q_k)
        %y_q:u8@-9[_,2] = requantize(%y) {format=u8@-9, rounding='floor'}
        %y_q/dequantized:f32[_,2] = dequantize(%y_q)
        output %y_q/dequantized""")


@pytest.mark.parametrize("op, shape, axis, codes", [
    ("dense", "2,2", "-1", [[64, 32], [-64, -32]]), ("depthwise_conv", "1,1,2,1", "'flat'", [[[[64], [32]]]]),
    ("conv_transpose", "1,1,2,2", "-2", [[[[64, -64], [32, -32]]]]),
])
def test_per_channel_weights(op, shape, axis, codes):
    values = {
        "dense": "[[0.5, 0.5], [-0.5, -0.5]]", "depthwise_conv": "[[[[0.5], [0.5]]]]",
        "conv_transpose": "[[[[0.5, -0.5], [0.5, -0.5]]]]"
    }[op]
    attrs = {"dense": "", "depthwise_conv": f"{{{CONV}}}", "conv_transpose": "{strides=(1, 1), padding='same'}"}[op]
    result = apply(Convert(), graph(f"""
        input %x: f32[_,{'2' if op == 'dense' else '2,2,2'}]
        const %k: f32[{shape}] = {values}
        %x_q = fake_quantize(%x) {{{Q}=(0.0,)}}
        %q_k = fake_quantize(%k) {{bits=8, signed=True, channel_axis={axis}, log2_threshold=(0.0, 1.0)}}
        %y = {op}(%x_q, %q_k) {attrs}
        %y_q = fake_quantize(%y) {{{Q}=(0.0,)}}
        output %y_q"""))
    assert result.constants["q_k"].tolist() == codes
    assert (
        str(result.format("q_k")) == "s8@[-7,-6]" and str(result.format("y")) == "s32@[-14,-13]"
        and str(result.format("y_q")) == "s8@-7"
    )


def test_ties_of_weights_round_to_even_and_saturate():
    result = apply(Convert(), graph(f"""
        input %x: f32[_,6]
        const %k: f32[6,1] = [[-2.5], [-1.5], [0.5], [2.5], [200.0], [-200.0]]
        %x_q = fake_quantize(%x) {{{Q}=(7.0,)}}
        %q_k = fake_quantize(%k) {{{Q}=(7.0,)}}
        %y = dense(%x_q, %q_k)
        output %y"""))
    assert result.constants["q_k"].ravel().tolist() == [-2, -2, 0, 2, 127, -128]


@pytest.mark.parametrize("threshold, message", [
    ("None", "quantizer 'x_q' is not calibrated; run calibrate"), ("(nan,)", "'x_q' is not calibrated"),
    ("(inf,)", "expected finite values"), ("(200.0,)", "expected exponents from -126 to 127"),
    ("(0.0, 1.0)", "2 thresholds but no channel_axis"),
])
def test_bad_thresholds_name_their_quantizer(threshold, message):
    broken = graph(f"input %x: f32[_,2]\n%x_q = fake_quantize(%x) {{{Q}=(0.0,)}}\noutput %x_q")
    broken.nodes[0].attrs["log2_threshold"] = eval(threshold, {"nan": float("nan"), "inf": float("inf")})
    with pytest.raises(ValueError, match=message):
        Convert()(broken)


def test_members_of_a_group_must_agree():
    refuses(f"""input %x: f32[_,2]
        %a = fake_quantize(%x) {{{Q}=(0.0,), group='g'}}
        %b = fake_quantize(%x) {{{Q}=(1.0,), group='g'}}
        output %a, %b""", r"'a' and 'b' share the threshold 'g', but their log2_threshold is \(0.0,\) and \(1.0,\)")


def test_weights_with_nan_are_refused():
    broken = graph(f"input %x: f32[_,2]\nconst %k: f32[2] = [1.0, 1.0]\n%x_q = fake_quantize(%x) {{{Q}=(0.0,)}}\n%q_k "
                   f"= fake_quantize(%k) {{{Q}=(0.0,)}}\n%y = multiply(%x_q, %q_k)\noutput %y")
    broken.constants["k"] = np.array([1.0, np.nan], np.float32)
    with pytest.raises(ValueError, match="constant 'k' holds NaN"):
        Convert()(broken)


def test_bias_is_at_the_accumulators_exponent():
    result = apply(Convert(), graph(f"""
        input %x: f32[_,1]
        const %k: f32[1,2] = [[0.5, 0.5]]
        const %b: f32[2] = [0.1, -1.5]
        %x_q = fake_quantize(%x) {{{Q}=(0.0,)}}
        %q_k = fake_quantize(%k) {{bits=8, signed=True, channel_axis=-1, log2_threshold=(0.0, -6.0)}}
        %p = dense(%x_q, %q_k)
        %q_b = quantize_bias(%b, %x_q, %q_k)
        %y = bias_add(%p, %q_b)
        output %y"""))
    assert (
        str(result.format("q_b")) == "s32@[-14,-20]"
        and result.constants["q_b"].tolist() == [round(0.1 * 2**14), -1.5 * 2**20]
    )


# ---- ReLU ------------------------------------------------------------------------------------------------------------
def relu(body, output="%y", quantizer=U):
    return apply(Convert(), graph(f"""
        input %x: f32[_,4]
        const %k: f32[4,4] = random(1)
        %x_q = fake_quantize(%x) {{{Q}=(2.0,)}}
        %q_k = fake_quantize(%k) {{{Q}=(0.0,)}}
        %a = dense(%x_q, %q_k)
        {body.format(q=quantizer)}
        output {output}"""))


@pytest.mark.parametrize("body, quantizer, expected", [
    ("%r = relu(%a)", U, "format=u8@-5, rounding='half_even'"),
    ("%r = relu(%a)", Q, "format=s8@-4, rounding='half_even', low=0"),
    ("%r = relu(%a) {{max_value=6.0}}", U, "format=u8@-5, rounding='half_even', high=192"),
    ("%r = relu(%a) {{max_value=6.0}}", Q, "format=s8@-4, rounding='half_even', low=0, high=96"),
    ("%r = relu(%a) {{max_value=20.0}}", U, "format=u8@-5, rounding='half_even'"),
    ("%s = relu(%a) {{max_value=6.0}}\n%r = relu(%s) {{max_value=3.0}}", U, "format=u8@-5, "
                                                                            "rounding='half_even', high=96"),
])
def test_relu_fuses_into_the_requantization(body, quantizer, expected):
    result = relu(body + "\n%y = fake_quantize(%r) {{{q}=(3.0,)}}", quantizer=quantizer)
    assert [node.op for node in result.nodes] == ["quantize", "dense", "requantize", "dequantize"]
    assert (
        f"%y:{expected.split(',')[0].removeprefix('format=')}[_,4] = requantize(%a) {{{expected}}}" in to_text(result)
    )


def test_a_maximum_off_the_grid_is_rounded_like_the_values():
    """Steps of 4: six is 1.5 steps, half to even gives 2; floor gives 1."""
    for rounding, high in (("half_even", 2), ("floor", 1), ("half_up", 2)):
        body = ("%r = relu(%a) {{max_value=6.0}}\n%y = fake_quantize(%r) {{bits=4, signed=False, "
                "log2_threshold=(6.0,), rounding='" + rounding + "'}}")
        assert f"high={high}" in to_text(relu(body))


def test_a_relu_without_a_quantizer_stands_alone_on_the_same_grid():
    result = relu("%n = fake_quantize(%a) {{{q}=(3.0,)}}\n%y = relu(%n) {{max_value=6.0}}", quantizer=Q)
    assert "%y:s8@-4[_,4] = requantize(%n) {format=s8@-4, rounding='half_even', low=0, high=96}" in to_text(result)


def test_a_relu_whose_maximum_is_off_its_grid_needs_a_quantizer():
    with pytest.raises(ValueError, match="relu 'y' has the maximum 6.0, which is not on the grid s4@2"):
        relu("%n = fake_quantize(%a) {{bits=4, signed=True, log2_threshold=(5.0,)}}\n%y = relu(%n) {{max_value=6.0}}")


def test_relu_with_and_without_a_reader_of_its_own_gives_the_same_codes():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * 3
    fused = relu("%r = relu(%a) {{max_value=6.0}}\n%y = fake_quantize(%r) {{{q}=(3.0,)}}", quantizer=Q)
    alone = relu("%n = fake_quantize(%a) {{{q}=(3.0,)}}\n%y = relu(%n) {{max_value=6.0}}", quantizer=Q)
    assert (run(fused, x)[0] == run(alone, x)[0]).all()


# ---- tables ----------------------------------------------------------------------------------------------------------
def table(count, bits=4, attrs=", values='t'", tail="%y = fake_quantize(%a) {bits=8, signed=False, "
                                                    "log2_threshold=(0.0,)}", values=None):
    values = np.linspace(-1, 1, count).astype(np.float32) if values is None else np.asarray(values, np.float32)
    result = parse(f"""fakequant graph net
        input %x: f32[_,4]
        const %t: f32[{count}]
        %x_q = fake_quantize(%x) {{bits={bits}, signed=True, log2_threshold=(0.0,)}}
        %a = activation(%x_q) {{function='tanh'{attrs}}}
        {tail}
        output %y""", {"t": values})
    infer_all(result)
    return result


def test_an_activation_and_its_quantizer_are_one_lookup():
    result = apply(Convert(), table(16))
    assert [node.op for node in result.nodes] == ["quantize", "lookup", "dequantize"]
    lookup = result.node("y")
    assert lookup.inputs == ("x_q", "y/table") and str(result.format("y")) == "u8@-8"
    expected = np.clip(np.rint(np.linspace(-1, 1, 16).astype(np.float32).astype(np.float64) * 256), 0, 255)
    assert (result.constants["y/table"] == expected).all() and result.constants["y/table"].dtype == np.uint8
    codes = run(result, (np.arange(-8, 8) / 8).reshape(4, 4).astype(np.float32), values=True)
    assert (codes["y"].ravel() == result.constants["y/table"]).all()


def test_two_quantizers_make_two_tables():
    tail = (
        "%z = fake_quantize(%a) {bits=8, signed=True, log2_threshold=(0.0,)}\n%y = fake_quantize(%a) {bits=4, "
        "signed=True, log2_threshold=(0.0,)}"
    )
    before = table(16, tail=tail)
    before.outputs = ["y", "z"]
    result = apply(Convert(), before)
    assert {"y/table", "z/table"} <= set(result.constants)


@pytest.mark.parametrize("case, message", [
    ({"count": 15}, "needs 16 values"), ({"count": 16, "values": [np.nan] + [0.0] * 15}, "NaN at input code -8"),
    (
        {"count": 16, "tail": "%r = relu(%a)\n%y = fake_quantize(%r) {bits=8, signed=False, log2_threshold=(0.0,)}"},
        None
    ),
])
def test_bad_tables_are_refused(case, message):
    if message is None:  # a reader that is no quantizer: not a table, the layer stays in float
        assert "island" in [node.op for node in Convert()(table(**case)).graph.nodes]
        return
    with pytest.raises(ValueError, match=message):
        Convert()(table(**case))


# ---- meeting, moving, borders ----------------------------------------------------------------------------------------
def test_values_on_different_grids_meet_as_reals():
    result = apply(Convert(), graph(f"""
        input %x: f32[_,2]
        %a = fake_quantize(%x) {{{Q}=(0.0,)}}
        %b = fake_quantize(%x) {{{Q}=(1.0,)}}
        %s = add(%a, %b)
        %y = fake_quantize(%s) {{{Q}=(1.0,)}}
        output %y"""))
    assert (
        [node.op for node in result.nodes]
        == ["quantize", "quantize", "dequantize", "dequantize", "island", "quantize", "dequantize"]
    )
    assert result.node("s").attrs["layer"]["class_name"] == "Add"


def test_values_on_one_grid_meet_as_codes():
    result = apply(Convert(), graph(f"""
        input %x: f32[_,2]
        %a = fake_quantize(%x) {{{Q}=(0.2,)}}
        %b = fake_quantize(%x) {{{U}=(1.0,)}}
        %s = subtract(%a, %a)
        %m = maximum(%a, %a)
        %k = concat(%a, %m)
        output %s, %k, %b"""))
    assert (
        [node.op for node in result.nodes]
        == ["quantize", "quantize", "subtract", "maximum", "concat", *["dequantize"] * 3]
    )


def test_inputs_and_outputs_are_borders_and_each_value_crosses_once():
    becomes(Convert(), f"""
        input %x: f32[_,2]
        %q = fake_quantize(%x) {{{Q}=(0.0,)}}
        %i = island(%q) {{layer={{'class_name': 'Foo'}}, output_shapes=((None, 2),)}}
        %s = softmax(%q)
        output %s, %q, %i, %x""", """
        input %x:f32[_,2]
        %q:s8@-7[_,2] = quantize(%x) {format=s8@-7, rounding='half_even'}
        %q/dequantized:f32[_,2] = dequantize(%q)
        %i:f32[_,2] = island(%q/dequantized) {layer={'class_name': 'Foo'}, output_shapes=((None, 2),)}
        %s:f32[_,2] = softmax(%q/dequantized) {}
        output %s, %q/dequantized, %i, %x""".replace(" {}\n", "\n"))


def test_ops_without_a_rule_are_refused():
    refuses("input %x: f32[_,2]\n%d = fold_kernel(%x, %x, %x) {epsilon=0.1, channel_axis=-1}\noutput %d",
            "node 'd': the op 'fold_kernel' has no integer form; prepare and place the graph first")


def test_stages_are_checked():
    with pytest.raises(ValueError, match="lower takes a fakequant graph, got a float graph"):
        pipelines.lower(networks.resnet())


# ---- after the conversion --------------------------------------------------------------------------------------------
def test_requantizations_that_change_nothing_are_dropped():
    becomes(DropRequantize(), """
        input %x: u8@-4[_,4]
        %a = requantize(%x) {format=u8@-4, rounding='half_even'}
        %b = requantize(%a) {format=u8@-4, rounding='floor', low=0, high=255}
        output %b, %a""", """
        input %x:u8@-4[_,4]
        output %x, %x""", stage="integer")


@pytest.mark.parametrize("attrs", [
    "format=u8@-5", "format=s8@-4", "format=u16@-4", "format=u8@-4, high=96", "format=u8@-4, low=1",
])
def test_requantizations_that_change_something_stay(attrs):
    before = graph(f"input %x: u8@-4[_,4]\n%a = requantize(%x) {{{attrs}, rounding='half_even'}}\noutput %a", "integer")
    assert not DropRequantize()(before).modified
