"""What users call things: names, nesting and dtypes of outputs and inputs are the model's own, in ``q`` and in the
integer graph.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.graph.printer import parse
from graffiti.keras_io import compat

L = keras.layers
X = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)


def _two(structure):
    i = keras.Input((8,), name="table")
    h = L.Dense(6, activation="relu", name="body")(i)
    return keras.Model(i, structure(L.Dense(2, name="small")(h), L.Dense(3, name="large")(h), h))


def _shape(structure):
    """Nesting and kinds of a structure of arrays."""
    if isinstance(structure, dict):
        return {key: _shape(part) for key, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map(_shape, structure))
    return f"{tuple(structure.shape)} {np.asarray(structure).dtype}"


STRUCTURES = {
    "one": lambda a, b, h: a, "list of one": lambda a, b, h: [a], "lists in a list": lambda a, b, h: [[a]],
    "list": lambda a, b, h: [a, b], "tuple": lambda a, b, h: (a, b), "dict": lambda a, b, h: {"z": a, "k": b},
    "nested": lambda a, b, h: {"z": a, "k": [b]},
    "twice": lambda a, b, h: [a, b, a], "inner too": lambda a, b, h: [h, a],
    "softmax": lambda a, b, h: [L.Softmax(name="p")(a), b],
    "dropout last": lambda a, b, h: [L.Dropout(0.5, name="drop")(a), b],
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_outputs_are_called_and_nested_like_the_models(name, tmp_path):
    model = _two(STRUCTURES[name])
    q = graffiti.quantize(model, calibration=X, progress=False)
    assert q.output_names == model.output_names
    assert {"body", "small"} <= {layer.name for layer in q.layers} and q.get_layer("small").kernel.shape == (6, 2)
    q.save(tmp_path / "q.keras")
    expected = _shape(model(X))
    for other in (q, keras.models.load_model(tmp_path / "q.keras"), keras.models.clone_model(q)):
        assert other.output_names == model.output_names
        got = _shape(other(X))
        # Keras saves lists
        assert (
            got == expected
            or (other is not q and keras.tree.lists_to_tuples(got) == keras.tree.lists_to_tuples(expected))
        )
    ig = graffiti.to_integer(q)
    assert _shape(ig.predict(X, engine="reference")) == expected
    assert parse(ig.to_text(), ig.graph.constants).output_names() == ig.graph.output_names()
    assert len(set(ig.graph.output_names())) == len(ig.graph.outputs)


def test_names_for_files():
    assert (
        graffiti.to_integer(
            graffiti.quantize(_two(STRUCTURES["dict"]), calibration=X, progress=False)
        ).graph.output_names()
        == ["k", "z"]
    )
    assert (
        graffiti.to_integer(
            graffiti.quantize(_two(STRUCTURES["twice"]), calibration=X, progress=False)
        ).graph.output_names()
        == ["small", "large", "small_1"]
    )


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_losses_metrics_and_weights_by_name(structure, tmp_path):
    keys = {"list": ("small", "large"), "dict": ("z", "k")}[structure]
    model = _two(STRUCTURES[structure])
    q = graffiti.quantize(model, calibration=X, progress=False)
    y = {keys[0]: X[:, :2], keys[1]: X[:, 2:5]}
    weights = {keys[0]: np.linspace(0, 1, 16), keys[1]: np.ones(16)}
    q.save(tmp_path / "q.keras")
    found = []
    for other in (model, q, keras.models.load_model(tmp_path / "q.keras")):
        other.compile(
            graffiti.ALT(steps_per_epoch=4), loss={keys[0]: "mse", keys[1]: "mae"},
            loss_weights={keys[0]: 1.0, keys[1]: 100.0}, metrics={keys[0]: ["mse"]}
        )
        other.fit(X, y, sample_weight=weights if structure == "dict" else None, verbose=0)
        found.append(other.evaluate(X, y, verbose=0, return_dict=True))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=0.1), key


NAMES = ["wind speed", "a%b", "ä b", "(x)", "x,y", " lead", "c:1", "d-u20-e", "_x", "w'q"]


@pytest.mark.parametrize("name", NAMES)
def test_inputs_may_have_any_name(name, tmp_path):
    i = keras.Input((8,), name=name)
    model = keras.Model({name: i}, L.Dense(2)(i))
    q = graffiti.quantize(model, calibration={name: X}, progress=False)
    q.save(tmp_path / "q.keras")
    expected = np.asarray(q({name: X}))
    for other in (q, keras.models.load_model(tmp_path / "q.keras")):
        assert [x.name for x in other.inputs] == [name]
        assert np.array_equal(other({name: X}), expected)
        ig = graffiti.to_integer(other)
        assert ig.graph.inputs == [name]
        assert np.array_equal(ig.predict({name: X}, engine="reference"), expected)


@pytest.mark.parametrize("value", [*NAMES, "plain", "inner/layer", "-u20-", "-u0020-", "a-u61-b", "-u-"])
def test_names_of_layers_are_read_back(value):
    layer = compat.layer_name(value)
    assert not set(" %(,)'ä") & set(layer)
    assert compat.layer_name(compat.value_name(layer)) == layer
    if "-u20-" not in value:  # a layer of that name reads as a space, and is written as it was
        assert compat.value_name(layer) == value.replace(":", ".")


def test_integer_outputs_stay_integers():
    i = keras.Input((8,))
    h = L.Dense(4, name="scores")(i)
    model = keras.Model(i, [keras.ops.argmax(h, axis=-1), h])
    q = graffiti.quantize(model, calibration=X, progress=False)
    expected, got = q.predict(X, verbose=0), graffiti.to_integer(q).predict(X, engine="reference")
    assert _shape(got) == _shape(expected) == _shape(model(X))
    assert all(np.array_equal(a, b) for a, b in zip(got, expected))
