"""Signs in low-bit training: a tensor that cannot be negative, by what the layers in front of it mean."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from graffiti.low_bit.network import analyse, is_relu

L, K = keras.layers, keras.ops


def relu(x):
    """A function of the user's that is only called like one of Keras."""
    return -x


class ReLU(L.Layer):
    """A layer of the user's likewise."""

    def call(self, x):
        return -x


FLAT, ROW, IMAGE = (6,), (5, 6), (8, 8, 4)
POSITIVE = {  # name -> (input shape, what stands in front of the compute layer)
    "relu": (FLAT, lambda x: L.ReLU()(x)), "relu6": (FLAT, lambda x: L.ReLU(6.0)(x)),
    "relu threshold": (FLAT, lambda x: L.ReLU(threshold=0.5)(x)),
    "activation": (FLAT, lambda x: L.Activation("relu6")(x)),
    "function": (FLAT, lambda x: L.Activation(keras.ops.relu)(x)),
    "layer in layer": (FLAT, lambda x: L.Activation(L.ReLU(6.0))(x)),
    "dense": (FLAT, lambda x: L.Dense(4, activation="hard_sigmoid")(x)),
    "dense with a layer": (FLAT, lambda x: L.Dense(4, activation=L.ReLU(6.0))(x)),
    "softplus": (FLAT, lambda x: L.Activation("softplus")(x)),
    "exponential": (FLAT, lambda x: L.Activation("exponential")(x)),
    "hard_sigmoid": (FLAT, lambda x: K.hard_sigmoid(x)), "softmax": (FLAT, lambda x: L.Softmax()(x)),
    "sparse_sigmoid": (FLAT, lambda x: L.Activation("sparse_sigmoid")(x)),
    "clip": (FLAT, lambda x: K.clip(x, 0.0, 1.0)), "abs": (FLAT, lambda x: K.abs(x)),
    "reshape": (FLAT, lambda x: K.reshape(K.relu(x), (-1, 3, 2))),
    "transpose": (ROW, lambda x: K.transpose(K.relu(x), (0, 2, 1))),
    "concatenate": (ROW, lambda x: K.concatenate([K.relu(x), K.sigmoid(x)], axis=-1)),
    "expand": (FLAT, lambda x: K.expand_dims(K.relu(x), 1)),
    "sum": (FLAT, lambda x: K.relu(x) + K.sigmoid(x)), "factor": (FLAT, lambda x: K.relu(x) * 0.5 + 1.0),
    "maximum": (FLAT, lambda x: K.maximum(x, K.sigmoid(x))),
    "one minus": (FLAT, lambda x: 1.0 - K.sigmoid(x)), "mean": (ROW, lambda x: K.mean(K.relu(x), axis=1)),
    "pad": (ROW, lambda x: K.pad(K.relu(x), ((0, 0), (1, 1), (0, 0)))),
    "tanh of what is not negative": (FLAT, lambda x: L.Activation("tanh")(K.relu(x))),
    "silu of it": (FLAT, lambda x: K.silu(K.relu(x))),
    "average": (FLAT, lambda x: L.Average()([K.relu(x), K.sigmoid(x)])),
    "minimum": (FLAT, lambda x: L.Minimum()([K.relu(x), K.sigmoid(x)])),
    "multiply": (FLAT, lambda x: L.Multiply()([K.relu(x), K.sigmoid(x)])),
    "repeat": (FLAT, lambda x: L.RepeatVector(2)(K.relu(x))),
    "pools": (IMAGE, lambda x: L.AveragePooling2D(2)(L.MaxPooling2D(2)(L.ZeroPadding2D(1)(K.relu(x))))),
    "upsample": (IMAGE, lambda x: L.UpSampling2D(2)(K.relu(x))),
    "dropout": (FLAT, lambda x: L.Dropout(0.5)(K.relu(x))), "flatten": (IMAGE, lambda x: L.Flatten()(K.relu(x))),
    "lstm": (ROW, lambda x: L.LSTM(4, activation="relu", recurrent_activation="sigmoid")(x)),
    "gru": (ROW, lambda x: L.GRU(4, activation="relu")(x)),
    "rnn": (ROW, lambda x: L.RNN(L.SimpleRNNCell(4, activation="sigmoid"), return_sequences=True)(x)),
    "bidirectional": (ROW, lambda x: L.Bidirectional(L.GRU(4, activation="softplus"))(x)),
    "time": (ROW, lambda x: L.TimeDistributed(L.Dense(4, activation="relu"))(x)),
    "einsum": (ROW, lambda x: L.EinsumDense("abc,cd->abd", (None, 3), activation="relu")(x)),
}
NEGATIVE = {
    "input": (FLAT, lambda x: x), "tanh": (FLAT, lambda x: L.Activation("tanh")(x)),
    "user's relu": (FLAT, lambda x: L.Activation(relu)(x)),
    "dense with the user's relu": (FLAT, lambda x: L.Dense(4, activation=relu)(x)),
    "user's ReLU": (FLAT, lambda x: ReLU()(x)),
    "leaky": (FLAT, lambda x: L.LeakyReLU(0.1)(x)),
    "relu with a slope": (FLAT, lambda x: L.ReLU(negative_slope=0.1)(x)),
    "silu": (FLAT, lambda x: L.Activation("silu")(x)),
    "clip": (FLAT, lambda x: K.clip(x, -1.0, 1.0)), "subtract": (FLAT, lambda x: K.relu(x) - K.sigmoid(x)),
    "one side": (FLAT, lambda x: K.relu(x) + x),
    "concat": (FLAT, lambda x: K.concatenate([K.relu(x), x], axis=-1)),
    "negative factor": (FLAT, lambda x: K.relu(x) * -0.5),
    "batch norm": (FLAT, lambda x: L.BatchNormalization()(K.relu(x))),
    "layer norm": (FLAT, lambda x: L.LayerNormalization()(K.relu(x))),
    "lstm": (ROW, lambda x: L.LSTM(4, activation="relu", recurrent_activation="tanh")(x)),
    "lstm as it is": (ROW, lambda x: L.LSTM(4)(x)),
    "the state of an lstm": (ROW, lambda x: L.LSTM(4, activation="relu", return_state=True)(x)[2]),
    "gru": (ROW, lambda x: L.GRU(4, activation="relu", recurrent_activation="tanh")(x)),
    "gru from a state": (ROW, lambda x: L.GRU(4, activation="relu")(x, initial_state=x[:, 0, :4])),
    "bidirectional": (ROW, lambda x: L.Bidirectional(L.LSTM(4))(x)),
    "multiply": (FLAT, lambda x: L.Multiply()([K.relu(x), x])),
    "minimum": (FLAT, lambda x: L.Minimum()([K.relu(x), x])),
}


def signed(shape, front, dtype: str = "float32") -> bool:
    inputs = keras.Input(shape, dtype=dtype)
    last = L.Dense(2, name="last")
    model = keras.Model(inputs, last(front(inputs)))
    return analyse(model)[id(last)].signed


@pytest.mark.parametrize("name", POSITIVE)
def test_what_cannot_be_negative_has_no_sign(name: str):
    assert not signed(*POSITIVE[name])


@pytest.mark.parametrize("name", NEGATIVE)
def test_what_may_be_negative_has_one(name: str):
    assert signed(*NEGATIVE[name])


def test_bytes_have_none():
    assert not signed(FLAT, lambda x: L.Rescaling(1 / 255)(x), "uint8")
    assert signed(FLAT, lambda x: L.Rescaling(1 / 127.5, -1.0)(x), "uint8")


def test_through_nested_models_and_over_all_calls():
    part_in = keras.Input((6,))
    last = L.Dense(6, name="last")
    part = keras.Model(part_in, last(L.ReLU(6.0)(part_in)), name="part")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, part(part(inputs)))
    assert not analyse(model)[id(last)].signed
    shared = L.Dense(6, name="shared")
    assert analyse(keras.Model(inputs, shared(shared(K.relu(inputs)))))[id(shared)].signed


def test_weights_are_not_looked_at():
    """They are trained: a kernel without negative numbers today says nothing."""
    inputs = keras.Input((6,))
    first, last = L.Dense(6, kernel_initializer="ones"), L.Dense(2)
    model = keras.Model(inputs, last(first(K.relu(inputs))))
    assert (np.asarray(first.kernel) >= 0).all() and analyse(model)[id(last)].signed


def test_what_is_a_relu():
    assert is_relu(L.ReLU()) and is_relu(L.Activation("relu")) and is_relu(L.Activation(keras.ops.relu))
    assert (
        not any(
            map(
                is_relu,
                (
                    L.ReLU(6.0), L.ReLU(negative_slope=0.1), L.Activation("relu6"), L.Activation(relu), ReLU(),
                    L.LeakyReLU(0.0)
                )
            )
        )
    )
