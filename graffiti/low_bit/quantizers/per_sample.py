"""Per-sample gradient quantization (PSQ of StatQuant): each example has its own range and zero point."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_choice
from graffiti.low_bit.quantizers.dynamic_fixed_point import ROUNDINGS
from graffiti.ops import noise as counter_noise
from graffiti.ops import training_quantize


def quantize(g: tf.Tensor, bits: int, axes: tuple[int, ...], noise: tf.Tensor | None = None) -> tf.Tensor:
    """``r((g - z) * S) / S + z`` with ``z = min`` and ``S = (2**b - 1) / (max - min)``.

    Args:
        g: gradients, float32.
        bits: ``b``.
        axes: over which the extremes are taken; all but the first for one range per example.
        noise: in [0, 1), of the shape of ``g``: ``r`` is ``floor(v + noise)``. ``None`` for half to even.
    """
    low, high = tf.reduce_min(g, axes, keepdims=True), tf.reduce_max(g, axes, keepdims=True)
    spread = high - low
    step = tf.where(spread > 0, spread, 1.0) / float(2**bits - 1)
    scaled = (g - low) / step
    codes = tf.round(scaled) if noise is None else tf.floor(scaled + noise)
    return tf.clip_by_value(codes, 0.0, float(2**bits - 1)) * step + low


@keras.saving.register_keras_serializable(package="graffiti")
class PerSample(TensorQuantizer):
    """Asymmetric, one range per example, stochastic rounding: unbiased, with a variance that depends on each example's
    own range.

    Args:
        bits: b, 2 to 16.
        rounding: ``stochastic`` or ``half_even``.
        per_tensor: one range for the whole tensor instead (PTQ).
        **kwargs: see ``TensorQuantizer``.

    References: Chen et al., A Statistical Framework for Low-bitwidth Training, NeurIPS 2020.
    """

    def __init__(self, *, bits: int = 8, rounding: str = "stochastic", per_tensor: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.bits, self.per_tensor = check_bits("bits of per_sample", bits, 2, 16), bool(per_tensor)
        self.rounding = check_choice("rounding of per_sample", rounding, ROUNDINGS)

    def build(self, input_shape=None) -> None:
        """Create the seeds."""
        if self.rounding == "stochastic":
            self.add_noise()
        self.built = True

    def encode(self, x, training, parameters=()):
        """The real values."""
        noise = counter_noise.uniform(tf.shape(x), self.next_seed()) if self.rounding == "stochastic" else None
        axes = tuple(range(0 if self.per_tensor else 1, len(x.shape)))
        return Quantized(
            quantize(x, self.bits, axes, noise) * self.finite_scale(tf.constant(1.0), training_quantize.extremes(x))
        )

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "bits": self.bits, "rounding": self.rounding, "per_tensor": self.per_tensor}
