"""The table of emitters: which one writes the C of which op. A new op is a file here and a line in the table."""

from __future__ import annotations

from graffiti.export.c.emit.average_pool import AveragePool
from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.conv import Conv
from graffiti.export.c.emit.conv_transpose import ConvTranspose
from graffiti.export.c.emit.dense import Dense
from graffiti.export.c.emit.depthwise_conv import DepthwiseConv
from graffiti.export.c.emit.elementwise import Elementwise
from graffiti.export.c.emit.lookup import Lookup
from graffiti.export.c.emit.max_pool import GlobalMaxPool, MaxPool
from graffiti.export.c.emit.moves import Concat, Crop, Pad, Permute, Slice, Take, Upsample
from graffiti.export.c.emit.requantize import Requantize
from graffiti.export.c.emit.reshape import Reshape

_ALL = (
    Conv, DepthwiseConv, ConvTranspose, Dense, Elementwise, Requantize, Lookup, MaxPool, GlobalMaxPool, AveragePool,
    Concat, Pad, Crop, Slice, Take, Permute, Upsample, Reshape
)

EMITTERS: dict[str, Emitter] = {op: emitter() for emitter in _ALL for op in emitter.ops}
