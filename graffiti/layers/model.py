"""``QuantizedModel`` and ``Output``: a functional model whose outputs have the names and dtypes of the model it came
from.

Keras names an output after the layer that made it, which in a quantized network is a quantizer or a softmax that was
fused before.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.layers import own_training
from graffiti.reports import QuantizationReport


@keras.saving.register_keras_serializable(package="graffiti")
class Output(keras.layers.Layer):
    """The identity, with the name that an output has in ``QuantizedModel.output_names`` and the mask that its loss
    sees.

    Args:
        output_name: that name.

    Input: ``x``, which then has no mask, or ``[x, mask]``.
    """

    def __init__(self, output_name: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.output_name = str(output_name)
        self.supports_masking = True

    def call(self, inputs):
        """``x`` as a tensor of its own: a mask hangs on the object."""
        return tf.identity(inputs[0] if isinstance(inputs, (list, tuple)) else inputs)

    def compute_mask(self, inputs, previous_mask=None):
        """The second input."""
        return inputs[1] if isinstance(inputs, (list, tuple)) else None

    def compute_output_spec(self, inputs):
        """Shape and dtype of ``x``."""
        x = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "output_name": self.output_name}


@keras.saving.register_keras_serializable(package="graffiti")
class WithMask(keras.layers.Layer):
    """``[x, mask]`` → ``x`` with the mask on it, for a float layer that looks for its mask there; ``[x]``: without
    any.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        """``x`` as a tensor of its own: a mask hangs on the object."""
        return tf.identity(inputs[0])

    def compute_mask(self, inputs, previous_mask=None):
        """The second input, if there is one."""
        return inputs[1] if len(inputs) > 1 else None

    def compute_output_spec(self, inputs):
        """Shape and dtype of ``x``."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)


@keras.saving.register_keras_serializable(package="graffiti")
class InFloat(keras.layers.Layer):
    """The identity; says of a quantized model without any quantizer that it is one: nothing in it has an integer
    form.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, x):
        """``x`` itself."""
        return x

    def compute_output_spec(self, x):
        """Shape and dtype of ``x``."""
        return keras.KerasTensor(x.shape, x.dtype)


@keras.saving.register_keras_serializable(package="graffiti")
class QuantizedModel(keras.Model):
    """A functional ``keras.Model``; losses, metrics and labels go by the output names of the model it was made from.

    Args:
        inputs: as in ``keras.Model``.
        outputs: the same. An output made by an ``Output`` layer has the name that this layer says, any other its
            layer's name.
        name: the model's.
        quantization_report: plain values of a ``QuantizationReport``; a ``.keras`` file holds them.
        **kwargs: as in ``keras.Model``.

    Attributes:
        quantization_report: what ``quantize`` did; empty where nobody knows.
    """

    def __init__(self, inputs, outputs, name=None, *, quantization_report=(), **kwargs) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.quantization_report = QuantizationReport.from_config(quantization_report)
        given = {layer.name: layer.output_name for layer in self.layers if isinstance(layer, Output)}
        self.output_names: list[str] = [given.get(layer, layer) for layer in list(self.output_names)]
        for layer in self.layers:
            for name, number, role in getattr(layer, "ties", ()):
                tie(self.get_layer(name), number, getattr(layer, role))

    def get_config(self) -> dict[str, Any]:
        """That of a functional model, the report, and whose class trains it where that is a user's."""
        by = {"trained_by": own_training.config(self)} if hasattr(self, "trained_by") else {}
        return {**super().get_config(), "quantization_report": self.quantization_report.to_config(), **by}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None) -> QuantizedModel:
        """The inverse of ``get_config``."""
        config = dict(config)
        by = config.pop("trained_by", None)
        if by is not None:
            return own_training.restored(QuantizedModel, by).from_config(config, custom_objects)
        return super().from_config(config, custom_objects=custom_objects)


def tie(layer: keras.layers.Layer, number: int, variable: keras.Variable) -> None:
    """Let a built layer, and those inside it, use another variable for one of theirs.

    Args:
        layer: the layer.
        number: of the weight, in ``layer.weights``.
        variable: what it uses from now on.

    Raises:
        ValueError: where the two do not have one shape.
    """
    old = layer.weights[number]
    if old.shape != variable.shape:
        raise ValueError(
            f"weight {number} of layer {layer.name!r} has the shape {old.shape} and cannot be {variable.path!r} of "
            f"shape {variable.shape}"
        )
    parts = [layer]
    for part in parts:  # it grows
        for attribute, value in vars(part).items():
            if value is old:
                vars(part)[attribute] = variable
            elif type(value) is list:
                value[:] = [variable if entry is old else entry for entry in value]
            held = value if isinstance(value, (list, tuple)) else [value]
            new = [
                one for one in held if isinstance(one, keras.layers.Layer) and not any(one is other for other in parts)
            ]
            parts += dict(zip(map(id, new), new)).values()
