"""The written ONNX file: all or nothing, refusals that list every layer, and the way through the public verbs."""

from __future__ import annotations

import os

import c_graphs
import keras
import numpy as np
import pytest
import zoo

pytest.importorskip("onnx", reason="needs onnx: pip install onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")

import onnx  # noqa: E402

import graffiti  # noqa: E402
from graffiti import export  # noqa: E402
from graffiti.export.base import ExportError  # noqa: E402
from graffiti.export.onnx.harness import session_options  # noqa: E402
from graffiti.graph.ir import TensorType  # noqa: E402
from graffiti.numerics.formats import QFormat  # noqa: E402


@pytest.mark.parametrize("format", ["onnx", "qonnx"])
def test_written_whole_or_not_at_all(format, tmp_path, monkeypatch):
    graph = c_graphs.conv_case()
    exporter, path = export.get(format), tmp_path / "net.onnx"
    assert exporter.write(graph, path) == [path]
    onnx.checker.check_model(str(path), full_check=True)
    first = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        exporter.write(graph, path)
    exporter.write(graph, path, overwrite=True)
    assert path.read_bytes() == first, "the same graph gives the same bytes"
    with pytest.raises(FileNotFoundError):
        exporter.write(graph, tmp_path / "no" / "net.onnx")
    with pytest.raises(ValueError, match="at least 1"):
        exporter.write(graph, tmp_path / "other.onnx", batch=-1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        exporter.write(c_graphs.relu_case(), path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"] and path.read_bytes() == first


def test_fixed_batch():
    model = export.get("onnx").build(c_graphs.conv_case(), batch=4).model
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert (
        export.get("onnx").build(c_graphs.conv_case()).model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        == "batch"
    )


@pytest.mark.parametrize("format", ["onnx", "qonnx"])
def test_refuses_everything_at_once(format, tmp_path):
    """An island, a softmax inside and a kernel that is computed: three layers, one error, no file."""
    builder = c_graphs.Builder((6,))
    graph = builder.graph
    real = builder.node("dequantize", "real", builder.input)
    island = graph.insert(
        "island", [real], "norm", {"layer": {}, "output_shapes": ((None, 6),), "reason": "LayerNormalization"},
        type=TensorType((None, 6))
    )
    soft = builder.node("softmax", "soft", island.name)
    back = builder.node("quantize", "back", soft, format=QFormat(8, True, -7))
    product = builder.node("dense", "computed", builder.input, builder.node("reshape", "square", back, shape=(6,)))
    graph.outputs = [product]
    with pytest.raises(ExportError) as caught:
        export.get(format).write(graph, tmp_path / "net.onnx")
    assert [p.layer for p in caught.value.problems] == ["norm", "soft", "computed"]
    assert all(p.fix for p in caught.value.problems) and not list(tmp_path.iterdir())


def test_refuses_exponents_and_sizes():
    for format in (QFormat(8, True, -127), QFormat(8, True, 120)):
        builder = c_graphs.Builder((3,), format)
        (problem,) = export.get("onnx").supports(builder.finish(builder.input))
        assert problem.layer == "x_q" and "float32" in problem.reason
    builder = c_graphs.Builder((3, 4))
    graph = builder.finish(builder.node("crop", "nothing", builder.input, crops=((1, 2), (0, 0))))
    assert {p.layer for p in export.get("onnx").supports(graph)} == {"nothing", "out"}
    with pytest.raises(ValueError, match="to_integer"):
        graph.stage = "float"
        export.get("onnx").supports(graph)


# ---- from Keras ------------------------------------------------------------------------------------------------------
def lowered(factory, scheme):
    model = zoo.make(factory)
    q = graffiti.quantize(model, scheme, calibration=zoo.inputs_of(model, 16), progress=False)
    few = zoo.inputs_of(model, 5, seed=1)
    data = [np.concatenate([v, v * 50]) for v in few] if isinstance(few, list) else np.concatenate([few, few * 50])
    return q, graffiti.to_integer(q), data


def assert_verified(factory, scheme):
    q, ig, data = lowered(factory, scheme)
    report = graffiti.verify(q, ig, data, ["onnx", "qonnx"], progress=False)
    assert report.ok, str(report)
    assert report.targets == ["keras", "onnx:plain", "onnx:optimized", "qonnx"]
    tensors = {target: {r.tensor for r in report.results if r.target == target} for target in report.targets}
    coded = {n.output for n in ig.graph.nodes if n.op in ("quantize", "requantize", "lookup")}
    assert coded <= tensors["onnx:optimized"] and tensors["onnx:plain"] == tensors["qonnx"] > coded


MODELS = [factory for factory in zoo.ZOO if factory is not zoo.islands]


@pytest.mark.parametrize(
    ("factory", "scheme"),
    [
        (zoo.sequential, "w4a4"), (zoo.mobilenet, "int8_per_channel"), (zoo.leaky, "graffitist_int8"),
        (zoo.moves, "int8"), (zoo.tables, "int8"), (zoo.two_inputs_two_outputs, "int4")
    ],
    ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_zoo_is_equal(factory, scheme):
    assert_verified(factory, scheme)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int8_per_channel", "graffitist_int8", "graffitist_int4", "int4", "w4a4"])
@pytest.mark.parametrize("factory", MODELS, ids=lambda f: f.__name__)
def test_whole_zoo_is_equal(factory, scheme):
    assert_verified(factory, scheme)


def test_islands_are_named(tmp_path):
    q, ig, data = lowered(zoo.islands, "int8")
    with pytest.raises(ExportError, match="float_norm") as caught:
        ig.export(tmp_path / "net.onnx", format="onnx")
    assert {p.layer for p in caught.value.problems} == {"float_norm"}
    report = graffiti.verify(q, ig, data, ["onnx"], progress=False)
    assert not report.ok and "float_norm" in report.skipped["onnx"]


def test_the_file_takes_what_keras_takes(tmp_path):
    """Names, layout and results of the public model: a Keras user's arrays go straight into the file."""
    q, ig, (a, b) = lowered(zoo.two_inputs_two_outputs, "int8")
    (path,) = ig.export(tmp_path / "net.onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(path), session_options(True), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["a", "b"]
    assert (
        [o.name for o in session.get_outputs()] == ig.graph.output_names()
        and set(ig.graph.output_names()) == {"score", "code"}
    )
    got = session.run(None, {"a": a, "b": b})
    for mine, theirs in zip(keras.tree.flatten(ig.predict([a, b])), sorted(got, key=lambda v: -v.shape[1])):
        np.testing.assert_array_equal(mine, theirs)
    model = zoo.make(zoo.mobilenet)
    q = graffiti.quantize(model, "int4", calibration=zoo.inputs_of(model, 16), progress=False)
    ig, data = graffiti.to_integer(q), zoo.inputs_of(model, 8, seed=2)
    (path,) = ig.export(tmp_path / "mobilenet.onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(path), session_options(True), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: data})
    np.testing.assert_allclose(probabilities, ig.predict(data), rtol=1e-6, atol=1e-7)  # softmax is each runtime's own
    stored = {t.data_type for t in onnx.load(path).graph.initializer if t.name.endswith("kernel")}
    assert onnx.TensorProto.INT4 in stored and onnx.TensorProto.FLOAT not in stored


def test_verify_names_forms():
    _, ig, data = lowered(zoo.leaky, "int8")
    assert graffiti.verify(None, ig, data, ["onnx:plain"], progress=False).targets == ["onnx:plain"]
    with pytest.raises(ValueError, match="onnx:turbo"):
        graffiti.verify(None, ig, data, ["onnx:turbo"], progress=False)
