"""Convolutions on codes: ordinary (1-D, 2-D, grouped), depthwise and transposed. Channels last."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from graffiti.layers.product import QuantizedProduct
from graffiti.numerics import windows

_INIT = "Args: as the Keras layer of the same kind, then those of ``QuantizedProduct``."


def _tuple(value, rank: int) -> tuple[int, ...]:
    values = (value,) * rank if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != rank:
        raise ValueError(f"expected {rank} integers, one per spatial axis, got {value!r}")
    return values


class _Convolution(QuantizedProduct):
    """Window, strides, padding and dilation of all convolutions."""

    rank = 2

    def __init__(self, kernel_size, strides=1, padding: str = "valid", dilation_rate=1, **kwargs) -> None:
        super().__init__(**kwargs)
        if padding not in ("valid", "same"):
            raise ValueError(
                f"padding is 'valid' or 'same', got {padding!r}; put other padding in front as a Pad layer"
            )
        self.kernel_size, self.strides = _tuple(kernel_size, self.rank), _tuple(strides, self.rank)
        self.dilation_rate, self.padding = _tuple(dilation_rate, self.rank), padding

    def graph_attributes(self):
        """Strides, padding and dilation."""
        return {"strides": self.strides, "padding": self.padding, "dilation": self.dilation_rate}

    def _spatial(self, input_shape):
        return tuple(
            windows.window_output(n, k, s, d, self.padding)
            for n, k, s, d in zip(input_shape[1:-1], self.kernel_size, self.strides, self.dilation_rate)
        )

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **super().get_config(), "kernel_size": self.kernel_size, "strides": self.strides, "padding": self.padding,
            "dilation_rate": self.dilation_rate,
        }


class _Ordinary(_Convolution):
    """Kernel ``(*window, in/groups, filters)``."""

    op = "conv"

    def __init__(
        self, filters: int, kernel_size, strides=1, padding: str = "valid", dilation_rate=1, groups: int = 1, **kwargs
    ) -> None:
        super().__init__(kernel_size, strides, padding, dilation_rate, **kwargs)
        self.filters, self.groups = int(filters), int(groups)

    def graph_attributes(self):
        """Those of the window, and groups."""
        return {**super().graph_attributes(), "groups": self.groups}

    def kernel_shape(self, input_shape):
        """``(*window, in/groups, filters)``."""
        if input_shape[-1] % self.groups or self.filters % self.groups:
            raise ValueError(
                f"layer {self.name!r}: {self.groups} groups must divide its {input_shape[-1]} input channels and its "
                f"{self.filters} filters"
            )
        return (*self.kernel_size, input_shape[-1] // self.groups, self.filters)

    def product(self, x, kernel):
        """The convolution; grouped ones as one convolution per group (TensorFlow has no grouped gradient on a CPU)."""
        def convolve(x, kernel):
            return tf.nn.convolution(x, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate)

        if self.groups == 1:
            return convolve(x, kernel)
        parts = zip(tf.split(x, self.groups, -1), tf.split(kernel, self.groups, -1))
        return tf.concat([convolve(*part) for part in parts], -1)

    def product_shape(self, input_shape):
        """``(batch, *spatial, filters)``."""
        return (input_shape[0], *self._spatial(input_shape), self.filters)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "filters": self.filters, "groups": self.groups}


class _Depthwise(_Convolution):
    """Kernel ``(*window, in, multiplier)``; output channel ``c*multiplier + m``."""

    op = "depthwise_conv"
    channel_axis = "flat"

    def __init__(
        self, kernel_size, strides=1, padding: str = "valid", dilation_rate=1, depth_multiplier: int = 1, **kwargs
    ) -> None:
        super().__init__(kernel_size, strides, padding, dilation_rate, **kwargs)
        self.depth_multiplier = int(depth_multiplier)

    @property
    def reduced_axes(self):
        """The window."""
        return tuple(range(self.rank))

    def per_channel(self, values):
        """``(in, multiplier)``."""
        return tf.reshape(values, self.kernel.shape[-2:])

    def kernel_shape(self, input_shape):
        """``(*window, in, multiplier)``."""
        return (*self.kernel_size, input_shape[-1], self.depth_multiplier)

    def product(self, x, kernel):
        """The depthwise convolution; 1-D runs as one row."""
        strides, dilation, padding = self.strides, self.dilation_rate, self.padding
        if self.rank == 1:
            x, kernel = tf.expand_dims(x, 1), tf.expand_dims(kernel, 0)
            strides, dilation = (strides[0],) * 2, (1, dilation[0])
        if len(set(strides)) == 1:
            y = tf.nn.depthwise_conv2d(x, kernel, (1, *strides, 1), padding.upper(), dilations=dilation)
        else:  # TensorFlow wants equal strides: pad as it would, go in steps of one, keep every stride-th
            sizes = zip(x.shape[1:-1], self.kernel_size, strides, dilation)
            pads = [windows.window_pads(*size, padding) if padding == "same" else (0, 0) for size in sizes]
            x = tf.pad(x, [(0, 0), *pads, (0, 0)])
            y = tf.nn.depthwise_conv2d(
                x, kernel, (1, 1, 1, 1), "VALID", dilations=dilation
            )[:, :: strides[0], :: strides[1]]
        return tf.squeeze(y, 1) if self.rank == 1 else y

    def product_shape(self, input_shape):
        """``(batch, *spatial, in*multiplier)``."""
        return (input_shape[0], *self._spatial(input_shape), input_shape[-1] * self.depth_multiplier)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "depth_multiplier": self.depth_multiplier}


class _Transposed(_Convolution):
    """Kernel ``(*window, filters, in)``."""

    op = "conv_transpose"
    channel_axis = -2

    def __init__(
        self, filters: int, kernel_size, strides=1, padding: str = "valid", output_padding=None, **kwargs
    ) -> None:
        kwargs.pop("dilation_rate", None)
        super().__init__(kernel_size, strides, padding, 1, **kwargs)
        self.filters = int(filters)
        self.output_padding = None if output_padding is None else _tuple(output_padding, self.rank)

    def graph_attributes(self):
        """Strides, padding and output padding."""
        return {"strides": self.strides, "padding": self.padding, "output_padding": self.output_padding}

    @property
    def reduced_axes(self):
        """The window and the input channels."""
        return (*range(self.rank), self.rank + 1)

    def per_channel(self, values):
        """``(filters, 1)``."""
        return values[:, None]

    def kernel_shape(self, input_shape):
        """``(*window, filters, in)``."""
        return (*self.kernel_size, self.filters, input_shape[-1])

    def product(self, x, kernel):
        """As Keras computes it."""
        output_padding = self.output_padding[0] if self.rank == 1 and self.output_padding else self.output_padding
        return keras.ops.conv_transpose(x, kernel, self.strides, self.padding, output_padding, "channels_last")

    def product_shape(self, input_shape):
        """``(batch, *spatial, filters)``."""
        extra = self.output_padding or (None,) * self.rank
        spatial = (
            windows.transpose_output(n, k, s, self.padding, e)
            for n, k, s, e in zip(input_shape[1:-1], self.kernel_size, self.strides, extra)
        )
        return (input_shape[0], *spatial, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Plain values."""
        return {**super().get_config(), "filters": self.filters, "output_padding": self.output_padding}


def _concrete(base: type, name: str, rank: int, what: str) -> type:
    doc = f"{what}; everything else is in ``QuantizedProduct``.\n\n    {_INIT}\n    "
    cls = type(name, (base,), {"rank": rank, "__doc__": doc, "__module__": __name__})
    return keras.saving.register_keras_serializable(package="graffiti")(cls)


QuantizedConv1D = _concrete(_Ordinary, "QuantizedConv1D", 1, "1-D convolution on codes")
QuantizedConv2D = _concrete(_Ordinary, "QuantizedConv2D", 2, "2-D convolution on codes")
QuantizedDepthwiseConv1D = _concrete(_Depthwise, "QuantizedDepthwiseConv1D", 1, "1-D depthwise convolution on codes")
QuantizedDepthwiseConv2D = _concrete(_Depthwise, "QuantizedDepthwiseConv2D", 2, "2-D depthwise convolution on codes")
QuantizedConv1DTranspose = _concrete(_Transposed, "QuantizedConv1DTranspose", 1, "1-D transposed convolution on codes")
QuantizedConv2DTranspose = _concrete(_Transposed, "QuantizedConv2DTranspose", 2, "2-D transposed convolution on codes")
