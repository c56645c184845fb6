"""The exact mean: rounding of quotients against fractions, and the reference pool against them window by window."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from graffiti.numerics import products, reference
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES, divide
from graffiti.numerics.windows import pool_counts, window_pads


def rounded(x: Fraction, mode: str) -> int:
    low = math.floor(x)
    rest = x - low
    if mode == "floor" or rest < Fraction(1, 2):
        return low
    if rest > Fraction(1, 2) or mode == "half_up":
        return low + 1
    return low + (low % 2 if mode == "half_even" else int(x > 0))


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_divide_is_the_rounded_fraction(mode):
    rng = np.random.default_rng(0)
    codes = np.concatenate([np.arange(-70, 71), rng.integers(-(2**31), 2**31, 50), [-(2**31), 2**31 - 1]])
    for divisor in (1, 2, 3, 6, 7, 9, 49, 64, 2304, 65536, 2**29):
        for shift in (-5, -1, 0, 1, 4, 17, 31, 32, 33, 40, 62):
            got = divide(codes, divisor, shift, mode)
            expected = [rounded(Fraction(int(code)) / (divisor * Fraction(2) ** shift), mode) for code in codes]
            assert got.tolist() == expected, (divisor, shift)


@pytest.mark.parametrize("shift", [-20, -33, -50, -61, -70])
def test_divide_to_the_left_leaves_every_format_where_the_quotient_does(shift):
    for code in (-(2**31), -3, -1, 0, 1, 2, 2**31 - 1):
        for divisor in (1, 9, 65536, 2**29):
            true = rounded(Fraction(code) * Fraction(2) ** -shift / divisor, "half_even")
            assert (
                np.clip(divide(code, divisor, shift, "half_even"), -(2**15), 2**16 - 1)
                == min(max(true, -(2**15)), 2**16 - 1)
            )


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_average_pool_against_fractions(mode, padding):
    rng = np.random.default_rng(1)
    for size, window, strides in (
        ((5, 4), (2, 3), (1, 2)), ((6, 6), (3, 3), (2, 2)), ((4, 7), (4, 7), (4, 7)), ((7,), (4,), (3,))
    ):
        for left in (-2, 0, 3):
            x = rng.integers(-128, 128, (2, *size, 2))
            source, target = QFormat(8, True, -3), QFormat(8, True, -3 - left)
            got = reference.average_pool(x, window, strides, padding, source, target, mode)
            before = [window_pads(n, k, s, 1, padding)[0] for n, k, s in zip(size, window, strides)]
            for place in np.ndindex(*got.shape[1:-1]):
                part = tuple(
                    slice(max(p * s - b, 0), min(p * s - b + k, n))
                    for p, s, b, k, n in zip(place, strides, before, window, size)
                )
                seen = x[(slice(None), *part)].reshape(2, -1, 2)
                for image in range(2):
                    for channel in range(2):
                        mean = Fraction(int(seen[image, :, channel].sum()), seen.shape[1]) * Fraction(2) ** left
                        assert got[(image, *place, channel)] == min(max(rounded(mean, mode), -128), 127)


def test_limits_and_sums_without_a_division():
    x = np.array([100, -50, 27, 3]).reshape(1, 4, 1)
    format = QFormat(8, True, 0)
    assert reference.average_pool(x, (2,), (2,), "valid", format, format, low=0, high=20).ravel().tolist() == [20, 15]
    assert (
        reference.average_pool(x, (2,), (2,), "valid", format, QFormat(8, True, 1), divide=False).ravel().tolist()
        == [25, 15]
    )
    with pytest.raises(ValueError, match="holds no code"):
        reference.average_pool(x, (2,), (2,), "valid", format, format, low=5, high=4)
    with pytest.raises(TypeError, match="quantize first"):
        reference.average_pool(x * 1.0, (2,), (2,), "valid", format, format)


def test_a_window_of_65536_unsigned_codes():
    x = np.full((1, 256, 256, 1), 255, np.uint8)
    x[0, 0, 0, 0] = 0
    format = QFormat(8, False, -8)
    assert reference.average_pool(x, (256, 256), (256, 256), "valid", format, format).item() == 255
    assert reference.average_pool(x, (256, 256), (256, 256), "valid", format, format, "floor").item() == 254


def test_counts_and_sums():
    assert pool_counts((4, 3), (3, 3), (1, 2), "same")[..., 0].tolist() == [[4, 4], [6, 6], [6, 6], [4, 4]]
    x = np.random.default_rng(0).integers(-9, 9, (2, 7, 6, 3))
    assert (
        products.sum_pool(x, (3, 2), (2, 1)) == reference.depthwise_conv(x, np.ones((3, 2, 3, 1), np.int64), (2, 1))
    ).all()
    assert (
        products.sum_pool(x, (3, 2), (2, 3), "same")
        == reference.depthwise_conv(x, np.ones((3, 2, 3, 1), np.int64), (2, 3), "same")
    ).all()
