"""Values → thresholds: the published numbers (C5, C6) and the definitions."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import tensorflow as tf

from graffiti.calibration import methods
from graffiti.calibration.methods import METHODS, kl_j, mean_squared_error
from graffiti.quantizers import log_threshold_quantize

C5 = np.array([0.5, -0.25, 0.125, 1, -0.75, 0])
C6 = 3 * ((np.arange(4096) + 0.5) / 4096) ** 4


def test_weight_thresholds():
    """C5."""
    assert methods.maximum(C5) == 1.0
    assert methods.three_sigma(C5) == pytest.approx(1.7589420, abs=1e-6)
    assert math.log2(methods.three_sigma(C5)) == pytest.approx(0.8147079, abs=1e-6)


@pytest.mark.parametrize(
    ("bits", "signed", "threshold"),
    [(3, True, 2.4218940), (4, True, 2.7448132), (4, False, 2.9293385), (8, True, 2.9985354)]
)
def test_kl_j_published(bits, signed, threshold):
    """C6; the sign of the values does not matter."""
    assert kl_j(C6, bits=bits, signed=signed) == pytest.approx(threshold, abs=1e-6)
    assert kl_j(-C6, bits=bits, signed=signed) == pytest.approx(threshold, abs=1e-6)


def kl_j_by_the_letter(values, bits, signed):
    """The specification's pseudo-code, one line each: (threshold, i, D)."""
    a = np.abs(values)
    mx = a.max()
    nb = math.ceil(mx / ((a.max() - a.min()) / math.sqrt(a.size)))
    hist, _ = np.histogram(a, nb, (0, mx))
    w = mx / nb
    cdf = np.cumsum(hist / hist.sum())
    n = 2 ** (bits - 1) if signed else 2**bits
    if n + 1 > nb:
        return mx, None, None
    best = None
    for i in range(n + 1, nb + 1):
        ref = cdf.copy()
        ref[i - 1:] = 1
        coarse = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, i), ref[:i])
        q = ref.copy()
        q[:i] = np.interp(np.linspace(0, 1, i), np.linspace(0, 1, n), coarse)
        m = cdf != 0
        d = np.sum((cdf[m] - q[m]) * np.log2(cdf[m] / q[m]))
        if best is None or d < best[2]:
            best = ((i + 0.5) * w, i, d)
    return best


def test_kl_j_distances_published():
    assert kl_j_by_the_letter(C6, 4, True)[1:] == (59, pytest.approx(0.0387341, abs=1e-6))
    assert kl_j_by_the_letter(C6, 4, False)[1:] == (63, pytest.approx(0.00525367, abs=1e-6))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("bits", "signed"), [(3, True), (4, False), (5, True), (6, True)])
def test_kl_j_equals_the_specification(seed, bits, signed):
    rng = np.random.default_rng(seed)
    values = [
        rng.normal(size=20000), rng.laplace(size=9000), 0.3 + rng.gamma(2.0, size=12000),
        np.maximum(rng.normal(size=30000), 0)
    ][seed]
    assert (
        kl_j(values, bits=bits, signed=signed) == pytest.approx(kl_j_by_the_letter(values, bits, signed)[0], rel=1e-12)
    )


def test_kl_j_is_fast_enough():
    values = np.random.default_rng(0).laplace(size=1500**2).astype(np.float32)
    start = time.perf_counter()
    kl_j(values, bits=4, signed=True)
    assert time.perf_counter() - start < 5.0  # about 0.4 s on a free core


def test_kl_j_of_equal_values_is_their_size():
    assert kl_j(np.full(100, -2.5), bits=4) == 2.5
    assert kl_j(np.array([1.0, 1.0 + 1e-9] * 5000), bits=4) <= 1.01  # the bound on the bins holds


@pytest.mark.parametrize("rounding", ["half_even", "floor"])
@pytest.mark.parametrize(
    ("bits", "signed", "narrow"),
    [(2, True, False), (4, True, True), (4, False, False), (8, True, False), (8, False, False), (16, True, False)]
)
def test_mse_is_the_best_power_of_two(bits, signed, narrow, rounding):
    """Against the fake-quantizer itself over a wide range of exponents."""
    for seed, spread in ((0, 1.0), (1, 7.3), (2, 0.02)):
        rng = np.random.default_rng(seed)
        x = (rng.laplace(size=4000) * spread).astype(np.float32)
        x = x if signed else np.abs(x)
        found = mean_squared_error(x, bits=bits, signed=signed, narrow=narrow, rounding=rounding)
        exponents = range(math.ceil(math.log2(np.abs(x).max())) - bits - 3, math.ceil(math.log2(np.abs(x).max())) + 3)
        errors = {
            e: float(
                np.sum(
                    (
                        log_threshold_quantize(
                            tf.constant(x), float(e), bits=bits, signed=signed, narrow=narrow, rounding=rounding
                        ).numpy().astype(np.float64)
                        - x
                    ) ** 2
                )
            )
            for e in exponents
        }
        assert errors[math.ceil(math.log2(found))] == min(errors.values())


def test_mse_ignores_one_outlier_where_it_pays():
    x = np.concatenate([np.random.default_rng(0).normal(size=10000), [9.0]]).astype(np.float32)
    assert mean_squared_error(x, bits=4) == 2.0**1.5 and methods.maximum(x) == 9.0


def test_percentile_definition():
    x = np.arange(-1000, 1).astype(np.float32)
    assert methods.percentile(x) == pytest.approx(np.percentile(np.abs(x), 99.9))
    assert methods.percentile(x, percent=50) == 500


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_scales_with_the_data(self, name):
        x = np.random.default_rng(1).laplace(size=5000).astype(np.float32)
        assert METHODS[name](x * 8, bits=4, signed=True) == pytest.approx(8 * METHODS[name](x, bits=4, signed=True))

    def test_zero_and_one_value(self, name):
        assert METHODS[name](np.zeros(10, np.float32), bits=8) == 0
        assert 2.0 < METHODS[name](np.array([3.0], np.float32), bits=8) <= 4.0  # any of them has the scale that holds 3

    def test_does_not_change_the_data(self, name):
        x = np.random.default_rng(2).normal(size=999).astype(np.float32)
        before = x.copy()
        METHODS[name](x, bits=4, signed=True)
        np.testing.assert_array_equal(x, before)


def test_unknown_method_lists_the_known():
    with pytest.raises(ValueError, match="max, 3sd, percentile, mse, kl_j"):
        methods.get("entropy")
