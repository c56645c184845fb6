"""The rounding modes by name, on reals and on integers shifted to the right. numpy only.

Each mode exists twice, and the two agree on every value: ``round_real(x, mode)`` and
``shift_right(code, shift, mode) == round_real(code / 2**shift, mode)``.

| mode | −2.5 | −1.5 | −0.5 | 0.5 | 1.5 | 2.5 |
|---|---|---|---|---|---|---|
| half_even | −2 | −2 | 0 | 0 | 2 | 2 |
| half_up | −2 | −1 | 0 | 1 | 2 | 3 |
| half_away | −3 | −2 | −1 | 1 | 2 | 3 |
| floor | −3 | −2 | −1 | 0 | 1 | 2 |
"""

from __future__ import annotations

import numpy as np

ROUNDING_MODES = ("half_even", "half_up", "half_away", "floor")


def check_rounding(mode: str) -> str:
    """``mode`` itself; a ValueError that lists the modes where it is none of them."""
    if mode not in ROUNDING_MODES:
        raise ValueError(f"a rounding mode is one of {', '.join(ROUNDING_MODES)}, got {mode!r}")
    return mode


def round_real(x, mode: str) -> np.ndarray:
    """Round reals to integers (as float64); infinities and NaN stay."""
    check_rounding(mode)
    x = np.asarray(x, np.float64)
    if mode == "half_even":
        return np.rint(x)
    if mode == "floor":
        return np.floor(x)
    magnitude = np.abs(x) if mode == "half_away" else x
    low = np.floor(magnitude)
    rest = np.subtract(magnitude, low, out=np.zeros_like(low), where=np.isfinite(low))  # infinities stay what they are
    rounded = low + (rest >= 0.5)  # not floor(x + 0.5): that addition itself rounds next to a tie
    return np.copysign(rounded, x) if mode == "half_away" else rounded


def shift_right(code, shift, mode: str) -> np.ndarray:
    """``round(code / 2**shift)`` on int64, exactly; a negative shift multiplies.

    Half a step is added and the rest cut off; a tie then needs one less where it must go down: with ``half_even`` where
    the quotient is even, with ``half_away`` where the code is negative.

    Args:
        code: integers of magnitude up to ``2**62``, any shape.
        shift: integer or integers that broadcast against ``code``; beyond 62 bits a right shift acts as 62.
        mode: one of ``ROUNDING_MODES``.

    Returns:
        int64 codes. A left shift must not leave int64: the caller keeps ``|code| * 2**-shift < 2**63``.
    """
    check_rounding(mode)
    code, shift = np.asarray(code, np.int64), np.asarray(shift, np.int64)
    right, left = np.clip(shift, 0, 62), np.maximum(-shift, 0)
    some = np.minimum(right, 1)  # 0 where nothing is cut: nothing to round there
    half = (some << right) >> 1
    if mode == "half_even":
        code = code + (half - some) + ((code >> right) & some)
    elif mode == "half_up":
        code = code + half
    elif mode == "half_away":
        code = code + half - ((code < 0) & (some > 0))
    result = code >> right
    return result << left if left.any() else result


def divide(code, divisor, shift, mode: str) -> np.ndarray:
    """``round(code / (divisor * 2**shift))`` on int64, exactly, ties included: the quotient and its rest say it all.

    Args:
        code: integers of magnitude up to ``2**31``, any shape.
        divisor: integers from 1 to ``2**29`` that broadcast against ``code``.
        shift: an integer; a negative one multiplies the code.
        mode: one of ``ROUNDING_MODES``.

    Returns:
        int64 quotients. One that would leave 32 bits is only known to leave them: the caller saturates to fewer.
    """
    check_rounding(mode)
    code, divisor = np.asarray(code, np.int64), np.asarray(divisor, np.int64)
    # beyond 33 bits a quotient is less than half in any case
    left, right = int(np.clip(-shift, 0, 61)), int(np.clip(shift, 0, 33))
    bound = 1 << (62 - left)  # a code this large stays beyond 32 bits behind the division
    code, divisor = np.clip(code, -bound, bound) << left, divisor << right
    low = code // divisor
    rest = code - low * divisor
    above, tie = rest > divisor - rest, rest == divisor - rest
    if mode == "floor":
        return low
    up = {"half_even": low % 2 == 1, "half_up": True, "half_away": code >= 0}[mode]
    return low + (above | (tie & up))
