"""Checks of single arguments. Each returns the value, or raises one sentence: what is expected, and what arrived."""

from __future__ import annotations

from typing import Any


def whole(name: str, value: Any, low: int, high: int | None = None, *, of: str = "") -> int:
    """A whole number in a range, as an ``int``; ``8.0`` and numpy's numbers are taken, ``True`` and text are not.

    Args:
        name: what the user called it, for the sentence.
        value: what arrived.
        low: the smallest allowed.
        high: the largest allowed; ``None`` for any.
        of: the unit in the plural (``steps``), for the sentence.

    Raises:
        ValueError: where it is none, or out of range.
    """
    try:
        number = None if isinstance(value, (bool, str, bytes)) else int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value or number < low or (high is not None and number > high):
        unit = f" of {of}" if of else ""
        span = f" from {low} to {high}" if high is not None else f", at least {low}" if of else f" of at least {low}"
        raise ValueError(f"{name} is a whole number{unit}{span}, got {value!r}")
    return number
