"""Elementwise ops, pools, moves and requantization: whole domains where they are small, exact rationals as the
oracle.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graffiti.numerics import reference, table, windows
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import ROUNDING_MODES

ROUND = {
    "half_even": round,
    "half_up": lambda f: math.floor(f + Fraction(1, 2)),
    "half_away": lambda f: (1 if f >= 0 else -1) * math.floor(abs(f) + Fraction(1, 2)),
    "floor": math.floor,
}
S8 = np.arange(-128, 128, dtype=np.int8)
U8 = np.arange(256).astype(np.uint8)
FORMATS = [
    QFormat(8, True, 0), QFormat(8, True, 0, True), QFormat(8, False, 0), QFormat(4, True, 0), QFormat(2, False, 0),
    QFormat(16, True, 0)
]


def exact(value: Fraction, mode: str, low: int, high: int) -> int:
    return min(max(ROUND[mode](value), low), high)


# ---- requantize and quantize -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_requantize_every_8_bit_code_at_every_shift(target, mode):
    for source, codes in ((QFormat(8, True, 0), S8), (QFormat(8, False, 0), U8)):
        for shift in range(-12, 13):
            to = target.replace(exponent=shift)
            expected = [exact(Fraction(int(c)) / Fraction(2) ** shift, mode, to.qmin, to.qmax) for c in codes]
            assert reference.requantize(codes, source, to, mode).tolist() == expected, (source, to, mode)


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(code=st.integers(-(2**31), 2**31 - 1), shift=st.integers(-80, 80), bits=st.integers(2, 32), signed=st.booleans())
def test_requantize_any_accumulator(mode, code, shift, bits, signed):
    to = QFormat(bits, signed, shift)
    got = int(reference.requantize(np.array([code]), QFormat(32, True, 0), to, mode)[0])
    assert got == exact(Fraction(code) / Fraction(2) ** shift, mode, to.qmin, to.qmax)


def test_requantize_fuses_relu_and_relu6():
    codes = np.arange(-3000, 3001)
    source, to = QFormat(32, True, -8), QFormat(8, False, -5)
    plain = reference.requantize(codes, source, to)
    assert (reference.requantize(codes, source, to, low=0) == plain).all()
    signed = QFormat(8, True, -4)
    assert (
        reference.requantize(codes, source, signed, low=0, high=96)
        == np.clip(reference.requantize(codes, source, signed), 0, 96)
    ).all()
    relu_first = reference.requantize(reference.relu(codes, 6 << 8), source, signed)
    assert (reference.requantize(codes, source, signed, low=0, high=6 << 4) == relu_first).all()
    with pytest.raises(ValueError, match="holds no code"):
        reference.requantize(codes, source, signed, low=10, high=5)


def test_requantize_per_channel():
    codes = np.random.default_rng(0).integers(-(1 << 20), 1 << 20, (4, 3, 5))
    exponents = (-14, -9, 0, -20, 3)
    got = reference.requantize(codes, QFormat(32, True, exponents), QFormat(8, True, -5))
    for c, e in enumerate(exponents):
        assert (got[..., c] == reference.requantize(codes[..., c], QFormat(32, True, e), QFormat(8, True, -5))).all()


@pytest.mark.parametrize("mode", ROUNDING_MODES)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_quantize_undoes_dequantize(format, mode):
    for exponent in (-30, -7, 0, 5, 30):
        f = format.replace(exponent=exponent)
        codes = np.arange(f.qmin, f.qmax + 1)
        reals = reference.dequantize(codes, f)
        assert reals.dtype == np.float32 and (reals == codes * 2.0**exponent).all()
        back = reference.quantize(reals, f, mode)
        assert back.dtype == f.dtype and (back == codes).all()


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_quantize_rounds_and_saturates(mode):
    format = QFormat(4, True, -3)
    sixteenths = np.arange(-64, 65)
    expected = [exact(Fraction(int(n), 32) * 8, mode, -8, 7) for n in sixteenths]
    assert reference.quantize(sixteenths / 32, format, mode).tolist() == expected
    huge = [np.inf, -np.inf, 3e38, -3e38, np.float64(1e308), 0.0, -0.0, 1e-45]
    assert reference.quantize(huge[:-1], QFormat(8, True, -100), mode).tolist() == [127, -128, 127, -128, 127, 0, 0]
    assert reference.quantize([1e-45], QFormat(8, True, 0), mode).tolist() == [0]


def test_nan_has_no_code():
    with pytest.raises(ValueError, match="the tensor 'image' holds 1 NaN of 3 values"):
        reference.quantize([0.0, np.nan, 1.0], QFormat(8, True, 0), name="the tensor 'image'")


def test_quantize_with_an_exponent_per_channel():
    x = np.array([[0.3, 0.3], [-0.7, 5.0]])
    assert reference.quantize(x, QFormat(8, True, (-7, -3))).tolist() == [[38, 2], [-90, 40]]
    assert reference.quantize(x, QFormat(8, True, 0), exponent=np.array([[-7], [-3]])).tolist() == [[38, 38], [-6, 40]]


def test_dequantize_of_wide_codes_rounds_to_float32():
    codes = np.array([2**24 + 1, 2**24 + 3, -(2**31), 2**31 - 1])
    assert (
        reference.dequantize(codes, QFormat(32, True, -4)).tolist() == [2.0**20, (2**24 + 4) / 16, -(2.0**27), 2.0**27]
    )


# ---- all pairs of codes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("left, right", [(S8, S8), (U8, U8), (S8, U8)], ids=["s8s8", "u8u8", "s8u8"])
def test_all_pairs_of_codes(left, right):
    x, y = (a.ravel() for a in np.meshgrid(left, right))
    wide_x, wide_y = x.astype(object), y.astype(object)
    for op, expected in (
        (reference.add, wide_x + wide_y), (reference.subtract, wide_x - wide_y), (reference.multiply, wide_x * wide_y),
        (reference.maximum, np.maximum(wide_x, wide_y)), (reference.bias_add, wide_x + wide_y),
    ):
        got = op(x, y)
        assert got.dtype == np.int64 and got.size == 65536 and (got == expected).all(), op.__name__


@pytest.mark.parametrize("mode", ROUNDING_MODES)
def test_all_sums_requantized(mode):
    x, y = (a.ravel() for a in np.meshgrid(S8, S8))
    total = reference.add(x, y)
    for shift in (0, 1, 2):
        got = reference.requantize(total, QFormat(32, True, 0), QFormat(8, True, shift), mode)
        values = {s: exact(Fraction(s, 1 << shift), mode, -128, 127) for s in range(-256, 255)}
        assert got.tolist() == [values[int(s)] for s in total]


def test_relu():
    assert reference.relu(S8).tolist() == [max(int(c), 0) for c in S8]
    assert reference.relu(S8, 96).tolist() == [min(max(int(c), 0), 96) for c in S8]
    assert reference.relu(U8, 200).tolist() == [min(int(c), 200) for c in U8]


# ---- tables ----------------------------------------------------------------------------------------------------------
def test_lookup_of_every_code():
    values = np.arange(256)[::-1].astype(np.uint8)
    assert reference.lookup(S8, values, -128).tolist() == list(range(255, -1, -1))
    assert reference.lookup(U8, values, 0).tolist() == list(range(255, -1, -1))
    with pytest.raises(ValueError, match="codes -127 to 127 was asked for -128 to 127"):
        reference.lookup(S8, np.zeros(255, np.int8), -127)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed, narrow", [(True, False), (True, True), (False, False)])
def test_table_of_every_width(bits, signed, narrow):
    source, to = QFormat(bits, signed, 2 - bits, narrow), QFormat(8, False, -8)
    built = table.evaluate(lambda x: 1 / (1 + np.exp(-x.astype(np.float64))), source, to)
    assert built.dtype == np.uint8 and built.shape == (source.qmax - source.qmin + 1,)
    for code, entry in zip(range(source.qmin, source.qmax + 1), built):
        assert entry == min(round(256 / (1 + math.exp(-code * 2.0 ** (2 - bits)))), 255)
    codes = np.arange(source.qmin, source.qmax + 1)
    assert (reference.lookup(codes, built, source.qmin) == built).all()


def test_table_roundings_and_saturation():
    source, to = QFormat(2, True, 0), QFormat(8, True, 0)
    assert table.build([-2.5, 0.5, 1.5, np.inf], source, to).tolist() == [-2, 0, 2, 127]
    assert table.build([-2.5, 0.5, 1.5, -np.inf], source, to, "half_away").tolist() == [-3, 1, 2, -128]


def test_table_faults_are_sentences():
    source, to = QFormat(2, True, -1), QFormat(8, True, 0)
    with pytest.raises(ValueError, match="needs 4 values, one for each code of s2@-1, got shape \\(3,\\)"):
        table.build([1.0, 2.0, 3.0], source, to)
    with pytest.raises(ValueError, match="'act' is NaN at input code -1 \\(real -0.5\\)"):
        table.build([0.0, np.nan, 1.0, 2.0], source, to, name="'act'")
    for format in (QFormat(32, True, 0), QFormat(8, True, (0, 1))):
        with pytest.raises(ValueError, match="at most 16 bits at one exponent"):
            table.input_codes(format)


# ---- pools and moves -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_max_pool_padding_never_wins(dtype, padding):
    info = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(info.min, info.min + 3, (2, 5, 6, 3)).astype(dtype)
    got = reference.max_pool(x, (3, 2), (2, 2), padding)
    assert got.dtype == dtype
    front = 1 if padding == "same" else 0
    for p, q in np.ndindex(got.shape[1:3]):
        rows, columns = slice(max(2 * p - front, 0), 2 * p - front + 3), slice(2 * q, 2 * q + 2)
        assert (got[:, p, q] == x[:, rows, columns].max((1, 2))).all()


def test_max_pool_1d_and_global():
    x = np.random.default_rng(2).integers(-128, 128, (3, 8, 4)).astype(np.int8)
    assert (reference.max_pool(x, (2,), (2,)) == np.maximum(x[:, ::2], x[:, 1::2])).all()
    assert (reference.global_max_pool(x, (1,)) == x.max(1)).all()
    assert reference.global_max_pool(x, (1,), keepdims=True).shape == (3, 1, 4)


def test_moves():
    x = np.random.default_rng(3).integers(-128, 128, (2, 3, 4, 5)).astype(np.int8)
    padded = reference.pad(x, ((1, 0), (2, 3), (0, 0)))
    assert padded.shape == (2, 4, 9, 5) and padded.sum(dtype=int) == x.sum(dtype=int)
    assert (reference.crop(padded, ((1, 0), (2, 3), (0, 0))) == x).all()
    assert (reference.crop(x, ((0, 0), (0, 0), (0, 0))) == x).all()
    assert (reference.reshape(x, (12, 5))[1, 7] == x[1, 1, 3]).all()
    assert reference.reshape(x, (None, 5)).shape == (2, 12, 5)
    assert reference.permute(x, (3, 1, 2))[1, 4, 2, 3] == x[1, 2, 3, 4]
    up = reference.upsample(x, (2, 3))
    assert up.shape == (2, 6, 12, 5) and all((up[:, i, j] == x[:, i // 2, j // 3]).all() for i, j in np.ndindex(6, 12))
    assert (reference.concat([x, padded[:, 1:, 2:6]], 1) == np.concatenate([x, x], 1)).all()
    assert all(op.dtype == np.int8 for op in (padded, up))


def test_softmax_sums_to_one_and_takes_large_logits():
    y = reference.softmax(np.array([[1000.0, 999.0, -1000.0]]))
    assert y.dtype == np.float32 and np.allclose(y, [[0.7310586, 0.2689414, 0.0]]) and abs(y.sum() - 1) < 1e-6


# ---- average pool ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "side, exponent, code, gain",
    [(3, -11, 228, 1.0019531), (7, -13, 167, 0.9989014), (2, -10, 255, 0.9960938), (8, -14, 255, 0.9960938)]
)
def test_c9_reciprocal(side, exponent, code, gain):
    got, format = reference.reciprocal(side * side)
    assert (got, format) == (code, QFormat(8, False, exponent))
    assert side * side * got * 2.0**exponent == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize("bits", [4, 8, 16, 18])
def test_reciprocal_of_every_count_is_the_quantizer_with_max_threshold(bits):
    for count in range(1, 2000):
        code, format = reference.reciprocal(count, bits)
        threshold = math.ceil(-math.log2(count) - 1e-12)
        assert format == QFormat(bits, False, threshold - bits)
        assert code == min(round(Fraction(1, count) / Fraction(2) ** format.exponent), format.qmax)
    with pytest.raises(ValueError, match="at least one element, got 0"):
        reference.reciprocal(0)


@pytest.mark.parametrize("indices, count", [
    (range(8)[::-1], 1), (np.repeat(np.arange(5), 3), 1), (np.tile(np.arange(4), 3), 1), (np.roll(np.arange(9), 2), 2),
    ([0] * 6, 1), ([3], 1), ([4, 0, 0, 3, 1], None),
    *((np.random.default_rng(seed).integers(0, 4, 12), None) for seed in range(20)),
])
def test_index_grids_cover_the_list_in_order(indices, count):
    indices = [int(i) for i in indices]
    grids = windows.index_grids(indices)
    listed = []
    for grid in grids:
        assert grid.start == len(listed)
        listed += [
            grid.first + i * grid.steps[0] + j * grid.steps[1] for i in range(grid.sizes[0])
            for j in range(grid.sizes[1])
        ]
    assert listed == indices and count in (None, len(grids))
