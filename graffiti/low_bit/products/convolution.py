"""Convolutions in NHWC: ordinary, grouped, depthwise, transposed. One-dimensional ones come as images of height 1."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from graffiti.low_bit.products.base import NATIVE_TYPES, Product


@dataclasses.dataclass(frozen=True)
class Padding:
    """How a convolution pads: ``same``, ``valid``, or explicit ``((top, bottom), (left, right))`` (causal)."""

    kind: str | tuple[tuple[int, int], tuple[int, int]]

    @property
    def name(self) -> str:
        """TensorFlow's word; an explicit padding is done before a ``VALID`` convolution."""
        return self.kind.upper() if isinstance(self.kind, str) else "VALID"

    def pad(self, x: tf.Tensor) -> tf.Tensor:
        """``x`` with its explicit padding."""
        return x if isinstance(self.kind, str) else tf.pad(x, [(0, 0), *self.kind, (0, 0)])

    def unpad(self, dx: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        """The inverse, for a gradient."""
        return dx if isinstance(self.kind, str) else tf.slice(dx, [0, self.kind[0][0], self.kind[1][0], 0], shape)

    def padded_shape(self, shape: tf.Tensor) -> tf.Tensor:
        """The int32 shape of ``pad(x)``."""
        return (
            shape if isinstance(self.kind, str) else shape + tf.constant([0, sum(self.kind[0]), sum(self.kind[1]), 0])
        )

    def explicit(self, sizes, window, strides, dilations) -> Any:
        """The pads for an image of these static sizes; ``None`` where they depend on a size that is not known."""
        if not isinstance(self.kind, str):
            return self.kind
        if self.kind == "valid":
            return (0, 0), (0, 0)
        pads = []
        for size, kernel, stride, dilation in zip(sizes, window, strides, dilations):
            extent = (kernel - 1) * dilation + 1
            if size is None and stride > 1:
                return None
            total = extent - 1 if size is None else max((-(-size // stride) - 1) * stride + extent - size, 0)
            pads.append((total // 2, total - total // 2))
        return tuple(pads)


class _Windowed(Product):
    """What the convolutions share: window geometry and dilation by a kernel with holes (CPUs have no dilated
    gradients).
    """

    def __init__(self, kernel_shape, strides, padding: Padding, dilations=(1, 1)) -> None:
        self.kernel_shape = tuple(int(size) for size in kernel_shape)
        self.strides, self.padding, self.dilations = tuple(strides), padding, tuple(dilations)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.kernel_shape[0], self.kernel_shape[1]

    def spread(self, w: tf.Tensor) -> tf.Tensor:
        """The kernel with its dilation written out as zeros."""
        for axis, dilation in enumerate(self.dilations):
            if dilation > 1:
                shape = list(w.shape)
                w = tf.pad(
                    tf.expand_dims(w, axis + 1), [(0, dilation - 1) if i == axis + 1 else (0, 0) for i in range(5)]
                )
                w = tf.reshape(w, [*shape[:axis], shape[axis] * dilation, *shape[axis + 1:]])
                w = tf.gather(w, tf.range((shape[axis] - 1) * dilation + 1), axis=axis)
        return w

    def gathered(self, dw: tf.Tensor) -> tf.Tensor:
        """The gradient of ``spread``."""
        return dw[::self.dilations[0], ::self.dilations[1]]

    def spread_shape(self, depth: int, last: int) -> list[int]:
        """Shape of a spread kernel."""
        return [(k - 1) * d + 1 for k, d in zip(self.window, self.dilations)] + [depth, last]

    def geometry(self, x_shape) -> dict | None:
        """Arguments of the kernels for an image of this static shape, ``None`` where its padding is not known."""
        pads = self.padding.explicit(x_shape[1:3], self.window, self.strides, self.dilations)
        return None if pads is None else {"strides": self.strides, "padding": pads, "dilations": self.dilations}

    def native(self, pass_name, x_shape):
        """By the convolution kernels."""
        from graffiti.ops import training_products as kernels

        geometry = self.geometry(x_shape)
        if geometry is None:
            return None
        name = self.kernel_name
        if pass_name == "forward":
            return lambda x, w, scale: getattr(kernels, name)(x, w, scale, **geometry)
        if pass_name == "input_gradient":
            return lambda dy, w, scale, shape: getattr(kernels, f"{name}_input_gradient")(
                dy, w, scale, input_shape=shape, **geometry
            )
        return lambda x, dy, scale: getattr(kernels, f"{name}_weight_gradient")(
            x, dy, scale, kernel_shape=self.kernel_shape, **geometry
        )

    kernel_name = ""


class ConvolutionProduct(_Windowed):
    """``conv2d(x[N,H,W,C], w[kh,kw,C/groups,O])``, perhaps in groups.

    Args:
        kernel_shape: ``(kh, kw, C/groups, O)``.
        strides: of height and width.
        padding: see ``Padding``.
        dilations: of height and width.
        groups: channel groups.
    """

    kernel_name = "conv2d"

    def __init__(
        self, kernel_shape, strides=(1, 1), padding: Padding = Padding("valid"), dilations=(1, 1), groups: int = 1
    ) -> None:
        super().__init__(kernel_shape, strides, padding, dilations)
        self.groups = groups

    def _grouped(self, function, first, second, axes, join):
        """``function`` on each group of two tensors split along ``axes``, the results joined along ``join``."""
        if self.groups == 1:
            return function(first, second)
        parts = zip(tf.split(first, self.groups, axes[0]), tf.split(second, self.groups, axes[1]))
        return tf.concat([function(*part) for part in parts], join)

    def forward(self, x, w):
        """``y[N,P,Q,O]``."""
        def one(x, w):
            return tf.nn.conv2d(x, w, [1, *self.strides, 1], self.padding.name)

        return self._grouped(one, self.padding.pad(x), self.spread(w), (3, 3), 3)

    def input_gradient(self, dy, w, x_shape):
        """``dx[N,H,W,C]``."""
        shape = self.padding.padded_shape(x_shape) // tf.constant([1, 1, 1, self.groups])

        def one(dy, w):
            return tf.raw_ops.Conv2DBackpropInput(
                input_sizes=shape, filter=w, out_backprop=dy, strides=[1, *self.strides, 1], padding=self.padding.name)

        return self.padding.unpad(self._grouped(one, dy, self.spread(w), (3, 3), 3), x_shape)

    def weight_gradient(self, x, dy):
        """``dw[kh,kw,C/groups,O]``."""
        sizes = self.spread_shape(self.kernel_shape[2], self.kernel_shape[3] // self.groups)

        def one(x, dy):
            return tf.raw_ops.Conv2DBackpropFilter(
                input=x, filter_sizes=sizes, out_backprop=dy, strides=[1, *self.strides, 1], padding=self.padding.name)

        return self.gathered(self._grouped(one, self.padding.pad(x), dy, (3, 3), 3))

    def terms(self, pass_name, x_shape, y_shape):
        """kh·kw·C/groups, kh·kw·O/groups, or the number of output pixels."""
        if pass_name == "weight_gradient":
            return tf.cast(tf.reduce_prod(y_shape[:-1]), tf.float32)
        kh, kw, depth, outputs = self.kernel_shape
        return float(kh * kw * (depth if pass_name == "forward" else outputs // self.groups))

    def native(self, pass_name, x_shape):
        """By the convolution kernels; 1x1 without stride is a matrix product for them too."""
        whole = super().native(pass_name, x_shape)
        if self.groups == 1 or whole is None:
            return whole
        part = ConvolutionProduct(
            (*self.kernel_shape[:3], self.kernel_shape[3] // self.groups), self.strides, self.padding, self.dilations
        ).native(pass_name, x_shape)
        if pass_name == "input_gradient":
            return lambda dy, w, scale, shape: self._grouped(
                lambda dy, w: part(dy, w, scale, shape // tf.constant([1, 1, 1, self.groups])), dy, w, (3, 3), 3)
        return lambda first, second, scale: self._grouped(lambda a, b: part(a, b, scale), first, second, (3, 3), 3)


class DepthwiseProduct(_Windowed):
    """``depthwise_conv2d(x[N,H,W,C], w[kh,kw,C,M])``, outputs ``[N,P,Q,C*M]``."""

    kernel_name = "depthwise_conv2d"

    def forward(self, x, w):
        """``y[N,P,Q,C*M]``."""
        return tf.nn.depthwise_conv2d(self.padding.pad(x), self.spread(w), [1, *self.strides, 1], self.padding.name)

    def input_gradient(self, dy, w, x_shape):
        """``dx[N,H,W,C]``."""
        dx = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=self.padding.padded_shape(x_shape), filter=self.spread(w), out_backprop=dy,
            strides=[1, *self.strides, 1], padding=self.padding.name
        )
        return self.padding.unpad(dx, x_shape)

    def weight_gradient(self, x, dy):
        """``dw[kh,kw,C,M]``."""
        return self.gathered(tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=self.padding.pad(x), filter_sizes=self.spread_shape(*self.kernel_shape[2:]), out_backprop=dy,
            strides=[1, *self.strides, 1], padding=self.padding.name))

    def terms(self, pass_name, x_shape, y_shape):
        """kh·kw, kh·kw·M, or the number of output pixels."""
        if pass_name == "weight_gradient":
            return tf.cast(tf.reduce_prod(y_shape[:-1]), tf.float32)
        kh, kw, _, multiplier = self.kernel_shape
        return float(kh * kw * (1 if pass_name == "forward" else multiplier))


class TransposedProduct(Product):
    """``conv2d_transpose(x[N,H,W,C], w[kh,kw,O,C])``: the input gradient of a convolution from ``y`` to ``x``.

    Args:
        convolution: that convolution.
        y_sizes: static height and width of ``y``.
    """

    def __init__(self, convolution: ConvolutionProduct, y_sizes: tuple[int | None, int | None]) -> None:
        self.convolution, self.y_sizes = convolution, tuple(y_sizes)

    def _y_shape(self, x):
        return tf.stack([tf.shape(x)[0], *self.y_sizes, self.convolution.kernel_shape[2]])

    def forward(self, x, w):
        """``y[N,P,Q,O]``."""
        return self.convolution.input_gradient(x, w, self._y_shape(x))

    def input_gradient(self, dy, w, x_shape):
        """``dx[N,H,W,C]``: the convolution."""
        return self.convolution.forward(dy, w)

    def weight_gradient(self, x, dy):
        """``dw[kh,kw,O,C]``: the convolution's, with the operands exchanged."""
        return self.convolution.weight_gradient(dy, x)

    def terms(self, pass_name, x_shape, y_shape):
        """Those of the convolution."""
        other = {
            "forward": "input_gradient", "input_gradient": "forward", "weight_gradient": "weight_gradient"
        }[pass_name]
        return self.convolution.terms(other, y_shape, x_shape)

    def native_types(self, pass_name):
        """The kernels' operands, exchanged."""
        first, second = NATIVE_TYPES[
            {"forward": "input_gradient", "input_gradient": "forward", "weight_gradient": "weight_gradient"}[pass_name]
        ]
        return (second, first) if pass_name == "weight_gradient" else (first, second)

    def native(self, pass_name, x_shape):
        """By the convolution's kernels."""
        y_static = (None, *self.y_sizes, self.convolution.kernel_shape[2])
        if None in self.y_sizes:
            return None
        if pass_name == "forward":
            backward = self.convolution.native("input_gradient", y_static)
            return None if backward is None else lambda x, w, scale: backward(x, w, scale, self._y_shape(x))
        if pass_name == "input_gradient":
            forward = self.convolution.native("forward", y_static)
            return None if forward is None else lambda dy, w, scale, shape: forward(dy, w, scale)
        weights = self.convolution.native("weight_gradient", y_static)
        return None if weights is None else lambda x, dy, scale: weights(dy, x, scale)
