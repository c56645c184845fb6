"""Batch norm folding in TensorFlow: the twin of ``numerics/fold.py``, with gradients and equal bits.

Only IEEE-exact basic operations in one fixed order in float64, then one rounding to float32.
"""

from __future__ import annotations

import tensorflow as tf


def fold_multiplier(gamma: tf.Tensor, variance: tf.Tensor, epsilon: float) -> tf.Tensor:
    """``gamma / sqrt(variance + epsilon)`` in float64 as ``sign(gamma) * sqrt(gamma**2 / (variance + epsilon))``.

    The form is the one that graph optimizers leave alone (they rewrite ``x / sqrt(y)``). Backward:
    ``d gamma = upstream / sqrt(variance + epsilon)``, also at ``gamma = 0``; the moving variance gets no gradient.

    Args:
        gamma: float32, per channel.
        variance: float32, per channel (moving).
        epsilon: as the batch norm has it.
    """
    variance = tf.cast(tf.stop_gradient(variance), tf.float64) + tf.constant(epsilon, tf.float64)

    @tf.custom_gradient
    def multiplier(gamma):
        def gradient(upstream):
            return upstream / tf.sqrt(variance)

        return tf.sign(gamma) * tf.sqrt(gamma * gamma / variance), gradient

    return multiplier(tf.cast(gamma, tf.float64))


def fold_kernel(kernel: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """``float32(float64(kernel) * multiplier)``; ``multiplier`` is shaped to broadcast against the kernel."""
    return tf.cast(tf.cast(kernel, tf.float64) * multiplier, tf.float32)


def fold_bias(bias: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """``float32(beta + (bias - mean) * multiplier)``, inside in float64; the moving mean gets no gradient.

    Args:
        bias: float32 ``(channels,)``; zeros where the layer had none.
        beta: float32 ``(channels,)``, of the batch norm.
        mean: float32 ``(channels,)``, moving.
        multiplier: float64 ``(channels,)``, from ``fold_multiplier``.
    """
    bias, beta, mean = (tf.cast(value, tf.float64) for value in (bias, beta, tf.stop_gradient(mean)))
    return tf.cast(beta + (bias - mean) * multiplier, tf.float32)


def batch_correction(gamma, beta, mean, variance, moving_variance, epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Training with batch statistics on a kernel that was folded with the moving variance.

    ``correction = sqrt(moving_variance + epsilon) / sqrt(variance + epsilon)`` undoes the moving-variance scaling;
    ``bias = beta - gamma * mean / sqrt(variance + epsilon)``. Gradients flow into the batch statistics.

    Args:
        gamma: float32 per channel, as all of these.
        beta: offset of the batch norm.
        mean: of the batch, of the convolution without bias.
        variance: of the batch, biased.
        moving_variance: what the kernel was folded with.
        epsilon: as the batch norm has it.

    Returns:
        ``(correction, bias)``: the layer's output is ``product * correction + bias``.

    References: Jain et al., arXiv 1903.08066, section 4; C8 of its specification.
    """
    inverse = tf.math.rsqrt(variance + epsilon)
    return tf.sqrt(tf.stop_gradient(moving_variance) + epsilon) * inverse, beta - gamma * mean * inverse
