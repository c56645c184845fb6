"""The native passes of multi-level scaling against their formulas in TensorFlow, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from engines import NATIVE_TIERS, needs_library

from graffiti.low_bit.quantizers import MultiLevelScaling
from graffiti.low_bit.quantizers.multi_level_scaling import GROUPINGS
from graffiti.ops import loader, multi_level

pytestmark = needs_library
SHAPES = [(3, 5), (40, 70), (2, 9, 33), (4, 7, 5, 3), (3, 8, 8, 16), (1, 3, 3, 200), (3, 3, 16, 24), (130, 1)]
FORMATS = [
    dict(element=(2, 1)), dict(element=(2, 4), group=(8, 0)), dict(element=(0, 3)), dict(element=(5, 10), rescale=True),
    dict(element=(1, 2), carry=False), dict(element=(3, 1), top_exponent=0), dict(element=(2, 1), stochastic=False),
    dict(element=(2, 1), stochastic=False, rescale=True), dict(element=(2, 1), use_sign_bit=True, signed=False),
    dict(element=(5, 10), use_sign_bit=True, signed=False, stochastic=False)
]


def values(shape) -> np.ndarray:
    random = np.random.default_rng(shape)
    x = random.normal(size=shape).astype(np.float32) * 10.0 ** random.integers(-6, 3, size=shape).astype(np.float32)
    x[random.random(shape) < 0.1] = 0.0
    x[0] = 0.0  # groups of zeros
    return x


@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize("role", ["gradients", "weights"])
def test_native_is_equal(role, options, monkeypatch):
    for shape, grouping in itertools.product(SHAPES, GROUPINGS):
        found = []
        for engine in ("native", "python"):
            monkeypatch.setattr(loader, "engine_of", lambda _, engine=engine: engine)
            quantizer = MultiLevelScaling(role=role, grouping=grouping, seed=5, **options)
            quantizer.build()
            found.append(quantizer.encode(tf.constant(values(shape)), True).real().numpy())
        assert np.array_equal(*found), (shape, grouping)


def test_tiers_are_equal():
    x = values((5, 6, 7, 19))
    layout = np.int64([5, 42, 19, 1])
    ops, results = loader.load(), []
    for tier in NATIVE_TIERS:
        largest = ops.graffiti_group_maximum(x, layout, tier=tier)
        np.testing.assert_array_equal(largest, np.abs(x).max((1, 2)))
        divisors = np.maximum(largest, 1e-3)
        results.append(
            ops.graffiti_multi_level(
                x, divisors, divisors, np.uint32([1, 2]), layout, exponent_bits=2, mantissa_bits=1, stochastic=True,
                tier=tier
            ).numpy()
        )
    assert all(np.array_equal(results[0], other) for other in results[1:])


def test_refusals():
    with pytest.raises(tf.errors.InvalidArgumentError, match="layout is"):
        multi_level.group_maximum(tf.zeros((2, 3)), tf.constant([1, 2, 2, 1], tf.int64))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a divisor and a factor for each group"):
        multi_level.quantize(
            tf.zeros((2, 3)), tf.ones((1, 2)), tf.ones((1, 3)), tf.constant([1, 2, 3, 1], tf.int64), (2, 1)
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="0...5 exponent bits"):
        multi_level.quantize(
            tf.zeros((2, 3)), tf.ones((1, 3)), tf.ones((1, 3)), tf.constant([1, 2, 3, 1], tf.int64), (6, 1)
        )
