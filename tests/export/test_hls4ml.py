"""The QONNX export through hls4ml: conversion to C++ for FPGAs and its simulation, equal to the integer graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti

hls4ml = pytest.importorskip("hls4ml")
pytest.importorskip("qonnx")
layers = keras.layers

# hls4ml reads the float input in its own fixed point before the first Quant sees it: enough fraction bits that no tie
# is moved.
PRECISION = "fixed<48,20>"


def mlp() -> keras.Model:
    inputs = keras.Input((16,))
    x = layers.Dense(16, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(5)(layers.Dense(12, activation="relu")(x)), name="mlp")


def cnn() -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="relu")(inputs))
    return keras.Model(inputs, layers.Dense(5)(layers.Flatten()(x)), name="cnn")


@pytest.mark.parametrize(
    ("make", "scheme"), [(mlp, "int8"), (mlp, "w4a4"), (cnn, "int8")], ids=["mlp-int8", "mlp-w4a4", "cnn-int8"]
)
def test_the_simulation_of_hls4ml_is_equal(make, scheme, tmp_path, capfd):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.channels_last import ConvertToChannelsLastAndClean
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.util.cleanup import cleanup_model

    keras.utils.set_random_seed(0)
    model = make()
    data = np.random.default_rng(0).normal(size=(500, *model.input_shape[1:])).astype(np.float32)
    q = graffiti.quantize(model, scheme, calibration=data[:64], progress=False)
    ig = graffiti.to_integer(q)
    path = tmp_path / "net.onnx"
    ig.export(path, format="qonnx")
    wrapper = cleanup_model(ModelWrapper(str(path)))
    if data.ndim == 4:
        wrapper = wrapper.transform(ConvertToChannelsLastAndClean())
    wrapper = cleanup_model(wrapper.transform(GemmToMatMul()))
    config = hls4ml.utils.config.config_from_onnx_model(
        wrapper, granularity="name", backend="Vitis", default_precision=PRECISION
    )
    converted = hls4ml.converters.convert_from_onnx_model(
        wrapper, output_dir=str(tmp_path / "hls"), io_type="io_stream" if data.ndim == 4 else "io_parallel",
        backend="Vitis", hls_config=config
    )
    converted.compile()
    want = ig.predict(data)
    assert np.count_nonzero(converted.predict(data).reshape(want.shape) != want) == 0
    assert len(np.unique(want)) > 20  # not a network that says nothing
