"""Networks with float layers in them, from the Keras model to the integer graph: equal on every engine, or one
sentence.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.keras_io import compat

L, K = keras.layers, keras.ops
ENGINES = ("native", "python", "reference")


def images(count: int = 8, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels)).astype(np.float32)


def quantized(model: keras.Model, x, **options) -> tuple[keras.Model, graffiti.IntegerGraph]:
    """The quantized model and its integer graph, which predict the same on every engine."""
    q = graffiti.quantize(model, "int8", calibration=x, progress=False, **options)
    ig = graffiti.to_integer(q)
    # Keras' predict takes no arrays of text
    text = isinstance(x, dict) and any(part.dtype.kind == "U" for part in x.values())
    right = keras.tree.flatten(
        q({name: keras.ops.convert_to_tensor(part) for name, part in x.items()}) if text else q.predict(x, verbose=0)
    )
    right = [keras.ops.convert_to_numpy(part) for part in right]
    for engine in ENGINES:
        got = keras.tree.flatten(ig.predict(x, engine=engine))
        for mine, theirs in zip(got, right, strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine, theirs, atol=2e-6, rtol=1e-6)
    return q, ig


def sqnr(right, got) -> float:
    return float(10 * np.log10((np.square(right).sum() + 1e-12) / (np.square(right - got).sum() + 1e-12)))


def test_augmentation_is_dropped_with_a_line():
    def augmented(x, y):
        x = L.RandomZoom(0.1, name="zoom")(L.RandomRotation(0.1, name="turn")(L.RandomFlip(name="flip")(x)))
        return L.RandomContrast(0.2, name="contrast")(L.Conv2D(4, 3, name="conv")(L.Rescaling(1 / 255)(x))) if y else x

    i = keras.Input((8, 8, 3))
    model = keras.Model(i, L.Dense(3)(L.Flatten()(augmented(i, True))))
    q, ig = quantized(model, images())
    assert [line.layer for line in q.quantization_report.of("dropped")] == ["flip", "turn", "zoom", "contrast"]
    assert ig.is_integer_only and sqnr(model.predict(images(), verbose=0), ig.predict(images())) > 20


def test_only_what_does_nothing_is_dropped():
    x = keras.KerasTensor((None, 8, 8, 3))
    idle = [
        L.RandomFlip(), L.RandomRotation(0.2), L.RandomZoom(0.2), L.RandomContrast(0.3), L.RandomTranslation(0.1, 0.1),
        L.RandomBrightness(0.2),
        L.RandomShear(0.1), L.RandomHue(0.2), L.RandomSaturation(0.2), L.RandomErasing(0.5), L.RandomGrayscale(0.5),
        L.RandomCrop(8, 8),
    ]
    busy = [
        L.Resizing(4, 4), L.CenterCrop(4, 4), L.RandomCrop(6, 6), L.Equalization(), L.AutoContrast(),
        L.Solarization(addition_factor=0.5, threshold_factor=0.5)
    ]
    assert [compat.is_idle(layer, x) for layer in idle] == [True] * len(idle)
    assert not any(compat.is_idle(layer, x) and not _identity(layer) for layer in busy)


def _identity(layer) -> bool:
    """Whether Keras itself skips it at inference."""
    x = images() / 2
    y = keras.ops.convert_to_numpy(layer(x, training=False))
    return x.shape == y.shape and np.array_equal(x, y)


def test_models_in_which_nothing_is_quantized():
    i = keras.Input((6, 3))
    x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
    for outputs, rules in (
        (L.LSTM(4)(i), None), (i, None), (L.Softmax()(i), None), (L.Dense(2, name="d")(i), [graffiti.Rule("d", None)]),
        ([L.Identity()(i), L.GRU(2)(i)], None),
    ):
        model = keras.Model(i, outputs)
        q, ig = quantized(model, x, rules=rules)
        assert not ig.is_integer_only
        for mine, theirs in zip(
            keras.tree.flatten(ig.predict(x)), keras.tree.flatten(model.predict(x, verbose=0)), strict=True
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_integer_only_is_said_of_integers_only():
    i = keras.Input((6,))
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    inside = keras.Model(i, L.Dense(3)(L.Softmax()(L.Dense(6)(i))))
    at_the_end = keras.Model(i, L.Dense(3, activation="softmax")(L.Dense(6)(i)))
    both = keras.Model(i, [s := L.Softmax()(L.Dense(6)(i)), L.Dense(2)(s)])
    assert [quantized(model, x)[1].is_integer_only for model in (inside, at_the_end, both)] == [False, True, False]


def test_saved_and_loaded(tmp_path):
    i = keras.Input((6, 3))
    x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype(np.float32)
    q, ig = quantized(keras.Model(i, L.LSTM(4)(i)), x)
    q.save(tmp_path / "q.keras")
    ig.save(tmp_path / "n.graffiti")
    again = graffiti.to_integer(keras.saving.load_model(tmp_path / "q.keras"))
    for other in (again, graffiti.IntegerGraph.load(tmp_path / "n.graffiti")):
        np.testing.assert_array_equal(other.predict(x), ig.predict(x))

    class Unregistered(L.Layer):
        def call(self, x):
            return x * 2.0

    _, ig = quantized(keras.Model(i, L.Dense(2)(Unregistered(name="mine")(i))), x)
    ig.save(tmp_path / "m.graffiti")
    with pytest.raises(ValueError, match="'mine' cannot be made again.*'Unregistered' must be registered"):
        graffiti.IntegerGraph.load(tmp_path / "m.graffiti")
    with keras.saving.custom_object_scope({"Unregistered": Unregistered}):
        np.testing.assert_array_equal(graffiti.IntegerGraph.load(tmp_path / "m.graffiti").predict(x), ig.predict(x))


def test_text_and_numbers():
    word, number = keras.Input((1,), dtype="string", name="word"), keras.Input((3,), name="number")
    lookup = L.StringLookup()
    lookup.adapt(np.array([["a"], ["b"], ["a"]]))
    y = L.Concatenate()([L.Flatten()(L.Embedding(10, 4)(lookup(word))), number])
    model = keras.Model([word, number], L.Dense(2)(y))
    x = {
        "word": np.array([["a"], ["b"]] * 8), "number": np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    }
    _, ig = quantized(model, x)
    tensors = {name: keras.ops.convert_to_tensor(value) for name, value in x.items()}
    assert sqnr(keras.ops.convert_to_numpy(model(tensors)), ig.predict(x)) > 25
    assert graffiti.verify(None, ig, x, ["native", "python"], progress=False).mismatches == 0
    with pytest.raises(ValueError, match="'word' takes text, .*dtype float"):
        graffiti.quantize(model, "int8", calibration={**x, "word": np.zeros((16, 1))}, progress=False)
    with pytest.raises(ValueError, match="'number' takes float32 numbers, .*dtype <U"):
        graffiti.quantize(model, "int8", calibration={**x, "number": np.full((16, 3), "a")}, progress=False)
    with pytest.raises(ValueError, match="'word' takes text"):
        ig.predict({**x, "word": np.zeros((16, 1))})


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_moved_integers_stay_exact(dtype: str):
    i = keras.Input((4,), dtype=dtype)
    moved = L.Reshape((2, 2))(i)
    y = L.Dense(2)(L.Flatten()(L.Embedding(200, 3)(moved)))
    x = np.random.default_rng(0).integers(0, 200, (16, 4)).astype(dtype)
    model = keras.Model(i, [y, K.argmax(L.Dense(3)(y), axis=-1), moved])
    _, ig = quantized(model, x)
    outputs = ig.predict(x)
    assert sqnr(model.predict(x, verbose=0)[0], outputs[0]) > 25
    assert (
        [out.dtype for out in outputs] == [out.dtype for out in model.predict(x, verbose=0)]
        and outputs[2].dtype == dtype and np.array_equal(outputs[2].reshape(-1, 4), x)
    )


def test_an_axis_folded_into_the_batch_and_out_again():
    i = keras.Input((5, 8, 8, 3))
    side = L.Conv3D(2, 3)(i)
    t = L.Flatten()(L.Conv2D(4, 3)(K.reshape(i, (-1, 8, 8, 3))))
    y = L.Dense(2)(K.reshape(t, (-1, 5, 144)))
    model = keras.Model(i, [y, L.Flatten()(side)])
    x = np.random.default_rng(0).normal(size=(6, 5, 8, 8, 3)).astype(np.float32)
    _, ig = quantized(model, x)
    assert sqnr(model.predict(x, verbose=0)[0], ig.predict(x)[0]) > 20


def test_stateful_layers_carry_their_state_and_begin_where_the_model_was():
    i = keras.Input(batch_shape=(2, 5, 4))
    model = keras.Model(i, L.Dense(2)(L.GRU(6, stateful=True, name="gru")(i)))
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
    for start in (0, 1):  # a fresh model, and one that has seen something
        if start:
            model.predict(x[:2], batch_size=2, verbose=0)
        state = keras.ops.convert_to_numpy(model.get_layer("gru").states[0])
        q = graffiti.quantize(model, "int8", calibration=x, progress=False)
        assert (
            np.array_equal(keras.ops.convert_to_numpy(q.get_layer("gru").states[0]), state)
            and np.any(state) == bool(start)
        )
        graffiti.calibrate(q, x, progress=False)
        ig = graffiti.to_integer(q)
        with compat.kept_state(q):
            right = [q.predict(x[k : k + 2], batch_size=2, verbose=0) for k in range(0, 8, 2)]
        np.testing.assert_allclose([ig.predict(x[k : k + 2]) for k in range(0, 8, 2)], right, atol=1e-6)
        q.predict(x[:2], batch_size=2, verbose=0)  # the proof starts where the graph does, wherever q is by now
        moved = keras.ops.convert_to_numpy(q.get_layer("gru").states[0])
        assert graffiti.verify(q, ig, x, ["native", "python"], batch_size=2, progress=False).mismatches == 0
        assert np.array_equal(keras.ops.convert_to_numpy(q.get_layer("gru").states[0]), moved)
    ig.reset_states()
    model.get_layer("gru").reset_states()
    np.testing.assert_array_equal(
        ig.predict(x[:2]),
        graffiti.to_integer(graffiti.quantize(model, "int8", calibration=x, progress=False)).predict(x[:2])
    )


def test_subclassed_models():
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(3)

        def call(self, x):
            return K.relu(self.dense(x))

    class Two(Net):
        def call(self, left, right):
            return self.dense(left) + self.dense(right)

    class TwoBuilt(Two):
        def build(self, left_shape, right_shape):
            self.dense.build(left_shape)

    class Named(Net):
        def call(self, x):
            return {"sum": self.dense(x["a"]) + self.dense(x["b"])}

    class Untraceable(Net):
        def call(self, x):
            return self.dense(x) if float(keras.ops.convert_to_numpy(keras.ops.sum(x))) > 0 else x

    x = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    built, two, named, forgotten = Net(), TwoBuilt(), Named(), Two(name="forgotten")
    built.build((None, 4))
    two(x, right=x)
    forgotten(x, right=x)
    named({"a": x, "b": x})
    assert sqnr(keras.ops.convert_to_numpy(built(x)), quantized(built, x)[1].predict(x)) > 25
    q = graffiti.quantize(named, "int8", calibration={"a": x, "b": x}, progress=False)
    assert (
        sqnr(
            keras.ops.convert_to_numpy(named({"a": x, "b": x})["sum"]),
            graffiti.to_integer(q).predict({"a": x, "b": x})["sum"]
        )
        > 25
    )
    q = graffiti.quantize(two, "int8", calibration=[x, x], progress=False)
    assert sqnr(keras.ops.convert_to_numpy(two(x, right=x)), graffiti.to_integer(q).predict([x, x])) > 25
    bad = Untraceable(name="bad")
    bad(x)
    # Keras keeps the first shape only
    with pytest.raises(ValueError, match="'forgotten' cannot be traced on symbolic inputs .*'right'"):
        graffiti.quantize(forgotten, "int8", calibration=[x, x], progress=False)
    with pytest.raises(ValueError, match="'bad' (cannot be traced on symbolic inputs|does not know its input shape)"):
        graffiti.quantize(bad, "int8", calibration=x, progress=False)


def test_rules_that_name_inputs_and_dropped_layers():
    i = keras.Input((6,), name="x")
    y = L.GaussianNoise(0.1, name="noise")(L.Dropout(0.1, name="drop")(L.Dense(4, name="first")(i)))
    model = keras.Model(i, L.Dense(2, name="second")(y))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    wide = graffiti.schemes.get("int8")
    wide = wide.replace(activations=wide.activations.replace(bits=12), name="wide")
    rules = [graffiti.Rule("drop", None), graffiti.Rule(L.GaussianNoise, None), graffiti.Rule("x", wide)]
    q, ig = quantized(model, x, rules=rules)
    assert (
        {"drop", "noise"} <= {layer.name for layer in q.layers} and not q.quantization_report.of("dropped")
    ), "they act in training"
    assert ig.graph.format("x_q").bits == 12 and ig.graph.format("second_q").bits == 8
    with pytest.raises(ValueError, match="names the input 'x', which computes nothing.*'first"):
        graffiti.quantize(model, "int8", calibration=x, rules=[graffiti.Rule("x", None)], progress=False)
    with pytest.raises(ValueError, match="matches no layer"):
        graffiti.quantize(model, "int8", calibration=x, rules=[graffiti.Rule("nobody", None)], progress=False)
