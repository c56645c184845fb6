"""What training does with floats, in the kernel library itself: numpy's bits on every tier, for any number of threads."""

from __future__ import annotations

import kernel_calls as calls
import numpy as np
import pytest

from graffiti.numerics import training
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime.library import KernelError

MANY = 700_003  # elements, more than are left on one thread


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal values, NaN equal to NaN."""
    return found.shape == expected.shape and bool(((found == expected) | (np.isnan(found) & np.isnan(expected))).all())


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
    for sentence, call in {
            "2 to 24 bits":
            lambda: calls.fake_quantize(x, training.Threshold(0.0, 25), "scalar"),
            "got NaN; look for NaN in the loss":
            lambda: calls.fake_quantize(x, training.Threshold(np.nan, 8), "scalar"),
    }.items():
        with pytest.raises(KernelError, match=sentence):
            call()
