"""Batch norm folding: the published numbers (C8), every kernel layout, and the fixed order of operations."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from graffiti.numerics import fold

Z = np.array([[1, -2], [3, 0.5], [2, 1], [-1, 4]])
GAMMA, BETA, MEAN, VARIANCE, EPSILON = (
    np.array([1.5, 0.5]), np.array([0.1, -0.2]), np.array([1, 0.5]), np.array([2.0, 4.0]), 1e-3
)


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_c8_training():
    mean, variance = fold.batch_statistics(Z)
    close(mean, [1.25, 0.875])
    close(variance, [2.1875, 4.546875])
    close(fold.bessel_to_biased([2.9166667, 6.0625], 4), variance)
    multiplier = fold.multiplier(GAMMA, VARIANCE, EPSILON)
    close(multiplier, [1.0603951, 0.2499688])
    correction, bias = fold.training_correction(GAMMA, BETA, mean, variance, MEAN, VARIANCE, EPSILON)
    close(correction, [0.9562034, 0.9379507])
    close(bias, [-1.1674417, -0.4051511])
    out = Z * multiplier * correction + bias
    close(out, [[-0.1534883, -0.8740678], [1.8744184, -0.2879219], [0.8604650, -0.1706927], [-2.1813951, 0.5326824]])
    close(out, GAMMA * (Z - mean) / np.sqrt(variance + EPSILON) + BETA, 1e-12)


def test_c8_frozen():
    mean, variance = fold.batch_statistics(Z)
    correction, bias = fold.training_correction(GAMMA, BETA, mean, variance, MEAN, VARIANCE, EPSILON, frozen=True)
    close(correction, [1, 1], 0)
    close(bias, [-0.9603951, -0.3249844])
    out = Z * fold.multiplier(GAMMA, VARIANCE, EPSILON) + bias
    close(out, [[0.1, -0.8249219], [2.2207902, -0.2], [1.1603951, -0.0750156], [-2.0207902, 0.6748906]])
    close(fold.fold_bias([0, 0], GAMMA, BETA, MEAN, VARIANCE, EPSILON), bias)


@pytest.mark.parametrize("shape, axis, channel_of", [
    ((3, 3, 4, 6), -1, lambda i: i[-1]),
    ((4, 6), -1, lambda i: i[-1]),
    ((4, 6), 1, lambda i: i[-1]),
    ((3, 3, 6, 4), -2, lambda i: i[-2]),
    ((3, 2, 3, 2), "flat", lambda i: i[-2] * 2 + i[-1]),
    ((3, 6, 1), "flat", lambda i: i[-2]),
])
def test_kernel_of_every_layout(shape, axis, channel_of):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape).astype(np.float32)
    gamma, variance = rng.normal(size=6).astype(np.float32), rng.uniform(0.1, 3, 6).astype(np.float32)
    folded = fold.fold_kernel(kernel, gamma, variance, EPSILON, axis)
    assert folded.dtype == np.float32 and folded.shape == shape
    for index in np.ndindex(*shape):
        channel = channel_of(index)
        g, v = np.float64(gamma[channel]), np.float64(variance[channel])
        assert folded[index] == np.float32(np.float64(kernel[index]) * (np.sign(g) * np.sqrt(g * g / (v + EPSILON))))


def test_multiplier_is_nearly_the_exact_quotient():
    rng = np.random.default_rng(1)
    gamma, variance = rng.normal(size=200).astype(np.float32), np.exp(rng.normal(0, 3, 200)).astype(np.float32)
    got = fold.multiplier(gamma, variance, EPSILON)
    for g, v, m in zip(gamma.tolist(), variance.tolist(), got.tolist()):
        square = Fraction(g) ** 2 / (Fraction(v) + Fraction(EPSILON))
        assert abs(Fraction(m) ** 2 / square - 1) < Fraction(1, 2**50) and (m < 0) == (g < 0)
    assert fold.multiplier([0.0, -0.0], [1.0, 1.0], EPSILON).tolist() == [0, 0]


def test_bias_with_and_without():
    rng = np.random.default_rng(2)
    bias, gamma, beta, mean = rng.normal(size=(4, 5)).astype(np.float32)
    variance = rng.uniform(0.1, 2, 5).astype(np.float32)
    folded = fold.fold_bias(bias, gamma, beta, mean, variance, EPSILON)
    x = rng.normal(size=(10, 5))
    close(
        x * fold.multiplier(gamma, variance, EPSILON) + folded,
        gamma * (x + bias - mean) / np.sqrt(variance + EPSILON) + beta, 1e-5
    )
    assert folded.dtype == np.float32


def test_faults_are_sentences():
    with pytest.raises(ValueError, match="variance \\+ epsilon > 0 in every channel, got -0.999"):
        fold.multiplier([1.0, 1.0], [1.0, -1.0], 1e-3)
    with pytest.raises(ValueError, match="variance \\+ epsilon > 0"):
        fold.multiplier([1.0], [np.nan], 1e-3)
    with pytest.raises(ValueError, match="takes 6 values, one per output channel, got shape \\(4,\\)"):
        fold.fold_kernel(np.zeros((3, 3, 4, 6)), np.ones(4), np.ones(4), EPSILON)
