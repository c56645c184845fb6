"""DoReFa-Net: tanh weights, activations in 0…1, stochastic gradients with one range per example."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits
from graffiti.ops import noise as counter_noise
from graffiti.ops import training_quantize


def quantize_unit(r: tf.Tensor, bits: int) -> tf.Tensor:
    """``round(r * (2**k - 1)) / (2**k - 1)`` for ``r`` in 0…1."""
    top = float(2**bits - 1)
    return tf.round(r * top) / top


def quantize_weights(w: tf.Tensor, bits: int) -> tf.Tensor:
    """``2 * quantize_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1``; with one bit ``sign(w) * mean|w|``."""
    if bits == 1:
        return tf.sign(w) * tf.reduce_mean(tf.abs(w))
    squashed = tf.tanh(w)
    largest = tf.reduce_max(tf.abs(squashed))
    return 2.0 * quantize_unit(squashed / (2.0 * tf.where(largest > 0, largest, 1.0)) + 0.5, bits) - 1.0


def quantize_gradient(g: tf.Tensor, bits: int, noise: tf.Tensor | float = 0.0) -> tf.Tensor:
    """``2m * (quantize_k(g/(2m) + 1/2 + N) - 1/2)`` with ``m`` the largest magnitude of each example.

    ``N = noise / (2**k - 1)``: the noise is in steps.

    Args:
        g: gradients ``[N, ...]``, float32.
        bits: ``k``.
        noise: in [-1/2, 1/2), of the shape of ``g``; 0 rounds half to even.
    """
    largest = tf.reduce_max(tf.abs(g), tuple(range(1, len(g.shape))), keepdims=True)
    double = 2.0 * tf.where(largest > 0, largest, 1.0)
    top = float(2**bits - 1)
    codes = tf.clip_by_value(tf.round((g / double + 0.5) * top + noise), 0.0, top)
    return tf.where(largest > 0, double * (codes / top - 0.5), g)


@keras.saving.register_keras_serializable(package="graffiti")
class DoReFa(TensorQuantizer):
    """The three quantizers of DoReFa-Net, by role.

    Backward: weights through ``tanh(w)/max|tanh(w)|`` (the maximum held), the rounding straight through; activations 1
    inside 0…1, else 0.

    Args:
        bits: k, 1 to 16 (1 for weights only).
        **kwargs: see ``TensorQuantizer``.

    References: Zhou et al., arXiv 1606.06160.
    """

    def __init__(self, *, bits: int = 8, **kwargs) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits("bits of dorefa", bits, 1 if self.role == "weights" else 2, 16)

    def build(self, input_shape=None) -> None:
        """Create the seeds."""
        if self.role == "gradients":
            self.add_noise()
        self.built = True

    def encode(self, x, training, parameters=()):
        """The real values."""
        if self.role == "weights":
            values = quantize_weights(x, self.bits)
        elif self.role == "gradients":
            values = quantize_gradient(x, self.bits, counter_noise.uniform(tf.shape(x), self.next_seed()) - 0.5)
        else:
            values = quantize_unit(tf.clip_by_value(x, 0.0, 1.0), self.bits)
        return Quantized(values * self.finite_scale(tf.constant(1.0), training_quantize.extremes(x)))

    def gradient(self, x, upstream, parameters):
        """See the class."""
        if self.role == "weights" and self.bits > 1:
            squashed = tf.tanh(x)
            largest = tf.reduce_max(tf.abs(squashed))
            return upstream * (1.0 - tf.square(squashed)) / tf.where(largest > 0, largest, 1.0), []
        if self.role == "activations":
            return tf.where((x >= 0.0) & (x <= 1.0), upstream, tf.zeros_like(upstream)), []
        return upstream, []

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "bits": self.bits}
