"""One reader for all verbs: what calibrates can be predicted, verified and reported too."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti import user_data
from graffiti.calibration import data as calibration_data

X = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
Y = np.arange(24) % 3


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs), name="small")
    q = graffiti.quantize(model, calibration=X, progress=False)
    return q, graffiti.to_integer(q)


FORMS = {
    "array": lambda: X, "list of one": lambda: [X], "dict": lambda: {"x": X}, "examples": lambda: list(X),
    "numbers": lambda: X.tolist(),
    "tensor": lambda: tf.constant(X), "dataset": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(6),
    "pairs": lambda: [(X[:6], Y[:6]), (X[6:], Y[6:])], "dicts": lambda: [{"x": X[:6]}, {"x": X[6:]}],
    "generator": lambda: ((X[i : i + 6], Y) for i in range(0, 24, 6)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_verb_takes_every_form(net, form):
    q, ig = net
    (read,) = calibration_data.collect(FORMS[form](), q)
    np.testing.assert_array_equal(read, X)
    np.testing.assert_array_equal(ig.predict(FORMS[form]()), ig.predict(X))
    report = graffiti.verify(q, ig, FORMS[form](), ["python"], progress=False)
    assert report.ok and report.examples == 24


@pytest.mark.parametrize("bad", [None, 3, "images.npy", object()])
def test_something_else_is_a_type_error_everywhere(net, bad):
    q, ig = net
    for verb in (
        ig.predict, lambda data: graffiti.verify(q, ig, data, progress=False),
        *([] if bad is None else [lambda data: calibration_data.collect(data, q)])
    ):
        with pytest.raises(TypeError, match="an array, a dict or list of arrays, or a dataset of batches"):
            verb(bad)


def test_labels_beside_the_data(net):
    q, ig = net
    labels = ig.predict(X).argmax(-1)
    for data in (
        (X, labels), ([X], labels), ({"x": X}, labels), [(X[:6], labels[:6]), (X[6:], labels[6:])],
        tf.data.Dataset.from_tensor_slices((X, labels)).batch(6)
    ):
        assert ig.evaluate(data)["accuracy"] == 1.0
    with pytest.raises(ValueError, match="evaluate needs labels"):
        ig.evaluate(X)


def test_whole_numbers_are_taken_where_they_are_whole():
    inputs = user_data.Inputs(("n",), ((None, 2),), ("uint8",))
    assert inputs.arrays(np.float32([[1, 255]]))[0].dtype == np.uint8
    for bad in ([[1, 256]], [[0.5, 1]], [[np.nan, 1]]):
        with pytest.raises(ValueError, match="takes uint8 values"):
            inputs.arrays(np.asarray(bad))


def test_text_and_numbers_are_told_apart():
    inputs = user_data.Inputs(("word", "n"), ((None, 1), (None, 1)), ("string", "float32"))
    words, numbers = np.array([["a"], ["b"]]), np.zeros((2, 1), np.float32)
    np.testing.assert_array_equal(inputs.arrays({"word": words, "n": numbers})[0], words)
    with pytest.raises(ValueError, match="input 'word' takes text, got dtype float32"):
        inputs.arrays([numbers, numbers])
    with pytest.raises(ValueError, match="input 'n' takes float32 numbers, got dtype <U1"):
        inputs.arrays([words, words])
