"""``average_pool`` and the quantizer behind it → one average that rounds once."""

from __future__ import annotations

from graffiti.graph.ir import Node
from graffiti.graph.match import only_rounded
from graffiti.numerics.formats import QFormat
from graffiti.transforms.lower import fuse_relu, islands
from graffiti.transforms.lower.context import Lowering


def lower_average_pool(context: Lowering, node: Node) -> None:
    """1. It reads codes and only quantizers read it, ReLUs between them or not: left to them. 2. Else in float: an
    island.
    """
    if context.has_codes(node.inputs[0]) and only_rounded(context.source, node.output):
        context.pending[node.name] = node
    else:
        islands.lower_float(context, node)


def lower_mean(
    context: Lowering, node: Node, quantizer: Node, format: QFormat, rounding: str, relus: fuse_relu.Relus,
) -> None:
    """``clip(round(sum * 2**(e_x - e_y) / count), low, high)``: the true mean, rounded once.

    Args:
        context: the lowering; ``values[quantizer.name]`` is set.
        node: an ``average_pool`` that reads codes.
        quantizer: the ``fake_quantize`` that reads it.
        format, rounding: of that quantizer.
        relus: between the two; they become ``low`` and ``high``.
    """
    attrs = {**node.attrs, "format": format, "rounding": rounding, **fuse_relu.limits(format, relus, rounding)}
    codes = context.values[node.inputs[0]]
    context.values[quantizer.name] = context.emit("average_pool", (codes,), quantizer.name, attrs)
