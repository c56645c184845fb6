"""Batch norm folding: the same bits as ``numerics/fold.py``, the published numbers of C8, and the gradients."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti import layers
from graffiti.layers import fold
from graffiti.numerics import fold as reference

Z = np.array([[1, -2], [3, 0.5], [2, 1], [-1, 4]], np.float32)
GAMMA, BETA, MEAN, VARIANCE = ([1.5, 0.5], [0.1, -0.2], [1.0, 0.5], [2.0, 4.0])
LIVE = [[-0.1534883, -0.8740678], [1.8744184, -0.2879219], [0.8604650, -0.1706927], [-2.1813951, 0.5326824]]
FROZEN = [[0.1, -0.8249219], [2.2207902, -0.2], [1.1603951, -0.0750156], [-2.0207902, 0.6748906]]


@pytest.mark.parametrize("traced", [False, True])
def test_same_bits_as_numpy(traced: bool):
    rng = np.random.default_rng(2)
    kernel, channels = rng.normal(size=(3, 3, 7, 33)).astype(np.float32), 33
    gamma = np.concatenate(
        [[0.0, -0.0], rng.normal(size=channels - 2) * 10.0 ** rng.integers(-6, 4, channels - 2)]
    ).astype(np.float32)
    bias, beta, mean = (rng.normal(size=channels).astype(np.float32) for _ in range(3))
    variance = (10.0 ** rng.uniform(-9, 5, channels)).astype(np.float32)

    def run(kernel, gamma, bias, beta, mean, variance):
        multiplier = fold.fold_multiplier(gamma, variance, 1e-3)
        return fold.fold_kernel(kernel, multiplier), fold.fold_bias(bias, beta, mean, multiplier)

    got = (tf.function(run) if traced else run)(*map(tf.constant, (kernel, gamma, bias, beta, mean, variance)))
    assert np.array_equal(got[0], reference.fold_kernel(kernel, gamma, variance, 1e-3, -1))
    assert np.array_equal(got[1], reference.fold_bias(bias, gamma, beta, mean, variance, 1e-3))


def test_gradient_of_the_multiplier_is_that_of_the_plain_quotient_also_at_zero():
    gamma, variance = tf.constant([-2.0, 0.0, 3.0]), tf.constant([0.5, 1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(gamma)
        y = fold.fold_multiplier(gamma, variance, 1e-3)
    np.testing.assert_allclose(tape.gradient(y, gamma), 1 / np.sqrt(variance.numpy() + 1e-3), rtol=1e-6)


def c8_layer(kind: str) -> keras.layers.Layer:
    norm = {"epsilon": 1e-3, "momentum": 0.75}
    layer = (
        layers.QuantizedDense(2, batch_norm=norm) if kind == "dense" else layers.QuantizedConv2D(2, 1, batch_norm=norm)
    )
    layer.build((None, 2) if kind == "dense" else (None, 1, 1, 2))
    layer.kernel.assign(np.eye(2, dtype=np.float32).reshape(layer.kernel.shape))
    for variable, value in zip(
        (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance), (GAMMA, BETA, MEAN, VARIANCE)
    ):
        variable.assign(np.array(value, np.float32))
    return layer


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("traced", [False, True])
def test_c8(kind: str, traced: bool):
    layer = c8_layer(kind)
    x = tf.constant(Z if kind == "dense" else Z[:, None, None, :])
    call = tf.function(layer.call, reduce_retracing=True) if traced else layer.call
    np.testing.assert_allclose(np.reshape(call(x, training=False), Z.shape), FROZEN, atol=2e-6)
    assert np.array_equal(layer.moving_mean, np.float32(MEAN)), "inference must not move the averages"
    np.testing.assert_allclose(np.reshape(call(x, training=True), Z.shape), LIVE, atol=2e-6)
    np.testing.assert_allclose(layer.moving_mean, 0.75 * np.array(MEAN) + 0.25 * np.array([1.25, 0.875]), rtol=1e-6)
    np.testing.assert_allclose(
        layer.moving_variance, 0.75 * np.array(VARIANCE) + 0.25 * np.array([2.1875, 4.546875]), rtol=1e-6
    )
    layer = c8_layer(kind)
    layer.batch_norm_frozen.assign(1.0)
    call = tf.function(layer.call) if traced else layer.call
    np.testing.assert_allclose(np.reshape(call(x, training=True), Z.shape), FROZEN, atol=2e-6)
    assert (
        np.array_equal(layer.moving_mean, np.float32(MEAN))
        and np.array_equal(layer.moving_variance, np.float32(VARIANCE))
    )


def test_training_equals_ordinary_batch_norm_with_gradients():
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=(6, 5, 5, 4)).astype(np.float32), rng.normal(size=(6, 5, 5, 3)).astype(np.float32)
    conv, norm = keras.layers.Conv2D(3, 3, padding="same"), keras.layers.BatchNormalization(momentum=0.9)
    conv.build(x.shape), norm.build((None, 5, 5, 3))
    norm.set_weights([rng.uniform(0.5, 2, 3), rng.normal(size=3), rng.normal(size=3), rng.uniform(0.5, 2, 3)])
    conv.bias.assign(rng.normal(size=3))
    ours = layers.QuantizedConv2D(3, 3, padding="same", batch_norm={"epsilon": 1e-3, "momentum": 0.9})
    ours.build(x.shape)
    for mine, theirs in (
        (ours.kernel, conv.kernel), (ours.bias, conv.bias), (ours.gamma, norm.gamma), (ours.beta, norm.beta),
        (ours.moving_mean, norm.moving_mean), (ours.moving_variance, norm.moving_variance)
    ):
        mine.assign(theirs)
    with tf.GradientTape(persistent=True) as tape:
        expected, got = norm(conv(x), training=True), ours(x, training=True)
        losses = [tf.reduce_sum((y - target) ** 2) for y in (expected, got)]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for mine, theirs in ((ours.kernel, conv.kernel), (ours.gamma, norm.gamma), (ours.beta, norm.beta)):
        np.testing.assert_allclose(
            tape.gradient(losses[1], mine.value), tape.gradient(losses[0], theirs.value), rtol=1e-3, atol=1e-3,
        )
    np.testing.assert_allclose(ours.moving_mean, norm.moving_mean, atol=1e-6)
    np.testing.assert_allclose(ours.moving_variance, norm.moving_variance, atol=1e-6)
