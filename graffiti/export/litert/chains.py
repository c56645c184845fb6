"""Chains of nodes that are one integer operator in LiteRT: an accumulator's birth, its bias and ReLU, and the requantize that ends it.

In XNNPACK products alone round half to even, as graffiti does by default; its ``ADD``, ``SUB`` and ``QUANTIZE`` round half up. So where a sum or a
requantize rounds, a depthwise product with weights of one does it: two taps over the joined operands, or one. All of it stays int8.
The builtin kernels round once where the scale is just below its power of two (``rounding.just_below``), ties of positive accumulators up, those of negative
ones up or away from zero. So an output that may be negative is *lifted*: the bias adds 128 steps, and a tensor with the zero-point -128 takes them out again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graffiti.export.litert import products, rounding
from graffiti.export.litert.emitter import EXACT, RUNTIMES, Emitter, elements
from graffiti.export.litert.flatbuffer import Quantization
from graffiti.export.litert.layout import MAX_EXPONENT, Layout
from graffiti.graph.ir import Node
from graffiti.graph.ops import attr
from graffiti.numerics.rounding import shift_right

SUMS = ("add", "subtract")
SHIFTS = range(-7, 32)  # XNNPACK takes multipliers from 2**-32 to below 2**8
LIFT = 128  # steps that make every 8-bit code's accumulator positive


def follow(e: Emitter, node: Node) -> list[Node] | None:
    """The node with what reads only its accumulator, up to the requantize: ``None`` where there is no such chain."""
    chain = [node]
    allowed = {"bias_add": {"relu", "requantize"}, "relu": {"requantize"}}.get(node.op, {"bias_add", "relu", "requantize"})
    while chain[-1].op != "requantize":
        value, readers = chain[-1].output, e.users.get(chain[-1].output, [])
        if len(readers) != 1 or value in e.graph.outputs or readers[0].op not in allowed or readers[0].inputs[0] != value or readers[0].inputs.count(value) > 1:
            return None
        chain.append(readers[0])
        allowed = {"bias_add": {"relu", "requantize"}, "relu": {"requantize"}, "requantize": set()}[readers[0].op]
    return chain


def try_product(e: Emitter, node: Node) -> list[Node] | None:
    """Write a product and its chain as one integer operator; the nodes it covers, or ``None``."""
    chain = follow(e, node)
    if chain is None or not e.graph.is_constant(node.inputs[1]):
        return None
    graph, (x, name), last = e.graph, node.inputs, chain[-1]
    like, out_like = e.layout(x), e.layout(last.output)
    kernel, accumulator = graph.constants[name], e.format(node.output)
    if like is None or out_like is None or like.dtype != out_like.dtype or x not in e.integers:
        return None
    bias = np.zeros(products.output_channels(node, kernel), np.int64)
    for part in chain:
        if part.op == "bias_add":
            if not graph.is_constant(part.inputs[1]):
                return None
            bias = np.broadcast_to(graph.constants[part.inputs[1]].astype(np.int64), bias.shape)
    shift = np.broadcast_to(out_like.format.exponents[0] - np.asarray(accumulator.exponent, np.int64), bias.shape)
    mode = attr(last, "rounding")
    if mode == "floor" and like.dtype == "int8" and node.op == "depthwise_conv" and len(chain) == 2:
        return chain if _average_pool(e, node, last, kernel, int(shift[0]), like, out_like) else None
    wide, rounds = like.dtype == "int16", shift > 0
    if rounds.any() and not _has_rounding(e, mode, wide) or kernel.min(initial=0) < -128 or kernel.max(initial=0) > 127:
        return None
    if not all(int(s) in SHIFTS for s in shift):
        return None
    limits = _limits(e, chain)
    exponents = (*e.format(name).exponents, *accumulator.exponents)
    if limits is None or max(map(abs, exponents)) > MAX_EXPONENT:
        return None
    low, high = limits
    once = mode == "half_up" and not wide  # by the builtin int8 kernels, at scales just below powers of two
    bound = products.channel_sums(node, kernel) * e.largest(x) + np.abs(bias)
    lifted = once and low < 0 and bool(rounds.any())
    if lifted:
        steps = LIFT << np.maximum(shift, 0) >> np.maximum(-shift, 0)
        bias, bound = bias + steps, bound + steps
    if (np.where(shift <= 0, bound << np.maximum(1 - shift, 0), 0) >= 2**31).any():  # the builtin kernels would shift out of 32 bits
        return None
    if once and not _rounds_once(shift, bound):
        return None
    scale, kernel_scale = (np.atleast_1d(np.ldexp(1.0, np.asarray(format.exponent, np.int64))) for format in (accumulator, e.format(name)))
    if once:
        scale, kernel_scale = (rounding.just_below(powers, rounds[: len(powers)]) for powers in (scale, kernel_scale))
    operands = products.Operands(
        e.integers[x], products.kernel_tensor(e, node, kernel_scale),
        products.bias_tensor(e, chain[1].inputs[1] if chain[1].op == "bias_add" else f"{node.name}/zeros", bias, scale, wide), -1,
    )
    finish(e, node, last.output, operands, like, out_like, low, high, lifted)
    if mode == "half_up":
        if once and rounds.any():
            e.inexact["xnnpack"].add(last.output)
        return chain
    if rounds.any():
        e.inexact["builtin"].add(last.output)
    if (wide and rounds.any()) or ((shift > 15) & (bound > EXACT)).any():
        e.inexact["xnnpack"].add(last.output)  # 16-bit kernels are builtin everywhere; else float32 of the accumulator rounds first
    return chain


def _has_rounding(e: Emitter, mode: str, wide: bool) -> bool:
    """Whether an integer operator may end a product with this rounding: 16-bit ones round half up everywhere, 8-bit ones half to even (XNNPACK) or half up (builtin)."""
    if e.arithmetic == "half_up":
        return mode == "half_up"
    return mode == "half_even" or (mode == "half_up" and wide)


def _rounds_once(shift: np.ndarray, bound: np.ndarray) -> bool:
    """Whether the builtin int8 kernels, at scales just below powers of two, round accumulators up to ``bound`` once.

    The first rounding keeps accumulators below 2**23; larger ones saturate anyway where ``2**(23-s)`` is far outside the 8-bit codes.
    """
    return bool(((shift <= 0) | (bound < 2**23) | (shift <= 14)).all() and (bound < 2**31).all())


def _limits(e: Emitter, chain: Sequence[Node]) -> tuple[int, int] | None:
    """The lowest and highest output code of a chain: its requantize's and, rounded like it, those of a ReLU before it; ``None`` where channels differ."""
    low, high = products.requantize_limits(e, chain[-1])
    for part in chain:
        if part.op != "relu":
            continue
        low, top, exponents = max(low, 0), attr(part, "max_code"), set(e.format(part.output).exponents)
        if top is not None:
            if len(exponents) > 1:
                return None
            high = min(high, int(shift_right(int(top), max(attr(chain[-1], "format").exponents[0] - exponents.pop(), -32), attr(chain[-1], "rounding"))))
    return (low, high) if low <= high else None


def finish(
    e: Emitter, node: Node, value: str, operands: products.Operands, like: Layout, out_like: Layout, low: int, high: int, lifted: bool = False,
) -> None:
    """Write the product into the tensor of ``value``, with what the fused activation leaves to be clamped behind it.

    A lifted product (``out_like`` has no zero-point) writes the same bytes under a zero-point; a reshape, which copies them, gives them their meaning back.
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


def _average_pool(e: Emitter, node: Node, last: Node, kernel: np.ndarray, shift: int, like: Layout, out_like: Layout) -> bool:
    """A pool's product with its rounding down, by a weight and a bias that were proven for every sum; false where there are none."""
    format, out = like.format, out_like.format
    if kernel.size == 0 or (kernel != kernel.flat[0]).any() or e.format(node.inputs[1]).per_channel:
        return False
    low, high = products.requantize_limits(e, last)
    count = int(np.prod(kernel.shape[:-2]))
    runtime, other = RUNTIMES[::-1] if e.arithmetic == "half_up" else RUNTIMES
    found = rounding.pool_parameters(int(kernel.flat[0]), shift, count, (format.qmin, format.qmax), (low, high), runtime)
    if found is None:
        return False
    weight, bias, everywhere = found
    # the two scales' product and quotient with powers of two are exact, so the kernel computes with this very float32
    scale = np.float32(np.ldexp(float(kernel.flat[0]) / weight, -shift)) * 2.0 ** (out.exponents[0] - format.exponents[0])
    channels = products.output_channels(node, kernel)
    operands = products.Operands(
        e.integers[node.inputs[0]], products.kernel_tensor(e, node, np.atleast_1d(scale), np.full_like(kernel, weight, np.int8)),
        products.bias_tensor(e, f"{node.name}/floor", np.full(channels, bias), np.float32(scale) * np.float32(format.scale), False), -1,
    )
    finish(e, node, last.output, operands, like, out_like, low, high)
    if not everywhere:
        e.inexact[other].add(last.output)
    return True


# ---- sums and requantizes ---------------------------------------------------------------------------------------------
def try_sum(e: Emitter, node: Node) -> list[Node] | None:
    """Write a sum or difference of int8 tensors with its requantize; the nodes it covers, or ``None``."""
    chain, graph = follow(e, node), e.graph
    if chain is None or any(v not in e.integers for v in node.inputs) or any(part.op == "bias_add" for part in chain):
        return None
    x, y = node.inputs
    like, other, out_like, last = e.layout(x), e.layout(y), e.layout(chain[-1].output), chain[-1]
    if like is None or other is None or out_like is None or like != other or like.dtype != "int8" or out_like.dtype != "int8":
        return None
    shift, mode = out_like.format.exponents[0] - like.format.exponents[0], attr(last, "rounding")
    if tuple(graph.shape(x)) != tuple(graph.shape(y)) or None in graph.shape(x)[1:] or shift not in range(-7, 9) or (shift > 0 and not _taps_round(e, mode)):
        return None
    limits = _limits(e, chain)
    if limits is None:
        return None
    low, high = limits
    tensors = [e.integers[x], e.integers[y]]
    if shift <= 0 or e.arithmetic == "native" and mode == "half_even":
        op, kind = ("ADD", "Add") if node.op == "add" else ("SUB", "Sub")
        activation, first, top = products.fused_activation(out_like, low, high)
        free = low <= first and high >= top
        out = e.declare(last.output) if free else e.temporary(last.output, graph.shape(last.output), out_like)
        e.op(op, tensors, [out], {"fusedActivationFunction": activation}, version=2, kind=kind)
        if not free:
            e.clamp(out, last.output, low, high, e.declare(last.output))
        if shift > 0:
            for runtime in RUNTIMES:
                e.inexact[runtime].add(last.output)
        return chain
    signs = (1, 1) if node.op == "add" else (1, -1)
    _taps(e, last.output, tensors, signs, like, out_like, low, high, mode, shift)
    return chain


def try_requantize(e: Emitter, node: Node) -> list[Node] | None:
    """Write a requantize from int8 to int8; ``None`` where it is another kind."""
    (x,), like, out_like = node.inputs, e.layout(node.inputs[0]), e.layout(node.output)
    if x not in e.integers or like is None or out_like is None or like.dtype != "int8" or out_like.dtype != "int8" or None in e.graph.shape(x)[1:]:
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
    e: Emitter, value: str, tensors: Sequence[int], weights: Sequence[int], like: Layout, out_like: Layout, low: int, high: int, mode: str, shift: int,
) -> None:
    """``round(sum(weight * tensor))`` as a depthwise product over the tensors joined along an axis.

    Rounding half up is rounding ``2 * sum + 1`` to the nearest at half the scale: an odd number, so there is no tie and every kernel agrees. Rounding down
    is the same with ``2 * sum + 1 - 2**shift``.
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
        joined, e.stored(f"{value}/taps", kernel, Quantization((scale,))), e.stored(f"{value}/zeros", bias, Quantization((scale * in_scale,))),
    ]
    options = {
        "padding": products.VALID, "strideH": 1, "strideW": 1, "dilationHFactor": rows if len(weights) > 1 else 1, "dilationWFactor": 1,
        "depthMultiplier": 1, "fusedActivationFunction": activation,
    }
    e.op("DEPTHWISE_CONV_2D", operands, [out], options, version=3, kind="DepthwiseConv2D")
    if len(shape) != 4:
        e.reshape(out, shape, value, out_like, target)
    if not free:
        e.clamp(target, value, low, high, e.declare(value))
    if mode == "half_even":
        e.inexact["builtin"].add(value)


