"""Values of a whole calibration set in bounded memory, and methods that walk over their blocks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti
from graffiti.calibration import calibrate, methods, values
from graffiti.calibration.values import Flat, Spool, Values

L = keras.layers


def spilled(array: np.ndarray, cuts: int, budget: int) -> tuple[Values, Spool]:
    spool = Spool(budget)
    found = Values(spool)
    for chunk in np.array_split(array, cuts):
        found.append(chunk)
    return found, spool


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64, np.float64, np.bool_])
def test_what_does_not_fit_comes_back_as_it_was(dtype):
    array = (np.random.default_rng(0).standard_normal((101, 3, 2)) * 100).astype(dtype)
    found, spool = spilled(array, 7, array.nbytes // 3)
    assert 0 < spool.held <= spool.budget and found.examples == 101 and found.count == array.size
    for _ in range(2):
        back = found.array()
        assert back.dtype == dtype and np.array_equal(back, array)
    found.drop()
    assert spool.held == 0


@pytest.mark.parametrize("size", [1, 5, 16, 101, 500])
def test_other_chunks(size):
    array = np.arange(202).reshape(101, 2)
    chunks = list(spilled(array, 7, 100)[0].rechunked(size).chunks())
    assert [len(chunk) for chunk in chunks] == [len(array[k : k + size]) for k in range(0, 101, size)]
    assert np.array_equal(np.concatenate(chunks), array)


def test_each_reader_drops_once():
    found, spool = spilled(np.zeros(10, np.float32), 1, 1000)
    found.keep()
    found.drop()
    assert spool.held == 40 and found.array().size == 10
    found.drop()
    assert spool.held == 0


@pytest.mark.parametrize("name", methods.METHODS)
def test_blocks_give_the_threshold_of_the_whole(name):
    x = np.random.default_rng(0).standard_normal(70_001).astype(np.float32)
    method = methods.get(name)
    want = {
        "max": np.abs(x).max(), "3sd": abs(x.mean(dtype=float)) + 3 * x.std(dtype=float),
        "percentile": np.percentile(np.abs(x), 99.9)
    }
    for bits, signed in ((8, True), (4, False)):
        whole = method(x, bits=bits, signed=signed)
        parts = method(Flat([spilled(x[:30_000], 7, 1000)[0], x[30_000:]]), bits=bits, signed=signed)
        assert parts == pytest.approx(whole, rel=1e-12)
        assert name not in want or whole == pytest.approx(float(want[name]), rel=1e-6)


def test_the_budget_does_not_change_thresholds(monkeypatch):
    """Two branches, shared thresholds, a narrow accumulator: every way in which values are kept."""
    x = np.random.default_rng(0).standard_normal((150, 8, 8, 3)).astype("float32")
    image = keras.Input((8, 8, 3))
    a = L.Conv2D(4, 3, padding="same", activation="relu")(image)
    b = L.BatchNormalization()(L.Conv2D(4, 1)(image))
    model = keras.Model(image, L.Dense(2)(L.GlobalAveragePooling2D()(L.Add()([a, b]))))
    for scheme in ("int8", "graffitist_int8"):
        found = []
        for budget in (1 << 30, 0):
            monkeypatch.setattr(values.Spool.__init__, "__defaults__", (budget,))
            batches = (x[k : k + 32] for k in range(0, 150, 32))
            q = graffiti.quantize(model, scheme, calibration=batches, progress=False)
            found.append(
                {
                    name: layer.log2_threshold.numpy().tolist()
                    for name, layer in graffiti.callbacks.quantizers_of(q).items()
                }
            )
        assert found[0] == found[1]


def test_large_tensors_run_in_small_chunks(monkeypatch):
    monkeypatch.setattr(calibrate, "_CHUNK_BYTES", 8 * 8 * 16 * 4 * 3)
    seen = []

    @keras.saving.register_keras_serializable("test_values")
    class Watch(L.Layer):
        def call(self, x):
            if not isinstance(x, keras.KerasTensor) and hasattr(x, "numpy"):
                seen.append(len(x))
            return x

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, L.Dense(2)(L.Flatten()(Watch()(L.Conv2D(16, 3, padding="same")(image)))))
    graffiti.quantize(model, "int8", calibration=np.zeros((10, 8, 8, 3), "float32") + 0.5, progress=False)
    assert seen == [3, 3, 3, 1]
