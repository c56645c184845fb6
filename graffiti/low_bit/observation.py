"""Looking at the quantized tensors of one step from outside: inside ``observing()`` every product leaves a record."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from graffiti.low_bit.quantized import Quantized


@dataclasses.dataclass(frozen=True)
class Record:
    """One quantized tensor of one product.

    Attributes:
        product: the ``LowBitProduct``.
        role: ``activations``, ``weights``, ``bias`` or ``gradients``.
        quantized: what the product used.
        tensor: what it was made of.
    """

    product: Any
    role: str
    quantized: Quantized
    tensor: tf.Tensor


_records: list[Record] | None = None


@contextlib.contextmanager
def observing() -> Iterator[list[Record]]:
    """Collect records of everything computed eagerly inside."""
    global _records
    before, _records = _records, []
    try:
        yield _records
    finally:
        _records = before


def active() -> bool:
    """Whether someone looks."""
    return _records is not None and tf.executing_eagerly()


def record(product, quantized, tensors) -> None:
    """Note the operands of a forward product.

    Args:
        product: whose operands they are; a record names it.
        quantized: the input, the kernel and, where it is quantized, the bias, as multiplied.
        tensors: the same before they were quantized.
    """
    if _records is not None and active():
        for role, q, tensor in zip(("activations", "weights", "bias"), quantized, tensors):
            _records.append(Record(product, role, q, tensor))


def record_gradient(product, quantized, tensor) -> None:
    """Note the gradient of a backward product.

    Args:
        product: whose output's gradient it is.
        quantized: as multiplied.
        tensor: the same before it was quantized.
    """
    if _records is not None and active():
        _records.append(Record(product, "gradients", quantized, tensor))
