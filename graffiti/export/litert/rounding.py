"""LiteRT's own roundings in numpy, and the search for average pools that they cannot get wrong. Knows neither graphs nor files.

``acc`` is the exact 32-bit accumulator, ``multiplier`` is ``scale_x * scale_kernel / scale_out``; all return unclamped codes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np


def xnnpack(acc: np.ndarray, multiplier: float) -> np.ndarray:
    """XNNPACK's products: float32 of the accumulator times float32 of the multiplier, half to even."""
    return np.rint(np.asarray(acc).astype(np.float32) * np.float32(multiplier)).astype(np.int64)


def fixed_point(multiplier: float) -> tuple[int, int]:
    """``multiplier = q * 2**(shift - 31)`` with ``2**30 <= q < 2**31``: how LiteRT's builtin kernels hold it."""
    fraction, shift = math.frexp(multiplier)
    q = math.floor(fraction * 2**31 + 0.5)
    return (q // 2, shift + 1) if q == 2**31 else (q, shift)


def builtin(acc: np.ndarray, multiplier: float, *, away: bool) -> np.ndarray:
    """LiteRT's builtin kernels round twice: ``acc * 2**left * q / 2**31`` half up, then ``/ 2**right`` half up or half away.

    Args:
        acc: accumulators.
        multiplier: the real factor.
        away: whether the second tie goes away from zero (depthwise) or up (convolution and dense).
    """
    q, shift = fixed_point(multiplier)
    left, right = max(shift, 0), max(-shift, 0)
    high = ((np.asarray(acc, np.int64) << left) * q + (1 << 30)) >> 31
    if right == 0:
        return high
    return (high + (1 << (right - 1)) - ((high < 0) if away else 0)) >> right


def just_below(scales: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    """Powers of two as the float32 numbers one step below them, with which LiteRT's builtin kernels round once.

    ``2**-s`` itself is ``q = 2**30`` there: halved and rounded, then rounded again. ``2**-s * (1 - 2**-24)`` is ``q = 2**31 - 128``: the first rounding gives back
    every accumulator below 2**23, and the second is the only one.
    """
    scales = np.asarray(scales, np.float32)
    return np.where(where, np.nextafter(scales, np.float32(0)), scales)


def pool_parameters(
    code: int, shift: int, count: int, codes: tuple[int, int], limits: tuple[int, int], runtime: str = "xnnpack",
) -> tuple[int, int, bool] | None:
    """An int8 kernel and a bias with which rounding to nearest gives ``floor(code * sum / 2**shift)`` for every possible sum.

    The reciprocal has 8 bits without a sign, which an int8 kernel cannot hold. So the kernel holds ``weight`` at the scale ``code / weight``, and a
    bias of about half a step turns rounding to nearest into rounding down. Which pairs do it for *every* sum that a window can have is found by
    trying all sums.

    Args:
        code: the reciprocal's code.
        shift: of the requantize behind it.
        count: elements of the window.
        codes: lowest and highest code of the input.
        limits: lowest and highest code of the output.
        runtime: whose kernels must be right, ``xnnpack`` or ``builtin``.

    Returns:
        ``(weight, bias, whether the other runtime's kernel agrees too)``, or ``None`` where no pair is right for ``runtime``.
    """
    sums = np.arange(count * min(codes[0], 0), count * max(codes[1], 0) + 1, dtype=np.int64)
    if shift < 1 or len(sums) * 127 > 1 << 24:
        return None
    expected = np.clip((code * sums) >> shift, *limits)
    asked: Callable[..., np.ndarray] = xnnpack
    other: Callable[..., np.ndarray] = functools.partial(builtin, away=True)
    if runtime == "builtin":
        asked, other = other, asked
    found = None
    for weight in range(127, 0, -1):
        multiplier = float(np.float32(math.ldexp(code / weight, -shift)))
        centre = round((0.5 - 2.0 ** (shift - 1)) * weight / code)
        for bias in (centre, centre - 1, centre + 1):
            acc = weight * sums + bias
            if (np.clip(asked(acc, multiplier), *limits) == expected).all():
                if (np.clip(other(acc, multiplier), *limits) == expected).all():
                    return weight, bias, True
                found = found or (weight, bias, False)
    return found
