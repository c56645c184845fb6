"""Whole models: structure, nesting, sharing, several inputs and outputs, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from model_checks import randomized, same_graph

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.printer import parse, to_text
from graffiti.keras_io.build import build
from graffiti.keras_io.islands import IslandRunner
from graffiti.keras_io.read import read

L = keras.layers


def equal(model: keras.Model, x, atol: float = 1e-4, same: bool = True):
    """The graph and the model built from it compute what the model computes; returns the graph."""
    graph = read(model)
    flat = keras.tree.flatten(x)
    right = keras.tree.flatten(model.predict(x, verbose=0))
    for got, expected in zip(run_float(graph, flat, island=IslandRunner(graph)), right, strict=True):
        np.testing.assert_allclose(got, expected, atol=atol, rtol=1e-4)
    again = build(graph)
    structured = again.predict(x, verbose=0)
    assert (
        keras.tree.map_structure(lambda a: a.shape, structured)
        == keras.tree.map_structure(lambda a: a.shape, model.predict(x, verbose=0))
    )
    for got, expected in zip(keras.tree.flatten(structured), right, strict=True):
        np.testing.assert_allclose(got, expected, atol=atol, rtol=1e-4)
    if same:
        same_graph(read(again), graph)
    return graph


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def block(name: str) -> keras.Model:
    x = keras.Input((6, 6, 4), name=f"{name}_in")
    y = L.BatchNormalization(name="norm")(L.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x))
    return keras.Model(x, L.ReLU(name="relu")(L.Add(name="sum")([x, y])), name=name)


def test_nested_models_are_inlined_with_prefixed_names():
    x = keras.Input((6, 6, 4), name="x")
    inner = keras.Sequential([block("deep"), L.Conv2D(2, 1, name="head")], name="inner")
    model = randomized(keras.Model(x, L.Flatten(name="flat")(inner(x)), name="outer"))
    graph = equal(model, data(3, 6, 6, 4))
    assert ([n.name for n in graph.nodes] == [
        "inner/deep/conv", "inner/deep/norm", "inner/deep/sum", "inner/deep/relu", "inner/head/product", "inner/head",
        "flat",
    ])
    assert "inner/deep/conv/kernel" in graph.constants


def test_shared_layers_and_models_read_the_same_constants():
    x, y = keras.Input((6, 6, 4), name="x"), keras.Input((6, 6, 4), name="y")
    tower, dense = block("tower"), L.Dense(3, name="dense")
    model = randomized(
        keras.Model([x, y], L.Concatenate(name="cat")([dense(tower(x)), dense(tower(y))]), name="siamese")
    )
    graph = equal(model, [data(2, 6, 6, 4), data(2, 6, 6, 4, seed=1)], same=False)  # two plain batch norms hold copies
    assert graph.node("tower/conv").inputs[1] == graph.node("tower_call1/conv").inputs[1] == "tower/conv/kernel"
    assert graph.node("dense/product").inputs[1] == graph.node("dense_call1/product").inputs[1] == "dense/kernel"
    again = build(graph)
    assert {"dense", "dense_call1", "tower_call1/conv"} <= {n.name for n in read(again).nodes}
    assert sum("dense" in w.path and "kernel" in w.path for w in again.weights) == 1


def test_dict_inputs_and_outputs_keep_their_structure():
    a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    total = L.Add(name="total")([a, L.Dense(4, name="d")(b)])
    model = keras.Model({"left": a, "right": b}, {"sum": total, "parts": [L.ReLU(name="r")(total), total]}, name="m")
    x = {"left": data(2, 4), "right": data(2, 4, seed=1)}
    again = build(equal(model, x))
    assert set(again.predict(x, verbose=0)) == {"sum", "parts"} and [t.name for t in again.inputs] == ["left", "right"]


def test_integer_images_keep_their_dtype():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1), dtype="uint8", name="x"), L.Rescaling(1 / 255.0, name="scale"), L.Flatten(),
            L.Dense(2)
        ],
        name="m"
    )
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    assert build(equal(model, x)).inputs[0].dtype == "uint8"


def test_sequential_without_input_and_an_output_that_is_an_input():
    model = keras.Sequential([L.Dense(3, activation="relu"), L.Dense(2)], name="s")
    with pytest.raises(ValueError, match="'s' is not built"):
        read(model)
    model.build((None, 5))
    equal(model, data(4, 5))


def test_subclassed_models_are_traced_and_left_as_they_were():
    class Small(keras.Model):
        def __init__(self):
            super().__init__(name="small")
            self.first, self.second = L.Dense(4, activation="relu", name="first"), L.Dense(2, name="second")

        def call(self, x):
            return self.second(self.first(x)) + 1.0

    class Untraceable(keras.Model):
        def call(self, x):
            return x if float(keras.ops.sum(x)) > 0 else -x

    model = Small()
    model(data(1, 5))
    calls = len(model.first._inbound_nodes), len(model.first._outbound_nodes)
    graph = read(model)
    assert [n.name for n in graph.nodes][:4] == ["first/product", "first/linear", "first", "second/product"]
    np.testing.assert_allclose(run_float(graph, data(2, 5))[0], model(data(2, 5)), atol=1e-6)
    assert (len(model.first._inbound_nodes), len(model.first._outbound_nodes)) == calls
    bad = Untraceable(name="bad")
    bad(data(1, 5))
    with pytest.raises(ValueError, match="'bad' (cannot be traced|does not know its input shape)"):
        read(bad)


def test_what_is_refused():
    with pytest.raises(TypeError, match="expected a keras.Model"):
        read("model")
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="broken")], name="m")
    model.get_layer("broken").kernel.assign(np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="layer 'broken' has 6 NaN or Inf in 'broken/kernel'"):
        read(model)

    class NoConfig(L.Layer):
        def __init__(self, secret):
            super().__init__(name="mine")
            self.secret = secret

        def call(self, x):
            return x * 2.0

    with pytest.raises(ValueError, match="'mine'.*get_config"):
        x = keras.Input((3,))
        read(keras.Model(x, NoConfig(object())(x)))


def test_islands_keep_weights_calls_and_several_outputs():
    x = keras.Input((7, 4), name="x")
    sequence, state = L.GRU(4, return_sequences=True, return_state=True, name="gru")(x)
    attended = L.MultiHeadAttention(2, 3, name="attention")(sequence, value=x)
    model = randomized(keras.Model(x, [L.Dense(2, name="d")(attended), state], name="m"))
    graph = equal(model, data(3, 7, 4))
    node = graph.node("gru")
    assert node.outputs == ("gru", "gru:1") and len(node.attrs["weights"]) == len(model.get_layer("gru").weights)
    assert graph.node("attention").inputs == ("gru", "x")
    copy = parse(to_text(graph), graph.constants)
    for got, expected in zip(
        run_float(copy, data(3, 7, 4), island=IslandRunner(copy)), model.predict(data(3, 7, 4), verbose=0)
    ):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    pruned = graph.copy()
    pruned.prune()
    assert set(node.attrs["weights"]) <= set(pruned.constants)


def test_unregistered_user_layers_are_islands_in_this_process():
    class Cube(L.Layer):
        def call(self, x):
            return x * x * x

    x = keras.Input((3,), name="x")
    graph = equal(keras.Model(x, Cube(name="cube")(x), name="m"), data(4, 3))
    assert graph.node("cube").attrs["reason"] == "Cube has no fixed-point form yet"


def test_rules_can_keep_layers_in_float():
    model = randomized(
        keras.Sequential([keras.Input((6,), name="x"), L.Dense(4, name="a"), L.Dense(2, name="b")], name="m")
    )
    graph = read(model, keep_float=lambda name, layer: name == "a")
    assert [n.op for n in graph.nodes] == ["island", "dense", "bias_add"] and "rule" in graph.nodes[0].attrs["reason"]
    np.testing.assert_allclose(
        run_float(graph, data(3, 6), island=IslandRunner(graph))[0], model.predict(data(3, 6), verbose=0), atol=1e-5
    )


@pytest.mark.parametrize(
    "name", ["resnet8_cifar10_jpeg.keras", "mobilenet_v2_small_cifar10_jpeg.keras", "autoencoder_ad.h5"]
)
def test_real_models(shared_dir, name: str):
    model = keras.models.load_model(shared_dir / "models" / name, compile=False)
    equal(
        model,
        np.random.default_rng(0).uniform(
            0, 255 if "cifar" in name else 1, (4, *model.input_shape[1:])
        ).astype(np.float32),
        atol=2e-4
    )
