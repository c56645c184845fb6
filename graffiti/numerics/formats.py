"""What an integer code means: ``real = code * 2**exponent``, no zero-point.

This module knows numpy only. It is the vocabulary of every integer graph, kernel, exporter and quantizer.
"""

from __future__ import annotations

import dataclasses

import numpy as np

MIN_BITS = 2
MAX_BITS = 32

# shifts beyond them change nothing: to the left any nonzero 32-bit code saturates, to the right it rounds as by 2**62
MOST_LEFT, MOST_RIGHT = 32, 62


@dataclasses.dataclass(frozen=True)
class QFormat:
    """A fixed-point format: ``real = code * 2**exponent``.

    Args:
        bits: width of the code, 2 to 32 (storage is the next of 8, 16, 32 bits).
        signed: two's complement if true, else unsigned.
        exponent: the integer power of two of one step. A tuple gives one exponent for each channel of the *last* axis
            of the tensor (weights are brought to that view by ``channel_axis`` of the op, see ``graph/ops.py``).
        narrow: a signed format without its lowest code (−127…127 for 8 bits).

    Raises:
        ValueError: where the width is outside 2…32, or an exponent is not an integer.
    """

    bits: int
    signed: bool
    exponent: int | tuple[int, ...]
    narrow: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(
                f"a format holds {MIN_BITS} to {MAX_BITS} bits, got {self.bits}; choose a width in that range"
            )
        if self.narrow and not self.signed:
            raise ValueError("narrow means a signed range without its lowest code; an unsigned format cannot be narrow")
        exponent = self.exponent
        several = isinstance(exponent, (tuple, list)) or np.ndim(exponent) > 0
        parts: tuple = tuple(exponent) if several else (exponent,)  # type: ignore[arg-type]
        for part in parts:
            if not np.isfinite(part) or int(part) != part:
                raise ValueError(f"an exponent is an integer, got {part!r}")
        object.__setattr__(self, "exponent", tuple(map(int, parts)) if several else int(parts[0]))

    @property
    def qmin(self) -> int:
        """Lowest code."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + int(self.narrow)

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - int(self.signed))) - 1

    @property
    def per_channel(self) -> bool:
        """Whether every channel of the last axis has its own exponent."""
        return isinstance(self.exponent, tuple)

    @property
    def exponents(self) -> tuple[int, ...]:
        """The exponents as a tuple: one, or one per channel."""
        return self.exponent if isinstance(self.exponent, tuple) else (self.exponent,)

    @property
    def scale(self) -> np.ndarray:
        """Real value of one step, float64: shape ``()`` or ``(channels,)``."""
        return np.ldexp(1.0, np.asarray(self.exponent, np.int64))

    @property
    def dtype(self) -> np.dtype:
        """The smallest numpy integer type that stores the codes."""
        width = 8 if self.bits <= 8 else 16 if self.bits <= 16 else 32
        return np.dtype(f"{'' if self.signed else 'u'}int{width}")

    def limits(self, low: int | None = None, high: int | None = None) -> tuple[int, int]:
        """The lowest and highest code that a rounding into this format saturates to, where a fused ReLU may ask for
        less.
        """
        return (
            self.qmin if low is None else max(int(low), self.qmin),
            self.qmax if high is None else min(int(high), self.qmax)
        )

    def shift_to(self, target: QFormat, *, most_left: int = MOST_LEFT) -> tuple[int, ...]:
        """Right shifts that take codes of this format to another's: one, or one per channel, clipped to what still
        makes a difference.

        Args:
            target: the format of the result.
            most_left: the longest left shift; a mean, which is divided as well, needs more than the 32 of a single
                code.
        """
        shift = np.clip(
            np.asarray(target.exponent, np.int64) - np.asarray(self.exponent, np.int64), -most_left, MOST_RIGHT
        )
        return tuple(map(int, np.atleast_1d(shift)))

    def replace(self, **changes) -> QFormat:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        """Text form, for instance ``s8@-7``, ``u8@-3``, ``s8n@[-7,-6]`` (``n`` for narrow); ``parse`` reads it back."""
        exponent = "[" + ",".join(map(str, self.exponents)) + "]" if self.per_channel else str(self.exponent)
        return f"{'s' if self.signed else 'u'}{self.bits}{'n' if self.narrow else ''}@{exponent}"

    @staticmethod
    def parse(text: str) -> QFormat:
        """The inverse of ``str``."""
        head, _, tail = text.partition("@")
        narrow = head.endswith("n")
        digits = head[1:-1] if narrow else head[1:]
        if head[:1] not in ("s", "u") or not digits.isdigit() or not tail:
            raise ValueError(f"a format is written like s8@-7, u8@-3 or s8n@[-7,-6], got {text!r}")
        exponent: int | tuple[int, ...]
        if tail.startswith("["):
            exponent = tuple(int(e) for e in tail[1:-1].split(",") if e)
        else:
            exponent = int(tail)
        return QFormat(int(digits), head[0] == "s", exponent, narrow)


def exponent_of_threshold(log2_threshold, bits: int, signed: bool) -> np.ndarray:
    """Exponent of the step of a quantizer: ``ceil(log2_t) - (bits - signed)``.

    The scale is ``s = 2**ceil(log2_t) / L`` with ``L = 2**(bits-1)`` signed, ``2**bits`` unsigned, so the fractional
    length is ``(bits - signed) - ceil(log2_t)`` and the exponent its negative. int64, shape of ``log2_threshold``.

    Args:
        log2_threshold: any shape; rounded to float32 first, as the trained variable is stored.
        bits: of the code.
        signed: whether the code has a sign bit, which takes one of the bits.
    """
    return np.ceil(np.asarray(log2_threshold, np.float32)).astype(np.int64) - (bits - int(signed))
