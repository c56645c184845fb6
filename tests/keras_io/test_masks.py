"""Masks: the loss of a quantized model leaves out what the float model's leaves out, and layers that take a mask get
it.
"""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

import graffiti
from graffiti.keras_io.build import build
from graffiti.keras_io.read import read

L = keras.layers
RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 9, (24, 7))
IDS[:, 4:] = 0
ROWS = RNG.standard_normal((24, 7, 5)).astype(np.float32)
ROWS[:, 5:] = 0


def _embedded(rest):
    i = keras.Input((7,), dtype="int32", name="ids")
    keras.utils.set_random_seed(0)
    return keras.Model(i, rest(L.Embedding(10, 6, "normal", mask_zero=True, name="words")(i)))


def _masked(rest):
    i = keras.Input((7, 5), name="rows")
    return keras.Model(i, rest(L.Masking(name="masking")(i)))


def _inner(rest, shape=(7, 6)):
    i = keras.Input(shape)
    return keras.Model(i, rest(i), name="inner")


def _encoder():
    i, j = keras.Input((7,), dtype="int32"), keras.Input((7,), dtype="int32")
    return keras.Model(
        i, L.Dense(3, name="out")(keras.Model(j, L.Embedding(10, 6, mask_zero=True)(j), name="encoder")(i))
    )


def _out(t):
    return L.Dense(3, name="out")(t)


@keras.saving.register_keras_serializable("masks")
class Block(L.Layer):
    """A user's block: the attention inside looks at the mask that hangs on its input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = L.MultiHeadAttention(2, 3, name="attention")

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return x + self.attention(x, x)


@keras.saving.register_keras_serializable("masks")
class MaskedBlock(Block):
    """The same, with an argument for the mask."""

    def call(self, x, mask=None):
        y = super().call(x)
        return y if mask is None else y * keras.ops.cast(mask, "float32")[..., None]


@keras.saving.register_keras_serializable("masks")
class Attention(L.MultiHeadAttention):
    """A user's own attention."""


def _attention(t, kind=L.MultiHeadAttention, **call):
    return L.LayerNormalization()(t + kind(2, 3, name="attention", use_bias=False)(t, t, **call))


def _inside(t):
    inner = _inner(lambda i: L.MultiHeadAttention(2, 3, name="attention")(i, i))
    return _out(_attention(L.Add()([t, inner(t)])))


def _crossed(t):
    other = L.Dense(6, name="other")(keras.ops.ones_like(t))
    return _out(L.MultiHeadAttention(2, 3, name="attention")(other, t))


WIRINGS = {  # -> the model, its data, whether its output has a mask
    "dense": (lambda: _embedded(_out), IDS, True),
    "dropout and a table": (
        lambda: _embedded(lambda t: _out(L.Dropout(0.1)(L.Dense(4, activation="tanh")(t)))), IDS, True
    ),
    "softmax in a layer": (
        lambda: _embedded(lambda t: L.Dense(3, activation="softmax", name="out")(L.Add()([t, L.Dense(6)(t)]))), IDS,
        True
    ),
    "lstm, sequences": (lambda: _embedded(lambda t: _out(L.LSTM(4, return_sequences=True)(t))), IDS, True),
    "lstm, last": (lambda: _embedded(lambda t: _out(L.LSTM(4)(t))), IDS, False),
    "time distributed": (
        lambda: _embedded(lambda t: _out(L.TimeDistributed(L.Dense(5, activation="relu"))(t))), IDS, True
    ),
    "mean over the kept": (lambda: _embedded(lambda t: _out(L.GlobalAveragePooling1D()(t))), IDS, False),
    "conv drops it": (lambda: _embedded(lambda t: L.Conv1D(3, 1, name="out")(t)), IDS, False),
    "batch norm": (lambda: _embedded(lambda t: _out(L.BatchNormalization()(t))), IDS, True),
    "inner model behind": (
        lambda: _embedded(lambda t: _out(_inner(L.Dense(4, activation="relu", name="d"))(t))), IDS, True
    ),
    "inner model with it": (_encoder, IDS, True),
    "attention": (lambda: _embedded(lambda t: _out(L.MultiHeadAttention(2, 3, name="attention")(t, t))), IDS, True),
    "attention in a sum": (lambda: _embedded(lambda t: _out(_attention(t))), IDS, False),
    "attention behind a dense layer": (
        lambda: _embedded(lambda t: _out(_attention(L.Dense(6, name="d")(t)))), IDS, False
    ),
    "causal attention": (
        lambda: _embedded(lambda t: _out(_attention(L.Dense(6, name="d")(t), use_causal_mask=True))), IDS, False
    ),
    "attention of a user's": (
        lambda: _embedded(lambda t: _out(_attention(L.Dense(6, name="d")(t), Attention))), IDS, False
    ),
    "attention of two": (lambda: _embedded(_crossed), IDS, False),
    "attention twice": (
        lambda: _embedded(
            lambda t: L.GlobalAveragePooling1D()(_attention(L.Add()([t, L.MultiHeadAttention(2, 3)(t, t)])))
        ),
        IDS, False
    ),
    "attention twice on one": (
        lambda: _embedded(lambda t: _out(L.Concatenate()([L.MultiHeadAttention(2, 3)(t, t), _attention(t)]))), IDS,
        False
    ),
    "attention, then a mean": (
        lambda: _embedded(lambda t: _out(L.GlobalAveragePooling1D()(L.Add()([t, L.MultiHeadAttention(2, 3)(t, t)])))),
        IDS, False
    ),
    "attention in a model inside": (lambda: _embedded(_inside), IDS, False),
    "maximum": (lambda: _embedded(lambda t: _out(L.Maximum()([t, L.Dense(6, name="d")(t)]))), IDS, True),
    "minimum": (lambda: _embedded(lambda t: _out(L.Minimum()([t, L.Dense(6, name="d")(t)]))), IDS, True),
    "product": (lambda: _embedded(lambda t: _out(L.Multiply()([t, L.Dense(6, name="d")(t)]))), IDS, True),
    "a block with attention": (
        lambda: _embedded(lambda t: _out(Block(name="block")(L.Dense(6, name="d")(t)))), IDS, False
    ),
    "a block that takes a mask": (
        lambda: _embedded(lambda t: _out(MaskedBlock(name="block")(L.Dense(6, name="d")(t)))), IDS, False
    ),
    "grouped attention": (
        lambda: _embedded(lambda t: _out(L.GroupQueryAttention(3, 2, 1)(L.Dense(6, name="d")(t), t))), IDS, True
    ),
    "masking": (lambda: _masked(_out), ROWS, True),
    "masking, gru": (lambda: _masked(lambda t: _out(L.GRU(4, return_sequences=True)(t))), ROWS, True),
    "no mask": (lambda: keras.Sequential([keras.Input((7, 5)), L.Dense(3, name="out")]), ROWS, False),
}


def _mask(outputs):
    mask = getattr(outputs, "_keras_mask", None)
    return None if mask is None else np.asarray(mask)


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_loss_sees_the_same_mask(wiring, tmp_path):
    make, data, has_mask = WIRINGS[wiring]
    model = make()
    nodes = [len(layer._outbound_nodes) for layer in model.layers]
    q = graffiti.quantize(model, calibration=data, progress=False)
    assert nodes == [len(layer._outbound_nodes) for layer in model.layers], "the model is not changed"
    expected = _mask(model(data))
    assert (expected is not None) == has_mask
    right, got = (part.predict(data, verbose=0).astype(np.float64) for part in (model, q))
    assert np.square(right - got).sum() < 10**-2 * np.square(right).sum(), "20 dB"
    graph, y = read(q), RNG.standard_normal((24, *model.output_shape[1:]))
    y[:, 5:] = 1e3  # under the padding
    q.save(tmp_path / "q.keras")
    losses = []
    for other in (model, q, keras.models.load_model(tmp_path / "q.keras"), build(graph)):
        got = _mask(other(data))
        assert (got is None) == (expected is None) and (got is None or np.array_equal(got, expected))
        other.compile("sgd", "mse")
        losses.append(other.evaluate(data, y, verbose=0))
    assert losses[1:] == pytest.approx([losses[0]] * 3, rel=0.02)
    assert not has_mask or losses[0] < 100
    for other in (keras.models.clone_model(q), build(graph)):
        got = read(other)
        assert (
            got.interface == graph.interface
            and [(n.op, n.name, n.inputs) for n in got.nodes] == [(n.op, n.name, n.inputs) for n in graph.nodes]
        )
    got = graffiti.to_integer(q).predict(data, engine="reference")
    assert np.allclose(got, q.predict(data, verbose=0), rtol=0, atol=1e-6), "and what takes a mask takes it there too"


def test_no_warning_of_a_destroyed_mask():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        graffiti.quantize(_embedded(_out), calibration=IDS, progress=False)(IDS)
