"""Exported C on emulated machines against the numpy interpreter, and the firmware and CMake builds of an export.

Each needs its cross compiler and QEMU, and skips with the package names where they are missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import c_graphs
import networks
import numpy as np
import pytest
from contract import assert_equal
from random_networks import random_network

import graffiti
from graffiti.executors.rows import Emulated
from graffiti.export.c import boards
from graffiti.export.c.boards import BOARDS, EmulatedModel
from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.exporter import CExporter
from graffiti.graph import interpreter
from graffiti.integer_graph import IntegerGraph
from graffiti.transforms import pipelines

QUICK = ("cortex-m4", "cortex-m55", "aarch64", "riscv64")


def need(*names):
    for name in names:
        why = boards.missing(name)
        if why:
            pytest.skip(why)


def check(graph, name, flags, inputs):
    """Every tensor of the C program equals the interpreter's."""
    emulated = Emulated(graph, EmulatedModel(graph, name, flags))
    assert_equal(graph, emulated.run_all(inputs), interpreter.run(graph, inputs, values=True), name)


@pytest.mark.parametrize("name", QUICK)
def test_every_kernel(name):
    """Each type of weights, in rows longer and shorter than a SIMD register and with rests of every length."""
    need(name)
    graph = c_graphs.every_kernel_case()
    check(graph, name, ("-O1",), c_graphs.real_inputs(graph, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
@pytest.mark.parametrize("level", ["-Os", "-O2", "-O3"])
def test_every_level_on_every_target(name, level):
    """Every op on every target: ``executors/test_contract.py``."""
    need(name)
    for graph in (c_graphs.every_kernel_case(), c_graphs.resnet8(), *map(c_graphs.random_network, range(12))):
        check(graph, name, (level,), c_graphs.real_inputs(graph, 4))


@pytest.mark.parametrize(
    "name, instruction", [("cortex-m3", None), ("cortex-m4", "smlad"), ("cortex-m55", "vmladava.s16")]
)
def test_simd_is_used_where_the_core_has_it(name, instruction, tmp_path):
    need(name)
    CExporter().write(c_graphs.conv_case(), tmp_path / "net")
    command = [BOARDS[name].compiler, *BOARDS[name].flags, "-std=c99", "-O2", "-S", "graffiti_runtime.c", "-o", "-"]
    for flags, pattern in (([], instruction), (["-DGRAFFITI_PORTABLE"], None)):
        text = subprocess.run(
            [*command, *flags], cwd=tmp_path / "net", capture_output=True, text=True, check=True
        ).stdout
        assert bool(re.search(pattern or r"\t(smlad|vmladava)", text)) == (pattern is not None)


def test_the_firmware_checks_its_vectors_and_says_so_by_its_exit_code(tmp_path):
    need("cortex-m4")
    graph = c_graphs.resnet8()
    CExporter().write(graph, tmp_path / "net", test_inputs=c_graphs.real_inputs(graph, 2))
    for spoil, code, said in (
        (False, 0, "resnet8: 2 test vectors, 20 integers, 0 mismatches"), (True, 1, " 1 mismatches")
    ):
        if spoil:
            vectors = tmp_path / "net" / "vectors.h"
            head, middle, tail = vectors.read_text().partition("vector_output[VECTOR_COUNT]")
            expected = int(tail.split("{")[2].split(",")[0])
            vectors.write_text(
                head + middle + tail.replace(f" {expected},", f" {expected - 1 if expected > -128 else 0},", 1)
            )
        boards.build(tmp_path / "net", "cortex-m4", tmp_path / "firmware.elf")
        done = subprocess.run(
            boards.command_of("cortex-m4", tmp_path / "firmware.elf"), capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=60
        )
        assert done.returncode == code and said in done.stdout + done.stderr


@pytest.mark.parametrize("cpu", [None, "cortex-m55"])
def test_cmake_builds_and_checks_without_a_warning(cpu, tmp_path):
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake; install it to run this test")
    if cpu:
        need(cpu)
    graph = c_graphs.conv_case()
    CExporter().write(graph, tmp_path / "net", test_inputs=c_graphs.real_inputs(graph, 2))
    toolchain = ["-DCMAKE_TOOLCHAIN_FILE=firmware/arm-none-eabi.cmake", f"-DCPU={cpu}"] if cpu else []
    for command in (
        ["cmake", "-S", ".", "-B", "build", *toolchain], ["cmake", "--build", "build"],
        ["ctest", "--test-dir", "build", "--output-on-failure"]
    ):
        done = subprocess.run(command, cwd=tmp_path / "net", capture_output=True, text=True)
        assert done.returncode == 0 and "warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "1 tests failed" not in done.stdout and "100% tests passed, 0 tests failed out of 1" in done.stdout


def test_a_target_whose_tools_are_missing_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    graph = c_graphs.conv_case()
    sentence = (
        "the board c:cortex-m4 needs arm-none-eabi-gcc and qemu-system-arm, not found on this machine; install "
        "gcc-arm-none-eabi, libnewlib"
    )
    with pytest.raises(RuntimeError, match=sentence):
        EmulatedModel(graph, "cortex-m4")
    report = graffiti.verify(
        None, IntegerGraph(graph), c_graphs.real_inputs(graph, 2), ["native", "c:cortex-m4"], progress=False
    )
    assert not report.ok and report.skipped["c:cortex-m4"].startswith(sentence)
    with pytest.raises(ValueError, match="emulated on cortex-m3, cortex-m4"):
        EmulatedModel(graph, "z80")
    with pytest.raises(ValueError, match="c:cortex-m55, c:aarch64"):
        graffiti.verify(None, IntegerGraph(graph), c_graphs.real_inputs(graph, 2), ["c:z80"], progress=False)


def test_verify_takes_the_targets():
    need("aarch64", "riscv64")
    graph = c_graphs.conv_case()
    report = graffiti.verify(
        None, IntegerGraph(graph), c_graphs.real_inputs(graph, 3), ["c:aarch64", "c:riscv64"], progress=False
    )
    assert report.ok and report.targets == ["c:aarch64", "c:riscv64"] and report.examples == 3


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int8_per_channel", "int4", "w4a4"])
def test_ten_random_networks_over_every_op_on_500_inputs(scheme):
    need(*BOARDS)
    seen: set[str] = set()
    for seed in range(10):
        graph = random_network(seed, islands=False)
        placed, _ = pipelines.place(graph, scheme, unsigned_inputs=graph.inputs[: seed % 2])
        random = np.random.default_rng(seed)
        calibration, inputs = (
            [random.normal(size=(n, *graph.shape(name)[1:])).astype(np.float32) for name in graph.inputs]
            for n in (8, 500)
        )
        integer = pipelines.lower(networks.calibrate(placed, calibration, seed))
        seen |= {step.op for step in CExporter().plan(integer).steps} | {node.op for node in integer.nodes}
        for name in BOARDS:
            check(integer, name, ("-O1",), inputs)
        program = CExporter().plan(integer)
        assert program.arena_bytes <= 1.05 * program.lower_bound
    assert seen >= set(EMITTERS) - {"relu"}, "lowering makes relu a part of the requantize; c_graphs.CASES has it alone"
