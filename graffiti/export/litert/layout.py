"""How a fixed-point format is stored in a LiteRT tensor.

LiteRT has signed integers only and saturates to their full range, so an unsigned format keeps its codes under a
zero-point that puts its highest code at the integer's highest: ``u8`` at −128, ``u4`` at 112. The upper end then
saturates by itself and a fused ReLU holds the lower one. Signed formats have no zero-point.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.export.litert.flatbuffer import Quantization
from graffiti.numerics.formats import QFormat

MAX_EXPONENT = 100  # float32 scales stay normal with room for products of two


@dataclasses.dataclass(frozen=True)
class Layout:
    """``stored = code + zero_point`` in ``dtype``."""

    dtype: str
    zero_point: int
    format: QFormat

    @property
    def saturates(self) -> tuple[int, int]:
        """The codes that storing saturates to without any help."""
        info = np.iinfo(self.dtype)
        return int(info.min) - self.zero_point, int(info.max) - self.zero_point

    @property
    def quantization(self) -> Quantization:
        """For the file: power-of-two scales, exact in float32."""
        return Quantization(tuple(float(s) for s in np.atleast_1d(self.format.scale)), self.zero_point)


def layout_of(format: QFormat) -> Layout | None:
    """Where activations of a format are kept; ``None`` where no integer tensor of LiteRT holds them."""
    if format.per_channel or abs(format.exponents[0]) > MAX_EXPONENT:
        return None
    if format.bits <= 8:
        return Layout("int8", 0 if format.signed else 127 - format.qmax, format)
    if format.qmax <= 32767 and format.bits <= 16:
        return Layout("int16", 0, format)
    return None
