"""Values → threshold. numpy only; adding a method adds a function, as ``Method`` says, and a row in ``METHODS``."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from graffiti.calibration.values import Flat, blocks_of
from graffiti.numerics.rounding import round_real

Seen = np.ndarray | Flat
_BLOCK = 1 << 16        # values per step where a method walks over the data: stays in the cache
_LARGE_BLOCK = 1 << 20  # where numpy itself keeps to the cache
# bound on the bins of the KL-J search, reached only beyond 67 million values or by nearly constant ones
MAX_BINS = 8192


class Method(Protocol):
    """What the methods have in common: a threshold from the values that a quantizer sees and its range of codes."""

    def __call__(self, values: Seen, *, bits: int, signed: bool, narrow: bool, rounding: str) -> float:
        """Choose a threshold.

        Args:
            values: real, flat, never empty: an array, or ``Flat`` where they are too many for one. A method walks over
                their blocks (``blocks_of``).
            bits: of a code, the sign included.
            signed: whether codes have a sign.
            narrow: whether a signed range lacks its lowest code.
            rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.

        Returns:
            A real ``t >= 0``. The quantizer's step is ``2**(ceil(log2 t) - (bits - signed))``.
        """
        ...


def maximum(
    values: Seen, *, bits: int = 8, signed: bool = True, narrow: bool = False, rounding: str = "half_even"
) -> float:
    """``t = max |x|`` (MAX); NaN where there is one.

    Args:
        values: as of every ``Method``.
        bits, signed, narrow, rounding: not used.

    References: Jain et al., arXiv 1903.08066, section 4 (weights of static runs).
    """
    # NaN stays NaN
    return float(np.max([(-np.min(block), np.max(block)) for block in blocks_of(values, _LARGE_BLOCK)]))


def three_sigma(
    values: Seen, *, bits: int = 8, signed: bool = True, narrow: bool = False, rounding: str = "half_even"
) -> float:
    """``t = |mean(x)| + 3 * std(x)``, population standard deviation (3SD).

    Args:
        values: as of every ``Method``.
        bits, signed, narrow, rounding: not used.

    References: Jain et al., arXiv 1903.08066, section 4 (weights of retrained runs).
    """
    mean = sum(float(np.sum(block, dtype=np.float64)) for block in blocks_of(values, _LARGE_BLOCK)) / values.size
    square = sum(float(np.sum(np.square(block.astype(np.float64) - mean))) for block in blocks_of(values, _LARGE_BLOCK))
    return abs(mean) + 3.0 * math.sqrt(square / values.size)


def percentile(
    values: Seen, *, bits: int = 8, signed: bool = True, narrow: bool = False, rounding: str = "half_even",
    percent: float = 99.9,
) -> float:
    """``t`` = the 99.9th percentile of ``|x|`` (linear between neighbours).

    The largest magnitudes alone are kept, as many as lie at the percentile and above.

    Args:
        values: as of every ``Method``.
        bits, signed, narrow, rounding: not used.
        percent: 0 to 100; another percentile than the method has by name.
    """
    keep = values.size - math.floor((values.size - 1) * percent / 100.0)  # the neighbour below it, and all above
    largest = np.zeros(0, np.float32)
    for block in blocks_of(values, max(_LARGE_BLOCK, keep)):
        largest = np.concatenate([largest, np.abs(block)])
        if largest.size > keep:
            largest = np.partition(largest, largest.size - keep)[largest.size - keep:]
    place = (values.size - 1) * percent / 100.0
    low, high = np.sort(largest)[:2] if keep > 1 else (largest[0], largest[0])
    return float(low + (np.float64(high) - low) * (place - math.floor(place)))


def squared_error(
    values: Seen, threshold: float, *, bits: int, signed: bool, narrow: bool = False, rounding: str = "half_even",
) -> float:
    """Sum of ``(q(x) - x)**2`` with a power-of-two ``threshold``, in float64.

    Args:
        values, bits, signed, narrow, rounding: as of every ``Method``.
        threshold: above 0; the step is ``threshold / 2**(bits - signed)``.
    """
    scale = threshold / 2.0 ** (bits - int(signed))
    low, high = (-(1 << (bits - 1)) + int(narrow) if signed else 0), (1 << (bits - int(signed))) - 1
    total = 0.0
    for block in blocks_of(values, _BLOCK):
        x = block.astype(np.float64) / scale
        codes = np.clip(round_real(x, rounding), low, high)
        codes -= x
        total += float(np.dot(codes, codes))
    return total * scale * scale


def mean_squared_error(
    values: Seen, *, bits: int = 8, signed: bool = True, narrow: bool = False, rounding: str = "half_even"
) -> float:
    """The scale with the smallest ``sum (q(x) - x)**2`` (the smaller one on ties), as a threshold ``t = 2**(e - 0.5)``.

    Every ``t`` in ``(2**(e-1), 2**e]`` has that scale; the middle in the log domain keeps training from leaving it by
    the first step.

    The search starts one above ``ceil(log2 max |x|)`` and goes down until the error has risen twice in a row, at most a
    little beyond the width of the code; every error is taken over all values.

    Args:
        values, bits, signed, narrow, rounding: as of every ``Method``.

    Returns:
        0 where all values are.
    """
    largest = maximum(values)
    if largest == 0.0:
        return 0.0
    top = math.ceil(math.log2(largest)) + 1
    best, best_error, rises, previous = top, math.inf, 0, math.inf
    for exponent in range(top, top - bits - 6, -1):
        error = squared_error(values, 2.0**exponent, bits=bits, signed=signed, narrow=narrow, rounding=rounding)
        if error <= best_error:
            best, best_error = exponent, error
        rises = rises + 1 if error > previous else 0
        previous = error
        if rises == 2:
            break
    return 2.0 ** (best - 0.5)


def kl_j(
    values: Seen, *, bits: int = 8, signed: bool = True, narrow: bool = False, rounding: str = "half_even"
) -> float:
    r"""The clipping point with the smallest symmetric KL (J) distance between cumulative distributions (KL-J).

    A histogram of ``a = |x|`` with about ``sqrt(N)`` bins on ``[0, max a]`` gives the reference ``cdf``. For every
    clipping bin ``i`` the clipped cdf is resampled to as many points as the quantizer has levels and back (both
    linear), and

    .. math:: D_i = \sum_{cdf \ne 0} (cdf - Q_i) \log_2(cdf / Q_i)

    is the distance to the *unclipped* cdf. The threshold is ``(i + 0.5) * bin width`` of the first smallest ``D_i``.
    With fewer bins than levels (16 bits, nearly always) it is ``max a``. The histogram holds all values, however many;
    the search costs the square of the number of bins.

    Args:
        values, bits, signed: as of every ``Method``.
        narrow, rounding: not used.

    References: Jain et al., arXiv 1903.08066, section 4; "Facts that are easy to get wrong" of its released code.
    """
    largest = maximum(values)
    smallest = min(float(np.abs(block).min()) for block in blocks_of(values, _LARGE_BLOCK))
    if largest == smallest:
        return largest
    bins = min(math.ceil(largest / ((largest - smallest) / math.sqrt(values.size))), MAX_BINS)
    levels = 2 ** (bits - int(signed))
    if levels + 1 > bins:
        return largest
    histogram = np.zeros(bins, np.int64)
    for block in blocks_of(values, _LARGE_BLOCK):
        histogram += np.histogram(np.abs(block).astype(np.float64), bins, (0.0, largest))[0]
    cdf = np.cumsum(histogram / histogram.sum())
    first = int(np.argmax(cdf != 0))  # bins before it are left out of the distance
    log_cdf = np.log2(cdf[first:], out=np.zeros(bins - first), where=cdf[first:] > 0)
    # bins i and above, where Q = 1: their part of D is a suffix sum
    tail = np.concatenate([np.cumsum(((cdf[first:] - 1.0) * log_cdf)[::-1])[::-1], [0.0]])
    coarse_at, best, best_distance = np.linspace(0.0, 1.0, levels), levels + 1, math.inf
    for i in range(levels + 1, bins + 1):
        fine_at = np.linspace(0.0, 1.0, i)
        clipped = cdf[:i].copy()
        clipped[-1] = 1.0
        resampled = np.interp(fine_at, coarse_at, np.interp(coarse_at, fine_at, clipped))[first:]
        distance = tail[max(i - first, 0)]
        if i > first:
            distance = distance + np.dot(cdf[first:i] - resampled, log_cdf[:i - first] - np.log2(resampled))
        if distance < best_distance:
            best, best_distance = i, distance
    return (best + 0.5) * (largest / bins)


METHODS: dict[str, Method] = {
    "max": maximum,
    "3sd": three_sigma,
    "percentile": percentile,
    "mse": mean_squared_error,
    "kl_j": kl_j,
}


def get(name: str) -> Method:
    """A method by its registry name.

    Raises:
        ValueError: where there is none; it lists the names.
    """
    if name not in METHODS:
        raise ValueError(f"a calibration method is one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]
