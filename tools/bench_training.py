"""Kernels of low-bit training against TensorFlow's float32: products, whole layer steps, quantization, batch norm.
Answers first, then times.

    python tools/bench_training.py --threads 1 --only products

Contenders take turns; times are medians; compare ratios inside one table only. One process uses one number of threads.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

from graffiti.ops import batch_norm as norm
from graffiti.ops import training_products as products
from graffiti.ops import training_quantize as quantization

_THREADS = flags.DEFINE_integer("threads", 1, "threads of every contender; the process is pinned to as many processors")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "measurements of each contender")
_ONLY = flags.DEFINE_list("only", ["products", "depthwise", "quantize", "batch_norm"], "tables to print")

# batch, height, width, channels, outputs, window, stride
LAYERS = [
    (32, 56, 56, 64, 64, 3, 1), (32, 28, 28, 128, 128, 3, 1), (32, 14, 14, 256, 256, 3, 1), (32, 7, 7, 512, 512, 3, 1),
    (128, 32, 32, 16, 16, 3, 1),
    (128, 16, 16, 32, 32, 3, 1), (128, 8, 8, 64, 64, 3, 1), (32, 56, 56, 64, 256, 1, 1), (32, 14, 14, 1024, 256, 1, 1),
    (128, 32, 32, 16, 32, 3, 2),
    (512, 1, 1, 2048, 512, 1, 1),
    # of ResNet-50
    (8, 56, 56, 64, 256, 1, 1), (8, 56, 56, 256, 64, 1, 1), (8, 28, 28, 512, 128, 1, 1), (8, 14, 14, 256, 1024, 1, 1),
    (8, 7, 7, 512, 2048, 1, 1),
]
# the same with the multiplier in the place of the outputs
DEPTHWISE = [
    (64, 32, 32, 96, 1, 3, 1), (64, 32, 32, 144, 1, 3, 2), (64, 16, 16, 192, 1, 3, 1), (64, 8, 8, 384, 1, 3, 1),
    (64, 112, 112, 32, 1, 3, 1)
]
NORMS = [(128, 32, 32, 16), (128, 16, 16, 32), (128, 8, 8, 64), (64, 32, 32, 64), (8, 56, 56, 256)]


def medians(contenders: list) -> list[float]:
    """Milliseconds of each, taken in turns."""
    times = [[] for _ in contenders]
    for contender in contenders:
        contender()
    for _ in range(_ROUNDS.value):
        for contender, own in zip(contenders, times):
            start = time.perf_counter()
            contender()
            own.append(time.perf_counter() - start)
    return [1e3 * float(np.median(own)) for own in times]


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's ``SAME``."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def layer_functions(layer, depthwise: bool) -> dict:
    """By pass: the float32 product and the int8 one, functions without arguments (binding some costs a call up to
    half a millisecond).
    """
    n, h, w, c, o, k, s = layer
    own = [
        getattr(products, f"{'depthwise_' if depthwise else ''}conv2d{name}")
        for name in ("", "_input_gradient", "_weight_gradient")
    ]
    raw = tf.raw_ops
    forward, input_gradient, weight_gradient = (
        (tf.nn.depthwise_conv2d, raw.DepthwiseConv2dNativeBackpropInput, raw.DepthwiseConv2dNativeBackpropFilter)
        if depthwise else (tf.nn.conv2d, raw.Conv2DBackpropInput, raw.Conv2DBackpropFilter)
    )
    rng = np.random.default_rng(0)
    x, kernel, dy = (tf.constant(rng.normal(size=shape).astype(np.float32)) for shape in (
        (n, h, w, c), (k, k, c, o), (n, -(-h // s), -(-w // s), c * o if depthwise else o)))
    geometry = {"strides": (s, s), "padding": (same_padding(h, k, s), same_padding(w, k, s)), "dilations": (1, 1)}
    strides = [1, s, s, 1]
    inverse, scale, seed = tf.constant(32.0), tf.constant(2.0**-10), tf.constant([1, 2], tf.uint32)

    def codes(values, **options):
        return quantization.quantize(values, inverse, low=-128, high=127, **options)[0]

    x_codes, kernel_codes, dy_codes = codes(x), codes(kernel), codes(dy)
    functions = {
        "forward": (
            lambda: forward(x, kernel, strides, "SAME"), lambda: own[0](x_codes, kernel_codes, scale, **geometry)
        ),
        "input gradient": (
            lambda: input_gradient(
                input_sizes=x.shape, filter=kernel, out_backprop=dy, strides=strides, padding="SAME"
            ),
            lambda: own[1](dy_codes, kernel_codes, scale, input_shape=x.shape, **geometry)
        ),
        "weight gradient": (
            lambda: weight_gradient(
                input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=strides, padding="SAME"
            ),
            lambda: own[2](x_codes, dy_codes, scale, kernel_shape=(k, k), **geometry)
        ),
    }
    passes = [pair[0] for pair in functions.values()]

    def float_step():
        return tuple(one() for one in passes)

    def low_bit_step():
        xq, wq = codes(x), codes(kernel)
        y = own[0](xq, wq, scale, **geometry)
        dyq = codes(dy, rounding="stochastic", seed=seed)
        return (
            y, own[1](dyq, wq, scale, input_shape=x.shape, **geometry),
            own[2](xq, dyq, scale, kernel_shape=(k, k), **geometry)
        )

    return {**functions, "step": (float_step, low_bit_step)}


def bench_products(layers=LAYERS, depthwise: bool = False) -> None:
    """Forward, input gradient, weight gradient and the whole layer step, quantization included."""
    print("| layer | pass | float32 ms | int8 ms | ratio | int8 Gop/s |\n|---|---|---|---|---|---|")
    for layer in layers:
        n, h, w, c, o, k, s = layer
        for name, pair in layer_functions(layer, depthwise).items():
            exact = [tf.function(f) for f in pair]
            if name != "step":
                a, b = np.asarray(exact[0]()).ravel(), np.asarray(exact[1]()).ravel()
                cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
                assert cosine > 0.999, f"{name} of {layer} is wrong: cosine {cosine} with float32"
            reference, ms = medians(
                [
                    lambda f=exact[0]: tf.nest.flatten(f())[-1].numpy(),
                    lambda f=exact[1]: tf.nest.flatten(f())[-1].numpy()
                ]
            )
            operations = 2.0 * n * -(-h // s) * -(-w // s) * o * c * k * k * (3 if name == "step" else 1)
            outputs = f"·{o} depthwise" if depthwise else f"→{o}"
            print(f"| {n}x{h}x{w}x{c}{outputs} {k}x{k}/{s} | {name} | {reference:.2f} | {ms:.2f} | "
                  f"{reference / ms:.2f} | {operations / ms / 1e6:.0f} |", flush=True)


def bench_quantize() -> None:
    """Bytes read and written per second, against a copy of the same floats."""
    print("\n| elements | pass | ms | GB/s | of the copy's |\n|---|---|---|---|---|")
    for count in (1 << 18, 1 << 21, 1 << 25):
        x, seed, inverse = (
            tf.constant(np.random.default_rng(0).normal(size=count).astype(np.float32)), tf.constant([1, 2], tf.uint32),
            tf.constant(20.0)
        )
        for rounding in ("half_even", "stochastic"):
            native, twin = (
                quantization.quantize(
                    x[:100_003], inverse, low=-128, high=127, rounding=rounding, seed=seed, engine=e
                )[0]
                for e in ("native", "python")
            )
            assert np.array_equal(native, twin), rounding
        copy, near, random, ends = medians([
            lambda x=x: tf.raw_ops.DeepCopy(x=x),
            lambda x=x, inverse=inverse: quantization.quantize(x, inverse, low=-128, high=127),
            lambda x=x, inverse=inverse, seed=seed: quantization.quantize(
                x, inverse, low=-128, high=127, rounding="stochastic", seed=seed
            ),
            lambda x=x: quantization.extremes(x)])
        speed = 8 * count / copy / 1e6
        for name, ms, size in (
            ("copy of the floats", copy, 8), ("half to even", near, 5), ("stochastic", random, 5),
            ("extremes alone", ends, 4)
        ):
            print(
                f"| {count:,} | {name} | {ms:.3f} | {size * count / ms / 1e6:.1f} | "
                f"{size * count / ms / 1e6 / speed:.0%} |",
                flush=True
            )


def bench_batch_norm() -> None:
    """Forward and backward with a ReLU behind it, against TensorFlow's fused kernel and its ReLU."""
    print("\n| shape | TensorFlow fused ms | own ms | ratio |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for shape in NORMS:
        x, dy = (tf.constant(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
        gamma, beta = (tf.constant(rng.normal(size=shape[-1:]).astype(np.float32)) for _ in range(2))

        def step(engine, x=x, dy=dy, gamma=gamma, beta=beta):
            with tf.GradientTape() as tape:
                tape.watch([x, gamma, beta])
                y, *_ = norm.batch_norm(x, gamma, beta, 1e-3, relu=True, engine=engine)
            return [y, *tape.gradient(y, [x, gamma, beta], dy)]

        fused, own = (tf.function(lambda engine=engine, step=step: step(engine)) for engine in ("python", "native"))
        np.testing.assert_allclose(fused()[0], own()[0], rtol=1e-3, atol=1e-3)
        reference, ms = medians([lambda f=fused: f()[1].numpy(), lambda f=own: f()[1].numpy()])
        print(f"| {'x'.join(map(str, shape))} | {reference:.2f} | {ms:.2f} | {reference / ms:.2f} |", flush=True)


def bench_depthwise() -> None:
    """The same for depthwise convolutions."""
    bench_products(DEPTHWISE, depthwise=True)


TABLES = {
    "products": bench_products, "depthwise": bench_depthwise, "quantize": bench_quantize, "batch_norm": bench_batch_norm
}


def main(_) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: _THREADS.value])
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in _ONLY.value:
        if name not in TABLES:
            raise app.UsageError(f"--only takes {', '.join(TABLES)}, got {name!r}")
        TABLES[name]()


if __name__ == "__main__":
    app.run(main)
