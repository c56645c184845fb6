"""Layers of low-bit training. A new kind of layer is a class and a row in ``LOW_BIT_LAYERS``."""

from __future__ import annotations

import keras

from graffiti.low_bit.layers.absorbed import AbsorbedBatchNormalization, AbsorbedLayer, AbsorbedReLU
from graffiti.low_bit.layers.attention import LowBitGroupQueryAttention, LowBitMultiHeadAttention
from graffiti.low_bit.layers.base import LowBitLayer
from graffiti.low_bit.layers.batch_norm import FusedBatchNormalization, ResidualBatchNormalization
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
from graffiti.low_bit.layers.quantized_batch_norm import QuantizedBatchNormalization
from graffiti.low_bit.layers.recurrent import LowBitGRU, LowBitLSTM, LowBitRNN, LowBitSimpleRNN
from graffiti.low_bit.layers.wrappers import inner_layers, rewrap

LOW_BIT_LAYERS: dict[type[keras.layers.Layer], type[LowBitLayer]] = {
    keras.layers.Conv1D: LowBitConv1D,
    keras.layers.Conv1DTranspose: LowBitConv1DTranspose,
    keras.layers.Conv2D: LowBitConv2D,
    keras.layers.Conv2DTranspose: LowBitConv2DTranspose,
    keras.layers.Dense: LowBitDense,
    keras.layers.DepthwiseConv1D: LowBitDepthwiseConv1D,
    keras.layers.DepthwiseConv2D: LowBitDepthwiseConv2D,
    keras.layers.EinsumDense: LowBitEinsumDense,
    keras.layers.GRU: LowBitGRU,
    keras.layers.GroupQueryAttention: LowBitGroupQueryAttention,
    keras.layers.LSTM: LowBitLSTM,
    keras.layers.MultiHeadAttention: LowBitMultiHeadAttention,
    keras.layers.RNN: LowBitRNN,
    keras.layers.SeparableConv1D: LowBitSeparableConv1D,
    keras.layers.SeparableConv2D: LowBitSeparableConv2D,
    keras.layers.SimpleRNN: LowBitSimpleRNN,
}


def low_bit_class(layer: keras.layers.Layer) -> type | None:
    """What replaces a layer in low-bit training; ``None`` where nothing does. A wrapper's own layers are asked, see
    ``inner_layers``.
    """
    found = LOW_BIT_LAYERS.get(type(layer))
    return found if found is not None and found.covers(layer) else None


def computes(layer: keras.layers.Layer) -> bool:
    """Whether a layer, or the one that it wraps, is replaced in low-bit training."""
    return any(low_bit_class(part) is not None for part in (layer, *inner_layers(layer).values()))


__all__ = [
    "AbsorbedBatchNormalization", "AbsorbedLayer", "AbsorbedReLU", "FusedBatchNormalization", "LOW_BIT_LAYERS",
    "LowBitLayer", "QuantizedBatchNormalization",
    "ResidualBatchNormalization", "computes", "inner_layers", "low_bit_class", "rewrap",
]
