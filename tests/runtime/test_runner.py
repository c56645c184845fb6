"""``Runner``: threads, batches, islands, unknown sizes, pickling, errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import random_graphs
from random_graphs import small_network

from graffiti.graph import interpreter
from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat
from graffiti.runtime import library
from graffiti.runtime.runner import Runner, supported_tiers

Q8 = QFormat(8, True, -4)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 33])
def test_every_batch_on_every_number_of_threads(tier, threads, batch):
    graph = small_network()
    x = random_graphs.images(graph, batch)
    runner = Runner(graph, tier=tier, threads=threads)
    reference = interpreter.run(graph, x, values=True)
    for _ in range(3):
        assert np.array_equal(runner.run(x)[0], reference["logits"])
    for name, got in runner.run_all(x).items():
        assert np.array_equal(got, reference[name]) and got.shape == reference[name].shape, name


def test_many_small_batches_do_not_hang_or_differ():
    """The threads of one call must never see the work of another."""
    graph = small_network()
    runner = Runner(graph, threads=4)
    data = [random_graphs.images(graph, batch, seed) for seed, batch in enumerate((1, 2, 3, 5, 1, 8))]
    expected = [interpreter.run(graph, x)[0] for x in data]
    for round in range(150):
        assert np.array_equal(runner.run(data[round % 6])[0], expected[round % 6]), round


def test_calls_from_several_python_threads():
    graph = small_network()
    runner = Runner(graph, threads=2)
    data = [random_graphs.images(graph, 1 + seed, seed) for seed in range(6)]
    expected = [interpreter.run(graph, x)[0] for x in data]
    wrong = []

    def work(index):
        for _ in range(40):
            if not np.array_equal(runner.run(data[index])[0], expected[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_input_forms():
    graph = small_network()
    runner = Runner(graph, threads=1)
    x = random_graphs.images(graph, 4)
    expected = interpreter.run(graph, x)[0]
    odd = np.zeros((4, 9, 16, 3), np.float32)[:, :, ::2]
    odd[...] = x
    for form in (x, [x], {"x": x}, x.astype(np.float64), odd, np.asfortranarray(x)):
        assert np.array_equal(runner.run(form)[0], expected)
    pixels = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    assert np.array_equal(runner.run(pixels)[0], interpreter.run(graph, pixels)[0])
    with pytest.raises(ValueError, match="'x' has shape"):
        runner.run(x[:, :-1])
    with pytest.raises(ValueError, match="1 inputs"):
        runner.run([x, x])
    x[3, 2, 1, 0] = np.nan
    for threads in (1, 2, 8):
        with pytest.raises(ValueError, match="NaN"):
            Runner(graph, threads=threads).run(x)


def test_inputs_are_not_written_to():
    graph = small_network()
    x = random_graphs.images(graph, 5)
    copy = x.copy()
    x.flags.writeable = False
    Runner(graph).run(x)
    assert np.array_equal(x, copy)


def test_pickle_and_settings():
    graph = small_network()
    x = random_graphs.images(graph, 3)
    runner = Runner(graph, tier="scalar", threads=2)
    again = pickle.loads(pickle.dumps(runner))
    assert (again.tier, again.threads) == ("scalar", 2) and np.array_equal(again.run(x)[0], runner.run(x)[0])
    assert Runner(graph).threads == len(os.sched_getaffinity(0)) and supported_tiers()[0] == "scalar"
    with pytest.raises(ValueError, match="a tier is one of"):
        Runner(graph, tier="neon512")
    with pytest.raises(ValueError, match="threads of a runner is a whole number of at least 1, got 0"):
        Runner(graph, threads=0)
    graph.stage = "float"
    with pytest.raises(ValueError, match="stage 'integer'"):
        Runner(graph)


def test_softmax_is_the_reference_to_the_bit():
    graph = small_network()
    graph.outputs = [graph.insert("softmax", ["logits"], "probabilities").output]
    x = random_graphs.images(graph, 6)
    runner = Runner(graph)
    assert runner.run(x)[0].tobytes() == interpreter.run(graph, x)[0].tobytes()
    assert not runner.is_native and {"probabilities", "fc"} <= set(runner.run_all(x))


def test_islands_between_native_parts():
    """quantize -> island -> quantize -> conv, and a native branch around the island."""
    graph = Graph("integer", ["x"], name="island")
    graph.types["x"] = TensorType((None, 5, 4, 3))
    q = graph.insert("quantize", ["x"], "q", {"format": Q8}).output
    real = graph.insert("dequantize", [q], "real").output
    island = graph.insert(
        "island", [real, "x"], "swish", {"layer": {}, "output_shapes": ((None, 5, 4, 3),)},
        type=TensorType((None, 5, 4, 3))
    ).output
    back = graph.insert("quantize", [island], "back", {"format": Q8}).output
    around = graph.insert("relu", [q], "around", {"max_code": 60}).output
    total = graph.insert("add", [back, around], "sum").output
    graph.outputs = [graph.insert("requantize", [total], "out", {"format": QFormat(8, True, -3)}).output, around]

    def compute(node, arrays):
        assert node.name == "swish" and [a.dtype for a in arrays] == [np.float32] * 2
        return arrays[0] / (1 + np.exp(-arrays[1]))

    x = random_graphs.images(graph, 5)
    runner = Runner(graph, island=compute)
    reference = interpreter.run(graph, x, values=True, island=compute)
    for name, got in runner.run_all(x).items():
        assert np.array_equal(got, reference[name]), name
    assert not runner.is_native and {"swish", "back", "out", "around"} <= set(runner.run_all(x))
    with pytest.raises(ValueError, match="'swish' stayed in float; pass island="):
        Runner(graph)


def test_unknown_sizes_get_a_program_each():
    graph = Graph("integer", ["x"], name="free")
    graph.types["x"] = TensorType((None, None, None, 2))
    q = graph.insert("quantize", ["x"], "q", {"format": Q8}).output
    k = graph.add_constant(
        "k", np.random.default_rng(0).integers(-9, 9, (3, 3, 2, 4)).astype(np.int8), QFormat(8, True, -7)
    )
    product = graph.insert("conv", [q, k], "p", {"strides": (2, 1), "dilation": (1, 1), "padding": "same"}).output
    graph.outputs = [graph.insert("requantize", [product], "out", {"format": QFormat(8, True, -6)}).output]
    runner = Runner(graph)
    for size in ((5, 4), (8, 9), (5, 4), (1, 1)):
        x = np.random.default_rng(1).normal(0, 2, (3, *size, 2)).astype(np.float32)
        assert np.array_equal(runner.run(x)[0], interpreter.run(graph, x)[0])


def test_a_node_without_a_native_rule_runs_on_the_reference():
    """An output format with an exponent for each channel has no native rule."""
    graph = Graph("integer", ["x"], name="odd")
    graph.types["x"] = TensorType((None, 4, 3))
    q = graph.insert("quantize", ["x"], "q", {"format": Q8}).output
    odd = graph.insert("requantize", [q], "odd", {"format": QFormat(8, True, (-5, -4, -2))}).output
    graph.outputs = [graph.insert("dequantize", [odd], "real").output]
    x = np.random.default_rng(1).normal(0, 2, (6, 4, 3)).astype(np.float32)
    runner = Runner(graph)
    assert np.array_equal(runner.run(x)[0], interpreter.run(graph, x)[0]) and not runner.is_native


def test_a_missing_or_foreign_library_is_one_sentence(tmp_path):
    with pytest.raises(
        library.KernelsNotAvailable,
        match="there is no kernel library .*; build it with: python graffiti/ops/kernels/build.py"
    ):
        library.Library(tmp_path / "graffiti_kernels.so")
    (tmp_path / "graffiti_kernels.so").write_bytes(b"not a library")
    with pytest.raises(library.KernelsNotAvailable, match="does not load"):
        library.Library(tmp_path / "graffiti_kernels.so")


def test_a_forked_child_gets_a_pool_of_its_own():
    """The parent's threads do not exist in the child."""
    program = (
        "import os, sys, types\n"
        "package = types.ModuleType('graffiti'); package.__path__ = [sys.argv[1]]; sys.modules['graffiti'] = package\n"
        "sys.path.insert(0, sys.argv[2]); sys.path.insert(0, sys.argv[3])\n"
        "import numpy as np, random_graphs\n"
        "from graffiti.runtime.runner import Runner\n"
        "graph = random_graphs.random_graph(5); x = random_graphs.images(graph, 9)\n"
        "runner = Runner(graph, threads=3); expected = runner.run(x)\n"
        "child = os.fork()\n"
        "same = all(np.array_equal(a, b) for a, b in zip(runner.run(x), expected))\n"
        "if child == 0: os._exit(0 if same else 3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)\n"
    )
    package = os.path.dirname(os.path.dirname(library.__file__))
    tests = os.path.dirname(random_graphs.__file__)
    done = subprocess.run(
        [sys.executable, "-c", program, package, tests, os.path.dirname(package)], capture_output=True, text=True,
        timeout=120
    )
    assert done.returncode == 0, done.stderr
