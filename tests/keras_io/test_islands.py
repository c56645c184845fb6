"""Layers that stay in float: what they compute, what they keep, who shares them, and what a file holds of them."""

from __future__ import annotations

import functools
import itertools
import warnings

import keras
import numpy as np
import pytest
from model_checks import randomized

import graffiti
from graffiti.graph.float_interpreter import run_float
from graffiti.graph.printer import parse, to_text
from graffiti.keras_io.build import build
from graffiti.keras_io.islands import IslandRunner, needs
from graffiti.keras_io.read import read

L, K = keras.layers, keras.ops
NUMBERS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def equal(model: keras.Model, *x, again: bool = True):
    """The graph and the model built from it compute what the model computes; returns the graph."""
    graph = read(model)
    right = keras.tree.flatten(model.predict(list(x) if len(x) > 1 else x[0], verbose=0))
    for got, expected in zip(run_float(graph, list(x), island=IslandRunner(graph)), right, strict=True):
        assert got.dtype == expected.dtype or got.dtype == np.float64
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)
    if again:
        built = keras.tree.flatten(build(graph).predict(list(x) if len(x) > 1 else x[0], verbose=0))
        for got, expected in zip(built, right, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)
    return graph


def test_two_classes_and_two_functions_of_one_name():
    def layer(factor):
        class Same(L.Layer):
            def call(self, x):
                return x * factor

        return Same

    def function(shift):
        def same(x):
            return K.sin(x) + shift

        return same

    x = keras.Input((6,))
    parts = [
        layer(2.0)()(x), layer(3.0)()(x), L.Activation(function(1.0))(x), L.Activation(function(2.0))(x),
        L.Lambda(lambda v: v / 7.0)(x)
    ]
    class Cosine:
        def __call__(self, x):
            return K.cos(x)

    parts += [
        L.Activation(Cosine())(x), L.Multiply()([x, parts[0]]), x * parts[1],
        L.Dense(6, activation=lambda v: K.cos(v) * 2.0)(x)
    ]
    equal(randomized(keras.Model(x, parts)), NUMBERS)


def test_functions_inside_layers_are_the_live_ones():
    offset = 0.25

    def first(x):
        return K.tanh(x) + offset

    second = functools.partial(K.clip, x_min=0.0, x_max=0.5)
    x = keras.Input((3, 2))
    y = [
        L.LSTM(3, activation=first, recurrent_activation=lambda v: K.sigmoid(v) * offset)(x),
        L.GRU(3, activation=second)(x)
    ]
    y += [L.TimeDistributed(L.Lambda(lambda v, by: v * by, arguments={"by": 2.0}))(x)]
    equal(randomized(keras.Model(x, y)), NUMBERS.reshape(4, 3, 2))


class Gate(L.Layer):
    def call(self, parts):
        return parts["x"] * 10.0 + parts["gate"]

    def compute_output_shape(self, parts):
        return parts["x"]


def test_arguments_keep_order_names_and_nesting():
    class Nested(L.Layer):
        def call(self, parts, *, other=None):
            (a, b), named = parts
            return a - 2.0 * b + 3.0 * named["input"] + (0.0 if other is None else 5.0 * other[0])

    x, y, z = (keras.Input((6,), name=name) for name in ("z_first", "y_second", "x_third"))
    outputs = [Gate()({"x": x, "gate": y}), Nested()([(x, y), {"input": z}], other=(y,)), K.stack([x, y, z], axis=1)]
    equal(keras.Model([x, y, z], outputs), NUMBERS, NUMBERS * 2, NUMBERS - 1)


SLICES = {
    "ellipsis": np.s_[..., 1:3], "ellipsis in the middle": np.s_[:, ..., 0], "new axis": np.s_[:, None, 1],
    "step": np.s_[:, ::-2],
    "one index": np.s_[:, 1], "tuple of all": np.s_[:, 1:, :2, -1], "batch": np.s_[1:3, ...],
}


@pytest.mark.parametrize("name", SLICES)
def test_slices(name: str):
    x = keras.Input((3, 4, 2))
    equal(
        keras.Model(x, (x * 1.0)[SLICES[name]]), np.random.default_rng(0).normal(size=(4, 3, 4, 2)).astype(np.float32)
    )


def test_integers_booleans_and_text_keep_their_dtype():
    x, ids, words = keras.Input((6,)), keras.Input((2,), dtype="int64"), keras.Input((2,), dtype="string")
    lookup, hashing = L.StringLookup(vocabulary=["a", "b"]), L.Hashing(7)
    found = L.Embedding(5, 3)(lookup(words))
    outputs = [
        K.argmax(x, axis=-1), x > 0.0, K.cast(x, "int32") + 1, ids + 2**40, hashing(words), hashing(ids), found,
        L.Reshape((1, 2))(ids)
    ]
    model = randomized(keras.Model([x, ids, words], outputs))
    data = NUMBERS, np.array([[1, 2**40 + 1]] * 4), np.array([["a", "zz"]] * 4)
    graph = read(model)
    got = run_float(graph, list(data), island=IslandRunner(graph))
    for mine, theirs in zip(got, model([keras.ops.convert_to_tensor(part) for part in data]), strict=True):
        theirs = keras.ops.convert_to_numpy(theirs)
        assert mine.dtype == theirs.dtype or (theirs.dtype == np.float32 and mine.dtype == np.float64)
        assert np.array_equal(mine, theirs)
    copy = parse(to_text(graph), graph.constants)
    assert copy.types == graph.types and to_text(copy) == to_text(graph)


def adapted(kind: str):
    """``(layer, data)`` of each preprocessing layer with a state."""
    numbers = np.random.default_rng(1).normal(3.0, 2.0, (50, 6)).astype(np.float32)
    words = np.array([["the cat"], ["a dog the"], ["the"]] * 5)
    ids = np.random.default_rng(2).integers(3, 9, (50, 1))
    layer, data = {
        "per pixel": (L.Normalization(axis=(1,)), numbers), "inverted": (L.Normalization(invert=True), numbers),
        "one scale": (L.Normalization(axis=None), numbers),
        "discretization": (L.Discretization(num_bins=4), numbers), "integers": (L.IntegerLookup(), ids),
        "one hot": (L.IntegerLookup(output_mode="one_hot"), ids),
        "strings": (L.StringLookup(), words), "tf-idf": (L.StringLookup(output_mode="tf_idf"), words),
        "text": (L.TextVectorization(output_sequence_length=4), words),
        "text tf-idf": (L.TextVectorization(output_mode="tf_idf"), words),
    }[kind]
    layer.adapt(data)
    return layer, data


@pytest.mark.parametrize(
    "kind",
    [
        "per pixel", "inverted", "one scale", "discretization", "integers", "one hot", "strings", "tf-idf", "text",
        "text tf-idf"
    ]
)
def test_adapted_state_goes_with_the_layer(kind: str):
    layer, data = adapted(kind)
    x = keras.Input(data.shape[1:], dtype="string" if data.dtype.kind == "U" else str(data.dtype))
    model = keras.Model(x, layer(x))
    right = keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(data)))
    graph = read(model, keep_float=lambda name, layer: True)
    for one in (graph, parse(to_text(graph), graph.constants)):
        np.testing.assert_array_equal(run_float(one, data, island=IslandRunner(one), dtype=np.float32)[0], right)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(build(graph)(keras.ops.convert_to_tensor(data))), right)


def test_masks_reach_the_layers_behind():
    x = keras.Input((5,), dtype="int32")
    y = L.LSTM(3)(L.Embedding(9, 4, mask_zero=True)(x))
    model = randomized(keras.Model(x, y))
    equal(model, np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 7], [0, 0, 8, 1, 0]]))


def test_a_shared_layer_is_one_layer():
    x, y = keras.Input((3, 2), name="x"), keras.Input((3, 2), name="y")
    recurrent = L.GRU(3, name="gru")
    inner = keras.Sequential([keras.Input((3, 2)), L.LSTM(2, name="lstm")], name="inner")
    model = randomized(keras.Model([x, y], [recurrent(x), recurrent(y), inner(x), inner(y)], name="m"))
    graph = equal(model, NUMBERS.reshape(4, 3, 2), NUMBERS.reshape(4, 3, 2) + 1)
    assert (
        graph.node("gru_call1").attrs["instance"] == "gru"
        and graph.node("gru_call1").attrs["weights"] == graph.node("gru").attrs["weights"]
    )
    for one in (graph, parse(to_text(graph), graph.constants)):
        again = build(one)
        assert len(again.trainable_weights) == len(model.trainable_weights) == 6
    again.get_layer("gru").weights[0].assign_add(np.ones((2, 9), np.float32))
    assert (
        not np.allclose(
            again.predict([NUMBERS.reshape(4, 3, 2)] * 2, verbose=0)[1],
            model.predict([NUMBERS.reshape(4, 3, 2)] * 2, verbose=0)[1]
        )
    )


class TiedProjection(L.Layer):
    """Projects onto the rows of an embedding that is somewhere else in the model too."""

    def __init__(self, table, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def call(self, x):
        return K.matmul(x, K.transpose(self.table.embeddings))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 7)

    def get_config(self):
        return {**super().get_config(), "table": keras.saving.serialize_keras_object(self.table)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "table": keras.saving.deserialize_keras_object(config["table"])})


def test_a_weight_that_two_layers_share_stays_one():
    x = keras.Input((3,), dtype="int32")
    table = L.Embedding(7, 4, name="table")
    model = randomized(keras.Model(x, TiedProjection(table, name="tied")(table(x)), name="m"))
    again = build(equal(model, np.array([[1, 2, 6]] * 4)))
    assert len(model.weights) == len(again.weights) == 1
    assert again.get_layer("tied").table is again.get_layer("table") and model.get_layer("tied").table is table


class DenseTranspose(L.Layer):
    """The classical tied decoder: it holds the encoder's layer and uses its kernel."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def build(self, shape):
        self.offset = self.add_weight(shape=(self.dense.kernel.shape[0],), name="offset")

    def call(self, x):
        return K.matmul(x, K.transpose(self.dense.kernel)) + self.offset

    def get_config(self):
        return {**super().get_config(), "dense": keras.saving.serialize_keras_object(self.dense)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "dense": keras.saving.deserialize_keras_object(config["dense"])})


def test_a_weight_shared_with_a_layer_in_fixed_point_stays_one():
    x = keras.Input((6,))
    encoder = L.Dense(3, name="encoder")
    model = randomized(keras.Model(x, DenseTranspose(encoder, name="decoder")(encoder(x)), name="m"))
    q = graffiti.quantize(model, "int8", calibration=NUMBERS, progress=False)
    kernel = q.get_layer("encoder").kernel
    assert (
        q.get_layer("decoder").dense.kernel is kernel
        and len([w for w in q.trainable_weights if w.shape == (6, 3)]) == 1
    )
    before, ig = model.predict(NUMBERS, verbose=0), graffiti.to_integer(q)
    np.testing.assert_allclose(ig.predict(NUMBERS), q.predict(NUMBERS, verbose=0), atol=1e-6)
    q.compile(keras.optimizers.SGD(0.1), "mse")
    q.fit(NUMBERS, NUMBERS, epochs=2, verbose=0)
    np.testing.assert_allclose(graffiti.to_integer(q).predict(NUMBERS), q.predict(NUMBERS, verbose=0), atol=1e-6)
    np.testing.assert_array_equal(model.predict(NUMBERS, verbose=0), before)


def _tied_autoencoder(encoder, decoder=None) -> keras.Model:
    x = keras.Input((6,))
    return randomized(
        keras.Model(x, (decoder or DenseTranspose)(encoder, name="decoder")(L.ReLU()(encoder(x))), name="m")
    )


def test_shared_weights_are_one_variable_behind_a_file_and_in_a_clone(tmp_path):
    q = graffiti.quantize(_tied_autoencoder(L.Dense(3, name="encoder")), "int8", calibration=NUMBERS, progress=False)
    q.compile(graffiti.ALT(steps_per_epoch=2, weight_learning_rate=0.05), "mse")
    q.fit(NUMBERS, NUMBERS, epochs=1, verbose=0)
    q.save(tmp_path / "q.keras")
    with keras.saving.custom_object_scope({"DenseTranspose": DenseTranspose}), warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping variable loading")  # of the optimizer
        loaded = keras.models.load_model(tmp_path / "q.keras")
        clone = keras.models.clone_model(q)
    for other in (loaded, clone):
        kernel = other.get_layer("encoder").kernel
        assert other.get_layer("decoder").dense.kernel is kernel
        assert (
            [(v.name, v.shape) for v in other.trainable_variables] == [(v.name, v.shape) for v in q.trainable_variables]
        )
    assert np.array_equal(loaded.predict(NUMBERS, verbose=0), q.predict(NUMBERS, verbose=0))
    for other in (q, loaded):
        other.fit(NUMBERS, NUMBERS, epochs=1, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(q.weights, loaded.weights, strict=True))


def test_shared_weights_that_become_two_are_said():
    class EinsumTranspose(DenseTranspose):
        def build(self, shape):
            self.offset = self.add_weight(shape=(3,), name="offset")

        def call(self, x):
            return K.matmul(K.reshape(x, (-1, 2, 4)), K.transpose(K.reshape(self.dense.kernel, (3, 4)))) + self.offset

    x = keras.Input((2, 3))
    dense = L.EinsumDense("bij,jkl->bikl", (2, 2, 2), name="encoder")
    model = randomized(keras.Model(x, EinsumTranspose(dense, name="decoder")(L.ReLU()(dense(x))), name="m"))
    q = graffiti.quantize(model, "int8", calibration=NUMBERS.reshape(-1, 2, 3), progress=False)
    (line,) = q.quantization_report.of("training")
    assert line.layer == "decoder" and "'encoder/kernel'" in line.why and "each by itself" in line.why
    assert (
        not graffiti.quantize(
            _tied_autoencoder(L.Dense(3, name="encoder")), "int8", calibration=NUMBERS, progress=False
        ).quantization_report.of("training")
    )


def test_a_kernel_in_front_of_two_batch_norms_stays_one(tmp_path):
    x = keras.Input((6,))
    shared = L.Dense(3, use_bias=False, name="shared")
    model = randomized(
        keras.Model(x, L.Add()([L.ReLU()(L.BatchNormalization(name=name)(shared(x))) for name in "ab"]), name="m")
    )
    q = graffiti.quantize(model, "int8", calibration=NUMBERS, progress=False)
    q.save(tmp_path / "q.keras")
    for other in (q, keras.models.load_model(tmp_path / "q.keras"), build(read(q))):
        assert len([v for v in other.trainable_variables if v.shape == (6, 3)]) == 1
        assert np.array_equal(other.predict(NUMBERS, verbose=0), q.predict(NUMBERS, verbose=0))


def test_inference_means_training_false():
    class Noise(L.Layer):
        def call(self, x, training=True):
            return x + keras.random.normal(K.shape(x)) if training else x

    class Around(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.noise = Noise()

        def call(self, x):
            return self.noise(x) * 2.0

    x = keras.Input((6,))
    graph = read(keras.Model(x, [Noise()(x), Around()(x)]))
    got = run_float(graph, NUMBERS, island=IslandRunner(graph))
    assert np.array_equal(got[0], NUMBERS) and np.array_equal(got[1], 2 * NUMBERS)


def test_what_a_layer_draws_at_inference_is_drawn_again():
    class Sampling(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed = keras.random.SeedGenerator(3)

        def call(self, x):
            return x + keras.random.normal(K.shape(x), seed=self.seed)

    x = keras.Input((6,))
    graph = read(keras.Model(x, Sampling()(x)))
    runner, other = IslandRunner(graph), IslandRunner(graph)
    (first,), (second,), (third,) = (run_float(graph, NUMBERS, island=island) for island in (runner, runner, other))
    assert np.array_equal(first, second) and np.array_equal(first, third) and not np.array_equal(first, NUMBERS)


def test_a_layer_is_traced_once_for_every_batch_size():
    """One that must know its batch size is traced again."""
    class Known(L.Layer):
        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

        def call(self, x):
            return x + float(x.shape[0])  # None has no float

    x = keras.Input((6,))
    for layer, once in ((L.LayerNormalization(), True), (Known(), False)):
        graph = read(keras.Model(x, layer(x)))
        runner, (node,) = IslandRunner(graph), [node for node in graph.nodes if node.op == "island"]
        for size in (4, 1, 3, 2, 4):
            (got,) = run_float(graph, NUMBERS[:size], island=runner)
            right = np.asarray(layer(NUMBERS[:size])) if once else NUMBERS[:size] + size
            np.testing.assert_allclose(got, right, atol=1e-6)
        assert (runner._functions[node.name].experimental_get_tracing_count() == 1) == once


class Counter(L.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x * 0.0 + self.count


@pytest.mark.parametrize(
    "make", [lambda: L.GRU(3, stateful=True), lambda: L.Bidirectional(L.LSTM(2, stateful=True)), Counter],
    ids=["GRU", "Bidirectional", "counter"]
)
def test_state_is_carried_and_begins_where_it_was(make):
    x = keras.Input(batch_shape=(2, 3, 2))
    layer = make()
    model = randomized(keras.Model(x, layer(x)))
    windows = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)
    graph = read(model)
    first, second = IslandRunner(graph), IslandRunner(graph)
    one = [run_float(graph, window, island=first)[0] for window in windows]
    right = [model.predict(window, verbose=0) for window in windows]
    np.testing.assert_allclose(one, right, atol=1e-5)
    assert not np.allclose(right[0], right[1])  # it has a state
    np.testing.assert_array_equal([run_float(graph, window, island=second)[0] for window in windows], one)
    first.reset_states()
    np.testing.assert_array_equal(run_float(graph, windows[0], island=first)[0], one[0])
    moved = read(model)  # the state that it has by now
    np.testing.assert_allclose(
        run_float(moved, windows[0], island=IslandRunner(moved))[0], model.predict(windows[0], verbose=0), atol=1e-5
    )


def test_a_file_names_what_a_loader_needs_and_holds_no_code():
    def scaled(x):
        return x / 9.0

    x = keras.Input((6,))
    model = keras.Model(
        x,
        [
            Gate(name="gate")({"x": x, "gate": x}), L.Lambda(scaled, name="by_name")(x),
            L.Lambda(lambda v: v + 1, name="by_lambda")(x)
        ]
    )
    graph = read(model)
    assert (needs(graph) == [
        {"layer": "gate", "class": "Gate"}, {"layer": "by_name", "function": "scaled"},
        {"layer": "by_lambda", "function": "<lambda>"},
    ])
    loaded = parse(to_text(graph), graph.constants)
    assert "__lambda__" not in to_text(graph) and needs(loaded) == needs(graph)
    with pytest.raises(ValueError, match="'gate' cannot be made again.*'Gate' must be registered"):
        IslandRunner(loaded).prepare()
    with keras.saving.custom_object_scope({"Gate": Gate}), pytest.raises(
        ValueError, match="'by_name'.*the function 'scaled', which a file does not hold"
    ):
        IslandRunner(loaded).prepare()


def test_registered_classes_and_functions_load():
    @keras.saving.register_keras_serializable("test_islands")
    def tripled(x):
        return x * 3.0

    x = keras.Input((6,))
    graph = read(keras.Model(x, L.Activation(tripled)(x)))
    assert [entry.get("function") for entry in needs(graph)] == ["test_islands>tripled"]
    loaded = parse(to_text(graph), graph.constants)
    np.testing.assert_allclose(run_float(loaded, NUMBERS, island=IslandRunner(loaded))[0], NUMBERS * 3.0)


def test_the_model_stays_as_it_was():
    x = keras.Input((6,))
    layer = L.Lambda(lambda v: v * 2.0)
    model = keras.Model(x, x * layer(x))
    before = [(len(op._inbound_nodes), len(op._outbound_nodes)) for op in itertools.chain(model.operations)]
    function = layer.function
    build(read(model)).predict(NUMBERS, verbose=0)
    assert (
        [(len(op._inbound_nodes), len(op._outbound_nodes)) for op in model.operations] == before
        and layer.function is function
    )
