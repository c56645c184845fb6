"""Quantized models: ``read(build(g))`` is ``g``, through saving, cloning and training, and equals the integer graph."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from model_checks import randomized

from graffiti.calibration.calibrate import calibrate
from graffiti.graph import interpreter, ops
from graffiti.graph.ir import Graph
from graffiti.graph.printer import parse
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read, read_with_tensors
from graffiti.transforms import pipelines

L = keras.layers

TEXT = ("""
fakequant graph tiny
input %image:f32[_,8,8,3]
const %a/kernel:f32[3,3,3,8] = random(1)
const %a/bias:f32[8] = random(2)
const %norm/gamma:f32[8] = random(3)
const %norm/beta:f32[8] = random(4)
const %norm/mean:f32[8] = random(5)
const %norm/variance:f32[8] = full(0.5)
const %b/kernel:f32[3,3,8,1] = random(6)
const %b/bias:f32[8] = random(7)
const %c/kernel:f32[1,1,8,8] = random(8)
const %c/bias:f32[8] = random(9)
const %pool/reciprocal:f32[4,4,8,1] = full(0.0625)
const %d/kernel:f32[8,5] = random(10)
%image_q = fake_quantize(%image) {bits=8, signed=False, role='input', log2_threshold=(0.0,)}
%a/folded_kernel = fold_kernel(%a/kernel, %norm/gamma, %norm/variance) {epsilon=0.001, channel_axis=-1}
%a/q_kernel = fake_quantize(%a/folded_kernel) {bits=8, signed=True, narrow=True, role='weight', log2_threshold=(0.5,)}
%a/product = conv(%image_q, %a/q_kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
%a/folded_bias = fold_bias(%a/bias, %norm/gamma, %norm/beta, %norm/mean, %norm/variance) {epsilon=0.001, momentum=0.9}
%a/q_bias = quantize_bias(%a/folded_bias, %image_q, %a/q_kernel)
%a = bias_add(%a/product, %a/q_bias)
%a_relu = relu(%a) {max_value=6.0}
%a_q = fake_quantize(%a_relu) {bits=8, signed=False, log2_threshold=(2.0,)}
%b/q_kernel = fake_quantize(%b/kernel) {bits=4, signed=True, role='weight', channel_axis='flat', log2_threshold=(0.0, 0.5, -0.5, 0.25, 0.0, 1.0, -1.0, 0.0)}
%b/product = depthwise_conv(%a_q, %b/q_kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
%b/q_bias = quantize_bias(%b/bias, %a_q, %b/q_kernel)
%b = bias_add(%b/product, %b/q_bias)
%b_q = fake_quantize(%b) {bits=8, signed=True, group='sum_inputs', log2_threshold=(3.0,)}
%c/q_kernel = fake_quantize(%c/kernel) {bits=8, signed=True, role='weight', log2_threshold=(0.0,)}
%c/product = conv(%a_q, %c/q_kernel) {strides=(1, 1), padding='same', dilation=(1, 1)}
%c/accumulator = fake_quantize(%c/product) {bits=16, signed=True, role='accumulator', group='c_accumulator', log2_threshold=(4.0,)}
%c/q_bias = fake_quantize(%c/bias) {bits=16, signed=True, role='bias', group='c_accumulator', log2_threshold=(4.0,)}
%c = bias_add(%c/accumulator, %c/q_bias)
%c_q = fake_quantize(%c) {bits=8, signed=True, group='sum_inputs', role='rescale', log2_threshold=(3.0,)}
%sum = add(%c_q, %b_q)
%sum_q = fake_quantize(%sum) {bits=8, signed=True, log2_threshold=(3.5,)}
%tanh = activation(%sum_q) {function='tanh'}
%tanh_q = fake_quantize(%tanh) {bits=8, signed=True, log2_threshold=(0.0,)}
%max = max_pool(%tanh_q) {pool_size=(2, 2), strides=(2, 2)}
%pool/q_reciprocal = fake_quantize(%pool/reciprocal) {bits=8, signed=False, role='reciprocal', trainable=False, log2_threshold=(-4.0,)}
%pool = depthwise_conv(%max, %pool/q_reciprocal) {strides=(1, 1), padding='valid', dilation=(1, 1)}
%pool_q = fake_quantize(%pool) {bits=8, signed=True, rounding='floor', log2_threshold=(0.0,)}
%inner/flat = reshape(%pool_q) {shape=(8,)}
%d/q_kernel = fake_quantize(%d/kernel) {bits=8, signed=True, role='weight', log2_threshold=(0.0,)}
%d = dense(%inner/flat, %d/q_kernel)
%d_q = fake_quantize(%d) {bits=8, signed=True, log2_threshold=(2.0,)}
%softmax = softmax(%d_q)
output %softmax, %sum_q
""")


def nodes(graph: Graph, *, thresholds: bool = True) -> dict:
    skip = {"values"} if thresholds else {"values", "log2_threshold"}
    return {
        n.name: (n.op, n.inputs, n.outputs, {k: v for k, v in ops.attributes(n).items() if k not in skip})
        for n in graph.nodes
    }


def tiny() -> tuple[Graph, keras.Model]:
    graph = parse(TEXT)
    return graph, build(graph)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.2, 1.2, (count, 8, 8, 3)).astype(np.float32)


def integer_equals(model: keras.Model, x) -> int:
    """Every tensor of the model that the integer graph has too, compared with ==; returns how many."""
    graph, tensors = read_with_tensors(model)
    lowered = pipelines.lower(graph)
    reference = interpreter.run(lowered, x, values=True)
    names = [
        n for n in tensors
        if n in lowered.types and n not in lowered.inputs and lowered.format(n) is not None
        and lowered.format(n).bits <= 16
    ]
    for name, got in zip(
        names, keras.Model(model.inputs, [tensors[n] for n in names]).predict(x, verbose=0), strict=True
    ):
        assert np.array_equal(got.astype(np.float64), reference[name] * lowered.format(name).scale), name
    return len(names)


def test_read_of_build_is_the_same_graph(tmp_path):
    graph, model = tiny()
    x, result = images(), None
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    model.save(tmp_path / "m.keras")
    for other in (model, clone, keras.models.load_model(tmp_path / "m.keras")):
        got = read(other)
        assert nodes(got) == nodes(graph)
        assert (got.name, got.inputs, got.outputs, got.stage) == (graph.name, graph.inputs, graph.outputs, "fakequant")
        assert all(np.array_equal(got.constants[name], value) for name, value in graph.constants.items())
        outputs = other.predict(x, verbose=0)
        result = result or outputs
        assert all(np.array_equal(a, b) for a, b in zip(outputs, result))
        assert all(np.array_equal(a, b) for a, b in zip(other(x), result)), "eager"
    assert set(got.constants) - set(graph.constants) == {"tanh/values"} and got.constants["tanh/values"].shape == (256,)


def test_every_tensor_equals_the_integer_graph_before_and_after_training():
    _, model = tiny()
    assert integer_equals(model, images(16)) >= 8
    model.compile(keras.optimizers.Adam(0.01), loss=["mse", "mse"])
    x = images(16)
    model.fit(
        x, [np.eye(5, dtype=np.float32)[np.arange(16) % 5], np.ones((16, 8, 8, 8), np.float32)], epochs=2, verbose=0
    )
    assert not np.array_equal(model.get_layer("a").moving_mean, parse(TEXT).constants["norm/mean"])
    assert integer_equals(model, x) >= 8


def test_names_survive_in_keras():
    _, model = tiny()
    assert (
        {"image", "image_q", "a", "a_relu", "b", "c", "sum", "sum_inputs", "tanh", "pool", "inner>flat", "d", "softmax"}
        <= {layer.name for layer in model.layers}
    )
    assert (
        not model.get_layer("pool").kernel.trainable
        and not model.get_layer("pool").kernel_quantizer.log2_threshold.trainable
    )


def test_uncalibrated_thresholds_read_as_none():
    graph = parse(TEXT)
    for node in graph.nodes:
        if node.op == "fake_quantize":
            node.attrs = {**node.attrs, "log2_threshold": None}
    model = build(graph)
    got = read(model)
    assert nodes(got) == nodes(graph) and "values" not in got.node("tanh").attrs
    calibrate(model, images(), progress=False)
    assert all(ops.attr(n, "log2_threshold") is not None for n in read(model).nodes if n.op == "fake_quantize")


def test_a_layer_called_twice_keeps_one_kernel_and_both_names():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    dense = L.Dense(4, name="dense")
    float_model = randomized(keras.Model([a, b], L.Add(name="sum")([dense(a), dense(b)]), name="twice"))
    graph, _ = pipelines.place(pipelines.prepare(read(float_model)), "graffitist_int8", ())
    model = build(graph)
    assert nodes(read(model), thresholds=False) == nodes(graph, thresholds=False)
    x = [np.random.default_rng(s).normal(size=(9, 6)).astype(np.float32) for s in (0, 1)]
    calibrate(model, x, progress=False)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert nodes(read(clone)) == nodes(read(model))
    assert sum("dense" in w.path and w.path.endswith("/kernel") for w in model.weights) == 1
    assert integer_equals(model, x) >= 3


@pytest.mark.parametrize("name, scheme", [
    pytest.param(name, scheme, marks=[] if (name, scheme) == ("resnet8", "graffitist_int8") else pytest.mark.slow)
    for name in ("resnet8", "mobilenet_v2_small") for scheme in ("int8", "int8_per_channel", "int4", "graffitist_int8")
])
def test_real_models(shared_dir, name: str, scheme: str):
    model = keras.models.load_model(shared_dir / "models" / f"{name}_cifar10_jpeg.keras", compile=False)
    graph, _ = pipelines.place(pipelines.prepare(read(model)), scheme, (), unsigned_inputs=[model.inputs[0].name])
    q = build(graph)
    assert nodes(read(q), thresholds=False) == nodes(graph, thresholds=False)
    x = np.random.default_rng(0).uniform(0, 255, (16, 32, 32, 3)).astype(np.float32)
    calibrate(q, x, progress=False)
    assert integer_equals(q, x) >= 15


def test_what_is_refused():
    graph = parse(TEXT)
    graph.stage = "integer"
    with pytest.raises(ValueError, match="got one of stage 'integer'"):
        build(graph)
    graph = parse(TEXT)
    graph.node("c_q").attrs["bits"] = 7
    with pytest.raises(ValueError, match="share the threshold 'sum_inputs' but differ in bits"):
        build(graph)
    graph = parse(TEXT)
    graph.node("pool").inputs = ("tanh", "pool/q_reciprocal")
    with pytest.raises(ValueError, match="the input 'tanh' of the quantized layer 'pool' is not quantized"):
        build(graph)
