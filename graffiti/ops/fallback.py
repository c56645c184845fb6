"""Pure TensorFlow twins of the native ops: the same integers, from ops that every TensorFlow has.

Codes are int8, uint8, int16, uint16 or int32 tensors, channels last. Products run in float64, which holds every int32
accumulator exactly; everything else in int32 or int64. Used where ``GRAFFITI_OPS=python`` or the library is absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from graffiti.numerics.rounding import check_rounding

Pads = tuple[tuple[int, int], ...]


# ---- rounding -------------------------------------------------------------------------------------------------------
def round_real(x: tf.Tensor, mode: str) -> tf.Tensor:
    """Round to integers that stay float; ``numerics.rounding.round_real`` in TensorFlow, in the dtype of ``x``."""
    check_rounding(mode)
    if mode == "half_even":
        return tf.round(x)
    if mode == "floor":
        return tf.floor(x)
    magnitude = tf.abs(x) if mode == "half_away" else x
    low = tf.floor(magnitude)
    rounded = low + tf.cast(magnitude - low >= 0.5, x.dtype)
    return tf.where(x < 0, -rounded, rounded) if mode == "half_away" else rounded


def shift_right(codes: tf.Tensor, shift, mode: str) -> tf.Tensor:
    """``round(codes / 2**shift)`` in int64, exactly; a negative shift multiplies. Broadcasts over the last axis.

    Args:
        codes: integers of magnitude up to ``2**62``.
        shift: an integer, or one for each index of the last axis.
        mode: of ``numerics.rounding.ROUNDING_MODES``.
    """
    check_rounding(mode)
    codes = tf.cast(codes, tf.int64)
    shift = tf.convert_to_tensor(shift, tf.int64)
    one, zero = tf.constant(1, tf.int64), tf.constant(0, tf.int64)
    right = tf.broadcast_to(tf.clip_by_value(shift, 0, 62), tf.shape(codes))
    left = tf.broadcast_to(tf.maximum(-shift, zero), tf.shape(codes))
    low = tf.bitwise.right_shift(codes, right)
    remainder = codes - tf.bitwise.left_shift(low, right)
    half = tf.bitwise.left_shift(one, tf.where(right > 0, right - 1, tf.constant(62, tf.int64)))
    if mode == "half_even":
        up = (remainder > half) | ((remainder == half) & (tf.bitwise.bitwise_and(low, one) == one))
    elif mode == "half_up":
        up = remainder >= half
    elif mode == "half_away":
        up = (remainder > half) | ((remainder == half) & (codes >= 0))
    else:
        up = tf.zeros_like(low, tf.bool)
    return tf.bitwise.left_shift(low + tf.cast(up, tf.int64), left)


def divide(codes: tf.Tensor, divisor, shift: int, mode: str) -> tf.Tensor:
    """``round(codes / (divisor * 2**shift))`` in int64, exactly; ``numerics.rounding.divide`` in TensorFlow.

    Args:
        codes: integers of magnitude up to ``2**31``.
        divisor: integers from 1 to ``2**29`` that broadcast against ``codes``.
        shift: a negative one multiplies the codes.
        mode: of ``numerics.rounding.ROUNDING_MODES``.
    """
    check_rounding(mode)
    left, right = min(max(-shift, 0), 61), min(max(shift, 0), 33)
    bound = tf.constant(1 << (62 - left), tf.int64)
    codes = tf.clip_by_value(tf.cast(codes, tf.int64), -bound, bound) * tf.constant(1 << left, tf.int64)
    divisor = tf.cast(divisor, tf.int64) * tf.constant(1 << right, tf.int64)
    low = codes // divisor
    rest = codes - low * divisor
    above, tie = rest > divisor - rest, tf.equal(rest, divisor - rest)
    if mode == "floor":
        return low
    up = {
        "half_even": lambda: tf.equal(low % 2, 1), "half_up": lambda: tf.ones_like(tie), "half_away": lambda: codes >= 0
    }[mode]()
    return low + tf.cast(above | (tie & up), tf.int64)


# ---- products: int32 accumulators -----------------------------------------------------------------------------------
def same_pads(size, window: int, stride: int, dilation: int) -> tuple:
    """Zeros before and after one axis for ``same``; ``size`` an integer or a scalar tensor.

    Args:
        size: input length.
        window: elements that one window reads.
        stride: elements between the starts of two windows.
        dilation: elements between two that a window reads.

    Returns:
        ``(before, after)``, of the kind that ``size`` is.
    """
    total = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size
    total = max(total, 0) if isinstance(size, int) else tf.maximum(total, 0)
    return total // 2, total - total // 2


def pads_of(
    x: tf.Tensor, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], padding
) -> list[tuple]:
    """Zeros around the spatial axes.

    Args:
        x: ``(batch, *spatial, channels)``; sizes may be known at run time only.
        window, strides, dilation: one integer per spatial axis.
        padding: ``same``, ``valid`` or the pairs themselves.

    Returns:
        ``(before, after)`` for each spatial axis.
    """
    if padding == "valid":
        return [(0, 0)] * len(window)
    if padding == "same":
        dynamic = tf.shape(x)
        sizes = [dynamic[1 + i] if n is None else n for i, n in enumerate(x.shape[1:-1])]
        return [same_pads(n, k, s, d) for n, k, s, d in zip(sizes, window, strides, dilation)]
    return [tuple(pair) for pair in padding]


def conv2d(x, kernel, *, strides=(1, 1), padding="valid", dilation=(1, 1)) -> tf.Tensor:
    """int32 accumulators of a convolution, summed in float64.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, in/groups, out)``; the channels say how many groups there are.
        strides, dilation: of height and width.
        padding: as of ``pads_of``.
    """
    pads = pads_of(x, kernel.shape[:2], strides, dilation, padding)
    x = tf.pad(tf.cast(x, tf.float64), [(0, 0), *pads, (0, 0)])
    kernel = tf.cast(kernel, tf.float64)
    return tf.cast(tf.nn.conv2d(x, kernel, list(strides), "VALID", dilations=list(dilation)), tf.int32)


def depthwise_conv2d(x, kernel, *, strides=(1, 1), padding="valid", dilation=(1, 1)) -> tf.Tensor:
    """int32 accumulators of a depthwise convolution; output channel ``c * multiplier + m``.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, in, multiplier)``.
        strides, padding, dilation: as of ``conv2d``.
    """
    height, width, channels, multiplier = kernel.shape
    pads = pads_of(x, (height, width), strides, dilation, padding)
    x = tf.pad(tf.cast(x, tf.int32), [(0, 0), *pads, (0, 0)])
    values = tf.get_static_value(kernel)
    if (
        values is not None and values.size and (values == values.flat[0]).all() and multiplier == 1
        and tuple(dilation) == (1, 1)
    ):
        # a pool by its published reciprocal
        return sum_pool(x, pool_size=(height, width), strides=strides) * int(values.flat[0])
    kernel = tf.cast(kernel, tf.int32)
    total = None
    for row, column, part in _taps(x, (height, width), strides, dilation):
        term = part[..., None] * kernel[row, column]
        total = term if total is None else total + term
    shape = tf.shape(total)
    total = tf.reshape(total, [shape[0], shape[1], shape[2], channels * multiplier])
    return total


def _taps(x: tf.Tensor, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]):
    """For each place in the window the strided slice of ``x`` that it meets."""
    sizes = [
        ((n if n is not None else tf.shape(x)[1 + i]) - (k - 1) * d - 1) // s + 1
        for i, (n, k, s, d) in enumerate(zip(x.shape[1:3], window, strides, dilation))
    ]
    for row in range(window[0]):
        for column in range(window[1]):
            top, left = row * dilation[0], column * dilation[1]
            bottom, right = top + (sizes[0] - 1) * strides[0] + 1, left + (sizes[1] - 1) * strides[1] + 1
            yield row, column, x[:, top:bottom : strides[0], left:right : strides[1], :]


def conv2d_transpose(x, kernel, *, strides=(1, 1), cut=((0, 0), (0, 0))) -> tf.Tensor:
    """int32 accumulators of a transposed convolution.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, out, in)``.
        strides: of the output's height and width.
        cut: as of ``spread_for_transpose``.
    """
    return conv2d(*spread_for_transpose(x, kernel, strides=strides, cut=cut))


def spread_for_transpose(x, kernel, *, strides, cut) -> tuple[tf.Tensor, tf.Tensor]:
    """The operands of a plain ``valid`` convolution that equals a transposed one.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, out, in)``.
        strides: of the output; ``stride - 1`` zeros go between the elements.
        cut: rows and columns taken off the front and back of the full result, whose length is
            ``(size - 1) * stride + window``; negative appends zeros (``numerics.windows.transpose_pads``).

    Returns:
        ``x`` spread and padded, and the kernel turned round as ``(*window, in, out)``.
    """
    batch, height, width, channels = [n if n is not None else tf.shape(x)[i] for i, n in enumerate(x.shape)]
    x = tf.pad(x[:, :, None, :, None, :], [(0, 0), (0, 0), (0, strides[0] - 1), (0, 0), (0, strides[1] - 1), (0, 0)])
    x = tf.reshape(x, [batch, height * strides[0], width * strides[1], channels])
    around = []  # cutting c rows pads a plain convolution by window - 1 - c in front, where negative means cropping
    for window, stride, (front, back) in zip(kernel.shape, strides, cut):
        around.append((window - 1 - front, window - 1 - back - (stride - 1)))
    x = tf.pad(x, [(0, 0), *((max(a, 0), max(b, 0)) for a, b in around), (0, 0)])
    rows, columns = (slice(max(-a, 0), -max(-b, 0) or None) for a, b in around)
    x = x[:, rows, columns]
    return x, tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])


def dense(x, kernel) -> tf.Tensor:
    """``x @ kernel`` over the last axis of ``x`` (any rank), int32."""
    return tf.cast(tf.tensordot(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64), 1), tf.int32)


def bias_add(x, bias) -> tf.Tensor:
    """int32 accumulators plus a bias over the last axis."""
    return tf.cast(x, tf.int32) + tf.cast(bias, tf.int32)


# ---- elementwise ----------------------------------------------------------------------------------------------------
# op of two operands -> TensorFlow's function, whether it selects one of them
ELEMENTWISE: dict[str, tuple[Callable, bool]] = {
    "add": (tf.add, False), "subtract": (tf.subtract, False), "multiply": (tf.multiply, False),
    "maximum": (tf.maximum, True), "minimum": (tf.minimum, True),
}


def elementwise(op: str, x, y) -> tf.Tensor:
    """An op of ``ELEMENTWISE`` on codes: int32, or where it selects the dtype of ``x``.

    Args:
        op: its name in ``graph/ops.py``.
        x, y: codes that broadcast.
    """
    function, selects = ELEMENTWISE[op]
    result = function(tf.cast(x, tf.int32), tf.cast(y, tf.int32))
    return tf.cast(result, x.dtype) if selects else result


def max_pool(x, *, pool_size, strides, padding="valid") -> tf.Tensor:
    """Largest code of each window; padding never wins.

    Args:
        x: codes ``(batch, height, width, channels)``, whose dtype the output keeps.
        pool_size, strides: of height and width.
        padding: as of ``pads_of``.
    """
    pads = pads_of(x, pool_size, strides, (1, 1), padding)
    codes = tf.pad(tf.cast(x, tf.int32), [(0, 0), *pads, (0, 0)], constant_values=tf.int32.min)
    best = None
    for _, _, part in _taps(codes, pool_size, strides, (1, 1)):
        best = part if best is None else tf.maximum(best, part)
    return tf.cast(best, x.dtype)


def sum_pool(x: tf.Tensor, *, pool_size, strides, padding="valid") -> tf.Tensor:
    """Sum over each window of ``(batch, *spatial, channels)``, zeros outside, in the dtype of ``x``.

    One axis after another. A window as long as its axis is a reduction; others are put together from runs of 1, 2, 4
    ... neighbours, so that a window of ``k`` takes about ``2 log2(k)`` additions. Every intermediate is the sum of a
    part of a window: exact in floats wherever the sums of whole windows' magnitudes are.

    Args:
        x: integers or floats.
        pool_size, strides: one integer per spatial axis.
        padding: as of ``pads_of``.
    """
    pads = pads_of(x, pool_size, strides, (1,) * len(pool_size), padding)
    for axis, (window, stride, around) in enumerate(zip(pool_size, strides, pads), 1):
        if window == 1 and stride == 1:
            continue
        if x.shape[axis] == window and tuple(around) == (0, 0):
            x = tf.reduce_sum(x, axis, keepdims=True)
            continue
        x = tf.pad(x, [around if a == axis else (0, 0) for a in range(x.shape.rank)])
        x = _along(_runs(x, window, axis), axis, slice(None, None, stride))
    return x


def _runs(x: tf.Tensor, length: int, axis: int) -> tf.Tensor:
    """Sums of ``length`` neighbours along an axis, at every place where there are that many."""
    total, begin, size = None, 0, 1  # x holds sums of `size` neighbours
    while True:
        if length & size:
            behind = length - size - begin
            part = _along(x, axis, slice(begin, -behind or None))
            total = part if total is None else total + part
            begin += size
        if begin == length:
            return total
        x = _along(x, axis, slice(None, -size)) + _along(x, axis, slice(size, None))
        size *= 2


def _along(x: tf.Tensor, axis: int, part: slice) -> tf.Tensor:
    return x[(slice(None),) * axis + (part,)]


def average_pool(
    x, *, pool_size, strides, padding="valid", divide_by_count: bool = True, shift: int, low: int, high: int, dtype,
    rounding: str = "half_even",
) -> tf.Tensor:
    """The exact mean of each window's part inside the image,
    ``saturate(round(sum / (elements * 2**shift)), low, high)``.

    Args:
        x: codes ``(batch, height, width, channels)``.
        pool_size, strides: of height and width.
        padding: as of ``pads_of``.
        divide_by_count: false for the sum itself (``elements`` is 1).
        shift: ``e_to - e_from``.
        low, high: codes to saturate to.
        dtype: of the output.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.
    """
    window = {"pool_size": pool_size, "strides": strides, "padding": padding}
    count = tf.constant(1, tf.int32)
    if divide_by_count:
        inside = tf.ones(tf.concat([[1], tf.shape(x)[1:-1], [1]], 0), tf.int32)
        count = sum_pool(tf.ensure_shape(inside, [1, *x.shape[1:-1], 1]), **window)
    quotient = divide(sum_pool(tf.cast(x, tf.int32), **window), count, shift, rounding)
    return tf.cast(tf.clip_by_value(quotient, low, high), dtype)


def lookup(x, table, *, low: int) -> tf.Tensor:
    """``table[code - low]``, in the table's dtype.

    Args:
        x: codes, any shape.
        table: one output code for each input code, ascending.
        low: the input code that ``table[0]`` belongs to.
    """
    return tf.gather(table, tf.cast(x, tf.int32) - low)


def concat(values: Sequence, *, axis: int = -1) -> tf.Tensor:
    """Codes with one format joined along an axis."""
    return tf.concat(list(values), axis)


# ---- formats --------------------------------------------------------------------------------------------------------
def requantize(x, *, shift, low: int, high: int, dtype, rounding: str = "half_even") -> tf.Tensor:
    """``saturate(round(x / 2**shift), low, high)``.

    A shift to the left by 32 takes every code but 0 out of 32 bits: more saturates alike and would leave int64.

    Args:
        x: codes, up to int32.
        shift: an integer, or one for each index of the last axis.
        low, high: codes to saturate to.
        dtype: of the output.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.
    """
    return tf.cast(tf.clip_by_value(shift_right(x, np.maximum(shift, -32), rounding), low, high), dtype)


def quantize(x, *, exponent: int, low: int, high: int, dtype, rounding: str = "half_even") -> tf.Tensor:
    """``saturate(round(x / 2**exponent), low, high)`` of floats; an error where ``x`` holds NaN.

    In float64, where the quotient of a float32 and a power of two is exact.

    Args:
        x: floats, any shape; infinities saturate.
        exponent: of one step.
        low, high: codes to saturate to, within 32 bits.
        dtype: of the output.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.

    Raises:
        tf.errors.InvalidArgumentError: where ``x`` holds NaN.
    """
    x = tf.cast(x, tf.float64)
    check = tf.debugging.Assert(tf.reduce_all(tf.equal(x, x)), ["quantize expects numbers, its input holds NaN"])
    with tf.control_dependencies([] if check is None else [check]):
        codes = round_real(x * math.ldexp(1.0, -exponent), rounding)
    # The cast of a float64 at the border of int32 is exact, infinities are saturated before it.
    return tf.cast(tf.cast(tf.clip_by_value(codes, float(low), float(high)), tf.int64), dtype)


def dequantize(x, *, exponent) -> tf.Tensor:
    """``codes * 2**exponent`` as float32: the code rounded to 24 bits half to even, then scaled exactly."""
    return tf.cast(x, tf.float32) * tf.constant(
        [math.ldexp(1.0, e) for e in exponent] if isinstance(exponent, (tuple, list)) else math.ldexp(1.0, exponent),
        tf.float32,
    )


# ---- the trained log-threshold quantizer ----------------------------------------------------------------------------
def step_of(log2_threshold: tf.Tensor, bits: int, signed: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """The step and its inverse, exact powers of two by bit manipulation; the exponent is kept in -126…126.

    Args:
        log2_threshold: float32, any shape.
        bits: of the code.
        signed: whether the code has a sign bit, which takes one of the bits.
    """
    exponent = tf.cast(tf.clip_by_value(tf.math.ceil(log2_threshold), -1024.0, 1024.0), tf.int32) - (bits - int(signed))
    exponent = tf.clip_by_value(exponent, -126, 126)
    return tuple(tf.bitcast(tf.bitwise.left_shift(e + 127, 23), tf.float32) for e in (exponent, -exponent))


def codes_range(bits: int, signed: bool, narrow: bool) -> tuple[float, float]:
    """Lowest and highest code, as floats.

    Args:
        bits: of the code, the sign included.
        signed: two's complement; else the lowest code is 0.
        narrow: whether a signed range lacks its lowest code.
    """
    levels = 2.0 ** (bits - int(signed))
    return (-levels + float(narrow) if signed else 0.0), levels - 1.0


def fake_quantize(
    x, log2_threshold, *, bits: int, signed: bool, narrow: bool = False, rounding: str = "half_even"
) -> tf.Tensor:
    """``clip(round(x/s), low, high) * s`` with the published gradients; see ``fake_quantization.fake_quantize``.

    Args:
        x: float32, any shape.
        log2_threshold: float32 scalar.
        bits, signed, narrow: as of ``codes_range``.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.
    """

    @tf.custom_gradient
    def quantize_both_ways(x, log2_threshold):
        step, inverse = step_of(log2_threshold, bits, signed)
        low, high = codes_range(bits, signed, narrow)
        y = tf.clip_by_value(round_real(x * inverse, rounding), low, high) * step

        def gradient(upstream):
            return fake_quantize_gradient(
                upstream, x, log2_threshold, bits=bits, signed=signed, narrow=narrow, rounding=rounding)

        return y, gradient

    return quantize_both_ways(tf.convert_to_tensor(x), tf.convert_to_tensor(log2_threshold))


def fake_quantize_gradient(
    upstream, x, log2_threshold, *, bits: int, signed: bool, narrow: bool = False, rounding: str = "half_even",
) -> tuple[tf.Tensor, tf.Tensor]:
    """``(dL/dx, dL/dlog2_threshold)``, both of the published backward pass.

    Args:
        upstream: ``dL/dy``, of the shape of ``x``.
        x, log2_threshold, bits, signed, narrow, rounding: as of ``fake_quantize``.

    References: Jain et al., arXiv 1903.08066, section 3.
    """
    step, inverse = step_of(log2_threshold, bits, signed)
    low, high = codes_range(bits, signed, narrow)
    u = x * inverse
    r = round_real(u, rounding)
    inside = (r >= low) & (r <= high)
    term = tf.where(inside, r - u, tf.where(r < low, low, high))
    total = tf.reduce_sum(upstream * term)
    return tf.where(inside, upstream, 0.0), total * step * math.log(2.0)
