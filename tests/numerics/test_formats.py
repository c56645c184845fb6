"""Formats: ranges, storage, text, and the exponent that a trained threshold gives (C13)."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.numerics.formats import QFormat, exponent_of_threshold


@pytest.mark.parametrize("bits", range(2, 33))
def test_ranges_and_storage(bits):
    signed, narrow, unsigned = QFormat(bits, True, 0), QFormat(bits, True, 0, True), QFormat(bits, False, 0)
    assert (signed.qmin, signed.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (narrow.qmin, narrow.qmax) == (-signed.qmax, signed.qmax)
    assert (unsigned.qmin, unsigned.qmax) == (0, 2**bits - 1)
    for format in (signed, narrow, unsigned):
        info = np.iinfo(format.dtype)
        assert info.min <= format.qmin and format.qmax <= info.max
        assert format.dtype.itemsize == (1 if bits <= 8 else 2 if bits <= 16 else 4)


@pytest.mark.parametrize("text", ["s8@-7", "u8@-3", "s8n@[-7,-6]", "s32@-14", "u16@0", "s4n@3", "s2@[5]", "s32@[]"])
def test_text_round_trip(text):
    assert str(QFormat.parse(text)) == text
    assert QFormat.parse(str(QFormat.parse(text))) == QFormat.parse(text)


@pytest.mark.parametrize("text", ["8@-7", "s8", "s@-7", "f32@1", "s8@", "sx@1", ""])
def test_text_that_is_no_format(text):
    with pytest.raises(ValueError, match="s8@-7"):
        QFormat.parse(text)


def test_bad_formats_are_sentences():
    for bits in (1, 33, 0, -8):
        with pytest.raises(ValueError, match=f"2 to 32 bits, got {bits}"):
            QFormat(bits, True, 0)
    with pytest.raises(ValueError, match="cannot be narrow"):
        QFormat(8, False, 0, True)
    with pytest.raises(ValueError, match="integer, got 0.5"):
        QFormat(8, True, 0.5)
    with pytest.raises(ValueError, match="integer, got 0.5"):
        QFormat(8, True, (0, 0.5))


def test_scale_is_the_power_of_two():
    assert QFormat(8, True, -7).scale == 2.0**-7
    assert QFormat(8, True, [-7, 3]).scale.tolist() == [2.0**-7, 8.0]
    assert QFormat(8, True, np.array([-7, 3])).exponent == (-7, 3)
    assert QFormat(8, True, -7).replace(bits=4) == QFormat(4, True, -7)


@pytest.mark.parametrize(
    "log2_threshold, bits, signed, fraction",
    [(0.3, 8, True, 6), (-2.7, 8, True, 9), (3.0, 16, True, 12), (0.0, 8, False, 8)]
)
def test_c13_fractional_length(log2_threshold, bits, signed, fraction):
    assert exponent_of_threshold(log2_threshold, bits, signed) == -fraction


def test_ceil_of_thresholds_is_that_of_float32():
    assert (
        exponent_of_threshold([-1 + 1e-7, -1.0, np.nextafter(np.float32(2), np.float32(3)), 2.0], 8, True).tolist()
        == [-7, -8, -4, -5]
    )
