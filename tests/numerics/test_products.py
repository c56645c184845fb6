"""Integer products against loops over single elements, in Python integers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from graffiti.numerics import products, reference
from graffiti.numerics.windows import transpose_output, transpose_pads, window_output, window_pads


def codes(rng, shape, low=-128, high=128):
    return rng.integers(low, high, shape).astype(np.int16)


def loop_conv(x, kernel, strides, padding, dilation, groups):
    *window, inputs, outputs = kernel.shape
    geometry = list(zip(x.shape[1:-1], window, strides, dilation))
    output = [window_output(n, k, s, d, padding) for n, k, s, d in geometry]
    front = [window_pads(n, k, s, d, padding)[0] for n, k, s, d in geometry]
    y = np.zeros((len(x), *output, outputs), object)
    for b, p, o in itertools.product(range(len(x)), np.ndindex(*output), range(outputs)):
        first = o // (outputs // groups) * inputs
        total = 0
        for w in np.ndindex(*window):
            at = tuple(pi * s + wi * d - f for pi, s, wi, d, f in zip(p, strides, w, dilation, front))
            if all(0 <= a < n for a, n in zip(at, x.shape[1:-1])):
                total += sum(int(x[(b, *at, first + i)]) * int(kernel[(*w, i, o)]) for i in range(inputs))
        y[(b, *p, o)] = total
    return y


CASES = [  # spatial, window, strides, dilation
    ((7,), (3,), (1,), (1,)), ((8,), (3,), (2,), (1,)), ((9,), (2,), (1,), (3,)), ((5,), (5,), (3,), (1,)),
    ((1,), (1,), (2,), (1,)),
    ((5, 6), (3, 3), (1, 1), (1, 1)), ((6, 5), (3, 2), (2, 3), (1, 1)), ((7, 7), (2, 3), (1, 1), (2, 3)),
    ((4, 4), (1, 1), (2, 2), (1, 1)),
    ((6, 7), (4, 4), (3, 2), (1, 1)), ((8, 5), (3, 3), (2, 1), (1, 2)),
]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("spatial, window, strides, dilation", CASES)
def test_conv(spatial, window, strides, dilation, groups, padding):
    rng = np.random.default_rng(1)
    x, kernel = codes(rng, (2, *spatial, 2 * groups)), codes(rng, (*window, 2, 2 * groups))
    assert (
        reference.conv(x, kernel, strides, padding, dilation, groups)
        == loop_conv(x, kernel, strides, padding, dilation, groups)
    ).all()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("spatial, window, strides, dilation", CASES)
def test_depthwise_is_a_conv_with_a_group_per_channel(spatial, window, strides, dilation, multiplier, padding):
    rng = np.random.default_rng(2)
    x, kernel = codes(rng, (2, *spatial, 3)), codes(rng, (*window, 3, multiplier))
    grouped = kernel.reshape(*window, 1, 3 * multiplier)
    assert (
        reference.depthwise_conv(x, kernel, strides, padding, dilation)
        == loop_conv(x, grouped, strides, padding, dilation, 3)
    ).all()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("window, strides, output_padding", [
    ((3,), (2,), None), ((3, 3), (2, 2), None), ((2, 4), (3, 1), None), ((3, 3), (2, 2), (1, 1)),
    ((4, 5), (3, 2), (2, 0)), ((1, 2), (2, 3), (1, 2)),
])
def test_conv_transpose(window, strides, output_padding, padding):
    rng = np.random.default_rng(5)
    sizes = (4, 3)[: len(window)]
    x, kernel = codes(rng, (2, *sizes, 3)), codes(rng, (*window, 2, 3))
    extra = output_padding or (None,) * len(window)
    output = [transpose_output(n, k, s, padding, e) for n, k, s, e in zip(sizes, window, strides, extra)]
    front = [transpose_pads(k, s, padding, e)[0] for k, s, e in zip(window, strides, extra)]
    expected = np.zeros((2, *output, 2), object)
    for b, p, w, o in itertools.product(range(2), np.ndindex(*sizes), np.ndindex(*window), range(2)):
        at = tuple(pi * s + wi - f for pi, s, wi, f in zip(p, strides, w, front))
        if all(0 <= a < n for a, n in zip(at, output)):
            expected[(b, *at, o)] += sum(int(x[(b, *p, i)]) * int(kernel[(*w, o, i)]) for i in range(3))
    assert (reference.conv_transpose(x, kernel, strides, padding, output_padding) == expected).all()


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (2, 3, 4, 7), (0, 7)])
def test_dense_of_any_rank(shape):
    rng = np.random.default_rng(6)
    x, kernel = codes(rng, shape), codes(rng, (7, 4))
    assert (reference.dense(x, kernel) == x.astype(object) @ kernel.astype(object)).all()
    assert reference.dense(x, kernel).shape == (*shape[:-1], 4)


@pytest.mark.parametrize("magnitude, dtype", [(1 << 7, np.float32), (1 << 15, np.float64), (1 << 27, np.int64)])
def test_sums_are_exact_whatever_they_are_summed_in(magnitude, dtype):
    """Terms at the limit that nearly cancel: any rounding of a partial sum would show."""
    rng = np.random.default_rng(7)
    x = rng.choice([-magnitude, magnitude - 1], (3, 6, 6, 24))
    kernel = rng.choice([-magnitude, magnitude - 1, 1], (3, 3, 24, 5))
    assert reference.exact_dtype(x, kernel, (-1,)) == dtype
    expected = loop_conv(x, kernel, (1, 1), "valid", (1, 1), 1)
    assert (reference.conv(x, kernel, (1, 1)) == expected).all()
    assert max(abs(v) for v in expected.ravel()) > {np.float32: 2**16, np.float64: 2**32, np.int64: 2**53}[dtype]


def test_exact_dtype_at_its_borders():
    one = np.ones((1, 1), np.int64)
    for bound, dtype in ((2**24 - 2, np.float32), (2**24, np.float64), (2**52, np.float64), (2**53, np.int64)):
        assert reference.exact_dtype(one * bound, one, (-1,)) == dtype
        assert reference.exact_dtype(-one * bound, one, (-1,)) == dtype
    assert reference.exact_dtype(np.full((1, 1), -128, np.int8), one, (-1,)) == np.float32  # |-128| does not fit int8


@pytest.mark.parametrize("batch", [0, 1, 33])
def test_batches_are_independent_and_may_be_empty(batch, monkeypatch):
    rng = np.random.default_rng(8)
    x = codes(rng, (batch, 5, 5, 4))
    kernel, depthwise, transposed = codes(rng, (3, 3, 4, 6)), codes(rng, (3, 3, 4, 1)), codes(rng, (3, 3, 6, 4))
    whole = [
        reference.conv(x, kernel, (1, 1), "same"), reference.depthwise_conv(x, depthwise, (2, 2)),
        reference.conv_transpose(x, transposed, (2, 2))
    ]
    monkeypatch.setattr(products, "_CHUNK", 1000)  # several chunks
    parts = [
        reference.conv(x, kernel, (1, 1), "same"), reference.depthwise_conv(x, depthwise, (2, 2)),
        reference.conv_transpose(x, transposed, (2, 2))
    ]
    assert [w.shape for w in whole] == [(batch, 5, 5, 6), (batch, 2, 2, 4), (batch, 11, 11, 6)]
    for a, b in zip(whole, parts):
        assert a.dtype == np.int64 and (a == b).all()


def test_wrong_operands_are_sentences():
    x = np.zeros((1, 4, 4, 3), np.int8)
    with pytest.raises(ValueError, match="expects 4 input channels, got 3"):
        reference.conv(x, np.zeros((1, 1, 4, 2), np.int8), (1, 1))
    with pytest.raises(ValueError, match="expects 2 input channels, got 3"):
        reference.depthwise_conv(x, np.zeros((1, 1, 2, 1), np.int8), (1, 1))
    with pytest.raises(ValueError, match="expects 5 input channels, got 3"):
        reference.conv_transpose(x, np.zeros((1, 1, 2, 5), np.int8), (1, 1))
    with pytest.raises(ValueError, match="expects 5 features"):
        reference.dense(x, np.zeros((5, 2), np.int8))
    with pytest.raises(TypeError, match="integer codes, got dtype float32"):
        reference.dense(x.astype(np.float32), np.zeros((3, 2), np.int8))
