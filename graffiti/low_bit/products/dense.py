"""Matrix products: ``Dense``, and ``EinsumDense`` and attention projections that are matrix products after a
transpose.
"""

from __future__ import annotations

import functools
import math

import tensorflow as tf

from graffiti.low_bit.products.base import Product


class MatrixProduct(Product):
    """``x[..., K] · w[K, N]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs, self.outputs = inputs, outputs

    def forward(self, x, w):
        """``[..., N]``."""
        return tf.reshape(
            tf.matmul(tf.reshape(x, [-1, self.inputs]), w), tf.concat([tf.shape(x)[:-1], [self.outputs]], 0)
        )

    def input_gradient(self, dy, w, x_shape):
        """``[..., K]``."""
        return tf.reshape(tf.matmul(tf.reshape(dy, [-1, self.outputs]), w, transpose_b=True), x_shape)

    def weight_gradient(self, x, dy):
        """``[K, N]``."""
        return tf.matmul(tf.reshape(x, [-1, self.inputs]), tf.reshape(dy, [-1, self.outputs]), transpose_a=True)

    def terms(self, pass_name, x_shape, y_shape):
        """K, N, or the number of rows."""
        if pass_name == "weight_gradient":
            return tf.cast(tf.reduce_prod(x_shape[:-1]), tf.float32)
        return float(self.inputs if pass_name == "forward" else self.outputs)

    def native(self, pass_name, x_shape):
        """By the matrix kernels."""
        from graffiti.ops import training_products as kernels

        def forward(x, w, scale):
            y = kernels.matmul(tf.reshape(x, [-1, self.inputs]), w, scale)
            return tf.reshape(y, tf.concat([tf.shape(x)[:-1], [self.outputs]], 0))

        def input_gradient(dy, w, scale, shape):
            return tf.reshape(kernels.matmul_input_gradient(tf.reshape(dy, [-1, self.outputs]), w, scale), shape)

        def weight_gradient(x, dy, scale):
            return kernels.matmul_weight_gradient(
                tf.reshape(x, [-1, self.inputs]), tf.reshape(dy, [-1, self.outputs]), scale
            )

        return {"forward": forward, "input_gradient": input_gradient, "weight_gradient": weight_gradient}[pass_name]


class EinsumProduct(Product):
    """``einsum(equation, x, w)``, for instance ``abc,cde->abde``; every index stands in at least two of ``x``, ``w``,
    ``y``.

    Args:
        equation: without an ellipsis.
        w_shape: the kernel's shape.

    Raises:
        ValueError: where an index of one operand is summed away alone, or stands twice in one operand.
    """

    def __init__(self, equation: str, w_shape: tuple[int, ...]) -> None:
        operands, self.y = equation.replace(" ", "").split("->")
        self.x, self.w = operands.split(",")
        self.w_shape = tuple(w_shape)
        for part in (self.x, self.w, self.y):
            if len(set(part)) != len(part):
                raise ValueError(f"the einsum {equation!r} repeats an index inside one operand; low-bit training takes "
                                 "distinct indices")
        for index in set(self.x + self.w + self.y):
            if sum(index in part for part in (self.x, self.w, self.y)) < 2:
                raise ValueError(
                    f"the index {index!r} of the einsum {equation!r} stands in one operand only; low-bit training "
                    "needs it in two"
                )
        self.sizes = dict(zip(self.w, self.w_shape))
        self.shared = [i for i in self.x if i in self.w and i in self.y]       # batch indices of both operands
        self.rows = [i for i in self.x if i not in self.w]
        self.inner = [i for i in self.w if i in self.x and i not in self.y]
        self.columns = [i for i in self.w if i not in self.x]

    def forward(self, x, w):
        """``y``."""
        return tf.einsum(f"{self.x},{self.w}->{self.y}", x, w)

    def input_gradient(self, dy, w, x_shape):
        """``dx``: the einsum with ``x`` and ``y`` exchanged."""
        return tf.reshape(tf.einsum(f"{self.y},{self.w}->{self.x}", dy, w), x_shape)

    def weight_gradient(self, x, dy):
        """``dw``: the einsum with ``w`` and ``y`` exchanged."""
        return tf.einsum(f"{self.x},{self.y}->{self.w}", x, dy)

    def terms(self, pass_name, x_shape, y_shape):
        """The product of the sizes of the summed indices."""
        if pass_name == "weight_gradient":
            rows = [x_shape[self.x.index(i)] for i in self.rows]
            return tf.cast(functools.reduce(lambda a, b: a * b, rows, tf.constant(1)), tf.float32)
        return float(math.prod(self.sizes[i] for i in (self.inner if pass_name == "forward" else self.columns)))

    def native(self, pass_name, x_shape):
        """As a matrix product between transposes; ``None`` with shared batch indices."""
        if self.shared:
            return None
        inner, columns = (math.prod(self.sizes[i] for i in part) for part in (self.inner, self.columns))
        matrix = MatrixProduct(inner, columns)

        def as_rows(x, names, tail):  # [rows..., tail...] as a matrix
            order = [names.index(i) for i in (*self.rows, *tail)]
            return tf.reshape(tf.transpose(x, order), [-1, math.prod(self.sizes[i] for i in tail)])

        def as_matrix(w):
            return tf.reshape(
                tf.transpose(w, [self.w.index(i) for i in (*self.inner, *self.columns)]), [inner, columns]
            )

        def back(y, names, shape_of, tail):  # a matrix to the order of `names`
            now = [*self.rows, *tail]
            full = tf.reshape(y, [shape_of[i] if i in shape_of else self.sizes[i] for i in now])
            return tf.transpose(full, [now.index(i) for i in names])

        def sizes(x_dims):
            return {i: x_dims[self.x.index(i)] for i in self.rows}

        def forward(x, w, scale):
            y = matrix.native("forward", x_shape)(as_rows(x, self.x, self.inner), as_matrix(w), scale)
            return back(y, self.y, sizes(tf.shape(x)), self.columns)

        def input_gradient(dy, w, scale, shape):
            rows = as_rows(dy, self.y, self.columns)
            dx = matrix.native("input_gradient", x_shape)(
                rows, as_matrix(w), scale, tf.stack([tf.shape(rows)[0], inner])
            )
            return back(dx, self.x, sizes(shape), self.inner)

        def weight_gradient(x, dy, scale):
            dw = matrix.native("weight_gradient", x_shape)(
                as_rows(x, self.x, self.inner), as_rows(dy, self.y, self.columns), scale
            )
            now = [*self.inner, *self.columns]
            return tf.transpose(tf.reshape(dw, [self.sizes[i] for i in now]), [now.index(i) for i in self.w])

        return {"forward": forward, "input_gradient": input_gradient, "weight_gradient": weight_gradient}[pass_name]
