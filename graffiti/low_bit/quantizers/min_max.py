"""The simplest baseline: the range is the largest magnitude of the current tensor."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_choice
from graffiti.low_bit.quantizers.dynamic_fixed_point import ROUNDINGS
from graffiti.ops import training_quantize


def step_of(largest: tf.Tensor, bits: int) -> tf.Tensor:
    """``max|x| / (2**(b-1) - 1)``; 1 for a tensor of zeros."""
    return tf.where(tf.equal(largest, 0.0), 1.0, largest / float(2 ** (bits - 1) - 1))


@keras.saving.register_keras_serializable(package="graffiti")
class MinMax(TensorQuantizer):
    """Symmetric, no clipping: ``clip(r(x/step), -(2**(b-1)-1), 2**(b-1)-1) * step`` with ``step = max|x| /
    (2**(b-1)-1)``, anew for each tensor.

    Backward: straight through. No state but the seeds.

    Args:
        bits: b, 2 to 16.
        rounding: ``half_even`` or ``stochastic``; ``None``: stochastic for gradients, else half to even.
        **kwargs: see ``TensorQuantizer``.
    """

    def __init__(self, *, bits: int = 8, rounding: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits("bits of min_max", bits, 2, 16)
        self.rounding = check_choice("rounding of min_max", rounding, (None, *ROUNDINGS))

    @property
    def stochastic(self) -> bool:
        """Whether the rounding is."""
        return (self.rounding or ("stochastic" if self.role == "gradients" else "half_even")) == "stochastic"

    def build(self, input_shape=None) -> None:
        """Create the seeds."""
        if self.stochastic:
            self.add_noise()
        self.built = True

    def largest(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The range ``c`` and the extremes of the tensor."""
        ends = replicas.extremes(training_quantize.extremes(x))
        return tf.maximum(-ends[0], ends[1]), ends

    def encode(self, x, training, parameters=()):
        """The codes."""
        largest, ends = self.largest(x, training)
        step = step_of(largest, self.bits)
        top = 2 ** (self.bits - 1) - 1
        codes, _ = training_quantize.quantize(
            x, 1.0 / step, low=-top, high=top, rounding="stochastic" if self.stochastic else "half_even",
            seed=self.next_seed() if self.stochastic else None
        )
        return Quantized(codes, self.finite_scale(step, ends), -top, top)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "bits": self.bits, "rounding": self.rounding}
