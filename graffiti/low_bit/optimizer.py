"""``LowBitOptimizer``: the user's optimizer for the weights, Adam with a small rate for learned quantizer scales."""

from __future__ import annotations

from typing import Any

import keras

from graffiti.optimizers import TwoOptimizers

SCALE_PATTERN = r"(.*/)?learned_scale"


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitOptimizer(TwoOptimizers):
    """Two optimizers: one for weights, one for the learned scales of ``large_gradients``, without weight decay.

    Args:
        weights: an optimizer (object, config or name) for everything but the scales.
        scales: for the learned scales; ``None`` takes Adam with ``scale_learning_rate``.
        scale_learning_rate: a number or a schedule; published: 1e-5, decayed together with the weights' rate.
        loss_scale_factor, name: as in every Keras optimizer.

    Example:
        >>> t.compile(graffiti.LowBitOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), loss=...)

    References: Kim et al., arXiv 2407.12637, released code.
    """

    def __init__(
        self, weights: keras.optimizers.Optimizer | str = "sgd", scales: keras.optimizers.Optimizer | None = None, *,
        scale_learning_rate=1e-5,
        loss_scale_factor: float | None = None, name: str = "low_bit",
    ) -> None:
        weights = keras.optimizers.get(weights)
        if scales is None:
            scales = keras.optimizers.Adam(scale_learning_rate, name="scales_adam")
        super().__init__(SCALE_PATTERN, scales, weights, loss_scale_factor=loss_scale_factor, name=name)

    @property
    def scales_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the learned scales."""
        return self.special_optimizer

    def get_config(self) -> dict[str, Any]:
        """Plain values: both optimizers."""
        return {**super().get_config(), "scales": keras.saving.serialize_keras_object(self.scales_optimizer)}
