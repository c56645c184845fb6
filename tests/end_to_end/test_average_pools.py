"""Average pools in whole models: how far from the exact mean, equal on every executor, equal in Keras on any input,
trained like a mean.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti import layers as own
from graffiti import schemes
from graffiti.graph import interpreter
from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat

L = keras.layers
POOLS = {  # name -> (input shape, layer)
    "3x3_same": ((9, 9, 6), lambda x: L.AveragePooling2D(3, 1, padding="same")(x)),
    "2x2": ((12, 12, 5), lambda x: L.AveragePooling2D(2)(x)),
    "6x6_step_3": ((12, 12, 5), lambda x: L.AveragePooling2D(6, 3)(x)),
    "global_7x7": ((7, 7, 16), lambda x: L.GlobalAveragePooling2D()(x)),
    "global_24x24": ((24, 24, 3), lambda x: L.GlobalAveragePooling2D()(x)),
    "row_of_6": ((30, 4), lambda x: L.AveragePooling1D(6, 4, padding="same")(x)),
    "global_300": ((300, 4), lambda x: L.GlobalAveragePooling1D(keepdims=True)(x)),
    "mean_of_rows": ((8, 8, 4), lambda x: keras.ops.mean(x, axis=1)),
}
DEFAULTS = [name for name in schemes.names() if not name.startswith("graffitist")]


def pool_of(name: str) -> keras.Model:
    shape, layer = POOLS[name]
    x = keras.Input(shape)
    return keras.Model(x, layer(x), name="pool")


def data(shape, signed: bool, count: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(0, 1, (count, *shape)) if signed else rng.uniform(0, 1, (count, *shape))).astype(np.float32)


def errors(model: keras.Model, scheme: str, x: np.ndarray) -> tuple[float, float, float]:
    """Mean error in steps, and the signal-to-noise ratios of the codes and of the exact mean rounded to the same
    grid, in dB.
    """
    ig = graffiti.to_integer(graffiti.quantize(model, scheme, calibration=x, progress=False))
    values = interpreter.run(ig.graph, x, values=True)
    node = [node for node in ig.graph.nodes if node.op in ("average_pool", "requantize")][-1]
    (first,) = [n for n in ig.graph.nodes if n.op == "quantize"]
    source, target = ig.graph.format(first.name), ig.graph.format(node.name)
    steps = np.ldexp(values[first.name].astype(np.float64), source.exponent - target.exponent)
    exact = model(tf.constant(steps, tf.float32)).numpy().astype(np.float64).reshape(values[node.name].shape)
    best, codes = np.clip(np.rint(exact), target.qmin, target.qmax), values[node.name].astype(np.float64)
    inside = (best > target.qmin) & (best < target.qmax)

    def sqnr(y):
        return 10 * np.log10((exact[inside] ** 2).sum() / ((exact - y)[inside] ** 2).sum())

    return float((codes - exact)[inside].mean()), sqnr(codes), sqnr(best)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("name", ["3x3_same", "2x2", "6x6_step_3", "global_7x7", "row_of_6"])
def test_mean_error_and_noise(name, signed):
    """Within 0.05 steps on average and 1 dB of the exact rounded mean; the published form is -0.4 to -0.7 steps off."""
    model = pool_of(name)
    x = data(model.input_shape[1:], signed, 256)
    mean, sqnr, best = errors(model, "int8", x)
    assert abs(mean) < 0.05 and sqnr > best - 0.1
    assert errors(model, "graffitist_int8", x)[0] < -0.2


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_every_default_scheme_rounds_the_mean(scheme):
    model = pool_of("3x3_same")
    mean, sqnr, best = errors(model, scheme, data(model.input_shape[1:], True, 256))
    assert abs(mean) < 0.05 and sqnr > best - 1


@pytest.mark.parametrize("scheme", ["int8", "int8_half_up", "graffitist_int8"])
@pytest.mark.parametrize("name", POOLS)
def test_executors_agree(name, scheme):
    model = pool_of(name)
    x = data(model.input_shape[1:], name.endswith("300") or name == "2x2", 8)
    q = graffiti.quantize(model, scheme, calibration=x, progress=False)
    ig = graffiti.to_integer(q)
    assert graffiti.verify(q, ig, np.concatenate([x, 40 * x - 3]), ["reference", "native", "python"]).verdict == "equal"
    if scheme != "graffitist_int8":
        (node,) = [node for node in ig.graph.nodes if node.op == "average_pool"]
        assert node.attrs["rounding"] == schemes.get(scheme).rounding


def test_a_window_of_65536_needs_no_more_than_24_bits():
    i = keras.Input((256, 256, 1))
    m = keras.Model(i, L.GlobalAveragePooling2D()(i))
    x = data((256, 256, 1), False, 2)
    q = graffiti.quantize(m, "int8", calibration=x, progress=False)
    assert graffiti.verify(q, graffiti.to_integer(q), x, ["reference", "native", "python"]).verdict == "equal"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "window, strides, padding",
    [((3, 3), (1, 1), "same"), ((2, 3), (2, 3), "valid"), ((6, 6), (6, 6), "valid"), ((4, 4), (1, 1), "same")]
)
def test_the_layer_rounds_like_the_reference_at_every_scale(bits, window, strides, padding):
    """Behind it any quantizer gives the integer op's codes: ties, near-ties, large sums."""
    rng = np.random.default_rng(bits)
    source = QFormat(bits, True, -5)
    codes = rng.integers(source.qmin, source.qmax + 1, (4, 6, 6, 8))
    codes[1] //= 64
    codes[2] = rng.choice([source.qmin, source.qmax], codes[2].shape)
    layer = own.WindowMean(window, strides, padding, input_bits=bits)
    y = layer(tf.constant(np.ldexp(codes.astype(np.float32), -5))).numpy()
    for exponent in range(-14, 3):
        for mode in ("half_even", "half_up", "half_away", "floor"):
            target = QFormat(8 if exponent > -8 else 16, True, exponent)
            expected = reference.average_pool(codes, window, strides, padding, source, target, mode)
            assert (reference.quantize(y, target, mode) == expected).all(), (exponent, mode)


def test_the_layer_in_a_graph_of_ops_and_under_xla():
    """Graph optimizers turn a division by a constant into a product with its rounded reciprocal; the result must not
    notice.
    """
    x = tf.constant(np.random.default_rng(0).integers(-128, 128, (16, 6, 6, 8)).astype(np.float32))
    layer = own.WindowMean((6, 6), (6, 6), "valid", input_bits=8)
    eager = layer(x).numpy()
    assert (tf.function(layer)(x).numpy() == eager).all()
    assert (tf.function(layer, jit_compile=True)(x).numpy() == eager).all()


def test_the_gradient_is_the_means():
    x = tf.constant(np.random.default_rng(0).integers(-128, 128, (2, 6, 6, 3)).astype(np.float32))
    for training in (False, True):
        layer, plain = own.WindowMean((3, 3), (2, 2), "same", input_bits=8), L.AveragePooling2D(3, 2, "same")
        grads = []
        for average in (functools.partial(layer, training=training), plain):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(average(x) ** 2)
            grads.append(tape.gradient(y, x).numpy())
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-5, atol=1e-5)


def test_a_model_with_the_layer_is_saved_and_read(tmp_path):
    model = pool_of("3x3_same")
    x = data(model.input_shape[1:], True, 8)
    q = graffiti.quantize(model, "int8", calibration=x, progress=False)
    q.save(tmp_path / "q.keras")
    again = keras.models.load_model(tmp_path / "q.keras")
    assert graffiti.to_integer(again).to_text() == graffiti.to_integer(q).to_text()


def test_a_pool_kept_in_float_and_a_published_one_by_rule():
    i = keras.Input((8, 8, 4))
    a = L.AveragePooling2D(2, name="exact")(i)
    b = L.AveragePooling2D(2, name="published")(i)
    c = L.AveragePooling2D(2, name="real")(i)
    m = keras.Model(i, [L.Conv2D(2, 1, name=f"c_{n}")(t) for n, t in zip("abc", (a, b, c))])
    rules = [graffiti.Rule("published", schemes.get("int8").replace(reciprocal_bits=8)), graffiti.Rule("real", None)]
    x = data((8, 8, 4), True, 16)
    q = graffiti.quantize(m, "int8", calibration=x, rules=rules, progress=False)
    ig = graffiti.to_integer(q)
    ops = {node.name: node.op for node in ig.graph.nodes}
    assert (ops["exact_q"], ops["published"], ops["real"]) == ("average_pool", "depthwise_conv", "island")
    assert graffiti.verify(q, ig, x, ["reference", "native", "python"]).verdict == "equal"
