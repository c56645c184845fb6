"""Adaptive precision: QEM measures what quantization does to the mean magnitude, QPA picks bits, shift and the next
update.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_choice, check_number
from graffiti.ops import training_quantize
from graffiti.quantizers.base import power_of_two

WIDTHS = (8, 16, 24)
NO_SHIFT = -12  # of a tensor that has been zero so far
DEFAULT_STEPS_PER_EPOCH = 1000


def shift(largest: tf.Tensor, bits: int | tf.Tensor) -> tf.Tensor:
    """``ceil(log2(Z / (2**(n-1) - 1)))``: the smallest power of two that does not saturate; int32, exact.

    Args:
        largest: ``Z = max|x|`` > 0, float32 scalar.
        bits: ``n``.
    """
    levels = tf.cast(tf.bitwise.left_shift(1, bits - 1) - 1, tf.float64)
    ratio = tf.bitcast(tf.cast(largest, tf.float64) / levels, tf.int64)
    exponent = tf.cast(tf.bitwise.right_shift(ratio, tf.constant(52, tf.int64)), tf.int32) - 1023
    above = tf.not_equal(tf.bitwise.bitwise_and(ratio, tf.constant((1 << 52) - 1, tf.int64)), 0)
    return tf.clip_by_value(exponent + tf.cast(above, tf.int32), -126, 126)


def quantize(x: tf.Tensor, bits: int | tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """``clip(round(x / 2**s), -2**(n-1), 2**(n-1) - 1) * 2**s`` in float32, half to even.

    Args:
        x: float32, any shape.
        bits: ``n``, up to 24: float32 holds every code.
        exponent: ``s``, int32 scalar, from ``shift``.
    """
    half = tf.cast(tf.bitwise.left_shift(1, bits - 1), tf.float32)
    codes = tf.clip_by_value(tf.round(x * power_of_two(-exponent)), -half, half - 1.0)
    return codes * power_of_two(exponent)


def mean_magnitude(x: tf.Tensor) -> tf.Tensor:
    """``mean|x|`` in float64: QEM is about a small difference of two of them."""
    return replicas.mean(tf.reduce_mean(tf.cast(tf.abs(x), tf.float64)))


def quantization_error(mean: tf.Tensor, quantized_mean: tf.Tensor) -> tf.Tensor:
    """QEM: ``log2(| mean|x| - mean|xh| | / mean|x| + 1)``, zero where ``mean|x|`` is; float64 → float32."""
    safe = tf.where(mean > 0, mean, tf.ones_like(mean))
    error = tf.math.log1p(tf.abs(mean - quantized_mean) / safe) / tf.math.log(tf.constant(2.0, mean.dtype))
    return tf.cast(tf.where(mean > 0, error, tf.zeros_like(error)), tf.float32)


def choose_bits(
    x: tf.Tensor, largest: tf.Tensor, start: int | tf.Tensor, threshold: float, widths=WIDTHS
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The smallest width from ``start`` on whose QEM is at most ``threshold``, else the largest width.

    Args:
        x: float32, any shape.
        largest: ``max|x|`` over all replicas, above 0.
        start: the narrowest width that may be chosen.
        threshold: of QEM.
        widths: to choose from, ascending.

    Returns:
        ``(bits, shift, error)``.
    """
    mean = mean_magnitude(x)

    def at(bits):
        exponent = shift(largest, bits)
        return tf.constant(bits), exponent, quantization_error(mean, mean_magnitude(quantize(x, bits, exponent)))

    state = (tf.constant(widths[0]), tf.constant(0), tf.constant(float("inf")))
    for bits in widths:
        wanted = (bits >= start) & (state[2] > threshold)
        state = replicas.when(wanted, functools.partial(at, bits), state)
    return state


def interval(
    error: tf.Tensor, drift: tf.Tensor, cap: tf.Tensor, *, beta: float = 0.1, gamma: float = 2.0, delta: float = 100.0
) -> tf.Tensor:
    """Steps to the next update, ``clip(round(beta / max(delta*error**2, drift) - gamma), 1, cap)``; int64.

    Args:
        error: QEM of the chosen width.
        drift: how far the shift is from its moving average, weighted; 0 or above.
        cap: the most steps.
        beta, gamma, delta: of the formula.
    """
    largest = tf.maximum(delta * tf.square(error), drift)
    cap = tf.cast(cap, tf.float32)
    raw = tf.where(largest > 0, beta / tf.where(largest > 0, largest, 1.0) - gamma, cap)
    return tf.cast(tf.clip_by_value(tf.round(raw), 1.0, cap), tf.int64)


@keras.saving.register_keras_serializable(package="graffiti")
class AdaptivePrecision(TensorQuantizer):
    """Fixed point of 8, 16 or 24 bits, power-of-two scale, width and scale chosen from the tensor now and then.

    Forward: ``clip(round(x / 2**s), -2**(n-1), 2**(n-1) - 1) * 2**s``, half to even; between updates values beyond the
    range saturate. Backward: straight through, no mask. State: ``bits``, ``shift``, ``moving_range``, ``step``,
    ``next_update``, and ``steps_at``, how many steps were taken at each width.

    Args:
        widths: what may be chosen, ascending, from 8, 16, 24; one width means that only the scale adapts.
        threshold: T, largest acceptable QEM; ``None`` takes 0.03 for convolutions and recurrent layers, 0.01 for dense
            layers.
        mode: 1: each update starts at the smallest width; 2: at the current one, so that widths never shrink.
        alpha, beta, gamma, delta: of the moving range and the interval.
        init_fraction: the part of the first epoch in which every step is an update.
        steps_per_epoch: ``None`` until ``callbacks.LowBitSteps`` sets it; 1000 then stands for it.
        interval_cap: longest interval in steps; ``None`` takes ``steps_per_epoch``.
        **kwargs: see ``TensorQuantizer``.

    References: Zhang et al., Fixed-Point Back-Propagation Training, CVPR 2020, sections 3 and 4.
    """

    def __init__(
        self, *, widths=WIDTHS, threshold: float | None = None, mode: int = 2, alpha: float = 0.04, beta: float = 0.1,
        gamma: float = 2.0,
        delta: float = 100.0, init_fraction: float = 0.1, steps_per_epoch: int | None = None,
        interval_cap: int | None = None, **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        widths = tuple(check_bits("a width of adaptive precision", bits, 8, 24) for bits in widths)
        if not widths or list(widths) != sorted(set(widths)) or not set(widths) <= set(WIDTHS):
            raise ValueError(f"widths of adaptive precision ascend and are from {WIDTHS}, got {widths}")
        self.widths = widths
        self.threshold = threshold if threshold is None else check_number("threshold", threshold, 0.0, 1.0)
        self.mode = check_choice("mode of adaptive precision", mode, (1, 2))
        self.alpha = check_number("alpha", alpha, 0.0, 1.0)
        self.beta, self.gamma, self.delta = (
            check_number(n, v, 0.0, 1e9) for n, v in (("beta", beta), ("gamma", gamma), ("delta", delta))
        )
        self.init_fraction = check_number("init_fraction", init_fraction, 0.0, 1.0)
        self.steps_per_epoch, self.interval_cap = steps_per_epoch, interval_cap

    def build(self, input_shape=None) -> None:
        """Create the state."""
        self.bits = self.add_state("bits", self.widths[0], "int32")
        self.shift = self.add_state("shift", NO_SHIFT, "int32")
        self.moving_range = self.add_state("moving_range", 0.0)
        self.ranged = self.add_state("ranged", False, "bool")
        self.step = self.add_state("step", 0, "int64")
        self.next_update = self.add_state("next_update", 0, "int64")
        self.updates = self.add_state("updates", 0, "int64")
        self.steps_at = self.add_state("steps_at", 0, "int64", (len(self.widths),))
        self.epoch_steps = self.add_state("epoch_steps", self.steps_per_epoch or DEFAULT_STEPS_PER_EPOCH, "int64")
        self.built = True

    @property
    def error_threshold(self) -> float:
        """T."""
        if self.threshold is not None:
            return self.threshold
        return 0.01 if self.kind == "dense" else 0.03

    def use(self, x, training, consume, parameters=()):
        """One branch per width: the codes are int8, int16, or, for 24 bits, real numbers that float32 holds exactly."""
        bits, exponent = self.current(x, training)
        if len(self.widths) == 1:
            return consume(self.at_width(x, self.widths[0], exponent))
        index = tf.reduce_sum(tf.cast(bits > tf.constant(self.widths), tf.int32))
        return tf.switch_case(
            index, [lambda width=width: consume(self.at_width(x, width, exponent)) for width in self.widths]
        )

    def encode(self, x, training, parameters=()):
        """As codes of one type: integers for a single width, else real numbers."""
        bits, exponent = self.current(x, training)
        if len(self.widths) == 1:
            return self.at_width(x, self.widths[0], exponent)
        return Quantized(
            quantize(x, bits, exponent) * self.finite_scale(tf.constant(1.0), training_quantize.extremes(x))
        )

    def current(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Bits and shift of this step."""
        if training:
            return self.adjust(x)

        def one_shot():  # before the first step
            ends = training_quantize.extremes(x)
            bits, exponent, _ = choose_bits(
                x, tf.maximum(-ends[0], ends[1]), self.widths[0], self.error_threshold, self.widths
            )
            return bits, exponent

        return tf.cond(self.read(self.ranged), lambda: (self.read(self.bits), self.read(self.shift)), one_shot)

    def at_width(self, x: tf.Tensor, width: int, exponent: tf.Tensor) -> Quantized:
        """``x`` at a width that is known while tracing."""
        half = 1 << (width - 1)
        if width == 24:
            return Quantized(
                quantize(x, width, exponent) * self.finite_scale(tf.constant(1.0), training_quantize.extremes(x))
            )
        codes, extremes = training_quantize.quantize(x, power_of_two(-exponent), low=-half, high=half - 1)
        return Quantized(codes, self.finite_scale(power_of_two(exponent), extremes), -half, half - 1)

    # ---- QPA ----------------------------------------------------------------------------------------------------
    def adjust(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Bits and shift for this step, adjusted first where an update is due.

        A tensor that is zero everywhere, or holds a NaN or Inf, leaves every state as it is.
        """
        step, due_at = tf.convert_to_tensor(self.step), tf.convert_to_tensor(self.next_update)
        bits, exponent = tf.convert_to_tensor(self.bits), tf.convert_to_tensor(self.shift)
        due = step >= due_at

        def update():
            ends = replicas.extremes(training_quantize.extremes(x))
            largest = tf.maximum(-ends[0], ends[1])
            usable = largest > 0  # false for NaN too
            old = (bits, exponent, tf.convert_to_tensor(self.moving_range), tf.convert_to_tensor(self.ranged), due_at)
            return (*replicas.when(usable, lambda: self._adjusted(x, largest, step), old), usable)

        kept = (
            bits, exponent, tf.convert_to_tensor(self.moving_range), tf.convert_to_tensor(self.ranged), due_at,
            tf.constant(True)
        )
        bits, exponent, moving_range, ranged, next_update, usable = replicas.when(due, update, kept)
        taken = tf.cast(usable, tf.int64)
        self.bits.assign(bits)
        self.shift.assign(exponent)
        self.moving_range.assign(moving_range)
        self.ranged.assign(ranged)
        self.next_update.assign(next_update)
        self.step.assign(step + taken)
        self.updates.assign(self.updates + taken * tf.cast(due, tf.int64))
        self.steps_at.assign(self.steps_at + taken * tf.cast(tf.equal(bits, tf.constant(self.widths)), tf.int64))
        return bits, exponent

    def _adjusted(self, x, largest, step):
        """``(bits, shift, moving_range, ranged, next_update)`` of an update."""
        old_bits, ranged = tf.convert_to_tensor(self.bits), tf.convert_to_tensor(self.ranged)
        start = old_bits if self.mode == 2 else self.widths[0]
        bits, exponent, error = choose_bits(x, largest, start, self.error_threshold, self.widths)
        new = tf.cast(exponent, tf.float32)
        before = tf.where(ranged, self.moving_range - tf.cast(bits - old_bits, tf.float32), new)
        drift = self.alpha * tf.abs(new - before)
        epoch = tf.convert_to_tensor(self.epoch_steps)
        cap = epoch if self.interval_cap is None else tf.constant(self.interval_cap, tf.int64)
        by_interval = interval(error, drift, cap, beta=self.beta, gamma=self.gamma, delta=self.delta)
        initial = tf.cast(step, tf.float32) < self.init_fraction * tf.cast(epoch, tf.float32)
        wait = tf.where(initial, tf.constant(1, tf.int64), tf.where(step >= epoch, cap, by_interval))
        return bits, exponent, self.alpha * new + (1.0 - self.alpha) * before, tf.constant(True), step + wait

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        names = (
            "threshold", "mode", "alpha", "beta", "gamma", "delta", "init_fraction", "steps_per_epoch", "interval_cap"
        )
        return {**super().get_config(), "widths": list(self.widths), **{name: getattr(self, name) for name in names}}
