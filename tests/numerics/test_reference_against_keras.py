"""The reference's geometry is Keras': integer data through the Keras layers in float32 gives the same numbers, with
``==``.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from graffiti.numerics import fold, products, reference
from graffiti.numerics.windows import transpose_output


def run_keras(layer, x, kernel=None):
    layer.build(x.shape)
    if kernel is not None:
        layer.kernel.assign(kernel.astype(np.float32))
    return np.asarray(layer(x.astype(np.float32)))


def integers(rng, *shape):
    return rng.integers(-20, 21, shape).astype(np.int8)


def equal(got, expected):
    assert got.shape == expected.shape
    assert (got == expected).all()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size, window, strides, dilation, groups", [
    ((9, 8), (3, 3), (1, 1), 1, 1), ((9, 8), (3, 2), (2, 2), 1, 2), ((10, 7), (2, 3), (1, 1), (2, 3), 1),
    ((7, 7), (1, 1), (2, 2), 1, 1),
    ((6, 6), (5, 4), (3, 3), 1, 1), ((8, 9), (3, 3), (1, 1), 2, 2), ((32, 31), (3, 3), (2, 2), 1, 1),
])
def test_conv2d(size, window, strides, dilation, groups, padding):
    rng = np.random.default_rng(0)
    x, kernel = integers(rng, 2, *size, 4), integers(rng, *window, 4 // groups, 6)
    layer = keras.layers.Conv2D(6, window, strides, padding, dilation_rate=dilation, groups=groups, use_bias=False)
    dilation = (dilation,) * 2 if isinstance(dilation, int) else dilation
    equal(reference.conv(x, kernel, strides, padding, dilation, groups), run_keras(layer, x, kernel))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size, window, stride, dilation", [(9, 3, 1, 1), (10, 4, 3, 1), (11, 3, 1, 2), (8, 1, 2, 1)])
def test_conv1d(size, window, stride, dilation, padding):
    rng = np.random.default_rng(1)
    x, kernel = integers(rng, 2, size, 3), integers(rng, window, 3, 5)
    layer = keras.layers.Conv1D(5, window, stride, padding, dilation_rate=dilation, use_bias=False)
    equal(reference.conv(x, kernel, (stride,), padding, (dilation,)), run_keras(layer, x, kernel))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "window, strides, dilation, multiplier",
    [((3, 3), (1, 1), 1, 1), ((3, 3), (2, 2), 1, 2), ((2, 5), (1, 1), 1, 3), ((3, 3), (1, 1), 2, 1)]
)
def test_depthwise_conv2d(window, strides, dilation, multiplier, padding):
    rng = np.random.default_rng(2)
    x, kernel = integers(rng, 2, 9, 8, 3), integers(rng, *window, 3, multiplier)
    layer = keras.layers.DepthwiseConv2D(window, strides, padding, multiplier, dilation_rate=dilation, use_bias=False)
    equal(reference.depthwise_conv(x, kernel, strides, padding, (dilation,) * 2), run_keras(layer, x, kernel))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_conv2d_transpose_with_every_output_padding(stride, padding):
    rng = np.random.default_rng(3)
    for window, size, extra in itertools.product(range(1, 6), (1, 4), (None, *range(stride))):
        if padding == "same" and extra == 0 and window % 2 == 0:
            continue  # Keras asks TensorFlow for a length that it refuses
        x, kernel = integers(rng, 2, size, 3, 3), integers(rng, window, 2, 2, 3)
        pair = None if extra is None else (extra, 1 if stride > 1 else 0)
        layer = keras.layers.Conv2DTranspose(2, (window, 2), stride, padding, output_padding=pair, use_bias=False)
        if pair is not None and padding == "same" and pair[1] == 0:
            continue
        got = reference.conv_transpose(x, kernel, (stride,) * 2, padding, pair)
        assert got.shape[1] == transpose_output(size, window, stride, padding, extra)
        equal(got, run_keras(layer, x, kernel))


def test_conv1d_transpose():
    rng = np.random.default_rng(4)
    for window, stride, padding in itertools.product((1, 2, 3, 5), (1, 2, 3), ("same", "valid")):
        x, kernel = integers(rng, 2, 5, 3), integers(rng, window, 2, 3)
        layer = keras.layers.Conv1DTranspose(2, window, stride, padding, use_bias=False)
        equal(reference.conv_transpose(x, kernel, (stride,), padding), run_keras(layer, x, kernel))


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (4, 3, 2, 6)])
def test_dense(shape):
    rng = np.random.default_rng(5)
    x, kernel = integers(rng, *shape), integers(rng, 6, 5)
    equal(reference.dense(x, kernel), run_keras(keras.layers.Dense(5, use_bias=False), x, kernel))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("window, strides", [((2, 2), (2, 2)), ((3, 3), (2, 2)), ((3, 2), (1, 3))])
def test_max_pool(window, strides, padding):
    x = -integers(np.random.default_rng(6), 2, 7, 8, 3) - 30  # all negative: a padded zero would win
    equal(
        reference.max_pool(x, window, strides, padding),
        run_keras(keras.layers.MaxPooling2D(window, strides, padding), x)
    )


def test_moves():
    x = integers(np.random.default_rng(7), 2, 4, 5, 3)
    equal(reference.pad(x, ((1, 2), (0, 3), (0, 0))), run_keras(keras.layers.ZeroPadding2D(((1, 2), (0, 3))), x))
    equal(reference.crop(x, ((1, 2), (0, 3), (0, 0))), run_keras(keras.layers.Cropping2D(((1, 2), (0, 3))), x))
    equal(reference.upsample(x, (2, 3)), run_keras(keras.layers.UpSampling2D((2, 3)), x))
    equal(reference.permute(x, (3, 1, 2)), run_keras(keras.layers.Permute((3, 1, 2)), x))
    equal(reference.reshape(x, (60,)), run_keras(keras.layers.Flatten(), x))
    equal(reference.reshape(x, (3, 20)), run_keras(keras.layers.Reshape((3, 20)), x))
    equal(reference.global_max_pool(x, (1, 2)), run_keras(keras.layers.GlobalMaxPooling2D(), x))


def test_float_products_are_keras_within_rounding():
    rng = np.random.default_rng(8)
    x, kernel = rng.normal(size=(2, 9, 9, 8)).astype(np.float32), rng.normal(size=(3, 3, 8, 4)).astype(np.float32)
    layer = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    np.testing.assert_allclose(products.conv(x, kernel, (1, 1), "same"), run_keras(layer, x, kernel), atol=1e-4)


def test_fold_gives_the_bits_of_its_tensorflow_twin():
    from graffiti.layers import fold as twin

    rng = np.random.default_rng(9)
    kernel = rng.normal(size=(3, 3, 32, 64)).astype(np.float32)
    gamma, beta, mean, bias = rng.normal(size=(4, 64)).astype(np.float32)
    variance = np.exp(rng.normal(0, 4, 64)).astype(np.float32)
    gamma[3] = 0
    tensors = [keras.ops.convert_to_tensor(a) for a in (kernel, gamma, beta, mean, bias, variance)]

    def folded(kernel, gamma, beta, mean, bias, variance):
        multiplier = twin.fold_multiplier(gamma, variance, 1e-3)
        return twin.fold_kernel(kernel, multiplier), twin.fold_bias(bias, beta, mean, multiplier)

    import tensorflow as tf

    for call in (folded, tf.function(folded)):
        got_kernel, got_bias = (np.asarray(a) for a in call(*tensors))
        assert (got_kernel == fold.fold_kernel(kernel, gamma, variance, 1e-3)).all()
        assert (got_bias == fold.fold_bias(bias, gamma, beta, mean, variance, 1e-3)).all()
