"""``ConstantMultiply``: a tensor times a quantized constant (leaky ReLU's slope, PReLU's slopes, a map of pool
reciprocals).
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti import quantizers
from graffiti.layers import exact, settings


@keras.saving.register_keras_serializable(package="graffiti")
class ConstantMultiply(keras.layers.Layer):
    """``x * q(constant)``, exact on codes at inference.

    Backward: ``d x = upstream * q(constant)``; the constant itself is trained only where it is said so.

    Args:
        shape: of the constant; it broadcasts against ``x``.
        quantizer: a ``Quantizer`` for the constant, its name or config; ``None`` leaves it in float.
        input_bits: width of the codes of ``x``; ``None`` where unknown. Where product codes may pass 24 bits the layer
            multiplies in float64 at inference and rounds to odd.
        trained: whether the constant is trained (the slopes of a PReLU).
        weight_settings: as in ``QuantizedProduct``, of ``constant``.
        ties: as in ``QuantizedProduct``.
        node_names: as in ``Quantize``.
        value_names: as in ``QuantizedProduct``.

    Input: ``x``. Output: the shape of ``x``.
    """

    def __init__(
        self, shape, quantizer=None, *, input_bits: int | None = None, trained: bool = False,
        node_names: list[str] | None = None,
        value_names: dict[str, dict[str, str]] | None = None, weight_settings: settings.Settings | None = None,
        ties: list[tuple[str, int, str]] | None = None, **kwargs,
    ) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.supports_masking = True
        self.shape = tuple(int(n) for n in shape)
        self.quantizer: Any = quantizers.get(quantizer)
        self.input_bits, self.trained = input_bits, bool(trained)
        self.weight_settings = settings.restored(weight_settings)
        self.ties = settings.ties(ties)
        self.node_names = list(node_names or [self.name])
        self.value_names = {node: dict(names) for node, names in (value_names or {}).items()}

    def build(self, input_shape) -> None:
        """Create the constant."""
        given = settings.arguments(self.weight_settings.get("constant", {}))
        given["trainable"] &= self.trained
        self.constant = self.add_weight(name="constant", shape=self.shape, initializer="ones", **given)
        if self.quantizer is not None and not self.quantizer.built:
            self.quantizer.build(self.shape)

    def call(self, x, training=None, node: str | None = None):
        """Multiply; ``node`` only says which node of the graph this call is."""
        constant = tf.convert_to_tensor(self.constant)
        if self.quantizer is not None:
            constant = self.quantizer(constant)
            if not training and (self.input_bits is None or self.input_bits + self.quantizer.bits > 24):
                return exact.round_to_odd(tf.cast(x, tf.float64) * tf.cast(constant, tf.float64))
        return x * constant

    def calibration_inputs(self, inputs):
        """The one quantizer and what it sees."""
        if self.quantizer is not None:
            yield self.quantizer, [tf.convert_to_tensor(self.constant)]

    def compute_output_shape(self, input_shape):
        """That of ``x``: the constant never enlarges it."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "shape": self.shape, "quantizer": quantizers.serialize(self.quantizer),
            "input_bits": self.input_bits, "trained": self.trained,
            "weight_settings": settings.serialized(self.weight_settings),
            **({"ties": [list(tie) for tie in self.ties]} if self.ties else {}),
            "node_names": list(self.node_names),
            "value_names": {node: dict(names) for node, names in self.value_names.items()},
        }
