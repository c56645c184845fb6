"""The exported folder: what is in it, that it builds under strict flags and sanitizers, and that nothing is half
written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import c_graphs
import numpy as np
import pytest

from graffiti import export
from graffiti.export.c.build_files import FIRMWARE
from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.exporter import CExporter
from graffiti.export.c.fuse import fuse
from graffiti.export.c.harness import WARNINGS, CModel, compiler
from graffiti.export.c.templates import fill
from graffiti.graph import interpreter
from graffiti.graph.ir import TensorType
from graffiti.numerics.formats import QFormat

SANITIZE = ("-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")


def run(*command, cwd=None, **options):
    return subprocess.run([os.fspath(part) for part in command], cwd=cwd, capture_output=True, **options)


def test_folder_builds_checks_and_traces(tmp_path):
    graph = c_graphs.resnet8()
    inputs = c_graphs.real_inputs(graph, 3)
    written = export.get("c").write(graph, tmp_path / "net_c", test_inputs=inputs)
    names = {
        "resnet8.c", "resnet8.h", "resnet8.json", "main.c", "vectors.h", "Makefile", "CMakeLists.txt", "arena_map.txt"
    }
    names |= {
        "graffiti_runtime.c", "graffiti_runtime.h", *(f"graffiti_rows_{simd}.h" for simd in ("plain", "dsp", "mve"))
    }
    names |= {f"firmware/{name}" for name in (*FIRMWARE, "main.c")}
    found = {p.relative_to(tmp_path / "net_c").as_posix() for p in (tmp_path / "net_c").rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "net_c").as_posix() for p in written} == names == found
    assert [p.name for p in tmp_path.iterdir()] == ["net_c"]
    done = run("make", "-s", "check", cwd=tmp_path / "net_c", text=True)
    assert (
        done.returncode == 0 and done.stdout.strip() == "resnet8: 3 test vectors, 30 integers, 0 mismatches"
    ), done.stdout + done.stderr
    codes = interpreter.run(graph, inputs, values=True)
    trace = run("make", "-s", "trace", cwd=tmp_path / "net_c", text=True).stdout
    assert "stage1_q: 8192 elements of 1 bytes\n" in trace
    assert codes["dense_q"][0].tobytes().hex() in trace
    header = (tmp_path / "net_c" / "resnet8.h").read_text()
    manifest = json.loads((tmp_path / "net_c" / "resnet8.json").read_text())
    assert (
        "void resnet8_run(const uint8_t *input, int8_t *output);" in header
        and "#define RESNET8_INPUT_EXPONENT (0)" in header
    )
    assert (
        f"#define RESNET8_ARENA_BYTES {manifest['arena_bytes']}" in header
        and "#define RESNET8_FLASH_BYTES " f"{manifest['flash_bytes']}" in header
    )
    weights = sum(a.size for n, a in graph.constants.items() if n.endswith("kernel"))
    biases = sum(4 * a.size for n, a in graph.constants.items() if n.endswith("bias"))
    assert (
        manifest["flash_bytes"] == weights + biases
    ), "weights take one byte each, the average pool's constant kernel none"


def test_a_mismatch_is_reported_and_fails(tmp_path):
    graph = c_graphs.conv_case()
    CExporter().write(graph, tmp_path / "net", test_inputs=c_graphs.real_inputs(graph, 2))
    vectors = tmp_path / "net" / "vectors.h"
    head, middle, tail = vectors.read_text().partition("vector_output[VECTOR_COUNT]")
    expected = int(tail.split("{")[2].split(",")[0])
    vectors.write_text(head + middle + tail.replace(f" {expected},", f" {expected - 1 if expected > -128 else 0},", 1))
    done = run("make", "-s", "check", "CFLAGS=-O0", cwd=tmp_path / "net", text=True)
    assert done.returncode != 0 and "vector 0, output[0]: expected" in done.stdout and "1 mismatches" in done.stdout


def test_batch_mode_streams_codes(tmp_path):
    graph = c_graphs.binary_case("add", None)
    CExporter().write(graph, tmp_path / "net")
    assert run("make", "-s", "CFLAGS=-O0", cwd=tmp_path / "net").returncode == 0
    program = tmp_path / "net" / "net_test"
    values = interpreter.run(graph, c_graphs.real_inputs(graph, 4), values=True)
    stream = b"".join(values["x_q"][i].tobytes() + values["y_q"][i].tobytes() for i in range(4))
    done = run(program, "--batch", input=stream)
    assert done.returncode == 0 and done.stdout == values["sum_q"].tobytes()
    assert run(program, "--batch", input=b"").returncode == 0
    cut = run(program, "--batch", input=stream[:-1])
    assert cut.returncode == 1 and b"not whole" in cut.stderr and cut.stdout == values["sum_q"][:3].tobytes()
    without = run(program)
    assert without.returncode == 2 and b"no test vectors are stored" in without.stdout
    assert run(program, "--other").returncode == 2


def sanitized(cases, folder):
    """Export every case with test vectors, build all of them into one program under the sanitizers, and run it."""
    sources, calls = [folder / "all.c"], []
    for index, (name, graph) in enumerate(cases.items()):
        identifier = f"case{index}"
        CExporter().write(graph, folder / identifier, test_inputs=c_graphs.real_inputs(graph, 3), name=identifier)
        text = (folder / identifier / "main.c").read_text()
        (folder / identifier / "main.c").write_text(text.replace("int main(", f"int main_{identifier}(int argc, char "
                                                                              f"**argv);\nint main_{identifier}("))
        sources += [folder / identifier / "main.c", folder / identifier / f"{identifier}.c"]
        calls.append((name, identifier))
    shutil.copytree(folder / "case0", folder / "runtime")
    declarations = "".join(f"int main_{i}(int argc, char **argv);\n" for _, i in calls)
    body = "".join(f'    if (main_{i}(1, argv) != 0) {{ puts("failed: {name}"); result = 1; }}\n' for name, i in calls)
    (folder / "all.c").write_text(f"#include <stdio.h>\n{declarations}int main(int argc, char **argv) {{\n    int "
                                  f"result = argc < 1;\n{body}    return result;\n}}\n")
    program = folder / "all"
    done = run(
        *compiler(), *WARNINGS, *SANITIZE, *sources, folder / "runtime" / "graffiti_runtime.c", "-o", program, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = run(program, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert done.stdout.count(" 0 mismatches") == len(cases)


def test_clean_under_sanitizers(tmp_path):
    chosen = (
        "conv_wide", "conv_groups", "conv_padded", "per_channel_depthwise_conv",
        "transpose_same_(2, 3)_(3, " "4)_(1, 2)", "moves_16", "max_pool_same", "packed_conv", "packed_depthwise",
        "packed_depthwise_multiplier", "packed_transpose", "requantize_half_even", "requantize_half_away", "lookup_s16",
        "average_pool", "conv_accumulator16", "slices", "slices_16", "minimum_s16", "borders", "multiply_map",
        "global_max_apart"
    )
    sanitized(
        {name: c_graphs.CASES[name]() for name in chosen}
        | {f"random_{s}": c_graphs.random_network(s) for s in range(3)},
        tmp_path
    )


@pytest.mark.slow
@pytest.mark.sanitizer
def test_every_case_is_clean_under_sanitizers(tmp_path):
    sanitized(
        {name: make() for name, make in c_graphs.CASES.items()}
        | {f"random_{s}": c_graphs.random_network(s) for s in range(60)},
        tmp_path
    )


def test_header_is_valid_cxx(tmp_path):
    if not shutil.which("g++"):
        pytest.skip("needs g++ to check the header in C++; install it to run this test")
    CExporter().write(c_graphs.borders_case(), tmp_path / "net")
    (tmp_path / "use.cc").write_text(
        '#define GRAFFITI_TRACE\n#define GRAFFITI_FLOAT_HELPERS\n#include "net/net.h"\n#include '
        '"net/graffiti_runtime.h"\nint main() { return 0; }\n'
    )
    done = run(
        "g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", tmp_path / "use.cc", text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_heap_no_float_no_library_but_string_h(tmp_path):
    for path in CExporter().write(c_graphs.resnet8(), tmp_path / "net"):
        if path.suffix == ".c" and path.name != "main.c":
            text = path.read_text()
            assert (
                not any(word in text for word in ("malloc", "calloc", "float ", "double ", "<math.h>", "<stdio.h>"))
            ), path
            # behind __ARM_FEATURE_...
            simd = {"#include <arm_mve.h>", "#include <arm_acle.h>"} if path.name == "graffiti_runtime.c" else set()
            headers = (
                {"#include <string.h>", "#include <stdint.h>"} if path.parent.name == "firmware"
                else {"#include <string.h>"}
            )
            assert {line for line in text.splitlines() if line.startswith("#include <")} == headers | simd


def test_a_template_takes_its_own_words_and_no_others():
    assert fill("no_check.c.in", name="net").startswith("static int check(void) {\n    puts(\"net: no test vectors")
    with pytest.raises(KeyError, match="name"):
        fill("no_check.c.in")
    with pytest.raises(ValueError, match="no_check.c.in has no @total@"):
        fill("no_check.c.in", name="net", total="3")


def test_an_existing_path_is_refused_before_anything_is_written(tmp_path):
    graph, path = c_graphs.conv_case(), tmp_path / "net"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already; choose another path or pass overwrite=True"):
        CExporter().write(graph, path)
    assert [p.name for p in tmp_path.rglob("*")] == ["net", "mine.txt"]
    CExporter().write(graph, path, overwrite=True)
    assert not (path / "mine.txt").exists() and (path / "net.c").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    graph = c_graphs.conv_case()
    with pytest.raises(ValueError, match="NaN"):
        CExporter().write(graph, tmp_path / "net", test_inputs=np.full((1, 7, 6, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="no example"):
        CExporter().write(graph, tmp_path / "net", test_inputs=np.zeros((0, 7, 6, 4), np.float32))

    def full_disk(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    with pytest.raises(OSError, match="no space"):
        CExporter().write(graph, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_the_same_graph_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        CExporter().write(
            c_graphs.resnet8(), tmp_path / folder, test_inputs=c_graphs.real_inputs(c_graphs.resnet8(), 1)
        )
    for path in (tmp_path / "a").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


# ---- what cannot be exported -----------------------------------------------------------------------------------------
def test_every_problem_is_listed_with_what_would_fix_it(tmp_path):
    builder = c_graphs.Builder((4, 4, 3))
    graph = builder.graph
    real = builder.node("dequantize", "d", builder.input)
    graph.insert(
        "island", [real], "odd_layer",
        {"layer": "{}", "output_shapes": [(None, 4, 4, 3)], "reason": "unknown activation"},
        type=TensorType((None, 4, 4, 3))
    )
    soft = builder.node("softmax", "attention", real)
    a = builder.node("quantize", "a_q", "odd_layer", format=c_graphs.S8(-7))
    b = builder.node("quantize", "b_q", soft, format=c_graphs.S8(-7))
    graph = builder.finish(builder.node("add", "sum", a, b))
    problems = CExporter().supports(graph)
    assert [p.layer for p in problems] == ["odd_layer", "attention"]
    with pytest.raises(export.ExportError) as caught:
        CExporter().write(graph, tmp_path / "net")
    assert caught.value.problems == problems and not list(tmp_path.iterdir())
    text = str(caught.value)
    assert (
        "odd_layer (island): it is kept in float (unknown activation); quantize it" in text
        and "attention (softmax)" in text and "2 layers" in text
    )


def problem_of(build, shape=(4, 4, 3)):
    builder = c_graphs.Builder(shape)
    builder.finish(build(builder))
    problems = CExporter().supports(builder.graph)
    assert problems, "expected a problem"
    return str(problems[0])


def test_single_problems():
    graph = c_graphs.conv_case()
    graph.stage = "float"
    assert "stage 'float'" in str(CExporter().supports(graph)[0])
    assert "fixed, positive sizes" in problem_of(lambda b: b.node("relu", "r", b.input), (None, 4))
    assert "31 unsigned bits" in problem_of(lambda b: b.node("requantize", "r", b.input, format=QFormat(32, False, -7)))
    assert (
        "5 axes"
        in problem_of(
            lambda b: b.node(
                "conv", "c", b.input, b.kernel("k", (1, 1, 1, 3, 3)), strides=(1,) * 3, dilation=(1,) * 3,
                padding="valid"
            ),
            (2, 4, 4, 3)
        )
    )
    assert "constant" in problem_of(lambda b: b.node("dense", "d", b.input, b.input), (4, 4))
    assert (
        "differs between the examples"
        in problem_of(lambda b: b.node("add", "s", b.input, b.constant("k", (2, 4, 4, 3), c_graphs.S8(-7))))
    )
    assert (
        "its table has 9 entries"
        in problem_of(
            lambda b: b.node("lookup", "f", b.input, b.constant("t", (9,), c_graphs.S8(-7)), format=c_graphs.S8(-7))
        )
    )
    assert CExporter().supports(c_graphs.resnet8()) == []


def test_unknown_format_lists_the_known_ones():
    with pytest.raises(ValueError, match="no export format 'verilog'; the formats are c"):
        export.get("verilog")
    assert all(name == exporter.name and exporter.description for name, exporter in export.EXPORTERS.items())


# ---- fusing and memory -----------------------------------------------------------------------------------------------
def test_products_absorb_bias_relu_and_requantize():
    program = CExporter().plan(c_graphs.resnet8())
    assert (
        [step.op for step in program.steps].count("conv") == 9
        and {step.op for step in program.steps} == {"conv", "add", "requantize", "depthwise_conv", "reshape", "dense"}
    )
    assert not any(program.graph.types[v].format.bits > 8 for v in program.addresses), "no accumulator is stored"
    assert len(CExporter().plan(c_graphs.resnet8(), fused=False).steps) == len(program.graph.nodes)


def test_what_others_read_is_not_absorbed():
    builder = c_graphs.Builder((4, 4, 3))
    product = builder.node(
        "conv", "p", builder.input, builder.kernel("k", (1, 1, 3, 3)), strides=(1, 1), dilation=(1, 1), padding="same"
    )
    first = builder.node("requantize", "a", product, format=c_graphs.S8(-7))
    second = builder.node("requantize", "b", product, format=c_graphs.S8(-6))
    third = builder.node("requantize", "c", first, format=c_graphs.S8(-6))
    builder.graph.outputs = [first, second, third]
    assert (
        [(step.nodes, step.output) for step in fuse(builder.graph)[1:]]
        == [(["p"], "p"), (["a"], "a"), (["b"], "b"), (["c"], "c")]
    )


def test_resnet8_arena_is_within_five_percent_of_its_bound():
    program = CExporter().plan(c_graphs.resnet8())
    assert program.lower_bound <= program.arena_bytes <= 1.05 * program.lower_bound
    assert program.arena_bytes <= 3 * 32 * 32 * 16 + 4096, "three tensors of the first stage live at once, and scratch"


@pytest.mark.parametrize("seed", range(60))
def test_random_arenas_are_within_five_percent_of_their_bound(seed):
    program = CExporter().plan(c_graphs.random_network(seed))
    assert program.lower_bound <= program.arena_bytes <= 1.05 * program.lower_bound


def test_the_bound_is_what_lives_at_the_fullest_step_and_is_printed(tmp_path):
    builder = c_graphs.Builder((6, 6, 4))
    x = builder.conv(builder.input, 8, "a")                      # 288 bytes; scratch 2 * 36
    x = builder.conv(x, 8, "b", window=(1, 1))                   # in the memory of a: 288 bytes; scratch 2 * 8
    y = builder.conv(x, 16, "c")                                 # grows: 288 + 576 bytes; scratch 2 * 72
    program = CExporter().plan(builder.finish(builder.conv(y, 2, "d")))
    assert (
        [(load.tensors, load.scratch) for load in program.arena.loads]
        == [(288, 72), (288, 16), (864, 144), (576, 288), (0, 0)]
    )
    assert program.lower_bound == program.arena_bytes == 1008
    CExporter().write(builder.graph, tmp_path / "net")
    text = (tmp_path / "net" / "arena_map.txt").read_text()
    assert (
        text == program.arena_map()
        and text.startswith(
            "Arena of net: 1008 bytes.\nBest possible for this order of steps: 1008 bytes, which live at step 2: 864 in"
        )
    )


def test_products_and_pools_work_in_place_only_where_nothing_unread_is_overwritten():
    def shares(build, shape=(6, 6, 8)):
        builder = c_graphs.Builder(shape)
        x = builder.conv(builder.input, shape[-1], "first", window=(1,) * (len(shape) - 1))
        y = build(builder, x)
        program = CExporter().plan(builder.finish(builder.conv(y, 1, "end", window=(1,) * (len(shape) - 1))))
        step = next(step for step in program.steps if step.output == y)
        return EMITTERS[step.op].reusable(program.graph, step) == ("first_q",)

    pool = {"pool_size": (2, 2), "strides": (2, 2)}
    assert shares(lambda b, x: b.conv(x, 8, "c", window=(1, 1)))
    assert shares(lambda b, x: b.conv(x, 4, "c", padding="valid"))
    assert not shares(lambda b, x: b.conv(x, 8, "c")), "padding: a window begins before its pixel"
    assert not shares(lambda b, x: b.conv(x, 9, "c", window=(1, 1))), "the pixels grow"
    assert not shares(lambda b, x: b.conv(x, 8, "c", window=(1, 1), groups=2)), "the second group still reads the pixel"
    assert not shares(lambda b, x: b.conv(x, 8, "c", window=(1, 1), out=c_graphs.S16(-10))), "the codes grow"
    assert (
        not shares(
            lambda b, x: b.conv(
                b.node("pad", "p", x, pads=((0, 0), (0, 3), (0, 0))), 8, "c", window=(1, 1), padding="valid"
            )
        )
    ), "rows grow"
    assert shares(lambda b, x: b.node("max_pool", "m", x, padding="valid", **pool))
    assert shares(lambda b, x: b.conv(x, 8, "c", op="depthwise_conv", padding="valid"))
    assert not shares(lambda b, x: b.conv(x, 8, "c", op="depthwise_conv"))


@pytest.mark.parametrize("seed", range(12))
def test_no_two_tensors_of_one_step_overlap_in_the_arena(seed):
    program = CExporter().plan(c_graphs.random_network(seed))
    for i, a in enumerate(program.blocks):
        assert a.offset + a.bytes <= program.arena_bytes
        for b in program.blocks[i + 1 :]:
            apart_in_time = a.last < b.first or b.last < a.first
            in_place = a.offset == b.offset and (a.last == b.first or b.last == a.first)
            assert apart_in_time or in_place or a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset, (a, b)


def test_elementwise_outputs_take_the_memory_of_an_input_that_ends():
    builder = c_graphs.Builder((8, 8, 4))
    x = builder.conv(builder.input, 4, "c")
    table = builder.constant("t", (256,), c_graphs.S8(-7))
    for index in range(3):
        x = builder.node("lookup", f"f{index}", x, table, format=c_graphs.S8(-7))
    program = CExporter().plan(builder.finish(builder.conv(x, 4, "d")))
    assert len({program.addresses[v] for v in ("c_q", "f0", "f1", "f2")}) == 1


# ---- the harness -----------------------------------------------------------------------------------------------------
def test_harness_runs_an_exported_folder(tmp_path):
    graph = c_graphs.conv_case()
    inputs = c_graphs.real_inputs(graph, 6)
    CExporter().write(graph, tmp_path / "net")
    model = CModel(tmp_path / "net", ("-O0",))
    expected = interpreter.run(graph, inputs, values=True)
    np.testing.assert_array_equal(model.run(inputs)[0], expected["c_q"])
    np.testing.assert_array_equal(model.run(expected["x_q"], codes=True)[0], expected["c_q"])
    np.testing.assert_array_equal(model.run({"x": inputs[0]})[0], expected["c_q"])
    assert model.run(inputs[0][:0])[0].shape == (0, 7, 6, 5)


def test_harness_errors_are_sentences(tmp_path, monkeypatch):
    model = CModel(c_graphs.conv_case(), ("-O0",))
    with pytest.raises(ValueError, match=r"'x' has shape \(batch, 7, 6, 4\), got \(1, 7, 6, 3\)"):
        model.run(np.zeros((1, 7, 6, 3), np.float32))
    with pytest.raises(ValueError, match="takes integer codes from -128 to 127"):
        model.run(np.full((1, 7, 6, 4), 128), codes=True)
    with pytest.raises(ValueError, match="holds NaN"):
        model.run(np.full((1, 7, 6, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="got 2 arrays"):
        model.run([np.zeros((1, 7, 6, 4), np.float32)] * 2)
    with pytest.raises(ValueError, match="'x' is missing"):
        model.run({"y": np.zeros((1, 7, 6, 4), np.float32)})
    with pytest.raises(ValueError, match="no network that graffiti exported"):
        CModel(tmp_path)
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match="the C compiler failed"):
        CModel(c_graphs.conv_case(), ("-O0",))
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    with pytest.raises(RuntimeError, match="cannot be run"):
        CModel(c_graphs.conv_case(), ("-O0",))
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="no C compiler was found"):
        CModel(c_graphs.conv_case(), ("-O0",))
