"""Small networks for the tests of low-bit training."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers


def convnet() -> keras.Model:
    """Every compute layer for images, batch norm with and without a ReLU behind it, a residual sum."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    y = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    x = layers.Activation("relu", name="joined")(
        layers.Add(name="sum")([x, layers.BatchNormalization(name="bn_linear")(y)])
    )
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", name="depthwise")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="transposed")(x)
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    return keras.Model(inputs, layers.Dense(5, name="last")(layers.GlobalAveragePooling2D()(x)), name="convnet")


def mlp() -> keras.Model:
    """Two dense layers with a batch norm and a ReLU."""
    inputs = keras.Input((6,))
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Dense(8, name="hidden")(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="last")(x), name="mlp")


def examples(model: keras.Model, count: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and class numbers."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(count, *model.input_shape[1:])).astype(np.float32),
        rng.integers(0, model.output_shape[-1], count)
    )


def compiled(model: keras.Model, rate: float = 0.05, **options) -> keras.Model:
    """Ready to train on class numbers."""
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options
    )
    return model
