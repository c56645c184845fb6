"""The storage types of the C runtime, and which one holds what."""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.numerics.formats import QFormat


@dataclasses.dataclass(frozen=True)
class CType:
    """A storage type: its C name, its name in the runtime, and numpy's."""

    c: str
    enum: str
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    def holds(self, values: np.ndarray) -> bool:
        """Whether every value fits."""
        info = np.iinfo(self.dtype)
        return values.size == 0 or bool(info.min <= values.min() and values.max() <= info.max)


S8 = CType("int8_t", "GRAFFITI_S8", np.dtype(np.int8))
U8 = CType("uint8_t", "GRAFFITI_U8", np.dtype(np.uint8))
S16 = CType("int16_t", "GRAFFITI_S16", np.dtype(np.int16))
U16 = CType("uint16_t", "GRAFFITI_U16", np.dtype(np.uint16))
S32 = CType("int32_t", "GRAFFITI_S32", np.dtype(np.int32))
TYPES = (S8, U8, S16, U16, S32)
S4 = CType("uint8_t", "GRAFFITI_S4", np.dtype(np.uint8))  # weights of up to 4 bits, two to a byte; kernels only
_BY_DTYPE = {type.dtype: type for type in TYPES}


def is_storable(format: QFormat) -> bool:
    """Whether the codes fit one of the types: everything but unsigned 32 bits."""
    return format.signed or format.bits < 32


def type_of(format: QFormat) -> CType:
    """The type that stores codes of a format."""
    if not is_storable(format):
        raise ValueError(
            f"the C runtime has no unsigned 32-bit codes, got the format {format}; use 31 bits or signed codes"
        )
    return _BY_DTYPE.get(format.dtype, S32)


def pack_nibbles(rows: np.ndarray) -> np.ndarray:
    """Weights of -8...7, two to a byte, the first in the low half; every row begins with a fresh byte.

    Args:
        rows: ``(rows, count)`` integers.

    Returns:
        ``(rows, ceil(count / 2))`` of uint8.
    """
    rows = np.asarray(rows, np.int64)
    if rows.size and not -8 <= rows.min() <= rows.max() <= 7:
        raise ValueError(f"two weights to a byte take values from -8 to 7, got {rows.min()} to {rows.max()}")
    halves = np.pad(rows & 15, ((0, 0), (0, rows.shape[1] % 2))).astype(np.uint8)
    return halves[:, 0::2] | halves[:, 1::2] << 4


def smallest(values: np.ndarray, types: tuple[CType, ...] = TYPES) -> CType:
    """The first of ``types`` that holds every value."""
    for type in types:
        if type.holds(values):
            return type
    raise ValueError(f"values from {values.min()} to {values.max()} fit none of {', '.join(type.c for type in types)}")
