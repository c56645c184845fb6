"""Every model of the zoo through the whole line: quantize, train a little, lower, and every integer agrees."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo

import graffiti

# int8: trained, below
SCHEMES = ("int8_per_channel", "graffitist_int8", "int4", pytest.param("w4a4", marks=pytest.mark.slow))


def quantized(factory, scheme, seed=0):
    model = zoo.make(factory, seed)
    return model, graffiti.quantize(model, scheme, calibration=zoo.inputs_of(model, 32, seed), progress=False)


def hostile(model, count, seed):
    """Inputs far outside the calibrated range, so that everything saturates somewhere."""
    values = zoo.inputs_of(model, count, seed)
    return [v * 50 for v in values] if isinstance(values, list) else values * 50


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("factory", zoo.ZOO, ids=lambda f: f.__name__)
def test_every_integer_agrees(factory, scheme):
    model, q = quantized(factory, scheme)
    before = [np.array(w) for w in model.get_weights()]
    ig = graffiti.to_integer(q)
    for data in (zoo.inputs_of(model, 20, seed=1), hostile(model, 6, seed=2)):
        report = graffiti.verify(q, ig, data, ["reference", "native", "ops", "python"], progress=False)
        assert report.ok, str(report)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def train(q, inputs):
    targets = q(inputs)
    loss = {k: "mse" for k in targets} if isinstance(targets, dict) else "mse"
    q.compile(graffiti.ALT(weight_learning_rate=1e-3, steps_per_epoch=4, batch_size=8), loss=loss)
    targets = (
        {k: np.asarray(v) * 0.9 for k, v in targets.items()} if isinstance(targets, dict) else np.asarray(targets) * 0.9
    )
    q.fit(inputs, targets, batch_size=8, epochs=2, verbose=0, callbacks=graffiti.callbacks.alt())


# the others run with -m slow: a training of each is half a minute
TRAINED = [zoo.resnet, zoo.moves, zoo.islands, zoo.tables, zoo.two_inputs_two_outputs]


@pytest.mark.parametrize(
    "factory", [f if f in TRAINED else pytest.param(f, marks=pytest.mark.slow) for f in zoo.ZOO],
    ids=lambda f: f.__name__
)
def test_after_training_every_engine_and_file_gives_the_same_bits(factory, tmp_path):
    """One training for all that int8 must show: the exact engines, C, the saved model, the saved graph."""
    model, q = quantized(factory, "int8")
    before = [np.array(w) for w in model.get_weights()]
    train(q, zoo.inputs_of(model, 32))
    ig = graffiti.to_integer(q)
    exact = ["reference", "native", "ops", "python"]
    if q.quantization_report.of("float") and factory is zoo.islands:
        with pytest.raises(ValueError, match="float_norm"):
            ig.export(tmp_path / "c", format="c")
    else:
        exact.append("c")
    for data in (zoo.inputs_of(model, 20, seed=1), hostile(model, 6, seed=2)):
        report = graffiti.verify(q, ig, data, exact, progress=False)
        assert report.ok, str(report)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)

    data = zoo.inputs_of(model, 16, seed=3)
    q.save(tmp_path / "q.keras")
    again = keras.models.load_model(tmp_path / "q.keras")
    for a, b in zip(keras.tree.flatten(q.predict(data, verbose=0)), keras.tree.flatten(again.predict(data, verbose=0))):
        np.testing.assert_array_equal(a, b)
    assert graffiti.to_integer(again).digest() == ig.digest()
    ig.save(tmp_path / "net.graffiti")
    loaded = graffiti.IntegerGraph.load(tmp_path / "net.graffiti")
    assert loaded.digest() == ig.digest() and loaded.to_text() == ig.to_text()
    for a, b in zip(keras.tree.flatten(ig.predict(data)), keras.tree.flatten(loaded.predict(data))):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factory", [f for f in zoo.ZOO if f is not zoo.islands], ids=lambda f: f.__name__)
def test_quantized_stays_close_to_float(factory):
    """An accuracy statement: static int8 keeps the signal at 15 dB or more on typical inputs."""
    model, q = quantized(factory, "int8_per_channel")
    data = zoo.inputs_of(model, 64, seed=4)
    for a, b in zip(keras.tree.flatten(model.predict(data, verbose=0)), keras.tree.flatten(q.predict(data, verbose=0))):
        noise = np.mean((a - b) ** 2) + 1e-30
        assert 10 * np.log10(np.mean(a**2) / noise) > 15
