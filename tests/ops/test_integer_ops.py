"""Every integer op on each engine and tier against numpy loops, with ``==``."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from engines import ENGINES, needs_library
from reference_ops import conv2d, conv2d_transpose, depthwise_conv2d, max_pool, requantize

from graffiti import ops
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES, round_real
from graffiti.ops import Requantization


@pytest.fixture(params=ENGINES)
def where(request):
    """``engine=`` and ``tier=`` of an op."""
    engine, tier = request.param
    return {"engine": engine, "tier": tier}


def codes(rng, dtype, shape):
    """Random codes with both ends of the range in them."""
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, shape, dtype=np.int64).astype(dtype)
    if x.size:
        x.flat[0], x.flat[-1] = limits.min, limits.max
    return x


def check(got, expected, dtype):
    assert got.dtype == dtype and got.shape.as_list() == list(expected.shape)
    unequal = np.argwhere(got.numpy() != expected)
    assert len(unequal) == 0, f"{len(unequal)} of {expected.size} differ, first at {unequal[0]}"


CONVS = [  # shape of x, window, out, strides, padding, dilation, groups
    ((2, 7, 9, 3), (3, 3), 16, (1, 1), "same", (1, 1), 1),
    ((2, 8, 6, 3), (3, 3), 5, (2, 2), "same", (1, 1), 1),
    ((1, 9, 9, 17), (3, 2), 33, (2, 1), "valid", (1, 1), 1),
    ((3, 5, 5, 64), (1, 1), 17, (1, 1), "valid", (1, 1), 1),
    ((1, 5, 5, 32), (1, 1), 8, (2, 2), "same", (1, 1), 1),
    ((2, 9, 8, 8), (3, 3), 12, (1, 1), "same", (2, 3), 4),
    ((1, 6, 6, 4), (2, 2), 4, (1, 1), ((1, 2), (0, 3)), (1, 1), 2),
    ((1, 1, 20, 5), (1, 5), 7, (1, 2), "same", (1, 1), 1),
    ((0, 4, 4, 3), (3, 3), 4, (1, 1), "same", (1, 1), 1),
]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_conv2d(case, dtype, where):
    shape, window, out, strides, padding, dilation, groups = case
    rng = np.random.default_rng(len(str(case)))
    x, kernel = codes(rng, dtype, shape), codes(rng, np.int8, (*window, shape[-1] // groups, out))
    bias = rng.integers(-(2**20), 2**20, out).astype(np.int32)
    options = dict(strides=strides, padding=padding, dilation=dilation, groups=groups, **where)
    expected = conv2d(x, kernel, strides, padding, dilation, groups)
    check(ops.conv2d(x, kernel, **options), expected, tf.int32)
    check(ops.conv2d(x, kernel, bias, **options), expected + bias, tf.int32)
    shifts = tuple(int(s) for s in rng.integers(5, 14, out))
    for to in (Requantization(9, -128, 127, "int8"), Requantization(shifts, 0, 255, "uint8", "half_away"),
               Requantization(3, -100, 30000, "int16", "floor")):
        check(ops.conv2d(x, kernel, bias, requantize=to, **options),
              requantize(expected + bias, to.shift, to.low, to.high, to.rounding), to.dtype)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_conv2d_fused_rounding(rounding, where):
    rng = np.random.default_rng(3)
    x, kernel = codes(rng, np.uint8, (2, 6, 6, 3)), codes(rng, np.int8, (3, 3, 3, 18))
    expected = conv2d(x, kernel, (1, 1), "same", (1, 1), 1)
    for shift in (-2, 0, 1, 7, 31, 40):
        to = Requantization(shift, -128, 127, "int8", rounding)
        check(
            ops.conv2d(x, kernel, padding="same", requantize=to, **where),
            requantize(expected, shift, -128, 127, rounding),
            "int8",
        )


def test_conv2d_extreme_operands(where):
    """−128 times −128 and 255 times −128, as many as a large layer has: nothing saturates on the way."""
    for dtype, value, size in ((np.int8, -128, 3), (np.uint8, 255, 3), (np.int16, -32768, 1)):
        x, kernel = np.full((1, size, size, 256), value, dtype), np.full((size, size, 256, 3), -128, np.int8)
        check(ops.conv2d(x, kernel, **where), np.full((1, 1, 1, 3), size * size * 256 * value * -128), tf.int32)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
@pytest.mark.parametrize("case", [
    ((2, 7, 9, 16), (3, 3), 1, (1, 1), "same", (1, 1)), ((1, 8, 8, 24), (3, 3), 1, (2, 2), "same", (1, 1)),
    ((1, 9, 7, 5), (3, 2), 2, (2, 1), "valid", (1, 1)), ((2, 8, 8, 33), (8, 8), 1, (1, 1), "valid", (1, 1)),
    ((1, 9, 9, 3), (3, 3), 3, (1, 1), "same", (2, 2)), ((1, 5, 5, 7), (5, 5), 1, (1, 1), ((2, 0), (1, 3)), (1, 1)),
], ids=str)
def test_depthwise_conv2d(case, dtype, where):
    shape, window, multiplier, strides, padding, dilation = case
    rng = np.random.default_rng(len(str(case)))
    x, kernel = codes(rng, dtype, shape), codes(rng, np.int8, (*window, shape[-1], multiplier))
    bias = rng.integers(-(2**18), 2**18, shape[-1] * multiplier).astype(np.int32)
    options = dict(strides=strides, padding=padding, dilation=dilation, **where)
    expected = depthwise_conv2d(x, kernel, strides, padding, dilation)
    check(ops.depthwise_conv2d(x, kernel, **options), expected, tf.int32)
    to = Requantization(tuple(int(s) for s in rng.integers(0, 12, bias.size)), 0, 200, "uint8", "half_up")
    check(ops.depthwise_conv2d(x, kernel, bias, requantize=to, **options),
          requantize(expected + bias, to.shift, 0, 200, "half_up"), "uint8")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16])
def test_dense(dtype, where):
    rng = np.random.default_rng(4)
    for rows, depth, out in itertools.product((0, 1, 5), (1, 3, 64, 129), (1, 16, 17, 50)):
        x, kernel = codes(rng, dtype, (rows, depth)), codes(rng, np.int8, (depth, out))
        bias = rng.integers(-1000, 1000, out).astype(np.int32)
        expected = x.astype(np.int64) @ kernel.astype(np.int64)
        check(ops.dense(x, kernel, **where), expected, tf.int32)
        to = Requantization(6, -128, 127, "int8")
        check(
            ops.dense(x, kernel, bias, requantize=to, **where),
            requantize(expected + bias, 6, -128, 127, "half_even"),
            "int8",
        )
    x, kernel = codes(rng, dtype, (2, 3, 4, 8)), codes(rng, np.int8, (8, 5))
    check(ops.dense(x, kernel, **where), x.astype(np.int64) @ kernel.astype(np.int64), tf.int32)


@pytest.mark.parametrize("case", [
    ((2, 4, 5, 3), (3, 3), (2, 2), ((0, 1), (1, 0))), ((1, 3, 3, 4), (2, 3), (1, 1), ((0, 0), (0, 0))),
    ((1, 4, 4, 2), (2, 2), (3, 3), ((0, -1), (0, -1))), ((1, 3, 4, 5), (4, 3), (2, 1), ((2, 2), (1, 1))),
    ((1, 2, 2, 3), (3, 3), (2, 2), ((1, -2), (2, -3))), ((1, 5, 5, 1), (1, 1), (2, 2), ((0, -1), (0, -1))),
    ((1, 4, 1, 2), (5, 1), (2, 1), ((4, 4), (0, 0))),
], ids=str)
def test_conv2d_transpose(case, where):
    shape, window, strides, cut = case
    rng = np.random.default_rng(len(str(case)))
    x, kernel = codes(rng, np.int8, shape), codes(rng, np.int8, (*window, 6, shape[-1]))
    expected = conv2d_transpose(x, kernel, strides, cut)
    check(ops.conv2d_transpose(x, kernel, strides=strides, cut=cut, **where), expected, tf.int32)
    bias, to = np.arange(6, dtype=np.int32) * 100, Requantization(4, -128, 127, "int8", "half_away")
    check(ops.conv2d_transpose(x, kernel, bias, strides=strides, cut=cut, requantize=to, **where),
          requantize(expected + bias, 4, -128, 127, "half_away"), "int8")


@pytest.mark.parametrize(
    "shapes",
    [((2, 3, 4, 5),) * 2, ((2, 3, 4, 5), (5,)), ((2, 3, 1, 5), (1, 3, 4, 1)), ((3, 1), (2, 1, 7)), ((0, 4), (4,))],
    ids=str,
)
@pytest.mark.parametrize(
    "dtypes", [(np.int8, np.int8), (np.uint8, np.int8), (np.int16, np.int16), (np.int32, np.int8)], ids=str
)
def test_elementwise(dtypes, shapes, where):
    rng = np.random.default_rng(5)
    x, y = (codes(rng, dtype, shape) for dtype, shape in zip(dtypes, shapes))
    if dtypes[0] is np.int32:
        x >>= 9  # the sum and the product stay in int32, as lowering proves
    a, b = x.astype(np.int64), y.astype(np.int64)
    check(ops.add(x, y, **where), a + b, tf.int32)
    check(ops.subtract(x, y, **where), a - b, tf.int32)
    check(ops.multiply(x, y, **where), a * b, tf.int32)
    if dtypes[0] is dtypes[1]:
        check(ops.maximum(x, y, **where), np.maximum(a, b), dtypes[0])
        check(ops.minimum(x, y, **where), np.minimum(a, b), dtypes[0])
    else:
        with pytest.raises(ValueError, match="maximum takes codes of one format"):
            ops.maximum(x, y, **where)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
def test_max_pool_and_relu(dtype, where):
    rng = np.random.default_rng(6)
    for shape, pool, strides, padding in (
        ((2, 8, 8, 16), (2, 2), (2, 2), "valid"),
        ((1, 7, 9, 3), (3, 3), (2, 2), "same"),
        ((1, 5, 4, 33), (3, 2), (1, 1), "same"),
        ((1, 6, 6, 1), (6, 6), (1, 1), "valid"),
        ((1, 1, 9, 5), (1, 3), (1, 2), "same"),
    ):
        x = codes(rng, dtype, shape)
        check(
            ops.max_pool(x, pool_size=pool, strides=strides, padding=padding, **where),
            max_pool(x, pool, strides, padding),
            dtype,
        )
        if np.iinfo(dtype).min < 0:  # all negative: a padding of zeros would win
            low = -1 - np.abs(x // 2)
            check(
                ops.max_pool(low, pool_size=pool, strides=strides, padding=padding, **where),
                max_pool(low, pool, strides, padding),
                dtype,
            )
        check(ops.relu(x, **where), np.maximum(x, 0), dtype)
        check(ops.relu(x, high=77, **where), np.clip(x, 0, 77), dtype)


def test_lookup_of_every_code(where):
    rng = np.random.default_rng(7)
    for dtype in (np.int8, np.uint8):
        low = int(np.iinfo(dtype).min)
        x = np.arange(low, low + 256).astype(dtype).reshape(2, 128)
        for out in (np.int8, np.uint8, np.int16):
            table = codes(rng, out, 256)
            check(ops.lookup(x, table, low=low, **where), table[x.astype(int) - low], out)
    x, table = np.int8([-8, 7, 0]), np.arange(16, dtype=np.int8)
    check(ops.lookup(x, table, low=-8, **where), np.int64([0, 15, 8]), np.int8)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_requantize(rounding, where):
    rng = np.random.default_rng(8)
    edges = np.int64([-(2**31), -(2**31) + 1, -5, -3, -2, -1, 0, 1, 2, 3, 5, 2**31 - 2, 2**31 - 1])
    wide = np.concatenate([edges, rng.integers(-(2**31), 2**31, 243)]).astype(np.int32).reshape(16, 16)
    for shift in (-60, -3, 0, 1, 2, 8, 16, 30, 31, 32, 40, 62, 70):
        for dtype in ("int8", "uint8", "int16", "uint16", "int32"):
            to = Requantization(shift, np.iinfo(dtype).min, np.iinfo(dtype).max, dtype, rounding)
            check(
                ops.requantize(wide, to, **where), requantize(wide, max(shift, -32), to.low, to.high, rounding), dtype
            )
    for dtype in (np.int8, np.uint8, np.int16, np.uint16):
        x = codes(rng, dtype, (3, 37))
        for shift in (-8, -1, 1, 3):
            check(
                ops.requantize(x, Requantization(shift, -7, 100, "int8", rounding), **where),
                requantize(x, shift, -7, 100, rounding),
                "int8",
            )
    shifts = tuple(range(-2, 14))
    check(ops.requantize(wide >> 4, Requantization(shifts, -128, 127, "int8", rounding), **where),
          requantize(wide >> 4, shifts, -128, 127, rounding), "int8")


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_quantize(rounding, where):
    rng = np.random.default_rng(9)
    x = np.concatenate(
        [np.arange(-300, 300) / 4, rng.normal(size=1000) * 30, [np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0]]
    ).astype(np.float32)
    x = np.concatenate([x, np.nextafter(np.float32(0.5), np.float32(0)) * np.float32([1, -1])]).astype(np.float32)
    for format in (QFormat(8, True, -2), QFormat(8, False, 0), QFormat(4, True, 1, narrow=True), QFormat(16, True, -6),
                   QFormat(16, False, -10), QFormat(32, True, -20), QFormat(8, True, -140), QFormat(8, True, 120)):
        with np.errstate(invalid="ignore"):  # infinity minus infinity inside
            expected = np.clip(
                round_real(x.astype(np.float64) * 2.0**-format.exponent, rounding), format.qmin, format.qmax
            )
        check(ops.quantize(x, format, rounding=rounding, **where), expected, format.dtype)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="NaN"):
        ops.quantize(np.float32([1, np.nan]), QFormat(8, True, 0), **where)


def test_dequantize(where):
    rng = np.random.default_rng(10)
    for dtype, bits in ((np.int8, 8), (np.uint8, 8), (np.int16, 16), (np.uint16, 16), (np.int32, 32)):
        x = codes(rng, dtype, (5, 41))
        for exponent in (-30, -7, 0, 5):
            expected = (x.astype(np.float32).astype(np.float64) * 2.0**exponent).astype(np.float32)
            check(ops.dequantize(x, QFormat(bits, np.iinfo(dtype).min < 0, exponent), **where), expected, tf.float32)


def test_concat_and_bias_add():
    x, y = np.int8([[1, -128]]), np.int8([[127]])
    per_channel = ops.dequantize(np.int8([[3, -5]]), QFormat(8, True, (-1, 2)), engine="python")
    assert per_channel.numpy().tolist() == [[1.5, -20.0]]
    check(ops.concat([x, y]), np.int8([[1, -128, 127]]), tf.int8)
    check(
        ops.bias_add(np.int32([[5, 6]]), np.int32([-7, 2**30]), engine="python"), np.int64([[-2, 2**30 + 6]]), tf.int32
    )


@needs_library
def test_shape_inference_in_a_function():
    """Static shapes come through with unknown batch and image sizes, and agree with what is computed."""
    kernel, deep = np.ones((3, 3, 4, 8), np.int8), np.ones((3, 3, 4, 2), np.int8)
    to = Requantization(3, -128, 127, "int8")
    cases = {
        "same": (
            lambda x: ops.conv2d(x, kernel, padding="same", strides=(2, 2), engine="native"),
            [None, None, None, 8],
        ),
        "valid": (lambda x: ops.conv2d(x[:, :9, :9], kernel, requantize=to, engine="native"), [None, None, None, 8]),
        "depthwise": (lambda x: ops.depthwise_conv2d(x, deep, padding="same", engine="native"), [None, None, None, 8]),
        "dense": (lambda x: ops.dense(x, np.ones((4, 5), np.int8), engine="native"), [None, None, None, 5]),
        "pool": (lambda x: ops.max_pool(x, pool_size=(2, 2), strides=(2, 2), engine="native"), [None, None, None, 4]),
        "add": (lambda x: ops.add(x, np.ones((4,), np.int8), engine="native"), [None, None, None, 4]),
    }
    for name, (op, static) in cases.items():
        function = tf.function(op, input_signature=[tf.TensorSpec([None, None, None, 4], tf.int8)], autograph=False)
        assert function.get_concrete_function().output_shapes.as_list() == static, name
        function(np.ones((2, 11, 9, 4), np.int8))
    fixed = tf.function(cases["same"][0], input_signature=[tf.TensorSpec([None, 11, 10, 4], tf.int8)], autograph=False)
    assert fixed.get_concrete_function().output_shapes.as_list() == [None, 6, 5, 8]
    assert fixed(np.ones((2, 11, 10, 4), np.int8)).shape == (2, 6, 5, 8)


@needs_library
def test_bad_operands_are_refused():
    x, kernel = np.zeros((1, 4, 4, 3), np.int8), np.zeros((3, 3, 4, 8), np.int8)
    error = (tf.errors.InvalidArgumentError, ValueError)
    with pytest.raises(error, match="channels"):
        ops.conv2d(x, kernel, engine="native")
    with pytest.raises(error, match="bias"):
        ops.conv2d(x, kernel[:, :, :3], np.zeros(7, np.int32), engine="native")
    with pytest.raises(error, match="shift"):
        ops.conv2d(x, kernel[:, :, :3], requantize=Requantization((1, 2), -128, 127, "int8"), engine="native")
    with pytest.raises(error, match="shift"):
        ops.requantize(x, Requantization((1, 2), -128, 127, "int8"), engine="native")
    with pytest.raises(error):
        ops.dense(np.zeros((2, 3), np.int8), np.zeros((4, 5), np.int8), engine="native")
    with pytest.raises(ValueError, match="takes codes"):
        ops.conv2d(x.astype(np.float32), kernel, engine="native")
    with pytest.raises(ValueError, match="a tier is one of"):
        ops.conv2d(x, kernel, tier="sse9")
    with pytest.raises(ValueError, match="an engine is one of"):
        ops.conv2d(x, kernel, engine="fast")
    with pytest.raises(ValueError, match="low <= high"):
        Requantization(0, -129, 127, "int8")
    with pytest.raises(tf.errors.InvalidArgumentError, match="table"):
        ops.lookup(np.int8([100]), np.zeros(16, np.int8), low=-8, engine="native")
