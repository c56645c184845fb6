"""Who computes a product of quantized tensors: int8 kernels or float products of the codes, to the same bits.

``codes(x)·codes(w)`` is a whole number; both engines compute it exactly, round it once to float32 and multiply by the
product of the two scales. The emulated engine does so in float32 where no partial sum can leave 2^24, else in float64.
Operands without one scale (small floats, several scales) are multiplied as real float32 numbers, in both engines.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.low_bit.products import MatrixProduct, Product
from graffiti.low_bit.quantized import Quantized
from graffiti.ops import loader

ENGINES = ("auto", "native", "emulated")
_EXACT_FLOAT32 = float(2**24)


def check(engine: str) -> str:
    """The name of an engine, checked.

    Raises:
        ValueError: where there is no such engine.
        OpsNotAvailable: where ``native`` is asked for and the op library is missing.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "native":
        loader.load()
    return engine


def forward(product: Product, x: Quantized, w: Quantized, engine: str) -> tf.Tensor:
    """``y = x·w`` in float32.

    Args:
        product: what is multiplied with what.
        x: ``[N, ..., inputs]``.
        w: the kernel, laid out as the product says.
        engine: of ``ENGINES``; ``auto`` is native where the kernels take the operands.
    """
    return _compute(product, "forward", x, w, engine, tf.shape(x.codes), None, x.codes.shape)


def input_gradient(
    product: Product, dy: Quantized, w: Quantized, x_shape: tf.Tensor, static_shape, engine: str
) -> tf.Tensor:
    """``dx = dy·wᵀ`` in float32.

    Args:
        product, w, engine: as in ``forward``.
        dy: the gradient of ``y``.
        x_shape: int32 shape of ``x``.
        static_shape: what is known of it while tracing.
    """
    return _compute(product, "input_gradient", dy, w, engine, x_shape, tf.shape(dy.codes), static_shape)


def weight_gradient(product: Product, x: Quantized, dy: Quantized, engine: str) -> tf.Tensor:
    """``dw = xᵀ·dy`` in float32.

    Args:
        product, x, engine: as in ``forward``.
        dy: the gradient of ``y``.
    """
    return _compute(product, "weight_gradient", x, dy, engine, tf.shape(x.codes), tf.shape(dy.codes), x.codes.shape)


def bias_gradient(dy: Quantized, engine: str) -> tf.Tensor:
    """The sum of ``dy`` over all but the last axis, in float32: the weight gradient of an input that is one
    everywhere.
    """
    if not dy.is_integer:
        return tf.reduce_sum(dy.codes, tuple(range(len(dy.codes.shape) - 1)))
    ones = Quantized(tf.ones_like(dy.codes[..., :1], tf.uint8), tf.constant(1.0), 1, 1)
    return weight_gradient(MatrixProduct(1, dy.codes.shape[-1]), ones, dy, engine)[0]


def _compute(product, pass_name, first, second, engine, x_shape, y_shape, static_x) -> tf.Tensor:
    method = getattr(product, pass_name)
    arguments = (x_shape,) if pass_name == "input_gradient" else ()
    if not (first.is_integer and second.is_integer):
        return method(first.real(), second.real(), *arguments)
    scale = first.scale * second.scale
    if engine != "emulated":
        native = _native(product, pass_name, first, second, static_x, engine)
        if native is not None:
            return native(first.codes, second.codes, scale, *arguments)

    def exact(dtype):
        return tf.cast(method(tf.cast(first.codes, dtype), tf.cast(second.codes, dtype), *arguments), tf.float32)

    largest = product.terms(pass_name, x_shape, y_shape) * float(first.magnitude) * float(second.magnitude)
    if isinstance(largest, float):
        return exact(tf.float32 if largest <= _EXACT_FLOAT32 else tf.float64) * scale
    return tf.cond(largest <= _EXACT_FLOAT32, lambda: exact(tf.float32), lambda: exact(tf.float64)) * scale


def _native(product, pass_name, first, second, static_x, engine):
    """The kernel for these operands; ``None`` where there is none or, with ``auto``, no library."""
    types = product.native_types(pass_name)
    if first.codes.dtype not in types[0] or second.codes.dtype not in types[1]:
        return None
    if engine == "auto" and loader.engine() == "python":
        return None
    return product.native(pass_name, tuple(static_x))
