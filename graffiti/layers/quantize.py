"""``Quantize``: a quantizer as a layer, with the exponent as a second output."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti import quantizers
from graffiti.layers import exact


@keras.saving.register_keras_serializable(package="graffiti")
class Quantize(keras.layers.Layer):
    """Fake-quantize an activation and tell the exponent of its codes.

    Forward: ``clip(round(x/s), qmin, qmax) * s`` with ``s = 2**exponent``, as ``quantizer`` defines it. Backward: the
    quantizer's. Called several times, the calls share one threshold and their gradients add up.

    Args:
        quantizer: a ``Quantizer``, its name or its config.
        node_names: names of the graph nodes that this layer's calls are, the layer's name by default. Several calls say
            which node they are with ``node=``, because Keras may change their order when it clones a model.
        group: the graph's name for the shared threshold, ``None`` where the threshold is the node's own.
        roles: node name → role, for nodes that do not have the quantizer's role.

    Returns:
        ``(fake-quantized x, exponent)``: float32 of the shape of ``x``, and an integer-valued float32 scalar (or one
        per channel) without a gradient.

    References: Jain et al., arXiv 1903.08066, section 3.
    """

    def __init__(
        self, quantizer, *, node_names: list[str] | None = None, group: str | None = None,
        roles: dict[str, str] | None = None, **kwargs
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.quantizer: Any = quantizers.get(quantizer)
        if self.quantizer is None:
            raise ValueError(
                f"layer {self.name!r} needs a quantizer, got None; leave the layer out where nothing is quantized"
            )
        self.node_names = list(node_names or [self.name])
        self.group, self.roles = group, dict(roles or {})
        self.supports_masking = True

    def build(self, input_shape) -> None:
        """Create the quantizer's threshold."""
        if not self.quantizer.built:
            self.quantizer.build(input_shape)

    def call(self, x, node: str | None = None, training: bool | None = None):
        """Fake-quantize ``x``; ``node`` only says which node of the graph this call is. At inference a zero has no
        sign, like its code.
        """
        x = self.quantizer(tf.cast(x, tf.float32))  # uint8 images come in as they are
        return x if training else exact.one_zero(x), tf.stop_gradient(self.quantizer.exponent())

    def compute_mask(self, inputs, previous_mask=None):
        """None: in a quantized model masks are values that go where they are needed, never hung on other tensors."""
        return None

    def compute_output_spec(self, x, node: str | None = None, training: bool | None = None):
        """Two float32 tensors."""
        channels = () if self.quantizer.channel_axis is None else tuple(self.quantizer.log2_threshold.shape)
        return keras.KerasTensor(x.shape, "float32"), keras.KerasTensor(channels, "float32")

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        config = {
            "quantizer": quantizers.serialize(self.quantizer), "node_names": list(self.node_names), "group": self.group,
            "roles": dict(self.roles)
        }
        return {**super().get_config(), **config}
