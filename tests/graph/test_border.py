"""The border: affine maps of real numbers in front of the first quantizers, and joins of what leaves; every
executor, to the bit.
"""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.export.base import ExportError
from graffiti.export.c.border import take_border_off
from graffiti.export.c.exporter import CExporter
from graffiti.export.c.harness import CModel
from graffiti.export.litert.exporter import LiteRTExporter
from graffiti.graph import affine, border, interpreter
from graffiti.graph.printer import parse, to_text
from graffiti.graph.verify import GraphError, verify_graph
from graffiti.numerics import reference
from graffiti.runtime.runner import Runner, supported_tiers

MOVES = """
integer graph moves
input %a:f32[_,4,6,3]
input %b:f32[_,5]
input %c:f32[_,2]
const %pixels:f32[4,6,3] = random(1)
const %columns:f32[72] = random(2)
const %rows:f32[6,1,1] = random(3)
const %k:s8@-6[72,4] = random(4)
%a1 = rescaling(%a) {scale=0.0039215688593685627, offset=0.0}
%a1_q = quantize(%a1) {format=u8@-8}
%a2 = rescaling(%a) {scale='pixels', offset=(0.5, -0.25, 3.0)}
%a2r = reshape(%a2) {shape=(72,)}
%a3 = rescaling(%a2r) {scale=2.0, offset='columns'}
%a3_q = quantize(%a3) {format=s8@-3, rounding='half_away'}
%p = permute(%a) {dims=(2, 1, 3)}
%m = max_pool(%p) {pool_size=(1, 2), strides=(1, 2), padding='same'}
%n = rescaling(%m) {scale=(1.0, 0.5, 0.001), offset=(-1.0, 0.0, 1.0)}
%n_q = quantize(%n) {format=s8@-4, rounding='floor'}
%u = upsample(%p) {size=(1, 2)}
%v = rescaling(%u) {scale=-0.3, offset='rows'}
%w = crop(%v) {crops=((1, 2), (3, 1), (0, 1))}
%w_q = quantize(%w) {format=s8@-3, rounding='half_up'}
%j = concat(%b, %c) {axis=-1}
%jn = rescaling(%j) {scale=(1.0, 0.1, 0.01, 0.001, 3.0, 1.5, 1e-05), offset=(1.0, -2.0, 3.0, -4.0, 5.0, 0.0, -0.5)}
%j_q = quantize(%jn) {format=s16@-9}
%d = dense(%a3_q, %k)
%d_q = requantize(%d) {format=s8@-2}
%o0 = dequantize(%a1_q)
%o1 = dequantize(%n_q)
%o2 = dequantize(%w_q)
%o3 = dequantize(%j_q)
%o4 = dequantize(%d_q)
output %o0, %o1, %o2, %o3, %o4
"""


def inputs(count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    columns = np.float32([1, 20, 400, 5000, 1, 3, 1e5])
    joined = (columns * rng.normal(1, 0.4, (count, 7))).astype(np.float32)
    return [rng.uniform(-4, 260, (count, 4, 6, 3)).astype(np.float32), joined[:, :5], joined[:, 5:]]


def rounds_twice():
    """``offset = -round(x * scale)``: zero where the product is rounded before the sum, its rounding error where
    they are fused.
    """
    x = np.random.default_rng(3).normal(0, 100, (1, 64)).astype(np.float32)
    product = x[0] * np.float32(0.1)
    graph = parse("""integer graph twice
        input %x:f32[_,64]
        const %offset:f32[64] = random(1)
        %y = rescaling(%x) {scale=0.10000000149011612, offset='offset'}
        %y_q = quantize(%y) {format=s8@-40}
        %o = dequantize(%y_q)
        output %o""")
    graph.constants["offset"] = -product
    exact = x[0].astype(np.float64) * np.float32(0.1) - product
    assert np.count_nonzero(np.rint(exact * 2.0**40)) > 50, "a fused multiply-add would show"
    return graph, x


def test_the_reference_rounds_the_product_then_the_sum():
    graph, x = rounds_twice()
    assert not interpreter.run(graph, x)[0].any()
    assert reference.rescaling(np.float32([np.inf]), 2.0, 1.0).tolist() == [np.inf]
    with pytest.raises(ValueError, match="the tensor 'y' holds 64 NaN"):
        interpreter.run(graph, x * np.nan)


def test_text_and_numbers():
    graph = parse(MOVES)
    verify_graph(graph)
    assert to_text(parse(to_text(graph), graph.constants)) == to_text(graph)
    assert [value.shape for value in affine.numbers(graph, graph.node("v"))] == [(), (6, 1, 1)]
    assert graph.node("v").attached == ("rows",)
    kept = graph.copy()
    kept.rename("rows", "lines")
    kept.prune()
    assert kept.node("v").attrs["offset"] == "lines" and "lines" in kept.constants


@pytest.mark.parametrize("tier", supported_tiers())
def test_the_native_runner_is_equal(tier):
    for graph, x in ((parse(MOVES), inputs(70)), rounds_twice()):
        expected, runner = interpreter.run(graph, x, values=True), Runner(graph, tier=tier)
        got = runner.run_all(x)
        assert (
            runner.is_native and set(got) >= {node.name for node in graph.nodes if node.op in ("rescaling", "quantize")}
        )
        for name, array in got.items():
            assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("ops", ["native", "python"])
def test_tensorflow_is_equal(ops):
    from graffiti.executors.tensorflow import TensorFlowExecutor

    for graph, x in ((parse(MOVES), inputs()), rounds_twice()):
        expected = interpreter.run(graph, x, values=True)
        for name, array in TensorFlowExecutor(graph, ops=ops).run_all(x).items():
            assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("flags", [("-O3",), ("-O3", "-mfma", "-ffp-contract=fast")])
def test_c_helpers_are_equal(flags):
    """The compiler may not fuse the two operations, whatever its flags."""
    for graph, x in ((parse(MOVES), inputs()), rounds_twice()):
        expected, model = interpreter.run(graph, x, values=True), CModel(graph, flags=flags)
        got = model.run_all(x)
        assert {"a1_q", "n_q", "w_q", "a3_q", "j_q"} & set(expected) <= set(got)
        for name, array in got.items():
            if name in expected:
                assert np.array_equal(array, expected[name]), name
        ports = CExporter().border(graph).inputs
        assert all(
            np.array_equal(a, port.codes(x[graph.inputs.index(port.source)] if isinstance(x, list) else x))
            for a, port in zip(model.quantize(x), ports)
        )


def test_c_takes_what_an_affine_map_makes_of_a_value_that_others_read_as_it_is():
    graph = parse("""integer graph both
        input %x:f32[_,3]
        %y = rescaling(%x) {scale=(1.0, 10.0, 100.0), offset=0.5}
        %x_q = quantize(%x) {format=s8@-4}
        %y_q = quantize(%y) {format=s8@-1}
        %o = dequantize(%x_q)
        %p = dequantize(%y_q)
        output %o, %p""")
    ports = take_border_off(graph).inputs
    assert [(port.value, port.source, len(port.affine)) for port in ports] == [("x_q", "x", 0), ("y_q", "x", 1)]
    x = np.random.default_rng(1).normal(size=(9, 3))
    assert all(
        np.array_equal(a, b) for a, b in zip(CModel(graph).dequantize(CModel(graph).run(x)), interpreter.run(graph, x))
    )


@pytest.mark.parametrize("move, map, fine", [
    ("pad(%x) {pads=((1, 1), (0, 0), (0, 0))}", "scale=2.0, offset=0.0", True),
    ("pad(%x) {pads=((1, 1), (0, 0), (0, 0))}", "scale=2.0, offset=1.0", False),
    ("max_pool(%x) {pool_size=(2, 2), strides=(2, 2), padding='valid'}", "scale=(1.0, 0.5), offset=1.0", True),
    ("max_pool(%x) {pool_size=(2, 2), strides=(2, 2), padding='valid'}", "scale=(1.0, -0.5), offset=1.0", False),
    ("upsample(%x) {size=(2, 1)}", "scale='halves', offset=0.0", True),
    ("upsample(%x) {size=(2, 1)}", "scale='each', offset=0.0", False),
    ("global_max_pool(%x) {axes=(1, 2)}", "scale=(1.0, 0.5), offset=1.0", True),
    ("global_max_pool(%x) {axes=(2, 3)}", "scale=(1.0, 0.5, 2.0, 1.0), offset=1.0", False),
])
def test_c_moves_an_affine_map_to_the_front_or_says_which_move_stands_against_it(move, map, fine):
    graph = parse(f"""integer graph move
        input %x:f32[_,4,4,2]
        const %halves:f32[8,1,1] = [[[1]], [[1]], [[2]], [[2]], [[3]], [[3]], [[4]], [[4]]]
        const %each:f32[8,1,1] = random(1)
        %m = {move}
        %y = rescaling(%m) {{{map}}}
        %y_q = quantize(%y) {{format=s8@-3}}
        %o = dequantize(%y_q)
        output %o""")
    x = np.random.default_rng(2).normal(0, 4, (6, 4, 4, 2))
    if not fine:
        with pytest.raises(ExportError, match="m \\(.*affine map behind it.*right behind the input"):
            CExporter().border(graph)
        return
    assert np.array_equal(CModel(graph).run_all(x)["y_q"], interpreter.run(graph, x, values=True)["y_q"])


def test_onnx_and_qonnx_are_equal():
    pytest.importorskip("onnxruntime")
    from graffiti.export.onnx.harness import OnnxModel, QonnxModel

    for graph, x in ((parse(MOVES), inputs()), rounds_twice()):
        expected = interpreter.run(graph, x, values=True)
        models = [
            OnnxModel(graph, optimize=optimize, show=show) for optimize, show in ((False, "all"), (True, "codes"))
        ]
        for model in [*models, QonnxModel(graph)]:
            got = model.run_all(x)
            assert "y" in got or "a1_q" in got or "a1" in got or "y_q" in got
            for name, array in got.items():
                assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("runtime, arithmetic", [("xnnpack", "int8"), ("builtin", "float32")])
def test_litert_is_equal(runtime, arithmetic):
    pytest.importorskip("ai_edge_litert")
    from graffiti.export.litert.runner import LiteRTModel

    # LiteRT refuses these two by name
    text = MOVES.replace(", rounding='half_away'", "").replace(", rounding='half_up'", "")
    for graph, x in ((parse(text), inputs()), rounds_twice()):
        expected, program = (
            interpreter.run(graph, x, values=True), LiteRTExporter().program(graph, arithmetic=arithmetic)
        )
        assert not program.inexact[runtime]
        got = LiteRTModel(graph, runtime, arithmetic=arithmetic).run_all(x)
        assert {"y_q"} <= set(got) or {"a1_q", "n_q", "w_q", "a3_q"} <= set(got)
        for name, array in got.items():
            assert np.array_equal(array, expected[name]), name


@pytest.mark.parametrize("body, message", [
    (
        "%q = quantize(%x) {format=s8@-4}\n%d = dequantize(%q)\n%y = rescaling(%d) {scale=2.0, offset=0.0}",
        "'d' is computed by the network"
    ),
    ("%q = quantize(%x) {format=s8@-4}\n%y = rescaling(%q) {scale=2.0, offset=0.0}", "'q' holds codes"),
    ("%y = rescaling(%x) {scale=(1.0, 2.0), offset=0.0}", r"scale has shape \(2,\), which does not broadcast"),
    ("%y = rescaling(%x) {scale='k', offset=0.0}", r"scale has shape \(2, 3\), which does not broadcast"),
    ("%y = rescaling(%x) {scale=1.0, offset=1e+39}", "offset holds NaN or infinity"),
])
def test_the_verifier_says_what_is_wrong(body, message):
    graph = parse(f"integer graph g\ninput %x:f32[_,3]\nconst %k:f32[2,3] = random(1)\n{body}\noutput %y")
    with pytest.raises(GraphError, match=message):
        verify_graph(graph)


# ---- joins -----------------------------------------------------------------------------------------------------------
JOIN = """
integer graph join
input %x:f32[_,4,3]
%x_q = quantize(%x) {format=s8@2}
%small = quantize(%x) {format=u8@-8}
%b = dequantize(%x_q)
%s = dequantize(%small)
%j = concat(%b, %s) {axis=-1}
%y = permute(%j) {dims=(2, 1)}
%z = dequantize(%x_q)
output %y, %z
"""


def test_parts_of_an_output_are_joined_as_reals_and_leave_c_one_by_one():
    graph = parse(JOIN)
    verify_graph(graph)
    assert border.joins(graph) == ["j", "y"]
    x = np.random.default_rng(0).normal(0, 100, (20, 4, 3)).astype(np.float32)
    expected = interpreter.run(graph, x, values=True)
    assert np.array_equal(expected["y"], np.concatenate([expected["b"], expected["s"]], -1).transpose(0, 2, 1))
    for tier in supported_tiers():
        assert np.array_equal(Runner(graph, tier=tier).run(x)[0], expected["y"])
    ports = take_border_off(graph).outputs
    assert (
        [(port.value, port.source, port.part) for port in ports]
        == [("x_q", "y", "b"), ("small", "y", "s"), ("x_q", "z", None)]
    )
    model = CModel(graph)
    first, second, third = model.run(x)
    assert (
        np.array_equal(first, expected["x_q"]) and np.array_equal(second, expected["small"])
        and np.array_equal(third, first)
    )
    assert [port.get("part") for port in model.outputs] == ["b", "s", None]
    assert np.array_equal(model.dequantize([first, second, third])[1], expected["s"])


@pytest.mark.parametrize("module, make", [
    (
        "onnxruntime",
        lambda graph: __import__(
            "graffiti.export.onnx.harness", fromlist=["x"]
        ).OnnxModel(graph, optimize=True, show="codes")
    ),
    ("qonnx", lambda graph: __import__("graffiti.export.onnx.harness", fromlist=["x"]).QonnxModel(graph)),
    ("ai_edge_litert", lambda graph: __import__("graffiti.export.litert.runner", fromlist=["x"]).LiteRTModel(graph)),
])
def test_joins_in_exported_files(module, make):
    pytest.importorskip(module)
    graph, x = parse(JOIN), np.random.default_rng(0).normal(0, 100, (20, 4, 3)).astype(np.float32)
    expected = interpreter.run(graph, x, values=True)
    got = make(graph).run_all(x)
    assert np.array_equal(got["y"], expected["y"]) and np.array_equal(got["z"], expected["z"])
