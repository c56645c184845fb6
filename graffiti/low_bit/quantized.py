"""``Quantized``: what a tensor quantizer hands to a product. Knows neither quantizers nor layers."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A tensor of few distinct values, ``value = codes * scale``.

    Attributes:
        codes: whole numbers from ``low`` to ``high`` as int8, uint8, int16 or float32; where ``scale`` is ``None`` the
            real values themselves (float32), for formats without one scale.
        scale: float32 scalar, the real value of one step; NaN where the tensor held a NaN or Inf.
        low: the smallest code there can be.
        high: the largest.
    """

    codes: tf.Tensor
    scale: tf.Tensor | None = None
    low: int = 0
    high: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether the codes are whole numbers with one scale."""
        return self.scale is not None

    @property
    def magnitude(self) -> int:
        """Upper bound of ``|code|``."""
        return max(-self.low, self.high)

    def real(self) -> tf.Tensor:
        """The values in float32."""
        return self.codes if self.scale is None else tf.cast(self.codes, tf.float32) * self.scale


def as_real(x: tf.Tensor) -> Quantized:
    """A float tensor that is not quantized."""
    return Quantized(tf.cast(x, tf.float32))
