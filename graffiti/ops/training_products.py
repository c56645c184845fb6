"""The three products of a training step on int8 kernels: codes in, float32 out, ``scale * (exact integer)`` rounded once.

No gradients are registered: the layers of ``low_bit`` call these inside a custom gradient. The pure-TensorFlow twin is the emulated engine,
``low_bit/engine.py``, which multiplies the same codes in float64. A NaN as ``scale`` gives NaN everywhere.
"""

from __future__ import annotations

import tensorflow as tf

from graffiti.ops import loader

Pads = tuple[tuple[int, int], tuple[int, int]]


def _geometry(strides, padding: Pads, dilations, tier: str) -> dict:
    return {"strides": list(strides), "pads": [*padding[0], *padding[1]], "dilations": list(dilations), "tier": tier}


def conv2d(x, w, scale, *, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto") -> tf.Tensor:
    """``y[N,P,Q,O]`` of ``x[N,H,W,C]`` (int8 or uint8) and ``w[kh,kw,C,O]`` (int8).

    Args:
        scale: float32 scalar.
        strides, dilations: of height and width.
        padding: ``((top, bottom), (left, right))``.
        tier: ``auto``, ``scalar``, ``avx2`` or ``avx512vnni``.
    """
    return loader.load().graffiti_training_conv2d(x, w, scale, **_geometry(strides, padding, dilations, tier))


def conv2d_input_gradient(dy, w, scale, *, input_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto") -> tf.Tensor:
    """``dx`` of shape ``input_shape`` (int32 ``[N,H,W,C]``) from ``dy[N,P,Q,O]`` (int8 or int16) and ``w`` (int8)."""
    return loader.load().graffiti_training_conv2d_input_grad(dy, w, scale, input_shape, **_geometry(strides, padding, dilations, tier))


def conv2d_weight_gradient(x, dy, scale, *, kernel_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto") -> tf.Tensor:
    """``dw[kh,kw,C,O]`` from ``x`` (int8 or uint8) and ``dy`` (int8 or int16)."""
    return loader.load().graffiti_training_conv2d_weight_grad(x, dy, scale, window=list(kernel_shape[:2]), **_geometry(strides, padding, dilations, tier))


def depthwise_conv2d(x, w, scale, *, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto") -> tf.Tensor:
    """``y[N,P,Q,C*M]`` of ``x[N,H,W,C]`` (int8 or uint8) and ``w[kh,kw,C,M]`` (int8); arguments as of ``conv2d``."""
    return loader.load().graffiti_training_conv2d(x, w, scale, depthwise=True, **_geometry(strides, padding, dilations, tier))


def depthwise_conv2d_input_gradient(
    dy, w, scale, *, input_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto",
) -> tf.Tensor:
    """``dx`` of shape ``input_shape`` from ``dy[N,P,Q,C*M]`` (int8 or int16) and ``w`` (int8)."""
    return loader.load().graffiti_training_conv2d_input_grad(dy, w, scale, input_shape, depthwise=True, **_geometry(strides, padding, dilations, tier))


def depthwise_conv2d_weight_gradient(
    x, dy, scale, *, kernel_shape, strides=(1, 1), padding: Pads = ((0, 0), (0, 0)), dilations=(1, 1), tier: str = "auto",
) -> tf.Tensor:
    """``dw[kh,kw,C,M]`` from ``x`` (int8 or uint8) and ``dy`` (int8 or int16)."""
    return loader.load().graffiti_training_conv2d_weight_grad(
        x, dy, scale, window=list(kernel_shape[:2]), depthwise=True, **_geometry(strides, padding, dilations, tier))


def matmul(x, w, scale, *, tier: str = "auto") -> tf.Tensor:
    """``y[M,N]`` of ``x[M,K]`` and ``w[K,N]``."""
    return tf.squeeze(conv2d(x[None, None], w[None, None], scale, tier=tier), [0, 1])


def matmul_input_gradient(dy, w, scale, *, tier: str = "auto") -> tf.Tensor:
    """``dx[M,K]`` of ``dy[M,N]`` and ``w[K,N]``."""
    shape = tf.stack([1, 1, tf.shape(dy)[0], tf.shape(w)[0]])
    return tf.squeeze(conv2d_input_gradient(dy[None, None], w[None, None], scale, input_shape=shape, tier=tier), [0, 1])


def matmul_weight_gradient(x, dy, scale, *, tier: str = "auto") -> tf.Tensor:
    """``dw[K,N]`` of ``x[M,K]`` and ``dy[M,N]``."""
    return tf.squeeze(conv2d_weight_gradient(x[None, None], dy[None, None], scale, kernel_shape=(1, 1), tier=tier), [0, 1])
