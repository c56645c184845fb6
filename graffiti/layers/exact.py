"""Float arithmetic that is exact on codes: powers of two, rounding at a scale, round to odd.

Everything here is plain TensorFlow. Codes are held as ``code * 2**exponent`` in float32; the functions keep that exact
where float32 can, and return the round-to-odd value where it cannot (ARCHITECTURE, "Exactness").
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.quantizers import base

EXACT = 2.0**24  # float32 holds every integer up to here
_DROPPED = 29    # fraction bits that float64 has and float32 has not


def power_of_two(exponent: tf.Tensor) -> tf.Tensor:
    """``2**exponent`` as float32, from its bits: exact, where ``pow`` is not.

    Args:
        exponent: integer-valued float32, any shape; clamped to the normal range -126 ... 127.
    """
    return base.power_of_two(tf.cast(tf.clip_by_value(exponent, -126.0, 127.0), tf.int32))


@tf.custom_gradient
def round_at(x: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """``round(x / 2**exponent) * 2**exponent``, half to even; the gradient passes straight through to ``x``.

    No saturation: the lowering proof refuses a bias that leaves 32 bits.
    """
    step, inverse = power_of_two(exponent), power_of_two(-exponent)

    def gradient(upstream):
        return upstream, None

    return tf.round(x * inverse) * step, gradient


@tf.custom_gradient
def one_zero(x: tf.Tensor) -> tf.Tensor:
    """``x`` with 0 in the place of -0, which no code has: what a layer left in float gets is the integer graph's bit
    for bit. The gradient passes through.
    """
    return tf.where(x == 0.0, tf.zeros_like(x), x), lambda upstream: upstream


@tf.custom_gradient
def round_to_odd(x: tf.Tensor) -> tf.Tensor:
    """float64 → float32 by truncation, with the last bit set where anything was cut.

    Rounding the result to at most 22 bits gives what rounding ``x`` itself would have given, in every rounding mode:
    the last bit remembers that something was cut, so a tie stays a tie and a near-tie stays on its side. The gradient
    is that of a cast.

    Args:
        x: float64 within the normal range of float32.

    References: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 2008.
    """
    bits = tf.bitcast(x, tf.int64)
    dropped = tf.bitwise.bitwise_and(bits, tf.constant((1 << _DROPPED) - 1, tf.int64))
    kept = bits - dropped
    odd = tf.bitwise.bitwise_or(kept, tf.constant(1 << _DROPPED, tf.int64))
    kept = tf.where(dropped > 0, odd, kept)

    def gradient(upstream):
        return tf.cast(upstream, tf.float64)

    return tf.cast(tf.bitcast(kept, tf.float64), tf.float32), gradient


def quotient_to_odd(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """``total / count`` as float32 by round to odd, exactly, however the division is compiled.

    Graph optimizers replace divisions by products with a rounded reciprocal, so the quotient itself is only trusted to
    be a neighbour of the true one. Which it is, or whether it is met exactly, says the rest ``total - near * count``:
    both products and the difference are exact in float64.

    Args:
        total: float64, whole multiples of a power of two with at most 53 bits.
        count: float64 whole numbers from 1 to ``2**29``; it broadcasts.
    """
    near = tf.cast(total / count, tf.float32)
    rest = total - tf.cast(near, tf.float64) * count
    bits = tf.bitcast(near, tf.int32)
    # in magnitude: the next float towards zero then has the true quotient above it
    too_large = rest * tf.cast(tf.sign(near), tf.float64) < 0
    truncated = bits - tf.cast(too_large, tf.int32)
    odd = tf.bitwise.bitwise_or(truncated, tf.ones_like(truncated))
    return tf.bitcast(tf.where(tf.equal(rest, 0), bits, odd), tf.float32)


def fits_float32(
    kernel_sum: tf.Tensor, bias: tf.Tensor | None, largest: float, exponent: tf.Tensor, kernel_exponent: tf.Tensor
) -> tf.Tensor:
    """Whether every partial sum of every output channel is an integer below ``2**24`` steps, hence exact in float32.

    ``max_c(sum|w_c| * largest * 2**exponent + |b_c|) < 2**24 * 2**(exponent + kernel_exponent)``. Each operation rounds
    monotonically and ``2**24`` is representable, so a sum that reaches the limit is never taken for a smaller one.

    Args:
        kernel_sum: ``sum|w|`` per output channel, real units.
        bias: quantized bias per output channel, real units, or ``None``.
        largest: largest magnitude of an input code.
        exponent: of the input, scalar.
        kernel_exponent: of the kernel, scalar or per output channel.
    """
    bound = kernel_sum * power_of_two(-kernel_exponent) * largest
    if bias is not None:
        bound += tf.abs(bias) * power_of_two(-(exponent + kernel_exponent))
    return tf.reduce_max(bound) < EXACT
