"""The products against Keras' own layers: with nothing quantized, outputs and all gradients are those of the plain
layer.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import graffiti
from graffiti.low_bit import engine
from graffiti.low_bit.products import ConvolutionProduct, DepthwiseProduct, EinsumProduct, MatrixProduct, Padding
from graffiti.low_bit.quantized import Quantized
from graffiti.training_config import TrainingScheme

L = keras.layers
FLOAT = TrainingScheme(name="float")  # the frame without a quantizer

CASES = {
    "dense": (L.Dense(4, activation="tanh"), (5,)),
    "dense_rank_3": (L.Dense(4), (3, 5)),
    "einsum": (L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de"), (3, 5)),
    "einsum_ellipsis": (L.EinsumDense("...x,xy->...y", 4, bias_axes="y"), (3, 5)),
    "einsum_shared": (L.EinsumDense("abc,bcd->abd", (3, 4)), (3, 5)),
    "conv2d": (L.Conv2D(4, 3, padding="same"), (7, 6, 3)),
    "conv2d_stride": (L.Conv2D(4, (3, 2), strides=(2, 3), padding="same", activation="relu"), (9, 8, 3)),
    "conv2d_valid": (L.Conv2D(4, 3, strides=2), (9, 8, 3)),
    "conv2d_dilated": (L.Conv2D(4, 3, dilation_rate=(2, 3), padding="same"), (9, 8, 3)),
    "conv2d_dilated_valid": (L.Conv2D(4, 3, dilation_rate=2), (9, 8, 3)),
    "conv1d": (L.Conv1D(4, 3, padding="same"), (9, 3)),
    "conv1d_causal": (L.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3)),
    "depthwise": (L.DepthwiseConv2D(3, padding="same", depth_multiplier=2), (7, 6, 3)),
    "depthwise_stride": (L.DepthwiseConv2D(3, strides=2), (7, 7, 3)),
    "depthwise_1d": (L.DepthwiseConv1D(3, strides=2, padding="same"), (9, 3)),
    "separable": (L.SeparableConv2D(4, 3, padding="same", activation="relu"), (7, 6, 3)),
    "separable_1d": (L.SeparableConv1D(4, 3, strides=2), (9, 3)),
    "transposed": (L.Conv2DTranspose(4, 3, strides=2, padding="same"), (5, 4, 3)),
    "transposed_valid": (L.Conv2DTranspose(4, 3, strides=2), (5, 4, 3)),
    "transposed_1d": (L.Conv1DTranspose(4, 3, strides=2, padding="same"), (5, 3)),
}


def gradients(model, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = model(x, training=True)
        loss = tf.reduce_sum(y * upstream(y.shape))
    return [y, *tape.gradient(loss, [x, *[v.value for v in model.trainable_variables]])]


@pytest.mark.parametrize("case", CASES)
def test_without_quantizers_it_is_the_keras_layer(case):
    keras.utils.set_random_seed(1)
    layer, shape = CASES[case]
    plain = keras.Sequential([keras.Input(shape), layer.__class__.from_config(layer.get_config())])
    model = graffiti.quantize_training(plain, FLOAT)
    assert type(model.layers[-1]).__name__.startswith("LowBit")
    x = np.random.default_rng(2).normal(size=(3, *shape)).astype(np.float32)

    def upstream(of):
        return np.random.default_rng(3).normal(size=of).astype(np.float32)

    for expected, found in zip(gradients(plain, x, upstream), gradients(model, x, upstream), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_grouped_convolution_against_its_groups():
    """TensorFlow has no grouped gradient on CPUs, so the groups are the reference."""
    rng = np.random.default_rng(0)
    x, w, dy = (rng.normal(size=s).astype(np.float32) for s in ((2, 6, 5, 4), (3, 3, 2, 6), (2, 6, 5, 6)))
    whole, part = (
        ConvolutionProduct((3, 3, 2, 6), padding=Padding("same"), groups=2),
        ConvolutionProduct((3, 3, 2, 3), padding=Padding("same"))
    )
    halves = [(x[..., 2 * g:2 * g + 2], w[..., 3 * g:3 * g + 3], dy[..., 3 * g:3 * g + 3]) for g in range(2)]
    np.testing.assert_array_equal(whole.forward(x, w), np.concatenate([part.forward(a, b) for a, b, _ in halves], 3))
    dx = [part.input_gradient(tf.constant(c), tf.constant(b), tf.constant([2, 6, 5, 2])) for a, b, c in halves]
    np.testing.assert_array_equal(
        whole.input_gradient(tf.constant(dy), tf.constant(w), tf.constant([2, 6, 5, 4])), np.concatenate(dx, 3)
    )
    np.testing.assert_array_equal(
        whole.weight_gradient(x, dy), np.concatenate([part.weight_gradient(a, c) for a, _, c in halves], 3)
    )


PRODUCTS = {
    "matrix": (MatrixProduct(70, 9), (40, 70), (70, 9), (40, 9)),
    "einsum": (EinsumProduct("abc,cde->abde", (70, 3, 4)), (2, 20, 70), (70, 3, 4), (2, 20, 3, 4)),
    "convolution": (
        ConvolutionProduct((3, 3, 16, 5), (2, 1), Padding("same"), (1, 2)), (3, 9, 8, 16), (3, 3, 16, 5), (3, 5, 8, 5)
    ),
    "depthwise": (DepthwiseProduct((3, 3, 6, 2), (2, 2), Padding("same")), (3, 9, 8, 6), (3, 3, 6, 2), (3, 5, 4, 12)),
}


@pytest.mark.parametrize("case", PRODUCTS)
@pytest.mark.parametrize("extreme", [False, True], ids=["random", "all at the limit"])
def test_emulated_products_of_codes_are_exact(case, extreme):
    """Against int64 sums through float64 numpy einsums; at the limit a float32 sum would round."""
    product, *shapes = PRODUCTS[case]
    rng = np.random.default_rng(0)
    x, w, dy = (np.full(s, -128, np.int8) if extreme else rng.integers(-128, 128, s).astype(np.int8) for s in shapes)
    scale = tf.constant(0.37)
    xq, wq, dyq = (Quantized(tf.constant(v), scale, -128, 127) for v in (x, w, dy))
    wide = [tf.constant(v, tf.float64) for v in (x, w, dy)]
    both = np.float32(0.37) * np.float32(0.37)
    pairs = (
        (engine.forward(product, xq, wq, "emulated"), product.forward(wide[0], wide[1])),
        (
            engine.input_gradient(product, dyq, wq, tf.constant(shapes[0]), shapes[0], "emulated"),
            product.input_gradient(wide[2], wide[1], tf.constant(shapes[0]))
        ),
        (engine.weight_gradient(product, xq, dyq, "emulated"), product.weight_gradient(wide[0], wide[2])))
    for found, exact in pairs:
        assert np.array_equal(exact, np.round(exact))
        np.testing.assert_array_equal(found, np.asarray(exact).astype(np.float32) * both)


def test_an_einsum_that_has_no_gradient_products_is_refused():
    with pytest.raises(ValueError, match="the index 'd' of the einsum 'abc,cd->ab' stands in one operand only"):
        EinsumProduct("abc,cd->ab", (3, 4))
