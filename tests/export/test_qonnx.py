"""The QONNX file: its widths, and through qonnx' own cleanup. Its integers: ``executors/test_contract.py``."""

from __future__ import annotations

import warnings

import c_graphs
import numpy as np
import pytest
from contract import assert_contract

pytest.importorskip("onnx", reason="needs onnx: pip install onnx")
pytest.importorskip("qonnx", reason="needs qonnx: pip install qonnx")

import onnx  # noqa: E402
from qonnx.core.modelwrapper import ModelWrapper  # noqa: E402
from qonnx.core.onnx_exec import execute_onnx  # noqa: E402
from qonnx.util.cleanup import cleanup  # noqa: E402

from graffiti.export.base import ExportError  # noqa: E402
from graffiti.export.onnx.exporter import QonnxExporter  # noqa: E402
from graffiti.numerics.formats import QFormat  # noqa: E402


@pytest.mark.parametrize(
    "format",
    [
        QFormat(2, True, -1), QFormat(3, False, -2), QFormat(4, True, -3, narrow=True), QFormat(6, True, -5),
        QFormat(9, True, -8), QFormat(12, False, -12)
    ],
    ids=str
)
def test_any_width(format):
    """The bit widths in the file are the formats' own, and the results are equal."""
    builder, x = c_graphs._unary((6, 5, 3), format)
    weight = QFormat(max(format.bits - 1, 2), True, -format.bits, narrow=True)
    y = builder.conv(
        x, 4, "c", kernel=builder.constant("c/kernel", (3, 3, 3, 4), weight),
        out=format.replace(exponent=format.exponent + 2)
    )
    graph = builder.finish(y)
    assert_contract("qonnx", graph, c_graphs.real_inputs(graph, 4))
    body = QonnxExporter().build(graph).model.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in body.initializer}
    quants = {n.output[0]: n for n in body.node if n.op_type == "Quant"}
    for name, expected in (("x_q", format), ("c_q", graph.format("c_q")), ("c/kernel/quantized", weight)):
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in quants[name].attribute}
        assert constants[quants[name].input[3]].shape == () and constants[quants[name].input[3]] == expected.bits
        assert constants[quants[name].input[1]] == 2.0**expected.exponent
        assert (
            (attrs["signed"], attrs["narrow"], attrs["rounding_mode"]) == (expected.signed, expected.narrow, b"ROUND")
        )


@pytest.mark.parametrize(
    "make",
    [
        c_graphs.resnet8, c_graphs.moves_case, c_graphs.borders_case, lambda: c_graphs.per_channel_case("conv"),
        lambda: c_graphs.random_network(4)
    ],
    ids=["resnet8", "moves", "borders", "per_channel", "random"]
)
def test_cleanup_is_clean(make, tmp_path):
    """``qonnx-cleanup`` runs without a warning, changes no result, finds nothing more the second time, and keeps
    every Quant.
    """
    graph = make()
    (path,) = QonnxExporter().write(graph, tmp_path / "net.onnx", batch=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cleanup(str(path), out_file=str(tmp_path / "clean.onnx"))
        cleanup(str(tmp_path / "clean.onnx"), out_file=str(tmp_path / "twice.onnx"))
    raw, clean, twice = (onnx.load(tmp_path / f"{name}.onnx") for name in ("net", "clean", "twice"))
    kinds = [[node.op_type for node in model.graph.node] for model in (raw, clean, twice)]
    assert kinds[1] == kinds[2] and kinds[0].count("Quant") == kinds[1].count("Quant") > 0
    onnx.checker.check_model(clean, full_check=True)
    inputs = c_graphs.real_inputs(graph, 3)
    results = []
    for model in (raw, clean):
        feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
        results.append(list(execute_onnx(ModelWrapper(model), feeds).values()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_batch_is_one_by_default_and_all_shapes_are_fixed(tmp_path):
    graph = c_graphs.resnet8()
    (path,) = QonnxExporter().write(graph, tmp_path / "net.onnx")
    model = ModelWrapper(str(path))
    assert model.get_tensor_shape("input" if "input" in graph.inputs else graph.inputs[0]) == [1, 32, 32, 3]
    assert model.check_all_tensor_shapes_specified()
    assert {o.domain: o.version for o in model.model.opset_import} == {"": 18, "qonnx.custom_op.general": 1}
    builder, _ = c_graphs._unary((None, None, 3))
    with pytest.raises(ExportError, match="unknown sizes"):
        QonnxExporter().write(
            builder.finish(builder.conv(builder.input, 4, "c", out=c_graphs.S8(-3))), tmp_path / "other.onnx"
        )
    assert not (tmp_path / "other.onnx").exists()
