"""Attention layers of low-bit training: the projections of queries, keys, values and outputs; scores and softmax
stay float.
"""

from __future__ import annotations

import keras

from graffiti.keras_io import compat
from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.layers.dense import explicit_equation
from graffiti.low_bit.product_layer import LowBitProduct
from graffiti.low_bit.products import EinsumProduct


class Projection(keras.layers.EinsumDense):
    """A projection inside an attention layer. That layer holds its product, which is saved there; here is only how to
    multiply.

    Attributes:
        multiply: ``compute`` of a ``LowBitProduct``.
    """

    @classmethod
    def of(cls, dense: keras.layers.EinsumDense, product: LowBitProduct) -> Projection:
        """The layer that Keras made and built, with this class's ``call``; its weights stay where they are."""
        dense.__class__ = cls
        dense.multiply = product.compute
        return dense

    def call(self, inputs, training=None):
        """``activation(einsum(q(x), q(kernel)) + bias)``."""
        product = EinsumProduct(explicit_equation(self.equation, len(inputs.shape)), tuple(self.kernel.shape))
        y = self.multiply(product, inputs, self.kernel, training)
        y = y if self.bias is None else y + self.bias
        return keras.ops.cast(y if self.activation is None else self.activation(y), self.compute_dtype)


class _Attention(LowBitLayer):
    """Keras' layer with its own projections, each of which multiplies by a product of its own."""

    def build(self, query_shape, value_shape, key_shape=None) -> None:  # type: ignore[override]  # as Keras declares it
        """The projections' weights, then the state of their products."""
        super(LowBitLayer, self).build(query_shape, value_shape, key_shape)
        self.projection_products = []
        for dense in compat.sublayers(self)[1:]:
            if isinstance(dense, keras.layers.EinsumDense):
                product = LowBitProduct(
                    self.low_bit, "dense", f"{self.name}/{dense.name}", name=f"low_bit_{dense.name}"
                )
                product.build(tuple(dense.kernel.shape))
                product.constrain(dense.kernel)
                Projection.of(dense, product)
                self.projection_products.append(product)

    def low_bit_products(self):
        """One for each projection."""
        return self.projection_products


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitMultiHeadAttention(_Attention, keras.layers.MultiHeadAttention):
    """``MultiHeadAttention`` with low-bit projections."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitGroupQueryAttention(_Attention, keras.layers.GroupQueryAttention):
    """``GroupQueryAttention`` with low-bit projections."""
