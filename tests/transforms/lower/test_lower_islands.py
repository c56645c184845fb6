"""Layers that a rule keeps in float become islands that compute what the Keras model computes, bit for bit."""

import keras
import numpy as np
import pytest
import zoo

import graffiti
from graffiti import Rule
from graffiti.graph import interpreter
from graffiti.keras_io.islands import IslandRunner
from graffiti.keras_io.read import read_with_tensors

L = keras.layers


def every_kind():
    """One float layer of each kind that no other test keeps in float."""
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(6, 3, padding="same", name="start")(inputs)
    x = L.Conv2D(6, 3, groups=2, dilation_rate=2, padding="same", name="f_conv")(x)
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="f_depthwise")(x))
    x = L.ZeroPadding2D(((1, 0), (0, 1)), name="f_pad")(x)
    x = L.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1, name="f_transpose")(x)
    x = L.ReLU(6.0, name="f_relu")(L.Cropping2D(((1, 2), (3, 0)), name="f_crop")(x))
    x = L.MaxPooling2D(2, padding="same", name="f_pool")(x)
    y = L.UpSampling2D(2, name="f_up")(x)
    y = L.Permute((2, 1, 3), name="f_permute")(L.MaxPooling2D(2, name="pool")(y))
    y = L.Reshape(x.shape[1:], name="f_unflatten")(L.Reshape((-1,), name="f_flatten")(y))
    x = L.Subtract(name="f_subtract")([L.Maximum(name="f_maximum")([x, y]), y])
    x = L.Concatenate(name="f_concat")([x, L.Add(name="f_add")([x, y])])
    x = L.GlobalMaxPooling2D(name="f_max")(L.Activation("tanh", name="f_tanh")(x))
    return keras.Model(inputs, L.Dense(3, name="end")(x), name="every_kind")


CASES = {
    "products": (zoo.sequential, [Rule(L.Conv2D, None)]),
    "one inner layer": (zoo.resnet, [Rule("conv2d_1", None)]),
    "average pools": (zoo.inception, [Rule(L.AveragePooling2D, None), Rule(L.Concatenate, None)]),
    "leaky ReLU": (zoo.leaky, [Rule(L.LeakyReLU, None)]),
    "tables": (zoo.tables, [Rule("dense_1", None)]),
    "affine, ReLU6 and add": (zoo.mobilenet, [Rule("rescaling", None), Rule(L.ReLU, None), Rule("add.*", None)]),
    "a layer called twice": (zoo.two_inputs_two_outputs, [Rule("shared.*", None), Rule("subtract", None)]),
    "every kind": (every_kind, [Rule("f_.*", None)]),
}


SLOW = ("one inner layer", "tables", "affine, ReLU6 and add", "a layer called twice")


@pytest.mark.parametrize("case", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_float_layers_agree_with_the_keras_model(case):
    factory, rules = CASES[case]
    model = zoo.make(factory)
    q = graffiti.quantize(model, "int8", calibration=zoo.inputs_of(model, 16), rules=rules, progress=False)
    graph = graffiti.to_integer(q).graph
    assert any(node.op == "island" for node in graph.nodes)
    data = zoo.inputs_of(model, 6, seed=1)
    arrays = data if isinstance(data, list) else [data]
    expected = interpreter.run(graph, arrays, values=True, island=IslandRunner(graph))
    tensors = read_with_tensors(q)[1]
    softmax = {node.name for node in graph.nodes if node.op == "softmax"}  # each runtime has its own exp
    names = [name for name in tensors if name in graph.types and name not in graph.inputs and name not in softmax]
    found = dict(zip(names, keras.Model(q.inputs, [tensors[name] for name in names]).predict_on_batch(data)))
    assert len(names) > 4
    for name in names:
        format = graph.format(name)
        real = (
            expected[name] if format is None
            else np.ldexp(expected[name].astype(np.float64), np.asarray(format.exponent))
        )
        unequal = np.count_nonzero(np.asarray(found[name], np.float64) != real)
        assert unequal == 0, f"{name}: {unequal} of {real.size} differ"


def test_every_kind_is_kept_in_float():
    model = zoo.make(every_kind)
    q = graffiti.quantize(
        model, "int8", calibration=zoo.inputs_of(model, 8), rules=CASES["every kind"][1], progress=False
    )
    kept = {node.attrs["layer"]["class_name"] for node in graffiti.to_integer(q).graph.nodes if node.op == "island"}
    assert {"Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Add", "Subtract", "Maximum"} <= kept
    lines = {line.layer for line in q.quantization_report if line.what == "float"}
    assert {layer.name for layer in model.layers if layer.name.startswith("f_")} <= lines


def test_a_float_layer_with_a_quantized_kernel_is_refused():
    from graffiti.graph.ops import infer_all
    from graffiti.graph.printer import parse
    from graffiti.transforms.lower.convert import Convert

    graph = parse("""fakequant graph net
        input %x: f32[_,2]
        const %k: f32[2,2] = random(0)
        %q = fake_quantize(%k) {bits=8, signed=True, log2_threshold=(0.0,)}
        %y = dense(%x, %q)
        output %y""")
    infer_all(graph)
    with pytest.raises(ValueError, match="dense 'y' is in float but 'q' is computed; quantize its input"):
        Convert()(graph)
