"""The LiteRT file: what is in it, for which kernels, and how close the exporter says they come.

Ops in each of them: ``executors/test_contract.py``.
"""

from __future__ import annotations

import c_graphs
import numpy as np
import pytest
from contract import assert_equal
from engines import MICRO

pytest.importorskip("ai_edge_litert")

from graffiti.export import EXPORTERS, difference, get
from graffiti.export.base import ExportError
from graffiti.export.litert.flatbuffer import schema
from graffiti.export.litert.layout import layout_of
from graffiti.export.litert.program import build
from graffiti.export.litert.runner import LiteRTModel, interpreter
from graffiti.graph import interpreter as oracle
from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat

EXPORTER = EXPORTERS["litert"]
S8, U8, S16 = QFormat(8, True, -7), QFormat(8, False, -8), QFormat(16, True, -12)


def inputs_of(graph: Graph, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    spread = 3 if seed else 0.7
    return [(rng.normal(size=(count, *graph.shape(name)[1:])) * spread).astype(np.float32) for name in graph.inputs]


def compare(graph: Graph, runtime: str, arrays, arithmetic: str = "int8") -> dict[str, int]:
    """Tensor → worst difference in steps; each within what the exporter expects."""
    model = LiteRTModel(graph, runtime, arithmetic=arithmetic)
    expected = EXPORTER.expected_difference(graph, runtime=runtime, arithmetic=arithmetic)
    worst = assert_equal(graph, model.run_all(arrays), oracle.run(graph, arrays, values=True), runtime, expected)
    kinds = ("quantize", "requantize", "lookup", "max_pool", "concat")
    stored = {node.output for node in graph.nodes if node.op in kinds}
    assert stored <= set(worst), "tensors that LiteRT stores were not compared"
    return worst


def test_what_litert_cannot_hold_is_refused(tmp_path):
    """What cannot be written, case by case: ``executors/test_contract.py``."""
    with pytest.raises(ExportError, match="u16"):
        EXPORTER.write(c_graphs.wide_case(), tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_all_problems_are_listed_before_anything_is_written(tmp_path):
    b = c_graphs.Builder((4, 4, 3), S8)
    wide = b.node("requantize", "wide", b.input, format=QFormat(16, False, -12))
    away = b.node("requantize", "away", b.input, format=QFormat(8, True, -5), rounding="half_away")
    attrs = {"layer": {}, "output_shapes": ((None, 4, 4, 3),), "reason": "it is a LayerNormalization"}
    b.graph.insert("island", [b.node("dequantize", "real", b.input)], "norm", attrs)
    graph = b.finish(wide, away)
    graph.outputs.append("norm")
    assert {problem.layer for problem in EXPORTER.supports(graph)} == {"wide", "away", "norm"}
    with pytest.raises(ExportError, match="3 layers"):
        EXPORTER.write(graph, tmp_path / "net.tflite")
    assert not list(tmp_path.iterdir())


def test_other_stages_and_options_are_refused(tmp_path):
    with pytest.raises(ExportError, match="lower it"):
        EXPORTER.write(Graph("float", name="f"), tmp_path / "f.tflite")
    graph = c_graphs.conv_case()
    with pytest.raises(ValueError, match="border"):
        EXPORTER.write(graph, tmp_path / "f.tflite", border="bits")
    with pytest.raises(ValueError, match="runtime"):
        EXPORTER.expected_difference(graph, runtime="gpu")
    empty = c_graphs.conv_case()
    empty.types["x"] = TensorType((None, 0, 6, 4))
    assert any(problem.layer == "x" for problem in EXPORTER.supports(empty))


def test_the_file_is_whole_deterministic_and_not_overwritten(tmp_path):
    graph, path = c_graphs.conv_case(), tmp_path / "net.tflite"
    assert get("litert").write(graph, path) == [path]
    data = path.read_bytes()
    assert data[4:8] == b"TFL3" and data == EXPORTER.program(c_graphs.conv_case()).data
    with pytest.raises(FileExistsError):
        EXPORTER.write(graph, path)
    EXPORTER.write(c_graphs.moves_case(), path, overwrite=True)
    assert path.read_bytes() != data and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ExportError):
        EXPORTER.write(c_graphs.wide_case(), path, overwrite=True)
    assert path.read_bytes() == EXPORTER.program(c_graphs.moves_case()).data


def residual() -> Graph:
    """Two convolutions that meet in a sum: ReLU, ReLU6, signed and unsigned, one scale per channel, a pool and a
    dense layer.
    """
    b = c_graphs.Builder((8, 8, 3), S8, name="résidu")
    x = b.conv(b.input, 8, "a", out=QFormat(8, False, -5), low=0, high=192)
    kernel = b.constant("b/kernel", (3, 3, 8, 8), QFormat(8, True, (-7, -8, -6, -7, -9, -7, -7, -8), True))
    y = b.conv(x, 8, "b", kernel=kernel, out=QFormat(8, False, -3), low=0)
    z = b.conv(x, 8, "c", out=QFormat(8, False, -3), window=(1, 1))
    s = b.node("requantize", "s_q", b.node("add", "s", y, z), format=QFormat(8, False, -2))
    reciprocal = b.graph.add_constant("p/reciprocal", np.full((8, 8, 8, 1), 255, np.uint8), QFormat(8, False, -14))
    p = b.node("depthwise_conv", "p", s, reciprocal, strides=(8, 8), padding="valid", dilation=(1, 1))
    p = b.node("requantize", "p_q", p, format=QFormat(8, False, -2), rounding="floor")
    d = b.conv(b.node("reshape", "flat", p, shape=(8,)), 5, "d", op="dense", window=())
    r = b.node("dequantize", "out", d)
    b.graph.outputs = [b.node("softmax", "softmax", r), r]
    return b.graph


def test_what_is_in_the_file():
    graph = residual()
    model = schema().ModelT.InitFromPackedBuf(bytearray(EXPORTER.program(graph).data), 0)
    (sub,) = model.subgraphs
    tensors = {tensor.name.decode(): tensor for tensor in sub.tensors}
    for name, tensor in tensors.items():
        scales = None if tensor.quantization is None else tensor.quantization.scale
        for scale in () if scales is None else scales:
            if not name.startswith("p/"):
                assert np.frexp(scale)[0] == 0.5, f"{name}: {scale} is no power of two"
    for name in ("a_q", "b_q", "s_q", "d_q"):
        format, quantization = graph.format(name), tensors[name].quantization
        assert quantization.scale.tolist() == [2.0 ** format.exponents[0]]
        assert quantization.zeroPoint.tolist() == [0 if format.signed else -128]
        assert tensors[name].type == schema().TensorType.INT8 and tensors[name].shapeSignature[0] == -1
    assert tensors["b/kernel"].quantization.scale.tolist() == [2.0**e for e in (-7, -8, -6, -7, -9, -7, -7, -8)]
    assert tensors["a/bias"].type == schema().TensorType.INT32
    codes = np.frombuffer(bytes(model.buffers[tensors["a/bias"].buffer].data), np.int32)
    np.testing.assert_array_equal(codes, graph.constants["a/bias"])
    names = {getattr(schema().BuiltinOperator, n): n for n in vars(schema().BuiltinOperator) if n.isupper()}
    kinds = [names[model.operatorCodes[op.opcodeIndex].builtinCode] for op in sub.operators]
    assert (
        kinds
        == [
            "QUANTIZE", "CONV_2D", "CONV_2D", "CONV_2D", "CONCATENATION", "DEPTHWISE_CONV_2D", "DEPTHWISE_CONV_2D",
            "RESHAPE", "FULLY_CONNECTED", "DEQUANTIZE", "SOFTMAX"
        ]
    )
    fused = [op.builtinOptions.fusedActivationFunction for op in sub.operators[1:4]]
    activation = schema().ActivationFunctionType
    assert fused == [activation.RELU6, activation.RELU, activation.RELU]
    assert [t.name.decode() for t in model.signatureDefs[0].inputs] == ["x"]
    assert [t.name.decode() for t in model.signatureDefs[0].outputs] == ["softmax", "out"]


@pytest.mark.parametrize("runtime", ["xnnpack", "builtin"])
def test_one_file_for_every_batch_size(runtime):
    graph = residual()
    model = interpreter(EXPORTER.program(graph).data, runtime)
    run = model.get_signature_runner()
    (x,) = inputs_of(graph, 7)
    all_at_once, exact = LiteRTModel(graph, runtime).run([x])[1], oracle.run(graph, [x])[1]
    for size in (1, 3, 7):
        np.testing.assert_array_equal(run(x=x[:size])["out"], all_at_once[:size])
    if runtime == "xnnpack":
        np.testing.assert_array_equal(all_at_once, exact)


@pytest.mark.parametrize(
    "runtime, arithmetic", [("xnnpack", "int8"), *((runtime, "half_up") for runtime in ("builtin", *MICRO))]
)
def test_codes_in_and_out(runtime, arithmetic):
    graph = rounding_half_up(residual()) if arithmetic == "half_up" else residual()
    program = EXPORTER.program(graph, border="codes", arithmetic=arithmetic)
    assert not {"DEQUANTIZE", "SOFTMAX"} & set(program.operators)
    model = interpreter(program.data, runtime)
    (detail,) = model.get_input_details()
    assert detail["dtype"] == np.int8 and detail["quantization"] == (2.0**-7, 0)
    (x,) = inputs_of(graph, 4)
    reference = oracle.run(graph, [x], values=True)
    model.resize_tensor_input(detail["index"], (4, 8, 8, 3))
    model.allocate_tensors()
    model.set_tensor(detail["index"], reference["x_q"])
    model.invoke()
    for output in model.get_output_details():  # the same codes twice: two outputs of one tensor
        array = model.get_tensor(output["index"])
        assert array.dtype == np.int8
        np.testing.assert_array_equal(array, reference["d_q"])
    assert len(model.get_output_details()) == 2


def test_native_sums_are_smaller_and_one_step_off():
    graph = residual()
    exact, native = EXPORTER.program(graph), EXPORTER.program(graph, arithmetic="native")
    assert "ADD" in native.operators and len(native.operators) < len(exact.operators)
    assert EXPORTER.expected_difference(graph) == {}
    expected = EXPORTER.expected_difference(graph, arithmetic="native")
    assert expected["s_q"] == 1 and "a_q" not in expected
    worst = compare(graph, "xnnpack", inputs_of(graph, 20), "native")
    assert worst["s_q"] == 1 and worst["b_q"] == worst["c_q"] == 0


TAKEN = [name for name in c_graphs.cover() if not EXPORTER.supports(c_graphs.CASES[name]())]


@pytest.mark.parametrize("runtime", ["xnnpack", *MICRO])
@pytest.mark.parametrize("name", TAKEN)
def test_float32_is_equal_in_every_kernel(name, runtime):
    """The builtin ones run every case in ``executors/test_contract.py``."""
    graph = c_graphs.CASES[name]()
    assert not any(compare(graph, runtime, inputs_of(graph, 3), "float32").values())


def rounding_half_up(graph: Graph) -> Graph:
    """The same graph with every tie of a requantize rounded up."""
    for node in graph.nodes:
        if node.op == "requantize" and node.attrs.get("rounding", "half_even") == "half_even":
            node.attrs["rounding"] = "half_up"
    return graph


def test_half_up_stays_int8_and_is_equal_in_the_builtin_kernels():
    graph = rounding_half_up(residual())
    program = EXPORTER.program(graph, arithmetic="half_up")
    assert (
        program.operators.count("CONV_2D") == 3 and program.operators.count("DEPTHWISE_CONV_2D") == 2
        and "FULLY_CONNECTED" in program.operators
    )
    assert (
        program.layouts["b_q"].dtype == "int8"
        and EXPORTER.expected_difference(graph, runtime="builtin", arithmetic="half_up") == {}
    )
    assert not any(compare(graph, "builtin", inputs_of(graph, 40), "half_up").values())
    assert not any(compare(graph, "builtin", inputs_of(graph, 20, seed=1), "half_up").values())
    # XNNPACK rounds to even, and the exporter says so
    assert "a_q" in EXPORTER.expected_difference(graph, arithmetic="half_up")
    compare(graph, "xnnpack", inputs_of(graph, 20), "half_up")
    # in float32 there
    assert (
        EXPORTER.expected_difference(graph) == {} and not any(compare(graph, "xnnpack", inputs_of(graph, 20)).values())
    )
    even = residual()
    # what does not round half up is computed in float32
    assert not any(compare(even, "builtin", inputs_of(even, 20), "half_up").values())


@pytest.mark.parametrize("name", c_graphs.CASES)
def test_every_op_that_rounds_half_up_is_int8_and_equal_in_the_builtin_kernels(name):
    graph = rounding_half_up(c_graphs.CASES[name]())
    try:
        program = EXPORTER.program(graph, arithmetic="half_up")
    except ExportError as error:
        assert str(error) and EXPORTER.supports(graph), "refused in half_up alone"
        return
    assert name == "multiply_column" or not program.inexact["builtin"]
    compare(graph, "builtin", inputs_of(graph, 5), "half_up")


@pytest.mark.skipif(not MICRO, reason="needs tflite-micro")
def test_what_microcontrollers_lack_is_one_sentence():
    with pytest.raises(
        RuntimeError, match="LiteRT for Microcontrollers does not take the file: it lacks an operator or a type"
    ):
        LiteRTModel(c_graphs.CASES["lookup_u8_to_s16"](), "micro", arithmetic="half_up")


@pytest.mark.parametrize(
    "op, options", [("depthwise_conv", {}), ("conv", {"groups": 2}), ("conv", {})], ids=["depthwise", "grouped", "conv"]
)
@pytest.mark.parametrize("exponent", [-7, (-7, -9, -3, -8)], ids=["tensor", "channel"])
def test_linear_layers_are_lifted(op, options, exponent):
    """Some kernels take negative ties away from zero: every accumulator of an output that is not saturated is
    positive there.
    """
    for low in (None, 0):
        b = c_graphs.Builder((6, 6, 4), S8)
        shape = (3, 3, 4, 1) if op == "depthwise_conv" else (3, 3, 4 // options.get("groups", 1), 4)
        kernel = b.constant("a/kernel", shape, QFormat(8, True, exponent, True))
        graph = rounding_half_up(
            b.finish(b.conv(b.input, 4, "a", op=op, kernel=kernel, out=QFormat(8, True, -4), low=low, **options))
        )
        operators = EXPORTER.program(graph, arithmetic="half_up").operators
        assert "FLOOR" not in operators and operators.count("RESHAPE") == (low is None)
        for runtime in ("builtin", *MICRO):
            assert not any(compare(graph, runtime, inputs_of(graph, 200), "half_up").values())


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "floor"])
@pytest.mark.parametrize("shift", [1, 2, 4])
def test_sums_and_requantizes_of_all_codes(rounding, shift):
    """All 2**16 pairs of codes: half up and down are equal in every kernel, half to even in XNNPACK."""
    b = c_graphs.Builder((2, 1), QFormat(8, True, 0))
    x, y = (b.node("crop", f"half_{i}", b.input, crops=((i, 1 - i), (0, 0))) for i in (0, 1))
    out = QFormat(8, True, shift)
    graph = b.finish(*(b.node("requantize", f"{n}_q", value, format=out, rounding=rounding) for n, value in (
        ("add", b.node("add", "add", x, y)), ("subtract", b.node("subtract", "subtract", x, y)), ("one", x))))
    codes = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1).reshape(-1, 2, 1).astype(np.float32)
    for runtime, arithmetic in (
        ("xnnpack", "int8"), ("builtin", "half_up"), *([("builtin", "int8")] if rounding != "half_even" else [])
    ):
        expected = EXPORTER.expected_difference(graph, runtime=runtime, arithmetic=arithmetic)
        assert not expected or "x_q" in expected  # from the float border, whose ties these inputs do not hit
        worst = compare(graph, runtime, [codes], arithmetic)
        assert not any(worst.values()), (runtime, arithmetic, worst)


def test_float32_keeps_int8_weights_and_tensors():
    graph = residual()
    program = EXPORTER.program(graph, arithmetic="float32")
    model = schema().ModelT.InitFromPackedBuf(bytearray(program.data), 0)
    constants = [t for t in model.subgraphs[0].tensors if model.buffers[t.buffer].data is not None]
    codes = {t.name.decode() for t in constants if t.type == schema().TensorType.INT8}
    assert {"a/kernel", "b/kernel", "c/kernel", "d/kernel"} <= codes and program.layouts["b_q"].dtype == "int8"
    # the pool's reciprocal, of 8 bits unsigned
    assert max(np.prod(t.shape) for t in constants if t.type == schema().TensorType.FLOAT32) == 8 * 8 * 8
    assert EXPORTER.expected_difference(graph, runtime="builtin", arithmetic="float32") == {}
    assert not any(compare(graph, "builtin", inputs_of(graph, 40), "float32").values())
    with pytest.raises(ValueError, match="float32"):
        EXPORTER.program(graph, arithmetic="double")


def test_sixteen_bit_activations():
    """16-bit tensors between 16-bit products run in LiteRT's int16 kernels, which round ties up."""
    b = c_graphs.Builder((6, 6, 3), S16)
    x = b.conv(b.input, 6, "a", out=QFormat(16, True, -12))
    x = b.node("requantize", "r_q", x, format=QFormat(15, False, -12), low=0, high=30000)
    graph = b.finish(b.conv(x, 4, "b", window=(1, 1), out=QFormat(16, True, -10)))
    assert layout_of(graph.format("a_q")).dtype == "int16"
    program = EXPORTER.program(graph)
    assert program.operators.count("CONV_2D") == 2
    expected = EXPORTER.expected_difference(graph)
    assert expected["a_q"] == 1 and "x_q" not in expected
    for runtime in ("xnnpack", "builtin"):
        compare(graph, runtime, inputs_of(graph, 30))


@pytest.mark.parametrize("op", ["conv", "depthwise_conv", "conv_transpose", "dense"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_sixteen_bit_products(op, per_channel):
    b = c_graphs.Builder((5, 4, 4), S16)
    shape = {"conv": (3, 3, 4, 8), "depthwise_conv": (3, 3, 4, 2), "conv_transpose": (3, 3, 8, 4), "dense": (4, 8)}[op]
    kernel = b.constant(
        "a/kernel", shape, QFormat(8, True, (-7, -8, -6, -7, -9, -7, -7, -8) if per_channel else -7, True)
    )
    graph = b.finish(
        b.conv(b.input, 8, "a", op=op, kernel=kernel, window=() if op == "dense" else (3, 3), out=QFormat(16, True, -9))
    )
    assert "FLOOR" not in EXPORTER.program(graph).operators and EXPORTER.expected_difference(graph)["a_q"] == 1
    compare(graph, "xnnpack", inputs_of(graph, 20))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_relu_with_a_limit_in_front_of_the_requantize(per_channel):
    """The limit is a code of the accumulator: it is rounded with it, channel by channel."""
    b = c_graphs.Builder((5, 5, 4), S8)
    kernel = b.constant("a/kernel", (3, 3, 4, 3), QFormat(8, True, (-7, -8, -6) if per_channel else -7, True))
    product = b.node("conv", "a/product", b.input, kernel, strides=(1, 1), padding="same", dilation=(1, 1), groups=1)
    r = b.node("relu", "a", product, max_code=5001)
    graph = b.finish(b.node("requantize", "a_q", r, format=QFormat(8, False, -8)))
    for runtime in ("xnnpack", "builtin"):
        compare(graph, runtime, inputs_of(graph, 20, seed=1))
    assert (
        oracle.run(graph, inputs_of(graph, 20, seed=1), values=True)["a_q"].reshape(-1, 3).max(0).tolist()
        == ([78, 39, 156] if per_channel else [78] * 3)
    )


def test_names_of_any_script_and_of_each_other():
    b = c_graphs.Builder((4, 4, 3), S8, name="网络")
    y = b.conv(b.input, 4, "x/litert", out=S8)
    y = b.conv(y, 4, "größe/λ", out=S8)
    graph = b.finish(b.node("requantize", "größe/λ/constant", y, format=QFormat(8, True, -5)))
    assert not any(compare(graph, "xnnpack", inputs_of(graph, 4)).values())


def test_leaky_relu_tries_every_code():
    """A 31-bit product in float32: its requantize is proven for all 2**16 codes, and differs nowhere or by the step
    that is named.
    """
    b = c_graphs.Builder((3, 4, 8), S8)
    graph = b.graph
    product = b.node("dense", "a/product", b.input, b.kernel("a/kernel", (8, 6)))
    x = b.node("requantize", "a_q16", product, format=QFormat(16, True, -14))
    alpha = graph.add_constant("alpha", np.array([26214], np.int16), QFormat(16, True, -18))
    scaled = b.node("requantize", "scaled_q", b.node("multiply", "scaled", x, alpha), format=QFormat(16, True, -14))
    graph = b.finish(b.node("requantize", "y_q", b.node("maximum", "y", x, scaled), format=QFormat(8, True, -6)))
    (data,) = inputs_of(graph, 64)
    worst = compare(graph, "xnnpack", [data])
    assert "scaled" not in worst and {"a_q16", "scaled_q", "y", "y_q"} <= set(worst)
    assert worst["a_q16"] == 0


def test_bounds_follow_the_weights():
    graph = residual()
    steps = difference.bounds(graph, {"b_q": 1})
    kernel = np.abs(graph.constants["d/kernel"].astype(int)).sum(0).max()
    assert steps["b_q"] == 1 and "a_q" not in steps and "c_q" not in steps
    assert steps["s_q"] == 1                                  # ceil(1 / 2)
    assert steps["p_q"] == -(-steps["s_q"] * 64 * 255 // 2**14)
    assert steps["d/product"] == min(steps["p_q"] * kernel, 2**32)
    assert difference.bounds(graph, {}) == {}


def test_a_pool_without_a_pair_is_computed_in_reals():
    b = c_graphs.Builder((4, 4, 3), S8)
    kernel = b.graph.add_constant("p/reciprocal", np.full((2, 2, 3, 1), 255, np.uint8), QFormat(8, False, -10))
    product = b.node("depthwise_conv", "p", b.input, kernel, strides=(2, 2), padding="valid", dilation=(1, 1))
    graph = b.finish(b.node("requantize", "p_q", product, format=S8, rounding="floor"))
    program, problems = build(graph)
    assert not problems and "FLOOR" in program.operators
    for runtime in ("xnnpack", "builtin"):
        assert not any(compare(graph, runtime, inputs_of(graph, 200, seed=1)).values())


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width_saturates_at_its_own_ends(bits):
    for signed in (True, False):
        b = c_graphs.Builder((5, 5, 4), S8)
        format = QFormat(bits, signed, 3 - bits)
        y = b.conv(b.input, 6, "a", out=format)
        graph = b.finish(
            y, b.node("requantize", "again", b.input, format=format), b.node("relu", "r", y, max_code=format.qmax - 1)
        )
        arrays = inputs_of(graph, 20, seed=1)
        assert not any(compare(graph, "xnnpack", arrays).values())
        codes = oracle.run(graph, arrays, values=True)["a_q"]
        assert codes.min() == format.qmin and codes.max() == format.qmax  # the case saturates at both ends
