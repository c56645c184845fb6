"""Attention layers of low-bit training: the projections of queries, keys, values and outputs; scores and softmax stay float."""

from __future__ import annotations

import functools

import keras

from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.layers.dense import explicit_equation
from graffiti.low_bit.product_layer import LowBitProduct
from graffiti.low_bit.products import EinsumProduct


class _Attention(LowBitLayer):
    """Keras' layer with its own projections, each of which multiplies by a product of its own."""

    def build(self, query_shape, value_shape, key_shape=None) -> None:  # type: ignore[override]  # as Keras declares it
        """The projections' weights, then the state of their products."""
        super(LowBitLayer, self).build(query_shape, value_shape, key_shape)
        self.projection_products = []
        for dense in self._flatten_layers(include_self=False):
            if isinstance(dense, keras.layers.EinsumDense):
                product = LowBitProduct(self.low_bit, "dense", f"{self.name}/{dense.name}", name=f"low_bit_{dense.name}")
                product.build(tuple(dense.kernel.shape))
                product.constrain(dense.kernel)
                dense.call = functools.partial(_project, dense, product)
                self.projection_products.append(product)

    def low_bit_products(self):
        """One for each projection."""
        return self.projection_products


def _project(dense: keras.layers.EinsumDense, low_bit_product: LowBitProduct, inputs, training=None):
    """``einsum(q(x), q(kernel)) + bias`` in the place of ``EinsumDense.call``."""
    product = EinsumProduct(explicit_equation(dense.equation, len(inputs.shape)), tuple(dense.kernel.shape))
    y = low_bit_product.compute(product, inputs, dense.kernel, training)
    y = y if dense.bias is None else y + dense.bias
    return keras.ops.cast(y if dense.activation is None else dense.activation(y), dense.compute_dtype)


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitMultiHeadAttention(_Attention, keras.layers.MultiHeadAttention):
    """``MultiHeadAttention`` with low-bit projections."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitGroupQueryAttention(_Attention, keras.layers.GroupQueryAttention):
    """``GroupQueryAttention`` with low-bit projections."""
