"""Layers whose integer form is plain are no islands: quantized, lowered, equal in every executor at hand, trained,
read back.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from model_checks import same_graph

import graffiti
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read

L, K = keras.layers, keras.ops
TARGETS = ("reference", "native", "ops", "python", "c")


def _moves(i):
    a = L.Conv2D(4, 3, padding="same", activation="relu")(i)
    line = L.Reshape((64, 4))(L.Conv2D(4, 1)(i))
    first, second = K.split(a, 2, -1)
    return {
        "causal": L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu")(line), "steps": a[:, ::2, 1:-1],
        "one": a[:, 1], "ellipsis": a[..., 2:],
        "split": L.Concatenate()([second, first]), "flip": K.flip(a, 1), "crop": L.CenterCrop(6, 5)(a),
        "vector": L.RepeatVector(3)(L.Flatten()(first)),
        "repeat": K.repeat(a, 2, 1), "tile": K.tile(a, (1, 1, 2, 1)), "roll": K.roll(a, 3, 2),
        "take": K.take(a, [0, 3, 3], axis=2), "stack": K.stack([a, a], 1),
        "blocks": K.depth_to_space(a, 2), "behind a ReLU": L.ReLU()(L.Conv2D(3, 1)(i)[:, 1:]),
    }


def _dense(i):
    line = L.Reshape((64, 4))(L.Conv2D(4, 1)(i))
    film = L.Conv2D(4, 3, activation="relu")(i)[:, :, :, None]
    film = K.transpose(L.Concatenate(axis=3)([film, L.Reshape((6, 6, 1, 4))(L.Conv2D(4, 3)(i))]), (0, 3, 1, 2, 4))
    return {
        "steps": L.TimeDistributed(L.Dense(3, activation="relu"))(line),
        "einsum": L.EinsumDense("abc,cd->abd", (64, 3), bias_axes="d")(line),
        "heads": L.EinsumDense("abc,cde->adbe", (2, 64, 3), bias_axes="de")(line),
        "back": L.EinsumDense("abcd,cde->abe", (8, 5))(i),
        "rows": L.TimeDistributed(L.Conv1D(3, 3, padding="causal", activation="relu"))(i),
        "film": L.TimeDistributed(L.MaxPooling2D(2))(
            L.TimeDistributed(L.Conv2D(3, 3, 2, "same", activation="relu"))(film)
        ),
        "norm": L.TimeDistributed(L.BatchNormalization())(L.TimeDistributed(L.DepthwiseConv2D(3))(film)),
    }


def _elementwise(i):
    a, b = L.Conv2D(4, 3, padding="same")(i), L.Conv2D(4, 1)(i)
    slopes = keras.initializers.RandomUniform(-0.3, 0.9, seed=0)
    return {
        "minimum": L.Minimum()([a, b]), "three": K.minimum(K.minimum(a, b), i), "at most": K.minimum(a, 0.5),
        "clip": K.clip(a, -1, 1),
        "maximum with a number": K.maximum(b, -0.25), "ReLU": L.ReLU(6.0, negative_slope=0.1)(a),
        "steep": L.LeakyReLU(1.5)(a), "ELU": L.ELU(0.5)(b),
        "hard_tanh": L.Activation("hard_tanh")(a), "PReLU": L.PReLU(slopes, shared_axes=[1, 2])(a),
        "PReLU of all": L.PReLU(slopes)(b),
        "PReLU steep": L.PReLU(keras.initializers.RandomUniform(1.1, 1.7, seed=1), shared_axes=[1, 2])(a),
    }


def _means(i):
    a, b, c = L.Conv2D(4, 3, padding="same")(i), L.Conv2D(4, 1, activation="relu")(i), L.Conv2D(4, 1)(i)
    return {
        "two": L.Average()([a, c]), "three": L.Average()([a, b, c]), "channels": K.mean(a, -1),
        "rows and channels": K.mean(b, axis=(1, 3), keepdims=True),
        "flat": K.mean(L.Flatten()(b), axis=1, keepdims=True), "average": K.average(c, axis=1),
        "film": L.TimeDistributed(L.GlobalAveragePooling1D())(a),
        "sum": K.sum(a, 1), "sum of all": K.sum(b, axis=(1, 2, 3), keepdims=True), "sum of channels": K.sum(c, axis=-1),
    }


GROUPS = {"moves": _moves, "dense": _dense, "elementwise": _elementwise, "means": _means}


@pytest.mark.parametrize("group", GROUPS)
def test_no_island_and_equal_everywhere(group):
    keras.utils.set_random_seed(0)
    i = keras.Input((8, 8, 4), name="x")
    x = np.random.default_rng(0).standard_normal((12, 8, 8, 4)).astype("float32")
    forms = GROUPS[group](i)
    model = keras.Model(
        i, [L.Dense(2, name=f"out_{number}")(L.Flatten()(value)) for number, value in enumerate(forms.values())]
    )
    q = graffiti.quantize(model, "int8", calibration=x, progress=False)
    ig = graffiti.to_integer(q)
    islands = [node.name for node in ig.graph.nodes if node.op == "island"]
    assert not islands and ig.is_integer_only
    report = graffiti.verify(q, ig, x[:4], targets=TARGETS)
    assert report.mismatches == 0 and report.verdict == "equal", report
    graph = read(q)
    same_graph(read(build(graph)), graph)
    before = [w.numpy() for w in q.trainable_weights]
    q.compile(keras.optimizers.SGD(0.05), loss="mse")
    q.train_on_batch(x, [np.ones((12, 2), "float32")] * len(forms))
    moved = [
        w.path for w, old in zip(q.trainable_weights, before) if "kernel" in w.path and np.array_equal(w.numpy(), old)
    ]
    assert not moved, f"no gradient reaches {moved}"
