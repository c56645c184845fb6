"""Checks D1-D12 of dynamic fixed point."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti.low_bit.layers import QuantizedBatchNormalization
from graffiti.low_bit.product_layer import Settings
from graffiti.low_bit.quantizers import DynamicFixedPoint
from graffiti.low_bit.quantizers import dynamic_fixed_point as method
from graffiti.training_config import TensorSpec, TrainingScheme

STEP = tf.constant(2.0**-5)
X = tf.constant([1.7, -4.0, 3.99, 0.02, -0.047, 0.078125])


def built(**arguments) -> DynamicFixedPoint:
    quantizer = DynamicFixedPoint(**{"initial_exponent": -5, **arguments})
    quantizer.build((6,))
    return quantizer


def test_d1_nearest():
    np.testing.assert_array_equal(
        method.quantize(X, STEP, 8), np.float32([1.6875, -4.0, 3.96875, 0.03125, -0.0625, 0.0625])
    )
    np.testing.assert_array_equal(built(role="weights").encode(X, False).real(), method.quantize(X, STEP, 8))


def test_d2_stochastic_with_given_noise():
    noise = tf.constant([0.1, 0.9, 0.6, 0.5, 0.4, 0.5])
    np.testing.assert_array_equal(
        method.quantize(X, STEP, 8, noise), np.float32([1.6875, -4.0, 3.96875, 0.03125, -0.0625, 0.09375])
    )


def test_d3_overflow_rates():
    r1, r2 = method.overflow_rates(X, STEP, 8)
    assert float(r1) == 0 and float(r2) == pytest.approx(1 / 3)
    quantizer = built(role="weights")
    quantizer.encode(X, True)
    assert int(quantizer.exponent) == -5


@pytest.mark.parametrize(
    ("value", "exponent"), [(3.0, -5), (1.99, -6), (2.0, -5), (4.0, -4), (-4.0, -5), (-4.01, -4), (0.0, -6)]
)
def test_d4_single_values(value, exponent):
    quantizer = built(role="weights")
    quantizer.encode(tf.constant([value]), True)
    assert int(quantizer.exponent) == exponent
    rates = method.overflow_rates(tf.constant([value]), STEP, 8)
    assert int(method.next_exponent(tf.constant(-5), *rates, 0.0)) == exponent
    with_target = built(role="weights", target_overflow=1e-4)  # the counting form agrees
    with_target.encode(tf.constant([value]), True)
    assert int(with_target.exponent) == exponent


@pytest.mark.parametrize(("tensor", "sequence"), [
    ([0.01, -0.006], [-5, -6, -7, -8, -9, -10, -11, -12, -13, -13, -13]), ([10.0, -20.0], [-5, -4, -3, -2, -2, -2])])
def test_d5_convergence(tensor, sequence):
    quantizer, seen = built(role="weights"), []
    for _ in sequence:
        seen.append(int(quantizer.exponent))
        quantizer.encode(tf.constant(tensor), True)
    assert seen == sequence


@pytest.mark.parametrize(("largest", "exponent"), [(0.01, -13), (20.0, -2), (4.0, -4), (3.99, -5), (1.0, -6)])
def test_d6_one_shot(largest, exponent):
    assert int(method.one_shot_exponent(tf.constant(largest), 8)) == exponent
    quantizer = DynamicFixedPoint(role="weights")
    quantizer.build((2,))
    q = quantizer.encode(tf.constant([largest, -largest / 3]), True)
    assert float(q.scale) == 2.0**exponent and int(quantizer.exponent) == exponent  # the rule then stays there


def test_d7_statistics():
    quantizer = built(seed=5)
    values = quantizer.encode(tf.fill([200_000], 0.3 / 32), True).real().numpy().astype(np.float64)
    assert set(np.unique(values)) == {0.0, 1 / 32}
    assert abs(values.mean() - 0.009375) < 1.5e-4 and abs(values.var() - 2.0508e-4) < 2e-6


def test_d8_gradient_buffer():
    """The lazy update of a layer: the same numbers through a Dense layer's weight gradient."""
    rounding = TensorSpec(
        "dynamic_fixed_point", {"rounding": "half_even", "initial_exponent": -5, "update_interval": 1 << 20}
    )
    scheme = TrainingScheme(weight_gradients=rounding, error_feedback=True, name="lazy")
    plain = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, use_bias=False)])
    model = graffiti.quantize_training(plain, scheme)
    layer = model.layers[-1]
    g = tf.constant([[0.4, 0.6, -0.2]]) / 32
    outputs, buffers = [], []
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(tf.ones((1, 1)), training=True) * g)
        outputs.append(tape.gradient(loss, layer.kernel.value).numpy()[0] * 32)
        buffers.append(layer.low_bit_product.residual.numpy()[0] * 32)
    np.testing.assert_array_equal(outputs, [[0, 1, 0], [1, 0, 0], [0, 1, -1]])
    np.testing.assert_allclose(buffers, [[0.4, -0.4, -0.2], [-0.2, 0.2, -0.4], [0.2, -0.2, 0.4]], atol=1e-6)


def test_d9_quantized_batch_norm():
    layer = QuantizedBatchNormalization(epsilon=1e-5, low_bit=Settings(graffiti.schemes.get("dynamic_fixed_point")))
    layer.build((None, 2))
    for quantizer, exponent in (
        (layer.input_quantizer, -5), (layer.normal_quantizer, -5), (layer.gamma_quantizer, -6),
        (layer.beta_quantizer, -7)
    ):
        quantizer.exponent.assign(exponent)
        quantizer.started.assign(True)
    layer.gamma.assign([1.07, 0.43])
    layer.beta.assign([0.2, -0.9])
    y = layer(tf.constant([[0.11, 2.3], [-0.47, 1.1], [1.93, -0.6], [0.62, 3.2]]), training=True)
    np.testing.assert_allclose(
        y,
        [[-0.29492188, -0.65234375], [-1.02539063, -1.02148438], [1.86328125, -1.54101563], [0.30273438, -0.37890625]],
        atol=1e-8
    )
    np.testing.assert_allclose(layer.moving_mean, 0.01 * np.array([0.5546875, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.99 + 0.01 * np.array([0.78729248, 2.01416016]), rtol=1e-6)


def test_d9_gradients_of_quantized_batch_norm():
    """``dbeta`` is the sum of the quantized gradient, ``dgamma`` that of its product with the quantized normal
    values.
    """
    settings = Settings(graffiti.schemes.training_schemes.get("dynamic_fixed_point", gradient_rounding="half_even"))
    layer = QuantizedBatchNormalization(epsilon=1e-5, low_bit=settings)
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=(16, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant(x), training=True) * c)
    dgamma, dbeta = tape.gradient(loss, [layer.gamma.value, layer.beta.value])
    cq = np.asarray(
        method.quantize(tf.constant(c), tf.constant(2.0 ** int(method.one_shot_exponent(tf.reduce_max(abs(c)), 8))), 8),
        np.float64
    )
    np.testing.assert_allclose(dbeta, cq.sum(0), rtol=1e-6)
    xq = np.asarray(
        method.quantize(tf.constant(x), tf.constant(2.0 ** int(method.one_shot_exponent(tf.reduce_max(abs(x)), 8))), 8),
        np.float64
    )
    normal = (xq - xq.mean(0)) / np.sqrt(xq.var(0) + 1e-5)
    nq = np.asarray(
        method.quantize(
            tf.constant(normal, tf.float32),
            tf.constant(2.0 ** int(method.one_shot_exponent(tf.constant(abs(normal).max(), tf.float32), 8))), 8
        ),
        np.float64
    )
    np.testing.assert_allclose(dgamma, (cq * nq).sum(0), rtol=1e-5)


def test_d10_quantized_update_needs_stochastic_rounding():
    w = tf.fill([100_000], 0.5)
    near, random = (
        DynamicFixedPoint(role="stored_weights", rounding=rounding, initial_exponent=-7)
        for rounding in ("half_even", "stochastic")
    )
    near.build(w.shape)
    random.build(w.shape)
    assert np.all(near.encode(w - 1e-3, False).real().numpy() == 0.5)
    moved = random.encode(w - 1e-3, False).real().numpy().astype(np.float64)
    assert set(np.unique(moved)) == {0.4921875, 0.5}
    assert abs(moved.mean() - 0.499) < 3e-5 and abs(np.mean(moved < 0.5) - 0.128) < 4e-3


def test_quantized_update_stores_few_bits():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = graffiti.quantize_training(
        plain, graffiti.schemes.training_schemes.get("dynamic_fixed_point", update="quantized_update")
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(np.random.randn(64, 4), np.random.randn(64, 3), epochs=2, batch_size=16, verbose=0)
    kernel = model.layers[-1].kernel.numpy()
    exponent = int(model.layers[-1].low_bit_product.stored_weights_quantizer.exponent)
    assert np.any(kernel != np.asarray(plain.layers[-1].kernel))
    codes = kernel * 2.0 ** -(exponent - 1)  # the step has moved by a factor of two at most since the last update
    np.testing.assert_array_equal(codes, np.round(codes))


def test_d11_straight_through():
    quantizer = built(role="weights")
    upstream = tf.constant([1.0, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(quantizer.gradient(100 * X, upstream, ())[0], upstream)


def test_d12_the_new_step_holds_from_the_next_iteration_on():
    quantizer = built(role="weights")
    assert float(quantizer.encode(tf.constant([10.0]), True).scale) == 2.0**-5
    assert float(quantizer.encode(tf.constant([10.0]), True).scale) == 2.0**-4


def test_zero_gradient_and_nan_leave_the_state():
    quantizer = built(role="gradients")
    for tensor in (tf.zeros(4), tf.constant([1.0, np.nan, 0, 0]), tf.constant([np.inf, 0, 0, 0])):
        q = quantizer.encode(tensor, True)
        assert int(quantizer.exponent) == -5
    assert np.isnan(float(q.scale))
