"""The native engine against the emulated one: equal to the bit, layer by layer and after a hundred training steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from engines import needs_library
from low_bit.models import compiled, convnet, examples

import graffiti
from graffiti.low_bit import engine as engine_of
from graffiti.low_bit.quantized import Quantized

pytestmark = needs_library


@pytest.mark.parametrize(
    "scheme",
    ["adaptive_precision", "dynamic_fixed_point", "large_gradients_int4", "large_gradients_int8", "min_max_int8"]
)
@pytest.mark.parametrize("steps", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_all_steps_are_equal_to_the_bit(scheme, steps):
    keras.utils.set_random_seed(1)
    plain = convnet()
    x, y = examples(plain, 64)
    models = [
        compiled(graffiti.quantize_training(plain, scheme, engine=engine), rate=0.02)
        for engine in ("native", "emulated")
    ]
    for model in models:
        model.fit(
            x, y, batch_size=16, epochs=steps // 4, shuffle=False, verbose=0,
            callbacks=[graffiti.callbacks.LowBitSteps()]
        )
    assert int(models[0].optimizer.iterations) == steps
    for native, emulated in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_array_equal(native, emulated, err_msg=native.path)
    assert not np.array_equal(models[0].trainable_variables[0], plain.trainable_variables[0])


def test_wide_gradients_are_equal_too():
    """A threshold of zero drives every gradient to 16 and then 24 bits."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, use_bias=False)(inputs)))
    x = keras.layers.GlobalAveragePooling2D()(
        keras.layers.Conv2D(6, 3, strides=2)(keras.layers.DepthwiseConv2D(3, padding="same")(x))
    )
    plain = keras.Model(inputs, keras.layers.Dense(5)(x))
    x, y = examples(plain, 32)
    shares = []
    for widths in ((8, 16), (16,)):
        scheme = graffiti.schemes.training_schemes.get(
            "adaptive_precision", widths=widths, threshold=0.0
        ).replace(first_layer=True, last_layer=True)
        pair = [
            compiled(graffiti.quantize_training(plain, scheme, engine=engine), rate=0.02)
            for engine in ("native", "emulated")
        ]
        for model in pair:
            model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        for native, emulated in zip(*(model.variables for model in pair), strict=True):
            np.testing.assert_array_equal(native, emulated, err_msg=f"{widths} {native.path}")
        shares.append(graffiti.callbacks.shares(pair[0]))
    assert shares[0][16] > 0.9


@pytest.mark.parametrize("engine", ["native", "emulated"])
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.float32])
def test_the_gradient_of_a_bias_is_the_exact_sum(kind, engine):
    info = np.iinfo(np.int16 if kind is np.float32 else kind)
    codes = np.random.default_rng(0).integers(info.min, info.max + 1, (3, 40, 50, 7)).astype(kind)
    codes[..., 0] = info.min  # 6,000 of the smallest: beyond 2**24 and, as 16 bits, near 2**28
    for scale in (np.float32(2.0**-9), np.float32(np.nan)):
        found = engine_of.bias_gradient(
            Quantized(tf.constant(codes), tf.constant(scale), int(info.min), int(info.max)), engine
        )
        np.testing.assert_array_equal(found, codes.astype(np.int64).sum((0, 1, 2)).astype(np.float32) * scale)
    real = tf.constant(codes, tf.float32)
    np.testing.assert_array_equal(engine_of.bias_gradient(Quantized(real), engine), tf.reduce_sum(real, (0, 1, 2)))
