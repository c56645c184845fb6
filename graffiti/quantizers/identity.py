"""``Identity``: the explicit "leave this in float"."""

from __future__ import annotations

import keras
import tensorflow as tf

from graffiti.quantizers.base import Quantizer


@keras.saving.register_keras_serializable(package="graffiti")
class Identity(Quantizer):
    """``q(x) = x``, gradient 1; no threshold, no format (``qformat()`` is ``None``, ``exponent()`` 0, ``scale()``
    1).
    """

    def build(self, input_shape) -> None:
        """Nothing to create."""

    def call(self, x):
        """``x`` itself."""
        return x

    def assign_log2(self, log2_threshold, *, frozen=None) -> None:
        """There is no threshold to set."""
        raise ValueError(
            f"quantizer {self.name!r} leaves its tensor in float and has no threshold; use another quantizer"
        )

    def exponent(self) -> tf.Tensor:
        """0."""
        return tf.constant(0.0)

    def scale(self) -> tf.Tensor:
        """1."""
        return tf.constant(1.0)

    def qformat(self) -> None:
        """There is none."""
        return None
