"""Convolutions of low-bit training. All run as NHWC images: one-dimensional ones with height 1, channels first
transposed.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.product_layer import LowBitProduct
from graffiti.low_bit.products import ConvolutionProduct, DepthwiseProduct, Padding, TransposedProduct


def to_image(x, rank: int, data_format: str):
    """``[N, H, W, C]`` from the layer's layout.

    Args:
        x: ``[N, ..., C]`` or, channels first, ``[N, C, ...]``.
        rank: number of spatial axes, 1 or 2; of 1 the height is 1.
        data_format: ``channels_last`` or ``channels_first``.
    """
    if data_format == "channels_first":
        x = tf.transpose(x, [0, *range(2, rank + 2), 1])
    return x if rank == 2 else tf.expand_dims(x, 1)


def from_image(y, rank: int, data_format: str):
    """The inverse of ``to_image``.

    Args:
        y: ``[N, H, W, C]``.
        rank, data_format: as in ``to_image``.
    """
    y = y if rank == 2 else tf.squeeze(y, 1)
    return y if data_format == "channels_last" else tf.transpose(y, [0, rank + 1, *range(1, rank + 1)])


def two(values: tuple[int, ...], rank: int) -> tuple[int, int]:
    """Strides or dilations of an image."""
    return (values[0], values[1]) if rank == 2 else (1, values[0])


def image_kernel(kernel, rank: int):
    """A kernel ``[kh, kw, ...]``."""
    return kernel if rank == 2 else tf.expand_dims(kernel, 0)


def padding_of(layer, rank: int) -> Padding:
    """The layer's padding; a causal one pads in front."""
    if layer.padding != "causal":
        return Padding(layer.padding)
    return Padding(((0, 0), (layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0)))


class _Convolution(LowBitLayer):
    """Forward pass of a convolution layer of any kind."""

    low_bit_kind = "convolution"

    def build(self, input_shape) -> None:
        """Refuses three dimensions."""
        if self.rank > 2:
            raise ValueError(
                f"layer {self.name!r} convolves {self.rank} dimensions; low-bit training takes one or two: keep it in "
                "float by a rule"
            )
        super().build(input_shape)

    def image_product(self, shape) -> ConvolutionProduct | DepthwiseProduct:
        """The geometry on images."""
        kernel = tuple(self.kernel.shape) if self.rank == 2 else (1, *self.kernel.shape)
        return ConvolutionProduct(
            kernel, two(self.strides, self.rank), padding_of(self, self.rank), two(self.dilation_rate, self.rank),
            self.groups
        )

    def call(self, inputs, training=None):
        """``activation(conv(q(x), q(kernel)) + bias)``."""
        x = to_image(inputs, self.rank, self.data_format)
        y = self.low_bit_product.compute(
            self.image_product(x.shape), x, image_kernel(self.kernel, self.rank), training, self.bias
        )
        return self.finish(from_image(y, self.rank, self.data_format))


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitConv1D(_Convolution, keras.layers.Conv1D):
    """``Conv1D`` with low-bit products."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitConv2D(_Convolution, keras.layers.Conv2D):
    """``Conv2D`` with low-bit products."""


class _Depthwise(_Convolution):
    """Depthwise layers: another product."""

    low_bit_kind = "depthwise"

    def image_product(self, shape):
        """The geometry on images."""
        kernel = tuple(self.kernel.shape) if self.rank == 2 else (1, *self.kernel.shape)
        strides, dilations = two(self.strides, self.rank), two(self.dilation_rate, self.rank)
        if self.rank == 1:
            strides = (strides[1], strides[1])  # the kernels take equal strides; the height is 1
        return DepthwiseProduct(kernel, strides, padding_of(self, self.rank), dilations)


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitDepthwiseConv1D(_Depthwise, keras.layers.DepthwiseConv1D):
    """``DepthwiseConv1D`` with low-bit products."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitDepthwiseConv2D(_Depthwise, keras.layers.DepthwiseConv2D):
    """``DepthwiseConv2D`` with low-bit products."""


class _Separable(LowBitLayer):
    """A depthwise and a pointwise product, each with its own quantizers."""

    low_bit_kind = "depthwise"

    def build(self, input_shape) -> None:
        """Weights, then the state of both products."""
        super(LowBitLayer, self).build(input_shape)
        self.depthwise_product = LowBitProduct(
            self.low_bit, "depthwise", f"{self.name}/depthwise", name="low_bit_depthwise"
        )
        self.depthwise_product.build(tuple(self.depthwise_kernel.shape))
        self.pointwise_product = LowBitProduct(
            self.low_bit, "convolution", f"{self.name}/pointwise", name="low_bit_pointwise"
        )
        self.pointwise_product.build(
            tuple(self.pointwise_kernel.shape), None if self.bias is None else (self.bias.shape[0],)
        )
        self.depthwise_product.constrain(self.depthwise_kernel)
        self.pointwise_product.constrain(self.pointwise_kernel)

    def low_bit_products(self):
        """Both."""
        return [self.depthwise_product, self.pointwise_product]

    def call(self, inputs, training=None):
        """``activation(pointwise(depthwise(x)) + bias)``."""
        rank = self.rank
        x = to_image(inputs, rank, self.data_format)
        depthwise, pointwise = (image_kernel(k, rank) for k in (self.depthwise_kernel, self.pointwise_kernel))
        strides = two(self.strides, rank)
        strides = (strides[1], strides[1]) if rank == 1 else strides
        first = DepthwiseProduct(depthwise.shape, strides, padding_of(self, rank), two(self.dilation_rate, rank))
        hidden = self.depthwise_product.compute(first, x, depthwise, training)
        y = self.pointwise_product.compute(ConvolutionProduct(pointwise.shape), hidden, pointwise, training, self.bias)
        return self.finish(from_image(y, rank, self.data_format))


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitSeparableConv1D(_Separable, keras.layers.SeparableConv1D):
    """``SeparableConv1D`` with low-bit products."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitSeparableConv2D(_Separable, keras.layers.SeparableConv2D):
    """``SeparableConv2D`` with low-bit products."""


class _Transposed(_Convolution):
    """Transposed layers: the products of a convolution, exchanged."""

    def image_product(self, shape):
        """The geometry on images."""
        kernel = tuple(self.kernel.shape) if self.rank == 2 else (1, *self.kernel.shape)
        spatial = shape[1:3] if self.rank == 2 else shape[2:3]
        layout = (None, *spatial, shape[3]) if self.data_format == "channels_last" else (None, shape[3], *spatial)
        out = self.compute_output_shape(layout)
        sizes = out[1:-1] if self.data_format == "channels_last" else out[2:]
        convolution = ConvolutionProduct(
            kernel, two(self.strides, self.rank), Padding(self.padding), two(self.dilation_rate, self.rank)
        )
        return TransposedProduct(convolution, sizes if self.rank == 2 else (1, sizes[0]))


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitConv1DTranspose(_Transposed, keras.layers.Conv1DTranspose):
    """``Conv1DTranspose`` with low-bit products; the sizes of its images must be known."""


@keras.saving.register_keras_serializable(package="graffiti")
class LowBitConv2DTranspose(_Transposed, keras.layers.Conv2DTranspose):
    """``Conv2DTranspose`` with low-bit products; the sizes of its images must be known."""
