"""``WindowMean``: an average pool of codes whose outputs a quantizer rounds as it would round the true mean."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from graffiti.layers import exact
from graffiti.numerics.windows import window_output
from graffiti.ops import fallback


@keras.saving.register_keras_serializable(package="graffiti")
class WindowMean(keras.layers.Layer):
    """The mean of each window's part inside the image, or its sum, over one or two spatial axes.

    Forward at inference: the exact sum of the codes (float32 where it holds every partial sum, else float64),
    divided, and returned by round to odd, so that the quantizer behind rounds the true quotient, ties included. In
    training: the ordinary float32 mean. Backward: the mean's.

    Args:
        pool_size, strides: one integer per spatial axis.
        padding: ``same`` or ``valid``.
        input_bits: width of the codes of ``x``; ``None`` where unknown, then sums are always in float64.
        divide: false for the sum.

    Input: ``(batch, *spatial, channels)`` on a quantizer's grid. Output: float32 ``(batch, *output, channels)``.
    """

    def __init__(
        self, pool_size, strides, padding: str = "valid", *, input_bits: int | None = None, divide: bool = True,
        **kwargs,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.pool_size, self.strides = (tuple(int(n) for n in values) for values in (pool_size, strides))
        if padding not in ("same", "valid"):
            raise ValueError(f"padding of layer {self.name!r} is 'same' or 'valid', got {padding!r}")
        self.padding, self.input_bits, self.divide = padding, input_bits, bool(divide)

    def call(self, x, training=None):
        """Average."""
        if training:
            return self._plain(x)

        @tf.custom_gradient
        def average(x):
            def gradient(upstream):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = self._plain(x)
                return tape.gradient(y, x, output_gradients=upstream)

            return self._exact(x), gradient

        return average(x)

    def _sum(self, x: tf.Tensor) -> tf.Tensor:
        return fallback.sum_pool(x, pool_size=self.pool_size, strides=self.strides, padding=self.padding)

    def _counts(self, x: tf.Tensor) -> tf.Tensor:
        inside = tf.ensure_shape(tf.ones(tf.concat([[1], tf.shape(x)[1:-1], [1]], 0), x.dtype), [1, *x.shape[1:-1], 1])
        return self._sum(inside)

    def _plain(self, x: tf.Tensor) -> tf.Tensor:
        """In float32, whatever it rounds to."""
        if not self.divide:
            return self._sum(x)
        axes = list(range(1, 1 + len(self.pool_size)))
        if self.padding == "valid" and tuple(x.shape[1:-1]) == self.pool_size:
            return tf.reduce_mean(x, axes, keepdims=True)
        if len(self.pool_size) == 1:
            return tf.nn.avg_pool1d(x, self.pool_size, self.strides, self.padding.upper())
        return tf.nn.avg_pool2d(x, self.pool_size, self.strides, self.padding.upper())

    def _exact(self, x: tf.Tensor) -> tf.Tensor:
        narrow = self.input_bits is not None and math.prod(self.pool_size) << self.input_bits <= exact.EXACT
        total = tf.cast(self._sum(x if narrow else tf.cast(x, tf.float64)), tf.float64)
        if not self.divide:
            return exact.round_to_odd(total)
        return exact.quotient_to_odd(total, tf.cast(self._counts(x), tf.float64))

    def compute_output_shape(self, input_shape):
        """Windows along the spatial axes."""
        windows = zip(input_shape[1:-1], self.pool_size, self.strides)
        sizes = (window_output(n, k, s, 1, self.padding) for n, k, s in windows)
        return (input_shape[0], *sizes, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "pool_size": self.pool_size, "strides": self.strides, "padding": self.padding,
            "input_bits": self.input_bits, "divide": self.divide,
        }
