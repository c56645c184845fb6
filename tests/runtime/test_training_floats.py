"""What training does with floats, in the kernel library itself: numpy's bits on every tier, for any number of
threads.
"""

from __future__ import annotations

import itertools

import kernel_calls as calls
import numpy as np
import pytest

from graffiti.numerics import training
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime.library import KernelError

SEED = (3, 9)
COUNTS = (*range(0, 36), 63, 64, 65, 1000, 16384, 16385)
MANY = 700_003  # elements, more than are left on one thread


def reals(count: int, spread: float = 30.0) -> np.ndarray:
    x = (np.random.default_rng(count).normal(size=count) * spread).astype(np.float32)
    special = np.float32([0.5, -0.5, 1.5, 2.5, -2.5, -0.0, 1e30, -1e30, 1e-40, 127.5, -128.5, 3.4e38])
    x[:min(count, len(special))] = special[:min(count, len(special))]
    return x


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal values, NaN equal to NaN."""
    return found.shape == expected.shape and bool(((found == expected) | (np.isnan(found) & np.isnan(expected))).all())


@pytest.mark.parametrize("seed", [None, SEED], ids=["half_even", "stochastic"])
@pytest.mark.parametrize(("low", "high", "dtype"), [(-128, 127, np.int8), (-7, 7, np.int8), (0, 255, np.uint8),
                                                    (-32768, 32767, np.int16)])
def test_codes_and_extremes(tier, low, high, dtype, seed):
    for count in COUNTS:
        x = reals(count)
        for inverse in (1.0, np.float32(0.37)):
            codes, ends = calls.training_quantize(x, inverse, low, high, dtype, tier, seed)
            assert (codes == training.quantize(x, inverse, low, high, seed)).all(), count
            assert (ends == training.extremes(x)).all() and (calls.extremes(x, tier) == training.extremes(x)).all()
    x = reals(MANY)
    codes, ends = calls.training_quantize(x, 0.37, low, high, dtype, tier, seed, threads=True)
    assert (codes == training.quantize(x, 0.37, low, high, seed)).all() and (ends == training.extremes(x)).all()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_extremes_tell_of_nan_and_inf(tier, bad):
    for count in (1, 33, 1000, MANY):
        for position in {0, count // 2, count - 1}:
            x = np.ones(count, np.float32)
            x[position] = bad
            assert np.isnan(calls.extremes(x, tier, count == MANY)).all()
            assert np.isnan(calls.training_quantize(x, 1.0, -128, 127, np.int8, tier, None, count == MANY)[1]).all()


def test_elements_above_a_bound(tier):
    for count, threads in itertools.product((0, 1, 31, 5000, 70_001, MANY), (False, True)):
        x = reals(count)
        x[-1:] = np.nan
        for bound in (1e-30, 0.5, 20.0, 1e30):
            assert calls.count_above(x, bound, tier, threads) == np.count_nonzero(np.abs(x) > np.float32(bound))


ELEMENTS = [
    training.Element(2, 1),
    training.Element(5, 11),
    training.Element(0, 3),
    training.Element(1, 2, carry=False),
    training.Element(3, 1, top_exponent=0),
    training.Element(0, 1, carry=False, top_exponent=0)
]
LAYOUTS = [(1, 1, 1, 1), (3, 5, 7, 1), (1, 40, 70, 1), (2, 9, 1, 33), (4, 7, 5, 3), (130, 1, 1, 1), (3, 64, 16, 1),
           (1, 9, 16, 24), (1, 1, 3, 6000), (0, 3, 2, 1), (2, 0, 3, 1)]


@pytest.mark.parametrize("seed", [None, SEED], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_multi_level(tier, element, seed):
    large = [(30, 800, 32, 1), (1, 300_001, 2, 1)] if element is ELEMENTS[0] else []
    for layout in [*LAYOUTS, *large]:
        rng = np.random.default_rng(layout)
        x = (rng.normal(size=layout) * 10.0**rng.integers(-6, 3, size=layout)).astype(np.float32)
        x[rng.random(layout) < 0.1] = 0.0
        x[:1, :1] = -0.0  # groups of zeros
        threads = x.size > 400_000
        largest = calls.group_maximum(x, layout, tier, threads)
        assert (largest == training.group_maximum(x, layout)).all()
        divisors = np.maximum(largest, np.float32(1e-3)) * np.float32(1.3)
        found = calls.multi_level(x, divisors, divisors, layout, element, tier, seed, threads)
        expected = training.multi_level(x, divisors, divisors, layout, element, seed)
        assert same(found, expected) and (np.signbit(found) == np.signbit(expected)).all(), layout


SHAPES = [(1, 7), (5, 3), (300, 1), (256, 4), (257, 20), (1000, 37), (523, 64), (600, 83), (6400, 16)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (40_000, 33)], ids=str)
def test_batch_norm_both_ways(tier, shape, relu):
    rng = np.random.default_rng(shape)
    x, dy, residual = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    x[::max(1, shape[0] // 3)] *= 1000  # outliers
    gamma, beta = (rng.normal(size=shape[1:]).astype(np.float32) for _ in range(2))
    threads = x.size > 400_000
    for extra in (None, residual):
        found = calls.batch_norm(x, gamma, beta, 1e-3, tier, extra, relu, threads)
        expected = training.batch_norm(x, gamma, beta, 1e-3, extra, relu)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        y, mean, _, inverse = expected
        behind = y if extra is not None and relu else None
        want = training.batch_norm_gradient(dy, x, gamma, beta, mean, inverse, behind, relu)
        for in_place in (False, True):
            got = calls.batch_norm_gradient((dy, x, gamma, beta, mean, inverse, behind), tier, relu, threads, in_place)
            assert all(same(a, b) for a, b in zip(got[:3], want[:3], strict=True))
            assert behind is None or same(got[3], want[3])


def test_a_nan_stays_in_its_channel(tier):
    x = np.random.default_rng(0).normal(size=(1000, 37)).astype(np.float32)
    x[7, 3] = np.nan
    y, mean, variance, _ = calls.batch_norm(x, np.ones(37, np.float32), np.zeros(37, np.float32), 1e-3, tier, relu=True)
    bad = np.arange(37) == 3
    assert (np.isnan(mean) == bad).all() and (np.isnan(variance) == bad).all() and (np.isnan(y) == bad).all()


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
@pytest.mark.parametrize(("bits", "signed", "narrow"), [(2, True, False), (4, True, True), (8, True, False),
                                                        (8, False, False), (24, True, False)])
def test_fake_quantize_both_ways(tier, bits, signed, narrow, rounding):
    for count in (0, 1, 15, 16, 17, 33, 4095, 4096, 4097, 70_001, MANY):
        rng = np.random.default_rng(count)
        x, dy = (rng.normal(size=count).astype(np.float32) * np.float32(2) for _ in range(2))
        x[:count // 2] = np.round(x[:count // 2] * 2.0**bits) / 2.0**bits  # many ties
        special = np.float32([np.inf, -np.inf, 3e38, -3e38])
        x[count // 2:count // 2 + 4] = special[:max(0, min(4, count - count // 2))]
        for log2_threshold in (0.3, -500.0, np.inf) if count < 100 else (0.3, ):
            threshold = training.Threshold(log2_threshold, bits, signed, narrow, rounding)
            threads = count == MANY
            assert same(calls.fake_quantize(x, threshold, tier, threads), threshold.quantize(x))
            dx, total = threshold.gradient(dy, x)
            for in_place in (False, True):
                found, found_total = calls.fake_quantize_gradient(dy, x, threshold, tier, threads, in_place)
                assert same(found, dx) and same(found_total, total), (count, log2_threshold)


def test_refusals():
    x = np.ones((4, 6), np.float32)
    ones = np.ones(6, np.float32)
    for sentence, call in {
            "codes of s8 are in -128...127, got low=-129":
            lambda: calls.training_quantize(x, 1.0, -129, 127, np.int8, "scalar"),
            "codes of low-bit training are s8, u8 or s16, got s32":
            lambda: calls.training_quantize(x, 1.0, -1, 1, np.int32, "scalar"),
            r"layout is \[outer, rows, groups, inner\] of a tensor, got \[1, -4, -6, 1\]":
            lambda: calls.multi_level(x, ones, ones, (1, -4, -6, 1), training.Element(2, 1), "scalar"),
            "0...5 exponent bits, 1...11 mantissa bits and a top exponent of -1 or 0, got 6, 1 and -1":
            lambda: calls.multi_level(x, ones, ones, (1, 4, 6, 1), training.Element(6, 1), "scalar"),
            "at least one row and one channel, got 0 rows of 6":
            lambda: calls.batch_norm(x[:0], ones, ones, 1e-3, "scalar"),
            "without a ReLU the gradient of a residual is dy":
            lambda: calls.batch_norm_gradient((x, x, *[ones] * 4, x), "scalar"),
            "2 to 24 bits":
            lambda: calls.fake_quantize(x, training.Threshold(0.0, 25), "scalar"),
            "got NaN; look for NaN in the loss":
            lambda: calls.fake_quantize(x, training.Threshold(np.nan, 8), "scalar"),
    }.items():
        with pytest.raises(KernelError, match=sentence):
            call()
