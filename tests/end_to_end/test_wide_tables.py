"""Activations of more than 8 bits in front of tanh, sigmoid, gelu: tables of up to 65,536 entries, the same
everywhere.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti

L = keras.layers
INT8 = graffiti.schemes.get("int8")


def scheme(bits: int):
    return INT8.replace(activations=INT8.activations.replace(bits=bits), name=f"a{bits}")


def quantized(bits: int, *functions: str):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(inputs)
    for function in functions:
        x = L.Activation(function)(x)
    model = keras.Model(inputs, L.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(2))(L.Flatten()(x)))
    data = np.random.default_rng(0).standard_normal((16, 6, 6, 3)).astype(np.float32)
    return model, graffiti.quantize(model, scheme(bits), calibration=data, progress=False), data


@pytest.mark.parametrize("bits", [9, 16])
def test_equal_in_every_executor(bits: int, tmp_path):
    model, q, data = quantized(bits, "gelu", "tanh", "sigmoid")
    ig = graffiti.to_integer(q)
    tables = [ig.graph.constants[node.inputs[1]] for node in ig.graph.nodes if node.op == "lookup"]
    assert ig.is_integer_only and [len(table) for table in tables] == [1 << bits] * 3
    targets = ["reference", "native", "python"]
    for package, more in (("onnx", ["onnx"]), ("qonnx", ["qonnx"])):
        targets += more if __import__("importlib.util").util.find_spec(package) else []
    report = graffiti.verify(q, ig, data, targets=targets)
    assert report.mismatches == 0 and report.verdict == "equal", str(report)
    assert (
        np.abs(q.predict(data, verbose=0) - model.predict(data, verbose=0)).max() < 0.05
    ), "finer steps than 8 bits have"
    ig.save(tmp_path / "net.graffiti")
    assert np.array_equal(graffiti.IntegerGraph.load(tmp_path / "net.graffiti").predict(data), ig.predict(data))
    q.save(tmp_path / "net.keras")
    assert np.array_equal(
        keras.models.load_model(tmp_path / "net.keras").predict(data, verbose=0), q.predict(data, verbose=0)
    )


def test_equal_in_c():
    _, q, data = quantized(12, "tanh")
    assert graffiti.verify(q, graffiti.to_integer(q), data, targets=["c"]).verdict == "equal"


def test_litert_takes_signed_codes_and_refuses_unsigned_ones_by_name():
    pytest.importorskip("ai_edge_litert")
    data = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32) * 3

    def lowered(function):
        inputs = keras.Input((6,))
        model = keras.Model(inputs, L.Activation(function, name="table")(inputs))
        q = graffiti.quantize(model, scheme(16), calibration=data, progress=False)
        return q, graffiti.to_integer(q)

    report = graffiti.verify(*lowered("tanh"), data, targets=["litert"])
    assert report.mismatches == 0 and report.verdict == "equal", str(report)
    with pytest.raises(ValueError, match=r"table\w* \(lookup\)"):
        lowered("sigmoid")[1].export("unused.tflite", format="litert")


def test_a_step_of_training_moves_the_thresholds_and_stays_equal():
    _, q, data = quantized(16, "tanh")
    q.compile(graffiti.ALT(steps_per_epoch=1), loss="mse")
    q.fit(data, np.zeros((16, 3), np.float32), epochs=1, verbose=0, callbacks=graffiti.callbacks.alt())
    assert graffiti.verify(q, graffiti.to_integer(q), data, targets=["native"]).verdict == "equal"
