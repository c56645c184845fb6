"""LiteRT's own roundings in numpy, and the search for average pools that they cannot get wrong. Knows neither graphs
nor files.

``acc`` is the exact 32-bit accumulator, ``multiplier`` is ``scale_x * scale_kernel / scale_out``; all return unclamped
codes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from graffiti.numerics.rounding import divide


def xnnpack(acc: np.ndarray, multiplier: float) -> np.ndarray:
    """XNNPACK's products: float32 of the accumulator times float32 of the multiplier, half to even."""
    return np.rint(np.asarray(acc).astype(np.float32) * np.float32(multiplier)).astype(np.int64)


def fixed_point(multiplier: float) -> tuple[int, int]:
    """``multiplier = q * 2**(shift - 31)`` with ``2**30 <= q < 2**31``: how LiteRT's builtin kernels hold it."""
    fraction, shift = math.frexp(multiplier)
    q = math.floor(fraction * 2**31 + 0.5)
    return (q // 2, shift + 1) if q == 2**31 else (q, shift)


def builtin(acc: np.ndarray, multiplier: float, *, away: bool) -> np.ndarray:
    """LiteRT's builtin kernels round twice: ``acc * 2**left * q / 2**31`` half up, then ``/ 2**right`` half up or half
    away.

    Args:
        acc: accumulators.
        multiplier: the real factor.
        away: whether the second tie goes away from zero or up. Convolutions and dense layers: up; grouped convolutions:
            away. Depthwise ones on x86-64: up in whole groups of eight channels, away in the channels behind them.
    """
    q, shift = fixed_point(multiplier)
    left, right = max(shift, 0), max(-shift, 0)
    high = ((np.asarray(acc, np.int64) << left) * q + (1 << 30)) >> 31
    if right == 0:
        return high
    return (high + (1 << (right - 1)) - ((high < 0) if away else 0)) >> right


def just_below(scales: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    """Powers of two as the float32 numbers one step below them, with which LiteRT's builtin kernels round once.

    ``2**-s`` itself is ``q = 2**30`` there: halved and rounded, then rounded again. ``2**-s * (1 - 2**-24)`` is ``q =
    2**31 - 128``: the first rounding gives back every accumulator below 2**23, and the second is the only one.
    """
    scales = np.asarray(scales, np.float32)
    return np.where(where, np.nextafter(scales, np.float32(0)), scales)


def pool_parameters(
    code: int, shift: int, count: int, codes: tuple[int, int], limits: tuple[int, int], runtime: str = "xnnpack",
) -> tuple[int, int, bool] | None:
    """An int8 kernel and a bias with which rounding to nearest gives ``floor(code * sum / 2**shift)`` for every
    possible sum.

    The reciprocal has 8 bits without a sign, which an int8 kernel cannot hold. So the kernel holds ``weight`` at the
    scale ``code / weight``, and a bias of about half a step turns rounding to nearest into rounding down.

    Args:
        code: the reciprocal's code.
        shift: of the requantize behind it.
        count: elements of the window.
        codes: lowest and highest code of the input.
        limits: lowest and highest code of the output.
        runtime: whose kernels must be right, ``xnnpack`` or ``builtin``.

    Returns:
        ``(weight, bias, whether the other runtime's kernel agrees too)``, or ``None`` where no pair is right for
        ``runtime``.
    """
    sums = _sums(count, codes)
    if shift < 1 or len(sums) * 127 > 1 << 24:
        return None
    expected = np.clip((code * sums) >> shift, *limits)

    def biases(weight: int) -> tuple[int, ...]:
        centre = round((0.5 - 2.0 ** (shift - 1)) * weight / code)
        return centre, centre - 1, centre + 1

    return _search(sums, expected, limits, runtime, lambda weight: math.ldexp(code / weight, -shift), biases)


def mean_parameters(
    count: int, taps: int, left: int, codes: tuple[int, int], limits: tuple[int, int], mode: str,
    runtime: str = "xnnpack",
) -> tuple[int, int, bool] | None:
    """An int8 kernel and a bias with which rounding to nearest gives ``round(sum * 2**left / count)`` for every
    possible sum.

    The multiplier ``2**left / (count * weight)`` is a rounded float; which weights give every sum, ties included, its
    right code is found by trying.

    Args:
        count: what is divided by.
        taps: elements of the window.
        left: the input's exponent less the output's.
        codes, limits, runtime: as in ``pool_parameters``.
        mode: the rounding mode.

    Returns:
        As ``pool_parameters``.
    """
    sums = _sums(taps, codes)
    if len(sums) > 1 << 19 or not -24 <= left <= 12:
        return None
    expected = np.clip(divide(sums, count, -left, mode), *limits)

    def biases(weight: int) -> tuple[int, ...]:
        if mode == "floor":
            centre = round((1 - count * math.ldexp(1.0, -left)) * weight / 2)
            return centre, centre + 1, centre - 1
        return (0,) if mode == "half_even" else (0, 1, -1)

    return _search(sums, expected, limits, runtime, lambda weight: math.ldexp(1 / (count * weight), left), biases)


def _sums(count: int, codes: tuple[int, int]) -> np.ndarray:
    """Every sum that a window of ``count`` codes, or a part of it, can have."""
    return np.arange(count * min(codes[0], 0), count * max(codes[1], 0) + 1, dtype=np.int64)


def _search(
    sums: np.ndarray, expected: np.ndarray, limits: tuple[int, int], runtime: str, factor: Callable[[int], float],
    biases: Callable[[int], tuple[int, ...]],
) -> tuple[int, int, bool] | None:
    """The largest weight with a bias that a runtime's kernel gives every sum its expected code with.

    One with which the other's does too comes first.

    The builtin kernel's ties go up in some channels and away from zero in others: it is right where both are.
    """
    kernels: dict[str, tuple[Callable[..., np.ndarray], ...]] = {
        "xnnpack": (xnnpack,), "builtin": tuple(functools.partial(builtin, away=away) for away in (True, False))}
    asked, other = kernels.pop(runtime), *kernels.values()

    def right(roundings: tuple[Callable[..., np.ndarray], ...]) -> bool:
        return all((np.clip(rounds(acc, multiplier), *limits) == expected).all() for rounds in roundings)

    found, tried, largest = None, 0, int(np.abs(sums).max())
    for weight in range(127, 0, -1):
        multiplier = float(np.float32(factor(weight)))
        if largest * weight > 1 << 24 or multiplier < 2.0**-31:  # the float32 of the accumulator must be exact
            continue
        for bias in biases(weight):
            acc = weight * sums + bias
            if right(asked):
                if right(other):
                    return weight, bias, True
                found = found or (weight, bias, False)
        tried += 1
        if found and tried >= 16:
            return found
    return found
