"""Batch norm of low-bit training in float32, by TensorFlow's or graffiti's fused kernel; with the ReLU and the sum
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="graffiti")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """``BatchNormalization`` over the last axis in one pass for statistics and one for values, perhaps with the ReLU
    behind it.

    The same function as the Keras layer, up to the order of float32 sums. Masks, other axes and synchronized statistics
    go Keras' own way.

    Args:
        relu: whether ``max(y, 0)`` belongs to it.
        **kwargs: of ``keras.layers.BatchNormalization``.
    """

    def __init__(self, *, relu: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.relu = bool(relu)
        self.supports_jit = False

    def call(self, inputs, training=None, mask=None):
        """Normalized by the batch in training, else by the moving averages."""
        return self._normalize(inputs, None, training, mask)

    def _normalize(self, inputs, residual, training, mask):
        rank = len(inputs.shape)
        fused = (
            training and self.trainable and mask is None and self.axis in (-1, rank - 1) and not self.synchronized
            and inputs.dtype == "float32"
        )
        if not fused:
            y = keras.layers.BatchNormalization.call(self, inputs, training=training, mask=mask)
            y = y if residual is None else y + residual
            return tf.nn.relu(y) if self.relu else y
        from graffiti.ops.batch_norm import batch_norm

        channels = inputs.shape[-1]
        gamma = tf.convert_to_tensor(self.gamma) if self.scale else tf.ones([channels])
        beta = tf.convert_to_tensor(self.beta) if self.center else tf.zeros([channels])
        y, mean, variance, _ = batch_norm(inputs, gamma, beta, self.epsilon, residual=residual, relu=self.relu)
        for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + tf.stop_gradient(new) * (1.0 - self.momentum))
        return y

    def plain_config(self) -> dict[str, Any]:
        """The config of the Keras layer."""
        config = self.get_config()
        config.pop("relu")
        return config

    def low_bit_state(self) -> list[Any]:
        """Nothing that the Keras layer does not have."""
        return []

    @classmethod
    def plain_class(cls) -> type:
        """The Keras layer."""
        return keras.layers.BatchNormalization

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "relu": self.relu}


@keras.saving.register_keras_serializable(package="graffiti")
class ResidualBatchNormalization(FusedBatchNormalization):
    """Stands where an ``Add`` of two tensors stood: normalizes one of them, adds the other, perhaps with the ReLU
    behind; one pass for all of it.

    Takes the list of the two. It holds the weights of the batch norm, in whose place an ``AbsorbedBatchNormalization``
    hands on what is to be normalized.

    Args:
        normalized: which of the two, 0 or 1.
        original: the serialized ``Add``.
        **kwargs: see ``FusedBatchNormalization``.
    """

    def __init__(self, *, normalized: int, original: Mapping[str, Any], **kwargs) -> None:
        super().__init__(**kwargs)
        self.normalized, self.original = int(normalized), dict(original)

    def build(self, input_shape) -> None:
        """The batch norm's weights."""
        super().build(input_shape[self.normalized])
        self.input_spec = None

    def call(self, inputs, training=None, mask=None):
        """``max(normal(inputs[normalized]) + the other, 0)``, or without the maximum."""
        x, residual = inputs[self.normalized], inputs[1 - self.normalized]
        return self._normalize(x, residual, training, None if mask is None else mask[self.normalized])

    def compute_mask(self, inputs, mask=None):
        """That of the sum."""
        return self.plain_layer().compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape):
        """That of each input."""
        return tuple(input_shape[self.normalized])

    def plain_layer(self) -> keras.layers.Layer:
        """The sum."""
        return keras.saving.deserialize_keras_object(self.original)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "normalized": self.normalized, "original": self.original}
