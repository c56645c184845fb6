"""Integer graphs that reach every executor (``executors/test_contract.py``): a small one for every op and case, random
networks, and ResNet8's shape."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat

S8, U8, S16, U16 = (lambda e, b=b, s=s: QFormat(b, s, e) for b, s in ((8, True), (8, False), (16, True), (16, False)))
ROUNDINGS = ("half_even", "half_up", "half_away", "floor")


class Builder:
    """A graph that starts at one quantized input; every method adds a node and returns its name."""

    def __init__(self, shape, format=None, seed=0, name="net"):
        self.random = np.random.default_rng(seed)
        self.graph = Graph("integer", name=name)
        self.input = self.add_input(shape, format or S8(-7))

    def add_input(self, shape, format, name="x"):
        self.graph.inputs.append(name)
        self.graph.types[name] = TensorType((None, *shape))
        return self.node("quantize", f"{name}_q", name, format=format)

    def node(self, op, name, *inputs, **attrs):
        return self.graph.insert(op, inputs, name, attrs).name

    def constant(self, name, shape, format, low=None, high=None):
        low, high = format.qmin if low is None else low, format.qmax if high is None else high
        return self.graph.add_constant(name, self.random.integers(low, high + 1, shape).astype(format.dtype), format)

    def kernel(self, name, shape, bits=8, exponent=-7, low=None, high=None):
        return self.constant(name, shape, QFormat(bits, True, exponent), low, high)

    def conv(
        self, x, channels, name, *, window=(3, 3), strides=None, padding="same", dilation=None, groups=1, out=None,
        bias=True, exponent=-7, kernel=None, op="conv", rounding="half_even", low=None, high=None, **attrs
    ):
        """A product with bias and requantize; ``out=None`` picks an exponent that uses the output's range."""
        graph, ones = self.graph, (1,) * len(window)
        inputs = graph.shape(x)[-1]
        shape = {"conv": (*window, inputs // groups, channels), "depthwise_conv": (*window, inputs, channels // inputs),
                 "conv_transpose": (*window, channels, inputs), "dense": (inputs, channels)}[op]
        kernel = kernel or self.kernel(f"{name}/kernel", shape, exponent=exponent)
        attrs = {} if op == "dense" else {"strides": strides or ones, "padding": padding, **attrs}
        if op in ("conv", "depthwise_conv"):
            attrs["dilation"] = dilation or ones
        if op == "conv":
            attrs["groups"] = groups
        value = self.node(op, f"{name}/product" if bias else name, x, kernel, **attrs)
        if bias:
            accumulator = graph.format(value)
            value = self.node(
                "bias_add", name, value, self.constant(f"{name}/bias", (channels,), accumulator, -3000, 3000)
            )
        if out is None:
            terms = (
                np.prod(shape[:-2], dtype=int)
                * (shape[-2] if op in ("conv", "dense") else shape[-1] if op == "conv_transpose" else 1)
            )
            first = np.max(graph.format(value).exponent)
            out = S8(int(first) + 7 + int(np.ceil(np.log2(terms) / 2)))
        return self.node("requantize", f"{name}_q", value, format=out, rounding=rounding, low=low, high=high)

    def finish(self, *values):
        """Dequantize and return them; the graph is complete."""
        for index, value in enumerate(values):
            self.graph.outputs.append(self.node("dequantize", "out" if len(values) == 1 else f"out_{index}", value))
        return self.graph


def _unary(shape=(5, 4, 6), format=None):
    builder = Builder(shape, format)
    return builder, builder.input


def conv_case(shape=(7, 6, 4), channels=5, format=None, **options):
    builder, x = _unary(shape, format)
    return builder.finish(builder.conv(x, channels, "c", **options))


def kernel16_case():
    builder, x = _unary((5, 5, 3), U8(-8))
    kernel = builder.kernel("c/kernel", (3, 3, 3, 6), bits=16, exponent=-12, low=-30000, high=30000)
    return builder.finish(builder.conv(x, 6, "c", kernel=kernel, out=S16(-12)))


def wide_case():
    """Unsigned 16-bit activations, which do not fit int16."""
    builder, x = _unary((5, 5, 3), U16(-15))
    kernel = builder.kernel("c/kernel", (3, 3, 3, 6), bits=10, exponent=-9, low=-500, high=500)
    y = builder.conv(x, 6, "c", kernel=kernel, out=U16(-13), low=0)
    weights = builder.kernel("d/kernel", (3, 3, 6, 2), bits=8)
    return builder.finish(builder.conv(y, 12, "d", kernel=weights, op="depthwise_conv"))


def per_channel_case(op, shape=(6, 5, 4), channels=8):
    """Kernels with an exponent for every channel; shifts of 0, negative ones and large ones among them."""
    builder, x = _unary(shape)
    size = {"conv": (3, 3, shape[-1], channels), "depthwise_conv": (3, 3, shape[-1], channels // shape[-1]),
            "conv_transpose": (3, 3, channels, shape[-1]), "dense": (shape[-1], channels)}[op]
    exponents = tuple([-12, -9, 0, 3, -40, -70, -7, -8][:channels])
    format = QFormat(8, True, exponents, narrow=True)
    kernel = builder.constant("c/kernel", size, format)
    options = {} if op == "dense" else {"window": (3, 3)}
    return builder.finish(builder.conv(x, channels, "c", op=op, kernel=kernel, out=S8(-7), **options))


def packed_case(op, shape=(5, 4, 7), channels=9, bits=4, format=None):
    """Weights of at most 4 bits, every code of them, in rows of odd and even lengths: two to a byte."""
    builder, x = _unary(shape, format)
    size = {"conv": (3, 2, shape[-1], channels), "depthwise_conv": (3, 3, shape[-1], channels // shape[-1]),
            "conv_transpose": (3, 3, channels, shape[-1]), "dense": (shape[-1], channels)}[op]
    kernel = builder.kernel("c/kernel", size, bits=bits, exponent=-4)
    options = {} if op == "dense" else {"window": size[:2]}
    return builder.finish(builder.conv(x, channels, "c", op=op, kernel=kernel, **options))


def every_kernel_case():
    """Products with weights of 4, 8, 16 and 32 bits, whose rows have every length from 1 to 18, and some long ones;
    depthwise ones too.
    """
    builder = Builder((3, 2, 18))
    outputs = []
    wide = builder.add_input((3, 2, 18), U16(-15), "w")
    for bits in (4, 8, 16):
        for length in (*range(1, 19), 37):
            x = (
                builder.input if length == 18
                else builder.node(
                    "crop", f"x{bits}_{length}", builder.input, crops=((0, 0), (0, 0), (0, max(0, 18 - length)))
                )
            )
            window = (1, 1) if length < 18 else (2, 1)
            kernel = builder.kernel(
                f"k{bits}_{length}", (*window, builder.graph.shape(x)[-1], 5), bits=bits, exponent=1 - bits
            )
            outputs.append(builder.conv(x, 5, f"c{bits}_{length}", window=window, kernel=kernel))
        kernel = builder.kernel(f"d{bits}/kernel", (2, 2, 18, 1), bits=bits, exponent=1 - bits)
        outputs.append(builder.conv(builder.input, 18, f"d{bits}", op="depthwise_conv", window=(2, 2), kernel=kernel))
        kernel = builder.kernel(f"t{bits}/kernel", (2, 2, 9, 18), bits=bits, exponent=1 - bits)
        outputs.append(builder.conv(builder.input, 9, f"t{bits}", op="conv_transpose", window=(2, 2), kernel=kernel))
    outputs.append(builder.conv(wide, 6, "wide", window=(2, 2)))
    return builder.finish(*outputs)


def in_place_case():
    """Products and pools whose outputs take the memory of their inputs, one after another."""
    builder, x = _unary((9, 8, 70))
    x = builder.conv(x, 70, "a", window=(1, 1))
    x = builder.conv(x, 69, "b", window=(1, 1), strides=(1, 2))
    x = builder.conv(x, 68, "c", window=(2, 2), padding="valid")
    x = builder.conv(x, 68, "d", op="depthwise_conv", window=(2, 2), padding="valid")
    x = builder.node("max_pool", "m", x, pool_size=(2, 1), strides=(1, 1), padding="same")
    return builder.finish(builder.conv(x, 66, "e", op="dense", window=()), builder.conv(x, 3, "f", window=(1, 1)))


def raw_accumulator_case():
    """A per-channel accumulator as the graph's output: nothing behind the bias."""
    builder, x = _unary()
    kernel = builder.constant("c/kernel", (1, 1, 6, 3), QFormat(8, True, (-7, -9, -8)))
    product = builder.node("conv", "c/product", x, kernel, strides=(1, 1), padding="same", dilation=(1, 1))
    return builder.finish(
        builder.node("bias_add", "c", product, builder.constant("c/bias", (3,), builder.graph.format(product), -9, 9))
    )


def accumulator16_case():
    """The published form: a 16-bit accumulator and a 16-bit bias at one scale, then ReLU."""
    builder, x = _unary((6, 6, 3))
    product = builder.node(
        "conv", "c/product", x, builder.kernel("c/kernel", (3, 3, 3, 8)), strides=(2, 2), padding="same",
        dilation=(1, 1)
    )
    accumulator = builder.node("requantize", "c/accumulator", product, format=S16(-13))
    value = builder.node("bias_add", "c", accumulator, builder.constant("c/q_bias", (8,), S16(-13)))
    value = builder.node("relu", "r", value)
    return builder.finish(builder.node("requantize", "r_q", value, format=U8(-6)))


def pool_case(value=228, uniform=True, rounding="floor", format=None):
    """An average pool: a depthwise product with one value everywhere."""
    builder, x = _unary((8, 8, 70), format or U8(-8))
    kernel = builder.graph.add_constant("p/reciprocal", np.full((3, 3, 70, 1), value, np.uint8), U8(-11))
    if not uniform:
        builder.graph.constants[kernel] = builder.random.integers(0, 256, (3, 3, 70, 1)).astype(np.uint8)
    product = builder.node("depthwise_conv", "p", x, kernel, strides=(2, 2), padding="same", dilation=(1, 1))
    return builder.finish(builder.node("requantize", "p_q", product, format=U8(-7), rounding=rounding))


def mean_case(
    shape=(8, 8, 70), window=(3, 3), strides=(2, 2), padding="same", rounding="half_even", format=None, out=None,
    **attrs
):
    """The exact mean of windows."""
    builder, x = _unary(shape, format or U8(-8))
    return builder.finish(
        builder.node(
            "average_pool", "p_q", x, pool_size=window, strides=strides, padding=padding, format=out or U8(-9),
            rounding=rounding, **attrs
        )
    )


MEANS = {
    **{f"mean_{r}": (lambda r=r: mean_case(rounding=r)) for r in ROUNDINGS},
    **{
        f"mean_s8_{r}": (lambda r=r: mean_case(window=(2, 3), padding="valid", rounding=r, format=S8(-7), out=S8(-7)))
        for r in ROUNDINGS
    },
    "mean_global": lambda: mean_case(window=(8, 8), padding="valid"),
    "mean_global_of_ties": lambda: mean_case((6, 6, 5), (6, 6), (6, 6), "valid", out=U8(-7)),
    "mean_large": lambda: mean_case((40, 36, 3), (40, 36), (1, 1), "valid", format=S8(-7), out=S8(-10)),
    "mean_1d": lambda: mean_case((30, 5), (6,), (4,), out=S8(-7), format=S8(-7)),
    "mean_relu": lambda: mean_case(format=S8(-7), out=S8(-8), low=0, high=90),
    "mean_16_bit": lambda: mean_case(window=(2, 2), format=S16(-13), out=S16(-14)),
    "window_sum": lambda: mean_case(window=(2, 3), padding="valid", format=S8(-7), out=S8(-5), divide=False),
}


def binary_case(op, other, rounding="half_even", format=None, out=None, first=False):
    """``op`` of the input and a second input, or a constant of shape ``other``; ``first`` puts the constant in
    front.
    """
    builder, x = _unary((5, 4, 6), format)
    y = (
        builder.add_input((5, 4, 6), builder.graph.format(x), "y") if other is None
        else builder.constant("k", other, builder.graph.format(x))
    )
    value = builder.node(op, "sum", *((y, x) if first else (x, y)))
    if op in ("maximum", "minimum"):
        return builder.finish(value)
    exponent = builder.graph.format(value).exponent
    return builder.finish(
        builder.node(
            "requantize", "sum_q", value, format=out or S8(exponent + (5 if op == "multiply" else 1)), rounding=rounding
        )
    )


def requantize_case(rounding):
    """From every storage type to others, by shifts to the right and left, of nothing, and beyond the width."""
    builder = Builder((3, 4, 100), S8(-7))
    sources = {
        f: builder.add_input((3, 4, 100), f, f"x{i}") for i, f in enumerate((U8(-8), S16(-15), U16(-9), S16(0), S8(0)))
    }
    sources[S8(-7)] = builder.input
    pairs = (
        (S8(-7), S8(-4)), (S16(-15), U8(-8)), (U8(-8), S16(-12)), (U16(-9), S16(-9)), (S16(0), S8(14)),
        (S16(0), S8(40)), (S8(0), S16(-6)), (S8(0), S8(-50))
    )
    return builder.finish(
        *(
            builder.node("requantize", f"r{i}", sources[s], format=t, rounding=rounding)
            for i, (s, t) in enumerate(pairs)
        )
    )


def relu_case():
    builder, x = _unary()
    r = builder.node("relu", "r", x, max_code=90)
    s = builder.node(
        "requantize", "s", builder.node("relu", "t", builder.node("requantize", "u", x, format=S8(-6))), format=U8(-7),
        low=3, high=77
    )
    return builder.finish(r, s)


def lookup_case(source, target):
    builder, x = _unary((4, 4, 33), source)
    table = builder.constant("f/table", (source.qmax - source.qmin + 1,), target)
    return builder.finish(builder.node("lookup", "f", x, table, format=target))


def max_pool_case(padding, format=None, shape=(7, 6, 5), size=(3, 2), strides=(2, 2)):
    builder, x = _unary(shape, format)
    return builder.finish(builder.node("max_pool", "m", x, pool_size=size, strides=strides, padding=padding))


def global_max_case(axes, keepdims=False, shape=(7, 6, 70)):
    builder, x = _unary(shape)
    return builder.finish(builder.node("global_max_pool", "m", x, axes=axes, keepdims=keepdims))


def moves_case(format=None):
    """Every op that only moves codes, one after another, with branches."""
    b, x = _unary((4, 6, 3), format)
    p = b.node("pad", "p", x, pads=((1, 2), (0, 1), (0, 0)))
    q = b.node("pad", "q", x, pads=((1, 2), (0, 1), (2, 1)))
    c = b.node("crop", "c", p, crops=((2, 1), (1, 0), (0, 1)))
    u = b.node("upsample", "u", c, size=(2, 3))
    t = b.node("permute", "t", u, dims=(3, 1, 2))
    r = b.node("reshape", "r", t, shape=(8, 36))
    v = b.node("upsample", "v", r, size=(2,))
    j = b.node("concat", "j", v, b.node("crop", "h", v, crops=((0, 0), (3, 1))), v, axis=-1)
    w = b.node("concat", "w", j, j, axis=1)
    s = b.node("permute", "s", w, dims=(2, 1))
    return b.finish(s, q, b.node("reshape", "flat", p, shape=(7 * 7 * 3,)))


def slices_case(format=None):
    """Steps, flips, repetitions, tilings, rotations and lists of indices, in a row and apart."""
    b, x = _unary((5, 6, 8), format)
    s = b.node("slice", "s", x, slices=((1, None, 2), (0, 5, 2), (0, None, 1)))
    every = b.node("slice", "every", x, slices=((0, None, 1), (2, 6, 3), (1, None, 3)))
    flip = b.node("take", "flip", s, axis=2, indices=(2, 1, 0))
    repeat = b.node("take", "repeat", flip, axis=1, indices=(0, 0, 0, 1, 1, 1))
    tile = b.node("take", "tile", repeat, axis=-1, indices=tuple(range(8)) * 2)
    roll = b.node("take", "roll", tile, axis=3, indices=tuple((i + 5) % 16 for i in range(16)))
    some = b.node("take", "some", x, axis=1, indices=(4, 0, 0, 3, 1))
    backwards = b.node("take", "backwards", x, axis=3, indices=(7, 5, 3, 1, 6, 4, 2, 0))
    row = b.node("slice", "row", b.node("reshape", "flat", x, shape=(240,)), slices=((3, 200, 7),))
    pair = b.node("take", "pair", b.node("reshape", "vector", row, shape=(29,)), axis=1, indices=(28, 0))
    turned = b.node("take", "x_flip", x, axis=2, indices=(5, 4, 3, 2, 1, 0))
    return b.finish(
        roll, every, some, backwards, pair, turned if b.graph.format(x).bits > 8 else b.conv(turned, 3, "c")
    )


def pad_into_conv_case():
    b, x = _unary((6, 5, 3))
    p = b.node("pad", "p", b.node("pad", "o", x, pads=((0, 1), (0, 0), (0, 0))), pads=((1, 1), (0, 2), (0, 0)))
    y = b.conv(p, 4, "c", strides=(2, 2), padding="valid")
    y = b.conv(
        b.node("pad", "p2", y, pads=((1, 0), (1, 1), (0, 0))), 4, "d", op="depthwise_conv", padding="same",
        strides=(2, 2)
    )
    return b.finish(y)


def borders_case():
    """Two formats of one input, moves in front of a quantize and behind a dequantize, an output twice, an input as
    output.
    """
    builder = Builder((4, 6), S8(-7))
    graph = builder.graph
    reshaped = builder.node("reshape", "x_r", "x", shape=(6, 4))
    other = builder.node("quantize", "x_r_q", reshaped, format=U8(-6), rounding="floor")
    y = builder.conv(builder.input, 5, "d", op="dense")
    float_y = builder.node("dequantize", "y", y)
    flat = builder.node("reshape", "y_flat", float_y, shape=(20,))
    soft = builder.node("softmax", "soft", flat)
    graph.outputs += [
        soft, float_y, flat, builder.node("dequantize", "z", other),
        builder.node("dequantize", "x_again", builder.input)
    ]
    return graph


def one_dimensional_case():
    b, x = _unary((16, 3))
    y = b.conv(x, 8, "c", window=(5,), strides=(2,))
    y = b.conv(y, 8, "d", window=(3,), op="depthwise_conv", dilation=(2,), padding="valid")
    y = b.conv(y, 6, "t", window=(4,), strides=(3,), op="conv_transpose", output_padding=None)
    y = b.node("max_pool", "m", y, pool_size=(2,), strides=(2,), padding="same")
    return b.finish(y)


CASES = {
    "conv_same": lambda: conv_case(),
    "conv_valid": lambda: conv_case(padding="valid", window=(3, 2)),
    "conv_strided": lambda: conv_case(strides=(2, 3), rounding="half_up"),
    "conv_dilated": lambda: conv_case(dilation=(2, 1), format=U8(-8)),
    "conv_dilated_valid": lambda: conv_case(dilation=(1, 2), padding="valid", rounding="half_away"),
    "conv_groups": lambda: conv_case(shape=(5, 5, 6), channels=9, groups=3, rounding="floor"),
    "conv_pointwise": lambda: conv_case(window=(1, 1), channels=9, bias=False),
    "conv_pointwise_strided": lambda: conv_case(window=(1, 1), strides=(2, 2), channels=1),
    "conv_16_bit_input": lambda: conv_case(format=S16(-15), out=S16(-12)),
    "conv_16_bit_kernel": kernel16_case,
    "conv_wide": wide_case,
    "conv_1d": one_dimensional_case,
    "conv_raw_accumulator": raw_accumulator_case,
    "conv_accumulator16": accumulator16_case,
    "conv_padded": pad_into_conv_case,
    "depthwise": lambda: conv_case(op="depthwise_conv", channels=4, format=U8(-8)),
    "depthwise_multiplier": lambda: conv_case(op="depthwise_conv", channels=12, strides=(2, 1), padding="valid"),
    "depthwise_dilated": lambda: conv_case(
        shape=(9, 9, 70), op="depthwise_conv", channels=70, dilation=(2, 3), format=S16(-13)
    ),
    "depthwise_16_bit_kernel": lambda: pool_case(uniform=False),
    "depthwise_16_bit_both": lambda: pool_case(uniform=False, format=S16(-14)),
    "depthwise_s8_16_bit_kernel": lambda: pool_case(uniform=False, format=S8(-7)),
    "average_pool": lambda: pool_case(),
    "average_pool_half_even": lambda: pool_case(255, rounding="half_even", format=S16(-13)),
    **MEANS,
    **{
        f"transpose_{p}_{s}_{k}_{e}": (
            lambda p=p, s=s, k=k, e=e: conv_case(
                shape=(4, 3, 5), op="conv_transpose", padding=p, strides=s, window=k, output_padding=e
            )
        )
        for p in ("same", "valid")
        for s, k, e in (
            ((1, 1), (3, 3), None), ((2, 2), (3, 2), None), ((3, 2), (2, 2), None), ((2, 3), (3, 4), (1, 2))
        )
    },
    "dense": lambda: conv_case(shape=(37,), channels=10, op="dense", window=()),
    "dense_rows": lambda: conv_case(
        shape=(3, 5, 8), channels=6, op="dense", window=(), format=U8(-8), rounding="half_up"
    ),
    **{
        f"per_channel_{op}": (lambda op=op: per_channel_case(op))
        for op in ("conv", "depthwise_conv", "conv_transpose", "dense")
    },
    **{f"{op}_{r}": (lambda op=op, r=r: binary_case(op, None, r)) for op in ("add", "subtract") for r in ROUNDINGS},
    "maximum": lambda: binary_case("maximum", None),
    "minimum": lambda: binary_case("minimum", None),
    "minimum_u16": lambda: binary_case("minimum", (6,), format=U16(-9)),
    "minimum_s16": lambda: binary_case("minimum", (1, 5, 1, 6), format=S16(-9)),
    "maximum_u16": lambda: binary_case("maximum", (6,), format=U16(-9)),
    "add_constant": lambda: binary_case("add", (1, 1, 1, 6)),
    "subtract_from_constant": lambda: binary_case("subtract", (6,), first=True, rounding="floor"),
    "multiply_scalar": lambda: binary_case("multiply", (1,)),
    "multiply_map": lambda: binary_case("multiply", (1, 5, 4, 1), rounding="half_away"),
    "multiply_column": lambda: binary_case("multiply", (1, 5, 1, 6), format=S16(-15), out=S16(-15)),
    **{f"requantize_{r}": (lambda r=r: requantize_case(r)) for r in ROUNDINGS},
    "relu": relu_case,
    "lookup_s8": lambda: lookup_case(S8(-4), U8(-8)),
    "lookup_u8_to_s16": lambda: lookup_case(U8(-4), S16(-12)),
    "lookup_s16": lambda: lookup_case(QFormat(10, True, -4), S8(-7)),
    "lookup_4_bits": lambda: lookup_case(QFormat(4, True, -2), S8(-7)),
    "max_pool_same": lambda: max_pool_case("same"),
    "max_pool_valid": lambda: max_pool_case("valid", U8(-8), (8, 8, 130), (2, 2)),
    "max_pool_16": lambda: max_pool_case("same", S16(-9), strides=(1, 3)),
    "global_max": lambda: global_max_case((1, 2)),
    "global_max_keepdims": lambda: global_max_case((1, 2), True),
    "global_max_height": lambda: global_max_case((1,)),
    "global_max_channels": lambda: global_max_case((3,)),
    "global_max_all": lambda: global_max_case((1, 2, 3), shape=(2, 1, 3)),
    "global_max_apart": lambda: global_max_case((1, 3), shape=(2, 6, 3)),
    "global_max_apart_twice": lambda: global_max_case((2, 4), True, (3, 4, 5, 2, 6)),
    "moves": moves_case,
    "moves_16": lambda: moves_case(S16(-9)),
    "moves_u8": lambda: moves_case(U8(-9)),
    "slices": slices_case,
    "slices_16": lambda: slices_case(S16(-9)),
    "slices_u8": lambda: slices_case(U8(-9)),
    "borders": borders_case,
    "packed_conv": lambda: packed_case("conv"),
    "packed_conv_even": lambda: packed_case("conv", (5, 4, 16), 6, format=U8(-8)),
    "packed_conv_16_bit_input": lambda: packed_case("conv", (5, 4, 11), 5, 3, S16(-15)),
    "packed_conv_wide_input": lambda: packed_case("conv", (5, 4, 11), 5, 4, U16(-15)),
    "packed_depthwise": lambda: packed_case("depthwise_conv", (5, 4, 67), 67, format=U8(-8)),
    "packed_depthwise_multiplier": lambda: packed_case("depthwise_conv", (5, 4, 5), 15),
    "packed_depthwise_16_bit_input": lambda: packed_case("depthwise_conv", (5, 4, 130), 130, 2, S16(-15)),
    "packed_transpose": lambda: packed_case("conv_transpose", (4, 3, 21), 5),
    "pointwise_in_place": lambda: in_place_case(),
    "packed_dense": lambda: packed_case("dense", (37,), 10),
}


def cover():
    """The first case of each op: a new op's case is among them by itself."""
    chosen, covered = [], set()
    for case, make in CASES.items():
        if new := {node.op for node in make().nodes} - covered:
            covered |= new
            chosen.append(case)
    return chosen


def random_network(seed):
    """A random residual network over most ops: convolutions of all kinds, sums, concats, pools, tables, moves."""
    b = Builder((12, 12, 4), seed=seed, name=f"random_{seed}")
    r, g = b.random, b.graph
    live = [b.input]
    for index in range(14):
        x = live[r.integers(len(live))]
        channels, name = g.shape(x)[-1], f"n{index}"
        kind = r.choice(
            [
                "conv", "conv", "depthwise", "group", "transpose", "add", "concat", "pool", "lookup", "pad", "crop",
                "relu", "multiply"
            ]
        )
        exponent, format = g.format(x).exponent, g.format(x)
        same = [v for v in live if g.shape(v) == g.shape(x)]
        beside = [v for v in live if g.shape(v)[:-1] == g.shape(x)[:-1]]
        rounding = ROUNDINGS[r.integers(4)]
        if kind == "conv":
            stride = int(r.integers(1, 3))
            unsigned = bool(r.integers(2))
            y = b.conv(
                x, int(r.integers(1, 9)), name, window=(int(r.integers(1, 4)),) * 2, strides=(stride,) * 2,
                rounding=rounding, out=U8(exponent + 1) if unsigned else S8(exponent + 2), low=0 if unsigned else None,
                padding=["same", "valid"][r.integers(2)] if min(g.shape(x)[1:3]) > 3 else "same"
            )
        elif kind == "depthwise":
            y = b.conv(
                x, channels * int(r.integers(1, 3)), name, op="depthwise_conv", rounding=rounding, out=S8(exponent + 1)
            )
        elif kind == "group" and channels % 2 == 0:
            y = b.conv(x, 6, name, groups=2, dilation=(2, 1), out=S8(exponent + 1))
        elif kind == "transpose" and g.shape(x)[1] <= 12:
            y = b.conv(x, 3, name, op="conv_transpose", strides=(2, 1), padding="same", out=S8(exponent + 1))
        elif kind == "add":
            y = same[r.integers(len(same))]
            if g.format(y).exponent != exponent:
                y = b.node("requantize", f"{name}/rescale", y, format=S8(exponent), rounding=rounding)
            y = b.node("requantize", f"{name}_q", b.node("add", name, x, y), format=S8(exponent + 1), rounding=rounding)
        elif kind == "concat":
            y = beside[r.integers(len(beside))]
            if g.format(y) != format:
                y = b.node("requantize", f"{name}/rescale", y, format=format)
            y = b.node("concat", name, x, y, axis=-1)
        elif kind == "pool":
            y = b.node(
                "max_pool", name, x, pool_size=(2, 2), strides=(2, 2) if g.shape(x)[1] > 3 else (1, 1), padding="same"
            )
        elif kind == "lookup":
            y = b.node("lookup", name, x, b.constant(f"{name}/table", (256,), S8(-7)), format=S8(-7))
        elif kind == "pad":
            y = b.node("pad", name, x, pads=((1, 0), (0, 2), (0, 0)))
        elif kind == "crop" and min(g.shape(x)[1:3]) > 4:
            y = b.node("crop", name, x, crops=((1, 1), (0, 1), (0, 0)))
        elif kind == "multiply":
            y = b.node(
                "requantize", f"{name}_q",
                b.node("multiply", name, x, b.constant(f"{name}/alpha", (channels,), S8(-7))), format=S8(exponent)
            )
        else:
            y = b.node("relu", name, x)
        live.append(y)
    used = {v for node in g.nodes for v in node.inputs}
    return b.finish(*[v for v in live if v not in used][-3:])


def resnet8(seed=0):
    """The shape of the MLPerf Tiny ResNet8 with random weights: 32x32x3, three stages of 16, 32, 64 channels, ten
    classes.
    """
    b = Builder((32, 32, 3), U8(0), seed, "resnet8")
    relu = {"low": 0, "high": 255}
    x = b.conv(b.input, 16, "conv0", out=U8(3), **relu)
    for stage, (channels, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
        y = b.conv(x, channels, f"stage{stage}/a", strides=(stride, stride), out=U8(2), **relu)
        y = b.conv(y, channels, f"stage{stage}/b", out=S8(3))
        shortcut = b.node("requantize", f"stage{stage}/rescale", x, format=S8(3)) if stride == 1 else b.conv(
            x, channels, f"stage{stage}/shortcut", window=(1, 1), strides=(stride, stride), out=S8(3))
        x = b.node(
            "requantize", f"stage{stage}_q", b.node("add", f"stage{stage}/add", y, shortcut), format=U8(3), **relu
        )
    kernel = b.graph.add_constant("pool/reciprocal", np.full((8, 8, 64, 1), 255, np.uint8), U8(-14))
    pooled = b.node("depthwise_conv", "pool", x, kernel, strides=(1, 1), padding="valid", dilation=(1, 1))
    pooled = b.node(
        "reshape", "flat", b.node("requantize", "pool_q", pooled, format=U8(2), rounding="floor"), shape=(64,)
    )
    graph = b.finish(b.conv(pooled, 10, "dense", op="dense", window=(), out=S8(4)))
    graph.outputs = [b.node("softmax", "softmax", graph.outputs[0])]
    return graph


def real_inputs(graph, count, seed=1):
    """Real inputs that reach every code of the graph's input formats, ties between codes and saturation among them."""
    random = np.random.default_rng(seed)
    arrays = []
    for name in graph.inputs:
        format = next(n.attrs["format"] for n in graph.nodes if n.op == "quantize" and n.inputs[0] == name)
        halves = random.integers(2 * format.qmin - 9, 2 * format.qmax + 10, (count, *graph.shape(name)[1:]))
        arrays.append((halves * 0.5 * format.scale).astype(np.float32))
    return arrays
