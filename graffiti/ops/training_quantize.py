"""Quantization of float tensors for low-bit training, with the tensor's extremes from the same pass; native or pure
TensorFlow, to the same bits.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.ops import loader, noise

ROUNDINGS = ("half_even", "stochastic")


def code_type(low: int, high: int) -> tf.DType:
    """The narrowest of int8, uint8, int16 that holds ``low … high``.

    Raises:
        ValueError: where none does.
    """
    if low >= -128 and high <= 127:
        return tf.int8
    if low >= 0 and high <= 255:
        return tf.uint8
    if low >= -(1 << 15) and high < 1 << 15:
        return tf.int16
    raise ValueError(f"codes of low-bit training fit int8, uint8 or int16, got the range {low}…{high}")


def quantize(
    x: tf.Tensor, inverse_step: tf.Tensor, *, low: int, high: int, rounding: str = "half_even",
    seed: tf.Tensor | None = None, engine: str = "auto"
):
    """``clip(r(x * inverse_step), low, high)`` and ``(min(x), max(x))``.

    ``r`` is half to even, or ``floor(v + u)`` with ``u`` from the counter-based generator (``numerics/noise.py``),
    index = flat position. Product and sum are each rounded to float32.

    Args:
        x: float32, any shape.
        inverse_step: float32 scalar.
        low, high: range of the codes.
        rounding: ``half_even`` or ``stochastic``.
        seed: two uint32, for ``stochastic``.
        engine: ``auto``, ``native`` or ``python``.

    Returns:
        ``(codes, extremes)``: codes in ``code_type(low, high)``, unspecified where ``x`` holds a NaN or Inf; extremes
        float32 ``[2]``, both NaN in that case, zeros for an empty tensor.

    Raises:
        ValueError: where the range or the rounding is none of these, or ``stochastic`` comes without a seed.
    """
    dtype = code_type(low, high)
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding is one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if rounding == "stochastic" and seed is None:
        raise ValueError("stochastic rounding takes a seed of two uint32, got none")
    if loader.engine_of(engine) == "native":
        seed = tf.constant((0, 0), tf.uint32) if seed is None else tf.cast(seed, tf.uint32)
        return loader.load().graffiti_training_quantize(
            x, inverse_step, seed, low=low, high=high, stochastic=rounding == "stochastic", codes_type=dtype
        )
    v = x * inverse_step
    v = tf.round(v) if rounding == "half_even" else tf.floor(v + noise.uniform(tf.shape(x), seed))
    return tf.cast(tf.clip_by_value(v, float(low), float(high)), dtype), extremes(x, engine="python")


def extremes(x: tf.Tensor, *, engine: str = "auto") -> tf.Tensor:
    """``(min(x), max(x))`` as float32 ``[2]``; both NaN where ``x`` holds a NaN or Inf, zeros for an empty tensor."""
    if loader.engine_of(engine) == "native":
        return loader.load().graffiti_extremes(x)
    ends = tf.stack([tf.reduce_min(x), tf.reduce_max(x)])
    ends = tf.where(tf.equal(tf.size(x), 0), tf.zeros(2), ends)
    return tf.where(tf.reduce_all(tf.math.is_finite(x)), ends, tf.fill([2], float("nan")))


def count_above(x: tf.Tensor, bound: tf.Tensor, *, engine: str = "auto") -> tf.Tensor:
    """How many ``|x| > bound``, int64; NaN is not counted.

    Args:
        x: float32, any shape.
        bound: float32 scalar.
        engine: ``auto``, ``native`` or ``python``.
    """
    if loader.engine_of(engine) == "native":
        return loader.load().graffiti_count_above(x, bound)
    return tf.math.count_nonzero(tf.abs(x) > bound)
