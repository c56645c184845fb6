"""Files that exist keep loading, and compute what they computed: ``tests/data``, written by older commits of the
package.
"""

from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

import graffiti

FOLDERS = sorted(path for path in (pathlib.Path(__file__).parent / "data").glob("written_by_*"))
QUANTIZED = [path for folder in FOLDERS for path in sorted(folder.glob("*.graffiti"))]
LOW_BIT = [path for folder in FOLDERS for path in sorted(folder.glob("low_bit_*.keras"))]


def stored(path: pathlib.Path, prefix: str) -> list[np.ndarray]:
    with np.load(path.with_suffix(".npz")) as arrays:
        return [
            arrays[key] for key in sorted(arrays.files, key=lambda key: (key[0], int(key[1:] or 0)))
            if key.startswith(prefix)
        ]


def data(path: pathlib.Path) -> np.ndarray:
    with np.load(path.with_suffix(".npz")) as arrays:
        return arrays["x"].astype(np.float32)


def same(result, right: list[np.ndarray], *, atol: float = 0.0) -> None:
    for mine, theirs in zip(keras.tree.flatten(result), right, strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs, rtol=0, atol=atol)


def test_there_are_files():
    assert len(QUANTIZED) >= 4 and len(LOW_BIT) >= 2


@pytest.mark.parametrize("path", QUANTIZED, ids=lambda path: path.stem)
def test_a_quantized_model_and_its_graph(path):
    x = data(path)
    floats = 1e-6  # a softmax, a GRU: float kernels of this TensorFlow
    q = keras.models.load_model(path.with_suffix(".keras"))
    same(q.predict(x, verbose=0), stored(path, "q"), atol=floats)
    graph = graffiti.IntegerGraph.load(path)
    for ig in (graffiti.to_integer(q), graph):
        same(ig.predict(x), stored(path, "i"), atol=floats)
    assert graffiti.verify(q, graph, x, ["native", "python"], progress=False).mismatches == 0


def test_retraining_goes_on():
    path = next(path for path in QUANTIZED if path.stem == "vision")
    q = keras.models.load_model(path.with_suffix(".keras"))
    step = int(q.optimizer.iterations)
    q.fit(data(path), np.arange(8) % 3, batch_size=4, epochs=1, verbose=0, callbacks=graffiti.callbacks.alt())
    assert step == 4 and int(q.optimizer.iterations) == 6


@pytest.mark.parametrize("path", LOW_BIT, ids=lambda path: path.stem)
def test_a_network_in_low_bits(path):
    t = keras.models.load_model(path)
    x = data(path)
    same(t.predict(x, verbose=0), stored(path, "q"), atol=1e-6)
    same(graffiti.strip(t).predict(x, verbose=0), stored(path, "f"), atol=1e-6)
    t.fit(x, np.zeros((8, 3)), batch_size=4, epochs=1, verbose=0, shuffle=False)
    same(t.get_weights(), stored(path, "w"), atol=1e-6)
