"""Every layer with a kernel: Keras' promises, and equality with int64 arithmetic on data where float32 would fail."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti import layers
from graffiti.numerics import reference
from graffiti.quantizers import LogThreshold

KINDS = {  # name -> (layer class, its arguments, input shape without batch, reference product)
    "dense": (layers.QuantizedDense, {"units": 5}, (300,), lambda x, k: reference.dense(x, k)),
    "dense 3-D": (layers.QuantizedDense, {"units": 5}, (4, 300), lambda x, k: reference.dense(x, k)),
    "conv 1-D": (
        layers.QuantizedConv1D, {"filters": 4, "kernel_size": 5, "padding": "same", "dilation_rate": 2}, (9, 64),
        lambda x, k: reference.conv(x, k, (1,), "same", (2,))
    ),
    "conv": (layers.QuantizedConv2D, {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (6, 7, 96),
             lambda x, k: reference.conv(x, k, (2, 2), "same", (1, 1))),
    "conv valid dilated": (
        layers.QuantizedConv2D, {"filters": 3, "kernel_size": (3, 2), "dilation_rate": 2}, (7, 8, 64),
        lambda x, k: reference.conv(x, k, (1, 1), "valid", (2, 2))
    ),
    "conv groups": (layers.QuantizedConv2D, {"filters": 6, "kernel_size": 3, "groups": 2}, (5, 5, 128),
                    lambda x, k: reference.conv(x, k, (1, 1), "valid", (1, 1), 2)),
    "depthwise": (
        layers.QuantizedDepthwiseConv2D, {"kernel_size": 11, "padding": "same", "depth_multiplier": 2}, (12, 12, 3),
        lambda x, k: reference.depthwise_conv(x, k, (1, 1), "same", (1, 1))
    ),
    "depthwise unequal strides": (
        layers.QuantizedDepthwiseConv2D, {"kernel_size": (11, 13), "strides": (2, 3), "padding": "same"}, (12, 13, 3),
        lambda x, k: reference.depthwise_conv(x, k, (2, 3), "same", (1, 1))
    ),
    "depthwise 1-D": (layers.QuantizedDepthwiseConv1D, {"kernel_size": 70, "strides": 2}, (150, 3),
                      lambda x, k: reference.depthwise_conv(x, k, (2,), "valid", (1,))),
    "transposed": (
        layers.QuantizedConv2DTranspose, {"filters": 3, "kernel_size": 4, "strides": 2, "padding": "same"}, (4, 5, 64),
        lambda x, k: reference.conv_transpose(x, k, (2, 2), "same", None)
    ),
    "transposed output padding": (
        layers.QuantizedConv2DTranspose, {"filters": 3, "kernel_size": 3, "strides": 2, "output_padding": 1},
        (4, 5, 96), lambda x, k: reference.conv_transpose(x, k, (2, 2), "valid", (1, 1))
    ),
    "transposed 1-D": (layers.QuantizedConv1DTranspose, {"filters": 3, "kernel_size": 4, "strides": 2}, (5, 128),
                       lambda x, k: reference.conv_transpose(x, k, (2,), "valid", None)),
}
BATCH_NORM = {"epsilon": 1e-3, "momentum": 0.9}


def model(kind: str, *, input_bits: int = 8, kernel_bits: int = 8, per_channel: bool = False, **options) -> keras.Model:
    cls, arguments, shape, _ = KINDS[kind]
    x = keras.Input(shape, name="x")
    quantize = layers.Quantize(LogThreshold(input_bits, False, role="input"), name="x_q")
    axis = cls.channel_axis if per_channel else None
    layer = cls(
        **arguments, kernel_quantizer=LogThreshold(kernel_bits, True, narrow=True, channel_axis=axis, role="weight"),
        input_bits=input_bits,
        input_signed=False, name="c", **options,
    )
    made = keras.Model(x, layer(list(quantize(x))))
    quantize.quantizer.assign_log2(0.0)
    channels = layer.compute_output_shape([(None, *shape), ()])[-1]
    layer.kernel_quantizer.assign_log2(np.linspace(-2.5, 1.5, channels) if per_channel else 0.0)
    return made


def adversarial(made: keras.Model, kind: str, input_bits: int, kernel_bits: int, seed: int) -> np.ndarray:
    """Inputs near the top code; kernels whose halves nearly cancel, so partial sums are large and every low bit
    counts.
    """
    rng = np.random.default_rng(seed)
    layer = made.get_layer("c")
    top = 2**input_bits - 1
    codes = top - rng.integers(0, 3, (8, *KINDS[kind][2]))
    signs = rng.choice([-1, 1], size=layer.kernel.shape)
    if seed % 2:
        signs = np.abs(signs)
    kernel = signs * (2 ** (kernel_bits - 1) - 1 - rng.integers(0, 3, layer.kernel.shape))
    layer.kernel.assign(kernel * np.float32(2.0 ** -(kernel_bits - 1)))
    if layer.use_bias and not layer.batch_norm:
        layer.bias.assign((rng.normal(size=layer.bias.shape) * 3).astype(np.float32))
    return (codes * 2.0**-input_bits).astype(np.float32)


def expected(made: keras.Model, kind: str, x: np.ndarray, input_bits: int) -> np.ndarray:
    """int64 accumulator plus bias, as float32 by round to odd, channel by channel."""
    layer = made.get_layer("c")
    format = layer.kernel_quantizer.qformat()
    exponent = np.asarray(format.exponent, np.int64)
    kernel = np.asarray(layer.quantized_kernel(layer.folded_kernel()), np.float64)
    steps = np.asarray(layer.per_channel(tf.constant(exponent))) if exponent.ndim else exponent
    if exponent.ndim and layer.channel_axis == -1:
        steps = exponent
    codes = np.rint(np.ldexp(kernel, -steps)).astype(np.int64)
    inputs = np.rint(np.ldexp(x.astype(np.float64), input_bits)).astype(np.int64)
    total = KINDS[kind][3](inputs, codes)
    output_exponent = exponent - input_bits
    if layer.use_bias:
        bias = np.asarray(layer.fold()[1], np.float64)
        total = total + np.rint(np.ldexp(bias, -output_exponent)).astype(np.int64)
    extra = np.maximum(np.frexp(np.abs(total).astype(np.float64))[1] - 24, 0)
    kept = (np.abs(total) >> extra) | ((np.abs(total) & ((np.int64(1) << extra) - 1)) != 0)
    return np.ldexp((np.sign(total) * (kept << extra)).astype(np.float64), output_exponent).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [(8, 8), (16, 8), (16, 16)], ids=str)
def test_inference_equals_integers_far_beyond_float32(kind: str, bits: tuple[int, int]):
    made = model(kind, input_bits=bits[0], kernel_bits=bits[1], per_channel=bits == (16, 8))
    for seed in (0, 1):
        x = adversarial(made, kind, *bits, seed)
        right = expected(made, kind, x, bits[0])
        assert np.array_equal(made.predict(x, verbose=0), right), "predict"
        assert np.array_equal(made(x), right), "eager"
    layer = made.get_layer("c")
    largest = np.abs(
        np.ldexp(right.astype(np.float64), bits[0] - np.asarray(layer.kernel_quantizer.qformat().exponent))
    ).max()
    assert bits == (8, 8) or largest > 2**24, "the data must leave float32's integers"


def test_evaluate_is_exact_too():
    made = model("dense", input_bits=16, kernel_bits=16)
    x = adversarial(made, "dense", 16, 16, 1)
    right = expected(made, "dense", x, 16)
    made.compile("sgd", loss=lambda y, p: keras.ops.mean(keras.ops.abs(y - p)))
    assert made.evaluate(x, right, verbose=0) == 0.0
    made.fit(x, right, validation_data=(x, right), epochs=1, verbose=0)  # leaves training mode behind
    assert made.evaluate(x, expected(made, "dense", x, 16), verbose=0) == 0.0


def test_a_large_bias_alone_takes_the_exact_path():
    made = model("dense")
    layer = made.get_layer("c")
    layer.kernel.assign(np.full(layer.kernel.shape, 2.0**-7, np.float32))
    layer.bias.assign(np.array([2.0**10, -(2.0**10), 2.0**9 + 2.0**-10, 0, 1], np.float32))
    x = np.full((2, 300), 2.0**-8, np.float32)
    x[:, 1:] = 0
    assert np.array_equal(made.predict(x, verbose=0), expected(made, "dense", x, 8))
    assert (
        not np.array_equal(made.predict(x, verbose=0), made(x, training=True))
    ), "float32 alone must get this one wrong"


@pytest.mark.parametrize("kind, option", [
    *(
        (kind, "batch norm")
        for kind in ("dense", "conv 1-D", "conv", "conv groups", "depthwise unequal strides", "transposed")
    ),
    *((kind, "plain") for kind in ("dense 3-D", "conv groups", "depthwise", "transposed 1-D")),
    *((kind, option) for kind in ("dense", "conv") for option in ("accumulator", "no bias")),
])
def test_train_save_load_clone(kind: str, option: str, tmp_path):
    options = {
        "plain": {}, "batch norm": {"batch_norm": BATCH_NORM}, "no bias": {"use_bias": False},
        "accumulator": {"batch_norm": BATCH_NORM, "accumulator_quantizer": LogThreshold(16, True, role="accumulator")},
    }[option]
    made = model(kind, per_channel=option == "plain", **options)
    layer = made.get_layer("c")
    if option == "accumulator":
        layer.accumulator_quantizer.assign_log2(0.0)  # low enough that it clips, so that its gradient is large
    rng = np.random.default_rng(5)
    x = rng.uniform(0, 1, (6, *KINDS[kind][2])).astype(np.float32)
    y = rng.normal(size=made(x).shape).astype(np.float32)
    before = [v.numpy() for v in made.trainable_variables]
    made.compile(keras.optimizers.SGD(0.05), loss="mse")
    made.train_on_batch(x, y)
    assert all(np.isfinite(v).all() for v in made.variables)
    moved = {v.path.split("/", 1)[1]: not np.array_equal(old, v) for old, v in zip(before, made.trainable_variables)}
    still = {name for name, changed in moved.items() if not changed} - {"quantizer/log2_threshold"}
    assert still <= ({"bias"} if option in ("batch norm", "accumulator") else set()), f"not trained: {still}"
    result = made.predict(x, verbose=0)
    made.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict(x, verbose=0), result)
    assert all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), made.get_weights(), strict=True))
    clone = keras.models.clone_model(made)
    clone.set_weights(made.get_weights())
    assert np.array_equal(clone.predict(x, verbose=0), result)
    mine, theirs = layer.get_config(), loaded.get_layer("c").get_config()
    assert (
        {k: v for k, v in mine.items() if "quantizer" not in k}
        == {k: v for k, v in theirs.items() if "quantizer" not in k}
    )
    assert made.output_shape == (None, *result.shape[1:])


def test_accumulator_mode_equals_c10():
    layer = layers.QuantizedDense(
        2, kernel_quantizer=LogThreshold(8, True), accumulator_quantizer=LogThreshold(16, True, role="accumulator"),
        input_bits=8, input_signed=False,
    )
    quantize = layers.Quantize(LogThreshold(8, False))
    x = np.array([[0.7, 0.2, 1.1]], np.float32)
    layer.build([(None, 3), ()])
    quantize.build((None, 3))
    layer.kernel.assign([[0.30, -0.55], [0.80, 0.10], [-0.42, 0.95]])
    layer.bias.assign([0.013, -0.4])
    for quantizer, threshold in (
        (quantize.quantizer, 1.1), (layer.kernel_quantizer, 0.95), (layer.accumulator_quantizer, 1.3)
    ):
        quantizer.set_threshold(threshold)
    y = layer(list(quantize(x)))
    assert (np.asarray(y) * 2**14).tolist() == [[-1542 + 213, 11240 - 6554]]
    pairs = {id(quantizer): arrays for quantizer, arrays in layer.calibration_inputs(list(quantize(x)))}
    assert [np.asarray(a).shape for a in pairs[id(layer.accumulator_quantizer)]] == [(1, 2), (2,)]


def test_errors_name_the_layer():
    with pytest.raises(ValueError, match="two outputs of a Quantize layer"):
        layers.QuantizedDense(2, kernel_quantizer=LogThreshold(8, True), name="d")(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="3 groups must divide"):
        layers.QuantizedConv2D(4, 3, groups=3).build((None, 8, 8, 4))
    with pytest.raises(ValueError, match="'valid' or 'same'"):
        layers.QuantizedConv2D(4, 3, padding="causal")
    with pytest.raises(ValueError, match="expected 2 integers"):
        layers.QuantizedConv2D(4, (3, 3, 3))


def test_global_dtype_policy_does_not_reach_codes():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = model("conv")
        assert made.get_layer("c").compute_dtype == made.get_layer("x_q").compute_dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
