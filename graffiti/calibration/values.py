"""``Values``: a tensor over the whole calibration set, in chunks of examples, with bounded memory.

What does not fit the budget lies in temporary files until it is read: the peak does not grow with the number of
examples.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BUDGET = 64 << 20  # bytes that all values together hold in memory; more goes to temporary files


class Spool:
    """Who counts the bytes that are held.

    Args:
        budget: of bytes in memory.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget, self.held = budget, 0


class Values:
    """One tensor, chunk by chunk.

    Args:
        spool: counts what is in memory; ``None`` for arrays that somebody else holds.
        batched: whether chunks are along a batch axis; else there is one, the whole tensor.
    """

    def __init__(self, spool: Spool | None = None, *, batched: bool = True) -> None:
        self.batched = batched
        self._spool, self._end, self._holders = spool, 0, 1
        self._file: Any = None
        self._chunks: list[np.ndarray | tuple[int, tuple[int, ...], np.dtype]] = []
        self.count = 0  # values of all chunks
        self.examples = 0
        self.dtype = np.dtype(np.float32)

    @classmethod
    def of(cls, array: np.ndarray) -> Values:
        """An array that is there already, as one chunk."""
        values = cls()
        values.append(array)
        return values

    def append(self, chunk: np.ndarray) -> None:
        """Add a chunk of examples; it belongs to the values from now on."""
        if not self._chunks:
            self.dtype = chunk.dtype
        self.count, self.examples = self.count + chunk.size, self.examples + (len(chunk) if chunk.ndim else 1)
        if self._spool is None:
            self._chunks.append(chunk)
        elif self._spool.held + chunk.nbytes <= self._spool.budget or chunk.dtype.hasobject:
            self._spool.held += chunk.nbytes
            self._chunks.append(chunk)
        else:
            if self._file is None:
                # gone with the process; buffered, so that a write is whole or raises
                self._file = tempfile.TemporaryFile(prefix="graffiti-calibration-")
            chunk = np.ascontiguousarray(chunk)
            self._file.seek(self._end)
            self._file.write(chunk.reshape(-1).view(np.uint8).data)
            self._chunks.append((self._end, chunk.shape, chunk.dtype))
            self._end += chunk.nbytes

    def chunks(self) -> Iterator[np.ndarray]:
        """The chunks in order; one at a time is in memory beyond the budget."""
        for chunk in self._chunks:
            yield chunk if isinstance(chunk, np.ndarray) else self._read(*chunk)

    def _read(self, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = np.empty(shape, dtype)
        self._file.seek(start)
        if self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise OSError(
                "a temporary file of the calibration ended early; look for a full disk or a cleaned temporary folder"
            )
        return array

    def array(self) -> np.ndarray:
        """All of it as one array."""
        parts = list(self.chunks())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def lowest(self) -> float:
        """The smallest value."""
        return min(float(np.min(chunk)) for chunk in self.chunks() if chunk.size)

    def rechunked(self, size: int) -> Values:
        """The same examples in chunks of ``size`` (the last may be shorter), held where they are as far as that
        goes.
        """
        return _Rechunked(self, size)

    def keep(self) -> Values:
        """One more who reads it; each of them drops it once."""
        self._holders += 1
        return self

    def drop(self) -> None:
        """Give memory and file back where nobody reads it any more."""
        self._holders -= 1
        if self._holders:
            return
        if self._spool is not None:
            self._spool.held -= sum(chunk.nbytes for chunk in self._chunks if isinstance(chunk, np.ndarray))
        if self._file is not None:
            self._file.close()
        self._chunks, self._file = [], None


class _Rechunked(Values):
    """Values read in other chunks."""

    def __init__(self, source: Values, size: int) -> None:
        super().__init__()
        self._source, self._size = source, size
        self.count, self.examples, self.dtype = source.count, source.examples, source.dtype

    def chunks(self) -> Iterator[np.ndarray]:
        """The examples in chunks of the size."""
        rest: list[np.ndarray] = []
        waiting = 0
        for chunk in self._source.chunks():
            while waiting + len(chunk) >= self._size:
                cut = self._size - waiting
                yield np.concatenate([*rest, chunk[:cut]]) if rest else chunk[:cut]
                rest, waiting, chunk = [], 0, chunk[cut:]
            if len(chunk):
                rest, waiting = [*rest, chunk], waiting + len(chunk)
        if rest:
            yield np.concatenate(rest) if len(rest) > 1 else rest[0]

    def drop(self) -> None:
        """What it reads from belongs to whoever made it."""


class Masked(Values):
    """Values whose chunks carry a mask, as Keras hangs it on tensors.

    Args:
        hang: ``[chunk, chunk of the mask]`` → the chunk with the mask on it.
        values: kept by this until it is dropped.
        mask: likewise.
    """

    def __init__(self, hang: Callable[[list[np.ndarray]], Any], values: Values, mask: Values) -> None:
        super().__init__(batched=values.batched)
        self.count, self.examples, self.dtype = values.count, values.examples, values.dtype
        self._hang, self._both = hang, (values.keep(), mask.keep())

    def chunks(self) -> Iterator[Any]:
        """Tensors with their masks."""
        values, mask = self._both
        for parts in zip(values.chunks(), mask.chunks(), strict=True):
            yield self._hang(list(parts))

    def drop(self) -> None:
        """Let go of values and mask where nobody reads them with it any more."""
        self._holders -= 1
        if not self._holders:
            for values in self._both:
                values.drop()


class Flat:
    """What a quantizer with one threshold sees, as blocks of float32: everything that a method needs, without one long
    array.

    Args:
        parts: arrays or ``Values`` of any shapes.
    """

    def __init__(self, parts: list[np.ndarray | Values]) -> None:
        self._parts = [part if isinstance(part, Values) else Values.of(np.asarray(part)) for part in parts]
        self._low: float | None = None
        self.size = sum(part.count for part in self._parts)

    def clipped(self) -> Flat:
        """The same with zero in the place of what is below it."""
        other = Flat(list(self._parts))
        other._low = 0.0
        return other

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """One-dimensional float32 blocks of at most ``size`` values, in order."""
        for part in self._parts:
            for chunk in part.chunks():
                flat = np.ravel(np.asarray(chunk, np.float32))
                flat = flat if self._low is None else np.maximum(flat, self._low)
                for start in range(0, flat.size, size):
                    yield flat[start:start + size]


def blocks_of(values: np.ndarray | Flat, size: int) -> Iterator[np.ndarray]:
    """Blocks of an array or of ``Flat``."""
    if isinstance(values, Flat):
        yield from values.blocks(size)
        return
    flat = np.ravel(values)
    for start in range(0, flat.size, size):
        yield flat[start:start + size]
