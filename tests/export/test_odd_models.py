"""Models that exporters trip over: handled or refused in every format, never miscompiled."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.export.base import ExportError

TARGETS = {"c": ["c:fused"], "litert": ["litert:xnnpack", "litert:float32"], "onnx": ["onnx"], "qonnx": ["qonnx"]}
PATHS = {"c": "net_c", "litert": "net.tflite", "onnx": "net.onnx", "qonnx": "net_q.onnx"}
PACKAGES = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "qonnx": "qonnx"}
layers = keras.layers


def one_tensor_is_two_outputs() -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(4, activation="relu")(inputs)
    return keras.Model(inputs, [x, x], name="twice")


def an_inner_tensor_is_an_output() -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.Dense(4, activation="relu")(inputs)
    return keras.Model(inputs, [x, layers.Dense(2)(x)], name="tapped")


def the_input_is_an_output() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, [inputs, layers.Dense(4)(inputs)], name="passed_on")


def names_beyond_ascii() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(4)(inputs), name="größe_ネット")


def image_of_any_size() -> keras.Model:
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, layers.Conv2D(4, 3, padding="same")(inputs), name="any_size")


@pytest.mark.parametrize("format", TARGETS)
@pytest.mark.parametrize(
    "make",
    [
        one_tensor_is_two_outputs, an_inner_tensor_is_an_output, the_input_is_an_output, names_beyond_ascii,
        image_of_any_size
    ]
)
def test_handled_or_refused(make, format, tmp_path):
    if format in PACKAGES:
        pytest.importorskip(PACKAGES[format])
    keras.utils.set_random_seed(0)
    model = make()
    shape = (8, 7, 6, 3) if None in model.input_shape[1:] else (8, 6)
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    q = graffiti.quantize(model, calibration=data, progress=False)
    ig = graffiti.to_integer(q)
    refused = {(image_of_any_size, "c"): "shape", (image_of_any_size, "litert"): "fixed sizes",
               (image_of_any_size, "qonnx"): "shape"}.get((make, format))
    if refused:
        with pytest.raises(ExportError, match=refused):
            ig.export(tmp_path / PATHS[format], format=format)
        assert not list(tmp_path.iterdir())
        return
    ig.export(tmp_path / PATHS[format], format=format)
    report = graffiti.verify(q, ig, data, TARGETS[format], progress=False)
    assert report.verdict == "equal", str(report)
