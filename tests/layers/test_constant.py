"""``ConstantMultiply``: exact products up to 31 bits, C11's numbers, Keras' promises."""

from __future__ import annotations

import keras
import numpy as np

from graffiti import layers
from graffiti.quantizers import LogThreshold


def leaky(log2_x: float, log2_alpha: float) -> keras.Model:
    """q16(alpha) * q16(x) alone, and the whole published leaky ReLU behind it."""
    x = keras.Input((3,))
    shared = layers.Quantize(
        LogThreshold(16, True), name="x_q16", node_names=["x_q16", "scaled_q"], group="leaky/inputs"
    )
    wide, _ = shared(x)
    scaled = layers.ConstantMultiply((), LogThreshold(16, True, role="alpha"), input_bits=16, name="scaled")(wide)
    bounded, _ = shared(scaled)
    out, _ = layers.Quantize(LogThreshold(8, True), name="leaky_q")(keras.layers.Maximum()([wide, bounded]))
    made = keras.Model(x, [wide, scaled, out])
    made.get_layer("scaled").constant.assign(0.1)
    made.get_layer("scaled").quantizer.assign_log2(log2_alpha)
    shared.quantizer.assign_log2(log2_x)
    made.get_layer("leaky_q").quantizer.assign_log2(0.0)
    return made


def test_c11():
    made = leaky(1.0, float(np.log2(0.1)))
    wide, _, out = made.predict(np.array([[-1.3, 0.8, 0.0]], np.float32), verbose=0)
    assert wide[0, :2].tolist() == [-1.29998779296875, 0.79998779296875]
    assert out[0, :2].tolist() == [-0.1328125, 0.796875]


def test_products_of_16_bits_are_rounded_to_odd():
    made = leaky(0.0, float(np.log2(0.1)))
    codes = np.random.default_rng(0).integers(-32768, 32768, (4000, 3))
    _, scaled, _ = made.predict((codes / 2**15).astype(np.float32), verbose=0)
    layer = made.get_layer("scaled")
    exponent = layer.quantizer.qformat().exponent
    product = codes * round(0.1 / 2.0**exponent)
    extra = np.maximum(np.frexp(np.abs(product).astype(np.float64))[1] - 24, 0)
    kept = (np.abs(product) >> extra) | ((np.abs(product) & ((np.int64(1) << extra) - 1)) != 0)
    assert np.abs(product).max() > 2**24
    assert np.array_equal(
        scaled.astype(np.float64), np.ldexp((np.sign(product) * (kept << extra)).astype(np.float64), exponent - 15)
    )


def test_save_load_and_a_map(tmp_path):
    x = keras.Input((4, 4, 2))
    layer = layers.ConstantMultiply((1, 4, 4, 1), LogThreshold(8, False, role="reciprocal"), input_bits=16, name="map")
    made = keras.Model(x, layer(x))
    layer.constant.assign(np.random.default_rng(1).uniform(0, 1, (1, 4, 4, 1)))
    layer.quantizer.assign_log2(0.0)
    data = np.random.default_rng(2).integers(0, 2**15, (3, 4, 4, 2)).astype(np.float32)
    right = made.predict(data, verbose=0)
    assert np.array_equal(right, data * np.clip(np.rint(layer.constant.numpy() * 256), 0, 255) / 256)
    made.save(tmp_path / "m.keras")
    assert np.array_equal(keras.models.load_model(tmp_path / "m.keras").predict(data, verbose=0), right)
    assert made.trainable_variables == [layer.quantizer.log2_threshold]
