"""Small error for large gradients: a clipping factor per layer that holds the clipped part of the large gradients at
its optimum.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from graffiti.low_bit import replicas
from graffiti.low_bit.quantized import Quantized
from graffiti.low_bit.quantizers.base import TensorQuantizer, check_bits, check_number
from graffiti.ops import training_quantize

HALF_NORMAL = math.sqrt(1.0 - 2.0 / math.pi)  # deviation of a half normal distribution over that of the normal one
_TINY = 1e-8


def gradient_step(factor: tf.Tensor, largest: tf.Tensor, bits: int) -> tf.Tensor:
    """``2c / (2**b - 2)`` with ``c = gamma * max|G|``, or 1e-8 where that is zero.

    Args:
        factor: ``gamma``, the part of the range that is kept.
        largest: ``max|G|``.
        bits: ``b``.
    """
    clip = factor * largest
    return 2.0 * tf.where(tf.equal(clip, 0.0), _TINY, clip) / float(2**bits - 2)


def target_rate(alpha: float, bits: int) -> float:
    """``alpha / (2**b - 1)``: the part of all gradients that the best interval clips."""
    return alpha / (2**bits - 1)


def next_factor(factor: tf.Tensor, clipped: tf.Tensor, target: float, beta: float) -> tf.Tensor:
    """``clip(gamma + beta * sign(R - target), 0.001, 1)``.

    Args:
        factor: ``gamma``.
        clipped: ``R``, the part of the gradients that was clipped.
        target: from ``target_rate``.
        beta: how far it moves in one step; 0 holds it.
    """
    return tf.clip_by_value(factor + beta * tf.sign(clipped - target), 0.001, 1.0)


def first_factor(g: tf.Tensor, target: float, beta: float) -> tf.Tensor:
    """The first of 1, 1-beta, 1-2·beta ... whose clipped part exceeds the target (the plain search); at least 0.001.

    Args:
        g: gradients of the first step, float32, any shape.
        target: from ``target_rate``.
        beta: the distance between two candidates, above 0.
    """
    magnitude = tf.abs(g) / tf.reduce_max(tf.abs(g))
    kept = tf.cast(tf.floor(target * tf.cast(tf.size(g), tf.float32)), tf.int32) + 1  # so many must be clipped
    edge = tf.sort(tf.reshape(magnitude, [-1]), direction="DESCENDING")[kept - 1]
    steps = tf.floor((1.0 - edge) / beta) + 1.0
    return tf.clip_by_value(1.0 - beta * steps, 0.001, 1.0)


def first_scale(x: tf.Tensor, half_normal: bool) -> tf.Tensor:
    """``3 * std(x)``, the sample deviation; for unsigned activations the deviation of the underlying normal
    distribution.
    """
    count = tf.cast(tf.size(x), tf.float32)
    variance = tf.math.reduce_variance(x) * count / tf.maximum(count - 1.0, 1.0)
    return 3.0 * tf.sqrt(variance) / (HALF_NORMAL if half_normal else 1.0)


@keras.saving.register_keras_serializable(package="graffiti")
class LargeGradients(TensorQuantizer):
    """Gradients of b bits, stochastic rounding, clipped at ``gamma * max|G|`` with a factor that follows the large
    gradients.

    ``step = 2*gamma*max|G| / (2**b - 2)``, codes ``clip(round(G/step + U), -(2**(b-1)-1), 2**(b-1)-1)``, ``U`` uniform
    in [-1/2, 1/2). After each use in training ``gamma += beta * sign(R - alpha/(2**b-1))`` with ``R`` the part of ``|G|
    > gamma*max|G|``, held in 0.001…1. Backward: none (it is the backward).

    Args:
        bits: b, 2 to 16.
        alpha: the part of the gradients that counts as large.
        beta: step of the factor; 0 keeps it (the baselines with a fixed factor).
        initial_factor: first ``gamma``; ``"search"`` takes the plain search on the first gradient.
        **kwargs: see ``TensorQuantizer``.

    References: Kim et al., ECCV 2024, arXiv 2407.12637, sections 3.2 and 3.3.
    """

    def __init__(
        self, *, bits: int = 4, alpha: float = 1e-3, beta: float = 1e-3, initial_factor: float | str = 1.0, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits("bits of large_gradients", bits, 2, 16)
        self.alpha, self.beta = check_number("alpha", alpha, 0.0, 1.0), check_number("beta", beta, 0.0, 1.0)
        self.initial_factor = (
            initial_factor if initial_factor == "search" else check_number("initial_factor", initial_factor, 0.001, 1.0)
        )

    def build(self, input_shape=None) -> None:
        """Create the state."""
        self.factor = self.add_state("factor", 1.0 if self.initial_factor == "search" else self.initial_factor)
        self.searched = self.add_state("searched", self.initial_factor != "search", "bool")
        self.add_noise()
        self.built = True

    def encode(self, x, training, parameters=()):
        """The codes at the current factor, and in training the factor for the next step."""
        ends = training_quantize.extremes(x)
        ends = replicas.extremes(ends)
        largest = tf.maximum(-ends[0], ends[1])
        target = target_rate(self.alpha, self.bits)
        factor = self.read(self.factor)
        if training and self.initial_factor == "search":
            search = ~tf.convert_to_tensor(self.searched) & (largest > 0)
            factor = tf.cond(search, lambda: first_factor(x, target, self.beta), lambda: factor)
            factor = replicas.maximum(factor)
            self.searched.assign(tf.convert_to_tensor(self.searched) | (largest > 0))
        step = gradient_step(factor, largest, self.bits)
        top = 2 ** (self.bits - 1) - 1
        codes, _ = training_quantize.quantize(
            x, 1.0 / step, low=-top, high=top, rounding="stochastic", seed=self.next_seed()
        )
        if training and (self.beta or self.initial_factor == "search"):
            clipped = replicas.mean(training_quantize.count_above(x, factor * largest) / tf.size(x, tf.int64))
            moved = next_factor(factor, tf.cast(clipped, tf.float32), target, self.beta)
            self.factor.assign(tf.where(largest > 0, moved, factor))  # not where all is zero or something is NaN
        return Quantized(codes, self.finite_scale(step, ends), -top, top)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in ("bits", "alpha", "beta", "initial_factor")}
        }


@keras.saving.register_keras_serializable(package="graffiti")
class LearnedScale(TensorQuantizer):
    """Weights or activations of b bits with a learned range, rounded to nearest.

    Weights and signed activations: codes ``round(clip(v/|s|, -1, 1) * (2**(b-1)-1))``; unsigned activations:
    ``round(clip(v/|s|, 0, 1) * (2**b-1))``. Backward inside the range: 1 for ``v``, ``vq/s - v/s`` for ``s``; outside:
    0 for ``v``, the clipped ±1 (0 below an unsigned range) for ``s``. ``s`` starts at the first tensor: ``3*std``
    (weights, signed), ``3*std/sqrt(1-2/pi)`` (unsigned).

    Args:
        bits: b, 2 to 8.
        **kwargs: see ``TensorQuantizer``; ``signed`` comes from the network (false behind a ReLU).

    References: Kim et al., arXiv 2407.12637, and its released code.
    """

    def __init__(self, *, bits: int = 4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.bits = check_bits("bits of a learned scale", bits, 2, 8)

    @property
    def top(self) -> int:
        """The highest code."""
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    def build(self, input_shape=None) -> None:
        """Create the scale."""
        self.scale = self.add_weight(name="learned_scale", shape=(), initializer="ones", trainable=self.trainable)
        self.started = self.add_state("started", False, "bool")
        self.built = True

    def prepare(self, x, training):
        """Take the first tensor's deviation."""
        if not training:
            return
        started = tf.convert_to_tensor(self.started)
        value = tf.cond(
            started, lambda: tf.convert_to_tensor(self.scale),
            lambda: first_scale(tf.stop_gradient(x), half_normal=not self.signed)
        )
        value = replicas.mean(value)
        self.scale.assign(tf.where(value > 0, value, tf.convert_to_tensor(self.scale)))
        self.started.assign(started | (value > 0))

    def parameters(self):
        """The scale."""
        return [self.scale]

    def encode(self, x, training, parameters=()):
        """The codes."""
        scale = tf.abs(parameters[0])
        low = -self.top if self.signed else 0
        codes, extremes = training_quantize.quantize(x, float(self.top) / scale, low=low, high=self.top)
        return Quantized(codes, self.finite_scale(scale / float(self.top), extremes), low, self.top)

    def gradient(self, x, upstream, parameters):
        """Masked for ``x``; the published gradient of the scale."""
        scale = parameters[0]
        ratio = x / tf.abs(scale)
        low = -1.0 if self.signed else 0.0
        inside = (ratio >= low) & (ratio <= 1.0)
        clipped = tf.clip_by_value(ratio, low, 1.0)
        rounded = tf.round(clipped * float(self.top)) / float(self.top)
        of_scale = tf.where(inside, rounded - ratio, clipped) * tf.sign(scale)
        return tf.where(inside, upstream, tf.zeros_like(upstream)), [tf.reduce_sum(upstream * of_scale)]

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "bits": self.bits}
