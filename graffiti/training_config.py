"""How a network is trained in low bits: frozen dataclasses of plain values. The presets are in
``training_schemes.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

LAYER_KINDS = ("convolution", "depthwise", "dense", "recurrent")
_TENSORS = ("weights", "activations", "gradients", "bias", "weight_gradients", "stored_weights", "batch_norm")


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """The quantizer of one kind of tensor.

    Args:
        quantizer: registry name (``low_bit/quantizers/__init__.py``).
        arguments: its hyper-parameters, plain values.
    """

    quantizer: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.quantizer, str) or not self.quantizer:
            raise ValueError(f"the quantizer of a TensorSpec is a registry name, got {self.quantizer!r}")
        if not isinstance(self.arguments, Mapping) or not all(isinstance(key, str) for key in self.arguments):
            raise ValueError(f"the arguments of a TensorSpec are a dict with names as keys, got {self.arguments!r}")
        object.__setattr__(self, "arguments", dict(self.arguments))

    def to_config(self) -> dict[str, Any]:
        """Plain values; ``from_config`` reads them back."""
        return {"quantizer": self.quantizer, "arguments": dict(self.arguments)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TensorSpec:
        """The inverse of ``to_config``."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class TrainingScheme:
    """Low-bit training of a whole network: a quantizer for each kind of tensor, and which products use them.

    Each compute layer is three products: forward ``Y = X·W``, input gradient ``dX = dY·Wᵀ``, weight gradient ``dW =
    Xᵀ·dY``.

    Args:
        weights: W on use; ``None`` leaves it in float, as with all of these.
        activations: X.
        gradients: dY, quantized once for both backward products.
        bias: the bias on use; its gradient is then the sum of the quantized dY.
        weight_gradients: dW before the optimizer sees it.
        error_feedback: keep what the rounding of ``weight_gradients`` loses and add it to the next dW (lazy update).
        stored_weights: the master weights themselves, after each update (quantized update).
        batch_norm: quantizer of the two parts of batch norm; ``None`` computes it in float32.
        forward, input_gradient, weight_gradient: switch one product to float with ``False``.
        first_layer: false keeps the compute layers that see the network's inputs in float.
        last_layer: false keeps those that make its outputs in float.
        kinds: kinds of layers that take part, of ``convolution depthwise dense recurrent``.
        name: for messages.

    Raises:
        ValueError: where a field is not one of these.
    """

    weights: TensorSpec | None = None
    activations: TensorSpec | None = None
    gradients: TensorSpec | None = None
    bias: TensorSpec | None = None
    weight_gradients: TensorSpec | None = None
    error_feedback: bool = False
    stored_weights: TensorSpec | None = None
    batch_norm: TensorSpec | None = None
    forward: bool = True
    input_gradient: bool = True
    weight_gradient: bool = True
    first_layer: bool = True
    last_layer: bool = True
    kinds: tuple[str, ...] = LAYER_KINDS
    name: str = "custom"

    def __post_init__(self) -> None:
        for field in _TENSORS:
            spec = getattr(self, field)
            if spec is not None and not isinstance(spec, TensorSpec):
                raise ValueError(f"{field} of a TrainingScheme is a TensorSpec or None, got {spec!r}")
        object.__setattr__(self, "kinds", tuple(self.kinds))
        unknown = sorted(set(self.kinds) - set(LAYER_KINDS))
        if unknown:
            raise ValueError(f"kinds of a TrainingScheme are of {', '.join(LAYER_KINDS)}, got {', '.join(unknown)}")
        if self.error_feedback and self.weight_gradients is None:
            raise ValueError(
                "error_feedback keeps what the rounding of weight_gradients loses: give weight_gradients a "
                "TensorSpec too"
            )

    def replace(self, **changes) -> TrainingScheme:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_config(self) -> dict[str, Any]:
        """Plain values; ``from_config`` reads them back."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: value.to_config() if isinstance(value, TensorSpec) else list(value) if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainingScheme:
        """The inverse of ``to_config``.

        Raises:
            ValueError: where a key is unknown.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(config) - set(names))
        if unknown:
            raise ValueError(f"a TrainingScheme has the fields {', '.join(names)}, got {', '.join(unknown)} too")
        values: dict[str, Any] = dict(config)
        for name in _TENSORS:
            if isinstance(values.get(name), Mapping):
                values[name] = TensorSpec.from_config(values[name])
        return cls(**values)
