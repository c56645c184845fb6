"""Batch norm for training, fused: one read for the statistics, one pass for the values, and the residual sum and the
ReLU behind it for nothing.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.ops import loader


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, *, residual: tf.Tensor | None = None,
    relu: bool = False, engine: str = "auto",
):
    """``y = (x - mean) * gamma / sqrt(variance + epsilon) + beta`` over all axes but the last, then perhaps ``y +
    residual``, then perhaps ``max(y, 0)``.

    ``y`` is differentiable in ``x``, ``gamma``, ``beta`` and ``residual``; the other outputs are for moving statistics
    and pass no gradient on. Sums have one order, whatever the number of threads: float32 over blocks of 256 rows, less
    a row of the block, merged in float64 (Chan et al., 1979). In pure TensorFlow the same function up to the order of
    float32 sums: these are no integers, so the two engines differ in last bits.

    Args:
        x: float32 ``[..., channels]``, at least one row.
        gamma, beta: float32 ``[channels]``.
        epsilon: added to the variance.
        residual: float32 of the shape of ``x``.
        relu: whether the ReLU belongs to it.
        engine: ``auto``, ``native`` or ``python``.

    Returns:
        ``(y, mean, variance, inverse_deviation)``: the batch's mean, biased variance and ``1/sqrt(variance +
        epsilon)``, all float32.
    """
    if loader.engine_of(engine) == "python":
        return _in_tensorflow(x, gamma, beta, epsilon, residual, relu)
    ops = loader.load()

    @tf.custom_gradient
    def run(x, gamma, beta, *residual):
        y, mean, variance, inverse = ops.graffiti_batch_norm(x, gamma, beta, residual, epsilon=epsilon, relu=relu)

        def gradient(dy, *_):
            # where the sum was positive; without a ReLU the residual's gradient is dy
            behind = [y] if residual and relu else []
            dx, dgamma, dbeta, masked = ops.graffiti_batch_norm_grad(
                dy, x, gamma, beta, mean, inverse, behind, relu=relu
            )
            return dx, dgamma, dbeta, *(masked or [dy] * len(residual))

        return (y, mean, variance, inverse), gradient

    return run(
        *map(tf.convert_to_tensor, (x, gamma, beta)), *([] if residual is None else [tf.convert_to_tensor(residual)])
    )


def _in_tensorflow(x, gamma, beta, epsilon, residual, relu):
    shape, empty = tf.shape(x), tf.zeros([0])
    flat = tf.reshape(x, [1, -1, 1, x.shape[-1]])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=flat, scale=gamma, offset=beta, mean=empty, variance=empty, epsilon=epsilon, is_training=True
    )
    rows = tf.cast(tf.shape(flat)[1], tf.float32)
    variance = variance * tf.maximum(rows - 1.0, 1.0) / rows  # TensorFlow's is unbiased
    y = tf.reshape(y, shape)
    y = y if residual is None else y + residual
    return tf.nn.relu(y) if relu else y, mean, variance, tf.math.rsqrt(variance + epsilon)
