"""Compiled programs against the interpreter: every tensor a program keeps, with ``==``."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import random_graphs

from graffiti.graph import interpreter
from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat
from graffiti.runtime import library, program_format
from graffiti.runtime.program import compile_graph
from graffiti.runtime.runner import Runner

Q8 = QFormat(8, True, -4)


def compare(graph: Graph, x, tier: str = "auto", threads: int = 1) -> dict[str, np.ndarray]:
    """Asserts equality of all tensors and outputs; returns the runner's tensors."""
    reference = interpreter.run(graph, x, values=True)
    runner = Runner(graph, tier=tier, threads=threads)
    values = runner.run_all(x)
    for name, got in values.items():
        assert got.dtype == reference[name].dtype and np.array_equal(got, reference[name]), (graph.name, name, tier)
    for name, got in zip(graph.outputs, runner.run(x)):
        assert np.array_equal(got, reference[name]), (graph.name, name, tier)
    return values


def start(*shape: int, format: QFormat = Q8) -> tuple[Graph, str]:
    graph = Graph("integer", ["x"], name="test")
    graph.types["x"] = TensorType((None, *shape))
    return graph, graph.insert("quantize", ["x"], "x_q", {"format": format}).output


def conv(
    graph: Graph, x: str, outputs: int, name: str, *, format: QFormat = Q8, seed: int = 0, size: int = 3,
    padding: str = "same"
) -> str:
    rng = np.random.default_rng(seed)
    k = graph.add_constant(
        f"{name}/kernel", rng.integers(-128, 128, (size, size, graph.shape(x)[-1], outputs)).astype(np.int8),
        QFormat(8, True, -7)
    )
    product = graph.insert(
        "conv", [x, k], f"{name}/product", {"strides": (1, 1), "dilation": (1, 1), "padding": padding}
    ).output
    return graph.insert("requantize", [product], name, {"format": format}).output


def steps(graph: Graph) -> list[str]:
    """The names of a program's steps, read from its bytes."""
    blob, format = compile_graph(graph).blob, program_format.load()
    words = {name: len(fields) for name, fields in format.records.items()}
    names = {kind: name for name, kind in format.kinds.items()}
    numbers = struct.unpack_from(f"<{words['Header']}q", blob)
    header = dict(zip((field.name for field in format.records["Header"]), numbers))
    at = words["Header"] + header["inputs"] + header["outputs"]
    at += words["Tensor"] * header["tensors"] + words["Value"] * header["values"]
    found = []
    for _ in range(header["steps"]):
        kind, behind = struct.unpack_from("<2q", blob, 8 * at)
        found.append(names[kind])
        at += 2 + behind
    assert 8 * at == len(blob) - header["data"]
    return found


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_equal_the_interpreter(tier, seed):
    graph = random_graphs.random_graph(seed)
    compare(graph, random_graphs.images(graph, 3, seed), tier, threads=1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_many_random_graphs(tier, seed):
    graph = random_graphs.random_graph(seed, steps=14)
    compare(graph, random_graphs.images(graph, 2, seed), tier, threads=1 + seed % 3)


def test_product_bias_relu_requantize_is_one_step():
    graph, x = start(5, 5, 3)
    k = graph.add_constant("k", np.ones((3, 3, 3, 4), np.int8), QFormat(8, True, (-7, -6, -5, -4)))
    value = graph.insert("conv", [x, k], "product", {"strides": (1, 1), "dilation": (1, 1), "padding": "same"}).output
    b = graph.add_constant("b", np.arange(4, dtype=np.int32), graph.format(value))
    value = graph.insert("bias_add", [value, b], "sum").output
    value = graph.insert("relu", [value], "relu").output
    value = graph.insert("requantize", [value], "q", {"format": QFormat(8, False, -3)}).output
    graph.outputs = [value]
    assert steps(graph) == ["Quantize", "Conv"]
    values = compare(graph, random_graphs.images(graph, 2))
    assert set(values) == {"x_q", "q"}


def test_a_second_reader_keeps_the_tensor_between():
    graph, x = start(5, 5, 3)
    k = graph.add_constant("k", np.ones((3, 3, 3, 4), np.int8), QFormat(8, True, -7))
    product = graph.insert("conv", [x, k], "product", {"strides": (1, 1), "dilation": (1, 1), "padding": "same"}).output
    graph.outputs = [product, graph.insert("requantize", [product], "q", {"format": QFormat(8, False, -3)}).output]
    assert steps(graph) == ["Quantize", "Conv", "Requantize"]
    assert "product" in compare(graph, random_graphs.images(graph, 2))


def test_pad_merges_into_convolutions_only():
    graph, x = start(6, 5, 3)
    padded = graph.insert("pad", [x], "padded", {"pads": ((1, 2), (0, 3), (0, 0))}).output
    graph.outputs = [conv(graph, padded, 5, "c", padding="valid"), conv(graph, padded, 4, "d", padding="same")]
    assert steps(graph) == ["Quantize", "Conv", "Conv"]
    compare(graph, random_graphs.images(graph, 2))
    graph.outputs.append(graph.insert("relu", [padded], "r").output)  # another reader: the padded tensor must exist
    assert steps(graph).count("Move") == 1
    compare(graph, random_graphs.images(graph, 2))


def test_concat_of_products_copies_nothing():
    graph, x = start(6, 5, 3)
    a, b, c = (conv(graph, x, n, f"c{n}", seed=n) for n in (5, 16, 33))
    graph.outputs = [graph.insert("concat", [a, b, c], "all", {"axis": -1}).output]
    assert steps(graph) == ["Quantize", "Conv", "Conv", "Conv"]
    compare(graph, random_graphs.images(graph, 3))
    twice = graph.copy()
    twice.outputs = [twice.insert("concat", [a, a], "twice", {"axis": -1}).output]
    twice.prune()
    assert steps(twice).count("Move") == 2  # the same value twice is copied
    compare(twice, random_graphs.images(twice, 3))


def test_outputs_may_repeat_and_may_be_inputs_or_reshapes():
    graph = Graph("integer", ["x"], name="test")
    graph.types["x"] = TensorType((None, 4, 3), Q8)
    flat = graph.insert("reshape", ["x"], "flat", {"shape": (12,)}).output
    r = graph.insert("relu", ["x"], "r").output
    graph.outputs = ["x", r, r, flat, "x"]
    codes = np.arange(-24, 24).reshape(4, 4, 3).astype(np.int8)
    for got, expected in zip(Runner(graph).run(codes), interpreter.run(graph, codes)):
        assert np.array_equal(got, expected)


def test_constants_as_tensors_and_several_inputs():
    graph = Graph("integer", ["x", "y"], name="test")
    graph.types["x"], graph.types["y"] = TensorType((None, 4, 3)), TensorType((None, 4, 3), Q8)
    q = graph.insert("quantize", ["x"], "q", {"format": Q8}).output
    c = graph.add_constant("c", np.arange(12).reshape(1, 4, 3).astype(np.int8), Q8)
    joined = graph.insert("concat", [c, q, "y"], "joined", {"axis": 1}, type=TensorType((None, 12, 3), Q8)).output
    graph.outputs = [graph.insert("permute", [joined], "p", {"dims": (2, 1)}).output]
    rng = np.random.default_rng(0)
    data = {"y": rng.integers(-128, 128, (5, 4, 3)).astype(np.int8), "x": rng.normal(size=(5, 4, 3)).astype(np.float32)}
    expected = np.concatenate(
        [np.repeat(graph.constants["c"], 5, 0), reference.quantize(data["x"], Q8), data["y"]], 1
    ).transpose(0, 2, 1)
    assert np.array_equal(Runner(graph).run(data)[0], expected)


def test_global_max_pool_over_axes_that_are_no_neighbours():
    graph, x = start(4, 5, 6)
    graph.outputs = [graph.insert("global_max_pool", [x], "best", {"axes": (1, 3)}).output]
    compare(graph, random_graphs.images(graph, 3))


def test_16_bit_accumulator_and_bias_of_the_published_topology():
    """product -> 16-bit codes -> + 16-bit bias -> 8 bits, no int32 bias."""
    graph, x = start(5, 5, 8)
    rng = np.random.default_rng(1)
    k = graph.add_constant("k", rng.integers(-128, 128, (3, 3, 8, 6)).astype(np.int8), QFormat(8, True, -7))
    product = graph.insert(
        "conv", [x, k], "c/product", {"strides": (1, 1), "dilation": (1, 1), "padding": "same"}
    ).output
    accumulator = graph.insert("requantize", [product], "c/accumulator", {"format": QFormat(16, True, -10)}).output
    bias = graph.add_constant("c/q_bias", rng.integers(-32768, 32768, 6).astype(np.int16), QFormat(16, True, -10))
    total = graph.insert("bias_add", [accumulator, bias], "c").output
    graph.outputs = [graph.insert("requantize", [total], "c_q", {"format": QFormat(8, False, -3), "low": 0}).output]
    assert steps(graph) == ["Quantize", "Conv", "Binary"]
    assert set(compare(graph, random_graphs.images(graph, 3))) == {"x_q", "c/accumulator", "c_q"}


# ---- bad input -------------------------------------------------------------------------------------------------------
def test_wrong_stage_and_unknown_nodes_are_refused():
    graph, x = start(4, 4, 2)
    graph.outputs = [graph.insert("softmax", [graph.insert("dequantize", [x], "d").output], "s").output]
    with pytest.raises(ValueError, match="'s' \\(softmax\\): softmax is computed in Python"):
        compile_graph(graph)
    graph.stage = "float"
    with pytest.raises(ValueError, match="stage 'integer', got 'float'"):
        compile_graph(graph)


def test_damaged_blobs_are_refused_and_never_crash(kernels):
    """Every truncation, and a flipped word anywhere in the tables: an error or a program, but no crash."""
    import ctypes

    graph = random_graphs.random_graph(7)
    blob = compile_graph(graph).blob

    def create(data: bytes) -> bool:
        handle = ctypes.c_void_p()
        status = kernels.create_program(data, len(data), 0, ctypes.byref(handle))
        kernels.destroy_program(handle)
        assert status == 0 or kernels.last_error()
        return status == 0

    assert create(blob)
    for size in {*range(0, 200), *range(0, len(blob), 101)}:
        assert not create(blob[:size])
    assert not create(blob + bytes(8)) and not create(b"PK" + blob[2:])
    words = np.frombuffer(blob[: len(blob) // 8 * 8], np.int64)
    tables = (len(blob) - int(words[10])) // 8
    rng = np.random.default_rng(0)
    for position in range(0, tables):
        for value in (-1, 0, int(rng.integers(0, 2**40)), int(words[position]) + 1):
            changed = words.copy()
            changed[position] = value
            create(changed.tobytes())
    with pytest.raises(library.KernelError, match="not a whole program"):
        kernels.call("create_program", blob[:-8], len(blob) - 8, 0, ctypes.byref(ctypes.c_void_p()))
