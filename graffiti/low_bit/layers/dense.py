"""Dense layers of low-bit training."""

from __future__ import annotations

import keras

from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.products import EinsumProduct, MatrixProduct


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitDense(LowBitLayer, keras.layers.Dense):
    """``Dense`` with low-bit products."""

    def call(self, inputs, training=None):
        """``activation(q(x)·q(kernel) + bias)``."""
        product = MatrixProduct(*self.kernel.shape)
        return self.finish(self.low_bit_product.compute(product, inputs, self.kernel, training, self.bias))


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitEinsumDense(LowBitLayer, keras.layers.EinsumDense):
    """``EinsumDense`` with low-bit products; equations in which every index stands in two operands."""

    def call(self, inputs, training=None):
        """``activation(einsum(q(x), q(kernel)) + bias)``."""
        product = EinsumProduct(explicit_equation(self.equation, len(inputs.shape)), tuple(self.kernel.shape))
        y = self.low_bit_product.compute(product, inputs, self.kernel, training)
        return self.finish(y if self.bias is None else y + self.bias)


def explicit_equation(equation: str, rank: int) -> str:
    """The equation with an ellipsis written out as indices."""
    equation = equation.replace(" ", "")
    if "..." not in equation:
        return equation
    first = equation.split(",")[0]
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    return equation.replace("...", "".join(free[: rank - len(first.replace("...", ""))]))
