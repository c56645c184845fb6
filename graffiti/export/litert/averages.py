"""Averages: one depthwise product whose weight and bias were proven for every sum a window can have, or exactly in
float32 or int32.

LiteRT's own ``AVERAGE_POOL_2D`` ignores scales and rounds half away, its ``MEAN`` is not exact in the builtin kernels;
neither is written.
"""

from __future__ import annotations

import math

import numpy as np

from graffiti.export.litert import chains, products, reals, rounding
from graffiti.export.litert.emitter import EXACT, RUNTIMES, Emitter
from graffiti.export.litert.flatbuffer import Quantization
from graffiti.export.litert.layout import MAX_EXPONENT, layout_of
from graffiti.graph.ir import Node
from graffiti.graph.ops import attr
from graffiti.numerics.windows import pool_counts

MAX_TAPS = 1024  # of a product: beyond, its weights take more room than a reduction costs
# sums below it, scaled to the output's steps: the correctly rounded float32 quotient rounds like the true one
SURE = 1 << 22
INT32 = 1 << 31


def try_average(e: Emitter, node: Node) -> list[Node] | None:
    """Write an average between int8 tensors as one depthwise product; ``None`` where no weight and bias are right
    for every sum.
    """
    (x,), like, out_like = node.inputs, e.layout(node.inputs[0]), e.layout(node.output)
    if x not in e.integers or like is None or out_like is None or like.dtype != "int8" or out_like.dtype != "int8":
        return None
    counts, taps = _counts(e, node), math.prod(attr(node, "pool_size"))
    exponents = like.format.exponents[0], out_like.format.exponents[0]
    if counts is None or counts.size > 1 or taps > MAX_TAPS or max(map(abs, exponents)) > MAX_EXPONENT:
        return None
    count, left = int(counts.flat[0]), exponents[0] - exponents[1]
    low, high = products.requantize_limits(e, node)
    runtime, other = RUNTIMES[::-1] if e.arithmetic == "half_up" else RUNTIMES
    found = rounding.mean_parameters(
        count, taps, left, (like.format.qmin, like.format.qmax), (low, high), attr(node, "rounding"), runtime
    )
    if found is None:
        return None
    weight, bias, everywhere = found
    # the scales' product and quotient with powers of two are exact, so the kernel computes with this very float32
    scale = np.float32(math.ldexp(1 / (count * weight), left)) * 2.0 ** (exponents[1] - exponents[0])
    product = _product(node)
    channels = int(e.graph.shape(x)[-1] or 1)
    kernel = np.full((*attr(node, "pool_size"), channels, 1), weight, np.int8)
    operands = products.Operands(
        e.integers[x], products.kernel_tensor(e, product, np.atleast_1d(scale), kernel),
        products.bias_tensor(
            e, f"{node.name}/bias", np.full(channels, bias), np.float32(scale) * np.float32(like.format.scale), False
        ),
        -1,
    )
    chains.finish(e, product, node.output, operands, like, out_like, low, high)
    if not everywhere:
        e.inexact[other].add(node.output)
    return [node]


def average(e: Emitter, node: Node) -> None:
    """The sum in float32, divided, rounded and saturated there; in int32 where float32's quotient would not be sure."""
    (x,), counts, shape = node.inputs, _counts(e, node), e.graph.shape(node.inputs[0])
    source, target, mode = e.format(x), attr(node, "format"), attr(node, "rounding")
    total = math.prod(attr(node, "pool_size")) * e.largest(x)
    left = max(source.exponents[0] - target.exponents[0], 0)
    e.problem_where(
        counts is None, node, f"its input has the shape {shape}", "use one or two spatial axes of fixed sizes"
    )
    e.problem_where(
        layout_of(target) is None, node, f"LiteRT has no tensor for the format {target}",
        "use at most 16 signed or 15 unsigned bits at one scale"
    )
    e.problem_where(
        mode == "half_away", node, "LiteRT cannot round half away from zero exactly",
        "use the rounding half_even, half_up or floor"
    )
    assert counts is not None
    if total << min(left, 64) < (SURE >> (mode == "half_up")):
        _in_float(e, node, counts)
        return
    right = max(target.exponents[0] - source.exponents[0], 0)
    fits = (2 * total << min(left, 64)) + (int(counts.max()) << min(right, 64)) < INT32 and right < 31
    e.problem_where(
        not fits or not (total <= EXACT or _whole(e, node)) or mode not in ("half_even", "half_up"), node,
        f"the sums of its windows may reach {total}, beyond what LiteRT divides exactly",
        "use smaller windows or fewer bits in front of it"
    )
    _in_integers(e, node, counts, total, left, right)


def _in_float(e: Emitter, node: Node, counts: np.ndarray) -> None:
    summed = _real_sum(e, node)
    if counts.size > 1 or int(counts.flat[0]) > 1:
        divided = e.temporary(node.name, e.graph.shape(node.output))
        e.op(
            "DIV", [summed, e.writer.constant(e.writer.unique(f"{node.name}/elements"), counts.astype(np.float32))],
            [divided], kind="Div"
        )
        summed = divided
    reals.store_real(e, node, summed, rounds=True, plain=False)


def _in_integers(e: Emitter, node: Node, counts: np.ndarray, total: int, left: int, right: int) -> None:
    """``floor((2*n + d) / 2d)``, which rounds half up; less one where that was a tie and is odd."""
    shape, source = e.graph.shape(node.output), e.format(node.inputs[0])

    def put(op: str, kind: str, *inputs: int, dtype: str = "int32") -> int:
        out = e.writer.tensor(e.writer.unique(f"{node.name}/litert"), shape, dtype)
        e.op(op, list(inputs), [out], kind=kind)
        return out

    def number(value) -> int:
        return e.writer.constant(e.writer.unique(f"{node.name}/constant"), np.asarray(value, np.int32))

    if total <= EXACT:
        steps = e.temporary(node.name, shape)
        e.op(
            "MUL", [_real_sum(e, node), e.scalar(node.name, math.ldexp(1.0, -source.exponents[0]))], [steps], kind="Mul"
        )
        summed = put("CAST", "Cast", steps)
    else:
        steps = e.temporary(node.name, e.graph.shape(node.inputs[0]))
        e.op(
            "MUL", [e.real(node.inputs[0]), e.scalar(node.name, math.ldexp(1.0, -source.exponents[0]))], [steps],
            kind="Mul"
        )
        codes = e.writer.tensor(e.writer.unique(f"{node.name}/litert"), e.graph.shape(node.inputs[0]), "int32")
        e.op("CAST", [steps], [codes], kind="Cast")
        summed = e.writer.tensor(e.writer.unique(f"{node.name}/litert"), shape, "int32")
        e.op(
            "SUM", [codes, e.vector(node.name, range(1, len(shape) - 1))], [summed], {"keepDims": True}, kind="Reducer"
        )
    divisor = counts << right
    doubled = put("ADD", "Add", put("MUL", "Mul", summed, number([2 << left])), number(divisor))
    quotient = put("FLOOR_DIV", "FloorDiv", doubled, number(2 * divisor))
    if attr(node, "rounding") == "half_even":
        tie = put(
            "CAST", "Cast",
            put("EQUAL", "Equal", put("FLOOR_MOD", "FloorMod", doubled, number(2 * divisor)), number([0]), dtype="bool")
        )
        odd = put("FLOOR_MOD", "FloorMod", quotient, number([2]))
        quotient = put("SUB", "Sub", quotient, put("MUL", "Mul", tie, odd))
    real = e.temporary(node.name, shape)
    e.op("CAST", [quotient], [real], kind="Cast")
    scaled = e.temporary(node.name, shape)
    e.op("MUL", [real, e.scalar(node.name, math.ldexp(1.0, attr(node, "format").exponents[0]))], [scaled], kind="Mul")
    reals.store_real(e, node, scaled, rounds=False, plain=False)


def _real_sum(e: Emitter, node: Node) -> int:
    """The sums of the windows as float32, in real units; exact below 2**24."""
    (x,), shape = node.inputs, e.graph.shape(node.output)
    if _whole(e, node):
        summed = e.temporary(node.name, shape)
        e.op(
            "SUM", [e.real(x), e.vector(node.name, range(1, len(shape) - 1))], [summed], {"keepDims": True},
            kind="Reducer"
        )
        return summed
    channels = int(shape[-1] or 1)
    array, _ = products.kernel_codes(_product(node), np.ones((*attr(node, "pool_size"), channels, 1), np.int8))
    stored = e.stored(f"{node.name}/ones", array, Quantization((1.0,), 0, 3))
    kernel, summed = e.temporary(node.name, array.shape), e.temporary(node.name, shape)
    e.op("DEQUANTIZE", [stored], [kernel], version=2)
    zeros = e.writer.constant(e.writer.unique(f"{node.name}/constant"), np.zeros(channels, np.float32))
    products.emit(e, _product(node), products.Operands(e.real(x), kernel, zeros, summed), None, None)
    return summed


def _product(node: Node) -> Node:
    """The depthwise product with the windows of an average."""
    attrs = {
        "strides": attr(node, "strides"), "padding": attr(node, "padding"),
        "dilation": (1,) * len(attr(node, "strides"))
    }
    return Node("depthwise_conv", (node.inputs[0], f"{node.name}/weights"), node.outputs, attrs)


def _whole(e: Emitter, node: Node) -> bool:
    return (
        attr(node, "padding") == "valid"
        and tuple(e.graph.shape(node.inputs[0])[1:-1]) == tuple(attr(node, "pool_size"))
    )


def _counts(e: Emitter, node: Node) -> np.ndarray | None:
    """What the sums are divided by, ``(1, *output, 1)`` or one number; ``None`` where sizes are unknown or there are
    more than two axes.
    """
    shape = e.graph.shape(node.inputs[0])
    if len(shape) not in (3, 4) or any(n is None for n in (*shape[1:], *e.graph.shape(node.output)[1:])):
        return None
    if not attr(node, "divide"):
        return np.ones(1, np.int64)
    counts = pool_counts(
        [int(n or 1) for n in shape[1:-1]], attr(node, "pool_size"), attr(node, "strides"), attr(node, "padding")
    )
    return counts.reshape(-1)[:1] if (counts == counts.flat[0]).all() else counts[None]
