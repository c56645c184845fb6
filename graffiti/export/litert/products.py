"""Products: convolutions and dense layers with their bias, ReLU and requantize, as one LiteRT operator or exactly in
float32.

Every op here takes the values' tensors in one *carrier*: integers (one operator that accumulates in 32 bits and rounds
once) or float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from graffiti.export.litert.emitter import EXACT, Emitter
from graffiti.export.litert.flatbuffer import Quantization
from graffiti.export.litert.layout import MAX_EXPONENT, Layout
from graffiti.graph.ir import Node
from graffiti.graph.ops import attr, attributes
from graffiti.numerics.windows import transpose_pads

SAME, VALID = 0, 1
NONE, RELU, RELU6 = 0, 1, 3


@dataclasses.dataclass
class Operands:
    """Tensors of one product operator: input, kernel, bias, output, and what its fused activation is."""

    x: int
    kernel: int
    bias: int
    out: int
    activation: int = NONE


def kernel_codes(node: Node, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """The kernel as LiteRT lays it out, and the axis of its output channels.

    ``conv`` → ``(out, height, width, in)``, ``depthwise_conv`` → ``(1, height, width, out)``, ``dense`` → ``(out,
    in)``; ``conv_transpose`` is turned round for the convolution over its zero-stuffed input.
    """
    if node.op == "dense":
        return np.ascontiguousarray(kernel.T), 0
    spatial = kernel.ndim - 2
    if node.op == "conv_transpose":
        kernel = np.flip(np.swapaxes(kernel, -1, -2), tuple(range(spatial)))
    kernel = kernel.reshape((1,) * (2 - spatial) + kernel.shape)
    if node.op == "depthwise_conv":
        return np.ascontiguousarray(kernel.reshape(1, *kernel.shape[:2], -1)), 3
    return np.ascontiguousarray(np.transpose(kernel, (3, 0, 1, 2))), 0


def channel_sums(node: Node, kernel: np.ndarray) -> np.ndarray:
    """``sum(|w|)`` of every output channel."""
    codes, axis = kernel_codes(node, np.abs(kernel.astype(np.int64)))
    return codes.sum(tuple(a for a in range(codes.ndim) if a != axis))


def output_channels(node: Node, kernel: np.ndarray) -> int:
    """Length of the output's last axis."""
    codes, axis = kernel_codes(node, kernel)
    return codes.shape[axis]


def emit(e: Emitter, node: Node, operands: Operands, like: Layout | None, out_like: Layout | None) -> None:
    """Write the operator of a product, with the reshapes that its rank needs.

    Args:
        e: the export.
        node: the product.
        operands: tensors.
        like: layout of the input, ``None`` for float32.
        out_like: layout of the output likewise.
    """
    graph, a = e.graph, attributes(node)
    shape, out_shape = graph.shape(node.inputs[0]), graph.shape(node.output)
    integer = like is not None
    if node.op == "dense":
        wide = len(shape) > 2
        version = (4 if like.dtype == "int8" else 7) if like is not None else (5 if wide else 1)
        options = {"fusedActivationFunction": operands.activation, "keepNumDims": wide}
        e.op(
            "FULLY_CONNECTED", [operands.x, operands.kernel, operands.bias], [operands.out], options, version=version,
            kind="FullyConnected"
        )
        return
    spatial = len(shape) - 2
    if spatial > 2 or any(n is None for n in (*shape[1:], *out_shape[1:])):
        e.problem_where(True, node, f"its input has the shape {shape}", "use one or two spatial axes of fixed sizes")
    x = operands.x
    size = [1] * (2 - spatial) + [int(n) for n in shape[1:-1] if n is not None]
    if spatial < 2:
        x = e.reshape(x, (None, *size, shape[-1]), node.name, like)
    fill = [1] * (2 - spatial)
    strides, dilation, padding = [*fill, *a["strides"]], [*fill, *a.get("dilation", (1,) * spatial)], a["padding"]
    if node.op == "conv_transpose":
        x = _stuff_zeros(e, node, x, like, size, out_shape)
        strides, padding = [1, 1], "valid"
    four = (None, *[1] * (2 - spatial), *out_shape[1:])
    out = operands.out if spatial == 2 else e.temporary(node.name, four, out_like)
    options = {
        "padding": SAME if padding == "same" else VALID, "strideH": strides[0], "strideW": strides[1],
        "dilationHFactor": dilation[0], "dilationWFactor": dilation[1], "fusedActivationFunction": operands.activation,
    }
    tensors = [x, operands.kernel, operands.bias]
    if node.op == "depthwise_conv":
        options["depthMultiplier"] = int(out_shape[-1] or 1) // int(shape[-1] or 1)
        version = (5 if like.dtype == "int16" else 3) if like is not None else 2
        e.op("DEPTHWISE_CONV_2D", tensors, [out], options, version=version, kind="DepthwiseConv2D")
    else:
        version = (4 if like.dtype == "int16" else 3) if like is not None else 1
        grouped = node.op == "conv" and a["groups"] > 1
        e.op(
            "CONV_2D", tensors, [out], options, version=max(version, 6) if grouped and not integer else version,
            kind="Conv2D"
        )
    if spatial < 2:
        e.reshape(out, out_shape, node.name, out_like, operands.out)


def _stuff_zeros(
    e: Emitter, node: Node, x: int, like: Layout | None, size: Sequence[int], out_shape: Sequence[int | None]
) -> int:
    """The input of the plain convolution that equals a transposed one: ``stride - 1`` zeros behind every element, then
    the window's margins.

    ``TRANSPOSE_CONV`` itself would fix the batch size in its shape operand.
    """
    a = attributes(node)
    kernel = e.graph.shape(node.inputs[1])
    spatial = len(a["strides"])
    extra = a["output_padding"] or (None,) * spatial
    fill = [1] * (2 - spatial)
    windows, strides = [*fill, *(int(k or 1) for k in kernel[:-2])], [*fill, *a["strides"]]
    lengths = [*fill, *(int(n or 1) for n in out_shape[1:-1])]
    fronts = (
        [0] * (2 - spatial)
        + [transpose_pads(k, s, a["padding"], p)[0] for k, s, p in zip(windows[2 - spatial :], a["strides"], extra)]
    )
    channels = int(e.graph.shape(node.inputs[0])[-1] or 1)
    now = list(size)
    for axis, stride in enumerate(strides):
        if stride > 1:
            rest = channels * (now[1] if axis == 0 else 1)
            lead = now[0] * (1 if axis == 0 else now[1])
            x = e.reshape(x, (None, lead, 1, rest), node.name, like)
            x = pad(e, x, (None, lead, 1, rest), ((0, 0), (0, stride - 1), (0, 0)), like, node.name)
            now[axis] *= stride
            x = e.reshape(x, (None, *now, channels), node.name, like)
    before = [k - 1 - front for k, front in zip(windows, fronts)]
    after = [length + k - 1 - n - b for length, k, n, b in zip(lengths, windows, now, before)]
    kept = [n - max(-b, 0) - max(-c, 0) for n, b, c in zip(now, before, after)]
    if kept != now:
        out = e.temporary(node.name, (None, *kept, channels), like)
        begin = e.vector(node.name, [0, *(max(-b, 0) for b in before), 0])
        e.op(
            "SLICE", [x, begin, e.vector(node.name, [-1, *kept, channels])], [out], version=_version(like, 1, 2, 4),
            kind="Slice"
        )
        x = out
    pads = [(max(b, 0), max(c, 0)) for b, c in zip(before, after)]
    return pad(e, x, (None, *kept, channels), (*pads, (0, 0)), like, node.name)


def pad(
    e: Emitter, x: int, shape: Sequence[int | None], pads: Sequence[tuple[int, int]], like: Layout | None, owner: str,
    out: int | None = None
) -> int:
    """Zeros (the zero-point) around every axis but the batch.

    Args:
        e: the emitter.
        x: tensor to pad.
        shape: of ``x``, the batch first; ``None`` for sizes that are not known.
        pads: ``(before, after)`` of each axis but the batch.
        like: layout of ``x``; ``None`` for float32.
        owner: the value that temporary tensors are called after.
        out: tensor to write into; ``None`` for a temporary one, and for ``x`` itself where nothing is added.

    Returns:
        The padded tensor.
    """
    if out is None:
        if not any(b or c for b, c in pads):
            return x
        out = e.temporary(
            owner, (shape[0], *(None if n is None else n + b + c for n, (b, c) in zip(shape[1:], pads))), like
        )
    amounts = e.writer.constant(e.writer.unique(f"{owner}/constant"), np.asarray([(0, 0), *pads], np.int32))
    e.op("PAD", [x, amounts], [out], version=_version(like, 1, 2, 3), kind="Pad")
    return out


def _version(like: Layout | None, real: int, int8: int, int16: int) -> int:
    return real if like is None else int8 if like.dtype == "int8" else int16


# ---- integer: one fused operator -------------------------------------------------------------------------------------
def kernel_tensor(e: Emitter, node: Node, scales: np.ndarray | None = None, codes: np.ndarray | None = None) -> int:
    """The kernel as an int8 constant; ``scales`` and ``codes`` replace its own.

    Args:
        e: the emitter.
        node: a product; its kernel is a constant.
        scales: one, or one for each output channel; ``None`` for those of the kernel's format.
        codes: int8 codes in the graph's layout; ``None`` for the graph's own.

    Returns:
        The constant's tensor.
    """
    name = node.inputs[1]
    array, axis = kernel_codes(node, e.graph.constants[name] if codes is None else codes)
    scales = np.atleast_1d(e.format(name).scale if scales is None else scales)
    return e.stored(name, array.astype(np.int8), Quantization(tuple(map(float, scales)), 0, axis))


def bias_tensor(e: Emitter, owner: str, codes: np.ndarray, scales: np.ndarray, wide: bool) -> int:
    """The bias as an int32 constant (int64 beside 16-bit activations), at the accumulator's scales.

    Args:
        e: the emitter.
        owner: what the constant is called.
        codes: ``(channels,)``.
        scales: one, or one for each output channel.
        wide: whether the activations have 16 bits.

    Returns:
        The constant's tensor.
    """
    return e.stored(
        owner, codes.astype(np.int64 if wide else np.int32), Quantization(tuple(map(float, np.atleast_1d(scales))))
    )


def real_product(e: Emitter, node: Node) -> None:
    """A product on float tensors, exact because every partial sum is an integer below 2**24 steps.

    A kernel with a scale for each channel is multiplied in steps, and its channels are scaled behind the product:
    LiteRT for Microcontrollers dequantizes every channel by the first one's scale.
    """
    x, name = node.inputs
    sums = channel_sums(node, e.graph.constants[name])
    bound = int(sums.max(initial=0)) * e.largest(x)
    e.problem_where(
        bound > EXACT, node,
        f"LiteRT has no operator for this chain of formats, and its accumulator may reach {bound}, beyond what float32 "
        "holds exactly",
        "give what follows it at most 8 bits (activations and accumulator), or fewer inputs",
    )
    array, axis = kernel_codes(node, e.graph.constants[name])
    format = e.format(name)
    scales = None
    if array.min(initial=0) >= -128 and array.max(initial=0) <= 127 and max(map(abs, format.exponents)) <= MAX_EXPONENT:
        scales = np.asarray(format.scale, np.float32) if format.per_channel else None
        scale = 1.0 if format.per_channel else float(np.float32(format.scale))
        stored = e.stored(name, array.astype(np.int8), Quantization((scale,)))
        kernel = e.temporary(name, array.shape)
        e.op("DEQUANTIZE", [stored], [kernel], version=2)
    else:
        exponents = np.asarray(format.exponent, np.int64)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        kernel = e.real_constant(
            name, np.ldexp(array.astype(np.float64), exponents.reshape(shape) if exponents.ndim else exponents)
        )
    zeros = e.writer.constant(e.writer.unique(f"{node.name}/constant"), np.zeros(array.shape[axis], np.float32))
    out = e.declare_real(node.output)
    into = out if scales is None else e.temporary(node.name, e.graph.shape(node.output))
    emit(e, node, Operands(e.real(x), kernel, zeros, into), None, None)
    if scales is not None:
        e.op("MUL", [into, e.writer.constant(e.writer.unique(f"{node.name}/constant"), scales)], [out], kind="Mul")
    e.bound[node.output] = bound


def fused_activation(layout: Layout, low: int, high: int) -> tuple[int, int, int]:
    """LiteRT's fused activation for codes clamped to ``[low, high]``, and what it and the integer type clamp to by
    themselves.

    Args:
        layout: how the output is stored.
        low, high: codes of that layout's format.

    Returns:
        ``(activation, lowest, highest)``: ``NONE``, ``RELU`` or ``RELU6``, and the codes that are reached with it.
    """
    first, last = layout.saturates
    exponent = layout.format.exponents[0]
    six = round(6 / 2.0**exponent)
    if low == 0 and high == six and exponent <= 1:
        return RELU6, max(first, 0), min(last, six)
    return (RELU, max(first, 0), last) if low >= 0 else (NONE, first, last)


def requantize_limits(e: Emitter, node: Node) -> tuple[int, int]:
    """The codes that a requantize or quantize saturates to."""
    return attr(node, "format").limits(node.attrs.get("low"), node.attrs.get("high"))
