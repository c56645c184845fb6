"""Each place pass on small graphs as text: what it does, what it leaves alone, twice is once, its input stays."""

import pytest
from networks import short, text

from graffiti import schemes
from graffiti.config import QuantizerSpec, Rule
from graffiti.graph.ops import infer_all
from graffiti.graph.passes import snapshot
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph
from graffiti.transforms.place.begin import BeginFakequant
from graffiti.transforms.place.choose_signs import ChooseSigns
from graffiti.transforms.place.commute_relu import CommuteRelu
from graffiti.transforms.place.insert_rescale import InsertRescale
from graffiti.transforms.place.plan import make_plan
from graffiti.transforms.place.quantize_activations import QuantizeActivations
from graffiti.transforms.place.quantize_average_pool import QuantizeAveragePool
from graffiti.transforms.place.quantize_inputs import QuantizeInputs
from graffiti.transforms.place.quantize_layers import QuantizeLayers
from graffiti.transforms.place.quantize_leaky_relu import QuantizeLeakyRelu
from graffiti.transforms.place.share_scales import ShareScales, merge_thresholds

CONV = "{strides=(1, 1), padding='same', dilation=(1, 1)}"
POOL = "{pool_size=(2, 2), strides=(2, 2), padding='valid'}"


def run(cls, body, scheme="int8", *, before=(), rules=(), unsigned=(), output="%y"):
    """Text → the pass (after those in ``before``) → short text; checks honesty and that a second run changes
    nothing.
    """
    graph = parse(f"float graph net\n{body}\noutput {output}\n")
    infer_all(graph)
    plan = make_plan(graph, scheme, rules, unsigned)
    graph = BeginFakequant()(graph).graph
    for earlier in before:
        graph = earlier(plan)(graph).graph
    kept = snapshot(graph)
    result = cls(plan)(graph)
    assert snapshot(graph) == kept, "the pass changed its input"
    assert result.modified == (snapshot(result.graph) != kept)
    verify_graph(result.graph)
    again = cls(plan)(result.graph)
    assert not again.modified and snapshot(again.graph) == snapshot(result.graph)
    return short(result.graph), result.modified, plan


def unchanged(cls, body, **options):
    _, modified, _ = run(cls, body, **options)
    assert not modified


IMAGE = "input %x: f32[_,4,4,2]"
LAYER = f"""{IMAGE}
const %c/kernel: f32[3,3,2,3] = random(1)
const %c/bias: f32[3] = [0.1, -0.2, 0.3]
%c/product = conv(%x, %c/kernel) {CONV}
%c = bias_add(%c/product, %c/bias)
"""


# ---- quantize_layers -------------------------------------------------------------------------------------------------
def test_layers_with_an_exact_accumulator():
    result, modified, plan = run(QuantizeLayers, LAYER + "%y = relu(%c)")
    assert modified and result == text("""
        %c/q_kernel = fake_quantize(%c/kernel) s8n weight
        %c/product = conv(%x, %c/q_kernel)
        %c/q_bias = quantize_bias(%c/bias, %x, %c/q_kernel)
        %c = bias_add(%c/product, %c/q_bias)
        %y = relu(%c)
        output %y""")
    assert [(line.layer, line.what, line.why) for line in plan.lines] == [
        ("c", "quantized", "weights s8n per tensor, bias s32, accumulator s32")]


def test_layers_with_the_published_accumulator():
    assert run(QuantizeLayers, LAYER + "%y = relu(%c)", "graffitist_int8")[0] == text("""
        %c/q_kernel = fake_quantize(%c/kernel) s8 weight
        %c/product = conv(%x, %c/q_kernel)
        %c/accumulator = fake_quantize(%c/product) s16 accumulator group=c/accumulator
        %c/q_bias = fake_quantize(%c/bias) s16 bias group=c/accumulator
        %c = bias_add(%c/accumulator, %c/q_bias)
        %y = relu(%c)
        output %y""")


def test_folded_batch_norm_is_quantized_behind_the_fold():
    body = f"""{IMAGE}
    const %c/kernel: f32[3,3,2,3] = random(1)
    const %c/bias: f32[3] = full(0)
    const %c/gamma: f32[3] = random(2)
    const %c/beta: f32[3] = random(3)
    const %c/mean: f32[3] = random(4)
    const %c/variance: f32[3] = full(1)
    %c/folded_kernel = fold_kernel(%c/kernel, %c/gamma, %c/variance) {{epsilon=0.001, channel_axis=-1}}
    %c/folded_bias = fold_bias(%c/bias, %c/gamma, %c/beta, %c/mean, %c/variance) {{epsilon=0.001}}
    %c/product = conv(%x, %c/folded_kernel) of %c {CONV}
    %y = bias_add(%c/product, %c/folded_bias)"""
    result, _, plan = run(QuantizeLayers, body)
    assert "%c/q_kernel = fake_quantize(%c/folded_kernel) s8n weight" in result
    assert "%c/q_bias = quantize_bias(%c/folded_bias, %x, %c/q_kernel)" in result
    assert ("c", "folded") in [(line.layer, line.what) for line in plan.lines]


@pytest.mark.parametrize("op, shape, attrs, axis", [
    ("conv", "3,3,2,3", CONV, "-1"), ("depthwise_conv", "3,3,2,2", CONV, "flat"),
    ("conv_transpose", "3,3,5,2", "{strides=(1, 1), padding='same'}", "-2"), ("dense", "2,7", "", "-1"),
])
def test_per_channel_weights_know_their_axis(op, shape, attrs, axis):
    body = f"{IMAGE}\nconst %y/kernel: f32[{shape}] = random(1)\n%y = {op}(%x, %y/kernel) {attrs}"
    result = run(QuantizeLayers, body, "int8_per_channel")[0]
    assert f"%y/q_kernel = fake_quantize(%y/kernel) s8n weight axis={axis}" in result
    assert "bias" not in result  # no bias: the weight only


def test_calls_of_one_layer_share_the_kernels_quantizer_and_the_accumulators_threshold():
    body = f"""{LAYER}
    %d/product = conv(%x, %c/kernel) {CONV}
    %d = bias_add(%d/product, %c/bias)
    %y = add(%c, %d)"""
    result = run(QuantizeLayers, body)[0]
    assert result.count("fake_quantize") == 1 and "%d/product = conv(%x, %c/q_kernel)" in result
    result = run(QuantizeLayers, body, "graffitist_int8")[0]
    assert result.count("group=c/accumulator") == 4 and "%d/accumulator" in result


def test_multiply_by_a_constant_is_a_layer_on_either_side():
    body = f"{IMAGE}\nconst %k: f32[1,1,1,2] = random(1)\n%y = multiply(%k, %x)"
    result = run(QuantizeLayers, body)[0]
    assert "%y/q_scale = fake_quantize(%k) s8n weight" in result and "%y = multiply(%x, %y/q_scale)" in result


def test_a_scale_in_front_of_a_leaky_relu_is_quantized_the_slope_is_not():
    body = f"{IMAGE}\nconst %k: f32[1] = full(0.3)\n%s = multiply(%x, %k)\nconst %l/alpha: f32[1] = full(0.1)\n" \
        "%l/scaled = multiply(%s, %l/alpha)\n%y = maximum(%s, %l/scaled)"
    result = run(QuantizeLayers, body)[0]
    assert "%s/q_scale = fake_quantize(%k) s8n weight" in result and result.count("fake_quantize") == 1


def test_layers_in_float_are_left_alone():
    unchanged(QuantizeLayers, LAYER + "%y = relu(%c)", rules=[Rule("c", None)])
    unchanged(QuantizeLayers, f"{IMAGE}\nconst %y/alpha: f32[1] = full(0.1)\n%s = multiply(%x, %y/alpha)\n%y = "
                              "maximum(%x, %s)")


# ---- quantize_inputs -------------------------------------------------------------------------------------------------
def test_inputs_are_quantized_right_behind():
    for unsigned, scheme, sign in (((), "int8", "s8"), (("x",), "int8", "u8"), (("x",), "graffitist_int8", "s8")):
        result = run(QuantizeInputs, f"{IMAGE}\n%y = max_pool(%x) {POOL}", scheme, unsigned=unsigned)[0]
        assert result == text(f"""
            %x_q = fake_quantize(%x) {sign} input
            %y = max_pool(%x_q)
            output %y""")


def test_inputs_keep_their_order_and_feed_float_readers_as_they_are():
    body = """input %a: f32[_,4]
    input %b: f32[_,4]
    %i = island(%b) {layer={'class_name': 'Foo'}, output_shapes=((None, 4),)}
    %y = add(%a, %b)"""
    assert run(QuantizeInputs, body, output="%y, %i")[0] == text("""
        %a_q = fake_quantize(%a) s8 input
        %b_q = fake_quantize(%b) s8 input
        %i = island(%b)
        %y = add(%a_q, %b_q)
        output %y, %i""")


def test_inputs_that_only_float_layers_read_get_none():
    unchanged(QuantizeInputs, "input %x: f32[_,4]\n%y = island(%x) {layer={'class_name': 'Foo'}, "
                              "output_shapes=((None, 4),)}")
    unchanged(QuantizeInputs, "input %x: f32[_,4]", output="%x")


# ---- commute_relu ----------------------------------------------------------------------------------------------------
def test_relu_moves_in_front_of_pools():
    body = LAYER + f"%p = max_pool(%c) {POOL}\n%f = reshape(%p) {{shape=(12,)}}\n%y = relu(%f) {{max_value=6.0}}"
    assert run(CommuteRelu, body)[0].splitlines()[2:] == text("""
        %y = relu(%c)
        %p = max_pool(%y)
        %f = reshape(%p)
        output %f""").splitlines()


def test_relu_stays_where_the_moved_value_is_read_twice_or_on_a_grid():
    unchanged(CommuteRelu, LAYER + f"%p = max_pool(%c) {POOL}\n%y = relu(%p)", output="%y, %p")
    unchanged(CommuteRelu, LAYER + f"%p = max_pool(%c) {POOL}\n%y = relu(%p)", output="%y, %c")
    unchanged(CommuteRelu, f"{IMAGE}\n%p = max_pool(%x) {POOL}\n%y = relu(%p)")
    unchanged(CommuteRelu, LAYER + "%y = relu(%c)")
    unchanged(CommuteRelu, LAYER + f"%p = max_pool(%c) {POOL}\n%y = relu(%p)", rules=[Rule("p", None)])


# ---- quantize_leaky_relu ---------------------------------------------------------------------------------------------
LEAKY = """const %l/alpha: f32[1] = full(0.1)
%l/scaled = multiply(%c, %l/alpha)
%l = maximum(%c, %l/scaled)
"""


def test_leaky_relu_is_16_bits_inside():
    assert run(QuantizeLeakyRelu, LAYER + LEAKY, output="%l")[0].splitlines()[2:] == text("""
        %c_q16 = fake_quantize(%c) s16 activation group=l/inputs
        %l/q_alpha = fake_quantize(%l/alpha) s16 alpha fixed
        %l/scaled = multiply(%c_q16, %l/q_alpha)
        %l/scaled_q = fake_quantize(%l/scaled) s16 activation group=l/inputs
        %l = maximum(%c_q16, %l/scaled_q)
        %l_q = fake_quantize(%l) s8 activation
        output %l_q""").splitlines()


def test_leaky_relu_takes_only_its_own_readers():
    result = run(QuantizeLeakyRelu, LAYER + LEAKY + "%z = relu(%c)", output="%l, %z")[0]
    assert "%z = relu(%c)" in result


def test_another_maximum_is_no_leaky_relu():
    unchanged(QuantizeLeakyRelu, LAYER + "%y = maximum(%c, %c)")
    unchanged(QuantizeLeakyRelu, LAYER + LEAKY.replace("maximum(%c,", "maximum(%l/scaled,"), output="%l")
    unchanged(QuantizeLeakyRelu, LAYER + LEAKY, rules=[Rule("l", None)], output="%l")


# ---- quantize_average_pool -------------------------------------------------------------------------------------------
AVERAGE = "%y = average_pool(%x) {pool_size=(2, 2), strides=(2, 2)}"


def test_a_scheme_with_a_reciprocal_multiplies_by_it_and_rounds_down():
    assert run(QuantizeAveragePool, f"{IMAGE}\n{AVERAGE}", "graffitist_int8")[0] == text("""
        %y/q_reciprocal = fake_quantize(%y/reciprocal) u8 reciprocal fixed
        %y = depthwise_conv(%x, %y/q_reciprocal)
        %y_q = fake_quantize(%y) s8 activation floor
        output %y_q""")


def test_its_partial_windows_are_summed_exactly_first():
    body = f"{IMAGE}\n%y = average_pool(%x) {{pool_size=(3, 3), strides=(1, 1), padding='same'}}"
    assert run(QuantizeAveragePool, body, "graffitist_int8")[0] == text("""
        %y/sum/q_kernel = fake_quantize(%y/ones) s8 reciprocal fixed
        %y/sum = depthwise_conv(%x, %y/sum/q_kernel)
        %y/sum_q = fake_quantize(%y/sum) s16 activation
        %y/q_reciprocal = fake_quantize(%y/reciprocal) u8 reciprocal fixed
        %y = multiply(%y/sum_q, %y/q_reciprocal)
        %y_q = fake_quantize(%y) s8 activation floor
        output %y_q""")
    assert (
        "%y_q = fake_quantize(%y) u8 activation floor"
        in run(QuantizeAveragePool, body, schemes.get("int8").replace(reciprocal_bits=8), unsigned=["x"])[0]
    )


def test_other_schemes_pools_in_float_and_other_layers_are_left_alone():
    unchanged(QuantizeAveragePool, f"{IMAGE}\n{AVERAGE}")
    unchanged(QuantizeAveragePool, f"{IMAGE}\n{AVERAGE}", rules=[Rule("y", None)])
    unchanged(QuantizeAveragePool, f"{IMAGE}\nconst %y/reciprocal: f32[2,2,2,1] = full(0.25)\n%y = depthwise_conv(%x, "
                                   f"%y/reciprocal) {CONV}")


# ---- quantize_activations --------------------------------------------------------------------------------------------
PLACED = (QuantizeLayers, QuantizeInputs)


def tail(body, output="%y", **options):
    """What quantize_activations makes of what follows the layer ``c``."""
    lines = run(QuantizeActivations, LAYER + body, before=PLACED, output=output, **options)[0].splitlines()
    return "\n".join(lines[5:])


@pytest.mark.parametrize("relu", ["relu(%c)", "relu(%c) {max_value=6.0}"])
def test_relu_is_unsigned_behind_and_nothing_in_front(relu):
    assert tail(f"%y = {relu}") == text("""
        %y = relu(%c)
        %y_q = fake_quantize(%y) u8 activation
        output %y_q""")


def test_a_linear_layer_is_signed():
    assert tail("", output="%c") == "%c_q = fake_quantize(%c) s8 activation\noutput %c_q"


def test_relu_reads_the_accumulator_and_the_others_one_signed_value():
    readers = f"%r = relu(%c)\n%p = max_pool(%c) {POOL}\n%y = permute(%c) {{dims=(2, 1, 3)}}"
    assert tail(readers, "%y, %p, %r") == text("""
        %c_q = fake_quantize(%c) s8 activation
        %r = relu(%c)
        %r_q = fake_quantize(%r) u8 activation
        %p = max_pool(%c_q)
        %y = permute(%c_q)
        output %y, %p, %r_q""")


def test_relu_behind_codes_is_quantized_behind_it_too():
    assert tail(f"%p = max_pool(%c) {POOL}\n%y = relu(%p)", "%y, %p") == text("""
        %c_q = fake_quantize(%c) s8 activation
        %p = max_pool(%c_q)
        %y = relu(%p)
        %y_q = fake_quantize(%y) u8 activation
        output %y_q, %p""")


@pytest.mark.parametrize("op", ["add", "subtract"])
def test_sums_are_signed_unless_a_relu_follows(op):
    assert tail(f"%y = {op}(%c, %c)") == text(f"""
        %c_q = fake_quantize(%c) s8 activation
        %y = {op}(%c_q, %c_q)
        %y_q = fake_quantize(%y) s8 activation
        output %y_q""")
    assert tail(f"%s = {op}(%c, %c)\n%y = relu(%s)") == text(f"""
        %c_q = fake_quantize(%c) s8 activation
        %s = {op}(%c_q, %c_q)
        %y = relu(%s)
        %y_q = fake_quantize(%y) u8 activation
        output %y_q""")


@pytest.mark.parametrize(
    "function, sign",
    [
        ("sigmoid", "u"), ("hard_sigmoid", "u"), ("softplus", "u"), ("exp", "u"), ("tanh", "s"), ("gelu", "s"),
        ("silu", "s")
    ]
)
def test_activations_by_their_range(function, sign):
    assert tail(f"%y = activation(%c) {{function='{function}'}}") == text(f"""
        %c_q = fake_quantize(%c) s8 activation
        %y = activation(%c_q)
        %y_q = fake_quantize(%y) {sign}8 activation
        output %y_q""")


def test_relu_behind_an_activation_reads_the_rounded_table():
    assert "%y = relu(%a_q)" in tail("%a = activation(%c) {function='tanh'}\n%y = relu(%a)")


def test_softmax_reads_signed_logits_and_stays_in_float():
    assert tail("%y = softmax(%c)") == "%c_q = fake_quantize(%c) s8 activation\n%y = softmax(%c_q)\noutput %y"


def test_softmax_in_the_middle_is_quantized_unsigned():
    assert "%s_q = fake_quantize(%s) u8 activation" in tail(f"%s = softmax(%c)\n%y = max_pool(%s) {POOL}")


def test_islands_read_quantized_values_and_are_quantized_for_quantized_readers_only():
    island = "island(%c) {layer={'class_name': 'Foo'}, output_shapes=((None, 4, 4, 3),)}"
    assert tail(f"%i = {island}\n%y = max_pool(%i) {POOL}", "%y, %i") == text("""
        %c_q = fake_quantize(%c) s8 activation
        %i = island(%c_q)
        %i_q = fake_quantize(%i) s8 activation
        %y = max_pool(%i_q)
        output %y, %i""")
    assert "%y_q" not in tail(f"%y = {island}")
    assert "%y = island(%i)" in tail(f"%i = {island}\n%y = {island.replace('%c', '%i')}")


def test_a_float_layer_hands_on_a_signed_value_to_a_relu():
    result = run(QuantizeActivations, LAYER + "%y = relu(%c)", before=PLACED, rules=[Rule("c", None)])[0]
    assert result.splitlines()[-4:] == text("""
        %c_q = fake_quantize(%c) s8 activation
        %y = relu(%c_q)
        %y_q = fake_quantize(%y) u8 activation
        output %y_q""").splitlines()


def test_values_on_a_grid_get_no_second_quantizer():
    unchanged(
        QuantizeActivations, f"{IMAGE}\n%p = max_pool(%x) {POOL}\n%y = permute(%p) {{dims=(2, 1, 3)}}", before=PLACED
    )


def test_output_bits_of_w4a4():
    result = tail("%r = relu(%c)\n%s = add(%r, %r)\n%y = max_pool(%s) " + POOL, scheme="w4a4")
    assert "%r_q = fake_quantize(%r) u4 activation" in result and "%s_q = fake_quantize(%s) u8 activation" in result


# ---- insert_rescale, choose_signs, share_scales ----------------------------------------------------------------------
ALL = (CommuteRelu, QuantizeLayers, QuantizeInputs, QuantizeLeakyRelu, QuantizeAveragePool, QuantizeActivations)
TWO = LAYER + f"""const %d/kernel: f32[3,3,2,3] = random(2)
%d = conv(%x, %d/kernel) {CONV}
"""


def meet(cls, body, output="%y", **options):
    before = (
        ALL if cls is InsertRescale else (*ALL, InsertRescale) if cls is ChooseSigns
        else (*ALL, InsertRescale, ChooseSigns)
    )
    return run(cls, body, before=before, output=output, **options)[0]


def test_two_layers_of_their_own_need_no_rescale_and_share():
    unchanged(InsertRescale, TWO + "%y = add(%c, %d)", before=ALL)
    result = meet(ShareScales, TWO + "%y = add(%c, %d)")
    assert "%c_q = fake_quantize(%c) s8 activation group=y_inputs" in result
    assert "%d_q = fake_quantize(%d) s8 activation group=y_inputs" in result


@pytest.mark.parametrize("op", ["add", "subtract", "maximum", "minimum", "concat"])
def test_a_quantizer_that_serves_others_is_rescaled(op):
    result = meet(ShareScales, TWO + f"%p = max_pool(%c) {POOL}\n%y = {op}(%c, %d)\n%z = softmax(%y)", "%z, %p")
    assert "%y_rescale_0 = fake_quantize(%c_q) s8 rescale group=y_inputs" in result
    assert f"%y = {op}(%y_rescale_0, %d_q)" in result and "%p = max_pool(%c_q)" in result
    assert "%c_q = fake_quantize(%c) s8 activation\n" in result


def test_a_quantizer_is_followed_through_moves_that_serve_one_reader():
    body = (TWO + f"%p = permute(%c) {{dims=(2, 1, 3)}}\n%q = max_pool(%p) {POOL}\n%r = max_pool(%d) {POOL}\n%y = "
                  "concat(%q, %r)\n%z = softmax(%y)")
    result = meet(ShareScales, body, "%z")
    assert "rescale" not in result and result.count("group=y_inputs") == 2
    assert "%y_rescale_0 = fake_quantize(%q)" in meet(InsertRescale, body, "%z, %p")


def test_what_concat_and_inputs_hand_on_is_rescaled():
    result = meet(ShareScales, TWO + "%k = concat(%c, %d)\n%l = concat(%x, %x, %x)\n%y = add(%k, %l)")
    assert "%y_rescale_0 = fake_quantize(%k) s8 rescale group=y_inputs" in result
    assert "%y_rescale_1 = fake_quantize(%l) s8 rescale group=y_inputs" in result


def test_other_bits_and_other_rounding_are_rescaled():
    rules = [Rule("d", schemes.get("int8").replace(activations=QuantizerSpec(6)))]
    assert "%y_rescale_1 = fake_quantize(%d_q) s8 rescale" in meet(InsertRescale, TWO + "%y = add(%c, %d)", rules=rules)
    pool = "%p = average_pool(%d) {pool_size=(3, 3), strides=(1, 1), padding='same'}\n%y = add(%c, %p)"
    published = [Rule("p", schemes.get("int8").replace(reciprocal_bits=8))]
    assert "%y_rescale_1 = fake_quantize(%p_q) s8 rescale" in meet(InsertRescale, TWO + pool, rules=published)
    assert "rescale" not in meet(InsertRescale, TWO + pool)


def test_constants_that_meet_values_are_quantized():
    result = meet(ShareScales, TWO + "const %k: f32[3] = [1.0, 2.0, 3.0]\n%y = add(%c, %k)\n%z = relu(%d)", "%y, %z")
    assert "%y/q_constant_1 = fake_quantize(%k) s8 rescale group=y_inputs" in result


def test_what_only_joins_an_output_keeps_separate_scales():
    """Through moves too; an input among the parts is quantized all the same, a softmax stays as it is."""
    body = TWO + "%r = relu(%c)\n%s = softmax(%d)\n%k = concat(%r, %d, %x, %s)\n%y = permute(%k) {dims=(2, 1, 3)}"
    for cls in (InsertRescale, ShareScales):
        unchanged(cls, body, before=ALL)
    result = meet(ShareScales, body)
    assert "%k = concat(%r_q, %d_q, %x_q, %s)" in result and "group" not in result and "output %y" in result
    inside = meet(ShareScales, TWO + "%k = concat(%c, %d)\n%y = relu(%k)", "%y, %k")
    assert inside.count("group=k_inputs") == 2, "read inside the network: one scale"


def test_one_value_twice_and_one_input_alone_are_left():
    unchanged(InsertRescale, TWO + "%y = add(%c, %c)\n%z = concat(%d)", before=ALL, output="%y, %z")
    unchanged(ShareScales, TWO + "%y = add(%c, %c)\n%z = concat(%d)", before=(*ALL, InsertRescale), output="%y, %z")


def test_ops_in_float_are_left():
    for cls in (InsertRescale, ChooseSigns, ShareScales):
        unchanged(cls, TWO + "%y = add(%c, %d)", before=ALL, rules=[Rule("y", None)])


def test_mixed_signs_become_signed():
    body = TWO + "%r = relu(%c)\n%y = concat(%r, %d)\n%z = softmax(%y)"
    assert "%r_q = fake_quantize(%r) u8 activation\n" in meet(InsertRescale, body, "%z")
    assert "%r_q = fake_quantize(%r) s8 activation\n" in meet(ChooseSigns, body, "%z")


def test_rescale_points_follow_the_other_inputs():
    body = TWO + f"%r = relu(%c)\n%p = max_pool(%r) {POOL}\n%s = relu(%d)\n%y = concat(%r, %s)\n%z = softmax(%y)"
    assert "%y_rescale_0 = fake_quantize(%r_q) u8 rescale group=y_inputs" in meet(ShareScales, body, "%z, %p")
    body = body.replace("%s = relu(%d)", "%s = identity(%d)")
    assert "%y_rescale_0 = fake_quantize(%r_q) s8 rescale group=y_inputs" in meet(ShareScales, body, "%z, %p")


@pytest.mark.parametrize("middle, sign", [("%r = relu(%c)", "u"), ("%r = identity(%c)", "s")])
def test_average_pools_follow_their_input(middle, sign):
    for padding in ("valid", "same"):
        pool = f"%y = average_pool(%r) {{pool_size=(3, 3), strides=(1, 1), padding='{padding}'}}"
        assert f"%y_q = fake_quantize(%y) {sign}8 activation\n" in meet(ChooseSigns, f"{LAYER}{middle}\n{pool}")
        published = [Rule("y", schemes.get("int8").replace(reciprocal_bits=8))]
        assert (
            f"%y_q = fake_quantize(%y) {sign}8 activation floor"
            in meet(ChooseSigns, f"{LAYER}{middle}\n{pool}", rules=published)
        )


def test_average_pool_behind_a_mixed_concat_is_signed():
    body = TWO + """%r = relu(%c)
    %k = concat(%r, %d)
    %y = average_pool(%k) {pool_size=(2, 2), strides=(1, 1)}"""
    assert "%y_q = fake_quantize(%y) s8 activation\n" in meet(ChooseSigns, body)


def test_a_relu_behind_an_average_takes_its_quantizer():
    body = f"{LAYER}%p = average_pool(%c) {{pool_size=(2, 2), strides=(1, 1)}}\n%y = relu(%p)"
    result = meet(ChooseSigns, body)
    assert "%y_q = fake_quantize(%y) u8 activation" in result and "%p_q" not in result


def test_sums_of_what_is_never_negative_have_no_sign():
    """A sum, a rescale point, a pool, a constant factor; the published schemes keep the sign."""
    body = TWO + f"""%r = relu(%c)
    %s = relu(%d)
    %t = add(%r, %s)
    %p = max_pool(%t) {POOL}
    const %f/kernel: f32[1,1,3,1] = full(0.1)
    const %f/bias: f32[3] = full(0.5)
    %f/product = depthwise_conv(%t, %f/kernel) {{strides=(1, 1), padding='valid', dilation=(1, 1), fixed=True}}
    %f = bias_add(%f/product, %f/bias) {{fixed=True}}
    %y = add(%t, %f)"""
    result = meet(ShareScales, body, "%y, %p")
    for line in ("%t_q = fake_quantize(%t) u8 activation", "%f_q = fake_quantize(%f) u8 activation group=y_inputs",
                 "%y_rescale_0 = fake_quantize(%t_q) u8 rescale group=y_inputs", "%y_q = fake_quantize(%y) u8 "
                                                                                 "activation"):
        assert line in result
    assert (
        "%f_q = fake_quantize(%f) s8 activation"
        in meet(ShareScales, body.replace("fixed=True", "fixed=False"), "%y, %p")
    ), "a trained factor may change its sign"
    published = meet(ShareScales, body, "%y, %p", scheme="graffitist_int8")
    assert "%r_q = fake_quantize(%r) u8" in published
    assert (
        "%t_q = fake_quantize(%t) s8 activation" in published
        and "%y_rescale_0 = fake_quantize(%t_q) s8 rescale" in published
    )


def test_a_maximum_with_what_is_never_negative_needs_no_sign():
    body = TWO + "%r = relu(%d)\n%y = maximum(%c, %r)\n%z = add(%y, %r)"
    result = meet(ShareScales, body, "%z")
    assert ("%c_q = fake_quantize(%c) u8 activation group=y_inputs" in result and "%z_q = fake_quantize(%z) u8 "
                                                                                  "activation" in result)
    result = meet(ShareScales, body, "%z", scheme="graffitist_int8")
    assert ("%c_q = fake_quantize(%c) s8 activation group=y_inputs" in result and "%z_q = fake_quantize(%z) s8 "
                                                                                  "activation" in result)


@pytest.mark.parametrize("key, value, message", [("bits", 4, "bits is 8 and 4"), ("signed", False, "signed is True "
                                                                                                   "and False")])
def test_merging_different_quantizers_is_an_error(key, value, message):
    """C16: members of a merge agree on bits and signedness."""
    graph = parse("""fakequant graph net
    input %x: f32[_,4]
    %a = fake_quantize(%x) {bits=8, signed=True}
    %b = fake_quantize(%x) {bits=8, signed=True}
    output %a, %b""")
    nodes = graph.nodes
    for node in nodes:
        node.attrs = {
            "quantizer": "log_threshold", "narrow": False, "rounding": "half_even", "trainable": True,
            "calibration": "max", "log2_threshold": None, "group": None, **node.attrs
        }
    assert merge_thresholds(nodes, "g") and not merge_thresholds(nodes, "g")
    assert [node.attrs["group"] for node in nodes] == ["g", "g"]
    nodes[1].attrs[key] = value
    with pytest.raises(ValueError, match=f"'a' and 'b' cannot share the threshold 'g': {message}"):
        merge_thresholds(nodes, "g")


def test_sharing_before_signs_are_chosen_is_refused():
    with pytest.raises(ValueError, match="signed is False and True"):
        run(
            ShareScales, TWO + "%r = relu(%c)\n%y = concat(%r, %d)\n%z = softmax(%y)", before=(*ALL, InsertRescale),
            output="%z"
        )


def test_sharing_before_rescale_points_is_refused():
    with pytest.raises(ValueError, match="run insert_rescale first"):
        run(
            ShareScales,
            TWO
            + f"const %e/kernel: f32[1,1,2,3] = random(3)\n%e = conv(%x, %e/kernel) {CONV}\n%p = max_pool(%c) "
              f"{POOL}\n%y = concat(%c, %d, %e)\n%z = softmax(%y)",
            before=ALL, output="%z, %p"
        )
