"""The Keras layers of a quantized model. Everything without a kernel or a table stays the ordinary Keras layer."""

from graffiti.layers.activity import ActivityLoss
from graffiti.layers.average import WindowMean
from graffiti.layers.constant import ConstantMultiply
from graffiti.layers.convolution import (
    QuantizedConv1D,
    QuantizedConv1DTranspose,
    QuantizedConv2D,
    QuantizedConv2DTranspose,
    QuantizedDepthwiseConv1D,
    QuantizedDepthwiseConv2D,
)
from graffiti.layers.dense import QuantizedDense
from graffiti.layers.lookup import Elementwise, LookupActivation
from graffiti.layers.model import InFloat, Output, QuantizedModel, WithMask, tie
from graffiti.layers.moves import Affine, Crop, Pad, Reduce, Slice, Take
from graffiti.layers.product import QuantizedProduct
from graffiti.layers.quantize import Quantize

ALL_LAYERS = (
    Quantize, QuantizedDense, QuantizedConv1D, QuantizedConv2D, QuantizedDepthwiseConv1D, QuantizedDepthwiseConv2D,
    QuantizedConv1DTranspose, QuantizedConv2DTranspose, LookupActivation, Elementwise, ConstantMultiply, WindowMean,
    Pad, Crop, Slice, Take, Reduce, Affine,
    InFloat, Output, WithMask, ActivityLoss,
)

__all__ = [*(layer.__name__ for layer in ALL_LAYERS), "ALL_LAYERS", "QuantizedModel", "QuantizedProduct", "tie"]
