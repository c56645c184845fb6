"""Typed wrappers of the integer ops: one function per op, native or pure TensorFlow, the same integers either way.

Tensors hold codes (int8, uint8, int16, uint16 or int32), channels last; products give int32 accumulators unless a
``Requantization`` is fused into them. ``engine`` is ``auto`` (what ``GRAFFITI_OPS`` says), ``native`` or ``python``;
``tier`` is the instruction set of the native kernels, a name of ``TIERS``; ``auto`` is the best there is. What each op
means is normative in ``numerics/README.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import check_rounding
from graffiti.ops import fallback, loader

TIERS = loader.TIERS
NATIVE_KERNELS = (tf.int8, tf.int16)  # products with other kernels run as their twin
CODES = (tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32)


@dataclasses.dataclass(frozen=True)
class Requantization:
    """How accumulators become codes: ``saturate(round(x / 2**shift), low, high)``.

    Args:
        shift: integer, or one per channel of the last axis; negative shifts to the left.
        low: lowest code.
        high: highest code.
        dtype: ``int8``, ``uint8``, ``int16``, ``uint16`` or ``int32``; holds ``low`` and ``high``.
        rounding: a name of ``numerics.rounding.ROUNDING_MODES``.

    Raises:
        ValueError: where the range is empty or does not fit the dtype, or the rounding mode does not exist.
    """

    shift: int | tuple[int, ...]
    low: int
    high: int
    dtype: str
    rounding: str = "half_even"

    def __post_init__(self) -> None:
        check_rounding(self.rounding)
        object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        if isinstance(self.shift, (list, tuple, np.ndarray)):
            object.__setattr__(self, "shift", tuple(int(shift) for shift in self.shift))
        limits = np.iinfo(self.dtype)
        if not limits.min <= self.low <= self.high <= limits.max:
            raise ValueError(
                f"a requantization saturates to low <= high within {self.dtype}, got {self.low} and {self.high}"
            )

    @classmethod
    def between(
        cls,
        source: QFormat,
        target: QFormat,
        *,
        rounding: str = "half_even",
        low: int | None = None,
        high: int | None = None,
    ) -> Requantization:
        """From one format to another: shift ``target.exponent - source.exponent``, range within the target's."""
        if isinstance(target.exponent, tuple):
            raise ValueError(f"requantize gives one exponent for the whole tensor, got the format {target}")
        shifts = source.shift_to(target)
        return cls(shifts if source.per_channel else shifts[0], *target.limits(low, high), target.dtype.name, rounding)

    @property
    def shifts(self) -> tuple[int, ...]:
        """The shift as a tuple, of one element where it is common to all channels."""
        return self.shift if isinstance(self.shift, tuple) else (self.shift,)


# ---- products -------------------------------------------------------------------------------------------------------
def conv2d(
    x, kernel, bias=None, *, strides: Sequence[int] = (1, 1), padding="valid", dilation: Sequence[int] = (1, 1),
    groups: int = 1, requantize: Requantization | None = None, engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """Convolution of codes, with a bias and a requantization if asked.

    ``y[b,i,j,o] = sum over u,v,c of x[b, i*s+u*d, j*s+v*d, c] * kernel[u,v,c,o] + bias[o]``

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, in/groups, out)``.
        bias: int32 ``(out,)`` or None.
        strides, dilation: of height and width.
        padding: ``same`` or ``valid`` as in TensorFlow, or ``((top, bottom), (left, right))``.
        groups: of channels.
        requantize: fused behind the bias; None gives the accumulators.
        engine, tier: see the module.

    Returns:
        int32 accumulators, or codes of ``requantize.dtype``, ``(batch, rows, columns, out)``.
    """
    x, kernel = _codes(x, "conv2d"), _kernel(kernel, "conv2d")
    if _native(engine, tier) and kernel.dtype in NATIVE_KERNELS:
        return loader.load().graffiti_conv2d(
            x,
            kernel,
            _bias(bias),
            **_window(strides, dilation, padding),
            groups=groups,
            **_fused(requantize),
            tier=tier,
        )
    return _finish(fallback.conv2d(x, kernel, strides=strides, padding=padding, dilation=dilation), bias, requantize)


def depthwise_conv2d(
    x, kernel, bias=None, *, strides: Sequence[int] = (1, 1), padding="valid", dilation: Sequence[int] = (1, 1),
    requantize: Requantization | None = None, engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """Convolution of every channel with its own filters; output channel ``c * multiplier + m``.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, in, multiplier)``.
        bias, strides, padding, dilation, requantize, engine, tier: as in ``conv2d``.

    Returns:
        int32 accumulators or codes, ``(batch, rows, columns, in * multiplier)``.
    """
    x, kernel = _codes(x, "depthwise_conv2d"), _kernel(kernel, "depthwise_conv2d")
    if _native(engine, tier) and kernel.dtype in NATIVE_KERNELS:
        return loader.load().graffiti_depthwise_conv2d(
            x, kernel, _bias(bias), **_window(strides, dilation, padding), **_fused(requantize), tier=tier)
    return _finish(
        fallback.depthwise_conv2d(x, kernel, strides=strides, padding=padding, dilation=dilation), bias, requantize)


def dense(
    x, kernel, bias=None, *, requantize: Requantization | None = None, engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """``x @ kernel + bias`` over the last axis of ``x``.

    Args:
        x: codes ``(..., in)``.
        kernel: codes ``(in, out)``.
        bias, requantize, engine, tier: as in ``conv2d``.

    Returns:
        int32 accumulators or codes, ``(..., out)``.
    """
    x, kernel = _codes(x, "dense"), _kernel(kernel, "dense")
    if _native(engine, tier) and kernel.dtype in NATIVE_KERNELS:
        return loader.load().graffiti_dense(x, kernel, _bias(bias), **_fused(requantize), tier=tier)
    return _finish(fallback.dense(x, kernel), bias, requantize)


def conv2d_transpose(
    x, kernel, bias=None, *, strides: Sequence[int] = (1, 1), cut=((0, 0), (0, 0)),
    requantize: Requantization | None = None, engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """Transposed convolution: every input code adds its multiple of the kernel to the output.

    Args:
        x: codes ``(batch, height, width, in)``.
        kernel: codes ``(*window, out, in)``.
        strides: of the output.
        cut: rows and columns off the front and back of the full result of length ``(size - 1) * stride + window``;
            negative appends zeros.
        bias, requantize, engine, tier: as in ``conv2d``.

    Returns:
        int32 accumulators or codes, ``(batch, rows, columns, out)``.
    """
    x, kernel = _codes(x, "conv2d_transpose"), _kernel(kernel, "conv2d_transpose")
    if _native(engine, tier) and kernel.dtype in NATIVE_KERNELS:
        # A plain convolution of the input with zeros put between its elements: one native product for both.
        spread, flipped = fallback.spread_for_transpose(x, kernel, strides=strides, cut=cut)
        return conv2d(spread, flipped, bias, requantize=requantize, engine="native", tier=tier)
    return _finish(fallback.conv2d_transpose(x, kernel, strides=strides, cut=cut), bias, requantize)


def bias_add(x, bias, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """int32 accumulators plus an int32 bias over the last axis.

    Args:
        x: int32, channels last.
        bias: int32 ``(channels,)`` at the exponents of ``x``.
        engine, tier: see the module.
    """
    return add(x, bias, engine=engine, tier=tier)


# ---- elementwise ----------------------------------------------------------------------------------------------------
def elementwise(op: str, x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """An op of two operands by its name in ``graph/ops.py``; shapes broadcast.

    Args:
        op: ``add``, ``subtract``, ``multiply``, ``maximum`` or ``minimum``.
        x, y: codes at one exponent (``multiply``: at any); of one format and dtype where the op selects one of them.
        engine, tier: see the module.

    Returns:
        int32 codes; where the op selects, codes of the dtype of ``x``.
    """
    x, y = _codes(x, op), _codes(y, op)
    if fallback.ELEMENTWISE[op][1] and x.dtype != y.dtype:
        raise ValueError(f"{op} takes codes of one format, got {x.dtype.name} and {y.dtype.name}")
    if _native(engine, tier):
        return getattr(loader.load(), f"graffiti_{op}")(x, y, tier=tier)
    return fallback.elementwise(op, x, y)


def add(x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """int32 ``x + y`` of codes with one exponent; shapes broadcast.

    Args:
        x, y: codes of any dtype.
        engine, tier: see the module.
    """
    return elementwise("add", x, y, engine=engine, tier=tier)


def subtract(x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """int32 ``x - y`` of codes with one exponent; shapes broadcast.

    Args:
        x, y: codes of any dtype.
        engine, tier: see the module.
    """
    return elementwise("subtract", x, y, engine=engine, tier=tier)


def multiply(x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """int32 ``x * y``, the exponents add; shapes broadcast.

    Args:
        x, y: codes of any dtype.
        engine, tier: see the module.
    """
    return elementwise("multiply", x, y, engine=engine, tier=tier)


def maximum(x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """The larger code, both of one format and dtype; shapes broadcast.

    Args:
        x, y: codes.
        engine, tier: see the module.

    Raises:
        ValueError: where the dtypes differ.
    """
    return elementwise("maximum", x, y, engine=engine, tier=tier)


def minimum(x, y, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """The smaller code, both of one format and dtype; shapes broadcast.

    Args:
        x, y: codes.
        engine, tier: see the module.

    Raises:
        ValueError: where the dtypes differ.
    """
    return elementwise("minimum", x, y, engine=engine, tier=tier)


def relu(x, *, high: int | None = None, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """``min(max(x, 0), high)`` on codes: a requantization by no shift.

    Args:
        x: codes, whose dtype the output keeps.
        high: code of the largest output, for instance that of ReLU6's six; ``None`` for no upper limit.
        engine, tier: see the module.
    """
    x = _codes(x, "relu")
    top = x.dtype.max if high is None else high
    return requantize(x, Requantization(0, 0, int(top), x.dtype.name, "floor"), engine=engine, tier=tier)


def lookup(x, table, *, low: int, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """``table[code - low]``.

    Args:
        x: int8, uint8 (or wider) codes, none below ``low``.
        table: ``(entries,)``; entry 0 belongs to the code ``low``.
        low: the lowest code of the format of ``x``.
        engine, tier: see the module.

    Returns:
        Codes in the table's dtype, shape of ``x``.
    """
    x, table = _codes(x, "lookup"), _codes(table, "lookup")
    if _native(engine, tier):
        return loader.load().graffiti_lookup(x, table, low=low, tier=tier)
    return fallback.lookup(x, table, low=low)


def max_pool(
    x, *, pool_size: Sequence[int], strides: Sequence[int], padding="valid", engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """The largest code of each window, ``(batch, height, width, channels)``; padding never wins.

    Args:
        x: codes, whose dtype the output keeps.
        pool_size, strides: of height and width.
        padding: ``same`` or ``valid`` as in TensorFlow, or ``((top, bottom), (left, right))``.
        engine, tier: see the module.
    """
    x = _codes(x, "max_pool")
    if _native(engine, tier):
        window = _window(strides, (1, 1), padding)
        del window["dilation"]
        return loader.load().graffiti_max_pool(x, pool_size=list(pool_size), **window, tier=tier)
    return fallback.max_pool(x, pool_size=pool_size, strides=strides, padding=padding)


def average_pool(
    x, to: Requantization, *, pool_size: Sequence[int], strides: Sequence[int], padding="valid", divide: bool = True,
    engine: str = "auto", tier: str = "auto",
) -> tf.Tensor:
    """The mean of each window, rounded once: ``saturate(round(sum / (elements * 2**shift)), low, high)``, exact with
    its ties.

    Args:
        x: codes ``(batch, height, width, channels)``.
        to: one shift, from the format of ``x`` to the output's.
        pool_size, strides: of height and width.
        padding: as in ``conv2d``; ``elements`` are those inside the image.
        divide: false for the sum itself, without the division.
        engine, tier: see the module.

    Returns:
        Codes of ``to.dtype``, ``(batch, rows, columns, channels)``.
    """
    x = _codes(x, "average_pool")
    if isinstance(to.shift, tuple) and len(to.shift) != 1:
        raise ValueError(f"average_pool has one shift for all channels, got {len(to.shift)}")
    if _native(engine, tier):
        window = _window(strides, (1, 1), padding)
        del window["dilation"]
        return loader.load().graffiti_average_pool(
            x, pool_size=list(pool_size), **window, divide=divide, **_fused(to), tier=tier
        )
    return fallback.average_pool(
        x, pool_size=pool_size, strides=strides, padding=padding, divide_by_count=divide, shift=to.shifts[0],
        low=to.low, high=to.high, dtype=to.dtype,
        rounding=to.rounding)


def concat(values: Sequence, *, axis: int = -1, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """Codes of one format joined along an axis; TensorFlow's own op on either engine, it only moves bytes.

    Args:
        values: codes of one dtype.
        axis: the batch counts.
        engine, tier: see the module.
    """
    return fallback.concat([_codes(value, "concat") for value in values], axis=axis)


# ---- formats --------------------------------------------------------------------------------------------------------
def requantize(x, to: Requantization, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """``saturate(round(x / 2**shift), low, high)`` of codes; one shift, or one per channel of the last axis.

    Args:
        x: codes, up to int32.
        to: the shift, the range and the dtype of the output.
        engine, tier: see the module.

    Raises:
        ValueError: where the number of shifts is not the size of the last axis.
    """
    x = _codes(x, "requantize")
    if isinstance(to.shift, tuple) and x.shape[-1] is not None and len(to.shift) != x.shape[-1]:
        raise ValueError(f"requantize needs one shift or {x.shape[-1]} (the last axis of x), got {len(to.shift)}")
    if _native(engine, tier):
        return loader.load().graffiti_requantize(
            x,
            shift=to.shifts,
            low=to.low,
            high=to.high,
            rounding=to.rounding,
            output_type=tf.as_dtype(to.dtype),
            tier=tier,
        )
    return fallback.requantize(x, shift=to.shift, low=to.low, high=to.high, dtype=to.dtype, rounding=to.rounding)


def quantize(x, format: QFormat, *, rounding: str = "half_even", engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """Floats to codes: ``saturate(round(x / 2**exponent))`` in ``format``; infinities saturate.

    Args:
        x: float32, any shape.
        format: of the codes, with one exponent.
        rounding: a mode of ``numerics.rounding.ROUNDING_MODES``.
        engine, tier: see the module.

    Raises:
        ValueError: for a format with several exponents.
        tf.errors.InvalidArgumentError: where ``x`` holds NaN.
    """
    check_rounding(rounding)
    x = tf.convert_to_tensor(x, tf.float32)
    if isinstance(format.exponent, tuple):
        raise ValueError(f"quantize takes a format with one exponent, got {format}")
    numbers = {"exponent": format.exponent, "low": format.qmin, "high": format.qmax}
    if _native(engine, tier):
        return loader.load().graffiti_quantize(
            x, **numbers, rounding=rounding, output_type=tf.as_dtype(format.dtype), tier=tier)
    return fallback.quantize(x, **numbers, dtype=format.dtype, rounding=rounding)


def dequantize(x, format: QFormat, *, engine: str = "auto", tier: str = "auto") -> tf.Tensor:
    """Codes to float32: the code rounded to 24 bits half to even, times ``2**exponent``.

    Args:
        x: codes, up to int32.
        format: what they mean; with several exponents they belong to the last axis.
        engine, tier: see the module.
    """
    x = _codes(x, "dequantize")
    if _native(engine, tier):
        exponents = format.exponent if isinstance(format.exponent, tuple) else (format.exponent,)
        return loader.load().graffiti_dequantize(x, exponent=list(exponents), tier=tier)
    return fallback.dequantize(x, exponent=format.exponent)


# ---- whole graphs ---------------------------------------------------------------------------------------------------
def run_program(
    program: bytes, inputs: Sequence, *, output_types: Sequence, output_shapes: Sequence[Sequence[int]],
    threads: int = 0, tier: str = "auto",
) -> list[tf.Tensor]:
    """Run a compiled integer graph as one op; native only, there is no twin of a whole program.

    Args:
        program: the bytes of ``runtime.program.compile_graph(graph).blob``.
        inputs: ``(batch, ...)`` tensors of the program's input types, in its order.
        output_types: dtypes of the outputs.
        output_shapes: shapes of the outputs without the batch axis.
        threads: of the runner's own pool; 0 takes as many as TensorFlow's.
        tier: see the module.

    Returns:
        The outputs in the program's order, ``(batch, ...)``.

    Raises:
        loader.OpsNotAvailable: where the library does not load.
        tf.errors.InvalidArgumentError: where the bytes are no program, types or shapes do not fit, or an input holds
        NaN.
    """
    _native("native", tier)
    types = [tf.as_dtype(dtype) for dtype in output_types]
    return list(loader.load().graffiti_program(
        [tf.convert_to_tensor(x) for x in inputs], program=program, output_types=types,
        output_shapes=[list(shape) for shape in output_shapes], threads=threads, tier=tier))


# ---- helpers --------------------------------------------------------------------------------------------------------
def _native(engine: str, tier: str) -> bool:
    loader.check_tier(tier)
    return loader.engine_of(engine) == "native"


def _codes(x, op: str) -> tf.Tensor:
    x = tf.convert_to_tensor(x)
    if x.dtype not in CODES:
        raise ValueError(f"{op} takes codes ({', '.join(t.name for t in CODES)}), got {x.dtype.name}; quantize first")
    return x


def _kernel(kernel, op: str) -> tf.Tensor:
    kernel = _codes(kernel, op)
    return (
        tf.cast(kernel, tf.int16) if kernel.dtype == tf.uint8 else kernel
    )  # the reciprocal of an average pool is unsigned


def _bias(bias) -> tf.Tensor:
    return tf.zeros([0], tf.int32) if bias is None else tf.cast(bias, tf.int32)


def _window(strides: Sequence[int], dilation: Sequence[int], padding) -> dict:
    if padding in ("same", "valid"):
        return {"strides": list(strides), "dilation": list(dilation), "padding": padding, "pads": [0, 0, 0, 0]}
    (top, bottom), (left, right) = padding
    return {
        "strides": list(strides),
        "dilation": list(dilation),
        "padding": "explicit",
        "pads": [top, bottom, left, right],
    }


def _fused(to: Requantization | None) -> dict:
    if to is None:
        return {"shift": [], "low": 0, "high": 0, "rounding": "half_even", "output_type": tf.int32}
    return {
        "shift": list(to.shifts),
        "low": to.low,
        "high": to.high,
        "rounding": to.rounding,
        "output_type": tf.as_dtype(to.dtype),
    }


def _finish(accumulator: tf.Tensor, bias, to: Requantization | None) -> tf.Tensor:
    if bias is not None:
        accumulator = fallback.bias_add(accumulator, bias)
    return accumulator if to is None else requantize(accumulator, to, engine="python")
