"""Convolutions and dense products: float32 ``Conv``, ``ConvTranspose``, ``Gemm`` and ``MatMul`` whose every partial sum
is exact.

While ``max|x| * sum|w| + |bias|`` stays within 2**24 (in codes) every partial sum is an integer that float32 holds, so
the order of summation, fused multiply-adds and the int8 kernels that ONNX Runtime puts in the place of the QDQ form
have no meaning. Beyond that there are two ways. Where a runtime sums in integers and what float32 would get wrong
saturates (``in_integers``), the same nodes stand (``exact="runtime"``). Else the input is cut into digits, ``x =
sum(digit_i * 2**(d*i))``, each product of a digit is within the bound, and the products are added in float64, which is
exact to 2**53.
"""

from __future__ import annotations

import math

import numpy as np

from graffiti.export.onnx.builder import Builder
from graffiti.export.onnx.ranges import EXACT, limits, weight_sums
from graffiti.graph.chains import chain_of
from graffiti.graph.ir import Graph, Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import OPS, attributes
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import transpose_pads, window_pads


def digit_bits(top: int, sums: int) -> int:
    """Width of the digits that an input of magnitude ``top`` is cut into, so that a product with weights of magnitude
    sum ``sums`` stays within 2**24: all of its bits where nothing needs cutting, 0 where even one bit is too much.
    """
    width = max(top.bit_length(), 1)
    if top * sums <= EXACT:
        return width
    for count in range(2, width + 1):
        bits = -(-width // count)
        if (sums << bits) <= EXACT:
            return bits
    return 0


def product(b: Builder, node: Node) -> None:
    """A product, and the bias that alone reads it, as one ONNX node; as several in float64 where float32 is too
    narrow.
    """
    x, kernel = node.inputs
    bias = fused_bias(b.graph, b.users, node)
    target = bias.output if bias else node.output
    sums = weight_sums(b.graph.constants[kernel], node.op).reshape(-1)
    most = int(sums.max(initial=0))
    total = b.top(x) * most + (b.top(bias.inputs[1]) if bias else 0)
    last = node.op == "dense"
    op, attrs = _form(b, node)
    fits = total <= EXACT and not b.wide(x)
    integers = not fits and in_integers(b, node, op, bias, b.top(x) * sums)
    if fits or integers:
        if integers:
            terms = b.graph.constants[kernel].size // sums.size
            b.rounded[target] = float_error(total, terms + 1)
            if op == "MatMul" and bias:
                b.rounded.update({node.output: float_error(total, terms), target: float_error(total, 1)})
        inputs = [_operand(b, node, last), _weight(b, node, last, integers)]
        if bias and op != "MatMul":
            inputs.append(b.get(bias.inputs[1], True))
        if op == "MatMul" and bias:
            inputs = [b.put(node.output, op, inputs, last), b.get(bias.inputs[1], True)]
            op = "Add"
        b.put(target, op, inputs, last, **attrs)
    else:
        _put_in_digits(b, node, op, attrs, last, digits(b, x, last, digit_bits(b.top(x), most)))
        if bias:
            b.put(
                target, "Add",
                [b.get(node.output, last, True), b.get(bias.inputs[1], last, True, rank=b.rank(node.output))], last,
                wide=True
            )
    if bias:
        b.done.add(bias.name)


def in_integers(b: Builder, node: Node, op: str, bias: Node | None, sums: np.ndarray) -> bool:
    """Whether a runtime that knows the QDQ form gets the codes right whatever the accumulator is.

    It sums in int32, takes the sum to float32, scales and rounds it half to even. float32 is wrong only beyond
    ``2**24``, and where the output's bits and the shift are at most 24 together, everything beyond saturates. A bias
    behind a ``MatMul`` is added in float32.

    Args:
        b: the builder; its style says whether there is such a runtime.
        node: a product.
        op: the ONNX operator that it becomes.
        bias: the ``bias_add`` behind it, ``None`` where there is none.
        sums: the largest magnitude of every output channel's sum of products.
    """
    x, kernel = node.inputs
    target = bias.output if bias else node.output
    reader = only_reader(b.graph, target, b.users)
    if not b.style.integers or op == "ConvTranspose" or b.wide(x) or reader is None:
        return False
    formats = [b.graph.format(v) for v in (x, kernel, reader.output)]
    if reader.op != "requantize" or not is_native(b, reader) or any(f is None or f.bits > 8 for f in formats):
        return False
    accumulator, out = b.graph.format(target), formats[2]
    if accumulator is None or out is None or out.per_channel or b.codes(x, node.op == "dense") is None:
        return False
    shifts = np.broadcast_to(out.exponents[0] - np.array(accumulator.exponents), sums.shape)
    biases = (
        np.broadcast_to(np.abs(b.graph.constants[bias.inputs[1]].astype(np.int64)), sums.shape) if bias
        else np.zeros_like(sums)
    )
    saturates = np.ldexp(256.0, shifts) + (biases if op == "MatMul" else 0) <= EXACT
    return bool((saturates | (sums + biases <= EXACT)).all())


def float_error(total: int, terms: int) -> int:
    """How far a float32 sum may be off, in steps of the accumulator, whatever the order of its ``terms``, whose
    magnitudes add up to ``total``.
    """
    unit = terms * 2.0**-24
    return math.ceil(total * unit / (1 - unit))


def is_native(b: Builder, node: Node) -> bool:
    """Whether a quantize or requantize is one quantizer of the style: its rounding is the style's own, and nothing in
    front would change it.

    ONNX Runtime does more to a pair right behind some values than run it: it melts it with a pair in front (with other
    results), or moves it to the front of a Transpose, Reshape, Slice or MaxPool.
    """
    (x,), attrs = node.inputs, attributes(node)
    format: QFormat = attrs["format"]
    if attrs["rounding"] not in b.style.native or (format.per_channel and limits(node) != b.style.saturates_to(format)):
        return False
    producer = b.producers.get(x)
    moved = (
        b.carries_codes(x)
        or (producer is not None and (producer.op in ("dequantize", "relu") or OPS[producer.op].moves_codes))
    )
    return not (b.style.pairs and moved)


def _put_in_digits(b: Builder, node: Node, op: str, attrs: dict, last: bool, parts: list[str]) -> None:
    """The product of every digit, all in one node with the digits behind one another in the batch, added up in
    float64.
    """
    name, double = node.output, b.float_type(True)
    stacked = _operand(b, node, last) if len(parts) == 1 and not b.wide(node.inputs[0]) else parts[0]
    if len(parts) > 1:
        stacked = b.node("Concat", parts, f"{name}/digits", axis=0)
    products = b.node(op, [stacked, _weight(b, node, last, False, digits=len(parts) > 1)], f"{name}/products", **attrs)
    if len(parts) == 1:
        b.put(name, "Cast", [products], last, wide=True, to=double)
        return
    rest = b.split(b.node("Cast", [products], f"{name}/products64", to=double), len(parts), f"{name}/part")
    while len(rest) > 2:
        rest[:2] = [b.node("Add", rest[:2], f"{name}/sum")]
    b.put(name, "Add", rest, last, wide=True)


def digits(b: Builder, value: str, last: bool, bits: int) -> list[str]:
    """float32 tensors that add up to ``value``: its codes' digits to the base ``2**bits``, the lowest last, each in
    real units.

    Args:
        b: the builder; takes the nodes.
        value: of codes with one exponent.
        last: whether the tensors are laid out channels-last.
        bits: of a digit, so few that products of digits add up exactly in float32.

    Returns:
        Names of the tensors, as many as the value's largest code has digits.
    """
    wide = b.wide(value)
    rest = b.get(value, last, wide)
    format = b.graph.format(value)
    assert format is not None
    found = []
    for place in range(-(-max(b.top(value).bit_length(), 1) // bits) - 1, 0, -1):
        exponent = format.exponents[0] + place * bits
        steps = b.node(
            "Floor", [b.node("Mul", [rest, b.power((-exponent,), wide)], f"{value}/shifted")], f"{value}/digit_code"
        )
        found.append(b.node("Mul", [steps, b.power((exponent,), wide)], f"{value}/digit"))
        rest = b.node("Sub", [rest, found[-1]], f"{value}/rest")
    found.append(rest)
    return [b.node("Cast", [part], f"{value}/digit32", to=b.float_type(False)) for part in found] if wide else found


def fused_bias(graph: Graph, users: dict[str, list[Node]], node: Node) -> Node | None:
    """The ``bias_add`` with a constant bias that is the only reader of a product, if there is one.

    Args:
        graph: where to look.
        users: value → its readers (``graph.users()``).
        node: the product.
    """
    chain = chain_of(graph, node, users=users, declines=lambda chain: chain.bias is None or len(chain.nodes) > 1)
    return chain.nodes[0] if chain.bias is not None and len(graph.shape(chain.bias)) == 1 else None


def _operand(b: Builder, node: Node, last: bool) -> str:
    """The input of a product as reals: behind no DequantizeLinear where both of them would become a MatMulNBits
    (``qdq.py``).
    """
    x = node.inputs[0]
    codes, format = b.codes(x, last), b.graph.format(x)
    if not _in_float(b, node, last) or codes is None or format is None:
        return b.get(x, last)
    return b.node(
        "Mul", [b.node("Cast", [codes], f"{x}/float", to=b.float_type(False)), b.power(format.exponents)], f"{x}/plain"
    )


def _in_float(b: Builder, node: Node, last: bool) -> bool:
    """Whether a dense product reads codes of more than 8 bits, for which a runtime has no integer kernel but one
    that rounds them.
    """
    format = b.graph.format(node.inputs[0])
    return b.style.pairs and node.op == "dense" and format is not None and format.bits > 8


def _weight(b: Builder, node: Node, last: bool, integers: bool, *, digits: bool = False) -> str:
    """The kernel in ONNX' layout, in real units: (out, in/groups, *window); (in, out, *window) transposed; (in, out)
    dense.

    ``integers``: the product must be computed by int8 kernels. ``digits``: it reads no stored codes, but digits of
    them.
    """
    name = node.inputs[1]
    codes, format = b.graph.constants[name], b.graph.format(name)
    assert format is not None
    spatial = tuple(range(codes.ndim - 2))
    axis = 0
    if node.op == "conv":
        codes = codes.transpose(codes.ndim - 1, codes.ndim - 2, *spatial)
    elif node.op == "depthwise_conv":
        codes = codes.reshape(*codes.shape[:-2], -1)[..., None].transpose(codes.ndim - 2, codes.ndim - 1, *spatial)
    elif node.op == "conv_transpose":
        codes, axis = codes.transpose(codes.ndim - 1, codes.ndim - 2, *spatial), 1
    else:
        axis = 1
    twice = name in b.kernels  # ONNX Runtime may rewrite a stored kernel, and fails where another layer reads it too
    b.kernels.add(name)
    meets = None if digits or _in_float(b, node, last) else _meets(b, node.inputs[0], last)
    return b.style.kernel(b, name, codes, _per_output(format), axis, own=twice, meets=meets, integers=integers)


def _meets(b: Builder, x: str, last: bool) -> int | None:
    """The largest code of an input as int8 kernels see it (signed ones with 128 added); 0 where there is no such
    kernel, ``None`` for reals.
    """
    format = b.graph.format(x)
    if b.wide(x) or format is None or b.codes(x, last) is None:
        return None
    return 0 if format.bits > 8 else 255 if format.signed else b.top(x)


def _per_output(format: QFormat) -> QFormat:
    """The format with as many exponents as needed: one where all channels agree."""
    return format.replace(exponent=format.exponents[0]) if len(set(format.exponents)) == 1 else format


def _form(b: Builder, node: Node) -> tuple[str, dict]:
    """The ONNX op and its attributes."""
    x, kernel = node.inputs
    if node.op == "dense":
        return ("Gemm" if b.rank(x) == 2 else "MatMul"), {}
    attrs, window = attributes(node), b.graph.constants[kernel].shape[:-2]
    common: dict = {"kernel_shape": list(window), "strides": list(attrs["strides"])}
    if node.op == "conv_transpose":
        cuts = [transpose_pads(k, s, attrs["padding"], e)
                for k, s, e in zip(window, attrs["strides"], attrs["output_padding"] or (None,) * len(window))]
        return "ConvTranspose", {**common, "pads": [front for front, _ in cuts] + [max(back, 0) for _, back in cuts],
                                 "output_padding": [max(-back, 0) for _, back in cuts]}
    groups = b.graph.shape(x)[-1] if node.op == "depthwise_conv" else attrs["groups"]
    return "Conv", {**common, "dilations": list(attrs["dilation"]), "group": int(groups or 1),
                    **pads(b.graph.shape(x)[1:-1], window, attrs["strides"], attrs["dilation"], attrs["padding"])}


def pads(sizes, window, strides, dilation, padding: str) -> dict:
    """ONNX' explicit pads of a window; ``auto_pad`` (the same rule) where a size is unknown.

    Args:
        sizes: input length of each spatial axis; ``None`` where it is unknown.
        window, strides, dilation: one integer per spatial axis.
        padding: ``same`` or ``valid``.

    Returns:
        The attributes ``pads`` (all fronts, then all backs) or ``auto_pad``.
    """
    if padding == "same" and any(n is None for n in sizes):
        return {"auto_pad": "SAME_UPPER"}
    each = [
        (0, 0) if padding == "valid" else window_pads(n, k, s, d, padding)
        for n, k, s, d in zip(sizes, window, strides, dilation)
    ]
    return {"pads": [front for front, _ in each] + [back for _, back in each]}
