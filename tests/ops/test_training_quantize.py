"""Quantization, its noise, extremes and batch norm: native on every tier, pure TensorFlow and numpy, equal to the
bit where they are integers.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from engines import NATIVE_TIERS, needs_library

from graffiti.numerics import noise as reference
from graffiti.ops import batch_norm, loader, noise
from graffiti.ops import training_quantize as quantization

SEED = tf.constant([3, 9], tf.uint32)
RANGES = [(-128, 127), (-7, 7), (0, 255), (0, 15), (-32768, 32767)]


def values(count: int) -> np.ndarray:
    x = (np.random.default_rng(count).normal(size=count) * 30).astype(np.float32)
    special = np.float32([0.5, -0.5, 1.5, 2.5, -2.5, -0.0, 1e30, -1e30, 1e-40, 127.5, -128.5, 3.4e38])
    x[: min(count, len(special))] = special[: min(count, len(special))]
    return x


def expected(x: np.ndarray, inverse: np.float32, low: int, high: int, stochastic: bool) -> np.ndarray:
    v = x * inverse
    codes = np.floor(v + reference.uniform(x.size, (3, 9))) if stochastic else np.round(v)
    return np.clip(codes, low, high)


@needs_library
@pytest.mark.parametrize("rounding", ["half_even", "stochastic"])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_native_twin_and_numpy_are_equal(low, high, rounding):
    ops = loader.load()
    for count in (*range(0, 70), 127, 1000, 16384, 16385, 50_003):
        x = values(count)
        for inverse in (np.float32(1.0), np.float32(0.37)):
            want = expected(x, inverse, low, high, rounding == "stochastic")
            twin, ends = quantization.quantize(
                tf.constant(x), tf.constant(inverse), low=low, high=high, rounding=rounding, seed=SEED, engine="python"
            )
            np.testing.assert_array_equal(twin, want)
            np.testing.assert_array_equal(ends, [x.min(), x.max()] if count else [0, 0])
            for tier in NATIVE_TIERS if count in (0, 1, 33, 1000, 50_003) else ("auto",):
                codes, own = ops.graffiti_training_quantize(
                    x, inverse, SEED, low=low, high=high, stochastic=rounding == "stochastic",
                    codes_type=quantization.code_type(low, high), tier=tier
                )
                np.testing.assert_array_equal(codes, want, err_msg=f"{tier} {count}")
                np.testing.assert_array_equal(own, ends)


@needs_library
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_extremes_tell_of_nan_and_inf_wherever_they_are(bad):
    for count in (1, 16, 33, 1000):
        for position in {0, count // 2, count - 1}:
            x = values(count)
            x[position] = bad
            for engine in ("native", "python"):
                assert np.all(np.isnan(quantization.extremes(tf.constant(x), engine=engine)))
                assert np.all(
                    np.isnan(
                        quantization.quantize(tf.constant(x), tf.constant(1.0), low=-128, high=127, engine=engine)[1]
                    )
                )


@needs_library
@pytest.mark.parametrize(
    "make", [np.abs, lambda x: -np.abs(x), np.zeros_like, lambda x: np.copysign(0.0, x - 1)],
    ids=["positive", "negative", "zeros", "signed zeros"]
)
def test_extremes_of_one_sign(make):
    ops = loader.load()
    for count in (1, 31, 32, 65, 1000):
        x = make(np.random.default_rng(count).normal(size=count)).astype(np.float32)
        for tier in NATIVE_TIERS:
            ends = ops.graffiti_training_quantize(
                x, 1.0, SEED, low=-128, high=127, stochastic=False, codes_type=tf.int8, tier=tier
            )[1].numpy()
            assert ends.tolist() == [x.min(), x.max()]
            if not np.any(x):  # -0 is less than 0
                assert np.signbit(ends).tolist() == [np.any(np.signbit(x)), np.all(np.signbit(x))]


def test_types_and_refusals():
    assert [quantization.code_type(*r) for r in RANGES] == [tf.int8, tf.int8, tf.uint8, tf.int8, tf.int16]
    with pytest.raises(ValueError, match="fit int8, uint8 or int16, got the range"):
        quantization.code_type(-40000, 3)
    with pytest.raises(ValueError, match="stochastic rounding takes a seed"):
        quantization.quantize(tf.zeros(3), tf.constant(1.0), low=-1, high=1, rounding="stochastic")
    with pytest.raises(ValueError, match="rounding is one of"):
        quantization.quantize(tf.zeros(3), tf.constant(1.0), low=-1, high=1, rounding="up")


def test_noise_in_tensorflow_is_that_of_numpy():
    for seed in ((0, 0), (1, 0), (0, 1), (0xFFFFFFFF, 12345)):
        for shape in ((0,), (1,), (31,), (33,), (7, 11, 5), (40_001,)):
            np.testing.assert_array_equal(
                np.ravel(noise.uniform(shape, tf.constant(seed, tf.uint32))),
                reference.uniform(int(np.prod(shape)), seed)
            )


def test_noise_is_uniform_and_uncorrelated():
    """Moments, bytes, neighbours, halves of one word, and streams of neighbouring keys; bounds of five standard
    deviations.
    """
    count = 200_000
    streams = np.stack(
        [
            reference.uniform(count, seed)
            for seed in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (1 << 31, 0), (0, 1 << 31))
        ]
    ).astype(np.float64)
    bound = 5 / np.sqrt(count)
    for u in streams:
        assert 0 <= u.min() and u.max() < 1
        assert abs(u.mean() - 0.5) < bound * np.sqrt(1 / 12) and abs(u.var() - 1 / 12) < bound * np.sqrt(1 / 180)
        for bits in (u * 256, u * 65536 % 256):
            seen = np.bincount(bits.astype(int), minlength=256)
            assert abs(((seen - count / 256) ** 2 / (count / 256)).sum() - 255) < 5 * np.sqrt(2 * 255)
        for lag in (1, 2, 15, 16, 17, 31, 32, 64, 1024):
            assert abs(np.corrcoef(u[lag:], u[:-lag])[0, 1]) < bound, lag
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < bound
    flipped = [
        np.bitwise_xor(int(reference.mix(np.uint64(w), 7)), int(reference.mix(np.uint64(w ^ (1 << b)), 7)))
        for w in range(0, 1 << 20, 9973) for b in range(32)
    ]
    assert abs(np.mean([bin(f).count("1") for f in flipped]) - 16) < 0.2  # avalanche


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "shape", [(5, 3), (1, 7), (300, 1), (4, 5, 5, 16), (3, 9, 7, 20), (2, 8, 8, 64), (600, 83)], ids=str
)
@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_library), "python"])
def test_batch_norm_against_float64(engine, shape, relu):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=shape).astype(np.float32) * 2 + 50, rng.normal(size=shape).astype(np.float32))
    gamma, beta = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))

    def run(kind, function):
        tensors = [tf.constant(v, kind) for v in (x, gamma, beta)]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            y, mean, variance = function(*tensors)
        return [y, mean, variance, *tape.gradient(y, tensors, tf.constant(dy, kind))]

    def exact(x, gamma, beta):
        mean, variance = tf.nn.moments(x, list(range(len(shape) - 1)))
        y = (x - mean) / tf.sqrt(variance + 1e-3) * gamma + beta
        return tf.nn.relu(y) if relu else y, mean, variance

    found = run(tf.float32, lambda *a: batch_norm.batch_norm(*a, 1e-3, relu=relu, engine=engine)[:3])
    want = run(tf.float64, exact)
    for name, a, b in zip(("y", "mean", "variance", "dx", "dgamma", "dbeta"), found, want):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * max(1.0, float(np.abs(b).max())), err_msg=name)


@needs_library
def test_batch_norm_tiers_agree_and_nan_shows():
    ops, rng = loader.load(), np.random.default_rng(0)
    x, dy, residual_of_all = (rng.normal(size=(1000, 37)).astype(np.float32) for _ in range(3))
    gamma, beta = np.ones(37, np.float32), np.zeros(37, np.float32)
    results = []
    for tier in NATIVE_TIERS:
        found = []
        for residual in ([], [residual_of_all]):
            y, mean, variance, inverse = ops.graffiti_batch_norm(
                x, gamma, beta, residual, epsilon=1e-3, relu=True, tier=tier
            )
            dx, dgamma, dbeta, dresidual = ops.graffiti_batch_norm_grad(
                dy, x, gamma, beta, mean, inverse, [y] * len(residual), relu=True, tier=tier
            )
            found += [y, mean, variance, dx, dgamma, dbeta, *dresidual]
        results.append(found)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)
    x[7, 3] = np.nan
    y, mean, variance, _ = batch_norm.batch_norm(tf.constant(x), gamma, beta, 1e-3, relu=True)
    assert np.isnan(mean[3]) and np.isnan(variance[3]) and np.all(np.isnan(y[:, 3])) and not np.any(np.isnan(y[:, 4]))


@needs_library
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(4, 5, 7, 3), (8, 16, 16, 16), (64, 40), (3, 9, 33)])
def test_a_residual_sum_in_the_pass_is_the_sum_behind_it(shape, relu):
    """Values and all gradients to the bit, in both engines' terms."""
    rng = np.random.default_rng(0)
    x, residual, upstream = (tf.constant(rng.normal(size=shape).astype(np.float32)) for _ in range(3))
    gamma, beta = (tf.constant(rng.normal(size=shape[-1]).astype(np.float32)) for _ in range(2))

    def run(engine, together):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta, residual])
            y, *_ = batch_norm.batch_norm(
                x, gamma, beta, 1e-3, residual=residual if together else None, relu=relu and together, engine=engine
            )
            if not together:
                y = tf.nn.relu(y + residual) if relu else y + residual
            loss = tf.reduce_sum(y * upstream)
        return [y, *tape.gradient(loss, [x, gamma, beta, residual])]

    for engine in ("native", "python"):
        for together, apart in zip(run(engine, True), run(engine, False), strict=True):
            np.testing.assert_array_equal(together, apart)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a residual has the shape of x"):
        batch_norm.batch_norm(x, gamma, beta, 1e-3, residual=residual[:1], engine="native")


@pytest.mark.parametrize("engine", ["python", pytest.param("native", marks=needs_library)])
@pytest.mark.parametrize("outliers", [[0], [0, 127, 255], [-1], range(0, 100_000, 256)])
def test_batch_norm_is_precise_behind_outliers(engine, outliers):
    """Sums are of differences from a row: one that lies far out must not cost the precision of all others."""
    if engine == "python" and len(outliers) > 1:
        pytest.skip("TensorFlow's own kernel subtracts its first row")
    x = np.random.default_rng(0).normal(size=(100_000, 3)).astype(np.float32)
    x[list(outliers)] = 1000.0
    exact = (x - x.mean(0, dtype=np.float64)) / np.sqrt(x.var(0, dtype=np.float64) + 1e-3)
    y, _, variance, _ = batch_norm.batch_norm(tf.constant(x), tf.ones(3), tf.zeros(3), 1e-3, engine=engine)
    np.testing.assert_allclose(variance, x.var(0, dtype=np.float64), rtol=5e-5 if engine == "native" else 5e-3)
    if engine == "native":
        np.testing.assert_allclose(y, exact, rtol=5e-5, atol=1e-5)


@needs_library
def test_elements_above_a_bound():
    for count in (0, 1, 31, 5000, 70_001):
        x = values(count)
        x[-1:] = np.nan
        for bound in (1e-30, 0.5, 20.0, 1e30):  # TensorFlow flushes subnormal numbers
            want = np.count_nonzero(np.abs(x) > np.float32(bound))
            assert int(quantization.count_above(tf.constant(x), tf.constant(bound), engine="python")) == want
            for tier in NATIVE_TIERS:
                assert int(loader.load().graffiti_count_above(x, bound, tier=tier)) == want
