"""The float helpers against integers: powers of two, rounding at a scale, round to odd, the bound."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from graffiti.layers import exact
from graffiti.numerics.rounding import ROUNDING_MODES, round_real, shift_right

INTERESTING = [
    0, 1, 2, 3, 127, 128, 2**22, 2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2, 2**24 + 3, 2**25 + 2, 2**25 + 3, 2**30 + 1,
    2**31 - 1, 2**40 + 1, 2**52 + 1
]


def codes() -> np.ndarray:
    rng = np.random.default_rng(1)
    random = rng.integers(-(2**45), 2**45, 20_000) >> rng.integers(0, 44, 20_000)
    return np.array([sign * value for value in INTERESTING for sign in (1, -1)] + random.tolist(), np.int64)


def test_power_of_two_is_exact_over_the_normal_range():
    exponents = np.arange(-126, 128)
    assert np.array_equal(
        exact.power_of_two(tf.constant(exponents, tf.float32)).numpy(), np.ldexp(np.float32(1), exponents)
    )
    assert exact.power_of_two(tf.constant([-300.0, 300.0])).numpy().tolist() == [2.0**-126, 2.0**127]


def test_round_to_odd_truncates_and_remembers():
    code = codes()
    extra = np.maximum(np.frexp(np.abs(code).astype(np.float64))[1] - 24, 0)
    kept = (np.abs(code) >> extra) | ((np.abs(code) & ((np.int64(1) << extra) - 1)) != 0)
    expected = np.sign(code) * (kept << extra)
    assert np.array_equal(exact.round_to_odd(tf.constant(code, tf.float64)).numpy().astype(np.int64), expected)


def test_rounding_after_round_to_odd_is_rounding_once():
    code = codes()
    odd = exact.round_to_odd(tf.constant(code, tf.float64)).numpy().astype(np.float64)
    width = np.frexp(np.abs(code).astype(np.float64))[1]
    for bits in (8, 16, 22):
        shift = np.maximum(width - bits, 1)
        for mode in ROUNDING_MODES:
            assert np.array_equal(round_real(odd / np.exp2(shift), mode), shift_right(code, shift, mode)), (bits, mode)


def test_round_to_odd_commutes_with_scaling():
    code = codes()
    plain = exact.round_to_odd(tf.constant(code, tf.float64)).numpy()
    for exponent in (-60, -7, 5, 40):
        assert np.array_equal(
            exact.round_to_odd(tf.constant(np.ldexp(code.astype(np.float64), exponent))).numpy(),
            np.ldexp(plain, exponent)
        )


def test_gradients_pass_straight_through():
    x = tf.constant([0.3, -2.5, 7.9])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        rounded = exact.round_at(x, tf.constant(0.0))
        odd = exact.round_to_odd(tf.cast(x, tf.float64))
    assert rounded.numpy().tolist() == [0.0, -2.0, 8.0]
    assert tape.gradient(rounded, x).numpy().tolist() == [1.0, 1.0, 1.0]
    assert tape.gradient(odd, x).numpy().tolist() == [1.0, 1.0, 1.0]


def test_round_at_equals_numpy_on_every_tie():
    code = np.arange(-2000, 2000) / 4
    for exponent in (-20, -1, 0, 3):
        x = np.ldexp(code, exponent).astype(np.float32)
        got = exact.round_at(tf.constant(x), tf.constant(float(exponent))).numpy()
        assert np.array_equal(got, np.ldexp(np.rint(code), exponent))


def test_the_bound_is_strict_and_never_rounds_down():
    def fits(total: float, bias: float) -> bool:
        sums = tf.constant([total], tf.float32) * 2.0**-7
        return bool(exact.fits_float32(sums, tf.constant([bias * 2.0**-12]), 1.0, tf.constant(-5.0), tf.constant(-7.0)))

    assert fits(2**23, 2**23 - 1) and fits(2**24 - 1, 0)
    assert not fits(2**24, 0) and not fits(2**24 - 1, 1) and not fits(2**24, 1) and not fits(1, -(2**24))
