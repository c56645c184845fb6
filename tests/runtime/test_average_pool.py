"""The averaging kernels of every tier against the reference: types, windows, borders, tails of channels, rounding
modes, shifts.
"""

from __future__ import annotations

import ctypes
import itertools

import kernel_calls as calls
import numpy as np
import pytest

from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime.library import KernelError, PoolShape, Requantization

WINDOWS = (  # image, window, strides, padding
    ((7, 7), (7, 7), (7, 7), "valid"), ((6, 5), (3, 3), (1, 1), "same"), ((8, 9), (2, 2), (2, 2), "valid"),
    ((5, 12), (2, 6), (2, 3), "same"),
    ((1, 40), (1, 40), (1, 40), "valid"), ((12, 12), (12, 12), (1, 1), "valid"), ((20, 17), (20, 17), (1, 1), "valid"),
)


def check(x, tier, window, strides, padding, left, target, mode, divide=True, low=None, high=None):
    source = QFormat(8 * x.dtype.itemsize, x.dtype.kind == "i", 0)
    expected = reference.average_pool(x, window, strides, padding, source, target, mode, low, high, divide)
    low, high = target.qmin if low is None else low, target.qmax if high is None else high
    to = Requantization.make(-left, low, high, target.dtype, mode)
    got = calls.average_pool(x, tier, window, strides, padding, to, target.dtype, divide)
    assert (got == expected).all(), (window, left, mode, np.argwhere(got != expected)[:3].tolist())


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
def test_every_window_and_rounding(tier, dtype):
    rng = np.random.default_rng(0)
    info = np.iinfo(np.int16 if dtype == np.int32 else dtype)
    for (size, window, strides, padding), mode in itertools.product(WINDOWS, ROUNDING_MODES):
        x = rng.integers(info.min, info.max + 1, (2, *size, 5)).astype(dtype)
        for left in (-3, 0, 2, 9):
            shift = left - (8 if dtype not in (np.int8, np.uint8) else 0)
            target = QFormat(8, info.min < 0, -shift)
            check(x, tier, window, strides, padding, shift, target, mode)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_every_number_of_channels(tier, dtype):
    """Every tail behind the vectors, at the end of the memory too."""
    rng = np.random.default_rng(1)
    info = np.iinfo(dtype)
    for channels in (*range(1, 70), 127, 128, 129, 255, 256, 257, 300):
        x = rng.integers(info.min, info.max + 1, (1, 3, 3, channels)).astype(dtype)
        check(calls.unaligned(x), tier, (3, 3), (3, 3), "valid", 1, QFormat(8, info.min < 0, -1), "half_even")
        check(x, tier, (2, 2), (1, 1), "same", 0, QFormat(8, info.min < 0, 0), "half_even")


@pytest.mark.parametrize("overlapping", [False, True])
def test_every_sum_of_a_window_with_ties(tier, overlapping):
    """A channel for each sum of a window, of counts with ties and without; one output alone, and two that overlap."""
    for count in (1, 2, 3, 4, 6, 9, 10, 12, 25, 36, 49, 63, 64, 100, 128):
        sums = np.arange(0, 255 * count + 1)
        x = np.zeros((1, count, 1, len(sums)), np.uint8)
        for tap in range(count):
            x[0, tap, 0] = np.clip(sums - 255 * tap, 0, 255)
        if overlapping:
            x = np.concatenate([x, x[:, :1]], axis=1).transpose(0, 2, 1, 3)
        window, strides = ((1, count), (1, 1)) if overlapping else ((count, 1), (count, 1))
        for mode in ROUNDING_MODES:
            for left in (-3, 0, 1, 3, 7):
                for codes in (x, (x.astype(np.int16) - 128).astype(np.int8)):
                    check(codes, tier, window, strides, "valid", left, QFormat(8, codes.dtype == np.int8, -left), mode)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_rows_of_outputs(tier, dtype):
    """Windows that overlap, touch, leave gaps, reach over the border; few and many channels; long rows."""
    rng, info = np.random.default_rng(4), np.iinfo(dtype)
    modes = itertools.cycle(itertools.product(ROUNDING_MODES, (0, 1, -2)))
    windows, steps = ((2, 2), (3, 3), (2, 3), (1, 2), (5, 4), (8, 8)), ((1, 1), (2, 2), (2, 3), (1, 9))
    geometries = itertools.product(windows, steps, ("same", "valid"))
    shapes = [(9, 12, 1), (8, 9, 3), (9, 8, 8), (8, 17, 15), (9, 11, 16), (8, 9, 33), (8, 8, 64), (8, 9, 100)]
    for (window, strides, padding), size in itertools.product(geometries, shapes):
        x = calls.unaligned(rng.integers(info.min, info.max + 1, (2, *size)).astype(dtype))
        mode, left = next(modes)
        check(x, tier, window, strides, padding, left, QFormat(8, info.min < 0, -left), mode)
    for size, window, strides in (
        ((3, 900, 20), (3, 3), (1, 1)), ((2, 70, 700), (2, 3), (1, 2)), ((2, 3000, 3), (2, 2), (2, 2)),
        ((1, 500, 70), (1, 128), (1, 1)), ((4, 33, 257), (2, 2), (2, 2)), ((3, 11, 1280), (3, 3), (1, 1)),
        ((2, 700, 24), (2, 5), (2, 2)),
    ):
        for padding in ("same", "valid"):
            mode, left = next(modes)
            x = rng.integers(info.min, info.max + 1, (1, *size)).astype(dtype)
            check(x, tier, window, strides, padding, left, QFormat(8, info.min < 0, -left), mode)


def test_images_of_one_column(tier):
    """Pools of sequences: neighbours in memory are neighbours in height."""
    rng = np.random.default_rng(5)
    cases = itertools.product((1, 3, 40, 130), (2, 3, 7), (1, 2, 5), ("same", "valid"))
    for channels, window, stride, padding in cases:
        x = rng.integers(-128, 128, (2, 50, 1, channels)).astype(np.int8)
        for mode in ROUNDING_MODES:
            check(x, tier, (window, 1), (stride, 1), padding, 1, QFormat(8, True, -1), mode)


def test_large_windows_take_doubles(tier):
    rng = np.random.default_rng(2)
    for dtype in (np.uint8, np.int8):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max + 1, (1, 256, 256, 3)).astype(dtype)
        full = np.full((1, 256, 256, 2), info.max, dtype)
        for mode, left in itertools.product(ROUNDING_MODES, (0, 5, 20, -2)):
            target = QFormat(8, info.min < 0, -left)
            check(x, tier, (256, 256), (256, 256), "valid", left, target, mode)
            check(full, tier, (256, 256), (256, 256), "valid", left, target, mode)


@pytest.mark.parametrize("strides", [(3, 3), (1, 1)])
def test_sums_limits_and_wide_outputs(tier, strides):
    x = np.random.default_rng(3).integers(-128, 128, (2, 6, 6, 19)).astype(np.int8)
    for dtype in (np.int8, np.uint8):
        x = x.view(dtype)
        check(x, tier, (3, 3), strides, "valid", -4, QFormat(8, True, 4), "half_even", divide=False)
        check(x, tier, (3, 3), strides, "valid", 6, QFormat(16, True, -6), "half_even")
        check(x, tier, (3, 3), strides, "valid", 20, QFormat(32, True, -20), "half_even")
        check(x, tier, (3, 3), strides, "valid", 2, QFormat(8, True, -2), "half_even", low=0, high=90)
        check(x, tier, (3, 3), strides, "valid", 7, QFormat(8, True, -7), "half_away", low=-3, high=90)
        check(x, tier, (3, 3), strides, "valid", 0, QFormat(8, True, 0), "floor", low=100, high=100)
        check(x, tier, (2, 3), strides, "same", 2, QFormat(16, False, -2), "half_up", low=3, high=900)


@pytest.mark.parametrize(
    "window, shift, why", [((0, 2), 0, "at least 1"), ((2, 2), 63, "shift"), ((2, 2), [0, 1], "one shift")]
)
def test_bad_arguments_get_a_sentence(kernels, window, shift, why):
    x, to = np.zeros((1, 2, 2, 1), np.int8), Requantization.make(shift, -128, 127, np.int8)
    shape = PoolShape(2, 2, 1, 1, 1, *window, 1, 1, 0, 0)
    with pytest.raises(KernelError, match=why):
        kernels.call(
            "average_pool", ctypes.byref(shape), 1, calls.pointer(x), 0, ctypes.byref(to), 1, calls.pointer(x), 1, None
        )
