"""The int8 training products on every tier against float64 products of the same codes: equal to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from engines import needs_library

from graffiti.low_bit.products import ConvolutionProduct, DepthwiseProduct, Padding
from graffiti.ops import loader

pytestmark = needs_library

SCALE = np.float32(0.37)
# batch, height, width, channels, outputs, window, strides, padding, dilations
SHAPES = [
    (2, 8, 8, 16, 16, (3, 3), (1, 1), "same", (1, 1)),
    (3, 7, 9, 3, 5, (3, 3), (1, 1), "same", (1, 1)),           # channels no multiple of four
    (2, 9, 8, 5, 7, (3, 2), (2, 3), "same", (1, 1)),           # different strides
    (2, 9, 8, 5, 17, (3, 3), (2, 2), "valid", (1, 1)),
    (2, 9, 12, 4, 33, (3, 3), (1, 1), "same", (2, 3)),         # dilated
    (2, 12, 12, 8, 8, (2, 2), (3, 3), "valid", (1, 1)),        # inputs that no window sees
    (2, 8, 8, 16, 70, (1, 1), (1, 1), "same", (1, 1)),         # a matrix product
    (2, 8, 8, 6, 20, (1, 1), (2, 2), "same", (1, 1)),
    (1, 5, 5, 1, 1, (5, 5), (1, 1), "same", (1, 1)),
    (1, 13, 11, 20, 24, (7, 7), (2, 2), "same", (1, 1)),
    (1, 1, 1, 300, 10, (1, 1), (1, 1), "valid", (1, 1)),       # a dense layer of one example
    (4, 1, 1000, 7, 9, (1, 1), (1, 1), "valid", (1, 1)),       # rows past the last whole group
    (1, 1, 2, 600, 10, (1, 1), (1, 1), "valid", (1, 1)),       # more terms than one sum of 16-bit products holds
    (2, 6, 6, 200, 64, (3, 3), (2, 2), "same", (1, 1)),
    (2, 33, 33, 16, 16, (3, 3), (1, 1), "same", (1, 1)),       # wide images: pixels innermost in the weight gradient
    (17, 7, 6, 5, 7, (3, 3), (2, 2), "same", (1, 1)),          # many small images: images innermost
    (40, 6, 4, 20, 70, (3, 2), (1, 1), "valid", (2, 1)),
    (150, 5, 5, 3, 6, (2, 2), (2, 1), "same", (1, 1)),
    # the weight gradient takes some rows of several images at a time
    (5, 70, 66, 3, 5, (3, 3), (1, 1), "same", (1, 1)),
    (4, 71, 65, 24, 5, (1, 1), (2, 3), "same", (1, 1)),        # and leaves out rows and columns that no window sees
    # some rows of one image, with a copy for each column of the window
    (1, 90, 70, 17, 5, (3, 5), (1, 2), "same", (2, 1)),
    (4, 3, 700, 8, 9, (1, 3), (1, 1), "same", (1, 1)),         # rows longer than one sum of 16-bit products
    (2, 2, 900, 5, 9, (2, 3), (1, 2), "same", (1, 1)),
    (3, 23, 55, 32, 40, (1, 1), (1, 1), "same", (1, 1)),       # pixels in pieces of unequal length
    # rows multiplied where they lie, forward and input gradient
    (2, 11, 10, 64, 64, (1, 1), (1, 1), "same", (1, 1)),
    (3, 9, 7, 36, 96, (1, 1), (1, 1), "same", (1, 1)),
]
# batch, height, width, channels, multiplier, window, strides, padding, dilations
DEPTHWISE = [
    (2, 8, 8, 16, 1, (3, 3), (1, 1), "same", (1, 1)),
    (3, 7, 9, 24, 1, (3, 3), (2, 2), "same", (1, 1)),
    (2, 9, 8, 5, 3, (3, 2), (2, 2), "same", (1, 1)),           # fewer channels than a vector, three outputs for each
    (2, 9, 12, 37, 2, (3, 3), (1, 1), "valid", (2, 3)),        # dilated
    (2, 12, 12, 8, 1, (2, 2), (3, 3), "valid", (1, 1)),        # inputs that no window sees
    (1, 5, 5, 100, 1, (5, 5), (1, 1), "same", (1, 1)),
    (9, 4, 4, 70, 4, (7, 7), (1, 1), "same", (1, 1)),          # windows larger than the image
    (1, 1, 1, 64, 1, (1, 1), (1, 1), "valid", (1, 1)),
    # more pixels in a row than one sum of 16-bit products holds
    (1, 2, 300, 19, 2, (1, 3), (1, 1), "same", (1, 1)),
    (1, 1, 700, 6, 1, (1, 600), (1, 1), "same", (1, 1)),       # more taps than that
]
TIERS = loader.TIERS[:0:-1]  # the best first, without auto


def codes(kind, shape, extreme: bool) -> np.ndarray:
    info = np.iinfo(kind)
    if extreme:
        return np.full(shape, info.min if info.min < 0 else info.max, kind)
    return np.random.default_rng(sum(shape)).integers(info.min, info.max + 1, shape).astype(kind)


def check(shape, x_type, dy_type, extreme: bool = False, tiers=TIERS, kind=ConvolutionProduct) -> None:
    from graffiti.ops import training_products as kernels

    n, h, w, c, o, window, strides, padding, dilations = shape
    product = kind((*window, c, o), strides, Padding(padding), dilations)
    forward, input_gradient, weight_gradient = (
        getattr(kernels, product.kernel_name + name) for name in ("", "_input_gradient", "_weight_gradient")
    )
    x, kernel = codes(x_type, (n, h, w, c), extreme), codes(np.int8, (*window, c, o), extreme)
    wide = [tf.constant(value, tf.float64) for value in (x, kernel)]
    y = product.forward(*wide)
    dy = codes(dy_type, tuple(y.shape), extreme)
    dy_wide = tf.constant(dy, tf.float64)
    expected = {
        "forward": y, "input gradient": product.input_gradient(dy_wide, wide[1], tf.constant(x.shape)),
        "weight gradient": product.weight_gradient(wide[0], dy_wide)
    }
    geometry = product.geometry((n, h, w, c))
    ran = 0
    for tier in tiers:
        try:
            found = {
                "forward": forward(x, kernel, SCALE, tier=tier, **geometry),
                "input gradient": input_gradient(dy, kernel, SCALE, input_shape=x.shape, tier=tier, **geometry),
                "weight gradient": weight_gradient(x, dy, SCALE, kernel_shape=window, tier=tier, **geometry)}
        except tf.errors.InvalidArgumentError as error:
            assert "this processor has no" in str(error), error
            continue
        ran += 1
        for name, exact in expected.items():
            np.testing.assert_array_equal(
                found[name], np.asarray(exact).astype(np.float32) * SCALE, err_msg=f"{name} on {tier}"
            )
    assert ran


@pytest.mark.parametrize("dy_type", [np.int8, np.int16])
@pytest.mark.parametrize("x_type", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_exact_on_every_tier(shape, x_type, dy_type):
    check(shape, x_type, dy_type)


@pytest.mark.parametrize("dy_type", [np.int8, np.int16])
@pytest.mark.parametrize("x_type", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", DEPTHWISE, ids=str)
def test_depthwise_products_are_exact_on_every_tier(shape, x_type, dy_type):
    check(shape, x_type, dy_type, kind=DepthwiseProduct)
    check(shape, x_type, dy_type, kind=DepthwiseProduct, extreme=True)


@pytest.mark.parametrize(("shape", "dy_type"), [
    ((2, 16, 16, 128, 16, (3, 3), (1, 1), "same", (1, 1)), np.int8),
    ((2, 16, 16, 128, 16, (3, 3), (1, 1), "same", (1, 1)), np.int16),
    ((130, 32, 32, 4, 4, (1, 1), (1, 1), "same", (1, 1)), np.int8),   # 133,120 pixels of -128 * -128: beyond 2**31
    ((130, 32, 32, 2, 3, (3, 3), (1, 1), "same", (1, 1)), np.int8),
    ((700, 4, 4, 4, 4, (3, 3), (1, 1), "same", (1, 1)), np.int16)], ids=str)
def test_sums_at_the_limit(shape, dy_type):
    check(shape, np.int8, dy_type, extreme=True)


@pytest.mark.parametrize("size", [*range(1, 18), 47, 48, 49, 63, 64, 65])
def test_every_number_of_outputs_and_rows_around_the_tiles(size):
    check((1, 1, size, 9, size, (1, 1), (1, 1), "valid", (1, 1)), np.int8, np.int8)
    shape = (1, 3, size, 4, 18 - min(size, 17), (3, 3), (1, 1), "same", (1, 1))
    check(shape, np.uint8, np.int8, tiers=(TIERS[0], "scalar"))


@pytest.mark.parametrize(("shape", "dy_type"), [
    ((13, 61, 62, 4, 64, (1, 1), (1, 1), "same", (1, 1)), np.int8),    # forward of 12 MiB and more
    ((4, 91, 91, 96, 3, (3, 3), (2, 2), "same", (1, 1)), np.int16),    # input gradient, in four phases
    ((5, 64, 64, 80, 160, (3, 3), (1, 1), "same", (1, 1)), np.int8),   # the forward one alone
    ((9, 60, 100, 4, 72, (1, 1), (1, 1), "same", (1, 1)), np.int8)], ids=str)  # no whole lines: not streamed
def test_results_that_go_past_the_caches(shape, dy_type):
    check(shape, np.int8, dy_type)


@pytest.mark.parametrize(("shape", "dy_type"), [
    ((17, 96, 64, 32, 1, (3, 3), (1, 1), "same", (1, 1)), np.int8),
    ((9, 100, 121, 32, 2, (3, 3), (2, 2), "same", (1, 1)), np.int16),  # the input gradient alone
    ((17, 96, 64, 40, 1, (3, 3), (1, 1), "same", (1, 1)), np.int8)], ids=str)  # no whole lines: not streamed
def test_depthwise_results_that_go_past_the_caches(shape, dy_type):
    check(shape, np.uint8, dy_type, kind=DepthwiseProduct)


def test_empty_batch_and_nan_scale():
    from graffiti.ops import training_products as kernels

    x, kernel, dy = np.zeros((0, 4, 4, 3), np.int8), np.ones((3, 3, 3, 2), np.int8), np.zeros((0, 2, 2, 2), np.int8)
    assert kernels.conv2d(x, kernel, 1.0).shape == (0, 2, 2, 2)
    assert kernels.conv2d_input_gradient(dy, kernel, 1.0, input_shape=(0, 4, 4, 3)).shape == (0, 4, 4, 3)
    assert not np.any(kernels.conv2d_weight_gradient(x, dy, 1.0, kernel_shape=(3, 3)))
    x, dy = np.ones((1, 4, 4, 3), np.int8), np.ones((1, 2, 2, 2), np.int8)
    for result in (
        kernels.conv2d(x, kernel, np.nan), kernels.conv2d_input_gradient(dy, kernel, np.nan, input_shape=x.shape),
        kernels.conv2d_weight_gradient(x, dy, np.nan, kernel_shape=(3, 3))
    ):
        assert np.all(np.isnan(result))


DEPTHWISE_PROGRAM = (
    "dy, w = dy[..., :24], w[..., :1]\n"
    "out += [k.depthwise_conv2d(x, w, 0.1, **g), k.depthwise_conv2d_input_gradient(dy, w, 0.1, "
    "input_shape=x.shape, **g)]\n"
    "out += [k.depthwise_conv2d_weight_gradient(x, dy, 0.1, kernel_shape=(3, 3), **g)]\n")


def test_one_thread_as_many():
    import subprocess
    import sys

    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))\n"
        "from graffiti.ops import training_products as k\n"
        "r = np.random.default_rng(0); x = r.integers(-128, 128, (32, 16, 16, 24)).astype(np.int8); dy = "
        "r.integers(-128, 128, (32, 16, 16, 40)).astype(np.int8)\n"
        "w = r.integers(-128, 128, (3, 3, 24, 40)).astype(np.int8); g = {'padding': ((1, 1), (1, 1))}\n"
        "out = [k.conv2d(x, w, 0.1, **g), k.conv2d_input_gradient(dy, w, 0.1, input_shape=x.shape, **g), "
        "k.conv2d_weight_gradient(x, dy, 0.1, kernel_shape=(3, 3), **g)]\n"
        # wide images: whole blocks of them for each thread
        "x, dy = (r.integers(-128, 128, (11, 33, 33, c)).astype(np.int8) for c in (16, 20))\n"
        "out += [k.conv2d_weight_gradient(x, dy.astype(t), 0.1, kernel_shape=(3, 3), **g) for t in (np.int8, "
        "np.int16)]\n"
        "import hashlib; print(hashlib.sha256(b''.join(np.asarray(o).tobytes() for o in out)).hexdigest())\n")
    program = program.replace("x, dy = (", DEPTHWISE_PROGRAM + "x, dy = (")
    hashes = [
        subprocess.run([sys.executable, "-c", program, threads], capture_output=True, text=True, check=True).stdout
        for threads in ("1", "3")
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) > 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((1, 2, 2, 3), np.int8)}, "does not fit a padded image"),
        ({"kernel": np.zeros((3, 3, 4, 2), np.int8)}, "expected x"), ({"strides": (0, 1)}, "strides are at least 1")
    ]
)
def test_bad_arguments_are_refused(arguments, message):
    from graffiti.ops import training_products as kernels

    given = {
        "x": np.zeros((1, 4, 4, 3), np.int8), "kernel": np.zeros((3, 3, 3, 2), np.int8), "strides": (1, 1), **arguments
    }
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        kernels.conv2d(given["x"], given["kernel"], 1.0, strides=given["strides"])
