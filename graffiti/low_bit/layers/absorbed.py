"""What stands in the place of a layer that another one computes, so that names and ``strip`` find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras


class AbsorbedLayer(keras.layers.Layer):
    """Stands where a layer stood that another one computes; hands its input on.

    Args:
        original: the serialized layer.
        **kwargs: of ``keras.layers.Layer``.
    """

    def __init__(self, *, original: Mapping[str, Any], **kwargs) -> None:
        super().__init__(**kwargs)
        self.original = dict(original)
        self.supports_masking = True

    def call(self, inputs):
        """``inputs``."""
        return inputs

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape

    def plain_layer(self) -> keras.layers.Layer:
        """The layer that stood here."""
        return keras.saving.deserialize_keras_object(self.original)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "original": self.original}


@keras.saving.register_keras_serializable(package="graffiti")
class AbsorbedReLU(AbsorbedLayer):
    """An ``AbsorbedLayer`` where a ReLU stood that the batch norm or the residual sum in front of it computes."""


@keras.saving.register_keras_serializable(package="graffiti")
class AbsorbedBatchNormalization(AbsorbedLayer):
    """An ``AbsorbedLayer`` where a batch norm stood that the residual sum behind it computes.

    Args:
        computed_by: name of the ``ResidualBatchNormalization``, in the same model.
        **kwargs: see ``AbsorbedLayer``.
    """

    def __init__(self, *, computed_by: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.computed_by = str(computed_by)

    def call(self, inputs, training=None, mask=None):
        """``inputs``. Keras hands a mask to whatever takes one, and so back to the batch norm when ``strip`` calls
        it.
        """
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "computed_by": self.computed_by}
