"""Small Keras models that together hold every supported layer; random but seeded weights and batch norm statistics."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers
ops = keras.ops


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Weights with life in them: batch norm statistics away from 0 and 1, biases away from 0."""
    rng = np.random.RandomState(seed)
    for layer in model._flatten_layers(include_self=False):
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if "seed" in variable.path:
                continue
            shape = tuple(variable.shape)
            if "variance" in variable.name:
                value = rng.uniform(0.3, 2.0, shape)
            elif "gamma" in variable.name:
                value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1, 1, 1], shape)
            elif len(shape) < 2:
                value = rng.normal(0, 0.2, shape)
            else:
                value = rng.normal(0, 1.0 / np.sqrt(max(1, np.prod(shape[:-1]))), shape) * 1.4
            variable.assign(value.astype("float32"))
    return model


def bn(x):
    return layers.BatchNormalization()(x)


def sequential():
    return keras.Sequential([
        keras.Input((12, 12, 3)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.Dropout(0.3), layers.Conv2D(12, 3, strides=2, activation="relu6"), layers.Flatten(),
        layers.Dense(10, activation="softmax"),
    ], name="sequential")


def resnet():
    inputs = keras.Input((12, 12, 3))
    x = layers.ReLU()(bn(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    y = layers.ReLU()(bn(layers.Conv2D(8, 3, padding="same")(x)))
    x = layers.Activation("relu")(layers.Add()([x, bn(layers.Conv2D(8, 3, padding="same")(y))]))
    y = layers.ReLU()(bn(layers.Conv2D(16, 3, 2, padding="same")(x)))
    y = bn(layers.Conv2D(16, 3, padding="same")(y))
    x = layers.ReLU()(layers.Add()([layers.Conv2D(16, 1, 2)(x), y]))
    x = layers.Flatten()(layers.AveragePooling2D(6)(x))
    return keras.Model(inputs, layers.Dense(10)(x), name="resnet")


def mobilenet():
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    x = layers.ReLU(6.0)(bn(layers.Conv2D(8, 3, 2, padding="same", use_bias=False)(x)))
    for filters, strides in ((8, 1), (12, 2), (12, 1)):
        y = layers.ReLU(6.0)(bn(layers.Conv2D(24, 1, use_bias=False)(x)))
        y = layers.ReLU(6.0)(bn(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)))
        y = bn(layers.Conv2D(filters, 1, use_bias=False)(y))
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(bn(layers.Conv2D(32, 1)(x))))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(5)(layers.Dropout(0.1)(x))), name="mobilenet")


def inception():
    inputs = keras.Input((10, 10, 4))
    a = layers.Conv2D(6, 1, activation="relu")(inputs)
    b = layers.Conv2D(6, 5, padding="same")(layers.Conv2D(4, 1, activation="relu")(inputs))
    c = layers.Conv2D(4, 1, activation="relu")(layers.MaxPooling2D(3, 1, padding="same")(inputs))
    x = layers.Concatenate()([layers.Concatenate()([a, b]), c, layers.AveragePooling2D(3, 1, padding="same")(inputs)])
    x = layers.SeparableConv2D(8, 3, activation="relu")(x)
    return keras.Model(inputs, layers.GlobalMaxPooling2D()(x), name="inception")


def leaky():
    inputs = keras.Input((8, 8, 3))
    x = layers.LeakyReLU(0.1)(bn(layers.Conv2D(8, 3)(inputs)))
    x = layers.LeakyReLU(0.3)(layers.Conv2D(8, 3)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)), name="leaky")


def moves():
    inputs = keras.Input((7, 9, 3))
    x = layers.ZeroPadding2D(((1, 2), (0, 1)))(inputs)
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    x = layers.UpSampling2D(2)(x)
    x = layers.Cropping2D(((1, 0), (2, 1)))(x)
    x = layers.Permute((2, 1, 3))(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2DTranspose(4, 2, strides=3)(x)
    x = layers.Reshape((-1, 2))(x)
    return keras.Model(inputs, layers.Dense(3)(x), name="moves")


def one_dimensional():
    inputs = keras.Input((20, 4))
    x = layers.ReLU()(bn(layers.Conv1D(8, 3, padding="causal", dilation_rate=2)(inputs)))
    x = layers.MaxPooling1D(2)(x)
    x = layers.Conv1D(8, 3, strides=2, groups=2, padding="same", activation="relu")(x)
    x = layers.AveragePooling1D(5)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)), name="one_dimensional")


def grouped_dilated():
    inputs = keras.Input((11, 11, 4))
    x = layers.Conv2D(8, 3, groups=4, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(8, 3, dilation_rate=2, activation="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(keepdims=True)(x), name="grouped_dilated")


def two_inputs_two_outputs():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(8, activation="relu", name="shared")
    x, y = shared(a), shared(b)
    difference = layers.Subtract()([x, y])
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8), layers.BatchNormalization(), layers.ReLU()], name="inner"
    )
    z = inner(difference)
    return keras.Model(
        [a, b], {"score": layers.Dense(1)(z), "code": layers.Concatenate()([x, y, z])}, name="two_inputs"
    )


def keras_ops():
    inputs = keras.Input((8, 8, 3))
    x = ops.relu(layers.Conv2D(6, 3, padding="same")(inputs))
    y = ops.relu6(layers.Conv2D(6, 3, padding="same")(x) + x)
    z = ops.concatenate([x, y], axis=-1)
    z = ops.mean(z, axis=(1, 2))
    return keras.Model(inputs, layers.Dense(3)(ops.reshape(z, (-1, 12))), name="keras_ops")


def tables():
    inputs = keras.Input((10,))
    x = layers.Dense(12, activation="sigmoid")(inputs)
    x = layers.Dense(12, activation="tanh")(x)
    x = layers.Dense(12, activation="gelu")(x)
    x = layers.Dense(12, activation="silu")(x)
    x = layers.Activation("hard_swish")(layers.Dense(12)(x))
    return keras.Model(inputs, layers.Dense(3, activation="sigmoid")(x), name="tables")


def islands():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    x = layers.LayerNormalization(name="float_norm")(x)
    x = layers.Conv2D(6, 3, activation="relu")(x)
    x = layers.PReLU(name="float_prelu")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)), name="islands")


def preactivation():
    inputs = keras.Input((8, 8, 6))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    y = layers.ReLU()(bn(x))
    y = layers.Conv2D(8, 3, padding="same")(y)
    x = layers.Add()([x, y])
    x = layers.ReLU()(bn(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)), name="preactivation")


ZOO = (sequential, resnet, mobilenet, inception, leaky, moves, one_dimensional, grouped_dilated, two_inputs_two_outputs,
       keras_ops, tables, islands, preactivation)


def make(factory, seed: int = 0) -> keras.Model:
    """A model of the zoo with random weights; names start afresh so that they do not depend on what ran before."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    return randomize(factory(), seed)


def inputs_of(model: keras.Model, count: int, seed: int = 0):
    """Typical inputs: images for ``Rescaling`` models are 0-255, everything else normal."""
    rng = np.random.RandomState(seed)
    arrays = []
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        if any(isinstance(layer, layers.Rescaling) for layer in model.layers):
            arrays.append(rng.randint(0, 256, shape).astype(np.float32))
        else:
            arrays.append(rng.normal(size=shape).astype(np.float32))
    return arrays[0] if len(arrays) == 1 else arrays
