"""ReLU and ReLU6 as the limits of the requantization behind them."""

from __future__ import annotations

import dataclasses

import numpy as np

from graffiti.graph.ir import Node
from graffiti.graph.ops import attr
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import round_real
from graffiti.transforms.lower import islands
from graffiti.transforms.lower.context import Lowering


@dataclasses.dataclass(frozen=True)
class Relus:
    """The ReLUs between a value and its quantizer: whether there are any, and the smallest maximum."""

    present: bool
    maximum: float | None = None


NO_RELU = Relus(False)


def behind_relus(context: Lowering, value: str) -> tuple[str, Relus]:
    """The value that a chain of pending ReLUs reads, and what they do together."""
    found = NO_RELU
    while value in context.pending and context.pending[value].op == "relu":
        node = context.pending[value]
        maximum = attr(node, "max_value")
        bounds = [bound for bound in (found.maximum, maximum) if bound is not None]
        found = Relus(True, min(bounds) if bounds else None)
        value = node.inputs[0]
    return value, found


def limits(format: QFormat, relus: Relus, rounding: str) -> dict[str, int]:
    """``low`` and ``high`` of a requantization that absorbs ReLUs; nothing where the format's own range does it.

    Rounding is monotone, so it commutes with minimum and maximum: ``round(min(a, m)/s) = min(round(a/s), round(m/s))``.

    Args:
        format: of the codes behind the requantization.
        relus: what stands in front of it.
        rounding: of the requantization; the maximum is rounded like the values.

    Returns:
        The attributes ``low`` and ``high``, or one of them, or none.
    """
    if not relus.present:
        return {}
    low, high = max(format.qmin, 0), format.qmax
    if relus.maximum is not None:
        bound = round_real(_steps(relus.maximum, format), rounding)
        high = int(np.clip(bound, low, high))
    return {**({"low": low} if low > format.qmin else {}), **({"high": high} if high < format.qmax else {})}


def lower_relu(context: Lowering, node: Node) -> None:
    """1. Only quantizers and ReLUs read it: left to them. 2. It reads codes: requantize to the same format with limits.
    3. It reads reals: an island."""
    value = node.inputs[0]
    computed = value in context.pending or context.has_codes(value)
    readers = context.readers.get(node.name, [])
    if (
        computed and readers and node.name not in context.source.outputs
        and all(r.op in ("fake_quantize", "relu") for r in readers)
    ):
        context.pending[node.name] = node
        return
    value, relus = behind_relus(context, value)
    if not context.has_codes(value):
        islands.lower_float(context, node)
        return
    maximum = attr(node, "max_value")
    bounds = [bound for bound in (relus.maximum, maximum) if bound is not None]
    format = context.format(value)
    assert format is not None
    if bounds and (format.per_channel or not _on_grid(min(bounds), format)):
        raise ValueError(
            f"relu {node.name!r} has the maximum {min(bounds)}, which is not on the grid {format}; put a quantizer "
            "behind it"
        )
    if format.per_channel:
        context.values[node.name] = context.emit("relu", (context.values[value],), node.name)
        return
    attrs = {
        "format": format, "rounding": "half_even",
        **limits(format, Relus(True, min(bounds) if bounds else None), "half_even")
    }
    context.values[node.name] = context.emit("requantize", (context.values[value],), node.name, attrs)


def _on_grid(value: float, format: QFormat) -> bool:
    return float(_steps(value, format)).is_integer()


def _steps(value: float, format: QFormat) -> np.float64:
    """A maximum, as the float32 that Keras takes it for, in steps of a format with one exponent."""
    return np.float64(np.ldexp(np.float64(np.float32(value)), -np.asarray(format.exponent, np.int64)))
