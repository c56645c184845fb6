"""Checks R3, R8 and R10: the simple methods that people compare with."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from graffiti.low_bit.quantizers import DirectionSensitive, MinMax, dorefa, per_sample
from graffiti.low_bit.quantizers import direction_sensitive as direction

G = tf.constant([[0.4, -0.1, 0.02], [0.003, -0.006, 0.001]])


def test_r3_dorefa():
    np.testing.assert_allclose(
        dorefa.quantize_weights(tf.constant([0.5, -1.2, 0.1]), 3), [0.4285714, -1, 0.1428571], rtol=1e-6
    )
    np.testing.assert_allclose(
        dorefa.quantize_gradient(G, 4), [[0.4, -0.08, 0.0266667], [0.0028, -0.006, 0.0012]], rtol=1e-5
    )
    np.testing.assert_allclose(dorefa.quantize_weights(tf.constant([0.5, -1.0]), 1), [0.75, -0.75])


def test_r8_unified_int8():
    g = tf.constant([0.9, -0.2, 0.05, 0.01])
    assert float(direction.deviation(g, tf.constant(0.5))) == pytest.approx(0.0140850, rel=1e-4)
    np.testing.assert_allclose(
        direction.rate_factor(tf.constant([0.0140850, 0, 0.01, 0.1, 0.2])), [0.7545004, 1, 0.8187308, 0.1353353, 0.1],
        rtol=1e-5
    )


def test_the_search_takes_the_best_of_the_grid():
    quantizer = DirectionSensitive(candidates=10, interval=5, rounding="half_even")
    quantizer.build((1000,))
    g = tf.constant(np.r_[np.random.default_rng(0).normal(size=999) * 0.01, 1.0].astype(np.float32))
    quantizer.encode(g, True)
    grid = [float(direction.deviation(g, tf.constant(part / 10))) for part in range(1, 11)]
    assert (
        float(quantizer.fraction) == pytest.approx((np.argmin(grid) + 1) / 10)
        and float(quantizer.distance) == pytest.approx(min(grid), rel=1e-4)
    )
    assert float(quantizer.weight_gradient_factor()) == pytest.approx(max(np.exp(-20 * min(grid)), 0.1), rel=1e-4)


def test_r10_per_tensor_and_per_sample():
    np.testing.assert_allclose(per_sample.quantize(G, 4, (0, 1)), [[0.4, -0.1, 0.0333333], [0, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(
        per_sample.quantize(G, 4, (1,)), [[0.4, -0.1, 0.0333333], [0.003, -0.006, 0.0012]], atol=1e-7
    )


def test_min_max():
    quantizer = MinMax(bits=4, role="weights")
    quantizer.build((3,))
    q = quantizer.encode(tf.constant([0.7, -0.31, 0.04]), True)
    np.testing.assert_array_equal(q.codes, [7, -3, 0])
    assert float(q.scale) == pytest.approx(0.1)
