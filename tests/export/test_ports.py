"""Names, order and dtypes of inputs and outputs in every written file: the Keras model's own."""

from __future__ import annotations

import json
import re

import c_graphs
import keras
import numpy as np
import pytest

import graffiti
from graffiti import export
from graffiti.export.c.harness import CModel
from graffiti.export.ports import input_dtype, output_dtype

L = keras.layers


def two_outputs():
    """A dict of outputs behind two inputs that are used in the other order than the model takes them."""
    a, b = keras.Input((4,), name="wind speed"), keras.Input((4,), name="b")
    joined = L.Concatenate()([b, a])
    return keras.Model(
        [a, b],
        {"score": L.Dense(2, name="small", activation="sigmoid")(joined), "box": L.Dense(4, name="score")(joined)}
    )


def data(count=24):
    random = np.random.default_rng(0)
    return [
        random.standard_normal((count, 4)).astype(np.float32), random.standard_normal((count, 4)).astype(np.float32) + 3
    ]


@pytest.fixture(scope="module")
def lowered():
    keras.utils.set_random_seed(0)
    return graffiti.to_integer(graffiti.quantize(two_outputs(), "int8", calibration=data(), progress=False))


def expected(ig):
    found = ig.predict(data())
    return {"score": found["score"], "box": found["box"]}


def test_onnx(lowered, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    (path,) = lowered.export(tmp_path / "net.onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == ["wind speed", "b"]
    names = [o.name for o in session.get_outputs()]
    assert names == lowered.graph.output_names() and set(names) == {"score", "box"}
    got = dict(zip(names, session.run(names, dict(zip(("wind speed", "b"), data())))))
    for name, want in expected(lowered).items():
        np.testing.assert_array_equal(got[name], want)


def test_qonnx(lowered, tmp_path):
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    (path,) = lowered.export(tmp_path / "net.onnx", format="qonnx")
    model = ModelWrapper(str(path))
    assert [i.name for i in model.graph.input] == ["wind speed", "b"]
    got = execute_onnx(model, dict(zip(("wind speed", "b"), (array[:1] for array in data()))))
    assert set(got) == {"score", "box"}
    for name, want in expected(lowered).items():
        np.testing.assert_array_equal(got[name], want[:1])


def test_litert(lowered, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    (path,) = lowered.export(tmp_path / "net.tflite", format="litert")
    model = interpreter.Interpreter(str(path))
    assert [d["name"] for d in model.get_input_details()] == ["wind speed", "b"]
    assert [d["name"] for d in model.get_output_details()] == lowered.graph.output_names()
    signature = model.get_signature_runner()
    assert (
        set(signature.get_output_details()) == {"score", "box"}
        and set(signature.get_input_details()) == {"wind speed", "b"}
    )
    got = signature(**dict(zip(("wind speed", "b"), data())))
    for name, want in expected(lowered).items():
        np.testing.assert_array_equal(got[name], want)


def test_c(lowered, tmp_path):
    lowered.export(tmp_path / "net", format="c", name="net")
    prototype = re.search(r"void net_run\((.*?)\);", (tmp_path / "net" / "net.h").read_text()).group(1)
    assert (
        re.findall(r"\*(\w+)", prototype)
        == ["input_wind_speed", "input_b", *(f"output_{name}" for name in lowered.graph.output_names())]
    )
    manifest = json.loads((tmp_path / "net" / "net.json").read_text())
    assert (
        [p["name"] for p in manifest["inputs"]] == ["wind speed", "b"]
        and [p["name"] for p in manifest["outputs"]] == lowered.graph.output_names()
    )
    got = dict(zip(lowered.graph.output_names(), (lambda m: m.dequantize(m.run(data())))(CModel(tmp_path / "net"))))
    for name, want in expected(lowered).items():
        np.testing.assert_array_equal(got[name], want)


def test_verify_feeds_by_place(lowered):
    report = graffiti.verify(None, lowered, data(), ["c"], progress=False)
    assert report.ok, str(report)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_inputs(dtype, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    i = keras.Input((6,), dtype=dtype, name="bytes")
    model = keras.Model(i, L.Dense(3)(L.Rescaling(1 / 255)(i)))
    x = np.random.default_rng(1).integers(0, 256, (40, 6)).astype(dtype)
    q = graffiti.quantize(model, "int8", calibration=x, progress=False)
    ig = graffiti.to_integer(q)
    assert input_dtype(ig.graph, "bytes") == dtype
    (path,) = ig.export(tmp_path / "net.onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    assert session.get_inputs()[0].type == f"tensor({dtype})"
    np.testing.assert_array_equal(session.run(None, {"bytes": x})[0], ig.predict(x))
    assert graffiti.verify(q, ig, x, ["onnx", "qonnx", "litert"], progress=False).ok
    (path,) = ig.export(tmp_path / "net.tflite", format="litert")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    assert interpreter.get_input_details()[0]["dtype"] == np.dtype(dtype)
    np.testing.assert_array_equal(
        interpreter.get_signature_runner()(bytes=x)[ig.graph.output_names()[0]], ig.predict(x)
    )


def test_integer_outputs(tmp_path):
    """A float value that the model gives out as integers is cast; codes stay codes; a value given out twice has each
    one's dtype.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    builder = c_graphs.Builder((5,), c_graphs.S8(0))
    graph = builder.finish(builder.node("relu", "r", builder.input))
    graph.outputs += ["out", "r"]
    graph.interface.update(output_names=["r", "float", "x"], output_dtypes=["int32", "float32", "float32"])
    assert [output_dtype(graph, i) for i in range(3)] == [np.int32, np.float32, np.int8]
    path = tmp_path / "net.onnx"
    graffiti.IntegerGraph(graph).export(path, format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    assert (
        [(o.name, o.type) for o in session.get_outputs()]
        == [("r", "tensor(int32)"), ("float", "tensor(float)"), ("x_1", "tensor(int8)")]
    )
    x = np.random.default_rng(2).integers(-128, 128, (4, 5)).astype(np.float32)
    for got in session.run(None, {"x": x}):
        np.testing.assert_array_equal(got, np.maximum(x, 0))
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        str(graffiti.IntegerGraph(graph).export(tmp_path / "net.tflite", format="litert")[0])
    )
    got = interpreter.get_signature_runner()(x=x)
    assert {name: array.dtype for name, array in got.items()} == {"r": np.int32, "float": np.float32, "x": np.int8}
    for array in got.values():
        np.testing.assert_array_equal(array, np.maximum(x, 0))


# ---- C: outputs that are inputs, batch sizes -------------------------------------------------------------------------
def test_c_leaves_out_what_the_caller_has(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    unused = keras.Input((2,), name="unused")
    model = keras.Model([unused, a, b], [L.Dense(3, name="d")(b), a])
    x = [np.zeros((24, 2), np.float32), *data()]
    ig = graffiti.to_integer(graffiti.quantize(model, "int8", calibration=x, progress=False))
    ig.export(tmp_path / "net", format="c", name="net", test_inputs=x)
    header = (tmp_path / "net" / "net.h").read_text()
    assert "void net_run(const uint8_t *input, int8_t *output);" in header and "a: the input a as it came" in header
    manifest = json.loads((tmp_path / "net" / "net.json").read_text())
    assert manifest["passed_through"] == {"a": "a"} and manifest["model_inputs"] == ["unused", "a", "b"]
    c = CModel(tmp_path / "net")
    np.testing.assert_array_equal(c.dequantize(c.run(x))[0], ig.predict(x)[0])
    graph = c_graphs.Builder((4,)).graph
    graph.outputs = ["x"]
    with pytest.raises(export.ExportError, match="every output is an input"):
        export.get("c").write(graph, tmp_path / "same")


def test_litert_of_a_returned_input(tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    builder = c_graphs.Builder((4,))
    graph = builder.finish(builder.node("relu", "r", builder.input))
    graph.outputs += ["x", "out"]
    export.get("litert").write(graph, tmp_path / "net.tflite")
    model = interpreter.Interpreter(str(tmp_path / "net.tflite"))
    assert [d["name"] for d in model.get_input_details()] == ["x"]
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    got = model.get_signature_runner()(x=x)
    np.testing.assert_array_equal(got["x"], x)
    np.testing.assert_array_equal(got["out"], got["out_1"])
    with pytest.raises(export.ExportError, match="border='float'"):
        export.get("litert").write(graph, tmp_path / "codes.tflite", border="codes")


def test_c_vectors_of_a_fixed_batch(tmp_path):
    """The C function takes one example: a model that was built for another batch size gives as many vectors as there
    are examples.
    """
    i = keras.Input(batch_shape=(2, 6), name="x")
    model = keras.Model(i, L.Dense(3)(L.Reshape((6,))(L.Reshape((2, 3))(i))))
    x = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    ig = graffiti.to_integer(graffiti.quantize(model, "int8", calibration=x[:2], progress=False))
    ig.export(tmp_path / "net", format="c", name="net", test_inputs=x[:5])
    assert "#define VECTOR_COUNT 5" in (tmp_path / "net" / "vectors.h").read_text()
    c = CModel(tmp_path / "net")
    np.testing.assert_array_equal(
        c.dequantize(c.run(x))[0], np.concatenate([ig.predict(x[k : k + 2]) for k in range(0, 8, 2)])
    )
