"""Dynamic fixed point: one power-of-two step per tensor, moved by a factor of two when too much or too little
overflows.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti import checks
from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_choice, check_number
from graffiti.ops import training_quantize
from graffiti.quantizers.base import power_of_two

MIN_EXPONENT = -40
MAX_EXPONENT = 100
ROUNDINGS = ("half_even", "stochastic")


def quantize(x: tf.Tensor, step: tf.Tensor, bits: int, noise: tf.Tensor | None = None) -> tf.Tensor:
    """``clip(r(x / step), -2**(B-1), 2**(B-1) - 1) * step``; ``r`` is half to even, or ``floor(v + noise)`` with noise
    in [0, 1).

    Args:
        x: float32, any shape.
        step: a power of two, scalar.
        bits: ``B``.
        noise: of the shape of ``x``; ``None`` for half to even.
    """
    codes = tf.round(x / step) if noise is None else tf.floor(x / step + noise)
    half = float(1 << (bits - 1))
    return tf.clip_by_value(codes, -half, half - 1.0) * step


def overflow_rates(x: tf.Tensor, step: tf.Tensor, bits: int) -> tuple[tf.Tensor, tf.Tensor]:
    """``(r1, r2)``: the part of ``x`` that overflows at this step, and that would at half of it.

    Args:
        x: float32, any shape.
        step: of the code, scalar.
        bits: ``B``; codes run from ``-2**(B-1)`` to ``2**(B-1) - 1``.
    """
    half = float(1 << (bits - 1))

    def rate(limit):
        return tf.reduce_mean(tf.cast((x >= limit * step) | (x < -limit * step), tf.float32))

    return rate(half), rate(half / 2)


def next_exponent(exponent: tf.Tensor, overflow: tf.Tensor, overflow_at_half: tf.Tensor, target: float) -> tf.Tensor:
    """One up where ``r1 > target``, one down where ``r2 <= target``, else unchanged; held in -40…100.

    Args:
        exponent: of the step, int32 scalar.
        overflow, overflow_at_half: ``(r1, r2)`` of ``overflow_rates``.
        target: the part that may overflow, 0 to 1.
    """
    change = tf.where(overflow > target, 1, tf.where(overflow_at_half <= target, -1, 0))
    return tf.clip_by_value(exponent + change, MIN_EXPONENT, MAX_EXPONENT)


def one_shot_exponent(largest: tf.Tensor, bits: int) -> tf.Tensor:
    """``floor(log2(max|x|)) + 1 - (B-1)``: where the rule ends for a tensor that does not change; int32."""
    pattern = tf.bitwise.right_shift(tf.bitcast(largest, tf.int32), 23)
    return tf.clip_by_value(
        tf.where(largest > 0, pattern - 127 + 1 - (bits - 1), MIN_EXPONENT), MIN_EXPONENT, MAX_EXPONENT
    )


@keras.saving.register_keras_serializable(package="graffiti")
class DynamicFixedPoint(TensorQuantizer):
    """B-bit two's complement with one step ``2**exponent`` per tensor, which follows the overflow rate.

    Forward: ``clip(r(x/step), -2**(B-1), 2**(B-1) - 1) * step``. Backward: straight through, also where it saturates.
    After each use in training the exponent goes up where the overflow rate is above ``target_overflow``, down where it
    would not be at half the step; the new one holds from the next step on.

    Args:
        bits: B, 2 to 16; 32 does not quantize.
        rounding: ``half_even`` or ``stochastic``; ``None``: stochastic for gradients, else half to even.
        target_overflow: tolerated overflow rate; 0 as in the prototype, 1e-4 in the classic algorithm.
        initial_exponent: of the first step (prototype: -5); ``None`` takes the one-shot rule on the first tensor that
            is not zero, because a first step that is much too coarse makes stochastically rounded gradients explode.
        update_interval: steps between updates.
        **kwargs: see ``TensorQuantizer``.

    References: Su et al., J. Semicond. 41(2), 022404, 2020; Courbariaux et al., arXiv 1412.7024.
    """

    def __init__(
        self, *, bits: int = 8, rounding: str | None = None, target_overflow: float = 0.0,
        initial_exponent: int | None = None, update_interval: int = 1, **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.bits = 32 if bits == 32 else check_bits("bits of dynamic fixed point (or 32)", bits, 2, 16)
        self.rounding = check_choice("rounding of dynamic fixed point", rounding, (None, *ROUNDINGS))
        self.target_overflow = check_number("target_overflow", target_overflow, 0.0, 1.0)
        if initial_exponent is not None:
            initial_exponent = checks.whole(
                "initial_exponent of dynamic fixed point", initial_exponent, MIN_EXPONENT, MAX_EXPONENT
            )
        self.initial_exponent = initial_exponent
        self.update_interval = checks.whole(
            "update_interval of dynamic fixed point", update_interval, 1, 1 << 30, of="steps"
        )

    @property
    def stochastic(self) -> bool:
        """Whether the rounding is."""
        return (self.rounding or ("stochastic" if self.role == "gradients" else "half_even")) == "stochastic"

    def build(self, input_shape=None) -> None:
        """Create the state."""
        self.exponent = self.add_state("exponent", self.initial_exponent or 0, "int32")
        self.started = self.add_state("started", self.initial_exponent is not None, "bool")
        if self.update_interval > 1:
            self.step = self.add_state("step", 0, "int64")
        if self.stochastic:
            self.add_noise()
        self.built = True

    def encode(self, x, training, parameters=()):
        """The codes at the step of the last update."""
        if self.bits == 32:
            return Quantized(x)
        exponent = self.current_exponent(x)
        half = 1 << (self.bits - 1)
        codes, extremes = training_quantize.quantize(
            x, power_of_two(-exponent), low=-half, high=half - 1,
            rounding="stochastic" if self.stochastic else "half_even",
            seed=self.next_seed() if self.stochastic else None)
        if training:
            self.update(x, exponent, extremes)
        return Quantized(codes, self.finite_scale(power_of_two(exponent), extremes), -half, half - 1)

    def current_exponent(self, x: tf.Tensor) -> tf.Tensor:
        """The exponent of this step; before the first update that of the tensor itself."""
        if self.initial_exponent is not None:
            return self.read(self.exponent)

        def one_shot():
            ends = training_quantize.extremes(x)
            return one_shot_exponent(tf.maximum(-ends[0], ends[1]), self.bits)

        if replicas.count() == 1:
            return tf.cond(self.read(self.started), lambda: self.read(self.exponent), one_shot)
        return tf.where(self.read(self.started), self.read(self.exponent), replicas.maximum(one_shot()))

    def update(self, x: tf.Tensor, exponent: tf.Tensor, extremes: tf.Tensor) -> None:
        """Move the exponent for the next step; a NaN leaves it, and so does a gradient of zeros."""
        step, half = power_of_two(exponent), float(1 << (self.bits - 1))
        ends = replicas.extremes(extremes)
        if self.target_overflow == 0:
            def beyond(limit):
                return tf.cast((ends[1] >= limit * step) | (ends[0] < -limit * step), tf.float32)

            rates = beyond(half), beyond(half / 2)
        else:
            rates = tuple(replicas.mean(rate) for rate in overflow_rates(x, step, self.bits))
        usable = tf.math.is_finite(ends[0])
        if self.role == "gradients":
            usable &= (ends[1] > 0) | (ends[0] < 0)
        if self.update_interval > 1:
            count = tf.convert_to_tensor(self.step)
            self.step.assign(count + tf.cast(usable, tf.int64))
            usable &= tf.equal((count + 1) % self.update_interval, 0)
        self.started.assign(tf.convert_to_tensor(self.started) | ((ends[1] > 0) | (ends[0] < 0)))
        self.exponent.assign(tf.where(usable, next_exponent(exponent, *rates, self.target_overflow), exponent))

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        names = ("bits", "rounding", "target_overflow", "initial_exponent", "update_interval")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
