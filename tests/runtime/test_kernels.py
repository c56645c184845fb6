"""Every kernel on every tier against ``numerics.reference``: integers, compared with ``==``."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernel_calls import (
    conv,
    dequantize,
    elementwise,
    full_range,
    guarded,
    lookup,
    max_pool,
    quantize,
    requantize,
    rounded,
    unaligned,
    untouched,
)

from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES
from graffiti.runtime import library
from graffiti.runtime.library import KernelError, Requantization

CODES = (np.int8, np.uint8, np.int16, np.uint16, np.int32)


def wrapped(x) -> np.ndarray:
    """Modulo 2**32, as the accumulators are."""
    return np.asarray(x, np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)


# ---- register tiles --------------------------------------------------------------------------------------------------
def test_every_tile_on_every_size_around_it(kernels):
    """Sizes 1 ... tile + 1 in both directions, odd and tiny K, raw and requantized, for every row of
    dot/kernels.inc.
    """
    rng = np.random.default_rng(0)
    seen = set()
    for index in range(kernels.dot_kernel_count()):
        info = library.DotKernelInfo()
        kernels.call("get_dot_kernel", index, info)
        if library.TIERS[info.tier] not in kernels.tiers():
            continue
        a_type, b_type = library.TYPES[info.a_type], library.TYPES[info.b_type]
        seen.add((info.tier, info.a_type))
        columns = sorted({1, 2, info.columns - 1, info.columns, info.columns + 1} - {0})
        for m in range(1, info.rows + 2):
            for n in columns:
                k = int(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 31]))
                a, b = full_range(rng, a_type, (m, k)), full_range(rng, b_type, (k, n))
                bias = rng.integers(-(2**20), 2**20, n).astype(np.int32)
                expected = wrapped(a.astype(np.int64) @ b.astype(np.int64) + bias)
                c, raw = guarded((m, n), np.int32)
                kernels.call(
                    "run_dot_kernel", index, m, n, k, a.ctypes.data, b.ctypes.data, bias.ctypes.data, None,
                    c.ctypes.data, 1
                )
                assert np.array_equal(c, expected) and untouched(raw), (info.name, m, n, k)
                if np.abs(a.astype(np.int64) @ b.astype(np.int64)).max() < 2**30:
                    mode = ("half_even", "half_up", "floor")[(m + n) % 3]
                    shifts = rng.integers(0, 31, n)
                    to = Requantization.make(shifts, -128, 127, np.int8, mode)
                    small, raw = guarded((m, n), np.int8)
                    kernels.call(
                        "run_dot_kernel", index, m, n, k, a.ctypes.data, b.ctypes.data, bias.ctypes.data,
                        ctypes.byref(to), small.ctypes.data, 1
                    )
                    exact = a.astype(np.int64) @ b.astype(np.int64) + bias
                    ok = exact + (1 << np.maximum(shifts - 1, 0)) < 2**31  # what conv checks before it fuses
                    assert (
                        np.array_equal(small[ok], rounded(exact, shifts, -128, 127, mode)[ok]) and untouched(raw)
                    ), (info.name, m, n, k, mode)
    assert {library.TIERS[number] for number, _ in seen} == set(kernels.tiers()), "every tier has tiles"


# ---- convolutions ----------------------------------------------------------------------------------------------------
GEOMETRIES = [  # height, width, in, out, window, strides, dilation, groups, padding
    (1, 1, 1, 1, (1, 1), (1, 1), (1, 1), 1, "valid"),
    (5, 7, 3, 16, (3, 3), (1, 1), (1, 1), 1, "same"),
    (9, 6, 16, 17, (3, 3), (2, 2), (1, 1), 1, "same"),
    (8, 8, 64, 64, (3, 3), (1, 1), (1, 1), 1, "same"),
    (7, 5, 5, 33, (3, 2), (2, 1), (1, 1), 1, "valid"),
    (9, 9, 4, 8, (3, 3), (1, 1), (2, 3), 1, "same"),
    (11, 8, 8, 24, (5, 1), (3, 2), (2, 1), 1, "valid"),
    (6, 6, 24, 96, (1, 1), (1, 1), (1, 1), 1, "valid"),
    (13, 9, 12, 49, (1, 1), (1, 1), (1, 1), 1, "valid"),
    (6, 7, 32, 160, (1, 1), (2, 2), (1, 1), 1, "same"),
    (1, 20, 7, 10, (1, 5), (1, 2), (1, 1), 1, "same"),
    (6, 5, 12, 18, (3, 3), (1, 1), (1, 1), 3, "same"),
    (6, 5, 10, 4, (2, 3), (2, 1), (1, 2), 2, "valid"),
    (5, 5, 6, 5, (4, 4), (1, 1), (1, 1), 1, ((3, 0), (0, 5))),
    (3, 3, 2, 3, (2, 2), (1, 1), (1, 1), 1, ((6, 7), (4, 9))),
    (1, 130, 33, 65, (1, 1), (1, 1), (1, 1), 1, "valid"),
    (40, 40, 64, 8, (3, 3), (1, 1), (1, 1), 1, "same"),
]
DEPTHWISE = [  # height, width, in, multiplier, window, strides, dilation, padding
    (5, 5, 2, 1, (3, 3), (1, 1), (1, 1), "same"),
    (9, 7, 16, 1, (3, 3), (2, 2), (1, 1), "same"),
    (6, 6, 33, 1, (3, 3), (1, 1), (2, 2), "valid"),
    (8, 8, 64, 1, (8, 8), (1, 1), (1, 1), "valid"),
    (5, 6, 7, 3, (2, 3), (1, 2), (1, 1), "same"),
    (1, 19, 31, 2, (1, 5), (1, 1), (1, 3), "same"),
    (10, 11, 32, 1, (3, 3), (1, 1), (1, 1), "valid"),
]


def explicit(x, padding, window, strides, dilation):
    if isinstance(padding, str):
        return x, padding
    return np.pad(x, [(0, 0), *padding, (0, 0)]), "valid"


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "x".join(map(str, g[:4])))
def test_conv(tier, geometry):
    height, width, inputs, outputs, window, strides, dilation, groups, padding = geometry
    rng = np.random.default_rng(hash((height, width, inputs, outputs)) % 2**32)
    for number, (x_type, kernel_type) in enumerate(
        ((np.int8, np.int8), (np.uint8, np.int8), (np.int16, np.int8), (np.uint8, np.uint8), (np.int8, np.int16))
    ):
        x = full_range(rng, x_type, (2, height, width, inputs))
        kernel = full_range(rng, kernel_type, (*window, inputs // groups, outputs))
        bias = rng.integers(-(2**16), 2**16, outputs).astype(np.int32)
        padded, mode = explicit(x, padding, window, strides, dilation)
        sums = reference.conv(padded, kernel, strides, mode, dilation, groups)
        options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
        assert np.array_equal(conv(unaligned(x), kernel, tier, **options), wrapped(sums)), (x_type, kernel_type)
        rounding = ROUNDING_MODES[number % 4]
        shifts = rng.integers(4, 13, outputs if number % 2 else 1)
        to = Requantization.make(shifts, -100, 127, np.int8, rounding)
        got = conv(x, unaligned(kernel), tier, bias=bias, to=to, dtype=np.int8, **options)
        if np.abs(sums + bias).max() < 2**31:
            assert np.array_equal(
                got, rounded(sums + bias, shifts, -100, 127, rounding)
            ), (x_type, kernel_type, rounding)


@pytest.mark.parametrize("geometry", DEPTHWISE, ids=lambda g: "x".join(map(str, g[:4])))
def test_depthwise_conv(tier, geometry):
    height, width, inputs, multiplier, window, strides, dilation, padding = geometry
    rng = np.random.default_rng(height * 100 + inputs)
    for number, (x_type, kernel_type) in enumerate(
        (
            (np.int8, np.int8), (np.uint8, np.int8), (np.int16, np.int8), (np.uint8, np.uint8), (np.int8, np.int16),
            (np.int16, np.uint8)
        )
    ):
        x = full_range(rng, x_type, (2, height, width, inputs))
        kernel = full_range(rng, kernel_type, (*window, inputs, multiplier))
        sums = reference.depthwise_conv(x, kernel, strides, padding, dilation)
        options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": inputs}
        flat = kernel.reshape(*window, 1, inputs * multiplier)
        assert np.array_equal(conv(unaligned(x), flat, tier, **options), wrapped(sums)), (x_type, kernel_type)
        rounding = ROUNDING_MODES[number % 4]
        shifts = rng.integers(0, 14, inputs * multiplier if number % 2 else 1)
        to = Requantization.make(shifts, 0, 255, np.uint8, rounding)
        if np.abs(sums).max() < 2**31:
            assert np.array_equal(
                conv(x, flat, tier, to=to, dtype=np.uint8, **options), rounded(sums, shifts, 0, 255, rounding)
            ), (x_type, kernel_type, rounding)


@pytest.mark.parametrize("x_type", CODES)
@pytest.mark.parametrize("out_type", CODES)
def test_types_that_no_kernel_takes_are_exact_too(tier, x_type, out_type):
    rng = np.random.default_rng(3)
    x = (
        full_range(rng, x_type, (1, 4, 5, 3)) if x_type != np.int32
        else rng.integers(-(2**20), 2**20, (1, 4, 5, 3)).astype(np.int32)
    )
    kernel = full_range(rng, np.int8, (2, 2, 3, 5))
    sums = reference.conv(x, kernel, (1, 1), "same")
    low, high = (np.iinfo(out_type).min, np.iinfo(out_type).max)
    for shifts in (np.array([5]), np.array([0, 3, 9, 14, 1])):
        to = Requantization.make(shifts, low, high, out_type, "half_even")
        assert np.array_equal(
            conv(x, kernel, tier, padding="same", to=to, dtype=out_type), rounded(sums, shifts, low, high)
        )


def test_transposed_by_spread_and_flipped_kernel(tier):
    rng = np.random.default_rng(4)
    for size, window, stride in (((4, 3), (3, 3), (2, 2)), ((3, 5), (2, 4), (3, 1)), ((2, 2), (1, 1), (2, 2))):
        x, kernel = full_range(rng, np.int8, (2, *size, 5)), full_range(rng, np.int8, (*window, 6, 5))
        expected = reference.conv_transpose(x, kernel, stride, "valid", None)
        flipped = np.ascontiguousarray(kernel[::-1, ::-1].swapaxes(2, 3))
        pads = [(k - 1, n - ((m - 1) * s + 1) + 0) for k, n, m, s in zip(window, expected.shape[1:3], size, stride)]
        assert np.array_equal(conv(x, flipped, tier, padding=pads, spread=stride), expected)


def test_extremes_and_the_edge_of_32_bits(tier):
    """-128 x -128 everywhere; biases that put the sum on the last codes of 32 bits, where adding half of a place
    would leave them.
    """
    for x_type, x_code in ((np.int8, -128), (np.uint8, 255), (np.int16, -32768)):
        for channels in (1, 3, 16, 64, 129):
            x = np.full((1, 2, 3, channels), x_code, x_type)
            kernel = np.full((1, 1, channels, 20), -128, np.int8)
            total = x_code * -128 * channels
            for target in (2**31 - 1, -(2**31)):
                bias = np.full(20, target - total, np.int64)
                if np.abs(bias).max() >= 2**31:
                    continue
                bias = bias.astype(np.int32)
                assert (conv(x, kernel, tier, bias=bias) == target).all()
                for rounding in ROUNDING_MODES:
                    for shift in (0, 1, 15, 24, 30, 31, 32, 40):
                        to = Requantization.make(shift, -128, 127, np.int8, rounding)
                        got = conv(x, kernel, tier, bias=bias, to=to, dtype=np.int8)
                        assert (
                            got == rounded(np.int64(target), shift, -128, 127, rounding)
                        ).all(), (x_type, channels, target, rounding, shift)


def test_dense_of_every_number_of_rows(tier, kernels):
    rng = np.random.default_rng(5)
    for rows in (*range(0, 15), 95, 96, 97, 200):
        for inputs, outputs in ((1, 1), (64, 10), (65, 130), (33, 64)):
            x, kernel = full_range(rng, np.int8, (rows, inputs)), full_range(rng, np.int8, (inputs, outputs))
            y, raw = guarded((rows, outputs), np.int32)
            kernels.call(
                "dense", rows, inputs, outputs, x.ctypes.data, 0, kernel.ctypes.data, 0, None, None, y.ctypes.data,
                library.tier_number(tier), None
            )
            assert np.array_equal(y, x.astype(np.int32) @ kernel.astype(np.int32)) and untouched(raw)


# ---- elementwise -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_requantize_all_8_bit_codes_all_shifts(tier, rounding):
    for dtype in (np.int8, np.uint8):
        x = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1).astype(dtype)
        for shift in range(-62, 63):
            for out, low, high in (
                (np.int8, -128, 127), (np.uint8, 3, 200), (np.int16, -30000, 32767), (np.uint16, 0, 65535),
                (np.int32, -(2**31), 2**31 - 1)
            ):
                got = requantize(x, tier, Requantization.make(shift, low, high, out, rounding), out)
                assert np.array_equal(got, rounded(x, shift, low, high, rounding)), (dtype, shift, out)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_requantize_ties_extremes_and_channels(tier, rounding):
    rng = np.random.default_rng(6)
    edges = np.array([2**31 - 1, -(2**31), 2**30, -(2**30), 0, -1, 1, 5, -5, 2**31 - 2**15, 3 << 14], np.int64)
    x = np.concatenate([edges, rng.integers(-(2**31), 2**31, 1000)]).astype(np.int32)
    for shift in range(-40, 63):
        assert np.array_equal(
            requantize(x, tier, Requantization.make(shift, -32768, 32767, np.int16, rounding), np.int16),
            rounded(x, shift, -32768, 32767, rounding)
        )
    halves = (np.arange(-3, 4)[:, None] * 2 + 1) << np.arange(0, 20)  # (2n + 1) * 2**(s-1) / 2**s: always a tie
    for shift in range(1, 20):
        ties = halves[:, shift - 1].astype(np.int32)
        assert np.array_equal(
            requantize(ties, tier, Requantization.make(shift, -128, 127, np.int8, rounding), np.int8),
            rounded(ties, shift, -128, 127, rounding)
        )
    for channels in (2, 3, 17, 600):
        x = full_range(rng, np.int32, (5, channels))
        shifts = rng.integers(-3, 34, channels)
        got = requantize(x, tier, Requantization.make(shifts, -128, 127, np.int8, rounding), np.int8, channels)
        assert np.array_equal(got, rounded(x, shifts, -128, 127, rounding))


def test_all_pairs_of_8_bit_codes_added_and_subtracted(tier):
    for x_type in (np.int8, np.uint8):
        for y_type in (np.int8, np.uint8):
            x, y = np.meshgrid(
                np.arange(np.iinfo(x_type).min, np.iinfo(x_type).max + 1).astype(x_type),
                np.arange(np.iinfo(y_type).min, np.iinfo(y_type).max + 1).astype(y_type)
            )
            x, y = np.ascontiguousarray(x), unaligned(np.ascontiguousarray(y))
            for operation, exact in (
                ("add", x.astype(np.int64) + y), ("subtract", x.astype(np.int64) - y),
                ("reverse_subtract", y - x.astype(np.int64))
            ):
                assert np.array_equal(elementwise(operation, x, y, tier), exact)
                for shift in (0, 1, 3, 9, 14, 15, -1, -2, -5, -6, -31):
                    for rounding in ("half_even", "half_away"):
                        got = elementwise(
                            operation, x, y, tier, Requantization.make(shift, 0, 255, np.uint8, rounding), np.uint8
                        )
                        assert np.array_equal(
                            got, rounded(exact, shift, 0, 255, rounding)
                        ), (operation, shift, rounding)


@pytest.mark.parametrize("x_type", CODES)
@pytest.mark.parametrize("y_type", CODES)
def test_elementwise_types_and_repeated_operands(tier, x_type, y_type):
    rng = np.random.default_rng(7)
    for count in (0, 1, 15, 16, 17, 600, 1300):
        x = full_range(rng, x_type, (count, 6))
        for y_count in (1, 6, 2 * 6, count * 6):
            if y_count == 0 or x.size % y_count:
                continue
            y = full_range(rng, y_type, y_count)
            repeated = np.tile(y, x.size // y_count).reshape(x.shape).astype(np.int64)
            for operation, exact in (
                ("add", x + repeated), ("subtract", x - repeated), ("multiply", x.astype(np.int64) * repeated)
            ):
                assert np.array_equal(elementwise(operation, x, y, tier), wrapped(exact)), (operation, count, y_count)
            if x_type == y_type:
                assert np.array_equal(elementwise("maximum", x, y, tier, dtype=x_type), np.maximum(x, repeated))
                assert np.array_equal(elementwise("minimum", x, y, tier, dtype=x_type), np.minimum(x, repeated))


@pytest.mark.parametrize("dtype", [*CODES, np.float32])
def test_max_pool(tier, dtype):
    rng = np.random.default_rng(8)
    for (height, width, channels), window, strides, padding in (
        ((6, 6, 5), (2, 2), (2, 2), "valid"), ((7, 5, 16), (3, 3), (2, 2), "same"),
        ((7, 9, 33), (3, 2), (1, 3), "same"),
        ((1, 12, 3), (1, 4), (1, 4), "valid"), ((5, 5, 64), (5, 5), (1, 1), "valid"),
        ((4, 4, 1), (3, 3), (1, 1), "same"),
    ):
        shape = (2, height, width, channels)
        x = full_range(rng, dtype, shape) if dtype != np.float32 else rng.normal(size=shape).astype(dtype)
        assert np.array_equal(
            max_pool(unaligned(x), tier, window, strides, padding), reference.max_pool(x, window, strides, padding)
        )


def test_lookup(tier):
    rng = np.random.default_rng(9)
    for x_type in (np.int8, np.uint8, np.int16):
        info = np.iinfo(x_type)
        for low, high in ((info.min, info.max), (info.min + 1, info.max), (0, 100)):
            x = rng.integers(low, high + 1, 1000).astype(x_type)
            for out in (np.int8, np.uint8, np.int16, np.int32):
                table = full_range(rng, out, high - low + 1)
                assert np.array_equal(lookup(x, table, low, tier), table[x.astype(np.int64) - low])
            if low > info.min:
                x[777] = low - 1
                with pytest.raises(KernelError, match="table for the codes"):
                    lookup(x, table, low, tier)


@pytest.mark.parametrize("rounding", ROUNDING_MODES)
def test_quantize_and_dequantize(tier, rounding):
    rng = np.random.default_rng(10)
    x = np.concatenate([
        rng.normal(0, 1, 3000), rng.normal(0, 1e-3, 1000), np.arange(-600, 600) / 4,
        [np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38],
        np.nextafter(np.float32([0.5, 1.5, 2.5, -0.5, -2.5]), np.float32(0)),
        np.nextafter(np.float32([0.5, 1.5, -0.5]), np.float32(9)),
    ]).astype(np.float32)
    for format in (
        QFormat(8, True, -6), QFormat(8, False, -7), QFormat(8, True, 0), QFormat(4, True, 1, narrow=True),
        QFormat(16, True, -12), QFormat(16, False, -3), QFormat(32, True, -20), QFormat(8, True, -130),
        QFormat(8, True, 140), QFormat(8, True, 700)
    ):
        got = quantize(x, tier, format.exponent, format.qmin, format.qmax, format.dtype, rounding)
        assert np.array_equal(got, reference.quantize(x, format, rounding)), (str(format), rounding)
        with np.errstate(over="ignore"):  # 2**140 is infinite in float32, on both sides
            assert np.array_equal(dequantize(got, tier, format.exponent), reference.dequantize(got, format))
    codes = full_range(rng, np.int32, (40, 3))
    assert np.array_equal(
        dequantize(codes, tier, (-3, 0, 30)), reference.dequantize(codes, QFormat(32, True, (-3, 0, 30)))
    )
    x[1234] = np.nan
    with pytest.raises(KernelError, match="NaN"):
        quantize(x, tier, 0, -128, 127, np.int8, rounding)


# ---- bad input -------------------------------------------------------------------------------------------------------
def test_errors_are_sentences(kernels):
    x, kernel = np.zeros((1, 4, 4, 6), np.int8), np.zeros((3, 3, 6, 4), np.int8)
    with pytest.raises(KernelError, match="4 groups do not divide 6 input"):
        conv(x, kernel, "auto", groups=4)
    with pytest.raises(KernelError, match="one shift or one per channel"):
        conv(x, kernel, "auto", to=Requantization.make([1, 2], -128, 127, np.int8), dtype=np.int8)
    with pytest.raises(KernelError, match="low <= high within s8"):
        requantize(x, "auto", Requantization.make(1, -129, 127, np.int8), np.int8)
    with pytest.raises(KernelError, match="low <= high within u8"):
        requantize(x, "auto", Requantization.make(1, 5, 4, np.uint8), np.uint8)
    with pytest.raises(KernelError, match="do not repeat evenly"):
        elementwise("add", x, np.zeros(7, np.int8), "auto")
    with pytest.raises(KernelError, match="a tier is 0"):
        kernels.call("relu", 1, x.ctypes.data, 0, 5, x.ctypes.data, 9, None)
    with pytest.raises(ValueError, match="a tier is one of"):
        library.tier_number("sse9")
    with pytest.raises(ValueError, match="float64"):
        library.type_number(np.float64)


def test_relu(tier, kernels):
    x = np.arange(-128, 128).astype(np.int8)
    y = np.empty_like(x)
    kernels.call("relu", x.size, x.ctypes.data, 0, 96, y.ctypes.data, library.tier_number(tier), None)
    assert np.array_equal(y, np.clip(x, 0, 96))


def test_parallel_callback_gets_every_part(kernels):
    """A callback that runs its parts backwards and singly must give the same bytes."""
    calls = []

    @ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
        ctypes.c_void_p
    )
    def backwards(context, n, fn, arg):
        for i in reversed(range(n)):
            calls.append(i)
            fn(arg, i, i + 1)

    class Parallel(ctypes.Structure):
        _fields_ = [("parallel_for", type(backwards)), ("context", ctypes.c_void_p), ("threads", ctypes.c_int64)]

    rng = np.random.default_rng(11)
    x, kernel = full_range(rng, np.int8, (3, 9, 8, 7)), full_range(rng, np.int8, (3, 3, 7, 21))
    shape = library.ConvShape(9, 8, 7, 9, 8, 21, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1)
    y = np.empty((3, 9, 8, 21), np.int32)
    parallel = Parallel(backwards, None, 2)
    kernels.call(
        "conv2d", ctypes.byref(shape), 3, x.ctypes.data, 0, kernel.ctypes.data, 0, None, None, y.ctypes.data, 0,
        ctypes.addressof(parallel)
    )
    assert len(calls) == 27 and np.array_equal(y, reference.conv(x, kernel, (1, 1), "same"))
