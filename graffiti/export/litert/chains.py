"""Chains of nodes that are one integer operator in LiteRT: an accumulator's birth, its bias and ReLU, and the
requantize that ends it.

In XNNPACK products alone round half to even, as graffiti does by default; its ``ADD``, ``SUB`` and ``QUANTIZE`` round
half up. So where a sum or a requantize rounds, a depthwise product with weights of one does it: two taps over the
joined operands, or one. All of it stays int8. The builtin kernels round once where the scale is just below its power of
two (``rounding.just_below``), ties of positive accumulators up, those of negative ones up or away from zero. So an
output that may be negative is *lifted*: the bias adds 128 steps, and a tensor with the zero-point -128 takes them out
again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graffiti.export.litert import products, rounding
from graffiti.export.litert.emitter import EXACT, RUNTIMES, Emitter, elements
from graffiti.export.litert.flatbuffer import Quantization
from graffiti.export.litert.layout import MAX_EXPONENT, Layout
from graffiti.graph.chains import Chain, Rounded, chain_of
from graffiti.graph.ir import Node
from graffiti.graph.ops import attr

SHIFTS = range(-7, 32)  # XNNPACK takes multipliers from 2**-32 to below 2**8
LIFT = 128  # steps that make every 8-bit code's accumulator positive


def follow(e: Emitter, node: Node) -> tuple[Chain, Rounded] | None:
    """What reads only a node's accumulator, up to the requantize, and its rounding: ``None`` where no requantize
    ends it.
    """
    chain = chain_of(e.graph, node, users=e.users, declines=lambda chain: chain.nodes[-1].op != "requantize")
    return None if chain.rounded is None else (chain, chain.rounded)


def try_product(e: Emitter, node: Node) -> list[Node] | None:
    """Write a product and its chain as one integer operator; the nodes it covers, or ``None``."""
    found = follow(e, node)
    if found is None or not e.graph.is_constant(node.inputs[1]):
        return None
    chain, rounded = found
    graph, (x, name) = e.graph, node.inputs
    like, out_like = e.layout(x), e.layout(chain.last)
    kernel, accumulator = graph.constants[name], e.format(node.output)
    if like is None or out_like is None or like.dtype != out_like.dtype or x not in e.integers:
        return None
    bias = np.zeros(products.output_channels(node, kernel), np.int64)
    if chain.bias is not None:
        bias = np.broadcast_to(graph.constants[chain.bias].astype(np.int64), bias.shape)
    shift, mode, low, high = (
        np.broadcast_to(np.asarray(rounded.shift, np.int64), bias.shape), rounded.mode, rounded.low, rounded.high
    )
    if mode == "floor" and like.dtype == "int8" and node.op == "depthwise_conv" and len(chain.nodes) == 1:
        return (
            chain.covered if _average_pool(e, node, rounded, chain.last, kernel, int(shift[0]), like, out_like)
            else None
        )
    wide, rounds = like.dtype == "int16", shift > 0
    if rounds.any() and not _has_rounding(e, mode, wide) or kernel.min(initial=0) < -128 or kernel.max(initial=0) > 127:
        return None
    if not all(int(s) in SHIFTS for s in shift):
        return None
    exponents = (*e.format(name).exponents, *accumulator.exponents)
    if max(map(abs, exponents)) > MAX_EXPONENT:
        return None
    once = mode == "half_up" and not wide  # by the builtin int8 kernels, at scales just below powers of two
    bound = products.channel_sums(node, kernel) * e.largest(x) + np.abs(bias)
    lifted = once and low < 0 and bool(rounds.any())
    if lifted:
        steps = LIFT << np.maximum(shift, 0) >> np.maximum(-shift, 0)
        bias, bound = bias + steps, bound + steps
    # the builtin kernels would shift out of 32 bits
    if (np.where(shift <= 0, bound << np.maximum(1 - shift, 0), 0) >= 2**31).any():
        return None
    if once and not _rounds_once(shift, bound):
        return None
    scale, kernel_scale = (
        np.atleast_1d(np.ldexp(1.0, np.asarray(format.exponent, np.int64))) for format in (accumulator, e.format(name))
    )
    if once:
        scale, kernel_scale = (rounding.just_below(powers, rounds[: len(powers)]) for powers in (scale, kernel_scale))
    operands = products.Operands(
        e.integers[x], products.kernel_tensor(e, node, kernel_scale),
        products.bias_tensor(e, chain.bias or f"{node.name}/zeros", bias, scale, wide), -1,
    )
    finish(e, node, chain.last, operands, like, out_like, low, high, lifted)
    if mode == "half_up":
        if once and rounds.any():
            e.inexact["xnnpack"].add(chain.last)
        return chain.covered
    if rounds.any():
        e.inexact["builtin"].add(chain.last)
    if (wide and rounds.any()) or ((shift > 15) & (bound > EXACT)).any():
        # 16-bit kernels are builtin everywhere; else float32 of the accumulator rounds first
        e.inexact["xnnpack"].add(chain.last)
    return chain.covered


def _has_rounding(e: Emitter, mode: str, wide: bool) -> bool:
    """Whether an integer operator may end a product with this rounding: 16-bit ones round half up everywhere, 8-bit
    ones half to even (XNNPACK) or half up (builtin).
    """
    if e.arithmetic == "half_up":
        return mode == "half_up"
    return mode == "half_even" or (mode == "half_up" and wide)


def _rounds_once(shift: np.ndarray, bound: np.ndarray) -> bool:
    """Whether the builtin int8 kernels, at scales just below powers of two, round accumulators up to ``bound`` once.

    The first rounding keeps accumulators below 2**23; larger ones saturate anyway where ``2**(23-s)`` is far outside
    the 8-bit codes.
    """
    return bool(((shift <= 0) | (bound < 2**23) | (shift <= 14)).all() and (bound < 2**31).all())


def finish(
    e: Emitter, node: Node, value: str, operands: products.Operands, like: Layout, out_like: Layout, low: int,
    high: int, lifted: bool = False,
) -> None:
    """Write the product into the tensor of ``value``, with what the fused activation leaves to be clamped behind it.

    A lifted product (``out_like`` has no zero-point) writes the same bytes under a zero-point; a reshape, which copies
    them, gives them their meaning back.

    Args:
        e: the emitter.
        node: the product.
        value: the last one of its chain.
        operands: all but the output and its activation, which are chosen here.
        like, out_like: layouts of the input and of ``value``.
        low, high: codes that the chain saturates to.
        lifted: whether the product writes under a zero-point.
    """
    operands.activation, first, last = products.fused_activation(out_like, low, high)
    free = low <= first and high >= last
    shape = e.graph.shape(value)
    out = e.declare(value) if free else e.temporary(value, shape, out_like)
    into = dataclasses.replace(out_like, zero_point=out_like.zero_point - LIFT) if lifted else out_like
    operands.out = e.temporary(value, shape, into) if lifted else out
    products.emit(e, node, operands, like, into)
    if lifted:
        e.reshape(operands.out, shape, value, out_like, out)
    if not free:
        e.clamp(out, value, low, high, e.declare(value))


def _average_pool(
    e: Emitter, node: Node, rounded: Rounded, value: str, kernel: np.ndarray, shift: int, like: Layout,
    out_like: Layout,
) -> bool:
    """A pool's product with its rounding down, by a weight and a bias that were proven for every sum; false where
    there are none.
    """
    format, out = like.format, out_like.format
    if kernel.size == 0 or (kernel != kernel.flat[0]).any() or e.format(node.inputs[1]).per_channel:
        return False
    low, high = rounded.low, rounded.high
    count = int(np.prod(kernel.shape[:-2]))
    runtime, other = RUNTIMES[::-1] if e.arithmetic == "half_up" else RUNTIMES
    found = rounding.pool_parameters(
        int(kernel.flat[0]), shift, count, (format.qmin, format.qmax), (low, high), runtime
    )
    if found is None:
        return False
    weight, bias, everywhere = found
    # the two scales' product and quotient with powers of two are exact, so the kernel computes with this very float32
    scale = (
        np.float32(np.ldexp(float(kernel.flat[0]) / weight, -shift)) * 2.0 ** (out.exponents[0] - format.exponents[0])
    )
    channels = products.output_channels(node, kernel)
    operands = products.Operands(
        e.integers[node.inputs[0]],
        products.kernel_tensor(e, node, np.atleast_1d(scale), np.full_like(kernel, weight, np.int8)),
        products.bias_tensor(
            e, f"{node.name}/floor", np.full(channels, bias), np.float32(scale) * np.float32(format.scale), False
        ),
        -1,
    )
    finish(e, node, value, operands, like, out_like, low, high)
    if not everywhere:
        e.inexact[other].add(value)
    return True


# ---- sums and requantizes --------------------------------------------------------------------------------------------
def try_sum(e: Emitter, node: Node) -> list[Node] | None:
    """Write a sum or difference of int8 tensors with its requantize; the nodes it covers, or ``None``."""
    found, graph = follow(e, node), e.graph
    if found is None or any(v not in e.integers for v in node.inputs) or found[0].bias is not None:
        return None
    chain, rounded = found
    x, y = node.inputs
    like, other, out_like = e.layout(x), e.layout(y), e.layout(chain.last)
    if (
        like is None or other is None or out_like is None or like != other or like.dtype != "int8"
        or out_like.dtype != "int8"
    ):
        return None
    shift, mode, low, high = (
        out_like.format.exponents[0] - like.format.exponents[0], rounded.mode, rounded.low, rounded.high
    )
    if (
        tuple(graph.shape(x)) != tuple(graph.shape(y)) or None in graph.shape(x)[1:] or shift not in range(-7, 9)
        or (shift > 0 and not _taps_round(e, mode))
    ):
        return None
    tensors = [e.integers[x], e.integers[y]]
    if shift <= 0 or e.arithmetic == "native" and mode == "half_even":
        op, kind = ("ADD", "Add") if node.op == "add" else ("SUB", "Sub")
        activation, first, top = products.fused_activation(out_like, low, high)
        free = low <= first and high >= top
        out = e.declare(chain.last) if free else e.temporary(chain.last, graph.shape(chain.last), out_like)
        e.op(op, tensors, [out], {"fusedActivationFunction": activation}, version=2, kind=kind)
        if not free:
            e.clamp(out, chain.last, low, high, e.declare(chain.last))
        if shift > 0:
            for runtime in RUNTIMES:
                e.inexact[runtime].add(chain.last)
        return chain.covered
    signs = (1, 1) if node.op == "add" else (1, -1)
    _taps(e, chain.last, tensors, signs, like, out_like, low, high, mode, shift)
    return chain.covered


def try_requantize(e: Emitter, node: Node) -> list[Node] | None:
    """Write a requantize from int8 to int8; ``None`` where it is another kind."""
    (x,), like, out_like = node.inputs, e.layout(node.inputs[0]), e.layout(node.output)
    if (
        x not in e.integers or like is None or out_like is None or like.dtype != "int8" or out_like.dtype != "int8"
        or None in e.graph.shape(x)[1:]
    ):
        return None
    shift = out_like.format.exponents[0] - like.format.exponents[0]
    low, high = products.requantize_limits(e, node)
    mode = attr(node, "rounding")
    if shift not in range(-6, 8):
        return None
    if shift <= 0 or e.arithmetic == "native" and mode == "half_even":
        free = low <= out_like.saturates[0] and high >= out_like.saturates[1]
        out = e.declare(node.output) if free else e.temporary(node.output, e.graph.shape(node.output), out_like)
        e.op("QUANTIZE", [e.integers[x]], [out], version=2)
        if not free:
            e.clamp(out, node.output, low, high, e.declare(node.output))
        if shift > 0:
            for runtime in RUNTIMES:
                e.inexact[runtime].add(node.output)
        return [node]
    if not _taps_round(e, mode):
        return None
    _taps(e, node.output, [e.integers[x]], (1,), like, out_like, low, high, mode, shift)
    return [node]


def _taps_round(e: Emitter, mode: str) -> bool:
    """Whether taps can round so: half to even in XNNPACK only, half up and down everywhere."""
    return mode in ("half_up", "floor") or (mode == "half_even" and e.arithmetic != "half_up")


def _taps(
    e: Emitter, value: str, tensors: Sequence[int], weights: Sequence[int], like: Layout, out_like: Layout, low: int,
    high: int, mode: str, shift: int,
) -> None:
    """``round(sum(weight * tensor))`` as a depthwise product over the tensors joined along an axis.

    Rounding half up is rounding ``2 * sum + 1`` to the nearest at half the scale: an odd number, so there is no tie and
    every kernel agrees. Rounding down is the same with ``2 * sum + 1 - 2**shift``.
    """
    shape = e.graph.shape(value)
    channels = int(shape[-1] or 1) if len(shape) > 1 else 1
    if len(shape) == 4:
        rows, flat = int(shape[1] or 1), tuple(shape)
    else:
        rows, flat = 1, (None, 1, elements(shape) // channels, channels)
        tensors = [e.reshape(tensor, flat, value, like) for tensor in tensors]
    joined = tensors[0]
    if len(tensors) > 1:
        joined = e.temporary(value, (flat[0], rows * len(tensors), *flat[2:]), like)
        e.op("CONCATENATION", list(tensors), [joined], {"axis": 1}, version=2, kind="Concatenation")
    factor, offset = {"half_even": (1, 0), "half_up": (2, 1), "floor": (2, 1 - 2**shift)}[mode]
    kernel = np.repeat(np.asarray(weights, np.int8) * factor, channels).reshape(1, len(weights), 1, channels)
    bias = np.full(channels, offset, np.int32)
    scale = 1.0 if factor == 1 else float(rounding.just_below(np.float32(0.5)))
    in_scale = float(like.format.scale)
    activation, first, last = products.fused_activation(out_like, low, high)
    free = low <= first and high >= last
    target = e.declare(value) if free else e.temporary(value, shape, out_like)
    out = target if len(shape) == 4 else e.temporary(value, flat, out_like)
    operands = [
        joined, e.stored(f"{value}/taps", kernel, Quantization((scale,))),
        e.stored(f"{value}/zeros", bias, Quantization((scale * in_scale,))),
    ]
    options = {
        "padding": products.VALID, "strideH": 1, "strideW": 1, "dilationHFactor": rows if len(weights) > 1 else 1,
        "dilationWFactor": 1,
        "depthMultiplier": 1, "fusedActivationFunction": activation,
    }
    e.op("DEPTHWISE_CONV_2D", operands, [out], options, version=3, kind="DepthwiseConv2D")
    if len(shape) != 4:
        e.reshape(out, shape, value, out_like, target)
    if not free:
        e.clamp(target, value, low, high, e.declare(value))
    if mode == "half_even":
        e.inexact["builtin"].add(value)


