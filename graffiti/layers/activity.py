"""``ActivityLoss``: a regularizer of a value, as a layer of its own."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="graffiti")
class ActivityLoss(keras.layers.Layer):
    """The identity, which adds ``regularizer(x) / batch`` to the losses as a layer's ``activity_regularizer`` does.

    Args:
        regularizer: a ``keras.regularizers.Regularizer`` or its config.
    """

    def __init__(self, regularizer, **kwargs) -> None:
        super().__init__(activity_regularizer=regularizer, **kwargs)
        self.supports_masking = True

    def call(self, x):
        """``x`` itself."""
        return x

    def compute_output_shape(self, input_shape):
        """That of ``x``."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        config = super().get_config()
        regularizer = config.pop("activity_regularizer")
        return {**config, "regularizer": regularizer}
