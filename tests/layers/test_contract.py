"""Every row of ``graffiti.layers.ALL_LAYERS``: saved and loaded, cloned, and under a global policy of half
precision. A row without a case fails.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti import layers
from graffiti.quantizers import LogThreshold

IMAGE, SEQUENCE, VECTOR = (6, 7, 4), (9, 4), (5,)


def kernel(**options) -> dict:
    quantizer = LogThreshold(8, True, narrow=True, role="weight", **options)
    return {"kernel_quantizer": quantizer, "input_bits": 8, "batch_norm": {"epsilon": 1e-3, "momentum": 0.9}}


def quantized(make: Callable[[], keras.layers.Layer], shape) -> keras.Model:
    """The layer behind a quantizer, which it takes the exponent from."""
    x = keras.Input(shape, name="x")
    return keras.Model(x, make()(list(layers.Quantize(LogThreshold(8, True), name="x_q")(x))))


def plain(make: Callable[[], keras.layers.Layer], shape) -> keras.Model:
    x = keras.Input(shape, name="x")
    return keras.Model(x, make()(x))


CASES: dict[type, Callable[[], keras.Model]] = {  # row -> a model whose last layer it is
    layers.Quantize: lambda: keras.Model(
        x := keras.Input(VECTOR), layers.Quantize(LogThreshold(8, True, channel_axis=None))(x)[0]
    ),
    layers.QuantizedDense: lambda: quantized(lambda: layers.QuantizedDense(4, **kernel()), VECTOR),
    layers.QuantizedConv1D: lambda: quantized(
        lambda: layers.QuantizedConv1D(4, 3, padding="same", dilation_rate=2, **kernel()), SEQUENCE
    ),
    layers.QuantizedConv2D: lambda: quantized(
        lambda: layers.QuantizedConv2D(4, 3, strides=2, groups=2, **kernel(channel_axis=-1)), IMAGE
    ),
    layers.QuantizedDepthwiseConv1D: lambda: quantized(
        lambda: layers.QuantizedDepthwiseConv1D(3, depth_multiplier=2, **kernel()), SEQUENCE
    ),
    layers.QuantizedDepthwiseConv2D: lambda: quantized(
        lambda: layers.QuantizedDepthwiseConv2D(3, padding="same", **kernel(channel_axis="flat")), IMAGE
    ),
    layers.QuantizedConv1DTranspose: lambda: quantized(
        lambda: layers.QuantizedConv1DTranspose(3, 4, strides=2, **kernel()), SEQUENCE
    ),
    layers.QuantizedConv2DTranspose: lambda: quantized(
        lambda: layers.QuantizedConv2DTranspose(3, 3, strides=2, output_padding=1, **kernel()), IMAGE
    ),
    layers.LookupActivation: lambda: quantized(
        lambda: layers.LookupActivation("elu", parameters={"alpha": 0.5}), VECTOR
    ),
    layers.Elementwise: lambda: plain(lambda: layers.Elementwise("elu", parameters={"alpha": 0.5}), VECTOR),
    layers.ConstantMultiply: lambda: plain(
        lambda: layers.ConstantMultiply((5,), LogThreshold(8, True, role="alpha"), input_bits=8, trained=True), VECTOR
    ),
    layers.WindowMean: lambda: plain(lambda: layers.WindowMean((2, 3), (2, 2), "same", input_bits=8), IMAGE),
    layers.Pad: lambda: plain(lambda: layers.Pad(((1, 0), (0, 2), (0, 0))), IMAGE),
    layers.Crop: lambda: plain(lambda: layers.Crop(((1, 0), (0, 2), (0, 1))), IMAGE),
    layers.Slice: lambda: plain(lambda: layers.Slice(((0, None, 2), (1, 5, 1), (0, None, 1))), IMAGE),
    layers.Take: lambda: plain(lambda: layers.Take(2, [3, 3, 0]), IMAGE),
    layers.Reduce: lambda: plain(lambda: layers.Reduce("max", (1, 2), keepdims=True), IMAGE),
    layers.Affine: lambda: plain(lambda: layers.Affine([0.5, 2.0, -1.0, 0.25, 3.0], 0.125), VECTOR),
    layers.InFloat: lambda: plain(layers.InFloat, VECTOR),
    layers.WithMask: lambda: plain(lambda: lambda x: layers.WithMask()([x, x[..., 0] > 0]), SEQUENCE),
    layers.Output: lambda: plain(lambda: layers.Output("scores"), VECTOR),
    layers.ActivityLoss: lambda: plain(lambda: layers.ActivityLoss(keras.regularizers.L2(0.5)), VECTOR),
}
# the others move what they are given
COMPUTES = {row for row in CASES if row.__module__.rpartition(".")[2] not in ("moves", "model", "activity")}
ROWS = pytest.mark.parametrize("row", CASES, ids=lambda row: row.__name__)


def test_every_row_has_a_case():
    assert set(CASES) == set(layers.ALL_LAYERS)


def made(row: type) -> keras.Model:
    """The row's model with weights and thresholds that are no defaults."""
    keras.utils.set_random_seed(6)
    model = CASES[row]()
    assert type(model.layers[-1]) is row
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.dtype == "float32":
            low, high = (0.5, 1.5) if "variance" in variable.path or "gamma" in variable.path else (-0.9, 0.9)
            variable.assign(rng.uniform(low, high, variable.shape).astype(np.float32))
    return model


def examples(model: keras.Model) -> tf.Tensor:
    return tf.constant(np.random.default_rng(2).normal(size=(3, *model.input_shape[1:])), tf.float32)


def unbuilt(value):
    """A config without the shapes that its parts were built for, lists for tuples."""
    if isinstance(value, dict):
        return {key: unbuilt(part) for key, part in value.items() if key != "build_config"}
    return [unbuilt(part) for part in value] if isinstance(value, (list, tuple)) else value


def assert_same(first: keras.Model, second: keras.Model) -> None:
    """Class, config, weights, outputs at inference and in training, losses: equal."""
    a, b = first.layers[-1], second.layers[-1]
    assert type(a) is type(b) and unbuilt(a.get_config()) == unbuilt(b.get_config())
    x = examples(first)
    for training in (False, True):
        np.testing.assert_array_equal(first(x, training=training), second(x, training=training))
        np.testing.assert_array_equal(first.losses, second.losses)
    for v, w in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(v, w, err_msg=v.path)
        assert v.trainable == w.trainable


@ROWS
def test_save_and_load(row, tmp_path):
    model = made(row)
    model.save(tmp_path / "m.keras")
    assert_same(model, keras.models.load_model(tmp_path / "m.keras"))


@ROWS
def test_clone(row):
    model = made(row)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same(model, clone)
    assert not {id(v) for v in model.variables} & {id(v) for v in clone.variables}


@ROWS
def test_a_global_policy_of_half_precision_does_not_reach_codes(row):
    model = made(row)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        other = made(row)
        assert row not in COMPUTES or other.layers[-1].compute_dtype == "float32"
        again = type(model).from_config(model.get_config())  # what is in a file stays what it is
        again.set_weights(model.get_weights())
        assert_same(model, again)
    finally:
        keras.config.set_dtype_policy(before)


def test_a_model_quantized_under_half_precision_is_its_integer_graph(tmp_path):
    """Moves and Keras' own layers between the quantizers too: 16-bit codes do not fit half precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.ZeroPadding2D(1)(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
        y = keras.layers.Add()([x, keras.layers.Conv2D(4, 3, padding="same")(x)])
        model = keras.Model(
            inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(keras.layers.Cropping2D(1)(y)))
        )
        images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
        wide = graffiti.QuantizerSpec(16)
        q = graffiti.quantize(model, graffiti.Scheme(wide.replace(bits=8), wide), images, progress=False)
        assert {layer.compute_dtype for layer in q.layers} == {"float32"}
        ig = graffiti.to_integer(q)
        np.testing.assert_array_equal(q(images), ig.predict(images))
        q.save(tmp_path / "q.keras")
        again = keras.models.load_model(tmp_path / "q.keras")
        np.testing.assert_array_equal(again(images), ig.predict(images))
        assert again.quantization_report == q.quantization_report and len(again.quantization_report) > 3
    finally:
        keras.config.set_dtype_policy(before)
