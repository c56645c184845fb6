"""``LowBitLayer``: what every compute layer of low-bit training adds to the Keras layer that it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from graffiti.low_bit.product_layer import LowBitProduct, Settings

if TYPE_CHECKING:
    _Base: Any = object  # a subclass names the Keras layer as its second base
else:
    _Base = object


class LowBitLayer(_Base):
    """Stands in front of a Keras layer class: same name, same weights, same config, plus ``low_bit`` settings.

    A subclass names its ``low_bit_kind`` and computes its products through ``self.low_bit_product``. ``plain()`` gives
    the Keras layer back.
    """

    low_bit_kind = "dense"

    def __init__(self, *args, low_bit: Settings | Mapping[str, Any], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.low_bit = Settings.get(low_bit)
        self.supports_jit = False

    @classmethod
    def covers(cls, layer) -> bool:
        """Whether a Keras layer of the class that this one stands for can be trained in low bits."""
        return True

    def build(self, input_shape) -> None:
        """The Keras layer's weights, then the quantizers' state."""
        super().build(input_shape)
        self.low_bit_product = LowBitProduct(self.low_bit, self.low_bit_kind, self.name)
        self.low_bit_product.build(
            self.low_bit_kernel_shape(), (self.bias.shape[0],) if getattr(self, "bias", None) is not None else None
        )
        self.low_bit_product.constrain(self.kernel)

    def low_bit_kernel_shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return tuple(self.kernel.shape)

    def low_bit_products(self) -> list[LowBitProduct]:
        """Every product of the layer."""
        return [self.low_bit_product]

    def low_bit_state(self) -> list[Any]:
        """The variables that the plain layer does not have."""
        return [variable for product in self.low_bit_products() for variable in product.variables]

    def finish(self, y):
        """Activation and the layer's own dtype."""
        y = y if self.activation is None else self.activation(y)
        return y if y.dtype == self.compute_dtype else tf.cast(y, self.compute_dtype)

    @classmethod
    def plain_class(cls) -> type:
        """The Keras layer class that this one stands for."""
        return cls.__mro__[cls.__mro__.index(LowBitLayer) + 1]

    def plain_config(self) -> dict[str, Any]:
        """The config of the Keras layer."""
        return self.low_bit.plain_config(self.get_config())

    def get_config(self) -> dict[str, Any]:
        """The Keras layer's config and the settings."""
        return {**super().get_config(), "low_bit": self.low_bit.to_config()}

