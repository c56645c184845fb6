"""Layers around compute layers: ``Bidirectional`` stays Keras' own, ``TimeDistributed`` folds time into the batch."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="graffiti")
class FoldedTimeDistributed(keras.layers.TimeDistributed):
    """``TimeDistributed`` that calls its layer once on ``[batch * time, …]``, not once for each time step:
    quantizers see the whole tensor.
    """

    def call(self, inputs, training=None, mask=None):
        """The layer's output with time as the second axis again."""
        shape = keras.ops.shape(inputs)
        folded = self.layer(keras.ops.reshape(inputs, (-1, *inputs.shape[2:])), training=training)
        return keras.ops.reshape(folded, (shape[0], shape[1], *folded.shape[1:]))


WRAPPERS: dict[type, tuple[Any, tuple[str, ...]]] = {
    keras.layers.Bidirectional: (keras.layers.Bidirectional, ("forward_layer", "backward_layer")),
    keras.layers.TimeDistributed: (FoldedTimeDistributed, ("layer",)),
    FoldedTimeDistributed: (keras.layers.TimeDistributed, ("layer",)),
}
_IN_CONFIG = {"forward_layer": "layer"}


def inner_layers(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers that a wrapper calls, by attribute; empty for any other layer."""
    return {name: getattr(layer, name) for name in WRAPPERS[type(layer)][1]} if type(layer) in WRAPPERS else {}


def rewrap(layer: keras.layers.Layer, inner: dict[str, keras.layers.Layer]) -> keras.layers.Layer:
    """A wrapper with other layers inside: of low-bit training for an ordinary one, and the other way round."""
    config = layer.get_config()
    for name, new in inner.items():
        config[_IN_CONFIG.get(name, name)] = keras.saving.serialize_keras_object(new)
    return WRAPPERS[type(layer)][0].from_config(config)
