"""Direction-sensitive gradient clipping of Unified INT8 training: the range with the smallest cosine distance."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti import checks
from graffiti.low_bit import replicas
from graffiti.low_bit.quantizers.base import check_number
from graffiti.low_bit.quantizers.min_max import MinMax


def deviation(g: tf.Tensor, clip: tf.Tensor, bits: int = 8) -> tf.Tensor:
    """``1 - cos(g, gq)`` with ``gq = s * round(clip(g, -c, c) / s)``, ``s = c / (2**(b-1)-1)``.

    Args:
        g: gradients, float32, any shape.
        clip: ``c``, scalar above 0.
        bits: ``b``.

    Returns:
        Scalar, 0 where the direction is kept.
    """
    top = float(2 ** (bits - 1) - 1)
    step = clip / top
    quantized = tf.clip_by_value(tf.round(g / step), -top, top) * step
    return 1.0 - tf.reduce_sum(g * quantized) / tf.maximum(tf.norm(g) * tf.norm(quantized), 1e-30)


def rate_factor(distance: tf.Tensor, alpha: float = 20.0, beta: float = 0.1) -> tf.Tensor:
    """``max(exp(-alpha * d), beta)``: what a layer's learning rate is multiplied by.

    Args:
        distance: ``d``, from ``deviation``.
        alpha: how fast the factor falls.
        beta: the smallest factor.
    """
    return tf.maximum(tf.exp(-alpha * distance), beta)


@keras.saving.register_keras_serializable(package="graffiti")
class DirectionSensitive(MinMax):
    """Gradients clipped at ``c``, chosen from a grid of fractions of ``max|g|`` by the smallest ``1 - cos(g, gq)``
    every ``interval`` steps.

    The weight gradient of the layer is multiplied by ``max(exp(-alpha*d), beta)``. State: ``fraction`` of the current
    maximum, ``distance``, ``step``.

    Args:
        bits: 2 to 16.
        interval: steps between searches.
        candidates: size of the grid.
        alpha, beta: of the learning rate's factor; ``alpha=0`` leaves it.
        **kwargs: see ``MinMax``.

    References: Zhu et al., Towards Unified INT8 Training, CVPR 2020.
    """

    def __init__(
        self, *, interval: int = 100, candidates: int = 20, alpha: float = 20.0, beta: float = 0.1, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.interval = checks.whole("interval of direction_sensitive", interval, 1, 1 << 30, of="steps")
        self.candidates = checks.whole("candidates of direction_sensitive", candidates, 1, 1000)
        self.alpha, self.beta = check_number("alpha", alpha, 0.0, 1e6), check_number("beta", beta, 0.0, 1.0)

    def build(self, input_shape=None) -> None:
        """Create the state."""
        self.fraction = self.add_state("fraction", 1.0)
        self.distance = self.add_state("distance", 0.0)
        self.step = self.add_state("step", 0, "int64")
        super().build(input_shape)

    def largest(self, x, training):
        """The chosen part of the maximum."""
        largest, ends = super().largest(x, training)
        fraction = self.read(self.fraction)
        if training:
            step, distance = tf.convert_to_tensor(self.step), tf.convert_to_tensor(self.distance)
            usable = largest > 0

            def search():
                grid = tf.range(1, self.candidates + 1, dtype=tf.float32) / float(self.candidates)
                distances = replicas.mean(tf.map_fn(lambda part: deviation(x, part * largest, self.bits), grid))
                best = tf.argmin(distances)
                return grid[best], distances[best]

            fraction, distance = replicas.when(usable & tf.equal(step % self.interval, 0), search, (fraction, distance))
            self.fraction.assign(fraction)
            self.distance.assign(distance)
            self.step.assign(step + tf.cast(usable, tf.int64))
        return fraction * largest, ends

    def weight_gradient_factor(self) -> tf.Tensor | None:
        """``phi(d)``."""
        return rate_factor(tf.convert_to_tensor(self.distance), self.alpha, self.beta) if self.alpha else None

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in ("interval", "candidates", "alpha", "beta")}
        }
