"""``TimeDistributed(layer)``: the layer at every step of axis 1, without folding that axis into the batch.

1. What works on the last axis, or element by element, is the inner layer on the whole tensor.
2. A window over one axis is a window over two, of size 1 along the steps.
3. A window over an image: the images of all steps one below the other, with as many zeros between them as the window
   needs, and one window over the whole. Rows that come out between two images are cut away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from graffiti.keras_io.move_rules import Move, emit, repeated
from graffiti.numerics.windows import window_output, window_pads

L = keras.layers
POINTWISE = (
    L.Dense, L.EinsumDense, L.Activation, L.ReLU, L.LeakyReLU, L.ELU, L.BatchNormalization, L.Rescaling, L.Flatten,
    L.Reshape, L.Dropout,
    L.GaussianDropout, L.AlphaDropout, L.GaussianNoise, L.ActivityRegularization, L.Identity,
)


def rule(reading, layer) -> None:
    """What a ``TimeDistributed`` reads as."""
    from graffiti.keras_io import float_rules

    inner = layer.layer
    if getattr(inner, "data_format", None) == "channels_first":
        return reading.island("data_format='channels_first' has no fixed-point form; use channels_last")
    if len(reading.call.inputs) > 1:
        return reading.island("a masked TimeDistributed has no fixed-point form")
    if getattr(inner, "quantization_mode", None) is not None:
        return reading.island(f"it is quantized by Keras itself ({inner.quantization_mode}); use the float layer")
    if type(inner) in POINTWISE:
        return float_rules.LAYER_RULES[type(inner)](reading, inner)
    if type(inner) not in RULES:
        return reading.island(f"TimeDistributed({type(inner).__name__}) has no fixed-point form yet")
    if None in reading.input_shape[1:] and type(inner) is not L.Softmax:
        return reading.island("TimeDistributed windows over unknown lengths have no fixed-point form")
    RULES[type(inner)](reading, inner)


@dataclasses.dataclass(frozen=True)
class _Frames:
    """The images of all steps one below the other, and back.

    Attributes:
        front: moves from ``(steps, height, width, channels)`` to one high image.
        back: moves from what a ``valid`` window makes of it to ``(steps, height, width, channels)``.
        padded: whether zeros stand where windows reach.
    """

    front: list[Move]
    back: list[Move]
    padded: bool


def _frames(reading, window, strides, dilation, padding: str) -> _Frames:
    steps, height, width, channels = reading.input_shape[1:]
    (top, bottom), (left, right) = (
        window_pads(n, k, s, d, padding) for n, k, s, d in zip((height, width), window, strides, dilation)
    )
    out_height, stride, reach = (
        window_output(height, window[0], strides[0], dilation[0], padding), strides[0],
        (window[0] - 1) * dilation[0] + 1
    )
    # of one image and what is below it: every image begins at a whole stride
    rows = -(-(top + height + bottom) // stride) * stride
    below, tail = rows - top - height, max(reach - stride, 0)
    front: list[Move] = []
    if top or below:
        front += [
            ("reshape", {"shape": (steps, height, width * channels)}), ("pad", {"pads": ((0, 0), (top, below), (0, 0))})
        ]
    front.append(("reshape", {"shape": (steps * rows, width, channels)}))
    if tail or left or right:
        front.append(("pad", {"pads": ((0, tail), (left, right), (0, 0))}))
    _, _, made_height, made_width, made_channels = reading.shape
    back: list[Move] = []
    if rows // stride != out_height:
        back = [
            ("reshape", {"shape": (steps, rows // stride, made_width * made_channels)}),
            ("slice", {"slices": ((0, None, 1), (0, made_height, 1), (0, None, 1))}),
        ]
    back.append(("reshape", {"shape": reading.shape[1:]}))
    return _Frames(front, back, bool(top or bottom or left or right))


def _product(
    op: str, kernels: Callable[[Any], dict[str, Any]], attributes: Callable[[Any], dict[str, Any]] = lambda layer: {}
) -> Callable:
    """A product with a window: over one axis, or over an image."""
    def emit_product(reading, layer) -> None:
        from graffiti.keras_io import float_rules

        strides, dilation, parts = tuple(layer.strides), tuple(layer.dilation_rate), kernels(layer)
        if len(layer.kernel_size) == 1:
            x, padding = None, layer.padding
            if padding == "causal":
                before = (layer.kernel_size[0] - 1) * dilation[0]
                x, padding = (
                    emit(reading, reading.x, [("pad", {"pads": ((0, 0), (before, 0), (0, 0))})], f"{reading.name}/pad"),
                    "valid"
                )
            flat = {role: (variable, keras.ops.convert_to_numpy(variable)[None]) for role, variable in parts.items()}
            attrs = {"strides": (1, *strides), "padding": padding, "dilation": (1, *dilation), **attributes(layer)}
            return float_rules.product(reading, layer, op, flat, attrs, x=x)
        frames = _frames(reading, layer.kernel_size, strides, dilation, layer.padding)
        attrs = {"strides": strides, "padding": "valid", "dilation": dilation, **attributes(layer)}
        float_rules.product(
            reading, layer, op, parts, attrs, x=emit(reading, reading.x, frames.front, f"{reading.name}/frames"),
            moves=frames.back
        )
    return emit_product


def _pool(op: str) -> Callable:
    def emit_pool(reading, layer) -> None:
        size, strides = tuple(layer.pool_size), tuple(layer.strides)
        if len(size) == 1:
            return reading.emit_result(
                op, [reading.x], {"pool_size": (1, *size), "strides": (1, *strides), "padding": layer.padding}
            )
        frames = _frames(reading, size, strides, (1, 1), layer.padding)
        if frames.padded:
            return reading.island("a padded pool at every step has no fixed-point form; pad in front of it")
        x = emit(reading, reading.x, frames.front, f"{reading.name}/frames")
        pooled = reading.emit(
            op, [x], {"pool_size": size, "strides": strides, "padding": "valid"}, name=f"{reading.name}/pool"
        )
        reading.result(emit(reading, pooled, frames.back, reading.name))
    return emit_pool


def _global_pool(op: str) -> Callable:
    def emit_pool(reading, layer) -> None:
        reading.emit_result(
            op, [reading.x], {"axes": tuple(range(2, len(reading.input_shape) - 1)), "keepdims": bool(layer.keepdims)}
        )
    return emit_pool


def _around(op: str, key: str, attribute: str) -> Callable:
    def emit_pairs(reading, layer) -> None:
        from graffiti.keras_io import float_rules

        pairs = float_rules.spatial_pairs(getattr(layer, attribute), len(reading.shape) - 3)
        reading.emit_result(op, [reading.x], {key: ((0, 0), *pairs)})
    return emit_pairs


def _upsampling(reading, layer) -> None:
    if getattr(layer, "interpolation", "nearest") != "nearest":
        return reading.island(f"upsampling by {layer.interpolation!r} has no fixed-point form; use 'nearest'")
    factors = layer.size if isinstance(layer.size, (list, tuple)) else (layer.size,)
    moves = [repeated(axis, reading.input_shape[axis], factor) for axis, factor in enumerate(factors, 2) if factor != 1]
    reading.result(emit(reading, reading.x, moves, reading.name))


def _softmax(reading, layer) -> None:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else (layer.axis,)
    if len(axes) != 1:
        return reading.island("softmax over several axes has no fixed-point form")
    # the inner layer counts without the steps
    reading.emit_result("softmax", [reading.x], {"axis": int(axes[0]) + (axes[0] >= 0)})


def _permute(reading, layer) -> None:
    reading.emit_result("permute", [reading.x], {"dims": (1, *(int(dim) + 1 for dim in layer.dims))})


_conv = _product("conv", lambda layer: {"kernel": layer.kernel}, lambda layer: {"groups": layer.groups})
_depthwise = _product("depthwise_conv", lambda layer: {"kernel": layer.kernel})
_separable = _product(
    "separable_conv",
    lambda layer: {"depthwise_kernel": layer.depthwise_kernel, "pointwise_kernel": layer.pointwise_kernel}
)
RULES: dict[type, Callable] = {
    L.Conv1D: _conv, L.Conv2D: _conv, L.DepthwiseConv1D: _depthwise, L.DepthwiseConv2D: _depthwise,
    L.SeparableConv1D: _separable, L.SeparableConv2D: _separable,
    L.MaxPooling1D: _pool("max_pool"), L.MaxPooling2D: _pool("max_pool"), L.AveragePooling1D: _pool("average_pool"),
    L.AveragePooling2D: _pool("average_pool"),
    L.GlobalAveragePooling1D: _global_pool("mean"), L.GlobalAveragePooling2D: _global_pool("mean"),
    L.GlobalMaxPooling1D: _global_pool("global_max_pool"), L.GlobalMaxPooling2D: _global_pool("global_max_pool"),
    L.ZeroPadding1D: _around("pad", "pads", "padding"), L.ZeroPadding2D: _around("pad", "pads", "padding"),
    L.Cropping1D: _around("crop", "crops", "cropping"), L.Cropping2D: _around("crop", "crops", "cropping"),
    L.UpSampling1D: _upsampling, L.UpSampling2D: _upsampling, L.Permute: _permute, L.Softmax: _softmax,
}
