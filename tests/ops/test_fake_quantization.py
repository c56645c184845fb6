"""The native fake-quantize op against its TensorFlow twin and the published numbers (C1-C4 of the method's checks)."""

import math

import numpy as np
import pytest
import tensorflow as tf
from engines import needs_library, tiers

from graffiti import ops

ENGINES = ["python", pytest.param("native", marks=needs_library)]


def both_ways(x, log2_t, upstream=None, **options):
    """``(y, dx, dlog2_t)`` as numpy."""
    x, log2_t = tf.constant(x, tf.float32), tf.constant(log2_t, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([x, log2_t])
        y = ops.fake_quantize(x, log2_t, **options)
    dx, dt = tape.gradient(y, [x, log2_t], None if upstream is None else tf.constant(upstream))
    return y.numpy(), dx.numpy(), dt.numpy()


C1_X = [-1.2, -1.0625, -1.0, -0.5625, -0.0625, 0.0625, 0.1875, 0.3, 0.9, 0.9375, 1.5]
PUBLISHED = {  # name: (x, log2_t, options, q, dq/dx, dq/dlog2_t)
    "C1": (
        C1_X,
        0.0,
        dict(bits=4, signed=True),
        [-1, -1, -1, -0.5, 0, 0, 0.25, 0.25, 0.875, 0.875, 0.875],
        [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        [
            -0.6931472,
            0.0433217,
            0,
            0.0433217,
            0.0433217,
            -0.0433217,
            0.0433217,
            -0.0346574,
            -0.0173287,
            0.6065038,
            0.6065038,
        ],
    ),
    "C2": (
        C1_X,
        0.3,
        dict(bits=4, signed=True),
        [-1.25, -1, -1, -0.5, 0, 0, 0.25, 0.25, 1, 1, 1.5],
        [1] * 11,
        [-0.0346574, 0.0433217, 0, 0.0433217, 0.0433217, -0.0433217, 0.0433217, -0.0346574, 0.0693147, 0.0433217, 0],
    ),
    "C3": (
        [-0.3, 0, 0.0009765625, 0.0029296875, 0.5, 0.99804688, 1, 2],
        -0.5,
        dict(bits=8, signed=False),
        [0, 0, 0, 0.00390625, 0.5, 0.99609375, 0.99609375, 0.99609375],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 0, -0.0006769, 0.0006769, 0, 0.6904396, 0.6904396, 0.6904396],
    ),
    "C4": (
        [0.3, -0.3, 0.99],
        0.0,
        dict(bits=4, signed=True, rounding="floor"),
        [0.25, -0.375, 0.875],
        [1, 1, 1],
        [-0.0346574, -0.0519860, -0.0797119],
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name, engine):
    x, log2_t, options, q, dx, dt = PUBLISHED[name]
    got_q, got_dx, _ = both_ways(x, log2_t, engine=engine, **options)
    assert got_q.tolist() == q and got_dx.tolist() == dx
    each = [both_ways([value], log2_t, engine=engine, **options)[2] for value in x]
    np.testing.assert_allclose(each, dt, atol=2e-7)


@needs_library
@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_away", "floor"])
@pytest.mark.parametrize(
    "bits,signed,narrow", [(2, True, False), (4, True, True), (8, True, False), (8, False, False), (16, True, False)]
)
def test_native_equals_twin(bits, signed, narrow, rounding):
    rng = np.random.default_rng(bits * 10 + signed)
    for count in (0, 1, 15, 16, 17, 33, 4095, 4096, 4097, 70001):
        x = rng.normal(size=count).astype(np.float32) * 2
        x[: count // 2] = np.round(x[: count // 2] * 2.0**bits) / 2.0**bits  # many ties
        x[count // 2 : count // 2 + 4] = np.float32([np.inf, -np.inf, 3e38, -3e38])[
            : max(0, min(4, count - count // 2))
        ]
        upstream = rng.normal(size=count).astype(np.float32)
        options = dict(bits=bits, signed=signed, narrow=narrow, rounding=rounding)
        y, dx, dt = both_ways(x, 0.3, upstream, engine="python", **options)
        sums = set()
        for tier in tiers():
            got = both_ways(x, 0.3, upstream, engine="native", tier=tier, **options)
            assert np.array_equal(got[0], y) and np.array_equal(got[1], dx), (count, tier)
            assert abs(got[2] - dt) <= 1e-4 * max(1, abs(dt)), (count, tier, got[2], dt)
            sums.add(got[2].tobytes())
        assert len(sums) == 1, "every tier adds in the same order"


@needs_library
def test_threshold_gradient_is_the_exact_sum():
    rng = np.random.default_rng(5)
    x, upstream = rng.normal(size=(2, 300_001)).astype(np.float32)
    _, _, got = both_ways(x, 1.0, upstream, bits=8, signed=True, engine="native")
    step = 2.0**-6
    r = np.rint(x.astype(np.float64) / step)
    term = np.where(r < -128, -128, np.where(r > 127, 127, r - x.astype(np.float64) / step))
    exact = math.fsum(upstream.astype(np.float64) * term) * step * math.log(2)
    assert abs(got - exact) <= 1e-6 * max(1, abs(exact))


@needs_library
def test_in_a_function_shape_and_repeatability():
    @tf.function(input_signature=[tf.TensorSpec([None, 3, None]), tf.TensorSpec([])])
    def loss_gradient(x, t):
        with tf.GradientTape() as tape:
            tape.watch([x, t])
            y = ops.fake_quantize(x, t, bits=8, signed=True, engine="native")
            assert y.shape.as_list() == [None, 3, None]
            loss = tf.reduce_sum(y * y)
        return tape.gradient(loss, [x, t])

    x = tf.constant(np.random.default_rng(1).normal(size=(7, 3, 40_000)).astype(np.float32))
    first = [value.numpy().tobytes() for value in loss_gradient(x, tf.constant(0.5))]
    for _ in range(5):
        assert [value.numpy().tobytes() for value in loss_gradient(x, tf.constant(0.5))] == first


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_keeps_everything_but_the_threshold_gradient(engine):
    x = np.random.default_rng(2).normal(size=100).astype(np.float32)
    free = both_ways(x, 0.2, bits=4, signed=True, engine=engine)
    for frozen in (True, tf.constant(True)):
        held = both_ways(x, 0.2, bits=4, signed=True, engine=engine, frozen=frozen)
        assert np.array_equal(held[0], free[0]) and np.array_equal(held[1], free[1]) and held[2] == 0 != free[2]
    assert both_ways(x, 0.2, bits=4, signed=True, engine=engine, frozen=tf.constant(False))[2] == free[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_extreme_thresholds_keep_a_normal_step(engine):
    for log2_t in (-500.0, -126.0, 126.0, 500.0):
        y = ops.fake_quantize([1.0, -1.0, 0.0, np.float32(1e38)], log2_t, bits=8, signed=True, engine=engine).numpy()
        assert np.isfinite(y).all() and y[2] == 0


@needs_library
def test_bad_arguments():
    with pytest.raises(ValueError, match="2 to 24 bits"):
        ops.fake_quantize([0.0], 0.0, bits=25, signed=True)
    with pytest.raises(ValueError, match="rounding mode is one of"):
        ops.fake_quantize([0.0], 0.0, bits=8, signed=True, rounding="nearest")
    with pytest.raises(ValueError, match="cannot be narrow"):
        ops.fake_quantize([0.0], 0.0, bits=8, signed=False, narrow=True)
    with pytest.raises(ValueError, match="a tier is one of"):
        ops.fake_quantize([0.0], 0.0, bits=8, signed=True, tier="sse")
    with pytest.raises(tf.errors.InvalidArgumentError, match="one log2_threshold that is a number"):
        ops.fake_quantize([0.0], math.nan, bits=8, signed=True, engine="native")
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        ops.fake_quantize([0.0], [0.0, 1.0], bits=8, signed=True, engine="native")
