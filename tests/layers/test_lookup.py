"""Tables of activations: one table for the layer, the reader and every way of running."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti import layers
from graffiti.graph.functions import FUNCTIONS
from graffiti.layers import functions
from graffiti.quantizers import LogThreshold


def model(function: str, bits: int, signed: bool, log2: float) -> keras.Model:
    x = keras.Input((40,))
    quantize = layers.Quantize(LogThreshold(bits, signed), name="q")
    made = keras.Model(x, layers.LookupActivation(function, bits, signed, name="a")(list(quantize(x))))
    quantize.quantizer.assign_log2(log2)
    return made


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if FUNCTIONS[name].as_node()[0] == "activation"])
@pytest.mark.parametrize("bits, signed, log2", [(8, True, 2.3), (8, False, 3.0), (4, True, 1.0), (10, True, 2.0)])
def test_every_code_gives_its_table_entry_everywhere(function: str, bits: int, signed: bool, log2: float):
    made = model(function, bits, signed, log2)
    format = made.get_layer("q").quantizer.qformat()
    table = made.get_layer("a").table_values(format.exponent)
    assert table.shape == (format.qmax - format.qmin + 1,) and table.dtype == np.float32
    codes = np.arange(format.qmin, format.qmax + 1)
    reals = np.ldexp(codes.astype(np.float64), format.exponent)
    np.testing.assert_allclose(table, functions.get(function)(tf.constant(reals, tf.float64)), rtol=1e-7, atol=1e-30)
    x = np.resize(reals, (-(-len(reals) // 40) * 40)).reshape(-1, 40).astype(np.float32)
    right = np.resize(table, x.shape)
    assert np.array_equal(made.predict(x, verbose=0), right)
    assert np.array_equal(made(x), right)
    assert np.array_equal(made(x, training=True), right)


def test_gradient_is_the_true_derivative():
    layer = layers.LookupActivation("tanh")
    x = tf.constant(np.arange(-128, 128) / 32, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer([x, tf.constant(-5.0)])
    np.testing.assert_allclose(tape.gradient(y, x), 1 - np.tanh(x.numpy()) ** 2, atol=1e-6)


def test_a_step_of_training_reaches_the_threshold_in_front():
    made = model("sigmoid", 8, True, 0.0)
    made.compile(keras.optimizers.SGD(1.0), "mse")
    made.train_on_batch(np.full((4, 40), 3.0, np.float32), np.ones((4, 40), np.float32))
    assert float(made.get_layer("q").quantizer.log2_threshold.numpy()) > 0


def test_save_load(tmp_path):
    made = model("gelu", 8, True, 1.0)
    x = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    made.save(tmp_path / "m.keras")
    assert np.array_equal(
        keras.models.load_model(tmp_path / "m.keras").predict(x, verbose=0), made.predict(x, verbose=0)
    )


def test_errors():
    with pytest.raises(ValueError, match="at most 65536 entries"):
        layers.LookupActivation("tanh", bits=17)
    with pytest.raises(ValueError, match="no activation function 'sinh'"):
        layers.LookupActivation("sinh")
    with pytest.raises(ValueError, match="no table for input exponent 90"):
        layers.LookupActivation("tanh").table_values(90)
