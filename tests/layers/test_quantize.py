"""``Quantize``: value and exponent, sharing, integer inputs, Keras' promises."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from graffiti import layers
from graffiti.quantizers import LogThreshold


def test_value_exponent_and_round_trip(tmp_path):
    x = keras.Input((5,), dtype="uint8")
    layer = layers.Quantize(LogThreshold(8, False, role="input"), name="x_q", node_names=["image_q"])
    value, exponent = layer(x)
    assert value.shape == (None, 5) and exponent.shape == () and exponent.dtype == "float32"
    made = keras.Model(x, value)
    layer.quantizer.set_threshold(255.0)
    images = np.array([[0, 1, 127, 254, 255]], np.uint8)
    assert made.predict(images, verbose=0).tolist() == images.tolist()
    assert float(layer(images)[1]) == 0.0
    made.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(loaded.predict(images, verbose=0), images)
    assert (
        loaded.get_layer("x_q").node_names == ["image_q"] and bool(loaded.get_layer("x_q").quantizer.calibrated.numpy())
    )


def test_calls_share_one_threshold_and_their_gradients_add():
    layer = layers.Quantize(LogThreshold(4, True), name="group", node_names=["a", "b"], group="group")
    layer.build((None, 3))
    layer.quantizer.assign_log2(0.0)
    a, b = tf.constant([[0.3, 0.9, 2.0]]), tf.constant([[-3.0, 0.1, 0.2]])
    variable = layer.quantizer.log2_threshold.value

    def gradient(*inputs):
        with tf.GradientTape() as tape:
            total = tf.add_n([tf.reduce_sum(layer(x)[0]) for x in inputs])
        return float(tape.gradient(total, variable))

    assert abs(gradient(a, b) - gradient(a) - gradient(b)) < 1e-6 and gradient(a) != 0


def test_the_exponent_has_no_gradient():
    layer = layers.Quantize(LogThreshold(8, True))
    layer.build((None, 2))
    with tf.GradientTape() as tape:
        exponent = layer(tf.ones((1, 2)))[1] * 3.0
    assert tape.gradient(exponent, layer.quantizer.log2_threshold.value) is None
