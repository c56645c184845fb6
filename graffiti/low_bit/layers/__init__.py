"""Layers of low-bit training. A new kind of layer is a class and a row in ``LOW_BIT_LAYERS``."""

from __future__ import annotations

import keras

from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.layers.batch_norm import AbsorbedReLU, FusedBatchNormalization, QuantizedBatchNormalization
from graffiti.low_bit.layers.convolution import (
    LowBitConv1D,
    LowBitConv1DTranspose,
    LowBitConv2D,
    LowBitConv2DTranspose,
    LowBitDepthwiseConv1D,
    LowBitDepthwiseConv2D,
    LowBitSeparableConv1D,
    LowBitSeparableConv2D,
)
from graffiti.low_bit.layers.dense import LowBitDense, LowBitEinsumDense

LOW_BIT_LAYERS: dict[type[keras.layers.Layer], type[LowBitLayer]] = {
    keras.layers.Conv1D: LowBitConv1D,
    keras.layers.Conv1DTranspose: LowBitConv1DTranspose,
    keras.layers.Conv2D: LowBitConv2D,
    keras.layers.Conv2DTranspose: LowBitConv2DTranspose,
    keras.layers.Dense: LowBitDense,
    keras.layers.DepthwiseConv1D: LowBitDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: LowBitDepthwiseConv2D,
    keras.layers.EinsumDense: LowBitEinsumDense,
    keras.layers.SeparableConv1D: LowBitSeparableConv1D,
    keras.layers.SeparableConv2D: LowBitSeparableConv2D,
}

__all__ = ["AbsorbedReLU", "FusedBatchNormalization", "LOW_BIT_LAYERS", "LowBitLayer", "QuantizedBatchNormalization"]
