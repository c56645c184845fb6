"""One function per op: the ONNX nodes that compute it on exact reals."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graffiti.export.onnx.builder import INT64_MAX, Builder
from graffiti.export.onnx.products import is_native, pads, product
from graffiti.export.onnx.ranges import EXACT, limits
from graffiti.graph import affine
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attributes
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import pool_counts

_INT64 = 7  # TensorProto.INT64
# while exponents are within ± this, float32 neither overflows nor loses bits of a code below its normal range
SAFE_EXPONENT = 60


# ---- elementwise ----------------------------------------------------------------------------------------------------
def _binary(op: str, moves: bool = False) -> Callable[[Builder, Node], None]:
    def rule(b: Builder, node: Node) -> None:
        last = b.layout(node, *node.inputs)
        wide = b.wide(node.output) or any(b.wide(v) for v in node.inputs)
        rank = b.rank(node.output)
        (b.move if moves else b.put)(
            node.output, op, [b.get(v, last, wide, rank=rank) for v in node.inputs], last, wide=wide
        )

    return rule


def bias_add(b: Builder, node: Node) -> None:
    """``x + bias``, unless the product in front took the bias."""
    if node.name not in b.done:
        _binary("Add")(b, node)


def relu(b: Builder, node: Node) -> None:
    """``min(max(x, 0), max_code * 2**e)``."""
    (x,) = node.inputs
    last, wide, top = b.layout(node, x), b.wide(x), attributes(node)["max_code"]
    format = b.graph.format(x)
    source = b.get(x, last, wide)
    if top is None or format is None:
        b.move(node.output, "Relu", [source], last, wide=wide)
    else:
        reals = np.ldexp(float(top), np.array(format.exponents)).astype(np.float64 if wide else np.float32)
        shape = [-1 if i == b.axis(x, -1, last) else 1 for i in range(b.rank(x))] if format.per_channel else ()
        b.move(
            node.output, "Min",
            [
                b.node("Relu", [source], f"{node.output}/positive"),
                b.initializer(reals.reshape(shape), f"{node.output}/max")
            ],
            last, wide=wide
        )


def lookup(b: Builder, node: Node) -> None:
    """``Gather`` of the table at ``code - qmin``."""
    x, table = node.inputs
    last, format = b.layout(node, x), b.graph.format(x)
    assert format is not None
    stored, first = b.codes(x, last), format.qmin
    if stored:
        first += b.style.zero(format)
    codes = stored or b.node("Mul", [b.get(x, last), b.power((-format.exponents[0],))], f"{node.output}/code")
    index = b.node("Cast", [codes], f"{node.output}/index", to=_INT64)
    if first:
        index = b.node("Sub", [index, b.initializer(np.array(first), f"constant/{first}")], f"{node.output}/entry")
    b.style.table(b, node.output, table, index, last)


# ---- pools -----------------------------------------------------------------------------------------------------------
def max_pool(b: Builder, node: Node) -> None:
    """``MaxPool``, whose padding never wins."""
    (x,), attrs = node.inputs, attributes(node)
    sizes, window = b.graph.shape(x)[1:-1], attrs["pool_size"]
    b.move(
        node.output, "MaxPool", [b.get(x, False, b.wide(x))], False, wide=b.wide(x), kernel_shape=list(window),
        strides=list(attrs["strides"]), **pads(sizes, window, attrs["strides"], (1,) * len(window), attrs["padding"])
    )


def average_pool(b: Builder, node: Node) -> None:
    """The exact sum of each window, divided once, then the quantizer.

    Sums are below 2**24, exact in float32; those of whole axes may go on in float64. IEEE 754 rounds a quotient
    correctly, so it stays on its side of every tie while ``sum * 2**max(e_x - e_y, 0)`` is below ``SURE``; beyond, it
    is divided in float64. Where the number of elements is a power of two, the weights of the sum hold the division; but
    never in front of a quantizer: ONNX Runtime (1.32, default level) would give the convolution's float weights 8 bits
    of its own, with a scale that is no power of two. Twice the sum over twice the elements keeps a division there.
    """
    (x,), attrs = node.inputs, attributes(node)
    source, target, window = b.graph.format(x), attrs["format"], attrs["pool_size"]
    assert source is not None
    sizes, total = b.graph.shape(x)[1:-1], math.prod(window) * b.top(x)
    left = max(source.exponents[0] - target.exponents[0], 0)
    calm = max(abs(source.exponents[0]), abs(target.exponents[0])) <= SAFE_EXPONENT
    wide = total << min(left, 64) >= SURE or not calm or attrs["rounding"] in ("half_up", "half_away")
    counts = elements(b.graph, node)
    power = counts.size == 1 and int(counts.flat[0]).bit_count() == 1
    name, reduced = f"{node.output}/sum", _whole(b.graph, node) and total > EXACT
    weight = 0  # log2 of the sum's weights
    if power and not reduced:
        weight = 1 if b.style.pairs else 1 - int(counts.flat[0]).bit_length()
    if reduced:
        summed = b.node("ReduceSum", [b.get(x, False, True), b.integers(range(2, 2 + len(window)))], name, keepdims=1)
    else:
        ones = np.ones((int(b.graph.shape(x)[-1] or 1), 1, *window), np.int8)
        kernel = b.initializer(np.full(ones.shape, 2.0**weight, np.float32), f"{name}/weights") if b.style.pairs else \
            b.style.constant(b, f"{name}/weights", ones, QFormat(2, True, weight), 0)
        summed = b.node(
            "Conv", [b.get(x, False), kernel], name, kernel_shape=list(window), strides=list(attrs["strides"]),
            dilations=[1] * len(window), group=len(ones),
            **pads(sizes, window, attrs["strides"], (1,) * len(window), attrs["padding"]))
    if reduced != wide:
        summed = b.node("Cast", [summed], f"{name}/cast", to=b.float_type(wide))
    divisor = np.ldexp(counts.astype(np.float64 if wide else np.float32), weight)
    if (divisor != 1).any():
        divisor = divisor.reshape(()) if divisor.size == 1 else divisor.reshape(1, 1, *divisor.shape[:-1])
        summed = b.node("Div", [summed, b.initializer(divisor, f"{node.output}/elements")], f"{node.output}/mean")
    _store(b, node, summed, False, wide, attrs["rounding"] in b.style.native)


# sums below it, scaled to the output's steps: the correctly rounded float32 quotient rounds like the true one
SURE = 1 << 22


def sums_exactly(graph: Graph, node: Node, top: int) -> bool:
    """Whether the sums of an average's windows are exact: below 2**24 by a convolution, any by a reduction of whole
    axes in float64.

    Args:
        graph: of stage ``integer``.
        node: an ``average_pool``.
        top: the largest magnitude of an input code.
    """
    window = attributes(node)["pool_size"]
    return math.prod(window) * top <= EXACT or _whole(graph, node)


def _whole(graph: Graph, node: Node) -> bool:
    attrs = attributes(node)
    return attrs["padding"] == "valid" and tuple(graph.shape(node.inputs[0])[1:-1]) == tuple(attrs["pool_size"])


def elements(graph: Graph, node: Node) -> np.ndarray:
    """What an average divides by: ``(*output, 1)``, or one number in ``(1,)`` where it is the same everywhere."""
    attrs = attributes(node)
    if not attrs["divide"]:
        return np.ones(1, np.int64)
    if attrs["padding"] == "valid":
        return np.array([math.prod(attrs["pool_size"])])
    counts = pool_counts(
        [n or 1 for n in graph.shape(node.inputs[0])[1:-1]], attrs["pool_size"], attrs["strides"], attrs["padding"]
    )
    return counts.reshape(-1)[:1] if (counts == counts.flat[0]).all() else counts


def global_max_pool(b: Builder, node: Node) -> None:
    """``ReduceMax`` over axes."""
    (x,), attrs = node.inputs, attributes(node)
    spatial = set(a % b.rank(x) for a in attrs["axes"]) == set(range(1, b.rank(x) - 1))
    last = b.is_last(x) or not (attrs["keepdims"] or spatial)  # only a layout whose other axes stay in order
    axes = sorted(b.axis(x, a, last) for a in attrs["axes"])
    b.move(
        node.output, "ReduceMax", [b.get(x, last, b.wide(x)), b.integers(axes)], last if attrs["keepdims"] else True,
        wide=b.wide(x), keepdims=int(attrs["keepdims"])
    )


# ---- moves -----------------------------------------------------------------------------------------------------------
def concat(b: Builder, node: Node) -> None:
    """``Concat`` along the axis where the layout has it."""
    last = b.layout(node, *node.inputs)
    wide = any(b.wide(v) for v in node.inputs)
    b.move(
        node.output, "Concat", [b.get(v, last, wide) for v in node.inputs], last, wide=wide,
        axis=b.axis(node.output, attributes(node)["axis"], last)
    )


def pad(b: Builder, node: Node) -> None:
    """``Pad`` with zeros."""
    (x,) = node.inputs
    last, wide = b.layout(node, x), b.wide(x)
    each = [(0, 0)] * b.rank(x)
    for axis, ends in enumerate(attributes(node)["pads"], 1):
        each[b.axis(x, axis, last)] = ends
    b.move(
        node.output, "Pad",
        [b.get(x, last, wide), b.integers([front for front, _ in each] + [back for _, back in each])], last, wide=wide
    )


def crop(b: Builder, node: Node) -> None:
    """``Slice`` from the front cut to the back cut."""
    (x,) = node.inputs
    last, wide = b.layout(node, x), b.wide(x)
    cuts = [
        (b.axis(x, axis, last), front, back) for axis, (front, back) in enumerate(attributes(node)["crops"], 1)
        if front or back
    ]
    if not cuts:
        b.move(node.output, "Identity", [b.get(x, last, wide)], last, wide=wide)
        return
    axes, fronts, backs = zip(*cuts)
    ends = [-back if back else INT64_MAX for back in backs]
    b.move(
        node.output, "Slice", [b.get(x, last, wide), b.integers(fronts), b.integers(ends), b.integers(axes)], last,
        wide=wide
    )


def slice_axes(b: Builder, node: Node) -> None:
    """``Slice`` with steps along the axes that are cut."""
    (x,) = node.inputs
    last, wide = b.layout(node, x), b.wide(x)
    cuts = [
        (b.axis(x, axis, last), *each) for axis, each in enumerate(attributes(node)["slices"], 1)
        if tuple(each) != (0, None, 1)
    ]
    if not cuts:
        b.move(node.output, "Identity", [b.get(x, last, wide)], last, wide=wide)
        return
    axes, starts, stops, steps = zip(*cuts)
    ends = [INT64_MAX if stop is None else stop for stop in stops]
    b.move(
        node.output, "Slice", [b.get(x, last, wide), *(b.integers(values) for values in (starts, ends, axes, steps))],
        last, wide=wide
    )


def take(b: Builder, node: Node) -> None:
    """``Gather`` by a constant list of indices."""
    (x,) = node.inputs
    last, wide = b.layout(node, x), b.wide(x)
    indices = b.initializer(np.asarray(attributes(node)["indices"], np.int64), f"{node.output}/indices")
    b.move(
        node.output, "Gather", [b.get(x, last, wide), indices], last, wide=wide,
        axis=b.axis(x, attributes(node)["axis"], last)
    )


def reshape(b: Builder, node: Node) -> None:
    """``Reshape`` of the channels-last order; of any order where only one axis beside the batch is longer than 1."""
    (x,), wide = node.inputs, b.wide(node.inputs[0])
    any_order = sum(n != 1 for n in b.graph.shape(x)[1:]) <= 1
    source = b.get(x, b.is_last(x) if any_order else True, wide)
    sizes = [-1 if n is None else n for n in attributes(node)["shape"]]
    b.move(node.output, "Reshape", [source, b.integers([0, *sizes])], True, wide=wide)


def permute(b: Builder, node: Node) -> None:
    """One ``Transpose`` from whatever layout the input has."""
    (x,), wide = node.inputs, b.wide(node.inputs[0])
    last = b.is_last(x)
    perm = [0, *(b.axis(x, d, last) for d in attributes(node)["dims"])]
    b.move(node.output, "Transpose", [b.get(x, last, wide)], True, wide=wide, perm=perm)


def upsample(b: Builder, node: Node) -> None:
    """``Resize`` to the nearest, in front of it; ``Gather`` of repeated indices for float64, which Resize does not
    take.
    """
    (x,), size = node.inputs, attributes(node)["size"]
    if not b.wide(x):
        scales = b.initializer(np.array([1, 1, *size], np.float32), f"{node.output}/scales")
        roi = b.initializer(np.zeros(0, np.float32), "roi")
        b.move(
            node.output, "Resize", [b.get(x, False), roi, scales], False, mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
        return
    source = b.get(x, False, True)
    for axis, (length, factor) in enumerate(zip(b.graph.shape(x)[1:-1], size), 2):
        source = b.node(
            "Gather", [source, b.integers([i // factor for i in range((length or 0) * factor)])],
            f"{node.output}/axis{axis}", axis=axis
        )
    b.move(node.output, "Identity", [source], False, wide=True)


# ---- the border ------------------------------------------------------------------------------------------------------
def rescaling(b: Builder, node: Node) -> None:
    """``Mul`` and ``Add`` in float32, which round one after the other."""
    (x,) = node.inputs
    last, rank = b.layout(node, x), b.rank(x)

    def constant(value: np.ndarray, name: str) -> str:
        if value.size == 1:
            return b.initializer(value.reshape(()), name)
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        return b.initializer(value if last or rank < 3 else value.transpose(b.permutation(rank, False)), name)

    scale, offset = affine.numbers(b.graph, node)
    if not offset.any():
        b.put(node.output, "Mul", [b.get(x, last), constant(scale, f"{node.output}/scale")], last)
        return
    product = b.node("Mul", [b.get(x, last), constant(scale, f"{node.output}/scale")], f"{node.output}/product")
    b.put(node.output, "Add", [product, constant(offset, f"{node.output}/offset")], last)


# ---- between reals and codes -----------------------------------------------------------------------------------------
def quantize(b: Builder, node: Node) -> None:
    """Reals or codes to codes: one quantizer where it rounds and saturates as asked, else explicit steps in front of
    it.

    A ``QuantizeLinear`` rounds half to even and saturates to its storage type. Other modes, and a quantizer right
    behind another, round explicitly: ``steps = round(x * 2**-e)``, in float64 where float32 is not exact, clipped, then
    a quantizer of scale 1.
    """
    (x,), attrs = node.inputs, attributes(node)
    format: QFormat = attrs["format"]
    last, rounding = b.layout(node, x), attrs["rounding"]
    border = b.graph.format(x) is None
    exponents = [*format.exponents, *(() if border else b.graph.format(x).exponents)]  # type: ignore[union-attr]
    calm = max(map(abs, exponents)) <= SAFE_EXPONENT
    wide = b.wide(x) or rounding in ("half_up", "half_away") or (rounding == "floor" and (border or not calm))
    _store(b, node, b.get(x, last, wide), last, wide, is_native(b, node))


def _store(b: Builder, node: Node, source: str, last: bool, wide: bool, native: bool) -> None:
    """Write the quantizer of ``node`` behind a tensor of exact reals; ``native``: one quantizer of the style does
    it.
    """
    (x,), attrs = node.inputs, attributes(node)
    format: QFormat = attrs["format"]
    rounding, (low, high) = attrs["rounding"], limits(node)
    stored = format.bits <= 16
    clip = (low, high) != b.style.saturates_to(format) if stored else True
    if stored and not wide and native:
        ends = None
        if clip and b.style.clips_codes(format):
            ends = low, high
        elif clip:
            reals = [b.scalar(math.ldexp(end, format.exponents[0])) for end in (low, high)]
            source = b.node("Clip", [source, *reals], f"{node.output}/clipped")
        b.style.quantize(b, node.output, source, format, last, steps=False, rounding=rounding, clip=ends)
        return
    axis = b.axis(x, -1, last)
    scaled = b.node(
        "Mul", [source, b.power([-e for e in format.exponents], wide, rank=b.rank(x), axis=axis)],
        f"{node.output}/steps"
    )
    rounded = b.node(
        "Clip", [_rounded(b, scaled, rounding, node.output, wide), b.scalar(low, wide), b.scalar(high, wide)],
        f"{node.output}/rounded"
    )
    if stored:
        if wide:
            rounded = b.node("Cast", [rounded], f"{node.output}/rounded32", to=b.float_type(False))
        b.style.quantize(b, node.output, rounded, format, last, steps=True, rounding=rounding)
        return
    needs = b.wide(node.output)
    if needs != wide:
        rounded = b.node("Cast", [rounded], f"{node.output}/cast", to=b.float_type(needs))
    b.put(node.output, "Mul", [rounded, b.power(format.exponents, needs, rank=b.rank(x), axis=axis)], last, wide=needs)


def _rounded(b: Builder, steps: str, mode: str, name: str, wide: bool) -> str:
    """A float tensor rounded to integers, exactly: float64 leaves room to add one half to any 32-bit code."""
    if mode == "half_even":
        return b.node("Round", [steps], f"{name}/round")
    if mode == "floor":
        return b.node("Floor", [steps], f"{name}/floor")
    if mode == "half_up":
        return b.node("Floor", [b.node("Add", [steps, b.scalar(0.5, wide)], f"{name}/half")], f"{name}/floor")
    above = b.node(
        "Floor", [b.node("Add", [b.node("Abs", [steps], f"{name}/abs"), b.scalar(0.5, wide)], f"{name}/half")],
        f"{name}/floor"
    )
    return b.node("Mul", [above, b.node("Sign", [steps], f"{name}/sign")], f"{name}/away")


def dequantize(b: Builder, node: Node) -> None:
    """The reals themselves, as float32 (which rounds codes beyond 2**24 half to even)."""
    (x,) = node.inputs
    last = b.layout(node, x) or node.output in b.graph.outputs
    codes, format = b.codes(x, last) if not b.wide(x) else None, b.graph.format(x)
    if b.wide(x):
        b.put(node.output, "Cast", [b.get(x, last, True)], last, to=b.float_type(False))
    elif codes and format is not None and any(OPS[user.op].moves_codes for user in b.users.get(node.output, [])):
        # not a DequantizeLinear: moves behind one draw further pairs
        floats = b.node("Cast", [codes], f"{node.output}/codes", to=b.float_type(False))
        if b.style.zero(format):
            floats = b.node("Sub", [floats, b.scalar(b.style.zero(format))], f"{node.output}/centred")
        b.put(node.output, "Mul", [floats, b.power(format.exponents, rank=b.rank(x), axis=b.axis(x, -1, last))], last)
    else:
        b.put(node.output, "Identity", [b.get(x, last)], last)


def softmax(b: Builder, node: Node) -> None:
    """``Softmax`` in float32: outside the integer promise."""
    b.put(
        node.output, "Softmax", [b.get(node.inputs[0], True)], True, axis=attributes(node)["axis"] % b.rank(node.output)
    )


RULES: dict[str, Callable[[Builder, Node], None]] = {
    "conv": product, "depthwise_conv": product, "conv_transpose": product, "dense": product, "bias_add": bias_add,
    "add": _binary("Add"), "subtract": _binary("Sub"), "multiply": _binary("Mul"), "maximum": _binary("Max", True),
    "minimum": _binary("Min", True), "relu": relu, "lookup": lookup,
    "max_pool": max_pool, "average_pool": average_pool, "global_max_pool": global_max_pool, "concat": concat,
    "pad": pad, "crop": crop, "slice": slice_axes, "take": take, "reshape": reshape, "permute": permute,
    "upsample": upsample, "rescaling": rescaling, "quantize": quantize, "requantize": quantize,
    "dequantize": dequantize, "softmax": softmax,
}
