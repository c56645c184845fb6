"""``quantize_bias`` → integers at the accumulator's own exponent."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Node
from graffiti.graph.ops import attr
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import round_real
from graffiti.transforms.lower.context import Lowering
from graffiti.transforms.lower.prove_accumulators import AccumulatorOverflow, Overflow


def lower_quantize_bias(context: Lowering, node: Node) -> None:
    """``round_half_even(b / 2**(e_x + e_kernel))``, one exponent for each channel where the kernel has them.

    Raises:
        AccumulatorOverflow: where a code needs more than the accumulator's bits.
    """
    bias, x, kernel = node.inputs
    if not (context.source.is_constant(bias) and context.has_codes(x) and context.has_codes(kernel)):
        raise ValueError(
            f"bias {node.name!r} needs a constant, a quantized input and a quantized kernel; place quantizers on them"
        )
    array = np.asarray(context.source.constants[bias], np.float64)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"constant {bias!r} holds NaN or infinity; expected finite weights")
    of_kernel = np.asarray(context.format(kernel).exponent, np.int64)  # type: ignore[union-attr]
    exponent = of_kernel + context.format(x).exponent  # type: ignore[union-attr]
    format = QFormat(attr(node, "bits"), True, tuple(exponent.tolist()) if exponent.ndim else int(exponent))
    codes = round_real(np.ldexp(array, -exponent), "half_even")
    worst = np.abs(codes).max(initial=0)
    if np.any(codes < format.qmin) or np.any(codes > format.qmax):
        raise AccumulatorOverflow(
            f"the bias of {node.of_layer!r} is {worst:.0f} steps of its accumulator, more than {format.bits} bits "
            "hold; its input or kernel threshold is far too small: calibrate again, or keep the layer in float with a "
            "rule", [Overflow(node.of_layer, node.op, int(worst))], format.bits)
    context.values[node.name] = context.constant(node.name, codes.astype(np.int64), format)
