"""The generator of ``numerics/noise.py`` in TensorFlow, bit-identical to it and to what the native quantizer uses
inside.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.numerics.noise import GOLDEN, LAST_SHIFT, SECOND, STEPS


def _u32(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)


def mix(word: tf.Tensor, extra: tf.Tensor) -> tf.Tensor:
    """Scramble uint32 words; see ``numerics.noise.mix``."""
    for index, (shift, factor) in enumerate(STEPS):
        word = tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _u32(shift))) * _u32(factor)
        if index == 0:
            word += extra
    return tf.bitwise.bitwise_xor(word, tf.bitwise.right_shift(word, _u32(LAST_SHIFT)))


def keys(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """``(k0, k1)`` of a key."""
    seed = tf.cast(seed, tf.uint32)
    first = mix(seed[0] + _u32(GOLDEN), seed[1])
    return first, mix(first + _u32(GOLDEN), tf.bitwise.bitwise_xor(seed[1], _u32(SECOND)))


def uniform(shape, seed: tf.Tensor) -> tf.Tensor:
    """Uniform float32 numbers in [0, 1), one for each flat index.

    Args:
        shape: of the result.
        seed: two uint32.
    """
    k0, k1 = keys(seed)
    count = tf.reduce_prod(tf.cast(shape, tf.int64))
    groups = (count + 31) // 32
    words = tf.reshape(mix(tf.cast(tf.range(groups * 16), tf.uint32) + k0, k1), [-1, 16])
    # [groups, 2, 16]
    halves = tf.stack([tf.bitwise.bitwise_and(words, _u32(0xFFFF)), tf.bitwise.right_shift(words, _u32(16))], 1)
    return tf.reshape(tf.reshape(tf.cast(halves, tf.float32), [-1])[:count] * 2.0**-16, shape)
