"""Average pools against the same window as a depthwise product with a rounded reciprocal. Answers first, then times.

    python tools/bench_pools.py                                       # every tier of this CPU, one and two threads
    python tools/bench_pools.py --tier avx2 --threads 1 --only 3x3 --rounding half_up

The depthwise product is what average pools were made of before they were exact: it multiplies by an 8-bit constant near
``1 / count``, so its codes may be one off. A convolution packs its weights when it is made, so both run as programs of
one step: the packing is not timed. The two take turns in one process; a cell is the median over the rounds of the time
of ``average_pool`` / the time of the product. Below 1 the exact pool is faster. Exit code 1 where a ratio is above
``--limit``.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

from graffiti.graph.ops import window_output, window_pads
from graffiti.numerics import products, reference
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES, shift_right
from graffiti.runtime import library
from graffiti.runtime.blob import ProgramWriter, Rounding, View

FLAGS = flags.FLAGS
flags.DEFINE_list("tier", [], "tiers to run; every tier of this CPU by default")
flags.DEFINE_list("threads", ["1", "2"], "thread counts")
flags.DEFINE_list("types", ["int8", "uint8"], "types of the codes")
flags.DEFINE_enum("rounding", "half_even", list(ROUNDING_MODES), "rounding mode of both contenders")
flags.DEFINE_string("only", "", "pools whose name contains this text")
flags.DEFINE_integer("rounds", 101, "timed rounds of a fifth of a millisecond, in turns", lower_bound=1)
flags.DEFINE_integer("kilobytes", 256, "input of one call, at least one image", lower_bound=1)
flags.DEFINE_float("limit", 1.05, "the largest ratio that is no failure")

# height, width, channels, window, stride, padding; a window of 0 is the whole image
POOLS = [
    (112, 112, 3, 2, 2, "valid"), (32, 32, 16, 2, 2, "valid"), (56, 56, 64, 2, 2, "valid"),
    (28, 28, 256, 2, 2, "valid"), (8, 8, 1280, 2, 2, "valid"),
    (112, 112, 3, 3, 1, "same"), (32, 32, 16, 3, 1, "same"), (28, 28, 20, 3, 1, "valid"), (28, 28, 64, 3, 1, "same"),
    (35, 35, 192, 3, 1, "same"), (17, 17, 768, 3, 1, "same"), (8, 8, 1280, 3, 1, "same"),
    (112, 112, 3, 3, 2, "same"), (32, 32, 16, 3, 2, "same"), (56, 56, 64, 3, 2, "valid"), (28, 28, 256, 3, 2, "same"),
    (8, 8, 1280, 3, 2, "valid"),
    (56, 56, 3, 5, 1, "same"), (28, 28, 24, 5, 2, "valid"), (17, 17, 768, 5, 3, "valid"), (14, 14, 512, 5, 1, "same"),
    (7, 7, 3, 0, 1, "valid"), (7, 7, 64, 0, 1, "valid"), (7, 7, 576, 0, 1, "valid"), (7, 7, 1280, 0, 1, "valid"),
    (14, 14, 96, 7, 7, "valid"), (8, 8, 64, 0, 1, "valid"), (8, 8, 1280, 0, 1, "valid"), (64, 64, 3, 8, 8, "valid"),
    (32, 32, 64, 8, 8, "valid"), (12, 12, 128, 6, 6, "valid"), (24, 24, 3, 0, 1, "valid"),
]  # fmt: skip


class Pool:
    """One row of the table: its shape, its codes, and the two contenders with the answers they must give.

    Args:
        row: an entry of ``POOLS``.
        dtype: of the codes.
        rounding: a mode of ``ROUNDING_MODES``.
    """

    def __init__(self, row: tuple, dtype: str, rounding: str) -> None:
        self.size, self.channels, self.padding = row[:2], row[2], row[5]
        self.window = self.size if row[3] == 0 else (row[3], row[3])
        self.strides = (1, 1) if row[3] == 0 else (row[4], row[4])
        axes = list(zip(self.size, self.window, self.strides))
        self.fronts = [window_pads(n, k, s, 1, self.padding)[0] for n, k, s in axes]
        self.out = [window_output(n, k, s, 1, self.padding) for n, k, s in axes]
        self.rounding, self.format = rounding, QFormat(8, dtype == "int8", 0)
        batch = max(1, FLAGS.kilobytes * 1024 // (self.size[0] * self.size[1] * self.channels))
        shape = (batch, *self.size, self.channels)
        self.x = np.random.default_rng(0).integers(self.format.qmin, self.format.qmax + 1, shape).astype(dtype)
        self.y = np.zeros((batch, *self.out, self.channels), dtype)

    @property
    def name(self) -> str:
        """Image, window, stride and padding."""
        (height, width), (rows, columns) = self.size, self.window
        window = "global" if self.window == self.size else f"{rows}x{columns}/{self.strides[0]} {self.padding}"
        return f"{height}x{width}x{self.channels} {window}"

    def saturation(self, shift: int) -> Rounding:
        """To the output's codes, behind a shift."""
        return Rounding((shift,), self.format.qmin, self.format.qmax, self.y.dtype, self.rounding)

    def exact(self) -> tuple[bytes, np.ndarray]:
        """The program of ``average_pool`` and its answer."""
        writer = ProgramWriter()
        x = writer.input(self.x.dtype, self.x.shape[1:])
        y = writer.tensor(self.y.dtype, self.y.shape[1:])
        words = (*self.size, self.channels, *self.out, *self.window, *self.strides, *self.fronts)
        writer.average_pool(x, y, dict(zip(library.PoolShape.NAMES, words)), self.saturation(0), True)
        writer.output(y)
        geometry = (self.window, self.strides, self.padding)
        return writer.finish(), reference.average_pool(self.x, *geometry, self.format, self.format, self.rounding)

    def depthwise(self) -> tuple[bytes, np.ndarray]:
        """The program of the depthwise product and its answer."""
        count = self.window[0] * self.window[1]
        shift = max(k for k in range(20) if round(2**k / count) <= 127)
        reciprocal = round(2**shift / count)
        writer = ProgramWriter()
        x = writer.input(self.x.dtype, self.x.shape[1:])
        y = writer.tensor(self.y.dtype, self.y.shape[1:])
        channels, pixels = self.channels, self.out[0] * self.out[1]
        dilation = spread = (1, 1)
        words = (*self.size, channels, *self.out, channels, *self.window, *self.strides, *dilation, *self.fronts)
        shape = dict(zip(library.ConvShape.NAMES, (*words, channels, *spread)))
        kernel = np.full((*self.window, 1, channels), reciprocal, np.int8)
        view = View(y, 0, pixels, channels, channels)
        writer.conv(x, view, shape, kernel, None, self.saturation(shift))
        writer.output(y)
        total = products.sum_pool(self.x.astype(np.int64), self.window, self.strides, self.padding) * reciprocal
        return writer.finish(), np.clip(shift_right(total, shift, self.rounding), self.format.qmin, self.format.qmax)

    def contender(self, kind: str, tier: str, threads: int) -> Callable[[], None]:
        """A call that runs the program, its answer checked.

        Args:
            kind: ``exact`` or ``depthwise``.
            tier: of the kernels.
            threads: that share the call.

        Raises:
            ValueError: where the answer differs from the reference's.
        """
        kernels, program = library.load(), ctypes.c_void_p()
        blob, answer = getattr(self, kind)()
        kernels.call("create_program", blob, len(blob), library.tier_number(tier), ctypes.byref(program))
        inputs, outputs = ((ctypes.c_void_p * 1)(array.ctypes.data) for array in (self.x, self.y))

        def run() -> None:
            kernels.call("run_program", program, inputs, outputs, len(self.x), threads)

        self.y[...] = 0
        run()
        if not np.array_equal(self.y, answer):
            raise ValueError(f"{self.name}, {self.x.dtype}, {tier}: {kind} differs from the reference; not timed")
        return run


def time_of(function: Callable[[], None], repeats: int) -> float:
    """Seconds of one of ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def compare(pool: Pool, tier: str, threads: int) -> tuple[float, float]:
    """The median ratio of the rounds, and the median time of ``average_pool`` in seconds."""
    exact, depthwise = (pool.contender(kind, tier, threads) for kind in ("exact", "depthwise"))
    repeats = [max(1, int(2e-4 / min(time_of(function, 1) for _ in range(5)))) for function in (exact, depthwise)]
    rounds = [(time_of(exact, repeats[0]), time_of(depthwise, repeats[1])) for _ in range(FLAGS.rounds)]
    return statistics.median(a / b for a, b in rounds), statistics.median(a for a, _ in rounds)


def main(argv: list[str]) -> int:
    """Print one table for each tier."""
    if len(argv) > 1:
        raise app.UsageError(f"no arguments without a flag are expected, got {argv[1:]}")
    columns = [(int(threads), dtype) for threads in FLAGS.threads for dtype in FLAGS.types]
    heads = [f"{threads} thread{'s' * (threads > 1)}, {dtype}" for threads, dtype in columns]
    worst = (0.0, "nothing was timed")
    for tier in FLAGS.tier or library.load().tiers():
        print(f"\n{tier}, {FLAGS.rounding}: average_pool / depthwise product (microseconds of average_pool)\n")
        print("| pool | images | " + " | ".join(heads) + " |")
        print("|---|---|" + "---|" * len(columns))
        for row in POOLS:
            pools = {dtype: Pool(row, dtype, FLAGS.rounding) for dtype in FLAGS.types}
            first = next(iter(pools.values()))
            if FLAGS.only not in first.name:
                continue
            cells = []
            for threads, dtype in columns:
                ratio, seconds = compare(pools[dtype], tier, threads)
                worst = max(worst, (ratio, f"{first.name}, {tier}, {threads}, {dtype}"))
                cells.append(f"{ratio:.2f} ({1e6 * seconds:.0f})")
            print(f"| {first.name} | {len(first.x)} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nlargest ratio: {worst[0]:.2f} ({worst[1]})")
    return int(worst[0] > FLAGS.limit)


if __name__ == "__main__":
    app.run(main)
