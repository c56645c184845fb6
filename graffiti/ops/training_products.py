"""The three products of a training step on int8 kernels: codes in, float32 out, ``scale * (exact integer)`` rounded
once.

No gradients are registered: the layers of ``low_bit`` call these inside a custom gradient. The pure-TensorFlow twin is
the emulated engine, ``low_bit/engine.py``, which multiplies the same codes in float64. A NaN as ``scale`` gives NaN
everywhere.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.ops import loader

Pads = tuple[tuple[int, int], tuple[int, int]]


def _geometry(strides, padding: Pads, dilations, tier: str) -> dict:
    return {"strides": list(strides), "pads": [*padding[0], *padding[1]], "dilations": list(dilations), "tier": tier}


def conv2d(
    x, w, scale, *, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto"
) -> tf.Tensor:
    """``y[N,P,Q,O]`` of ``x[N,H,W,C]`` and ``w[kh,kw,C,O]``.

    Args:
        x: int8 or uint8 codes.
        w: int8 codes.
        scale: float32 scalar, the product of the operands' scales.
        strides, dilations: of height and width.
        padding: ``((top, bottom), (left, right))``.
        tier: a name of ``graffiti.ops.loader.TIERS``.
    """
    return loader.load().graffiti_training_conv2d(x, w, scale, **_geometry(strides, padding, dilations, tier))


def conv2d_input_gradient(
    dy, w, scale, *, input_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto"
) -> tf.Tensor:
    """``dx[N,H,W,C]`` of ``dy[N,P,Q,O]`` and ``w[kh,kw,C,O]``.

    Args:
        dy: int8 or int16 codes.
        w, scale, strides, padding, dilations, tier: as of ``conv2d``.
        input_shape: int32 ``[N,H,W,C]``, which the strides leave open.
    """
    return loader.load().graffiti_training_conv2d_input_grad(
        dy, w, scale, input_shape, **_geometry(strides, padding, dilations, tier)
    )


def conv2d_weight_gradient(
    x, dy, scale, *, kernel_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1),
    tier: str = "auto"
) -> tf.Tensor:
    """``dw[kh,kw,C,O]`` of ``x[N,H,W,C]`` and ``dy[N,P,Q,O]``.

    Args:
        dy: int8 or int16 codes.
        x, scale, strides, padding, dilations, tier: as of ``conv2d``.
        kernel_shape: of ``w``; height and width are read.
    """
    return loader.load().graffiti_training_conv2d_weight_grad(
        x, dy, scale, window=list(kernel_shape[:2]), **_geometry(strides, padding, dilations, tier)
    )


def depthwise_conv2d(
    x, w, scale, *, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto"
) -> tf.Tensor:
    """``y[N,P,Q,C*M]`` of ``x[N,H,W,C]`` and ``w[kh,kw,C,M]``.

    Args:
        x, w, scale, strides, padding, dilations, tier: as of ``conv2d``.
    """
    return loader.load().graffiti_training_conv2d(
        x, w, scale, depthwise=True, **_geometry(strides, padding, dilations, tier)
    )


def depthwise_conv2d_input_gradient(
    dy, w, scale, *, input_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1),
    tier: str = "auto",
) -> tf.Tensor:
    """``dx[N,H,W,C]`` of ``dy[N,P,Q,C*M]`` and ``w[kh,kw,C,M]``.

    Args:
        dy, w, scale, input_shape, strides, padding, dilations, tier: as of ``conv2d_input_gradient``.
    """
    return loader.load().graffiti_training_conv2d_input_grad(
        dy, w, scale, input_shape, depthwise=True, **_geometry(strides, padding, dilations, tier)
    )


def depthwise_conv2d_weight_gradient(
    x, dy, scale, *, kernel_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1),
    tier: str = "auto",
) -> tf.Tensor:
    """``dw[kh,kw,C,M]`` of ``x[N,H,W,C]`` and ``dy[N,P,Q,C*M]``.

    Args:
        x, dy, scale, kernel_shape, strides, padding, dilations, tier: as of ``conv2d_weight_gradient``.
    """
    return loader.load().graffiti_training_conv2d_weight_grad(
        x, dy, scale, window=list(kernel_shape[:2]), depthwise=True, **_geometry(strides, padding, dilations, tier))


def matmul(x, w, scale, *, tier: str = "auto") -> tf.Tensor:
    """``y[M,N]`` of ``x[M,K]`` and ``w[K,N]``.

    Args:
        x: int8 or uint8 codes.
        w: int8 codes.
        scale, tier: as of ``conv2d``.
    """
    return tf.squeeze(conv2d(x[None, None], w[None, None], scale, tier=tier), [0, 1])


def matmul_input_gradient(dy, w, scale, *, tier: str = "auto") -> tf.Tensor:
    """``dx[M,K]`` of ``dy[M,N]`` and ``w[K,N]``.

    Args:
        dy: int8 or int16 codes.
        w: int8 codes.
        scale, tier: as of ``conv2d``.
    """
    shape = tf.stack([1, 1, tf.shape(dy)[0], tf.shape(w)[0]])
    return tf.squeeze(conv2d_input_gradient(dy[None, None], w[None, None], scale, input_shape=shape, tier=tier), [0, 1])


def matmul_weight_gradient(x, dy, scale, *, tier: str = "auto") -> tf.Tensor:
    """``dw[K,N]`` of ``x[M,K]`` and ``dy[M,N]``.

    Args:
        x: int8 or uint8 codes.
        dy: int8 or int16 codes.
        scale, tier: as of ``conv2d``.
    """
    return tf.squeeze(
        conv2d_weight_gradient(x[None, None], dy[None, None], scale, kernel_shape=(1, 1), tier=tier), [0, 1]
    )
