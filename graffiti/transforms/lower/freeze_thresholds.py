"""``fake_quantize`` → exponents: constants become codes, values on codes are requantized, reals are quantized."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.numerics.formats import QFormat, exponent_of_threshold
from graffiti.numerics.rounding import round_real
from graffiti.transforms.lower import activation_tables, average_pools, fuse_relu
from graffiti.transforms.lower.context import Lowering

MIN_EXPONENT, MAX_EXPONENT = -126, 127  # of a step: the normal range of float32, in which scaling is exact


def frozen_format(node: Node) -> QFormat:
    """The format that a quantizer's trained threshold means: exponent ``ceil(log2_threshold) - (bits - signed)``.

    Raises:
        ValueError: where the threshold is missing, not finite or out of range.
    """
    threshold = attr(node, "log2_threshold")
    if threshold is None or np.any(np.isnan(np.asarray(threshold, np.float64))):
        raise ValueError(f"quantizer {node.name!r} is not calibrated; run calibrate on the model before lowering it")
    log2 = np.asarray(threshold, np.float64)
    bits, signed = attr(node, "bits"), bool(attr(node, "signed"))
    if not np.all(np.isfinite(log2)) or np.any(np.abs(log2) > 1 << 15):
        raise ValueError(f"quantizer {node.name!r} has the log2_threshold {threshold}; expected finite values, "
                         "calibrate it again")
    exponent = exponent_of_threshold(log2, bits, signed)
    if exponent.min() < MIN_EXPONENT or exponent.max() > MAX_EXPONENT:
        raise ValueError(
            f"quantizer {node.name!r} has steps 2**{exponent.min()} to 2**{exponent.max()}; expected exponents from "
            f"{MIN_EXPONENT} to {MAX_EXPONENT}, calibrate it again"
        )
    per_channel = attr(node, "channel_axis") is not None
    if not per_channel and exponent.size != 1:
        raise ValueError(f"quantizer {node.name!r} has {exponent.size} thresholds but no channel_axis; expected one")
    value = tuple(exponent.ravel().tolist()) if per_channel else int(exponent.ravel()[0])
    return QFormat(bits, signed, value, bool(attr(node, "narrow")))


def check_groups(graph: Graph) -> None:
    """Members of a group have one threshold, bits and signedness.

    Raises:
        ValueError: names two members that differ.
    """
    first: dict[str, Node] = {}
    for node in graph.nodes:
        group = attr(node, "group") if node.op == "fake_quantize" else None
        if group is None:
            continue
        other = first.setdefault(group, node)
        for key in ("bits", "signed", "log2_threshold"):
            if attr(node, key) != attr(other, key):
                raise ValueError(
                    f"{other.name!r} and {node.name!r} share the threshold {group!r}, but their {key} is "
                    f"{attr(other, key)} "
                    f"and {attr(node, key)}; expected the same"
                )


def codes_of(array: np.ndarray, format: QFormat, rounding: str, channel_axis: int | str | None = None) -> np.ndarray:
    """``clip(round(array / 2**exponent), qmin, qmax)`` as int64; scaling by a power of two is exact in float64.

    Args:
        array: a constant of the network, in real units.
        format: of the codes.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.
        channel_axis: the axis of ``array`` that the format's exponents belong to, or ``flat`` for its last two
            together; not used where the format has one exponent.
    """
    exponent = np.asarray(format.exponent, np.int64)
    if exponent.ndim and channel_axis == "flat":
        exponent = exponent.reshape(array.shape[-2:])
    elif exponent.ndim:
        axis = int(channel_axis) % array.ndim  # type: ignore[arg-type]
        exponent = exponent.reshape((-1, *(1,) * (array.ndim - 1 - axis)))
    scaled = np.ldexp(np.asarray(array, np.float64), -exponent)
    return np.clip(round_real(scaled, rounding), format.qmin, format.qmax).astype(np.int64)


def lower_fake_quantize(context: Lowering, node: Node) -> None:
    """1. On a constant: codes. 2. Behind an activation: a table lookup; behind an average: the average, rounded into
    this format. 3. On codes: requantize, with every ReLU in front as its limits. 4. On reals: quantize.
    """
    format, rounding, value = frozen_format(node), attr(node, "rounding"), node.inputs[0]
    if context.source.is_constant(value):
        array = context.source.constants[value]
        if not np.all(np.isfinite(array)):
            raise ValueError(f"constant {value!r} holds NaN or infinity; expected finite weights")
        codes = codes_of(array, format, rounding, attr(node, "channel_axis"))
        context.values[node.name] = context.constant(node.name, codes, format)
        return
    if format.per_channel:
        raise ValueError(f"quantizer {node.name!r} is per channel on a computed value; only constants may be")
    value, relus = fuse_relu.behind_relus(context, value)
    if value in context.pending and context.pending[value].op == "average_pool":
        average_pools.lower_mean(context, context.pending[value], node, format, rounding, relus)
    elif value in context.pending:
        if relus.present:
            raise ValueError(
                f"the ReLU in front of {node.name!r} reads the activation {value!r}; put a quantizer between them"
            )
        activation_tables.lower_table(context, context.pending[value], node, format, rounding)
    elif context.has_codes(value):
        attrs = {"format": format, "rounding": rounding, **fuse_relu.limits(format, relus, rounding)}
        context.values[node.name] = context.emit("requantize", (context.values[value],), node.name, attrs)
    else:
        if relus.present:
            raise ValueError(
                f"the ReLU in front of {node.name!r} reads the float value {value!r}; put a quantizer between them"
            )
        attrs = {"format": format, "rounding": rounding}
        context.values[node.name] = context.emit("quantize", (context.real(value),), node.name, attrs)
