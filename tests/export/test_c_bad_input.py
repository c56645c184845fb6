"""What the C export does with graphs that users should not have: it handles them or lists everything that stands
against them.
"""

from __future__ import annotations

import shutil
import subprocess

import c_graphs
import numpy as np
import pytest

from graffiti import export
from graffiti.export.c.exporter import CExporter
from graffiti.export.c.harness import CModel
from graffiti.graph import interpreter
from graffiti.numerics.formats import QFormat


def refused(graph, tmp_path):
    """The problems that ``write`` raises; nothing is written."""
    with pytest.raises(export.ExportError) as caught:
        CExporter().write(graph, tmp_path / "net")
    assert not list(tmp_path.iterdir())
    assert caught.value.problems == CExporter().supports(graph)
    assert (
        all(problem.fix for problem in caught.value.problems)
        and all(problem.layer in str(caught.value) for problem in caught.value.problems)
    )
    return caught.value.problems


def test_all_offenders_are_listed_at_once_whatever_they_are(tmp_path):
    """In front of a float island, behind it, beside it: of every kind, with what would fix each."""
    builder = c_graphs.Builder((4, 4, 3))
    graph = builder.graph
    wide = builder.node("requantize", "too_wide", builder.input, format=QFormat(32, False, -7))
    front = builder.node("requantize", "back", wide, format=c_graphs.S8(-7))
    real = builder.node("dequantize", "real", front)
    island = builder.node(
        "island", "odd_layer", real, layer="{}", output_shapes=[graph.shape(real)], reason="unknown activation"
    )
    behind = builder.node("quantize", "behind", island, format=c_graphs.S8(-7))
    table = builder.constant("t", (9,), c_graphs.S8(-7))
    value = builder.node("lookup", "short_table", behind, table, format=c_graphs.S8(-7))
    ranks = builder.node("add", "batch_constant", value, builder.constant("k", (2, 4, 4, 3), c_graphs.S8(-7)))
    builder.finish(builder.node("requantize", "end", ranks, format=c_graphs.S8(-7)))
    assert (
        {problem.layer for problem in refused(graph, tmp_path)}
        == {"odd_layer", "too_wide", "short_table", "batch_constant"}
    )


@pytest.mark.parametrize("shape", [(None, 4), (0, 4), (4, 0), (4, None, 3)])
def test_sizes_that_are_unknown_or_zero_are_refused(shape, tmp_path):
    builder = c_graphs.Builder(shape)
    problems = refused(builder.finish(builder.node("relu", "r", builder.input)), tmp_path)
    assert (
        {problem.layer for problem in problems} == {"x_q", "r"}
        and all("fixed, positive sizes" in problem.fix for problem in problems)
    )


def test_a_tensor_beyond_32_bit_counters_is_refused(tmp_path):
    builder = c_graphs.Builder((2**16, 2**15, 1))
    problems = refused(builder.finish(builder.node("relu", "r", builder.input)), tmp_path)
    assert {problem.layer for problem in problems} == {"x_q", "r"} and "2147483648 elements" in problems[0].reason


def test_one_tensor_as_several_outputs_and_an_input_as_output():
    builder = c_graphs.Builder((4, 4, 3))
    y = builder.conv(builder.input, 4, "c")
    graph = builder.finish(y, y, builder.node("reshape", "flat", y, shape=(64,)), builder.input)
    inputs = c_graphs.real_inputs(graph, 3)
    expected = interpreter.run(graph, inputs, values=True)
    outputs = CModel(graph, ("-O0",)).run(inputs)
    for got, name in zip(outputs, ("c_q", "c_q", "flat", "x_q"), strict=True):
        np.testing.assert_array_equal(got, expected[name])


@pytest.mark.parametrize("name", ["semihosting", "arm_mve", "firmware", "test", "while", "tést 网", "co_await"])
def test_awkward_model_names_build_as_program_library_and_firmware(name, tmp_path):
    builder = c_graphs.Builder((4, 4, 3), name=name)
    b = builder.add_input((4, 4, 3), c_graphs.S8(-7), "line")
    a = builder.add_input((4, 4, 3), c_graphs.S8(-7), "LINE ")
    value = builder.node("requantize", "to", builder.node("add", "check", a, b), format=c_graphs.S8(-7))
    value = builder.node(
        "requantize", "from", builder.node("add", "batch", value, builder.input), format=c_graphs.S8(-7)
    )
    graph = builder.finish(builder.conv(value, 2, "auto"))
    CExporter().write(graph, tmp_path / "net", test_inputs=c_graphs.real_inputs(graph, 2))
    done = subprocess.run(["make", "-s", "check", "CFLAGS=-O0"], cwd=tmp_path / "net", capture_output=True, text=True)
    assert done.returncode == 0 and " 0 mismatches" in done.stdout, done.stdout + done.stderr
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("the program is right; needs arm-none-eabi-gcc to build the firmware too")
    command = (
        "arm-none-eabi-gcc -std=c99 -Wall -Wextra -Wpedantic -Werror -mthumb -mcpu=cortex-m4 -fsyntax-only "
        "firmware/main.c firmware/startup.c"
    )
    done = subprocess.run([*command.split(), *(p.name for p in (tmp_path / "net").glob("*.c") if p.name != "main.c")],
                          cwd=tmp_path / "net", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
