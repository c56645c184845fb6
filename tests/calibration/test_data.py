"""Every form of calibration data gives the same arrays; every unusable one a sentence."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from graffiti.calibration.data import collect

X = np.random.default_rng(0).normal(size=(20, 4, 3)).astype(np.float32)
Z = np.arange(20, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def one():
    x = keras.Input((4, 3), name="x")
    return keras.Model(x, keras.layers.Flatten()(x))


@pytest.fixture(scope="module")
def two():
    x, z = keras.Input((4, 3), name="x"), keras.Input((1,), name="z")
    return keras.Model([x, z], keras.layers.Concatenate()([keras.layers.Flatten()(x), z]))


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index * 5:index * 5 + 5], np.zeros(5)


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Z)).batch(6)


@pytest.mark.parametrize("make", [
    lambda: X, lambda: tf.constant(X), lambda: [X], lambda: {"x": X}, lambda: X.astype(np.float64), lambda: list(X),
    lambda: X.tolist(),
    lambda: batches(), lambda: batches().map(lambda x, z: x), lambda: batches().map(lambda x, z: (x,)),
    lambda: batches().map(lambda x, z: (x, z, z)),
    lambda: batches().map(lambda x, z: ({"x": x}, z)), lambda: Pairs(), lambda: (X[i:i + 7] for i in range(0, 20, 7)),
    lambda: ((x, None) for x in (X[:9], X[9:])),
    lambda: [(X[:9], Z[:9]), (X[9:], Z[9:])], lambda: [{"x": X[:9]}, {"x": X[9:]}],
])
def test_forms_of_one_input(one, make):
    (got,) = collect(make(), one)
    np.testing.assert_array_equal(got, X)
    assert got.dtype == np.float32


@pytest.mark.parametrize("make", [
    lambda: [((X[:9], Z[:9]), 0), ((X[9:], Z[9:]), 0)], lambda: [X, Z], lambda: (X, Z), lambda: {"z": Z, "x": X},
    lambda: batches().map(lambda x, z: ((x, z), z)), lambda: batches().map(lambda x, z: ({"x": x, "z": z}, z)),
    lambda: (({"x": X[i:i + 5], "z": Z[i:i + 5]}, 0) for i in range(0, 20, 5)),
])
def test_forms_of_two_inputs(two, make):
    x, z = collect(make(), two)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(z, Z)


def test_steps_bound_the_batches(one):
    assert len(collect(batches(), one, steps=2)[0]) == 12
    assert len(collect(batches().repeat(), one, steps=5)[0]) == 26  # batches of 6, 6, 6, 2, 6
    assert len(collect(Pairs(), one, steps=3)[0]) == 15
    assert len(collect(np.zeros((100, 4, 3)), one, steps=2)[0]) == 64


def test_integer_inputs():
    x = keras.Input((2,), dtype="uint8")
    model = keras.Model(x, keras.layers.Rescaling(1 / 255)(x))
    assert collect(np.array([[1, 255]]), model)[0].dtype == np.uint8
    for bad in (np.array([[1, 256]]), np.array([[0.5, 1.0]])):
        with pytest.raises(ValueError, match="uint8"):
            collect(bad, model)


NAN, INF = X.copy(), X.copy()
NAN[3, 1, 1], INF[0, 0, 0] = np.nan, np.inf


@pytest.mark.parametrize(("make", "message"), [
    (lambda: None, "no calibration data"),
    (lambda: X[:0], "no examples"),
    (lambda: batches().take(0), "empty"),
    (lambda: iter(()), "empty"),
    (lambda: batches().repeat(), "endless.*steps="),
    (lambda: NAN, "1 NaN or Inf"),
    (lambda: INF, "1 NaN or Inf"),
    (lambda: batches().map(lambda x, z: x * np.nan), "NaN or Inf"),
    (lambda: X[0], r"batch axis"),
    (lambda: tf.data.Dataset.from_tensor_slices(X), "batch axis"),
    (lambda: X[:, :2], r"\(batch, 4, 3\), got \(20, 2, 3\)"),
    (lambda: X[..., None], r"\(batch, 4, 3\)"),
    (lambda: np.full((2, 4, 3), "a"), "dtype"),
    (lambda: X.astype(np.complex64), "dtype"),
    (lambda: [X, X[:3]], "1 inputs .*got 2 arrays"), (lambda: [X[0], X[1, :2]], "different shapes"),
    (lambda: {"y": X}, "has the inputs x, missing x; got y"),
])
def test_unusable_data(one, make, message):
    with pytest.raises(ValueError, match=message):
        collect(make(), one)


def test_something_else_than_data(one):
    for bad in (3, "images.npy", object()):
        with pytest.raises(TypeError, match="an array, a dict or list of arrays, or a dataset of batches"):
            collect(bad, one)


def test_unusable_data_of_two_inputs(two):
    for bad, message in (
        (X, "2 inputs"), ([X], "2 inputs"), ([X, Z[:5]], "same number"),
        ({"x": X}, "has the inputs x, z, missing z; got x"), ([X, Z, Z], "got 3 arrays")
    ):
        with pytest.raises(ValueError, match=message):
            collect(bad, two)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_bad_steps(one, steps):
    with pytest.raises(ValueError, match="at least 1"):
        collect(X, one, steps)


def test_model_without_symbolic_inputs():
    with pytest.raises(ValueError, match="no symbolic inputs"):
        collect(X, keras.Sequential([keras.layers.Flatten()]))
