"""``Product``: one linear product ``y = x·w`` and its two gradients, as geometry. Knows no quantizer and no layer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# Types of the two operands that the int8 kernels take, by pass.
NATIVE_TYPES: dict[str, tuple[tuple[tf.DType, ...], tuple[tf.DType, ...]]] = {
    "forward": ((tf.int8, tf.uint8), (tf.int8,)),
    "input_gradient": ((tf.int8, tf.int16), (tf.int8,)),
    "weight_gradient": ((tf.int8, tf.uint8), (tf.int8, tf.int16)),
}


class Product:
    """Three products that share operands: ``y = x·w``, ``dx = dy·wᵀ``, ``dw = xᵀ·dy``.

    A subclass computes them in the float dtype of its arguments and, where int8 kernels cover its geometry, on codes.
    """

    def forward(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """``y``."""
        raise NotImplementedError

    def input_gradient(self, dy: tf.Tensor, w: tf.Tensor, x_shape: tf.Tensor) -> tf.Tensor:
        """``dx`` of shape ``x_shape`` (int32 tensor)."""
        raise NotImplementedError

    def weight_gradient(self, x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        """``dw``."""
        raise NotImplementedError

    def terms(self, pass_name: str, x_shape: tf.Tensor, y_shape: tf.Tensor) -> tf.Tensor | float:
        """How many summands one output of ``forward``, ``input_gradient`` or ``weight_gradient`` has at most.

        Args:
            pass_name: the method's name.
            x_shape: int32 shape of ``x``.
            y_shape: int32 shape of ``y``.
        """
        raise NotImplementedError

    def native_types(self, pass_name: str) -> tuple[tuple[tf.DType, ...], tuple[tf.DType, ...]]:
        """Which types of codes ``native`` takes."""
        return NATIVE_TYPES[pass_name]

    def native(self, pass_name: str, x_shape: tuple[int | None, ...]) -> Any:
        """The int8 form ``(first codes, second codes, scale[, x_shape]) -> float32`` of a pass, ``None`` where there is
        none.

        Args:
            pass_name: the method's name.
            x_shape: the static shape of ``x``.
        """
        return None
