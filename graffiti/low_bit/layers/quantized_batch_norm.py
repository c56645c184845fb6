"""Batch norm of low-bit training in two quantized parts (dynamic fixed point)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import quantizers
from graffiti.low_bit.product_layer import Settings
from graffiti.low_bit.quantizers.base import TensorQuantizer


@keras.saving.register_keras_serializable(package="graffiti")
class QuantizedBatchNormalization(keras.layers.BatchNormalization):
    """Batch norm in two quantized parts.

    Forward: ``Xq = q(X)``, ``Yn = (Xq - mean(Xq)) / sqrt(var(Xq) + epsilon)``, ``Y = q(Yn)*q(gamma) + q(beta)``;
    statistics and the square root stay in float. Backward:
    the incoming gradient is quantized at the second part, and again between the two; ``dgamma = sum(dYq * Ynq)``,
    ``dbeta = sum(dYq)`` in float. Inference: moving averages.

    Args:
        low_bit: see ``Settings``; ``scheme.batch_norm`` makes the forward quantizers, ``scheme.gradients`` the backward
            ones.
        **kwargs: of ``keras.layers.BatchNormalization``; the last axis only.

    References: Su et al., J. Semicond. 41(2), 022404, 2020 (prototype).
    """

    def __init__(self, *, low_bit: Settings | Mapping[str, Any], **kwargs) -> None:
        super().__init__(**kwargs)
        self.low_bit = Settings.get(low_bit)
        self.supports_jit = False
        scheme, seed = self.low_bit.scheme, self.low_bit.seed

        def make(spec, role, name, index) -> TensorQuantizer | None:
            if spec is None:
                return None
            return quantizers.get(
                spec.quantizer, **spec.arguments, role=role, kind="batch_norm", layer_name=self.name,
                seed=seed * 8 + index, name=name
            )

        self.input_quantizer = make(scheme.batch_norm, "activations", "input_quantizer", 0)
        self.normal_quantizer = make(scheme.batch_norm, "activations", "normal_quantizer", 1)
        self.gamma_quantizer = make(scheme.batch_norm, "weights", "gamma_quantizer", 2)
        self.beta_quantizer = make(scheme.batch_norm, "bias", "beta_quantizer", 3)
        self.inner_gradient_quantizer = make(scheme.gradients, "gradients", "inner_gradient_quantizer", 4)
        self.outer_gradient_quantizer = make(scheme.gradients, "gradients", "outer_gradient_quantizer", 5)

    def _quantizers(self) -> list[TensorQuantizer]:
        every = (
            self.input_quantizer, self.normal_quantizer, self.gamma_quantizer, self.beta_quantizer,
            self.inner_gradient_quantizer, self.outer_gradient_quantizer
        )
        return [quantizer for quantizer in every if quantizer is not None]

    def build(self, input_shape) -> None:
        """The Keras layer's weights, then the quantizers' state."""
        rank = len(input_shape)
        if self.axis not in (-1, rank - 1):
            raise ValueError(
                f"quantized batch norm {self.name!r} normalizes the last axis, got axis={self.axis} for an input of "
                f"rank {rank}; keep it in float by a rule"
            )
        super().build(input_shape)
        for quantizer in self._quantizers():
            quantizer.build(input_shape)

    def call(self, inputs, training=None, mask=None):
        """Both parts."""
        training = bool(training) and self.trainable
        x = straight(self.input_quantizer, inputs, training)
        axes = list(range(len(inputs.shape) - 1))
        if training:
            mean, variance = tf.nn.moments(x, axes)
            for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + tf.stop_gradient(new) * (1.0 - self.momentum))
        else:
            mean, variance = tf.convert_to_tensor(self.moving_mean), tf.convert_to_tensor(self.moving_variance)
        normal = (x - mean) / tf.sqrt(variance + self.epsilon)
        normal = straight(
            self.normal_quantizer, quantize_backward(self.inner_gradient_quantizer, normal, training), training
        )
        if self.scale:
            normal *= straight(self.gamma_quantizer, tf.convert_to_tensor(self.gamma), training)
        if self.center:
            normal += straight(self.beta_quantizer, tf.convert_to_tensor(self.beta), training)
        return quantize_backward(self.outer_gradient_quantizer, normal, training)

    def plain_config(self) -> dict[str, Any]:
        """The config of the Keras layer."""
        return self.low_bit.plain_config(self.get_config())

    def low_bit_state(self) -> list[Any]:
        """The quantizers' variables."""
        return [variable for quantizer in self._quantizers() for variable in quantizer.variables]

    @classmethod
    def plain_class(cls) -> type:
        """The Keras layer."""
        return keras.layers.BatchNormalization

    def get_config(self) -> dict[str, Any]:
        """The Keras layer's config and the settings."""
        return {**super().get_config(), "low_bit": self.low_bit.to_config()}


def straight(quantizer: TensorQuantizer, x: tf.Tensor, training: bool) -> tf.Tensor:
    """``q(x)`` with its own backward rule, for quantizers without parameters.

    Args:
        quantizer: ``q``.
        x: float32.
        training: whether its state moves and its rounding may be stochastic.
    """
    @tf.custom_gradient
    def run(x):
        return quantizer.encode(x, training).real(), lambda upstream: quantizer.gradient(x, upstream, ())[0]

    return run(x)


def quantize_backward(quantizer: TensorQuantizer | None, x: tf.Tensor, training: bool) -> tf.Tensor:
    """``x``; its incoming gradient is quantized.

    Args:
        quantizer: of gradients; ``None`` leaves them as they are.
        x: float32.
        training: whether its state moves and its rounding may be stochastic.
    """
    if quantizer is None:
        return x

    @tf.custom_gradient
    def run(x):
        return tf.identity(x), lambda upstream: quantizer.use(upstream, training, lambda q: q.real())

    return run(x)
