"""Kernels and the program runner: is the answer right, and how fast is it? The answer is checked before anything is
timed.

    python tools/bench.py                                   # register tiles, layers, ResNet8
    python tools/bench.py --only network --graph net.graffiti --tflite resnet8_int8.tflite --keras resnet8.keras
                                                            # a network beside LiteRT (XNNPACK) and float Keras, same
                                                            rounds
    python tools/bench.py --only tiles,layers,network --json
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable

import numpy as np
from absl import app, flags

from graffiti import IntegerGraph, benchmark
from graffiti.benchmark import checked, seconds
from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat
from graffiti.runtime import library
from graffiti.runtime.runner import supported_tiers

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["tiles", "layers", "network"], "which tables: tiles, layers, network")
flags.DEFINE_string("tflite", None, "an int8 ResNet8 .tflite to run beside ours (needs ai-edge-litert)")
flags.DEFINE_string("graph", None, "a .graffiti file to run instead of ResNet8 with random weights")
flags.DEFINE_string("keras", None, "a float .keras model to run beside ours, in a tf.function")
flags.DEFINE_list("engines", [], "what the graph itself is exported to and run in: litert, onnx")
flags.DEFINE_list("batches", ["1", "32"], "batch sizes of the network table")
flags.DEFINE_list("threads", ["1", "2"], "thread counts of the network table")
flags.DEFINE_string("tier", "auto", "tier of the layers and network tables")
flags.DEFINE_integer("rounds", 15, "timed rounds; the engines take turns within each", lower_bound=1)
flags.DEFINE_boolean("json", False, "print one JSON object instead of tables")


# ---- graphs with random weights --------------------------------------------------------------------------------------
class Net:
    """Writes an integer graph layer by layer; the shifts are chosen so that codes spread over their range.

    Every activation has the exponent -4 (a kernel's exponent is what makes it so), as where a residual sum shares its
    scale.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0, signed: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("integer", ["image"], name="bench")
        self.graph.types["image"] = TensorType((None, *shape))
        self.value = self.graph.insert(
            "quantize", ["image"], "image_q", {"format": QFormat(8, signed, -7 if signed else -8)}
        ).output
        self.size = {self.value: 73.0 if signed else 147.0}  # root mean square of the codes of a value, roughly

    def channels(self) -> int:
        """Of the last value."""
        return self.graph.shape(self.value)[-1]

    def product(
        self, name: str, op: str, kernel: tuple[int, ...], attrs: dict, *, relu: bool = True, x: str | None = None
    ) -> str:
        """A product, its bias, and the requantization to 8 bits (unsigned behind a ReLU)."""
        graph, x = self.graph, x or self.value
        weights = self.rng.integers(-127, 128, kernel).astype(np.int8)
        outputs = kernel[-2] * kernel[-1] if op == "depthwise_conv" else kernel[-1]
        taps = int(np.prod(kernel)) // outputs
        size = self.size[x] * 73 * np.sqrt(taps)
        shift = max(0, round(np.log2(size / 60)))
        k = graph.add_constant(
            f"{name}/kernel", weights, QFormat(8, True, -4 - shift - graph.format(x).exponent, narrow=True)
        )
        product = graph.insert(op, [x, k], f"{name}/product", attrs)
        e = graph.format(product.output).exponent
        bias = graph.add_constant(
            f"{name}/bias", self.rng.integers(-2000, 2000, outputs).astype(np.int32), QFormat(32, True, e)
        )
        total = graph.insert("bias_add", [product.output, bias], name)
        self.value = graph.insert(
            "requantize", [total.output], f"{name}_q", {"format": QFormat(8, not relu, -4), "low": 0 if relu else None}
        ).output
        self.size[self.value] = size / 2**shift * (0.7 if relu else 1)
        return self.value

    def conv(self, name: str, outputs: int, size: int = 3, stride: int = 1, **options) -> str:
        """A 2-D convolution with same padding."""
        channels = self.graph.shape(options.get("x") or self.value)[-1]
        return self.product(
            name, "conv", (size, size, channels, outputs),
            {"strides": (stride, stride), "dilation": (1, 1), "padding": "same"}, **options
        )

    def depthwise(self, name: str, size: int = 3, stride: int = 1, padding: str = "same", **options) -> str:
        """A depthwise convolution."""
        return self.product(
            name, "depthwise_conv", (size, size, self.channels(), 1),
            {"strides": (stride, stride), "dilation": (1, 1), "padding": padding}, **options
        )

    def add(self, name: str, x: str, y: str) -> str:
        """A residual sum with its ReLU."""
        total = self.graph.insert("add", [x, y], name)
        self.value = self.graph.insert(
            "requantize", [total.output], f"{name}_q", {"format": QFormat(8, False, -4), "low": 0}
        ).output
        self.size[self.value] = np.hypot(self.size[x], self.size[y]) * 0.7
        return self.value

    def finish(self) -> Graph:
        """The graph with its last value dequantized as the output."""
        self.graph.outputs = [self.graph.insert("dequantize", [self.value], "logits").output]
        return self.graph


def resnet8(seed: int = 0) -> Graph:
    """The MLPerf Tiny ResNet8's shapes: 32x32x3, stages of 16, 32, 64 channels, global average pool, 10 classes."""
    net = Net((32, 32, 3), seed)
    x = net.conv("stem", 16)
    for stage, channels in enumerate((16, 32, 64)):
        stride = 1 if stage == 0 else 2
        net.conv(f"s{stage}a", channels, stride=stride)
        y = net.conv(f"s{stage}b", channels, relu=False)
        if stage:
            x = net.conv(f"s{stage}s", channels, size=1, stride=stride, relu=False, x=x)
        x = net.add(f"s{stage}", x, y)
    net.depthwise("pool", size=8, padding="valid")
    flat = net.graph.insert("reshape", [net.value], "flat", {"shape": (64,)}).output
    net.size[flat], net.value = net.size[net.value], flat
    net.product("fc", "dense", (64, 10), {}, relu=False)
    return net.finish()


def layer(kind: str, size: int, channels: int, outputs: int, window: int, stride: int, signed: bool) -> Graph:
    """One layer on one image size."""
    net = Net((size, size, channels), 1, signed)
    net.depthwise("layer", window, stride) if kind == "depthwise" else net.conv("layer", outputs, window, stride)
    return net.finish()


LAYERS = [  # kind, image, in, out, window, stride, signed input
    ("conv", 32, 3, 16, 3, 1, True), ("conv", 32, 16, 16, 3, 1, False), ("conv", 16, 32, 32, 3, 1, False),
    ("conv", 8, 64, 64, 3, 1, False),
    ("conv", 32, 16, 32, 3, 2, False), ("conv", 28, 128, 128, 3, 1, False), ("conv", 28, 24, 96, 1, 1, True),
    ("conv", 14, 160, 96, 1, 1, False),
    ("depthwise", 48, 8, 8, 3, 1, False), ("depthwise", 28, 96, 96, 3, 1, False), ("depthwise", 28, 96, 96, 3, 2, True),
    ("depthwise", 14, 256, 256, 3, 1, False),
]


# ---- tables ----------------------------------------------------------------------------------------------------------
def macs(graph: Graph) -> int:
    """Multiplications of one image."""
    total = 0
    for node in graph.nodes:
        if node.op in ("conv", "depthwise_conv", "dense"):
            kernel = graph.constants[node.inputs[1]]
            outputs = kernel.shape[-2] * kernel.shape[-1] if node.op == "depthwise_conv" else kernel.shape[-1]
            total += int(np.prod(graph.shape(node.output)[1:])) * kernel.size // outputs
    return total


def tiles(rounds: int) -> list[dict]:
    """Every register tile on a product that stays in the first-level cache; slow here means its accumulators left
    the registers.
    """
    lib, rows = library.load(), []
    rng = np.random.default_rng(0)
    k = 256
    for index in range(lib.dot_kernel_count()):
        info = library.DotKernelInfo()
        lib.call("get_dot_kernel", index, info)
        if library.TIERS[info.tier] not in supported_tiers():
            continue
        m, n = 4 * info.rows, info.columns
        a, b = (
            rng.integers(0, 100, shape).astype(library.TYPES[t])
            for shape, t in (((m, k), info.a_type), ((k, n), info.b_type))
        )
        c = np.empty((m, n), np.int32)
        lib.call("run_dot_kernel", index, m, n, k, a.ctypes.data, b.ctypes.data, None, None, c.ctypes.data, 1)
        assert np.array_equal(c, a.astype(np.int64) @ b.astype(np.int64)), info.name
        repeat = max(1, int(1e7 / (m * n * k)))
        call = functools.partial(
            lib.call, "run_dot_kernel", index, m, n, k, a.ctypes.data, b.ctypes.data, None, None, c.ctypes.data, repeat
        )
        (took,) = seconds({"": call}, rounds, 0.0).values()
        rows.append({"tile": info.name.decode(), "Gop/s": round(2 * m * n * k * repeat / took / 1e9, 1)})
    return rows


def layers(rounds: int, tier: str) -> list[dict]:
    """Single layers, batch 8, one thread."""
    rows = []
    for spec in LAYERS:
        graph = layer(*spec)
        images = np.random.default_rng(2).uniform(
            0 if not spec[-1] else -1, 1, (8, spec[1], spec[1], spec[2])
        ).astype(np.float32)
        runner = checked(graph, tier, 1, images[:2])
        (took,) = seconds({"": functools.partial(runner.run, images)}, rounds, 0.01).values()
        kind, size, inputs, outputs, window, stride, signed = spec
        rows.append(
            {
                "layer": f"{kind} {size}x{size}x{inputs} -> {outputs} {window}x{window}/{stride} "
                         f"{'s8' if signed else 'u8'}",
                "us/image": round(took / 8 * 1e6, 1), "Gop/s": round(2 * macs(graph) * 8 / took / 1e9, 1)
            }
        )
    return rows


def networks() -> list[dict]:
    """A whole network beside LiteRT and float Keras, each thread count in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = FLAGS.graph
        if path is None:
            path = str(pathlib.Path(folder) / "resnet8.graffiti")
            IntegerGraph(resnet8()).save(path)
        rows, skipped = benchmark.in_processes(
            [int(count) for count in FLAGS.threads], graph=path, keras=FLAGS.keras, tflite=FLAGS.tflite,
            engines=FLAGS.engines,
            batches=[int(batch) for batch in FLAGS.batches], rounds=FLAGS.rounds, tier=FLAGS.tier,
        )
    for engine, why in skipped.items():
        print(f"{engine}: not timed: {why}", file=sys.stderr)
    return rows


def show(title: str, rows: list[dict]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n\n{benchmark.table(rows)}")


def main(argv: list[str]) -> None:
    """The chosen tables."""
    if len(argv) > 1:
        raise SystemExit(f"bench takes no arguments, only options, got {argv[1:]}")
    for name in ("graph", "tflite", "keras"):
        if getattr(FLAGS, name) and not pathlib.Path(getattr(FLAGS, name)).is_file():
            raise SystemExit(f"there is no file {getattr(FLAGS, name)}; --{name} names a model to run")
    tables: dict[str, Callable[[], list[dict]]] = {
        "tiles": lambda: tiles(FLAGS.rounds), "layers": lambda: layers(FLAGS.rounds, FLAGS.tier),
        "network": networks,
    }
    unknown = [name for name in FLAGS.only if name not in tables]
    if unknown:
        raise SystemExit(f"--only takes {', '.join(tables)}, got {', '.join(unknown)}")
    results = {name: tables[name]() for name in FLAGS.only}
    if FLAGS.json:
        json.dump({"tier": FLAGS.tier, **results}, sys.stdout, indent=1)
        print()
    else:
        for name, rows in results.items():
            show(name, rows)


if __name__ == "__main__":
    app.run(main)
