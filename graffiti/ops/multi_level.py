"""Native passes of multi-level scaling: the largest magnitude of each group, and elements in a small float format under
a divisor per group.

A tensor is read as ``[outer, rows, groups, inner]``; a group is one ``(outer, group)``. The maths, in TensorFlow, stand
in ``low_bit/quantizers/multi_level_scaling.py``; these passes give the same bits.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.ops import loader


def group_maximum(x: tf.Tensor, layout: tf.Tensor) -> tf.Tensor:
    """``max |x|`` of each group.

    Args:
        x: float32, any shape.
        layout: int64 ``[4]``: outer, rows, groups, inner; their product is the size of ``x``.

    Returns:
        float32 ``[outer, groups]``.
    """
    return loader.load().graffiti_group_maximum(x, layout)


def quantize(
    x: tf.Tensor, divisors: tf.Tensor, factors: tf.Tensor, layout: tf.Tensor, element: tuple[int, int], *,
    carry: bool = True, top_exponent: int = -1, seed: tf.Tensor | None = None
) -> tf.Tensor:
    """``sign(x) * element(|x| / divisor) * factor``.

    Args:
        x: float32, any shape.
        divisors, factors: float32 ``[outer, groups]``; divisors positive.
        layout: see ``group_maximum``.
        element: ``<E, M>``, at most ``<5, 11>``.
        carry, top_exponent: see ``multi_level_scaling.quantize_element``.
        seed: two uint32 for stochastic rounding by ``u - 1/2`` of ``numerics/noise.py``; nearest, half to even, without
            one.

    Returns:
        float32, shaped like ``x``.
    """
    exponent_bits, mantissa_bits = element
    return loader.load().graffiti_multi_level(
        x, divisors, factors, tf.constant((0, 0), tf.uint32) if seed is None else tf.cast(seed, tf.uint32), layout,
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits, carry=carry, top_exponent=top_exponent, stochastic=seed is not None)
