"""graffiti.tfmot.convert: Keras 2 models become equal Keras 3 models."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import graffiti


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras")


def assert_equal(old, new, seed=0):
    rng = np.random.RandomState(seed)
    inputs = [rng.normal(size=(4, *tensor.shape[1:])).astype(np.float32) for tensor in old.inputs]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    expected, got = old(inputs), new(inputs)
    for a, b in zip(*(list(v) if isinstance(v, (list, tuple)) else [v] for v in (expected, got))):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


def test_every_layer_kind_nested_shared_and_functions(tf_keras):
    import tensorflow as tf

    layers = tf_keras.layers
    image, vector = tf_keras.Input((8, 8, 3), name="image"), tf_keras.Input((5,), name="vector")
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name="c")(image)))
    shared = layers.Conv2D(4, 1, name="shared")
    y = layers.Add()([shared(x), shared(shared(x))])
    y = tf.nn.relu(y) + x + x
    inner = tf_keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(5, activation="relu")], name="inner")
    z = layers.Concatenate()([inner(y), layers.Dense(3, activation="tanh")(vector)])
    y = layers.LeakyReLU(0.2)(layers.DepthwiseConv2D(3)(y))
    y = layers.Conv2DTranspose(3, 3)(layers.SeparableConv2D(6, 3)(y))
    old = tf_keras.Model([image, vector], [z, y])
    for weight in old.weights:
        weight.assign(weight + tf.random.stateless_uniform(weight.shape, (1, 2), 0.0, 0.5))
    before = [w.numpy().copy() for w in old.weights]
    new = graffiti.tfmot.convert(old)
    assert isinstance(new, keras.Model)
    assert_equal(old, new)
    assert [layer.name for layer in new.layers if layer.name in ("c", "shared", "inner")] == ["c", "shared", "inner"]
    for weight, value in zip(old.weights, before):  # the original is unchanged
        np.testing.assert_array_equal(weight.numpy(), value)


def _stack(tf_keras, shape, *layers):
    return tf_keras.Sequential([tf_keras.Input(shape), *layers])


def _adapted(tf_keras):
    norm = tf_keras.layers.Normalization()
    norm.adapt(np.random.default_rng(0).standard_normal((50, 6)) * 5 + 3)
    return _stack(tf_keras, (6,), norm, tf_keras.layers.Dense(2))


def _attention(tf_keras):
    x = tf_keras.Input((5, 6))
    return tf_keras.Model(x, tf_keras.layers.MultiHeadAttention(2, 4)(x, x))


def _slices(tf_keras):
    x = tf_keras.Input((5, 6))
    return tf_keras.Model(x, [tf_keras.layers.Dense(2)(x[:, 1:4, ::2]), x[..., -1]])


MODELS = {  # what Keras 2 and Keras 3 write or compute otherwise
    "hard_sigmoid": lambda k: _stack(
        k, (6,), k.layers.Dense(5, activation="hard_sigmoid"), k.layers.Activation("hard_sigmoid"), k.layers.Dense(2)
    ),
    "recurrent_hard_sigmoid": lambda k: _stack(
        k, (4, 3), k.layers.LSTM(5, recurrent_activation="hard_sigmoid", activation="hard_sigmoid")
    ),
    "bidirectional": lambda k: _stack(
        k, (4, 3), k.layers.Bidirectional(k.layers.GRU(5, return_sequences=True)),
        k.layers.TimeDistributed(k.layers.Dense(2))
    ),
    "prelu": lambda k: _stack(k, (6, 6, 3), k.layers.Conv2D(4, 3), k.layers.PReLU(shared_axes=[1, 2])),
    "thresholded_relu": lambda k: _stack(k, (6,), k.layers.Dense(5), k.layers.ThresholdedReLU(0.5)),
    "layer_normalization": lambda k: _stack(k, (6,), k.layers.LayerNormalization(), k.layers.Dense(5)),
    "adapted_normalization": _adapted,
    "attention": _attention,
    "slices": _slices,
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_that_differ_between_the_versions(tf_keras, name):
    old = MODELS[name](tf_keras)
    assert_equal(old, graffiti.tfmot.convert(old))


def test_hard_sigmoid_still_has_a_table(tf_keras):
    """Outside recurrent layers it is Keras 3's own function of 1.2 times its input, which quantizes."""
    new = graffiti.tfmot.convert(MODELS["hard_sigmoid"](tf_keras))
    q = graffiti.quantize(
        new, "int8", calibration=np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32), progress=False
    )
    assert graffiti.to_integer(q).is_integer_only


def test_a_model_that_computes_otherwise_is_refused(tf_keras, monkeypatch):
    old = _stack(
        tf_keras, (6,), tf_keras.layers.Dense(5, name="first"), tf_keras.layers.Activation("softsign", name="second"),
        tf_keras.layers.Dense(2)
    )
    monkeypatch.setattr(
        graffiti.tfmot, "_plain",
        lambda config: {**config, "activation": "tanh"} if config.get("activation") == "softsign" else config
    )
    with pytest.raises(ValueError, match=r"layer 'second' \(Activation\) computes otherwise in Keras 3"):
        graffiti.tfmot.convert(old)


def test_from_an_h5_file(tf_keras, tmp_path):
    old = tf_keras.Sequential(
        [tf_keras.Input((6, 6, 1)), tf_keras.layers.Conv2D(2, 3), tf_keras.layers.Flatten(), tf_keras.layers.Dense(2)]
    )
    old.save(tmp_path / "m.h5")
    assert_equal(old, graffiti.tfmot.convert(tmp_path / "m.h5"))


@pytest.mark.parametrize("name", ["resnet8_cifar10", "mobilenet_v1_025_vww", "autoencoder_ad"])
def test_reference_models(tf_keras, shared_dir, name):
    path = shared_dir / "models" / f"{name}.h5"
    assert_equal(tf_keras.models.load_model(path, compile=False), graffiti.tfmot.convert(path))


def test_what_cannot_be_converted_is_one_sentence(tf_keras, tmp_path):
    class Own(tf_keras.layers.Layer):
        pass

    with pytest.raises(ValueError, match="has no counterpart in Keras 3"):
        graffiti.tfmot.convert(tf_keras.Sequential([tf_keras.Input((3,)), Own()]))
    with pytest.raises(TypeError, match="got a Keras 3 model"):
        graffiti.tfmot.convert(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
    with pytest.raises(ValueError, match="is not built"):
        graffiti.tfmot.convert(tf_keras.Sequential([tf_keras.layers.Dense(1)]))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        graffiti.tfmot.convert(tmp_path / "absent.h5")
    with pytest.raises(TypeError, match="expects a tf_keras model"):
        graffiti.tfmot.convert(3)


def test_importing_graffiti_leaves_tf_keras_alone():
    import sys

    assert "tensorflow_model_optimization" not in sys.modules
