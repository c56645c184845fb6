"""The float interpreter against Keras, fake quantization against the published numbers and against the integer
graph.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from graffiti.graph import interpreter
from graffiti.graph.float_interpreter import RULES, Formats, run_float
from graffiti.graph.functions import FUNCTIONS
from graffiti.graph.ops import OPS
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph
from graffiti.numerics import fold
from graffiti.numerics.formats import QFormat


def test_every_float_op_has_a_rule():
    ours = {name for name, row in OPS.items() if "float" in row.stages or "fakequant" in row.stages}
    assert set(RULES) == ours - {"island"}


def float_graph(line, constants="", shape="_,7,8,4"):
    graph = parse(f"float graph g\ninput %x:f32[{shape}]\n{constants}\n%y = {line}\noutput %y")
    verify_graph(graph)
    return graph


def against_keras(line, layer, constants="", shape="_,7,8,4", weights=()):
    graph = float_graph(line, constants, shape)
    x = np.random.default_rng(0).normal(0, 2, (3, *(int(n) for n in shape.split(",")[1:]))).astype(np.float32)
    if isinstance(layer, keras.layers.Layer):
        layer.build(x.shape)
        layer.set_weights([graph.constants[name] for name in weights])
    expected = np.asarray(layer(x))
    for dtype in (np.float64, np.float32):
        (got,) = run_float(graph, x, dtype=dtype)
        assert got.dtype == dtype and got.shape == expected.shape == (3, *graph.shape("y")[1:])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_products_and_pools_are_those_of_keras(padding):
    window = f"strides=(2, 2), padding='{padding}'"
    against_keras(
        f"conv(%x, %k) {{{window}, dilation=(1, 1), groups=2}}",
        keras.layers.Conv2D(6, 3, 2, padding, groups=2, use_bias=False),
        "const %k:f32[3,3,2,6] = random(1)", weights=["k"],
    )
    against_keras(
        f"depthwise_conv(%x, %k) {{{window}, dilation=(1, 1)}}",
        keras.layers.DepthwiseConv2D(3, 2, padding, 2, use_bias=False),
        "const %k:f32[3,3,4,2] = random(1)", weights=["k"],
    )
    against_keras(
        f"conv_transpose(%x, %k) {{{window}}}", keras.layers.Conv2DTranspose(5, 3, 2, padding, use_bias=False),
        "const %k:f32[3,3,5,4] = random(1)", weights=["k"],
    )
    against_keras(
        f"separable_conv(%x, %d, %p) {{{window}, dilation=(1, 1)}}",
        keras.layers.SeparableConv2D(6, 3, 2, padding, use_bias=False),
        "const %d:f32[3,3,4,1] = random(1)\nconst %p:f32[1,1,4,6] = random(2)", weights=["d", "p"],
    )
    against_keras(f"average_pool(%x) {{pool_size=(3, 3), {window}}}", keras.layers.AveragePooling2D(3, 2, padding))
    against_keras(f"max_pool(%x) {{pool_size=(3, 3), {window}}}", keras.layers.MaxPooling2D(3, 2, padding))
    against_keras(
        f"average_pool(%x) {{pool_size=(3,), strides=(2,), padding='{padding}'}}",
        keras.layers.AveragePooling1D(3, 2, padding), shape="_,8,4"
    )


def test_the_rest_is_that_of_keras():
    against_keras(
        "dense(%x, %k)", keras.layers.Dense(5, use_bias=False), "const %k:f32[4,5] = random(1)", weights=["k"]
    )
    against_keras(
        "batch_norm(%x, %gamma, %beta, %mean, %variance) {epsilon=0.01}", keras.layers.BatchNormalization(epsilon=0.01),
        "const %gamma:f32[4] = random(1)\nconst %beta:f32[4] = random(2)\nconst %mean:f32[4] = random(3)\nconst "
        "%variance:f32[4] = [0.5, 1, 2, 0.01]",
        weights=["gamma", "beta", "mean", "variance"],
    )
    against_keras("rescaling(%x) {scale=0.5, offset=-1.0}", keras.layers.Rescaling(0.5, -1.0))
    against_keras(
        "rescaling(%x) {scale=(0.5, 1.0, 2.0, 3.0), offset=(0.0, 1.0, 0.0, -1.0)}",
        keras.layers.Rescaling([0.5, 1.0, 2.0, 3.0], [0.0, 1.0, 0.0, -1.0])
    )
    against_keras("relu(%x) {max_value=1.5}", keras.layers.ReLU(1.5))
    against_keras("relu(%x)", keras.layers.ReLU())
    against_keras("leaky_relu(%x) {alpha=0.1}", keras.layers.LeakyReLU(0.1))
    against_keras("softmax(%x)", keras.layers.Softmax())
    against_keras("mean(%x) {axes=(1, 2)}", keras.layers.GlobalAveragePooling2D())
    against_keras("mean(%x) {axes=(1, 2), keepdims=True}", keras.layers.GlobalAveragePooling2D(keepdims=True))
    against_keras("global_max_pool(%x) {axes=(1, 2)}", keras.layers.GlobalMaxPooling2D())
    against_keras("training_only(%x) {layer='Dropout'}", keras.layers.Dropout(0.5))
    against_keras("upsample(%x) {size=(2, 1)}", keras.layers.UpSampling2D((2, 1)))
    against_keras("permute(%x) {dims=(3, 1, 2)}", keras.layers.Permute((3, 1, 2)))
    against_keras("subtract(%x, %k)", lambda x: x - 0.25, "const %k:f32[4] = full(0.25)")
    against_keras("maximum(%x, %k)", lambda x: np.maximum(x, 0.25), "const %k:f32[4] = full(0.25)")


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"linear", "softmax"}))
def test_activations_are_those_of_the_layers(name):
    from graffiti.layers import functions

    against_keras(f"activation(%x) {{function='{name}'}}", lambda x: np.asarray(functions.get(name)(x)))


def test_parameters_of_an_activation():
    against_keras("activation(%x) {function='elu', parameters={'alpha': 0.5}}", keras.layers.ELU(0.5))


def test_unknown_functions_and_parameters():
    with pytest.raises(ValueError, match="'y'.*has no parameter beta"):
        run_float(float_graph("activation(%x) {function='elu', parameters={'beta': 1.0}}"), np.zeros((1, 7, 8, 4)))
    with pytest.raises(ValueError, match="there is no activation function 'swishish'"):
        run_float(float_graph("activation(%x) {function='swishish'}"), np.zeros((1, 7, 8, 4)))


def quantizer(bits, signed, threshold, x, **attrs):
    more = "".join(f", {key}={value!r}" for key, value in attrs.items())
    graph = parse(f"fakequant graph g\ninput %x:f32[_]\n%y = fake_quantize(%x) {{bits={bits}, signed={signed}, "
                  f"log2_threshold=({threshold},){more}}}\noutput %y")
    return run_float(graph, np.asarray(x))[0].tolist()


C1_X = [-1.2, -1.0625, -1.0, -0.5625, -0.0625, 0.0625, 0.1875, 0.3, 0.9, 0.9375, 1.5]


@pytest.mark.parametrize("bits, signed, threshold, x, expected, rounding", [
    (4, True, 0.0, C1_X, [-1, -1, -1, -0.5, 0, 0, 0.25, 0.25, 0.875, 0.875, 0.875], "half_even"),
    (4, True, 0.3, C1_X, [-1.25, -1, -1, -0.5, 0, 0, 0.25, 0.25, 1, 1, 1.5], "half_even"),
    (4, True, 1.0, C1_X, [-1.25, -1, -1, -0.5, 0, 0, 0.25, 0.25, 1, 1, 1.5], "half_even"),
    (4, True, -0.2, C1_X, [-1, -1, -1, -0.5, 0, 0, 0.25, 0.25, 0.875, 0.875, 0.875], "half_even"),
    (
        8, False, -0.5, [-0.3, 0, 0.0009765625, 0.0029296875, 0.5, 0.99804688, 1, 2],
        [0, 0, 0, 0.00390625, 0.5, 0.99609375, 0.99609375, 0.99609375], "half_even"
    ),
    (4, True, 0.0, [0.3, -0.3, 0.99], [0.25, -0.375, 0.875], "floor"),
])
def test_c1_to_c4_forward(bits, signed, threshold, x, expected, rounding):
    assert quantizer(bits, signed, threshold, x, rounding=rounding) == expected


def test_narrow_and_infinite():
    assert quantizer(4, True, 0.0, [-2.0, np.inf, -np.inf], narrow=True) == [-0.875, 0.875, -0.875]
    with pytest.raises(ValueError, match="the quantizer 'y' got NaN"):
        quantizer(4, True, 0.0, [np.nan])


FAKEQUANT = """
fakequant graph g
input %x:f32[_,3]
const %w:f32[3,2] = [[0.30, -0.55], [0.80, 0.10], [-0.42, 0.95]]
const %b:f32[2] = [0.013, -0.4]
%x_q = fake_quantize(%x) {bits=8, signed=False, role='input', log2_threshold=(0.13750352,)}
%q_w = fake_quantize(%w) {bits=8, signed=True, role='weight', log2_threshold=(-0.0740006,)}
%product = dense(%x_q, %q_w)
%accumulator = fake_quantize(%product) {bits=16, signed=True, group='a', log2_threshold=(0.37851162,)}
%q_b = fake_quantize(%b) {bits=16, signed=True, group='a', log2_threshold=(0.37851162,)}
%sum = bias_add(%accumulator, %q_b)
%r = relu(%sum)
%y_q = fake_quantize(%r) {bits=8, signed=False, log2_threshold=(-0.15200309,)}
output %y_q
"""


def test_c10_in_fake_quantization():
    graph = parse(FAKEQUANT)
    verify_graph(graph)
    values = run_float(graph, np.array([[0.7, 0.2, 1.1]]), values=True)
    assert (values["q_w"] * 128).tolist() == [[38, -70], [102, 13], [-54, 122]]
    assert (values["x_q"] * 128).tolist() == [[90, 26, 141]]
    assert (values["accumulator"] * 2**14).tolist() == [[-1542, 11240]]
    assert (values["q_b"] * 2**14).tolist() == [213, -6554]
    assert values["y_q"].tolist() == [[0, 0.28515625]]


def test_a_32_bit_bias_is_rounded_at_the_accumulators_exponent():
    """Per channel and through ops that keep codes, against an integer graph written by hand."""
    graph = parse("""
        fakequant graph g
        input %x:f32[_,4,4,2]
        const %k:f32[3,3,2,2] = random(1)
        const %b:f32[4] = random(2)
        const %gamma:f32[4] = [1.0, -0.5, 2.0, 0.1]
        const %variance:f32[4] = [1.0, 0.3, 2.0, 0.01]
        const %mean:f32[4] = random(4)
        %x_q = fake_quantize(%x) {bits=8, signed=True, log2_threshold=(0.9,)}
        %p = pad(%x_q) {pads=((1, 1), (1, 1), (0, 0))}
        %fk = fold_kernel(%k, %gamma, %variance) {epsilon=0.001, channel_axis='flat'}
        %fb = fold_bias(%b, %gamma, %b, %mean, %variance) {epsilon=0.001}
        %qk = fake_quantize(%fk) {bits=8, signed=True, narrow=True, channel_axis='flat', role='weight', log2_threshold=(0.1, 1.2, 0.7, 0.0)}
        %c/product = depthwise_conv(%p, %qk) {strides=(1, 1), padding='valid', dilation=(1, 1)}
        %qb = quantize_bias(%fb, %p, %qk)
        %c = bias_add(%c/product, %qb)
        %r = relu(%c) {max_value=6.0}
        %r_q = fake_quantize(%r) {bits=8, signed=False, log2_threshold=(2.3,)}
        output %r_q
    """)
    verify_graph(graph)
    assert Formats(graph).of("p") == QFormat(8, True, -6) and Formats(graph).of("c") is None
    x = np.random.default_rng(5).uniform(-2.5, 2.5, (4, 4, 4, 2)).astype(np.float32)
    values = run_float(graph, x, values=True)
    c = graph.constants
    kernel = fold.fold_kernel(c["k"], c["gamma"], c["variance"], 0.001, "flat")
    bias = fold.fold_bias(c["b"], c["gamma"], c["b"], c["mean"], c["variance"], 0.001)
    exponents = np.array([-6, -5, -6, -7])  # ceil(threshold) - 7
    kernel_codes = np.clip(np.rint(kernel * 2.0 ** -exponents.reshape(2, 2)), -127, 127).astype(np.int8)
    bias_codes = np.rint(bias.astype(np.float64) * 2.0 ** -(exponents - 6)).astype(np.int32)
    integer = parse(f"""
        integer graph g
        input %x:f32[_,4,4,2]
        const %k:s8n@{list(exponents.tolist())}[3,3,2,2]
        const %b:s32@{list((exponents - 6).tolist())}[4]
        %x_q = quantize(%x) {{format=s8@-6}}
        %p = pad(%x_q) {{pads=((1, 1), (1, 1), (0, 0))}}
        %c/product = depthwise_conv(%p, %k) {{strides=(1, 1), padding='valid', dilation=(1, 1)}}
        %c = bias_add(%c/product, %b)
        %r_q = requantize(%c) {{format=u8@-5, low=0, high=192}}
        output %r_q
    """, {"k": kernel_codes, "b": bias_codes})
    verify_graph(integer)
    codes = interpreter.run(integer, x, values=True)
    for name in ("x_q", "p", "c/product", "c", "r_q"):
        assert (codes[name] * integer.format(name).scale == values[name]).all(), name
    assert len(np.unique(codes["r_q"])) > 20 and codes["r_q"].max() <= 192


def test_tables_are_indexed_by_code():
    graph = parse("""
        fakequant graph g
        input %x:f32[_]
        const %t:f32[4] = [10, 20, 30, 40]
        %x_q = fake_quantize(%x) {bits=2, signed=True, log2_threshold=(1.0,)}
        %y = activation(%x_q) {function='anything', values='t'}
        output %y
    """)
    assert run_float(graph, np.array([-2.0, -1.0, 0.0, 1.0, 5.0]))[0].tolist() == [10, 20, 30, 40, 40]


def test_faults_are_sentences():
    graph = parse("fakequant graph g\ninput %x:f32[_,2]\n%y = fake_quantize(%x) {bits=8, signed=True}\noutput %y")
    with pytest.raises(ValueError, match="the quantizer 'y' has the log2_threshold None; calibrate first"):
        run_float(graph, np.zeros((1, 2)))
    graph = parse("fakequant graph g\ninput %x:f32[_,2]\nconst %b:f32[2] = [1, 2]\nconst %k:f32[2,2] = random(1)\n%y = "
                  "quantize_bias(%b, %x, %k)\noutput %y")
    with pytest.raises(ValueError, match=r"node 'y' \(quantize_bias\) needs the exponent of 'x', which no "
                                         r"quantizer gives"):
        run_float(graph, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="use interpreter.run"):
        run_float(parse("integer graph g\ninput %x:f32[_,2]\noutput %x"), np.zeros((1, 2)))
    graph = parse(
        "float graph g\ninput %x:f32[_,2]\n%y:f32[_,2] = island(%x) {layer={}, output_shapes=((None, 2),), "
        "reason='why'}\noutput %y"
    )
    with pytest.raises(ValueError, match=r"layer 'y' stayed in float \(why\)"):
        run_float(graph, np.zeros((1, 2)))
    assert run_float(graph, np.ones((1, 2)), island=lambda node, arrays: arrays[0] * 3)[0].tolist() == [[3, 3]]
