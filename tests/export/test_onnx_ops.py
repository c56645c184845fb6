"""The ONNX export at every optimization level of ONNX Runtime, where floats could go wrong, and its forms.

Ops in the sessions of users: ``executors/test_contract.py``.
"""

from __future__ import annotations

import itertools
import json

import c_graphs
import contract
import numpy as np
import pytest
import random_graphs

pytest.importorskip("onnx", reason="needs onnx: pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")

import onnx  # noqa: E402

from graffiti.export.onnx import harness, ranges  # noqa: E402
from graffiti.export.onnx.exporter import OnnxExporter  # noqa: E402
from graffiti.export.onnx.products import digit_bits  # noqa: E402
from graffiti.graph import interpreter  # noqa: E402
from graffiti.graph.ir import TensorType  # noqa: E402
from graffiti.graph.verify import verify_graph  # noqa: E402
from graffiti.numerics.formats import QFormat  # noqa: E402

# precise: another set of int8 kernels on CPUs without VNNI
LEVELS = [
    (getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}"), precise)
    for name, precise in (
        ("DISABLE_ALL", "0"), ("ENABLE_BASIC", "0"), ("ENABLE_EXTENDED", "1"), ("ENABLE_ALL", "0"), ("ENABLE_ALL", "1")
    )
]


def assert_equal(graph, inputs):
    """All tensors as exported, the codes of the optimized graph, and the outputs of the very file at every level."""
    expected = interpreter.run(graph, inputs, values=True)
    everything = harness.OnnxModel(graph).run_all(inputs)
    contract.assert_equal(graph, everything, expected, "plain")
    fused = {n.inputs[0] for n in graph.nodes if n.op == "bias_add" and n.inputs[0] not in everything}
    assert {n.output for n in graph.nodes} - set(everything) == fused, "only a product that took its bias has no tensor"
    optimized = harness.OnnxModel(graph, optimize=True, show="codes").run_all(inputs)
    contract.assert_equal(graph, optimized, expected, "optimized")
    exported = OnnxExporter().build(graph)
    data, feeds = exported.model.SerializeToString(), harness.feeds(graph, inputs, exported)
    for level, precise in LEVELS:
        options = harness.session_options(True)
        options.graph_optimization_level = level
        options.add_session_config_entry("session.x64quantprecision", precise)
        outputs = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        ).run(exported.outputs, feeds)
        assert [output.dtype for output in outputs] == [expected[name].dtype for name in graph.outputs]
        got = {**everything, **dict(zip(graph.outputs, outputs))}
        contract.assert_equal(graph, got, expected, f"{level}, precise={precise}")
    return exported


@pytest.mark.parametrize("case", c_graphs.cover())
def test_op_at_every_level(case):
    graph = c_graphs.CASES[case]()
    assert_equal(graph, c_graphs.real_inputs(graph, 3))


@pytest.mark.parametrize("seed", range(8))
def test_random_network_at_every_level(seed):
    network, graph = c_graphs.random_network(seed), random_graphs.random_graph(seed)
    assert_equal(network, c_graphs.real_inputs(network, 2, seed))
    assert_equal(graph, [random_graphs.images(graph, 2, seed)])


def test_resnet8_runs_on_int8_kernels(tmp_path):
    """The QDQ form is what ONNX Runtime recognizes: nine convolutions, three sums and the dense layer in int8, with
    equal integers.
    """
    graph = c_graphs.resnet8()
    inputs = c_graphs.real_inputs(graph, 6)
    assert_equal(graph, inputs)
    options = harness.session_options(True)
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        OnnxExporter().build(graph).model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == 9 and kinds.count("QLinearAdd") == 3 and kinds.count("QGemm") == 1
    assert (
        harness.OnnxModel(graph).run(inputs)[0].argmax(-1).tolist()
        == interpreter.run(graph, inputs)[0].argmax(-1).tolist()
    )


# ---- where floats could go wrong -------------------------------------------------------------------------------------
def test_all_pairs_of_codes_through_the_sum():
    """Every pair of int8 codes, so every tie; ONNX Runtime's own int8 sum included."""
    a, b = (v.reshape(-1, 256).astype(np.float32) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    for op, shift in itertools.product(("add", "subtract"), (1, 2, 3)):
        builder = c_graphs.Builder((256,), c_graphs.S8(0))
        other = builder.add_input((256,), c_graphs.S8(0), "y")
        graph = builder.finish(
            builder.node("requantize", "q", builder.node(op, "sum", builder.input, other), format=c_graphs.S8(shift))
        )
        assert_equal(graph, [a, b])


@pytest.mark.parametrize("rounding", c_graphs.ROUNDINGS)
def test_every_16_bit_code_at_every_shift(rounding):
    codes = np.arange(-(2**15), 2**15, dtype=np.float32)[None]
    builder = c_graphs.Builder((codes.shape[1],), c_graphs.S16(0), name=rounding)
    outputs = [
        builder.node(
            "requantize", f"q{i}", builder.input, format=QFormat(8, bool(i % 2), shift), rounding=rounding,
            low=0 if i % 3 == 0 else None
        )
        for i, shift in enumerate((*range(-9, 20), 31, 33, 62, 80))
    ]
    graph = builder.graph
    graph.outputs = outputs
    expected = interpreter.run(graph, [codes])
    for optimize in (False, True):
        for want, got, name in zip(expected, harness.OnnxModel(graph, optimize=optimize).run([codes]), outputs):
            np.testing.assert_array_equal(want, got, err_msg=f"{rounding} {name} optimize={optimize}")


@pytest.mark.parametrize("rounding", c_graphs.ROUNDINGS)
def test_border_of_any_float(rounding):
    """Ties, their neighbours, subnormals, infinities and the largest floats at the border."""
    ties = np.arange(-300, 301, dtype=np.float32) / 2
    values = np.concatenate(
        [
            ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf)),
            ties * np.float32(1e30), ties * np.float32(1e-44)
        ]
    )
    values = np.concatenate([values, np.float32([np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38])])[None]
    for format in (
        c_graphs.S8(0), c_graphs.U8(3), c_graphs.S16(-5), QFormat(4, False, 0), QFormat(8, True, 0, narrow=True),
        c_graphs.S8(-90), c_graphs.S8(90)
    ):
        builder = c_graphs.Builder((values.shape[1],), format)
        builder.graph.nodes[0].attrs["rounding"] = rounding
        graph = builder.finish(builder.input)
        assert_equal(graph, [values])


@pytest.mark.parametrize("shift", [4, 9, 12, 17])
def test_accumulators_up_to_two_to_the_24(shift):
    """Biases put the accumulators all over ±2**24, ties among them; ONNX Runtime's int8 product must round them the
    same.
    """
    count, limit = 4096, 2**24 - 2**18
    bias = np.linspace(-limit, limit, count).astype(np.int64)
    bias[::3] = (bias[::3] >> shift << shift) + (1 << (shift - 1))  # ties, where the product is 0
    inputs = np.concatenate([np.zeros((1, 2)), np.random.default_rng(0).integers(-128, 128, (7, 2))]).astype(np.float32)
    for format in (QFormat(8, True, shift), QFormat(8, False, shift), QFormat(16, True, shift)):
        builder = c_graphs.Builder((2,), c_graphs.S8(0))
        product = builder.node(
            "dense", "c/product", builder.input, builder.kernel("c/kernel", (2, count), exponent=0, low=-127, high=127)
        )
        value = builder.node(
            "bias_add", "c", product, builder.graph.add_constant("c/bias", bias.astype(np.int32), QFormat(32, True, 0))
        )
        graph = builder.finish(builder.node("requantize", "q", value, format=format))
        assert not ranges.is_wide(ranges.code_ranges(graph)["c"])
        assert_equal(graph, [inputs])


@pytest.mark.parametrize(("inputs", "wide"), [(1032, False), (1033, True), (40000, True)])
def test_dense_at_the_bound_of_float32(inputs, wide):
    """Just within 2**24 the product is one float32 node; beyond, digits in float64, exact with every code at its
    extreme.
    """
    builder = c_graphs.Builder((inputs,), c_graphs.S8(0))
    kernel = builder.graph.add_constant(
        "c/kernel", np.full((inputs, 3), 127, np.int8) * np.int8([1, -1, 1]), QFormat(8, True, 0, narrow=True)
    )
    builder.graph.constants[kernel][::2, 2] -= 1  # odd and even sums
    product = builder.node("dense", "c/product", builder.input, kernel)
    value = builder.node(
        "bias_add", "c", product, builder.graph.add_constant("c/bias", np.int32([0, 1, 2]), QFormat(32, True, 0))
    )
    graph = builder.finish(
        value, builder.node("requantize", "c_q", value, format=QFormat(16, True, 11)),
        builder.node("requantize", "c_u", value, format=QFormat(8, False, 15))
    )
    kinds = [node.op_type for node in OnnxExporter().build(graph).model.graph.node]
    assert ("Split" in kinds) == wide == ranges.is_wide(ranges.code_ranges(graph)["c"]) and kinds.count("Gemm") == 1
    random = np.random.default_rng(1)
    rows = [
        np.full(inputs, -128), np.full(inputs, 127), np.where(np.arange(inputs) % 2, 127, -128),
        random.integers(-128, 128, inputs), np.full(inputs, 127) - np.eye(1, inputs)[0]
    ]
    assert_equal(graph, [np.array(rows, np.float32)])


def test_digits_are_as_few_as_needed():
    assert digit_bits(128, 2**17) == 8 and digit_bits(255, 2**16) == 8
    for top, sums in itertools.product(
        (1, 3, 127, 128, 255, 32767, 32768, 65535), (1, 100, 2**12, 2**16 - 1, 2**20, 2**23)
    ):
        bits = digit_bits(top, sums)
        if bits == 0:
            assert sums * 2 > ranges.EXACT
        elif top * sums > ranges.EXACT:
            assert sums << bits <= ranges.EXACT and bits < top.bit_length()
    assert digit_bits(255, 2**24) == 0


def test_wide_values_through_every_move():
    """Accumulators beyond 2**24 travel in float64 through pools, moves, sums and ReLU."""
    b = c_graphs.Builder((5, 4, 6), c_graphs.S16(0))
    g = b.graph
    acc = b.node(
        "conv", "c", b.input, b.kernel("k", (3, 3, 6, 4), exponent=0), strides=(1, 1), padding="same", dilation=(1, 1)
    )
    assert ranges.is_wide(ranges.code_ranges(g)["c"])
    values = [
        acc, b.node("relu", "r", acc), b.node("relu", "r6", acc, max_code=2**25 + 1),
        b.node("max_pool", "m", acc, pool_size=(2, 2), strides=(2, 1), padding="same"),
        b.node("upsample", "u", acc, size=(2, 3)), b.node("pad", "p", acc, pads=((1, 0), (0, 2), (1, 1))),
        b.node("crop", "s", acc, crops=((1, 0), (0, 2), (1, 0))), b.node("permute", "t", acc, dims=(3, 1, 2)),
        b.node("reshape", "f", acc, shape=(80,)), b.node("concat", "j", acc, acc, axis=1),
        b.node("global_max_pool", "g", acc, axes=(1, 2)),
        b.node("requantize", "q32", acc, format=QFormat(32, True, 3), rounding="half_up"),
        b.node("requantize", "q20", acc, format=QFormat(20, True, 4))
    ]
    floats = [b.node("dequantize", f"{v}/float", v) for v in values]
    codes = [b.node("requantize", f"{v}/codes", v, format=c_graphs.S8(20)) for v in values]
    g.outputs = [*values, *floats, *codes]
    verify_graph(g)
    assert_equal(g, c_graphs.real_inputs(g, 3))


def test_ort_melts_bare_pairs_and_ours_keep_apart():
    """What the Round between two quantizers is for: without it ONNX Runtime makes one pair out of two."""
    builder = c_graphs.Builder((401,), c_graphs.S8(-2))
    graph = builder.finish(
        builder.node(
            "requantize", "r", builder.node("requantize", "q", builder.input, format=c_graphs.S8(-1)),
            format=c_graphs.S8(0)
        )
    )
    inputs = [np.linspace(-40, 40, 401, dtype=np.float32)[None]]
    exported = assert_equal(graph, inputs)
    kinds = [node.op_type for node in exported.model.graph.node]
    assert kinds.count("Round") == 2 and kinds.count("QuantizeLinear") == 3
    bare = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]> g (float[401] x) => (float[401] y)
        <float fine = {0.25}, float coarse = {1.0}, int8 zero = {0}> {
        a = QuantizeLinear(x, fine, zero)  b = DequantizeLinear(a, fine, zero)
        c = QuantizeLinear(b, coarse, zero)  y = DequantizeLinear(c, coarse, zero) }""")
    plain, optimized = (
        onnxruntime.InferenceSession(
            bare.SerializeToString(), harness.session_options(o), providers=["CPUExecutionProvider"]
        ).run(None, {"x": inputs[0][0]})[0]
        for o in (False, True)
    )
    if np.array_equal(plain, optimized):
        pytest.skip("this ONNX Runtime no longer melts pairs of different scales; the Round is not needed for it")


# ---- forms -----------------------------------------------------------------------------------------------------------
def test_narrow_weights_are_int4_tensors():
    for format, kind in (
        (QFormat(4, True, -3), onnx.TensorProto.INT4),
        (QFormat(3, True, (-3, -4, -2, -5, -3), narrow=True), onnx.TensorProto.INT4),
        (QFormat(4, False, -3), onnx.TensorProto.UINT4), (QFormat(5, True, -3), onnx.TensorProto.INT8)
    ):
        builder, x = c_graphs._unary((7, 6, 4))
        op = "conv" if format.signed else "depthwise_conv"
        kernel = builder.constant("c/kernel", (3, 3, 4, 5 if format.signed else 1), format)
        graph = builder.finish(
            builder.conv(x, 5 if format.signed else 4, "c", op=op, kernel=kernel, out=c_graphs.S8(-4))
        )
        exported = assert_equal(graph, c_graphs.real_inputs(graph, 3))
        (stored,) = (t for t in exported.model.graph.initializer if t.name == "c/kernel")
        assert stored.data_type == kind
        assert len(stored.raw_data) == (90 if format.signed else 18) or format.bits == 5, "two codes to a byte"


def test_types_and_shapes_are_those_of_the_graph():
    for graph in (
        c_graphs.resnet8(), c_graphs.random_network(3), c_graphs.moves_case(),
        c_graphs.per_channel_case("conv_transpose")
    ):
        exported = OnnxExporter().build(graph, show="all")
        onnx.checker.check_model(exported.model, full_check=True)
        body = onnx.shape_inference.infer_shapes(
            exported.model, check_type=True, strict_mode=True, data_prop=True
        ).graph
        shapes = {
            v.name: [d.dim_value or None for d in v.type.tensor_type.shape.dim]
            for v in (*body.output, *body.value_info)
        }
        for name, tensor in exported.tensors.items():
            if name not in graph.inputs:
                shape = list(graph.shape(name))
                assert shapes[tensor.name] == (shape if tensor.last else [shape[0], shape[-1], *shape[1:-1]])
        assert all(output.name in shapes and None not in shapes[output.name][1:] for output in body.output)
        formats = json.loads(next(p.value for p in exported.model.metadata_props if p.key == "graffiti.formats"))
        assert formats == {n: str(graph.format(n)) for n in exported.tensors if graph.format(n) is not None}


def test_unknown_image_sizes():
    builder, _ = c_graphs._unary((None, None, 3))
    y = builder.conv(builder.input, 8, "c", strides=(2, 2), out=c_graphs.S8(-3))
    y = builder.node("max_pool", "m", y, pool_size=(3, 3), strides=(2, 2), padding="same")
    y = builder.node(
        "crop", "s",
        builder.node(
            "upsample", "u", builder.conv(y, 8, "d", op="conv_transpose", strides=(2, 2), out=c_graphs.S8(-1)),
            size=(2, 2)
        ),
        crops=((0, 1), (1, 0), (0, 0))
    )
    graph = builder.finish(builder.node("global_max_pool", "g", y, axes=(1, 2)), y)
    model = harness.OnnxModel(graph)
    for size in ((11, 14), (20, 9)):
        inputs = [(np.random.default_rng(2).normal(size=(2, *size, 3))).astype(np.float32)]
        expected = interpreter.run(graph, inputs, values=True)
        contract.assert_equal(graph, model.run_all(inputs), expected, "dynamic")


def test_odd_names_and_outputs():
    """Names of any script, one value returned twice, an input and codes returned."""
    builder = c_graphs.Builder((5, 4, 6), name="größe 1/β")
    y = builder.conv(builder.input, 3, "層 1: é")
    graph = builder.finish(y)
    graph.outputs += [graph.outputs[0], "x", y, "x_q", graph.outputs[0]]
    model = harness.OnnxModel(graph)
    inputs = c_graphs.real_inputs(graph, 2)
    expected = interpreter.run(graph, inputs)
    assert (
        len(set(model.exported.outputs)) == 6 and model.exported.outputs[0] == "out" and model.exported.outputs[3] == y
    )
    for want, got in zip(expected, model.run(inputs), strict=True):
        assert want.dtype == got.dtype
        np.testing.assert_array_equal(want, got)


def test_one_kernel_in_two_layers():
    builder = c_graphs.Builder((6,))
    other = builder.add_input((6,), c_graphs.S8(-7), "y")
    kernel = builder.kernel("shared/kernel", (6, 6))
    graph = builder.finish(
        *(
            builder.conv(v, 6, f"d{i}", op="dense", window=(), kernel=kernel)
            for i, v in enumerate((builder.input, other))
        )
    )
    assert_equal(graph, c_graphs.real_inputs(graph, 5))


def test_inputs_of_codes():
    builder = c_graphs.Builder((6, 5, 3), c_graphs.U8(-8))
    graph = builder.finish(builder.conv(builder.input, 4, "c"))
    graph.nodes, graph.inputs = graph.nodes[1:], ["x_q"]
    del graph.types["x"]
    graph.types["x_q"] = TensorType((None, 6, 5, 3), c_graphs.U8(-8))
    assert_equal(graph, [np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)])
