"""Random integer graphs that use every op of the integer stage, for executors that must equal the interpreter."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES


class Builder:
    """Adds one random op after the other; ``self.values`` are 8- and 16-bit activations that later ops may read."""

    def __init__(self, seed: int, one_dimensional: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("integer", ["x"], name=f"random{seed}")
        size = (int(self.rng.integers(5, 12)),) if one_dimensional else tuple(map(int, self.rng.integers(5, 12, 2)))
        self.graph.types["x"] = TensorType((None, *size, int(self.rng.choice([1, 3, 5, 16]))))
        signed = bool(self.rng.integers(2))
        q = self.graph.insert("quantize", ["x"], "x_q", {"format": QFormat(8, signed, -6), "rounding": self.mode()})
        self.values = [q.output]

    def mode(self) -> str:
        return str(self.rng.choice(ROUNDING_MODES))

    def pick(self, accept=lambda shape: True) -> str:
        """A value, often the latest."""
        names = [v for v in self.values if accept(self.graph.shape(v))]
        return names[-1] if self.rng.random() < 0.6 else str(self.rng.choice(names))

    def spatial(self) -> str:
        return self.pick(lambda shape: len(shape) == len(self.graph.shape("x")) and all(n >= 2 for n in shape[1:-1]))

    def insert(self, op: str, inputs, attrs=None, **options) -> str:
        return self.graph.insert(op, inputs, op, attrs, **options).output

    def to_codes(self, value: str) -> str:
        """An accumulator to 8 or 16 bits, now and then with relu before, behind, or in the range."""
        rng, graph = self.rng, self.graph
        source = graph.format(value)
        if rng.random() < 0.3:
            value = self.insert(
                "relu", [value], {"max_code": None if rng.random() < 0.5 else int(rng.integers(100, 10000))}
            )
        bits, signed = (16 if rng.random() < 0.2 else 8), bool(rng.integers(2))
        top = max(np.atleast_1d(source.exponent))
        shift = int(rng.integers(3, 10)) if bits == 8 else int(rng.integers(-1, 4))
        format = QFormat(bits, signed, int(top) + shift)
        out = self.insert(
            "requantize", [value],
            {
                "format": format, "rounding": self.mode() if rng.random() < 0.5 else "half_even",
                "low": 0 if rng.random() < 0.3 else None, "high": int(format.qmax // 2) if rng.random() < 0.3 else None
            }
        )
        if rng.random() < 0.3:
            out = self.insert("relu", [out], {"max_code": None if rng.random() < 0.5 else 50})
        return out

    def product(self) -> str:
        rng, graph = self.rng, self.graph
        op = str(rng.choice(["conv", "conv", "depthwise_conv", "dense", "conv_transpose"]))
        x = self.pick() if op == "dense" else self.spatial()
        shape = graph.shape(x)
        rank, channels = len(shape) - 2, shape[-1]
        outputs = int(rng.choice([1, 4, 6, 16, 17, 33, 64]))
        window = tuple(int(rng.integers(1, min(4, n) + 1)) for n in shape[1:-1])
        attrs: dict = {}
        if op == "dense":
            kernel_shape: tuple = (channels, outputs)
        else:
            attrs = {
                "strides": tuple(map(int, rng.integers(1, 3, rank))), "padding": str(rng.choice(["same", "valid"]))
            }
            kernel_shape = (*window, channels, outputs)
        if op == "conv":
            groups = (
                int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0])) if rng.random() < 0.3 else 1
            )
            kernel_shape = (*window, channels // groups, groups * max(1, outputs // groups))
            attrs["groups"] = groups
        if op == "depthwise_conv":
            kernel_shape = (*window, channels, int(rng.integers(1, 4)))
        if op in ("conv", "depthwise_conv"):
            attrs["dilation"] = (1,) * rank
            if attrs["strides"] == (1,) * rank and all(n > 2 * (k - 1) for n, k in zip(shape[1:-1], window)):
                attrs["dilation"] = tuple(map(int, rng.integers(1, 3, rank)))
        if op == "conv_transpose":
            kernel_shape = (*window, outputs, channels)
        unsigned = op == "depthwise_conv" and rng.random() < 0.3
        dtype, bits = (np.uint8, 8) if unsigned else (np.int8, 8)
        kernel = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, kernel_shape).astype(dtype)
        if graph.format(x).bits == 16:
            kernel //= 8  # sums stay within 32 bits
        count = (
            kernel_shape[-2] * kernel_shape[-1] if op == "depthwise_conv" else kernel_shape[-2]
            if op == "conv_transpose" else kernel_shape[-1]
        )
        exponent = tuple(map(int, rng.integers(-9, -5, count))) if rng.random() < 0.4 else -7
        k = graph.add_constant("kernel", kernel, QFormat(bits, not unsigned, exponent))
        value = self.insert(op, [x, k], attrs)
        if rng.random() < 0.7:
            bias = graph.add_constant(
                "bias", rng.integers(-5000, 5000, count).astype(np.int32),
                QFormat(32, True, graph.format(value).exponent)
            )
            value = self.insert("bias_add", [value, bias])
        return self.to_codes(value)

    def same_format(self, x: str, y: str) -> str:
        if self.graph.format(x) == self.graph.format(y):
            return y
        return self.insert("requantize", [y], {"format": self.graph.format(x)})

    def binary(self) -> str:
        rng, graph = self.rng, self.graph
        op = str(rng.choice(["add", "subtract", "maximum", "minimum", "multiply"]))
        x = self.pick()
        shape = graph.shape(x)
        if op == "multiply" or rng.random() < 0.3:
            format = graph.format(x)
            part = shape[int(rng.integers(1, len(shape))):] if rng.random() < 0.7 else (1,)
            part = tuple(1 if rng.random() < 0.3 else n for n in part)
            limit = 128 if op == "multiply" else 2**16  # products of two 16-bit codes may leave 32 bits
            y = graph.add_constant(
                "operand",
                rng.integers(max(format.qmin, -limit), min(format.qmax + 1, limit), part).astype(format.dtype), format
            )
            operands = [y, x] if op != "multiply" and rng.random() < 0.3 else [x, y]
        else:
            others = [v for v in self.values if graph.shape(v)[1:] == shape[1:]]
            operands = [x, self.same_format(x, str(rng.choice(others)))]
        value = self.insert(op, operands)
        return value if op in ("maximum", "minimum") else self.to_codes(value)

    def pool(self) -> str:
        x = self.spatial()
        size = self.graph.shape(x)[1:-1]
        if self.rng.random() < 0.3:
            axes = tuple(range(1, 1 + len(size)))
            return self.insert(
                "global_max_pool", [x], {"axes": axes if self.rng.random() < 0.7 else axes[:1], "keepdims": True}
            )
        window = tuple(int(self.rng.integers(1, n + 1)) for n in size)
        if self.rng.random() < 0.4:
            source = self.graph.format(x)
            format = source.replace(exponent=source.exponents[0] - int(self.rng.integers(-2, 4)))
            return self.insert("average_pool", [x], {
                "pool_size": window, "strides": tuple(map(int, self.rng.integers(1, 4, len(size)))),
                "padding": str(self.rng.choice(["same", "valid"])),
                "format": format, "rounding": self.mode() if self.rng.random() < 0.5 else "half_even",
                "divide": bool(self.rng.random() < 0.8),
                "low": 0 if self.rng.random() < 0.2 else None})
        return self.insert(
            "max_pool", [x],
            {
                "pool_size": window, "strides": tuple(map(int, self.rng.integers(1, 4, len(size)))),
                "padding": str(self.rng.choice(["same", "valid"]))
            }
        )

    def move(self) -> str:
        rng = self.rng
        x = self.spatial()
        size = self.graph.shape(x)[1:]
        kind = str(rng.choice(["pad", "crop", "permute", "upsample", "reshape", "lookup", "relu", "slice", "take"]))
        if kind == "pad":
            pads = (
                *((int(rng.integers(0, 3)), int(rng.integers(0, 3))) for _ in size[:-1]),
                (0, 0) if rng.random() < 0.7 else (1, 2)
            )
            return self.insert("pad", [x], {"pads": pads})
        if kind == "crop":
            return self.insert("crop", [x], {"crops": (*((0, 1) for _ in size[:-1]), (0, 0))})
        if kind == "slice":
            starts = [int(rng.integers(0, n)) for n in size]
            return self.insert(
                "slice", [x], {"slices": tuple((first, None, int(rng.integers(1, 3))) for first in starts)}
            )
        if kind == "take":
            axis = int(rng.integers(1, len(size) + 1))
            count = int(rng.integers(1, size[axis - 1] + 3))
            indices = range(size[axis - 1])[::-1] if rng.random() < 0.4 else rng.integers(0, size[axis - 1], count)
            return self.insert("take", [x], {"axis": axis, "indices": tuple(map(int, indices))})
        if kind == "permute":
            return self.insert("permute", [x], {"dims": tuple(int(d) + 1 for d in rng.permutation(len(size)))})
        if kind == "upsample" and int(np.prod(size)) < 3000:
            return self.insert("upsample", [x], {"size": tuple(map(int, rng.integers(1, 4, len(size) - 1)))})
        if kind == "reshape":
            flat = self.insert("reshape", [x], {"shape": (int(np.prod(size)),)})
            return self.insert("reshape", [flat], {"shape": size})
        format = self.graph.format(x)
        if kind == "lookup" and format.bits == 8:
            table = self.graph.add_constant("table", rng.integers(-128, 128, 256).astype(np.int8), QFormat(8, True, -5))
            return self.insert("lookup", [x, table], {"format": QFormat(8, True, -5)})
        return self.insert("relu", [x], {"max_code": None if rng.random() < 0.5 else 40})

    def concat(self) -> str:
        x = self.spatial()
        shape = self.graph.shape(x)
        axis = int(self.rng.choice([len(shape) - 1, len(shape) - 1, 1]))
        others = [v for v in self.values if len(self.graph.shape(v)) == len(shape)
                  and all(i in (0, axis) or a == b for i, (a, b) in enumerate(zip(self.graph.shape(v), shape)))]
        parts = [x, *(str(v) for v in self.rng.choice(others, int(self.rng.integers(1, 3))))]
        return self.insert("concat", [parts[0], *(self.same_format(x, p) for p in parts[1:])], {"axis": axis})

    def step(self) -> None:
        makers = [self.product, self.product, self.product, self.binary, self.binary, self.pool, self.move, self.concat]
        value = makers[int(self.rng.integers(len(makers)))]()
        self.values.append(value)


def random_graph(seed: int, steps: int = 8) -> Graph:
    """A graph with one to three outputs, some of them floats."""
    builder = Builder(seed, one_dimensional=seed % 4 == 3)
    for _ in range(steps):
        builder.step()
    graph, rng = builder.graph, builder.rng
    outputs = [builder.values[-1], *(str(v) for v in rng.choice(builder.values, int(rng.integers(0, 3))))]
    graph.outputs = [graph.insert("dequantize", [v], "real").output if rng.random() < 0.5 else v for v in outputs]
    return graph


def images(graph: Graph, batch: int, seed: int = 0) -> np.ndarray:
    """Inputs that reach beyond the codes' range."""
    return np.random.default_rng(seed).normal(0, 2, (batch, *graph.shape("x")[1:])).astype(np.float32)


def small_network(shape=(9, 8, 3), seed: int = 0) -> Graph:
    """conv, depthwise, residual add, pool, dense."""
    rng = np.random.default_rng(seed)
    graph = Graph("integer", ["x"], name="small")
    graph.types["x"] = TensorType((None, *shape))
    x = graph.insert("quantize", ["x"], "x_q", {"format": QFormat(8, True, -4)}).output

    def product(op, value, kernel, attrs, name, relu=True):
        k = graph.add_constant(f"{name}/k", rng.integers(-127, 128, kernel).astype(np.int8), QFormat(8, True, -7))
        value = graph.insert(op, [value, k], f"{name}/product", attrs, layer=name).output
        return graph.insert(
            "requantize", [value], name,
            {"format": QFormat(8, not relu, graph.format(value).exponent + 9), "low": 0 if relu else None}
        ).output

    window = {"strides": (1, 1), "dilation": (1, 1), "padding": "same"}
    a = product("conv", x, (3, 3, shape[-1], 16), window, "a")
    b = product("depthwise_conv", a, (3, 3, 16, 1), window, "b", relu=False)
    c = product("conv", a, (1, 1, 16, 16), window, "c", relu=False)
    c = graph.insert("requantize", [c], "c/rescaled", {"format": graph.format(b)}).output
    total = graph.insert("add", [b, c], "sum").output
    value = graph.insert(
        "requantize", [total], "sum_q", {"format": QFormat(8, False, graph.format(b).exponent + 1), "low": 0}
    ).output
    value = graph.insert("global_max_pool", [value], "pool", {"axes": (1, 2)}).output
    value = product("dense", value, (16, 10), {}, "fc", relu=False)
    graph.outputs = [graph.insert("dequantize", [value], "logits").output]
    return graph
