"""The normative integer ops, in plain numpy: what every kernel, exporter and executor must equal with ``==``.

Slow and simple is right here. Arrays hold codes of any integer dtype. Ops that compute return int64; ops that only move
codes keep the dtype. What each op means on real numbers is in ``numerics/README.md``. No graph, no Keras, no
TensorFlow.

Products may be summed by the float unit: ``exact_dtype`` picks float32 or float64 only where every partial sum is an
integer that the dtype holds (below 2**24 or 2**53), so that any order of summation gives the same, exact integer; else
int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graffiti.numerics import products
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import divide as divide_exactly
from graffiti.numerics.rounding import round_real, shift_right
from graffiti.numerics.windows import pool_counts

# ---- products: codes times codes, exact ------------------------------------------------------------------------------


def exact_dtype(x: np.ndarray, kernel: np.ndarray, output_axes: Sequence[int]) -> np.dtype:
    """A dtype that sums ``x * kernel`` exactly in any order: ``max|x| * max_o(sum|kernel_o|)`` must fit its integers.

    Args:
        x: input codes.
        kernel: kernel codes.
        output_axes: the kernel's axes that are not summed over.

    Returns:
        float32 below 2**24, float64 below 2**53, else int64 (the caller stays below 2**63).
    """
    magnitude = np.abs(kernel.astype(np.float64))
    summed = magnitude.sum(tuple(a for a in range(kernel.ndim) if a - kernel.ndim not in output_axes))
    largest = max(abs(int(x.max(initial=0))), abs(int(x.min(initial=0))))
    bound = largest * float(summed.max(initial=0.0)) * (1 + 1e-9)
    return np.dtype(np.float32 if bound < 2**24 else np.float64 if bound < 2**53 else np.int64)


def _codes(value, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} takes integer codes, got dtype {array.dtype}; quantize first")
    return array


def _product(compute, name: str, x, kernel, output_axes, *arguments) -> np.ndarray:
    x, kernel = _codes(x, name), _codes(kernel, name)
    dtype = exact_dtype(x, kernel, output_axes)
    return compute(x.astype(dtype), kernel.astype(dtype), *arguments).astype(np.int64)


def conv(x, kernel, strides, padding="valid", dilation=None, groups=1) -> np.ndarray:
    """Convolution, 1-D or 2-D: accumulator codes at ``e_x + e_kernel``, see ``products.conv`` for the formula and
    shapes.

    Args:
        x: codes ``(batch, *spatial, in)``.
        kernel: codes ``(*window, in/groups, out)``.
        strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.
        dilation: one integer per spatial axis; ``None`` for 1.
        groups: equal blocks of output channels, each of which reads its own block of input channels.

    Returns:
        int64 ``(batch, *output, out)``.

    Raises:
        TypeError: for operands that are not integers.
        ValueError: where the kernel's channels are not those of ``x``.
    """
    return _product(products.conv, "conv", x, kernel, (-1,), strides, padding, dilation, groups)


def depthwise_conv(x, kernel, strides, padding="valid", dilation=None) -> np.ndarray:
    """Depthwise convolution, kernel ``(*window, in, multiplier)``: accumulator codes at ``e_x + e_kernel``.

    Args:
        x: codes ``(batch, *spatial, in)``.
        kernel: codes; ``multiplier`` filters for each input channel.
        strides, padding, dilation: as in ``conv``.

    Returns:
        int64 ``(batch, *output, in * multiplier)``; channel ``c*multiplier + m`` reads input channel ``c``.

    Raises:
        TypeError: for operands that are not integers.
        ValueError: where the kernel's channels are not those of ``x``.
    """
    return _product(products.depthwise_conv, "depthwise_conv", x, kernel, (-2, -1), strides, padding, dilation)


def conv_transpose(x, kernel, strides, padding="valid", output_padding=None) -> np.ndarray:
    """Transposed convolution, kernel ``(*window, out, in)``: accumulator codes at ``e_x + e_kernel``.

    Args:
        x: codes ``(batch, *spatial, in)``.
        kernel: codes; the output channels come before the input channels.
        strides: one integer per spatial axis.
        padding: ``same`` or ``valid``; what is cut is in ``windows.transpose_pads``.
        output_padding: one integer per spatial axis; ``None`` for Keras' default length.

    Returns:
        int64 ``(batch, *output, out)``.

    Raises:
        TypeError: for operands that are not integers.
        ValueError: where the kernel's channels are not those of ``x``.
    """
    return _product(products.conv_transpose, "conv_transpose", x, kernel, (-2,), strides, padding, output_padding)


def dense(x, kernel) -> np.ndarray:
    """``x @ kernel`` over the last axis of ``x`` (any rank): accumulator codes at ``e_x + e_kernel``."""
    return _product(products.dense, "dense", x, kernel, (-1,))


# ---- elementwise -----------------------------------------------------------------------------------------------------
def bias_add(x, bias) -> np.ndarray:
    """``x + bias`` over the last axis; both at one exponent (per channel: at one exponent channel by channel)."""
    return _codes(x, "bias_add").astype(np.int64) + _codes(bias, "bias_add")


def add(x, y) -> np.ndarray:
    """``x + y``, both at one exponent; the sum stays there."""
    return _codes(x, "add").astype(np.int64) + _codes(y, "add")


def subtract(x, y) -> np.ndarray:
    """``x - y``, both at one exponent; the difference stays there."""
    return _codes(x, "subtract").astype(np.int64) - _codes(y, "subtract")


def multiply(x, y) -> np.ndarray:
    """``x * y``; the product is at ``e_x + e_y``."""
    return _codes(x, "multiply").astype(np.int64) * _codes(y, "multiply")


def maximum(x, y) -> np.ndarray:
    """The larger code; both in one format."""
    return np.maximum(_codes(x, "maximum").astype(np.int64), _codes(y, "maximum"))


def minimum(x, y) -> np.ndarray:
    """The smaller code; both in one format."""
    return np.minimum(_codes(x, "minimum").astype(np.int64), _codes(y, "minimum"))


def relu(x, max_code: int | None = None) -> np.ndarray:
    """``min(max(x, 0), max_code)``; ``max_code`` is the code of ReLU6's six, ``None`` for no upper limit."""
    return np.clip(_codes(x, "relu").astype(np.int64), 0, max_code)


def lookup(x, table, qmin: int) -> np.ndarray:
    """``table[x - qmin]``: the output code stored for each input code.

    Args:
        x: codes, any shape.
        table: one output code for each input code, ascending (``numerics.table.build``).
        qmin: the input code that ``table[0]`` belongs to.

    Returns:
        int64 codes, the shape of ``x``.

    Raises:
        ValueError: where a code lies outside the table.
    """
    index = _codes(x, "lookup").astype(np.int64) - qmin
    if index.size and not 0 <= index.min() <= index.max() < len(table):
        raise ValueError(
            f"a table for the codes {qmin} to {qmin + len(table) - 1} was asked for {index.min() + qmin} to "
            f"{index.max() + qmin}; "
            "requantize to the table's input format first"
        )
    return np.asarray(table).astype(np.int64)[index]


# ---- averages: a sum, one division, one rounding ---------------------------------------------------------------------
def average_pool(
    x, pool_size, strides, padding, from_format: QFormat, to_format: QFormat, rounding: str = "half_even",
    low: int | None = None, high: int | None = None, divide: bool = True,
) -> np.ndarray:
    """``clip(round(sum * 2**(e_from - e_to) / count), low, high)``: the exact mean of each window, rounded once.

    Args:
        x: codes ``(batch, *spatial, channels)``.
        pool_size, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``; ``count`` is the number of elements inside the image.
        from_format: where the codes come from.
        to_format: where they go.
        rounding: a mode of ``rounding.ROUNDING_MODES``; ties of the true quotient follow it.
        low, high: as in ``requantize``.
        divide: false for the sum itself (``count`` is 1).

    Returns:
        int64 codes within ``[low, high]``. The sum stays within 32 bits: lowering proves it.
    """
    low, high = to_format.limits(low, high)
    if low > high:
        raise ValueError(f"average_pool to {to_format} saturates to [{low}, {high}], which holds no code; expected "
                         "low <= high")
    x = _codes(x, "average_pool").astype(np.int64)
    count = pool_counts(x.shape[1:-1], pool_size, strides, padding) if divide else 1
    total = products.sum_pool(x, pool_size, strides, padding)
    return np.clip(
        divide_exactly(total, count, int(to_format.exponents[0] - from_format.exponents[0]), rounding), low, high
    )


# ---- pools and moves: output codes are input codes -------------------------------------------------------------------
def max_pool(x, pool_size, strides, padding="valid") -> np.ndarray:
    """Maximum over a window, ``(batch, *spatial, channels)``; padding never wins.

    Args:
        x: codes of one format, which the output keeps.
        pool_size, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.
    """
    return products.max_pool(np.asarray(x), pool_size, strides, padding)


def global_max_pool(x, axes, keepdims=False) -> np.ndarray:
    """Maximum over ``axes`` (which have at least one element).

    Args:
        x: codes of one format, which the output keeps.
        axes: counted with the batch axis, as of a numpy reduction.
        keepdims: whether the axes stay with size 1.
    """
    return np.asarray(x).max(tuple(axes), keepdims=keepdims)


def concat(arrays, axis=-1) -> np.ndarray:
    """Joined along ``axis``; all in one format."""
    return np.concatenate([np.asarray(a) for a in arrays], axis)


def pad(x, pads) -> np.ndarray:
    """Zeros (code 0 is real 0) around every axis but the batch: ``((before, after), ...)``."""
    return np.pad(np.asarray(x), [(0, 0), *pads])


def crop(x, crops) -> np.ndarray:
    """Cut from both ends of every axis but the batch: ``((before, after), ...)``."""
    x = np.asarray(x)
    kept = (slice(None),) + tuple(slice(a, n - b) for n, (a, b) in zip(x.shape[1:], crops))
    return x[kept]


def slice_axes(x, slices) -> np.ndarray:
    """``x[:, start:stop:step, ...]``: one ``(start, stop, step)`` for every axis but the batch, ``stop`` ``None``:
    to the end.
    """
    return np.asarray(x)[tuple([slice(None)] + [slice(start, stop, step) for start, stop, step in slices])]


def take(x, axis, indices) -> np.ndarray:
    """The indices listed, in their order, along one axis: a flip, a repetition, a tiling, a rotation are such lists.

    Args:
        x: codes of one format, which the output keeps.
        axis: counted with the batch axis.
        indices: may name an index several times or not at all; negative ones count from the end.
    """
    return np.take(np.asarray(x), np.asarray(indices, np.int64), axis)


def reshape(x, shape) -> np.ndarray:
    """``shape`` without the batch axis, row-major; one size may be ``None``."""
    x = np.asarray(x)
    known = math.prod(n for n in shape if n is not None)
    each = math.prod(x.shape[1:])
    return x.reshape(x.shape[0], *(each // max(known, 1) if n is None else n for n in shape))


def permute(x, dims) -> np.ndarray:
    """Axes 1 … in a new order, counted from 1; the batch axis stays."""
    return np.transpose(np.asarray(x), (0, *dims))


def upsample(x, size) -> np.ndarray:
    """Nearest: every element repeated ``size`` times along each spatial axis."""
    x = np.asarray(x)
    for axis, factor in enumerate(size, 1):
        x = np.repeat(x, factor, axis)
    return x


# ---- between reals and codes, and between formats --------------------------------------------------------------------
def rescaling(x, scale, offset) -> np.ndarray:
    """``x * scale + offset`` in float32: the product is rounded, then the sum; never one fused multiply-add.

    Args:
        x: reals, ``(batch, ...)``; rounded to float32 first.
        scale: float32, broadcasts against ``x``.
        offset: the same.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # infinity saturates later, NaN is refused there
        product = np.asarray(x, np.float32) * np.asarray(scale, np.float32)
        return product + np.asarray(offset, np.float32)


def quantize(x, format: QFormat, rounding: str = "half_even", *, name: str = "the input", exponent=None) -> np.ndarray:
    """``clip(round(x / 2**exponent), qmin, qmax)``: reals to codes, infinities saturate.

    Args:
        x: reals, any shape.
        format: the codes' format; with several exponents they belong to the last axis.
        rounding: a mode of ``rounding.ROUNDING_MODES``.
        name: what ``x`` is called in an error.
        exponent: integers that broadcast against ``x``, instead of the format's own.

    Returns:
        Codes in ``format.dtype``.

    Raises:
        ValueError: where ``x`` holds NaN.
    """
    x = np.asarray(x, np.float64)
    if np.isnan(x).any():
        raise ValueError(
            f"{name} holds {np.count_nonzero(np.isnan(x))} NaN of {x.size} values; NaN has no code, clean the "
            "data first"
        )
    with np.errstate(over="ignore"):  # a real beyond float64's range at this scale saturates like any other
        steps = np.ldexp(x, -np.asarray(format.exponent if exponent is None else exponent, np.int64))
    return np.clip(round_real(steps, rounding), format.qmin, format.qmax).astype(format.dtype)


def dequantize(codes, format: QFormat, *, exponent=None) -> np.ndarray:
    """``codes * 2**exponent`` as float32; codes beyond 2**24 round to the nearest float32, ties to even.

    Args:
        codes: up to 32 bits, any shape.
        format: what the codes mean; with several exponents they belong to the last axis.
        exponent: integers that broadcast against ``codes``, instead of the format's own.

    Raises:
        TypeError: for codes that are not integers.
    """
    codes = _codes(codes, "dequantize").astype(np.float64)
    return np.ldexp(codes, np.asarray(format.exponent if exponent is None else exponent, np.int64)).astype(np.float32)


def requantize(
    codes, from_format: QFormat, to_format: QFormat, rounding="half_even", low: int | None = None,
    high: int | None = None
) -> np.ndarray:
    """``clip(round(codes * 2**(e_from - e_to)), low, high)``: one rounding shift, one saturation.

    Args:
        codes: up to 32 bits; with several exponents in either format they belong to the last axis.
        from_format: where the codes come from.
        to_format: where they go.
        rounding: a mode of ``rounding.ROUNDING_MODES``.
        low: lowest output code (a fused ReLU has 0); the format's own by default.
        high: highest output code (a fused ReLU6 has that of six); the format's own by default.

    Returns:
        int64 codes within ``[low, high]``, which lies within the format's range.
    """
    low, high = to_format.limits(low, high)
    if low > high:
        raise ValueError(
            f"requantize to {to_format} saturates to [{low}, {high}], which holds no code; expected low <= high"
        )
    shift = np.asarray(to_format.exponent, np.int64) - np.asarray(from_format.exponent, np.int64)
    # a left shift by 32 takes every nonzero code out of 32 bits already: more saturates alike and would leave int64
    return np.clip(shift_right(_codes(codes, "requantize"), np.maximum(shift, -32), rounding), low, high)


def softmax(x, axis: int = -1) -> np.ndarray:
    """``exp(x - max) / sum(exp(x - max))`` over ``axis``, in float64, rounded to float32: the border, not integer."""
    x = np.asarray(x, np.float64)
    powers = np.exp(x - x.max(axis, keepdims=True))
    return (powers / powers.sum(axis, keepdims=True)).astype(np.float32)


def reciprocal(count: int, bits: int = 8) -> tuple[int, QFormat]:
    """The quantized ``1/count`` of an average pool: unsigned, threshold ``1/count`` (MAX), half to even.

    ``s = 2**(ceil(log2(1/count)) - bits)``, ``code = min(round(1/count/s), 2**bits - 1)``. A power of two saturates
    (its threshold is itself), so 2x2 gives 255 * 2**-10, a gain of 0.996.

    Args:
        count: elements of the pool's window, at least 1.
        bits: of the unsigned code.

    Returns:
        ``(code, format)``.

    References: Jain et al., arXiv 1903.08066, section 3; C9 of its specification.
    """
    if count < 1:
        raise ValueError(f"an average pool has at least one element, got {count}")
    exponent = -(int(count).bit_length() - 1) - bits
    quotient, rest = divmod(1 << -exponent, int(count))
    code = quotient + (2 * rest > count or (2 * rest == count and quotient % 2 == 1))
    return min(code, (1 << bits) - 1), QFormat(bits, False, exponent)
