"""Float graphs for the tests of placing and lowering, in the form that ``prepare`` leaves behind."""

from __future__ import annotations

import math

import numpy as np

from graffiti.graph import ops
from graffiti.graph.float_interpreter import Formats, run_float
from graffiti.graph.functions import FUNCTIONS
from graffiti.graph.interpreter import run
from graffiti.graph.ir import Graph, TensorType, name_layers


class Network:
    """Builds a graph layer by layer; each method returns the value's name."""

    def __init__(self, seed: int = 0, stage: str = "float") -> None:
        self.graph, self.random = Graph(stage, name="net"), np.random.default_rng(seed)

    def input(self, shape: tuple[int, ...], name: str = "x") -> str:
        self.graph.inputs.append(name)
        self.graph.types[name] = TensorType((None, *shape))
        return name

    def output(self, *values: str) -> Graph:
        self.graph.outputs = list(values)
        name_layers(self.graph)
        return self.graph

    def emit(self, op: str, inputs, name: str, **attrs) -> str:
        return self.graph.insert(op, tuple(inputs), name, attrs).name

    def constant(self, name: str, shape, scale: float = 1.0) -> str:
        return self.graph.add_constant(name, (self.random.normal(size=shape) * scale).astype(np.float32))

    def channels(self, x: str) -> int:
        return self.graph.shape(x)[-1]

    def product(
        self, op: str, x: str, name: str, kernel_shape, fan_in: int, *, bias: bool = True, norm: bool = False, axis=-1,
        **attrs
    ) -> str:
        kernel = self.constant(f"{name}/kernel", kernel_shape, 1 / math.sqrt(fan_in))
        if not (bias or norm):
            return self.emit(op, (x, kernel), name, **attrs)
        channels = ops.OPS[op].shape(
            ops.Node(op, (x, kernel), (name,)), [self.graph.shape(x), kernel_shape], {**attrs}
        )[0][-1]
        bias_name = self.constant(f"{name}/bias", (channels,), 0.2)
        if norm:
            gamma = self.graph.add_constant(f"{name}/gamma", self.random.uniform(-1, 1.5, channels).astype(np.float32))
            beta, mean = (
                self.constant(f"{name}/beta", (channels,), 0.2), self.constant(f"{name}/mean", (channels,), 0.2)
            )
            variance = self.graph.add_constant(
                f"{name}/variance", self.random.uniform(0.3, 2, channels).astype(np.float32)
            )
            kernel = self.emit(
                "fold_kernel", (kernel, gamma, variance), f"{name}/folded_kernel", epsilon=1e-3, channel_axis=axis
            )
            bias_name = self.emit(
                "fold_bias", (bias_name, gamma, beta, mean, variance), f"{name}/folded_bias", epsilon=1e-3
            )
        product = self.emit(op, (x, kernel), f"{name}/product", **attrs)
        return self.emit("bias_add", (product, bias_name), name)

    def _window(self, x: str, size: int) -> tuple[int, ...]:
        return (size,) * (len(self.graph.shape(x)) - 2)

    def conv(
        self, x: str, name: str, filters: int, size: int = 3, *, strides: int = 1, padding="same", dilation: int = 1,
        groups: int = 1, **options
    ) -> str:
        window, channels = self._window(x, size), self.channels(x) // groups
        rank = len(window)
        return self.product(
            "conv", x, name, (*window, channels, filters), channels * math.prod(window), strides=(strides,) * rank,
            padding=padding,
            dilation=(dilation,) * rank, groups=groups, **options)

    def depthwise(
        self, x: str, name: str, size: int = 3, *, multiplier: int = 1, strides: int = 1, padding="same", **options
    ) -> str:
        window = self._window(x, size)
        rank = len(window)
        return self.product(
            "depthwise_conv", x, name, (*window, self.channels(x), multiplier), math.prod(window), axis="flat",
            strides=(strides,) * rank,
            padding=padding, dilation=(1,) * rank, **options)

    def transpose(
        self, x: str, name: str, filters: int, size: int = 3, *, strides: int = 2, padding="same", **options
    ) -> str:
        window = self._window(x, size)
        return self.product(
            "conv_transpose", x, name, (*window, filters, self.channels(x)), self.channels(x) * math.prod(window),
            axis=-2,
            strides=(strides,) * len(window), padding=padding, output_padding=None, **options)

    def dense(self, x: str, name: str, units: int, **options) -> str:
        return self.product("dense", x, name, (self.channels(x), units), self.channels(x), **options)

    def relu(self, x: str, name: str, max_value: float | None = None) -> str:
        return self.emit("relu", (x,), name, max_value=max_value)

    def leaky_relu(self, x: str, name: str, alpha: float = 0.1) -> str:
        constant = self.graph.add_constant(f"{name}/alpha", np.float32(alpha))
        return self.emit("maximum", (x, self.emit("multiply", (x, constant), f"{name}/scaled")), name)

    def average_pool(self, x: str, name: str, size: int = 2, *, strides: int | None = None) -> str:
        window = self._window(x, size)
        return self.emit(
            "average_pool", (x,), name, pool_size=window, strides=(strides or size,) * len(window), padding="valid"
        )

    def average_pool_same(self, x: str, name: str, size: int = 3) -> str:
        window = self._window(x, size)
        return self.emit("average_pool", (x,), name, pool_size=window, strides=(1,) * len(window), padding="same")

    def max_pool(self, x: str, name: str, size: int = 2, *, strides: int | None = None, padding="valid") -> str:
        window = self._window(x, size)
        return self.emit(
            "max_pool", (x,), name, pool_size=window, strides=(strides or size,) * len(window), padding=padding
        )

    def add(self, x: str, y: str, name: str) -> str:
        return self.emit("add", (x, y), name)

    def concat(self, values, name: str) -> str:
        return self.emit("concat", values, name, axis=-1)

    def flatten(self, x: str, name: str) -> str:
        return self.emit("reshape", (x,), name, shape=(math.prod(self.graph.shape(x)[1:]),))

    def activation(self, x: str, name: str, function: str) -> str:
        return self.emit("activation", (x,), name, function=function)

    def softmax(self, x: str, name: str) -> str:
        return self.emit("softmax", (x,), name)

    def island(self, x: str, name: str) -> str:
        shape = self.graph.shape(x)
        return self.emit(
            "island", (x,), name, layer={"class_name": "LayerNormalization", "config": {}}, output_shapes=(shape,),
            reason="no integer form"
        )


def resnet(seed: int = 0, **options) -> Graph:
    """A stem, an identity block, a projection block, a global pool, logits and softmax."""
    net = Network(seed)
    stem = net.relu(net.conv(net.input((8, 8, 3)), "stem", 4, **options), "stem_relu")
    a = net.conv(net.relu(net.conv(stem, "a1", 4, **options), "a1_relu"), "a2", 4, **options)
    block = net.relu(net.add(a, stem, "a_add"), "a_relu")
    b = net.conv(net.relu(net.conv(block, "b1", 6, strides=2, **options), "b1_relu"), "b2", 6, **options)
    shortcut = net.conv(block, "shortcut", 6, 1, strides=2, **options)
    block = net.relu(net.add(b, shortcut, "b_add"), "b_relu")
    pool = net.flatten(net.average_pool(block, "pool/product", 4), "pool")
    return net.output(net.softmax(net.dense(pool, "logits", 5), "probabilities"))


def mobilenet_block(seed: int = 0, **options) -> Graph:
    """Two inverted residuals: expand, depthwise, project with no ReLU; the second one adds its input."""
    net = Network(seed)
    x = net.conv(net.input((6, 6, 3)), "stem", 4, **options)
    hidden = net.relu(net.conv(x, "expand", 8, 1, **options), "expand_relu", 6.0)
    hidden = net.relu(net.depthwise(hidden, "depthwise", **options), "depthwise_relu", 6.0)
    y = net.add(x, net.conv(hidden, "project", 4, 1, **options), "add")
    return net.output(net.conv(y, "next", 6, 1, **options))


def inception_block(seed: int = 0, **options) -> Graph:
    """Three branches into one concat: 1x1, 3x3, and a max pool of the shared input."""
    net = Network(seed)
    x = net.relu(net.conv(net.input((6, 6, 3)), "stem", 4, **options), "stem_relu")
    one = net.relu(net.conv(x, "one", 3, 1, **options), "one_relu")
    three = net.relu(net.conv(x, "three", 3, 3, **options), "three_relu")
    joined = net.concat([one, three, net.max_pool(x, "pool", 3, strides=1, padding="same")], "mixed")
    return net.output(net.relu(net.conv(joined, "after", 4, 1, **options), "after_relu"))


# ---- text ------------------------------------------------------------------------------------------------------------
def short(graph: Graph) -> str:
    """The nodes as text; quantizers as ``u8 activation floor group=g``, other attributes left out."""
    lines = []
    for node in graph.nodes:
        line = f"%{node.name} = {node.op}({', '.join('%' + v for v in node.inputs)})"
        if node.op == "fake_quantize":
            a = node.attrs
            line += f" {'s' if a['signed'] else 'u'}{a['bits']}{'n' if a['narrow'] else ''} {a['role']}"
            line += (
                f" {a['rounding']}" * (a["rounding"] != "half_even")
                + f" axis={a['channel_axis']}" * (a["channel_axis"] is not None)
            )
            line += " fixed" * (not a["trainable"]) + f" group={a['group']}" * (a["group"] is not None)
        lines.append(line)
    return "\n".join([*lines, f"output {', '.join('%' + v for v in graph.outputs)}"])


def text(block: str) -> str:
    """A triple-quoted expectation without its indentation."""
    return "\n".join(line.strip() for line in block.strip().splitlines())


# ---- thresholds ------------------------------------------------------------------------------------------------------
def calibrate(graph: Graph, inputs, seed: int = 0, *, spread: tuple[float, float] = (-1.3, 0.4), island=None) -> Graph:
    """Thresholds near the largest magnitude of the float values, some too small so that codes saturate; tables
    filled in.
    """
    random, graph = np.random.default_rng(seed), graph.copy()
    plain = graph.copy()
    for node in plain.nodes:
        if node.op in ("fake_quantize", "quantize_bias"):
            node.op, node.inputs, node.attrs = "identity", node.inputs[:1], {}
        node.attrs.pop("values", None)
    seen = {**plain.constants, **run_float(plain, inputs, values=True, island=island)}
    groups: dict[str, list] = {}
    for node in graph.nodes:
        if node.op == "fake_quantize":
            groups.setdefault(node.attrs["group"] or node.name, []).append(node)
    for members in groups.values():
        largest = np.max(
            [_largest(np.abs(seen[node.inputs[0]]), node.attrs["channel_axis"]) for node in members], axis=0
        )
        exact = members[0].attrs["role"] in ("reciprocal", "alpha")
        shift = 0.0 if exact else random.uniform(*spread, size=np.shape(largest))
        log2 = np.ravel(np.log2(np.maximum(largest, 1e-4)) + shift + (members[0].attrs["calibration"] == "mse") * exact)
        for node in members:
            node.attrs["log2_threshold"] = tuple(float(np.float32(t)) for t in log2)
    for node in graph.nodes:
        if node.op == "activation" and node.attrs.get("function"):
            format = Formats(graph).of(node.inputs[0])
            if format is not None:
                codes = np.arange(format.qmin, format.qmax + 1)
                values = FUNCTIONS[node.attrs["function"]].values(
                    np.ldexp(codes.astype(np.float64), format.exponent)
                ).astype(np.float32)
                node.attrs["values"] = graph.add_constant(f"{node.name}/values", values)
    return graph


def _largest(magnitude: np.ndarray, channel_axis) -> np.ndarray:
    if channel_axis is None:
        return magnitude.max()
    if channel_axis == "flat":
        return magnitude.reshape(-1, magnitude.shape[-2] * magnitude.shape[-1]).max(0)
    return np.moveaxis(magnitude, channel_axis, -1).reshape(-1, magnitude.shape[channel_axis]).max(0)


def unequal(fakequant: Graph, integer: Graph, inputs, island=None) -> tuple[int, dict[str, int]]:
    """How many tensors of codes were compared, and the count of unequal integers of those that differ."""
    reals = run_float(fakequant, inputs, values=True, island=island)
    codes = run(integer, inputs, values=True, island=island)
    differing, compared = {}, 0
    for name, array in codes.items():
        format = integer.format(name)
        if format is None or name not in reals:
            continue
        compared += 1
        count = int(np.count_nonzero(array.astype(np.float64) != np.ldexp(reals[name], -np.asarray(format.exponent))))
        if count:
            differing[name] = count
    return compared, differing
