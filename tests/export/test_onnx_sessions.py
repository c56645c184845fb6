"""ONNX files in the session that a user gets: ``InferenceSession(path)``, default optimizations, no options.

Wide layers are where a runtime's own rewriting shows: their worst-case sums leave what float32 holds.
"""

from __future__ import annotations

import math

import c_graphs
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx: pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")

import onnx  # noqa: E402

import graffiti  # noqa: E402
from graffiti import schemes  # noqa: E402
from graffiti.export.onnx import harness  # noqa: E402
from graffiti.export.onnx.exporter import OnnxExporter  # noqa: E402
from graffiti.export.onnx.products import float_error  # noqa: E402
from graffiti.export.onnx.qdq import may_saturate  # noqa: E402
from graffiti.graph import interpreter  # noqa: E402
from graffiti.numerics.formats import QFormat  # noqa: E402

DENSE, CHANNELS = (128, 512, 1536, 2048, 4096), (64, 256, 512, 1024, 2048)
REDUCED = {
    ("dense", 2048, "int8"), ("dense", 4096, "int8_per_channel"), ("conv", 512, "int8"),
    ("conv", 2048, "graffitist_int8"), ("dense", 1536, "int8_half_up")
}
GRID = [
    (kind, size, scheme) for kind, sizes in (("dense", DENSE), ("conv", CHANNELS)) for size in sizes
    for scheme in schemes.SCHEMES
]


def wide_network(kind: str, size: int):
    """A layer with ``size`` inputs and a ReLU, and a small one behind it."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(size)
    inputs = keras.Input((size,) if kind == "dense" else (3, 3, size))
    if kind == "dense":
        outputs = layers.Dense(10)(layers.Dense(16, activation="relu")(inputs))
    else:
        outputs = layers.Conv2D(8, 1)(layers.Conv2D(12, 3, padding="same", activation="relu")(inputs))
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("kind", "size", "scheme"),
    [pytest.param(*case, marks=() if case in REDUCED else pytest.mark.slow) for case in GRID]
)
def test_wide_layers_in_a_default_session(kind, size, scheme, tmp_path):
    """0 unequal integers; with optimizations off 0 or what the certificate names before anything runs."""
    model = wide_network(kind, size)
    random = np.random.default_rng(size)
    x = np.abs(random.standard_normal((24, *model.input_shape[1:]))).astype(np.float32)
    x = np.concatenate(
        [x, x * random.choice([-1, 1], x.shape).astype(np.float32), np.full_like(x[:1], 1e3), np.full_like(x[:1], -1e3)]
    )
    ig = graffiti.to_integer(graffiti.quantize(model, scheme, calibration=x[:24], progress=False))
    report = graffiti.verify(None, ig, x, ["onnx"], progress=False)
    assert not report.skipped and {"onnx:plain", "onnx:optimized"} == set(report.targets)
    bounds = {(b.target, b.tensor): b.steps for b in report.bounds}
    assert all(target == "onnx:plain" for target, _ in bounds)
    for result in report.results:
        assert (
            result.worst <= bounds.get((result.target, result.tensor), 0)
            or (result.unequal and report.ends.get(result.tensor))
        ), result
    assert report.verdict in ("equal", "bounded")
    (path,) = ig.export(tmp_path / "net.onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_array_equal(got, interpreter.run(ig.graph, [x])[0])


# ---- how it is reached -----------------------------------------------------------------------------------------------
def kinds_of(graph, tmp_path, **forms) -> list[str]:
    """The operators that ONNX Runtime makes of the file in a default session."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(OnnxExporter().build(graph, **forms).model.SerializeToString(), options)
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def stored_as(graph, name, **forms) -> int:
    """ONNX' type of a stored constant."""
    (tensor,) = (t for t in OnnxExporter().build(graph, **forms).model.graph.initializer if t.name == name)
    return tensor.data_type


def extreme(inputs, shift, *, op="dense", out=c_graphs.S8, weight=127, bias=0):
    """A product whose sums pass 2**24, requantized by ``shift``: weights and inputs of both signs and full size."""
    builder = c_graphs.Builder((inputs,) if op == "dense" else (1, 1, inputs), c_graphs.S8(0))
    codes = np.full((inputs, 4), weight, np.int8) * np.int8([1, -1, 1, 1])
    codes[::2, 2] -= 1
    codes[1::2, 3] = -weight
    kernel = builder.graph.add_constant(
        "c/kernel", codes if op == "dense" else codes[None, None], QFormat(8, True, 0, narrow=True)
    )
    attrs = {} if op == "dense" else {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}
    product = builder.node(op, "c/product", builder.input, kernel, **attrs)
    value = builder.node(
        "bias_add", "c", product, builder.graph.add_constant("c/bias", np.int32([0, 1, bias, 3]), QFormat(32, True, 0))
    )
    return builder.finish(builder.node("requantize", "c_q", value, format=out(shift)))


def extreme_inputs(inputs, op="dense"):
    """Rows of extremes, rows that nearly cancel, and random ones, so that sums lie far beyond 2**24 and near every
    tie.
    """
    random = np.random.default_rng(inputs)
    signs = np.where(np.arange(inputs) % 2, -1, 1)
    rows = [
        np.full(inputs, 127), np.full(inputs, -128), 127 * signs, -128 * signs,
        *random.integers(-128, 128, (20, inputs)), *random.integers(60, 128, (20, inputs)),
        *(random.integers(90, 128, (20, inputs)) * signs)
    ]
    array = np.array(rows, np.float32)
    return [array if op == "dense" else array[:, None, None]]


@pytest.mark.parametrize("op", ["dense", "conv"])
@pytest.mark.parametrize("out", [c_graphs.S8, c_graphs.U8])
@pytest.mark.parametrize("shift", [12, 16, 17])
def test_bits_and_shift_decide(op, out, shift, tmp_path):
    """Up to 24 together the product is plain and exact in a default session; beyond, digits, which are exact in any
    session.
    """
    graph, inputs = extreme(4096, shift, op=op, out=out, bias=2**22), extreme_inputs(4096, op)
    expected = interpreter.run(graph, inputs, values=True)
    assert max(abs(int(expected["c"].min())), int(expected["c"].max())) > 2**25
    kinds = kinds_of(graph, tmp_path)
    assert ("Split" in kinds) == (shift > 16) and "MatMulNBits" not in kinds
    assert ("QGemm" in kinds or "QLinearConv" in kinds) == (shift <= 16)
    for optimize in (True, False) if shift > 16 else (True,):
        got = harness.OnnxModel(graph, optimize=optimize, show="codes").run_all(inputs)
        np.testing.assert_array_equal(got["c_q"], expected["c_q"])
    for optimize in (True, False):
        got = harness.OnnxModel(graph, optimize=optimize, show="codes", exact="anywhere").run_all(inputs)
        np.testing.assert_array_equal(got["c_q"], expected["c_q"])


def test_a_matmul_adds_its_bias_in_float(tmp_path):
    """Of rank 3 a dense product and its bias are two nodes: a large bias could bring a sum back that float32 has
    rounded.
    """
    for bias, plain in ((2**22, True), (-(2**24), False)):
        builder = c_graphs.Builder((2, 2048), c_graphs.S8(0))
        kernel = builder.graph.add_constant(
            "c/kernel", np.full((2048, 3), 127, np.int8), QFormat(8, True, 0, narrow=True)
        )
        value = builder.node("dense", "c/product", builder.input, kernel)
        value = builder.node(
            "bias_add", "c", value, builder.graph.add_constant("c/bias", np.int32([bias, 0, 1]), QFormat(32, True, 0))
        )
        graph = builder.finish(builder.node("requantize", "q", value, format=c_graphs.S8(15)))
        kinds = kinds_of(graph, tmp_path)
        assert ("Split" not in kinds) == plain and "MatMulNBits" not in kinds
        inputs = [np.random.default_rng(0).integers(40, 128, (30, 2, 2048)).astype(np.float32)]
        expected = interpreter.run(graph, inputs, values=True)
        got = harness.OnnxModel(graph, optimize=True, show="codes").run_all(inputs)
        np.testing.assert_array_equal(got["q"], expected["q"])


def test_without_optimizations_the_difference_is_bounded():
    """In floats the plain form may round; the bound is stated before anything runs, holds, and is not empty."""
    graph, inputs = extreme(4096, 6), extreme_inputs(4096)
    bounds = OnnxExporter().expected_difference(graph, session="plain")
    assert (
        set(bounds) == {"c", "c_q", "out"} and bounds["c"] == float_error(4096 * 128 * 127 + 3, 4097)
        and bounds["c_q"] == math.ceil(bounds["c"] / 64)
    )
    assert (
        OnnxExporter().expected_difference(graph, session="plain", exact="anywhere")
        == OnnxExporter().expected_difference(graph) == {}
    )
    expected = interpreter.run(graph, inputs, values=True)
    got = harness.OnnxModel(graph).run_all(inputs)
    differences = {name: int(np.abs(got[name] - expected[name].astype(np.int64)).max()) for name in ("c", "c_q")}
    assert 0 < differences["c"] <= bounds["c"] and differences["c_q"] <= bounds["c_q"]
    with pytest.raises(ValueError, match="default, plain"):
        OnnxExporter().expected_difference(graph, session="fast")


def test_weights_that_saturate_are_unsigned(tmp_path):
    """On x86 without VNNI pairs of products with int8 weights are added in 16 bits; the file does not let that
    happen.
    """
    codes = np.int8([[64, 127, -128, 3], [64, 1, 0, -4], [1, 1, 0, 0]])
    assert [may_saturate(codes[:, [c]], 1, 255) for c in range(4)] == [False, False, False, False]
    assert (
        may_saturate(np.int8([[65], [3], [64]]), 1, 255) and may_saturate(np.int8([[-65, -64]]), 0, 255)
        and not may_saturate(np.int8([[127], [-127]]), 1, 255)
    )
    assert (
        not may_saturate(np.full((9, 3), 127, np.int8), 1, 128) and may_saturate(np.full((9, 3), 127, np.int8), 1, 130)
        and not may_saturate(np.zeros((0, 3), np.int8), 1, 255)
    )
    for low, kind in ((-127, onnx.TensorProto.UINT8), (-20, onnx.TensorProto.INT8)):
        for op, window in (("conv", (3, 3)), ("dense", ())):
            builder = c_graphs.Builder((5, 4, 16) if window else (16,), c_graphs.U8(-8))
            graph = builder.finish(
                builder.conv(
                    builder.input, 8, "c", op=op, window=window,
                    kernel=builder.kernel("c/kernel", (*window, 16, 8), low=low, high=-low), out=c_graphs.U8(-4)
                )
            )
            assert (
                stored_as(graph, "c/kernel") == kind
                and stored_as(graph, "c/kernel", weights="int8") == onnx.TensorProto.INT8
            )
            inputs = c_graphs.real_inputs(graph, 6)
            expected = interpreter.run(graph, inputs, values=True)
            for forms in ({}, {"exact": "anywhere"}, {"weights": "int8"}):
                np.testing.assert_array_equal(
                    harness.OnnxModel(graph, optimize=True, show="codes", **forms).run_all(inputs)["c_q"],
                    expected["c_q"]
                )


@pytest.mark.parametrize(
    "format", [c_graphs.S8(-4), c_graphs.U8(-5), QFormat(4, False, -2), QFormat(5, True, -3)], ids=str
)
def test_limits_and_signs_do_not_keep_layers_in_float(format, tmp_path):
    """ReLU6, narrow codes and signed ones at the border: every product runs on int8 kernels."""
    builder = c_graphs.Builder((6, 5, 4), c_graphs.S8(-5))
    y = builder.conv(builder.input, 8, "a", out=format, low=0, high=min(format.qmax, 6 << -format.exponents[0]))
    y = builder.conv(y, 8, "b", op="depthwise_conv", out=format)
    y = builder.node("reshape", "f", builder.conv(y, 3, "c", window=(1, 1), out=c_graphs.S8(-3)), shape=(90,))
    graph = builder.finish(builder.conv(y, 5, "d", op="dense", window=(), out=c_graphs.S8(-2)))
    kinds = kinds_of(graph, tmp_path)
    assert (
        kinds.count("QLinearConv") == 3 and kinds.count("QGemm") == 1
        and not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(kinds)
    )
    inputs = c_graphs.real_inputs(graph, 5)
    expected = interpreter.run(graph, inputs, values=True)
    for forms in ({}, {"exact": "anywhere"}):
        got = harness.OnnxModel(graph, optimize=True, show="codes", **forms).run_all(inputs)
        for name in ("a_q", "b_q", "c_q", "f", "d_q"):
            np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(("signed", "shape"), [(True, (64,)), (False, (64,)), (True, (3, 64)), (False, (3, 64))])
def test_dense_layers_on_16_bit_codes(signed, shape, bits, tmp_path):
    """They have no int8 kernel, and what a default session makes of them otherwise rounds their inputs."""
    builder, most = c_graphs.Builder(shape, QFormat(16, signed, -10)), min(2 ** (bits - 1) - 1, 400)
    outputs = [
        builder.conv(
            builder.input, 7, name, op="dense", window=(),
            kernel=builder.kernel(f"{name}/kernel", (64, 7), bits=bits, low=-most, high=most), out=out,
            rounding=rounding
        )
        for name, out, rounding in (
            ("a", c_graphs.S8(-6), "half_even"), ("b", c_graphs.S16(-9), "half_up"),
            ("c", c_graphs.U16(-9), "half_even")
        )
    ]
    graph = builder.finish(*outputs)
    assert not {"MatMulNBits", "QGemm", "QLinearMatMul"} & set(kinds_of(graph, tmp_path))
    inputs = c_graphs.real_inputs(graph, 6)
    expected = interpreter.run(graph, inputs, values=True)
    for forms in ({}, {"exact": "anywhere"}, {"weights": "int8"}):
        got = harness.OnnxModel(graph, optimize=True, show="codes", **forms).run_all(inputs)
        for name in ("x_q", *outputs):
            np.testing.assert_array_equal(got[name], expected[name])


def test_a_network_behind_rescaling():
    """Byte images, rescaled with and without an offset, ReLU6, a wide flattened layer: every form in its session."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(3).integers(0, 256, (20, 24, 24, 3)).astype(np.float32)
    for rescaling in (layers.Rescaling(1 / 255), layers.Rescaling(1 / 127.5, -1)):
        inputs = keras.Input((24, 24, 3))
        y = layers.Conv2D(24, 3, strides=2, padding="same")(rescaling(inputs))
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(y)
        model = keras.Model(inputs, layers.Dense(7)(layers.Flatten()(y)))
        q = graffiti.quantize(model, "int8", calibration=x, progress=False)
        report = graffiti.verify(q, graffiti.to_integer(q), x, ["onnx", "onnx:anywhere"], progress=False)
        assert report.ok and {"onnx:plain", "onnx:optimized", "onnx:anywhere"} < set(report.targets), str(report)
        assert not [b for b in report.bounds if b.target != "onnx:plain"]


def test_words_are_checked():
    for forms, words in (({"exact": "never"}, "runtime, anywhere"), ({"weights": "int4"}, "auto, int8")):
        with pytest.raises(ValueError, match=words):
            OnnxExporter().build(c_graphs.relu_case(), **forms)
