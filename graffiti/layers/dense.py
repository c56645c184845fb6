"""``QuantizedDense``: ``x @ kernel`` over the last axis."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.layers.product import QuantizedProduct


@keras.saving.register_keras_serializable(package="graffiti")
class QuantizedDense(QuantizedProduct):
    """Dense layer on codes; everything else is in ``QuantizedProduct``.

    Args:
        units: output features. Kernel ``(features, units)``.
        **kwargs: of ``QuantizedProduct``.

    Input: ``[(batch, ..., features), exponent]``. Output: ``(batch, ..., units)``.
    """

    op = "dense"

    def __init__(self, units: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = int(units)
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask=None):
        """The mask of ``x`` stays with it."""
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def kernel_shape(self, input_shape):
        """``(features, units)``."""
        return (input_shape[-1], self.units)

    def product(self, x, kernel):
        """``x @ kernel``."""
        return tf.matmul(x, kernel) if len(x.shape) == 2 else tf.tensordot(x, kernel, 1)

    def product_shape(self, input_shape):
        """The last axis becomes ``units``."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "units": self.units}
