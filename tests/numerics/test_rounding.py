"""The rounding modes: every small code at every shift, against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from graffiti.numerics.rounding import ROUNDING_MODES, check_rounding, round_real, shift_right

EXACT = {
    "half_even": round,
    "half_up": lambda f: math.floor(f + Fraction(1, 2)),
    "half_away": lambda f: int(math.copysign(math.floor(abs(f) + Fraction(1, 2)), f)),
    "floor": math.floor,
}
TABLE = {  # on -2.5 -1.5 -0.5 0.5 1.5 2.5
    "half_even": [-2, -2, 0, 0, 2, 2],
    "half_up": [-2, -1, 0, 1, 2, 3],
    "half_away": [-3, -2, -1, 1, 2, 3],
    "floor": [-3, -2, -1, 0, 1, 2],
}


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_ties_as_in_the_table(mode):
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_real(ties, mode).tolist() == TABLE[mode]
    assert shift_right(np.array([-5, -3, -1, 1, 3, 5]), 1, mode).tolist() == TABLE[mode]


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_all_small_codes_at_all_shifts(mode):
    codes = np.arange(-(1 << 9), (1 << 9) + 1)
    for shift in range(-4, 13):
        expected = [EXACT[mode](Fraction(int(code)) / Fraction(2) ** shift) for code in codes]
        assert shift_right(codes, shift, mode).tolist() == expected, (mode, shift)
        assert round_real(codes / 2.0**shift, mode).tolist() == expected, (mode, shift)


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_wide_codes_at_every_right_shift(mode):
    rng = np.random.default_rng(3)
    codes = np.concatenate([
        rng.integers(-(1 << 31), 1 << 31, 200), [-(1 << 31), (1 << 31) - 1, 0, 1, -1], (1 << np.arange(31)),
        -(1 << np.arange(32)),
        3 * (1 << np.arange(30)),
    ])
    for shift in range(63):
        expected = [EXACT[mode](Fraction(int(code), 1 << shift)) for code in codes]
        assert shift_right(codes, shift, mode).tolist() == expected, (mode, shift)
    assert shift_right(codes, 70, mode).tolist() == shift_right(codes, 62, mode).tolist()


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_shifts_broadcast_per_channel(mode):
    codes = np.random.default_rng(4).integers(-(1 << 20), 1 << 20, (7, 5))
    shifts = np.array([-2, 0, 1, 9, 30])
    expected = np.stack([shift_right(codes[:, i], shifts[i], mode) for i in range(5)], 1)
    assert shift_right(codes, shifts, mode).dtype == np.int64
    assert (shift_right(codes, shifts, mode) == expected).all()


@pytest.mark.parametrize(
    "value", [0.49999999999999994, -0.49999999999999994, 4503599627370495.5, -4503599627370495.5, 2.0**60, -0.0, 1e-320]
)
@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_reals_next_to_a_tie(mode, value):
    assert int(round_real(value, mode)) == EXACT[mode](Fraction(value))


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_infinities_stay(mode):
    with np.errstate(invalid="ignore"):
        assert round_real([np.inf, -np.inf], mode).tolist() == [np.inf, -np.inf]


def test_unknown_mode_lists_the_modes():
    with pytest.raises(ValueError, match="half_even, half_up, half_away, floor, got 'round'"):
        check_rounding("round")
    for function in (lambda: round_real(1.0, "ceil"), lambda: shift_right(1, 1, "ceil")):
        with pytest.raises(ValueError, match="ceil"):
            function()
