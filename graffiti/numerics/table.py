"""Tables of elementwise functions: one output code for every input code, from one float evaluation.

The float values come from whoever owns the function (the Keras layer); nothing here evaluates a function a second time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat

MAX_BITS = 16  # 65,536 entries


def input_codes(format: QFormat) -> np.ndarray:
    """Every code of a format in ascending order, int64: ``qmin ... qmax`` (256 of them for 8 bits, 255 narrow, 65,536
    for 16).

    Raises:
        ValueError: where the format has more than 16 bits or several exponents.
    """
    if format.bits > MAX_BITS or format.per_channel:
        raise ValueError(
            f"a table takes input codes of at most {MAX_BITS} bits at one exponent, got {format}; requantize to "
            f"{MAX_BITS} bits in front of it"
        )
    return np.arange(format.qmin, format.qmax + 1, dtype=np.int64)


def input_values(format: QFormat) -> np.ndarray:
    """What ``input_codes`` mean: ``code * 2**exponent``, float32 (exact)."""
    return reference.dequantize(input_codes(format), format)


def build(
    values, input_format: QFormat, output_format: QFormat, rounding: str = "half_even", *, name: str = "the table"
) -> np.ndarray:
    """``table[code - qmin] = clip(round(values[code - qmin] / 2**e_out), qmin_out, qmax_out)``.

    Args:
        values: the function's float outputs for ``input_values(input_format)``, in that order; infinities saturate.
        input_format: of the codes that index the table, at most 16 bits.
        output_format: of the codes it holds.
        rounding: a mode of ``rounding.ROUNDING_MODES``.
        name: what the table is called in an error.

    Returns:
        ``(number of input codes,)`` in ``output_format.dtype``.

    Raises:
        ValueError: where the number of values is wrong, or one is NaN.
    """
    codes, values = input_codes(input_format), np.asarray(values)
    if values.shape != codes.shape:
        raise ValueError(
            f"{name} needs {len(codes)} values, one for each code of {input_format}, got shape {values.shape}"
        )
    if np.isnan(values).any():
        code = int(codes[np.isnan(values)][0])
        raise ValueError(
            f"{name} is NaN at input code {code} (real {input_values(input_format)[code - input_format.qmin]}); "
            "the function must be defined on every input, or its layer stay in float"
        )
    return reference.quantize(values, output_format, rounding, name=name)


def evaluate(
    function: Callable, input_format: QFormat, output_format: QFormat, rounding: str = "half_even"
) -> np.ndarray:
    """``build`` of a numpy function evaluated on ``input_values(input_format)``.

    Args:
        function: from a float32 array to one of the same shape, element by element; called once.
        input_format: of the codes that index the table, at most 16 bits at one exponent.
        output_format: of the codes it holds.
        rounding: a mode of ``rounding.ROUNDING_MODES``.

    Returns:
        ``(number of input codes,)`` in ``output_format.dtype``.

    Raises:
        ValueError: where the function is NaN at an input code.
    """
    return build(function(input_values(input_format)), input_format, output_format, rounding)
