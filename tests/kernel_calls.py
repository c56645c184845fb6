"""numpy in front of the C ABI, one function per op, for the kernel tests."""

from __future__ import annotations

import concurrent.futures
import ctypes

import numpy as np

from graffiti.graph.ops import window_output, window_pads
from graffiti.numerics.rounding import ROUNDING_MODES, shift_right
from graffiti.numerics.training import Element, Threshold
from graffiti.runtime import library
from graffiti.runtime.library import OPERATIONS, ConvShape, PoolShape, Requantization, load, tier_number, type_number


def pointer(array):
    return None if array is None else array.ctypes.data


def unaligned(array: np.ndarray, shift: int = 1) -> np.ndarray:
    """The same array at an address that is a multiple of its element's size only."""
    size = array.dtype.itemsize
    raw = np.zeros(array.nbytes + 64 + size * shift, np.uint8)
    start = (-raw.ctypes.data) % 64 + size * shift
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def guarded(shape, dtype) -> tuple[np.ndarray, np.ndarray]:
    """An output array and the bytes around it, which nobody may touch."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.full(nbytes + 256, 0xA5, np.uint8)
    inside = raw[128 : 128 + nbytes].view(dtype).reshape(shape)
    return inside, raw


def untouched(raw: np.ndarray) -> bool:
    return bool((raw[:128] == 0xA5).all() and (raw[-128:] == 0xA5).all())


def conv(
    x, kernel, tier, *, bias=None, to: Requantization | None = None, dtype=np.int32, strides=(1, 1), padding="valid",
    dilation=(1, 1), groups=1, spread=(1, 1)
):
    """``graffiti_conv2d``; ``padding`` is same, valid or ((top, bottom), (left, right)); a spread needs explicit
    pads.
    """
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[1:3], spread)]
    if isinstance(padding, str):
        front = [window_pads(n, k, s, d, padding)[0] for n, k, s, d in zip(size, kernel.shape, strides, dilation)]
        out = [window_output(n, k, s, d, padding) for n, k, s, d in zip(size, kernel.shape, strides, dilation)]
    else:
        front = [pair[0] for pair in padding]
        out = [
            window_output(n + sum(pair), k, s, d, "valid")
            for n, pair, k, s, d in zip(size, padding, kernel.shape, strides, dilation)
        ]
    shape = ConvShape(
        *x.shape[1:], *out, kernel.shape[3], *kernel.shape[:2], *strides, *dilation, *front, groups, *spread
    )
    y, raw = guarded((x.shape[0], *out, kernel.shape[3]), dtype)
    load().call(
        "conv2d", ctypes.byref(shape), x.shape[0], pointer(x), type_number(x.dtype), pointer(kernel),
        type_number(kernel.dtype), pointer(bias), ctypes.byref(to) if to else None, pointer(y), tier_number(tier), None
    )
    assert untouched(raw)
    return y


def requantize(x, tier, to: Requantization, dtype, channels=1):
    y, raw = guarded(x.shape, dtype)
    load().call(
        "requantize", x.size, channels, pointer(x), type_number(x.dtype), ctypes.byref(to), pointer(y),
        tier_number(tier), None
    )
    assert untouched(raw)
    return y


def elementwise(operation, x, y, tier, to: Requantization | None = None, dtype=np.int32, channels=1):
    out, raw = guarded(x.shape, dtype)
    load().call(
        "elementwise", OPERATIONS[operation], x.size, channels, pointer(x), type_number(x.dtype), pointer(y),
        type_number(y.dtype), y.size, ctypes.byref(to) if to else None, pointer(out), tier_number(tier), None
    )
    assert untouched(raw)
    return out


def max_pool(x, tier, pool_size, strides, padding):
    front = [window_pads(n, k, s, 1, padding)[0] for n, k, s in zip(x.shape[1:3], pool_size, strides)]
    out = [window_output(n, k, s, 1, padding) for n, k, s in zip(x.shape[1:3], pool_size, strides)]
    shape = PoolShape(*x.shape[1:], *out, *pool_size, *strides, *front)
    y, raw = guarded((x.shape[0], *out, x.shape[3]), x.dtype)
    load().call(
        "max_pool", ctypes.byref(shape), x.shape[0], pointer(x), type_number(x.dtype), pointer(y), tier_number(tier),
        None
    )
    assert untouched(raw)
    return y


def lookup(x, table, low, tier):
    y, raw = guarded(x.shape, table.dtype)
    load().call(
        "lookup", x.size, pointer(x), type_number(x.dtype), low, pointer(table), type_number(table.dtype), len(table),
        pointer(y), tier_number(tier), None
    )
    assert untouched(raw)
    return y


def quantize(x, tier, exponent, low, high, dtype, rounding):
    y, raw = guarded(x.shape, dtype)
    load().call(
        "quantize", x.size, pointer(x), exponent, ROUNDING_MODES.index(rounding), low, high, type_number(dtype),
        pointer(y), tier_number(tier), None
    )
    assert untouched(raw)
    return y


def dequantize(x, tier, exponents):
    exponents = np.atleast_1d(np.asarray(exponents, np.int32))
    y, raw = guarded(x.shape, np.float32)
    load().call(
        "dequantize", x.size, len(exponents), pointer(x), type_number(x.dtype), pointer(exponents), len(exponents),
        pointer(y), tier_number(tier), None
    )
    assert untouched(raw)
    return y


def rounded(codes, shift, low, high, mode="half_even"):
    """What a requantization must give, by ``numerics.rounding``."""
    return np.clip(shift_right(codes, np.maximum(shift, -32), mode), low, high)


def full_range(rng, dtype, shape) -> np.ndarray:
    """Random codes of a type, its lowest and highest often among them."""
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, shape)
    return np.where(rng.random(shape) < 0.2, np.where(rng.random(shape) < 0.5, info.min, info.max), x).astype(dtype)


def average_pool(x, tier, pool_size, strides, padding, to: Requantization, dtype, divide=True):
    front = [window_pads(n, k, s, 1, padding)[0] for n, k, s in zip(x.shape[1:3], pool_size, strides)]
    out = [window_output(n, k, s, 1, padding) for n, k, s in zip(x.shape[1:3], pool_size, strides)]
    shape = PoolShape(*x.shape[1:], *out, *pool_size, *strides, *front)
    y, raw = guarded((x.shape[0], *out, x.shape[3]), dtype)
    load().call(
        "average_pool", ctypes.byref(shape), x.shape[0], pointer(x), type_number(x.dtype), ctypes.byref(to),
        int(divide), pointer(y), tier_number(tier), None
    )
    assert untouched(raw)
    return y


PART = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
PARALLEL_FOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, PART, ctypes.c_void_p)


class Parallel(ctypes.Structure):
    """``graffiti_parallel``."""

    _fields_ = [("parallel_for", PARALLEL_FOR), ("context", ctypes.c_void_p), ("threads", ctypes.c_int64)]


@PARALLEL_FOR
def _every_part(context, count, part, argument):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: part(argument, i, i + 1), range(count - 1, -1, -1)))


THREADS = Parallel(_every_part, None, 4)  # every part by itself, the last one first, on four threads


def _end(tier, threads):
    return tier_number(tier), ctypes.byref(THREADS) if threads else None


def _seed(seed):
    return None if seed is None else np.array(seed, np.uint32)


def training_quantize(x, inverse_step, low, high, dtype, tier, seed=None, threads=False):
    """``(codes, extremes)``."""
    (codes, raw), (ends, raw_ends) = guarded(x.shape, dtype), guarded(2, np.float32)
    words = _seed(seed)
    load().call("training_quantize", x.size, pointer(x), inverse_step, low, high, pointer(words), type_number(dtype),
                pointer(codes), pointer(ends), *_end(tier, threads))
    assert untouched(raw) and untouched(raw_ends)
    return codes, ends


def extremes(x, tier, threads=False):
    ends, raw = guarded(2, np.float32)
    load().call("extremes", x.size, pointer(x), pointer(ends), *_end(tier, threads))
    assert untouched(raw)
    return ends


def count_above(x, bound, tier, threads=False):
    above, raw = guarded(1, np.int64)
    load().call("count_above", x.size, pointer(x), bound, pointer(above), *_end(tier, threads))
    assert untouched(raw)
    return int(above[0])


def group_maximum(x, layout, tier, threads=False):
    largest, raw = guarded((layout[0], layout[2]), np.float32)
    load().call("group_maximum", ctypes.byref(library.GroupLayout(*layout)), pointer(x), pointer(largest),
                *_end(tier, threads))
    assert untouched(raw)
    return largest


def multi_level(x, divisors, factors, layout, element: Element, tier, seed=None, threads=False):
    y, raw = guarded(x.shape, np.float32)
    form = library.ElementFormat(element.exponent_bits, element.mantissa_bits, element.carry, element.top_exponent)
    words = _seed(seed)
    load().call("multi_level", ctypes.byref(library.GroupLayout(*layout)), pointer(x), pointer(divisors),
                pointer(factors), ctypes.byref(form), pointer(words), pointer(y), *_end(tier, threads))
    assert untouched(raw)
    return y


def batch_norm(x, gamma, beta, epsilon, tier, residual=None, relu=False, threads=False):
    """``(y, mean, variance, inverse deviation)``."""
    outputs = [guarded(shape, np.float32) for shape in (x.shape, *[gamma.shape] * 3)]
    given = library.BatchNormInputs(*x.shape, pointer(x), pointer(gamma), pointer(beta), pointer(residual), epsilon,
                                    relu)
    made = library.BatchNormOutputs(*(pointer(array) for array, _ in outputs))
    load().call("batch_norm", ctypes.byref(given), ctypes.byref(made), *_end(tier, threads))
    assert all(untouched(raw) for _, raw in outputs)
    return tuple(array for array, _ in outputs)


def batch_norm_gradient(arrays, tier, relu=False, threads=False, in_place=False):
    """``(dx, dgamma, dbeta, dresidual)``; ``arrays`` = dy, x, gamma, beta, mean, inverse deviation, y or None.

    In place: dx, or behind a residual sum dresidual, takes the memory of dy.
    """
    dy, x, gamma, *_, y = arrays
    outputs = [guarded(shape, np.float32) for shape in (x.shape, gamma.shape, gamma.shape, x.shape)]
    dx, dgamma, dbeta, dresidual = (array for array, _ in outputs)
    if in_place:
        own = dx if y is None else dresidual
        own[...] = dy
        arrays = (own, *arrays[1:])
    given = library.BatchNormGradientInputs(*x.shape, *map(pointer, arrays), relu)
    made = library.BatchNormGradientOutputs(pointer(dx), pointer(dgamma), pointer(dbeta),
                                            None if y is None else pointer(dresidual))
    load().call("batch_norm_gradient", ctypes.byref(given), ctypes.byref(made), *_end(tier, threads))
    assert all(untouched(raw) for _, raw in outputs)
    return dx, dgamma, dbeta, None if y is None else dresidual


def _format(threshold: Threshold):
    return library.FakeQuantizeFormat(threshold.log2_threshold, threshold.bits, threshold.signed, threshold.narrow,
                                      ROUNDING_MODES.index(threshold.rounding))


def fake_quantize(x, threshold: Threshold, tier, threads=False):
    y, raw = guarded(x.shape, np.float32)
    load().call("fake_quantize", x.size, pointer(x), ctypes.byref(_format(threshold)), pointer(y), *_end(tier, threads))
    assert untouched(raw)
    return y


def fake_quantize_gradient(dy, x, threshold: Threshold, tier, threads=False, in_place=False):
    """``(dx, dlog2_threshold)``."""
    (dx, raw), (total, raw_total) = guarded(x.shape, np.float32), guarded(1, np.float32)
    if in_place:
        dx[...] = dy
    load().call("fake_quantize_gradient", x.size, pointer(dx if in_place else dy), pointer(x),
                ctypes.byref(_format(threshold)), pointer(dx), pointer(total), *_end(tier, threads))
    assert untouched(raw) and untouched(raw_total)
    return dx, total[0]
