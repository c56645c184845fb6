"""Convolutions and dense products: float32 ``Conv``, ``ConvTranspose``, ``Gemm`` and ``MatMul`` whose every partial sum is exact.

While ``max|x| * sum|w| + |bias|`` stays within 2**24 (in codes) every partial sum is an integer that float32 holds, so the order of
summation, fused multiply-adds and the int8 kernels that ONNX Runtime puts in the place of the QDQ form have no meaning. Beyond
that the input is cut into digits, ``x = sum(digit_i * 2**(d*i))``, each product of a digit is within the bound, and the
products are added in float64, which is exact to 2**53.
"""

from __future__ import annotations

from graffiti.export.onnx.builder import Builder
from graffiti.export.onnx.ranges import EXACT, weight_sums
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attributes
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import transpose_pads, window_pads


def digit_bits(top: int, sums: int) -> int:
    """Width of the digits that an input of magnitude ``top`` is cut into, so that a product with weights of magnitude sum
    ``sums`` stays within 2**24: all of its bits where nothing needs cutting, 0 where even one bit is too much."""
    width = max(top.bit_length(), 1)
    if top * sums <= EXACT:
        return width
    for count in range(2, width + 1):
        bits = -(-width // count)
        if (sums << bits) <= EXACT:
            return bits
    return 0


def product(b: Builder, node: Node) -> None:
    """A product, and the bias that alone reads it, as one ONNX node; as several in float64 where float32 is too narrow."""
    x, kernel = node.inputs
    bias = fused_bias(b.graph, b.users, node)
    target = bias.output if bias else node.output
    sums = int(weight_sums(b.graph.constants[kernel], node.op).max(initial=0))
    total = b.top(x) * sums + (b.top(bias.inputs[1]) if bias else 0)
    last = node.op == "dense"
    op, attrs = _form(b, node)
    if total <= EXACT and not b.wide(x):
        inputs = [b.get(x, last), _weight(b, node)]
        if bias and op != "MatMul":
            inputs.append(b.get(bias.inputs[1], True))
        if op == "MatMul" and bias:
            inputs = [b.put(node.output, op, inputs, last), b.get(bias.inputs[1], True)]
            op = "Add"
        b.put(target, op, inputs, last, **attrs)
    else:
        _put_in_digits(b, node, op, attrs, last, digits(b, x, last, digit_bits(b.top(x), sums)))
        if bias:
            b.put(target, "Add", [b.get(node.output, last, True), b.get(bias.inputs[1], last, True, rank=b.rank(node.output))], last, wide=True)
    if bias:
        b.done.add(bias.name)


def _put_in_digits(b: Builder, node: Node, op: str, attrs: dict, last: bool, parts: list[str]) -> None:
    """The product of every digit, all in one node with the digits behind one another in the batch, added up in float64."""
    name, double = node.output, b.float_type(True)
    stacked = parts[0] if len(parts) == 1 else b.node("Concat", parts, f"{name}/digits", axis=0)
    products = b.node(op, [stacked, _weight(b, node)], f"{name}/products", **attrs)
    if len(parts) == 1:
        b.put(name, "Cast", [products], last, wide=True, to=double)
        return
    rest = b.split(b.node("Cast", [products], f"{name}/products64", to=double), len(parts), f"{name}/part")
    while len(rest) > 2:
        rest[:2] = [b.node("Add", rest[:2], f"{name}/sum")]
    b.put(name, "Add", rest, last, wide=True)


def digits(b: Builder, value: str, last: bool, bits: int) -> list[str]:
    """float32 tensors that add up to ``value``: its codes' digits to the base ``2**bits``, the lowest last, each in real units."""
    wide = b.wide(value)
    rest = b.get(value, last, wide)
    format = b.graph.format(value)
    assert format is not None
    found = []
    for place in range(-(-max(b.top(value).bit_length(), 1) // bits) - 1, 0, -1):
        exponent = format.exponents[0] + place * bits
        steps = b.node("Floor", [b.node("Mul", [rest, b.power((-exponent,), wide)], f"{value}/shifted")], f"{value}/digit_code")
        found.append(b.node("Mul", [steps, b.power((exponent,), wide)], f"{value}/digit"))
        rest = b.node("Sub", [rest, found[-1]], f"{value}/rest")
    found.append(rest)
    return [b.node("Cast", [part], f"{value}/digit32", to=b.float_type(False)) for part in found] if wide else found


def fused_bias(graph: Graph, users: dict[str, list[Node]], node: Node) -> Node | None:
    """The ``bias_add`` with a constant bias that is the only reader of a product, if there is one."""
    readers = users.get(node.output, [])
    if len(readers) != 1 or readers[0].op != "bias_add" or node.output in graph.outputs:
        return None
    reader = readers[0]
    return reader if reader.inputs[0] == node.output and reader.inputs[1] in graph.constants and len(graph.shape(reader.inputs[1])) == 1 else None


def _weight(b: Builder, node: Node) -> str:
    """The kernel in ONNX' layout, in real units: (out, in/groups, *window); (in, out, *window) transposed; (in, out) dense."""
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
    return b.style.constant(b, name, codes, _per_output(format), axis, own=twice)


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
    """ONNX' explicit pads of a window; ``auto_pad`` (the same rule) where a size is unknown."""
    if padding == "same" and any(n is None for n in sizes):
        return {"auto_pad": "SAME_UPPER"}
    each = [(0, 0) if padding == "valid" else window_pads(n, k, s, d, padding) for n, k, s, d in zip(sizes, window, strides, dilation)]
    return {"pads": [front for front, _ in each] + [back for _, back in each]}
