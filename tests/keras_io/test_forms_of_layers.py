"""Every row of ``graph/layer_forms.py`` names a layer that exists, takes the arguments and makes the op's shape."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from graffiti import layers
from graffiti.graph import ops
from graffiti.graph.layer_forms import LAYER_FORMS, class_names, form_of
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph

INPUTS = """
input %x:f32[_,8,4]
input %x2:f32[_,8,4]
input %y:f32[_,8,6,4]
"""
CONSTANTS = """
const %k1:f32[3,4,6] = random(1)
const %k2:f32[3,3,4,6] = random(1)
const %d1:f32[3,4,2] = random(1)
const %d2:f32[3,3,4,2] = random(1)
const %t1:f32[3,6,4] = random(1)
const %t2:f32[3,3,6,4] = random(1)
const %p1:f32[1,8,5] = random(1)
const %p2:f32[1,1,8,5] = random(1)
const %w:f32[4,7] = random(1)
const %v:f32[4] = full(0.5)
const %a:f32[1,4] = full(0.5)
const %map:f32[1,8,4] = full(0.5)
"""
ONE = "{strides=(2,), padding='same', dilation=(1,)}"
TWO = "{strides=(2, 2), padding='same', dilation=(1, 1)}"
POOL, POOLS = "{pool_size=(2,), strides=(2,)}", "{pool_size=(2, 2), strides=(1, 2), padding='same'}"
SAMPLES = {  # op -> nodes on x (8, 4) or y (8, 6, 4)
    "conv": [f"conv(%x, %k1) {ONE}", f"conv(%y, %k2) {TWO}"],
    "depthwise_conv": [f"depthwise_conv(%x, %d1) {ONE}", f"depthwise_conv(%y, %d2) {TWO}"],
    "conv_transpose": [
        "conv_transpose(%x, %t1) {strides=(2,)}", "conv_transpose(%y, %t2) {strides=(2, 2), output_padding=(1, 1)}",
    ],
    "dense": ["dense(%x, %w)", "dense(%y, %w)"],
    "separable_conv": [f"separable_conv(%x, %d1, %p1) {ONE}", f"separable_conv(%y, %d2, %p2) {TWO}"],
    "multiply": ["multiply(%x, %map)"], "bias_add": ["bias_add(%y, %v)"],
    "rescaling": ["rescaling(%x) {scale=0.5, offset=(1.0, 2.0, 3.0, 4.0)}"],
    "batch_norm": ["batch_norm(%y, %v, %v, %v, %v) {epsilon=0.01}"], "prelu": ["prelu(%x, %a)"],
    "add": ["add(%x, %x2)"], "subtract": ["subtract(%x, %x2)"], "maximum": ["maximum(%x, %x2)"],
    "minimum": ["minimum(%x, %x2)"],
    "concat": ["concat(%x, %x2) {axis=1}"], "relu": ["relu(%x) {max_value=6.0}"],
    "leaky_relu": ["leaky_relu(%x) {alpha=0.1}"],
    "softmax": ["softmax(%x) {axis=-1}"], "activation": ["activation(%x) {function='elu', parameters={'alpha': 0.5}}"],
    "max_pool": [f"max_pool(%x) {POOL}", f"max_pool(%y) {POOLS}"],
    "average_pool": [
        f"average_pool(%x) {POOL}", f"average_pool(%y) {POOLS}",
        "average_pool(%y) {pool_size=(2, 2), strides=(1, 2), divide=False}"
    ],
    "mean": [
        "mean(%y) {axes=(1, 2)}", "mean(%x) {axes=(1,), keepdims=True}", "mean(%y) {axes=(3,)}",
        "mean(%y) {axes=(1, 2), divide=False}"
    ],
    "global_max_pool": ["global_max_pool(%y) {axes=(1, 2), keepdims=True}", "global_max_pool(%x) {axes=(2,)}"],
    "pad": [
        "pad(%x) {pads=((1, 2), (0, 0))}", "pad(%y) {pads=((1, 2), (0, 1), (0, 0))}", "pad(%x) {pads=((0, 0), (1, 1))}"
    ],
    "crop": [
        "crop(%x) {crops=((1, 2), (0, 0))}", "crop(%y) {crops=((1, 2), (0, 1), (0, 0))}",
        "crop(%x) {crops=((0, 0), (1, 1))}"
    ],
    "slice": ["slice(%x) {slices=((0, None, 2), (1, 3, 1))}"], "take": ["take(%x) {axis=1, indices=(3, 3, 0)}"],
    "reshape": ["reshape(%x) {shape=(2, 16)}"], "permute": ["permute(%y) {dims=(3, 1, 2)}"],
    "upsample": ["upsample(%x) {size=(2,)}", "upsample(%y) {size=(2, 3)}"], "identity": ["identity(%x)"],
}


@pytest.mark.parametrize("op", LAYER_FORMS)
def test_the_layer_makes_what_the_op_makes(op):
    for text in SAMPLES[op]:
        graph = parse(f"float graph g\n{INPUTS}{CONSTANTS}\n%z = {text}\noutput %z")
        graph.prune()
        verify_graph(graph)
        node = graph.node("z")
        form = form_of(graph, node)
        layer = getattr(layers if form.own else keras.layers, form.name)(**form.arguments)
        data = [np.zeros((2, *graph.shape(value)[1:]), np.float32) for value in node.inputs if value in graph.inputs]
        made = layer(data if len(data) > 1 else data[0])
        assert tuple(made.shape) == (2, *graph.shape("z")[1:]), text
        again = keras.saving.deserialize_keras_object(form.serialized(name="again"))
        assert type(again) is type(layer) and again.name == "again"
        if not form.own:
            assert form.name in class_names(graph, node)
        if op in ops.PRODUCTS:
            assert hasattr(layers, f"Quantized{form.name}")
