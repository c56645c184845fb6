"""Timing a network on several engines: the answers are compared first, then the engines take turns; medians and ratios.

Engines fix their threads when they start, so every thread count runs in a process of its own, pinned to as many cores
(``in_processes``; ``python -m graffiti.benchmark`` is what it starts).
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from graffiti import executors
from graffiti.executors.executor import Call
from graffiti.graph import interpreter as reference
from graffiti.graph.ir import Graph
from graffiti.runtime.runner import Runner
from graffiti.verification.values import SOFTMAX, SOFTMAX_ERROR, Values

# engines that run the graph's own export
EXPORTED = tuple(name for name, row in executors.EXECUTORS.items() if row.timed is not None)
DIFFERS = "its answer differs"  # in the reason of an engine that is not timed for that


# ---- timing ----------------------------------------------------------------------------------------------------------
def seconds(functions: dict[str, Call], rounds: int, budget: float = 0.02) -> dict[str, float]:
    """Median time of one call of each; the functions take turns, so that a disturbance hits all.

    Args:
        functions: name → what is timed; each is called twice before, outside the measurement.
        rounds: how often each has its turn; the median is over them.
        budget: seconds that a turn takes, about: calls shorter than that are repeated in it.

    Returns:
        Name → seconds of one call.
    """
    repeats = {}
    for name, function in functions.items():
        start = time.perf_counter()
        function()
        repeats[name] = max(1, int(budget / max(time.perf_counter() - start, 1e-7)))
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                function()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(values) for name, values in times.items()}


def pin(threads: int) -> None:
    """Keep this process on so many cores."""
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise ValueError(f"threads is at most the {len(cores)} cores of this machine, got {threads}")
    os.sched_setaffinity(0, set(cores[:threads]))


def checked(graph: Graph, tier: str, threads: int, images: Sequence[np.ndarray] | np.ndarray) -> Runner:
    """A native runner whose answer equals the interpreter's.

    Args:
        graph: of stage ``integer``.
        tier: of the kernels; ``auto`` for the best of this CPU.
        threads: of the runner.
        images: one batch: an array for a single input, or one for each input.

    Raises:
        ValueError: where it does not.
    """
    batch = [images] if isinstance(images, np.ndarray) else list(images)
    runner = Runner(graph, tier=tier, threads=threads)
    for got, expected in zip(runner.run(batch), reference.run(graph, batch)):
        if not np.array_equal(got, expected):
            raise ValueError(f"{graph.name}: the runner (tier {tier}) and the interpreter differ; not timed")
    return runner


def inputs(graph: Graph, batch: int, seed: int = 4) -> list[np.ndarray]:
    """Random inputs over the whole range of codes that the graph rounds them to.

    Args:
        graph: of stage ``integer``.
        batch: number of examples; other sizes that are not known become 1.
        seed: the same seed gives the same arrays.

    Returns:
        One array for each input of the graph: codes where it takes them, else float32.
    """
    random, arrays = np.random.default_rng(seed), []
    for name in graph.inputs:
        quantizer = next((node for node in graph.consumers(name) if node.op == "quantize"), None)
        format = graph.format(name) if quantizer is None else quantizer.attrs["format"]
        shape = (batch, *(n or 1 for n in graph.shape(name)[1:]))
        if format is None:  # read by a float layer first
            arrays.append(random.normal(size=shape).astype(np.float32))
            continue
        codes = random.integers(format.qmin, format.qmax + 1, shape)
        arrays.append(codes.astype(format.dtype) if quantizer is None else (codes * format.scale).astype(np.float32))
    return arrays


# ---- engines ---------------------------------------------------------------------------------------------------------
def litert_file(path: str, batch: int, threads: int) -> Call:
    """A call of the LiteRT interpreter (XNNPACK) on a file with random inputs of its own types.

    Args:
        path: of a ``.tflite`` file.
        batch: number of examples; its inputs are resized to it.
        threads: of the interpreter.
    """
    from ai_edge_litert.interpreter import Interpreter

    engine = Interpreter(model_path=path, num_threads=threads)
    random = np.random.default_rng(3)
    details = engine.get_input_details()
    for detail in details:
        engine.resize_tensor_input(detail["index"], [batch, *detail["shape"][1:]])
    engine.allocate_tensors()
    arrays = []
    for detail in details:
        shape = (batch, *detail["shape"][1:])
        whole = np.issubdtype(detail["dtype"], np.integer)
        arrays.append(
            (random.integers(-128, 128, shape) if whole else random.normal(size=shape)).astype(detail["dtype"])
        )
    output = engine.get_output_details()[0]["index"]

    def call():
        for detail, array in zip(details, arrays):
            engine.set_tensor(detail["index"], array)
        engine.invoke()
        return engine.get_tensor(output)

    return call


def keras_float(path: str, images: list[np.ndarray], threads: int) -> Call:
    """A float32 Keras model inside a ``tf.function``, on the same inputs.

    Args:
        path: of a ``.keras`` model.
        images: one array for each input of the model.
        threads: of TensorFlow, which takes another number only before it has computed anything in this process.
    """
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = keras.models.load_model(path, compile=False)
    tensors = [tf.constant(image) for image in images]
    function = tf.function(lambda *x: model(x[0] if len(x) == 1 else list(x), training=False))
    return lambda: [np.asarray(out) for out in tf.nest.flatten(function(*tensors))]


# ---- a network -------------------------------------------------------------------------------------------------------
def network(
    graph: Graph, *, threads: int, batches: Sequence[int] = (1, 32), rounds: int = 15, tier: str = "auto",
    keras: str | None = None,
    tflite: str | None = None, engines: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Time a network on this process's cores; float in, float out.

    Args:
        graph: of stage ``integer``.
        threads: of every engine.
        batches: batch sizes, one row each.
        rounds: timed rounds.
        tier: of the native runner.
        keras: path of a float ``.keras`` model to run beside it.
        tflite: path of a ``.tflite`` file to run beside it, on inputs of its own.
        engines: of ``EXPORTED``: the graph's own exports; one that is not installed or answers otherwise is not timed.

    Returns:
        The rows, and engine → why it was not timed.
    """
    rows, skipped = [], {}
    for batch in batches:
        images = inputs(graph, batch)
        runner = checked(graph, tier, threads, [image[:2] for image in images])
        expected = runner.run(images)
        functions: dict[str, Call] = {"graffiti": functools.partial(runner.run, images)}
        for engine in engines:
            name = executors.EXECUTORS[engine].title
            try:
                call = executors.EXECUTORS[engine].call(graph, images, threads)
            except executors.Unavailable as why:
                skipped[name] = str(why)
                continue
            difference = _difference(graph, expected, call())
            if difference:
                skipped[name] = f"{DIFFERS}: {difference}"
            else:
                functions[name] = call
        row: dict[str, Any] = {"threads": threads, "batch": batch}
        if tflite is not None:
            functions[f"LiteRT {pathlib.Path(tflite).name}"] = litert_file(tflite, batch, threads)
        if keras is not None:
            functions["Keras float32"] = call = keras_float(keras, images, threads)
            got = call()
            if [a.shape for a in got] != [np.shape(a) for a in expected]:
                raise ValueError(
                    f"{keras} returns arrays of the shapes {[a.shape for a in got]}, the graph "
                    f"{[np.shape(a) for a in expected]}; pass the float model that it was quantized from"
                )
        took = seconds(functions, rounds)
        row.update({f"{name} ms": round(value * 1e3, 3) for name, value in took.items()})
        row.update(
            {
                f"{name} / graffiti": round(value / took["graffiti"], 2) for name, value in took.items()
                if name != "graffiti"
            }
        )
        rows.append(row)
    return rows, skipped


def _difference(graph: Graph, expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> str:
    """What differs, in words; nothing where all is equal (softmax: to the last bits)."""
    kinds = Values.of(graph).kinds
    for name, a, b in zip(graph.outputs, expected, got):
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            return f"output {name} has the shape {b.shape}, expected {a.shape}"
        wrong = np.abs(a.astype(np.float64) - b) > SOFTMAX_ERROR if kinds[name] == SOFTMAX else a != b
        if wrong.any():
            return f"{int(wrong.sum())} of {wrong.size} values of output {name}"
    return ""


def in_processes(thread_counts: Sequence[int], **options: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """``network`` for each thread count, each in a process of its own; ``graph`` among the options is the path of a
    ``.graffiti`` file.

    Raises:
        RuntimeError: where a process fails; holds its last words.
    """
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for threads in thread_counts:
        with tempfile.TemporaryDirectory() as folder:
            answer = pathlib.Path(folder) / "answer.json"
            command = [
                sys.executable, "-m", "graffiti.benchmark",
                json.dumps({**options, "threads": threads, "answer": str(answer)})
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not answer.is_file():
                words = done.stderr.strip().splitlines() or ["no word"]
                raise RuntimeError(f"the benchmark on {threads} threads failed: {words[-1]}")
            content = json.loads(answer.read_text())
        rows += content["rows"]
        skipped.update(content["skipped"])
    return rows, skipped


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; the columns are those of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(
        [*lines, *("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows)]
    )


def main(argv: Sequence[str]) -> None:
    """One process of ``in_processes``: options as JSON, the answer into a file."""
    options = json.loads(argv[0])
    pin(options["threads"])
    answer = options.pop("answer")
    from graffiti.integer_graph import IntegerGraph

    rows, skipped = network(IntegerGraph.load(options.pop("graph")).graph, **options)
    pathlib.Path(answer).write_text(json.dumps({"rows": rows, "skipped": skipped}))


if __name__ == "__main__":
    main(sys.argv[1:])
