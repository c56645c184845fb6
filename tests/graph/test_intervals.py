"""What a tensor can be: rules op by op, and whole random networks that keep to what is said of them."""

from __future__ import annotations

import math

import networks
import numpy as np
import pytest
from random_networks import random_network

from graffiti import schemes
from graffiti.graph.float_interpreter import run_float
from graffiti.graph.intervals import intervals
from graffiti.graph.ops import OPS, infer_all
from graffiti.graph.printer import parse
from graffiti.transforms import pipelines

INF = math.inf
WINDOW = "strides=(1, 1), padding='same', dilation=(1, 1)"
POOL = "{pool_size=(2, 2), strides=(2, 2), padding='same'}"
# op -> (line, interval of its output y); x is an image in [0, inf), s one in (-inf, inf), u one in [0, 1]
RULES: dict[str, list[tuple[str, tuple[float, float]]]] = {
    "add": [
        ("add(%x, %x)", (0, INF)), ("add(%x, %s)", (-INF, INF)), ("add(%u, %u)", (0, 2)), ("add(%u, %m)", (-0.5, 0.5)),
        ("add(%s, %u)", (-INF, INF))
    ],
    "subtract": [("subtract(%x, %x)", (-INF, INF)), ("subtract(%one, %u)", (0, 1)), ("subtract(%x, %m)", (0.5, INF))],
    "multiply": [
        ("multiply(%x, %x)", (0, INF)), ("multiply(%s, %s)", (0, INF)), ("multiply(%u, %m)", (-0.5, 0)),
        ("multiply(%x, %m)", (-INF, 0)), ("multiply(%s, %x)", (-INF, INF)),
        ("multiply(%x, %one) {trained=True}", (-INF, INF)), ("multiply(%x, %one)", (0, INF))
    ],
    "maximum": [("maximum(%s, %u)", (0, INF)), ("maximum(%s, %s)", (-INF, INF)), ("maximum(%u, %m)", (0, 1))],
    "minimum": [("minimum(%s, %u)", (-INF, 1)), ("minimum(%x, %u)", (0, 1)), ("minimum(%u, %m)", (-0.5, -0.5))],
    "prelu": [("prelu(%s, %b)", (-INF, INF)), ("prelu(%u, %b)", (0, 1))],
    "relu": [("relu(%s)", (0, INF)), ("relu(%s) {max_value=6.0}", (0, 6)), ("relu(%u) {max_value=6.0}", (0, 1))],
    "leaky_relu": [
        ("leaky_relu(%s) {alpha=0.1}", (-INF, INF)), ("leaky_relu(%u) {alpha=0.1}", (0, 1)),
        ("leaky_relu(%m) {alpha=0.5}", (-0.25, -0.25))
    ],
    "activation": [
        ("activation(%s) {function='sigmoid'}", (0, 1)), ("activation(%x) {function='tanh'}", (0, 1)),
        ("activation(%s) {function='tanh'}", (-1, 1)),
        ("activation(%s) {function='elu', parameters={'alpha': 0.5}}", (-0.5, INF))
    ],
    "softmax": [("softmax(%s)", (0, 1))],
    "rescaling": [
        ("rescaling(%x) {scale=0.5, offset=1.0}", (1, INF)),
        ("rescaling(%u) {scale=(2.0, -1.0), offset=(0.0, 1.0)}", (0, 2)),
        ("rescaling(%u) {scale=-1.0, offset=0.5}", (-0.5, 0.5))
    ],
    "conv": [(f"conv(%x, %k) {{{WINDOW}}}", (-INF, INF))],
    "conv_transpose": [("conv_transpose(%x, %k) {strides=(1, 1), padding='same'}", (-INF, INF))],
    "dense": [("dense(%x, %d)", (-INF, INF))],
    "separable_conv": [(f"separable_conv(%x, %f, %k) {{{WINDOW}}}", (-INF, INF))],
    "depthwise_conv": [
        (f"depthwise_conv(%x, %f) {{{WINDOW}}}", (-INF, INF)),
        (f"depthwise_conv(%x, %f) {{{WINDOW}, fixed=True}}", (0, INF)),
        (f"depthwise_conv(%u, %f) {{{WINDOW}, fixed=True}}", (0, 0.5)),
        (f"depthwise_conv(%m4, %f) {{{WINDOW}, fixed=True}}", (-1, -0.125)),
        (f"depthwise_conv(%u, %f9) {{{WINDOW}, fixed=True}}", (0, 2.25)),
        (f"depthwise_conv(%m4, %f9) {{{WINDOW}, fixed=True}}", (-4.5, 0))
    ],
    "bias_add": [("bias_add(%x, %b)", (-INF, INF)), ("bias_add(%x, %b) {fixed=True}", (-1, INF))],
    "batch_norm": [("batch_norm(%x, %b, %b, %b, %one1) {epsilon=0.001}", (-INF, INF))],
    "fold_kernel": [("fold_kernel(%f, %b, %one1) {epsilon=0.001, channel_axis='flat'}", (-INF, INF))],
    "fold_bias": [("fold_bias(%b, %b, %b, %b, %one1) {epsilon=0.001}", (-INF, INF))],
    "max_pool": [(f"max_pool(%u) {POOL}", (0, 1))],
    "average_pool": [(f"average_pool(%x) {POOL}", (0, INF)), (f"average_pool(%u) {POOL}", (0, 1))],
    "mean": [
        ("mean(%u) {axes=(1, 2)}", (0, 1)), ("mean(%u) {axes=(1, 2), divide=False}", (0, 16)),
        ("mean(%s) {axes=(1, 2), divide=False}", (-INF, INF))
    ],
    "global_max_pool": [("global_max_pool(%x) {axes=(1, 2)}", (0, INF))],
    "concat": [("concat(%x, %u)", (0, INF)), ("concat(%u, %s)", (-INF, INF))],
    "pad": [("pad(%m4) {pads=((1, 1), (0, 0), (0, 0))}", (-2, 0))],
    "crop": [("crop(%u) {crops=((1, 0), (0, 0), (0, 0))}", (0, 1))], "reshape": [("reshape(%u) {shape=(32,)}", (0, 1))],
    "permute": [("permute(%u) {dims=(2, 1, 3)}", (0, 1))], "upsample": [("upsample(%u) {size=(2, 2)}", (0, 1))],
    "slice": [("slice(%u) {slices=((0, 2, 1), (0, None, 1), (0, None, 1))}", (0, 1))],
    "take": [("take(%u) {axis=1, indices=(0, 1)}", (0, 1))],
    "identity": [("identity(%u)", (0, 1))], "training_only": [("training_only(%m4) {layer='Dropout'}", (-2, 0))],
    "island": [("island(%x) {layer={'class_name': 'Foo'}, output_shapes=((None, 4, 4, 2),)}", (-INF, INF))],
}
QUANTIZED = ("fake_quantize", "quantize_bias")


@pytest.mark.parametrize("op", [name for name, row in OPS.items() if "float" in row.stages])
def test_the_rule_of_each_op(op: str):
    for line, expected in RULES[op]:  # an op without a case fails
        graph = parse(f"""float graph net
        input %x:f32[_,4,4,2]
        input %s:f32[_,4,4,2]
        input %u:f32[_,4,4,2]
        input %m4:f32[_,4,4,2]
        const %m:f32[1] = [-0.5]
        const %one:f32[1] = [1]
        const %one1:f32[2] = [1, 1]
        const %b:f32[2] = [-1, 1]
        const %d:f32[2,2] = [[1, 1], [1, 1]]
        const %k:f32[1,1,2,2] = full(1)
        const %f:f32[1,1,2,1] = [[[[0.25], [0.5]]]]
        const %f9:f32[3,3,2,1] = full(0.25)
        %y = {line}
        output %y""")
        infer_all(graph)
        found = intervals(graph, {"x": (0, INF), "u": (0, 1), "m4": (-2, -0.5)})["y"]
        assert found == expected, line


def test_byte_inputs_and_quantizers():
    graph = parse("""fakequant graph net
    input %x:f32[_,4]
    %a = fake_quantize(%x) {bits=8, signed=True}
    %b = fake_quantize(%x) {bits=8, signed=False}
    output %a, %b""")
    assert intervals(graph)["a"] == (-INF, INF) and intervals(graph)["b"] == (0, INF)
    assert intervals(graph, {"x": (0.5, 2)})["a"] == (0, 2), "where it saturates it is nearer to zero"
    graph.interface["input_dtypes"] = ["uint8"]
    assert intervals(graph)["a"] == intervals(graph)["b"] == (0, 255)
    assert intervals(graph, rule=lambda node: lambda *_: (-1.0, 1.0))["a"] == (-1, 1)


@pytest.mark.parametrize("placed", [False, True])
def test_random_networks_keep_to_their_intervals(placed: bool):
    checked = 0
    for seed in range(3000, 3030):
        graph, random = random_network(seed, islands=False), np.random.default_rng(seed)
        data = [random.exponential(2.0, (4, *graph.shape(name)[1:])).astype(np.float32) for name in graph.inputs]
        if placed:
            graph = networks.calibrate(
                pipelines.place(graph, schemes.get("int8"), unsigned_inputs=graph.inputs)[0], data
            )
        found = intervals(graph, dict.fromkeys(graph.inputs, (0.0, INF)))
        values = run_float(graph, data, values=True)
        for name, array in values.items():
            low, high = found[name]
            slack = 1e-4 if not placed else max(1e-4, 0.02 * float(np.abs(array).max(initial=0)))
            assert (
                array.min() >= low - slack and array.max() <= high + slack
            ), f"seed {seed}: {name} is in {array.min()}, {array.max()}, said {low}, {high}"
            assert low < 0 or array.min() >= 0, f"seed {seed}: {name}"
            checked += low >= 0
    assert checked > 100
