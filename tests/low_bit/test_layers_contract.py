"""Every row of ``LOW_BIT_LAYERS``: a training step equal in both engines, saved and loaded, cloned, in half
precision. A row without a case fails.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from engines import needs_library

import graffiti
from graffiti.low_bit.layers import LOW_BIT_LAYERS

L = keras.layers

# row -> a layer, the shape of an example
CASES: dict[type, tuple[Callable[[], keras.layers.Layer], tuple[int, ...]]] = {
    L.Conv1D: (lambda: L.Conv1D(4, 3, padding="causal", activation="relu"), (7, 3)),
    L.Conv1DTranspose: (lambda: L.Conv1DTranspose(4, 3, strides=2), (5, 3)),
    L.Conv2D: (lambda: L.Conv2D(4, 3, strides=2, padding="same", activation="relu"), (7, 6, 3)),
    L.Conv2DTranspose: (lambda: L.Conv2DTranspose(4, 3, strides=2, padding="same"), (5, 4, 3)),
    L.Dense: (lambda: L.Dense(4, activation="tanh"), (6,)),
    L.DepthwiseConv1D: (lambda: L.DepthwiseConv1D(3, padding="same"), (7, 3)),
    L.DepthwiseConv2D: (lambda: L.DepthwiseConv2D(3, depth_multiplier=2), (7, 6, 3)),
    L.EinsumDense: (lambda: L.EinsumDense("...x,xy->...y", 4, bias_axes="y"), (3, 5)),
    L.GRU: (lambda: L.GRU(4, return_sequences=True), (5, 3)),
    L.GroupQueryAttention: (lambda: L.GroupQueryAttention(4, 4, 2), (5, 6)),
    L.LSTM: (lambda: L.LSTM(4), (5, 3)),
    L.MultiHeadAttention: (lambda: L.MultiHeadAttention(2, 3), (5, 6)),
    L.RNN: (lambda: L.RNN(L.GRUCell(4)), (5, 3)),
    L.SeparableConv1D: (lambda: L.SeparableConv1D(4, 3, padding="same"), (7, 3)),
    L.SeparableConv2D: (lambda: L.SeparableConv2D(4, 3, activation="relu"), (7, 6, 3)),
    L.SimpleRNN: (lambda: L.SimpleRNN(4), (5, 3)),
}
ATTENTION = (L.MultiHeadAttention, L.GroupQueryAttention)
ROWS = pytest.mark.parametrize("row", CASES, ids=lambda row: row.__name__)


def test_every_row_has_a_case():
    assert set(CASES) == set(LOW_BIT_LAYERS)


def network(row: type) -> keras.Model:
    keras.utils.set_random_seed(3)
    make, shape = CASES[row]
    # random bits follow from the name
    layer, inputs = row.from_config({**make().get_config(), "name": "layer"}), keras.Input(shape)
    return keras.Model(inputs, layer(inputs, inputs) if row in ATTENTION else layer(inputs), name="row")


def trained(row: type, engine: str = "auto") -> keras.Model:
    model = graffiti.quantize_training(network(row), "min_max_int8", engine=engine, seed=5)
    assert type(model.layers[-1]) is LOW_BIT_LAYERS[row]
    return model


def examples(row: type, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=(4, *CASES[row][1])), tf.float32)


def step(model: keras.Model, x: tf.Tensor) -> list[np.ndarray]:
    """One step of gradient descent: the output, all gradients, and every weight and state afterwards."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        loss = tf.reduce_sum(y * tf.constant(np.random.default_rng(9).normal(size=y.shape), y.dtype))
    gradients = tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])
    assert all(gradient is not None for gradient in gradients)
    for variable, gradient in zip(model.trainable_variables, gradients[1:]):
        variable.assign(variable - 0.01 * gradient)
    # no file holds the seeds of Keras' own dropout
    return [np.asarray(value) for value in (y, *gradients, *model.weights)]


def assert_same(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@needs_library
@ROWS
def test_a_step_is_equal_in_both_engines(row):
    native, emulated = (trained(row, engine) for engine in ("native", "emulated"))
    for seed in range(2):
        found = step(native, examples(row, seed))
        assert_same(found, step(emulated, examples(row, seed)))
    assert all(np.isfinite(value).all() for value in found)
    plain = network(row)
    assert not np.array_equal(found[0], plain(examples(row, 1))), "nothing is quantized"


@ROWS
def test_saved_and_loaded_it_goes_on_to_the_same_bits(row, tmp_path):
    model = trained(row)
    step(model, examples(row))
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.quantization_report == model.quantization_report and len(again.quantization_report) == 1
    assert_same(step(model, examples(row, 1)), step(again, examples(row, 1)))


@ROWS
def test_a_clone_has_the_same_function_and_its_own_weights(row):
    model = trained(row)
    clone = keras.models.clone_model(model)
    assert (
        clone.layers[-1].get_config() == model.layers[-1].get_config() and type(clone.layers[-1]) is LOW_BIT_LAYERS[row]
    )
    clone.set_weights(model.get_weights())
    x, before = examples(row), [np.asarray(v) for v in model.weights]
    assert_same(step(clone, x)[:1], [np.asarray(output(model, x))])
    assert_same(before, [np.asarray(v) for v in model.weights])


def output(model: keras.Model, x: tf.Tensor) -> tf.Tensor:
    """The output of a training step, of which the model keeps nothing."""
    kept = [(variable, np.asarray(variable)) for variable in model.variables]
    try:
        return model(x, training=True)
    finally:
        for variable, value in kept:
            variable.assign(value)


@ROWS
def test_in_half_precision_the_layer_computes_in_float32_and_strip_gives_the_policy_back(row):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(row)
        low = model.layers[-1]
        assert low.compute_dtype == low.variable_dtype == "float32"
        assert all(np.isfinite(np.asarray(value)).all() for value in step(model, examples(row)))
        plain = graffiti.strip(model)
        assert type(plain.layers[-1]) is row and plain.layers[-1].dtype_policy.name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(before)
