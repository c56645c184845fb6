"""What training does with float tensors, in numpy: codes under a step, small floats, batch norm, the trained threshold.

The families ``quantize``, ``multi_level``, ``batch_norm`` and ``fake_quantize`` of ``ops/kernels`` equal these with
``==``, on every instruction set and for any number of threads: each sum has one order, which is written down here.
``ops`` and ``low_bit`` have the same in TensorFlow, where the order of float sums is TensorFlow's.

References: Zhong et al., arXiv 2006.02804, sections III and IV (multi-level scaling); Chan, Golub and LeVeque, 1979
(merged variances); Jain et al., arXiv 1903.08066, section 3 (the trained threshold).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.numerics import noise
from graffiti.numerics.rounding import round_real

NORM_ROWS = 256  # rows of one float32 sum of a batch norm
THRESHOLD_BLOCK, THRESHOLD_LANES = 4096, 16  # of the sum of a threshold's gradient


def extremes(x: np.ndarray) -> np.ndarray:
    """``(min(x), max(x))``; both NaN where ``x`` holds a NaN or Inf, zeros where it is empty."""
    if x.size == 0:
        return np.zeros(2, np.float32)
    if not np.isfinite(x).all():
        return np.full(2, np.nan, np.float32)
    return np.array([x.min(), x.max()], np.float32)


def quantize(x: np.ndarray,
             inverse_step: float,
             low: int,
             high: int,
             seed: tuple[int, int] | None = None) -> np.ndarray:
    """``clip(r(x * inverse_step), low, high)``, product and sum rounded to float32.

    Args:
        x: finite float32, any shape.
        inverse_step: any float32.
        low, high: the range of the codes.
        seed: two words for ``r(v) = floor(v + u)``, ``u`` by flat index; without them ``r`` is half to even.

    Returns:
        int32 codes.
    """
    v = np.asarray(x, np.float32) * np.float32(inverse_step)
    if seed is None:
        v = np.rint(v)
    else:
        v = np.floor(v + noise.uniform(v.size, seed).reshape(v.shape))
    return np.clip(v, low, high).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Element:
    """A float without a sign: ``exponent_bits`` 0 to 5 (0: fixed point), ``mantissa_bits`` 1 to 11.

    Attributes:
        carry: whether rounding may reach the next power of two.
        top_exponent: -1: numbers below 1; 0: below 2.
    """

    exponent_bits: int
    mantissa_bits: int
    carry: bool = True
    top_exponent: int = -1

    def largest(self) -> np.float32:
        """The largest number: one step below ``2**(top_exponent + 1)``."""
        step = 2.0**-(self.mantissa_bits + (self.exponent_bits > 0))
        return np.float32((1.0 - step) * 2.0**(self.top_exponent + 1))

    def round(self, magnitude: np.ndarray, random: np.ndarray | float = 0.0) -> np.ndarray:
        """The element next to each magnitude, half to even of ``magnitude / step + random``; float32.

        ``step = 2**(e - mantissa_bits)`` with ``e = clip(floor(log2(magnitude)), 1 - 2**exponent_bits, -1)``, one
        higher where ``top_exponent`` is 0, and ``e = top_exponent + 1`` in fixed point.
        """
        shift = self.top_exponent + 1
        exponent = (magnitude.view(np.int32) >> 23) - 127
        fixed = self.exponent_bits == 0
        exponent = np.clip(exponent, shift if fixed else 1 - 2**self.exponent_bits + shift,
                           shift if fixed else shift - 1)
        one = np.float32(1.0)
        codes = np.rint(magnitude * np.ldexp(one, self.mantissa_bits - exponent) + np.float32(random))
        codes = np.where(codes > 0, codes, np.float32(0.0))
        if not self.carry and not fixed:
            codes = np.minimum(codes, np.float32(2.0**(self.mantissa_bits + 1) - 1))
        return np.minimum(codes * np.ldexp(one, exponent - self.mantissa_bits), self.largest())


def group_maximum(x: np.ndarray, layout: tuple[int, int, int, int]) -> np.ndarray:
    """``max |x|`` of each group ``[outer, groups]``; ``x`` is read as ``layout`` = [outer, rows, groups, inner]."""
    return np.abs(x.reshape(layout)).max((1, 3), initial=0.0)


def multi_level(x: np.ndarray,
                divisors: np.ndarray,
                factors: np.ndarray,
                layout: tuple[int, int, int, int],
                element: Element,
                seed: tuple[int, int] | None = None) -> np.ndarray:
    """``sign(x) * element(|x| / divisor) * factor``.

    Args:
        x: float32, any shape.
        divisors, factors: float32 ``[outer, groups]``.
        layout: outer, rows, groups, inner; their product is the size of ``x``.
        element: the small format.
        seed: two words for noise ``u - 1/2`` in front of the rounding.

    Returns:
        float32, shaped like ``x``.
    """
    parts = x.reshape(layout)
    random = 0.0 if seed is None else (noise.uniform(x.size, seed) - np.float32(0.5)).reshape(layout)
    magnitude = np.abs(parts) / divisors[:, None, :, None]
    y = element.round(magnitude, random) * factors[:, None, :, None]
    return np.where(np.signbit(parts), -y, y).reshape(x.shape)


def _sum_rows(terms: np.ndarray) -> np.ndarray:
    """Float32 sums over axis 0: four rows as ``(a + b) + (c + d)``, then those one after the other."""
    whole = len(terms) // 4 * 4
    a, b, c, d = (terms[k:whole:4] for k in range(4))
    return np.cumsum(np.concatenate([(a + b) + (c + d), terms[whole:]]), axis=0, dtype=np.float32)[-1]


def _blocks(rows: int) -> list[slice]:
    return [slice(first, min(first + NORM_ROWS, rows)) for first in range(0, rows, NORM_ROWS)]


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each column in float64, from float32 sums over blocks of rows.

    A block's sums are of differences from the median of its first, middle and last row; float64 merges the blocks.
    """
    parts = []  # of each block: rows, the row that is subtracted, sums, sums of squares
    for block in _blocks(len(x)):
        first, middle, last = (x[block][row] for row in (0, len(x[block]) // 2, -1))
        shift = np.maximum(np.minimum(first, middle), np.minimum(np.maximum(first, middle), last))
        difference = x[block] - shift
        parts.append((len(difference), *map(np.float64, (shift, _sum_rows(difference), _sum_rows(difference**2)))))
    mean, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows, shift, sums, _ in parts:
        mean += sums + rows * shift
    mean /= len(x)
    for rows, shift, sums, of_squares in parts:
        own = sums / rows
        away = shift + own - mean
        squares += of_squares + rows * (away * away - own * own)
    return mean, np.maximum(squares / len(x), 0.0)


def batch_norm(x: np.ndarray,
               gamma: np.ndarray,
               beta: np.ndarray,
               epsilon: float,
               residual: np.ndarray | None = None,
               relu: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Batch norm by the batch's own statistics, then perhaps ``+ residual``, then perhaps ``max(y, 0)``.

    Args:
        x: float32 ``[rows, channels]``.
        gamma, beta: float32 ``[channels]``.
        epsilon: added to the variance.
        residual: float32, shaped like ``x``.
        relu: whether a ReLU follows.

    Returns:
        ``(y, mean, variance, inverse deviation)``, float32.
    """
    mean, variance = _statistics(x)
    inverse = (1.0 / np.sqrt(variance + np.float64(np.float32(epsilon)))).astype(np.float32)
    y = (x - mean.astype(np.float32)) * (gamma * inverse) + beta
    y = y if residual is None else y + residual
    y = np.where((y > 0) | np.isnan(y), y, np.float32(0.0)) if relu else y
    return y, mean.astype(np.float32), variance.astype(np.float32), inverse


def batch_norm_gradient(dy: np.ndarray,
                        x: np.ndarray,
                        gamma: np.ndarray,
                        beta: np.ndarray,
                        mean: np.ndarray,
                        inverse: np.ndarray,
                        y: np.ndarray | None = None,
                        relu: bool = False):
    """The gradients of ``batch_norm``.

    Args:
        dy: float32 ``[rows, channels]``.
        x, gamma, beta: as they went in.
        mean, inverse: as they came out.
        y: the output, where a residual was added in front of the ReLU.
        relu: as it was.

    Returns:
        ``(dx, dgamma, dbeta, masked)``: ``masked`` is ``dy`` where the ReLU passed, which a residual gets.
    """
    scale, centered = gamma * inverse, x - mean
    passed = (centered * scale + beta > 0 if y is None else y > 0) if relu else np.ones(x.shape, bool)
    masked = np.where(passed, dy, np.float32(0.0))
    sums, products = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in _blocks(len(x)):
        sums += _sum_rows(masked[block])
        products += _sum_rows(masked[block] * centered[block])
    of_normal = products * inverse
    mean_dy, mean_dyx = ((v / len(x)).astype(np.float32) for v in (sums, of_normal))
    dx = scale * (masked - mean_dy - centered * inverse * mean_dyx)
    return dx, of_normal.astype(np.float32), sums.astype(np.float32), masked


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The trained log-threshold quantizer.

    Its step is ``s = 2**(ceil(log2_threshold) - (bits - signed))``, kept where ``s`` and ``1 / s`` are normal float32.
    """

    log2_threshold: float
    bits: int
    signed: bool = True
    narrow: bool = False
    rounding: str = "half_even"

    def step(self) -> np.float32:
        """``s``."""
        exponent = int(np.clip(np.ceil(np.float32(self.log2_threshold)), -1024, 1024)) - (self.bits - self.signed)
        return np.ldexp(np.float32(1.0), min(max(exponent, -126), 126))

    def ends(self) -> tuple[np.float32, np.float32]:
        """The lowest and the highest code."""
        levels = 2.0**(self.bits - self.signed)
        return np.float32(-levels + self.narrow if self.signed else 0.0), np.float32(levels - 1)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """``clip(round(x / s), low, high) * s``; a NaN stays."""
        codes = np.clip(self._rounded(x)[1], *self.ends())
        with np.errstate(over="ignore"):  # of the largest steps and codes
            return codes * self.step()

    def _rounded(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``x / s``, which may leave float32, and the whole numbers next to it."""
        with np.errstate(over="ignore"):
            u = x * (np.float32(1.0) / self.step())
        return u, round_real(u, self.rounding).astype(np.float32)

    def gradient(self, dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.float32]:
        """``(dx, dlog2_threshold)``: ``dy`` where the code is inside, and ``s * ln 2 * sum(dy * term)``.

        The terms are float32; they are added in float64, in blocks of 4096, sixteen lanes side by side, then lane by
        lane, then block by block.
        """
        u, r = self._rounded(x)
        low, high = self.ends()
        inside = (r >= low) & (r <= high)
        with np.errstate(invalid="ignore"):  # the difference of infinities, which are not inside
            terms = (dy * np.where(inside, r - u, np.where(r < low, low, high))).ravel()
        blocks = np.pad(terms, (0, -terms.size % THRESHOLD_BLOCK)).reshape(-1, THRESHOLD_BLOCK)
        total = np.float64(0.0)
        if len(blocks):  # cumsum adds one by one, sum does not say how
            lanes = np.cumsum(blocks.reshape(len(blocks), -1, THRESHOLD_LANES), axis=1, dtype=np.float64)[:, -1]
            total = np.cumsum(np.cumsum(lanes, axis=1)[:, -1])[-1]
        with np.errstate(over="ignore"):  # an infinite threshold has an infinite gradient
            gradient = np.float32(total * np.float64(self.step()) * 0.69314718055994530942)
        return np.where(inside, dy, np.float32(0.0)), gradient
