"""How constants and quantizers are written: QuantizeLinear with DequantizeLinear (ONNX), or Quant (QONNX)."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import numpy as np

from graffiti.numerics.formats import QFormat

if TYPE_CHECKING:
    from graffiti.export.onnx.builder import Builder

QONNX_DOMAIN = "qonnx.custom_op.general"


class Style(abc.ABC):
    """A way to write constants and quantizers.

    Attributes:
        opset: of the default domain.
        domains: further domains with their versions.
        native: the rounding modes that the quantizer itself has, exactly.
        pairs: whether a quantizer is a pair of nodes with integers between them.
        repeats_inputs: whether a node may read one tensor twice.
    """

    opset: int
    domains: dict[str, int]
    native: tuple[str, ...]
    pairs: bool
    repeats_inputs: bool

    @abc.abstractmethod
    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool = False) -> str:
        """A float32 tensor of ``codes * 2**exponent``; several exponents belong to ``axis``. ``own``: stored even where an equal one is there."""

    @abc.abstractmethod
    def saturates_to(self, format: QFormat) -> tuple[int, int]:
        """The codes that the quantizer of a format saturates to by itself."""

    @abc.abstractmethod
    def quantize(self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str) -> None:
        """Write the quantizer that makes ``value`` from ``source``, float32: reals, or integers where ``steps`` is true."""


    @abc.abstractmethod
    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A float32 tensor of a value's integers."""

    @abc.abstractmethod
    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """Write the entries of a constant table at ``index`` as ``value``."""


class QdqStyle(Style):
    """``codes = QuantizeLinear(x, 2**e)``, ``x = DequantizeLinear(codes, 2**e)``; constants are stored as codes."""

    opset = 21  # the first with int4 and 16-bit codes in QuantizeLinear and DequantizeLinear
    domains: dict[str, int] = {}
    native = ("half_even",)
    pairs = True
    repeats_inputs = True

    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool = False) -> str:
        """An initializer of int4, uint4 or the format's dtype, and its DequantizeLinear."""
        from onnx import TensorProto

        at_axis: dict[str, Any] = {"axis": axis} if format.per_channel else {}
        onnx_type = None if format.bits > 4 else TensorProto.INT4 if format.signed else TensorProto.UINT4
        stored = b.initializer(codes if onnx_type is None else codes.astype(np.int8), name, onnx_type, own=own)
        scale = b.power(format.exponents, name=f"{name}/scale")
        inputs = [stored, scale]
        if format.bits <= 16:
            zeros = np.zeros(len(format.exponents) if format.per_channel else (), format.dtype)
            inputs.append(b.initializer(zeros, f"{name}/zero", onnx_type, own=True))  # ONNX Runtime may rewrite it, for this weight alone
        return b.node("DequantizeLinear", inputs, f"{name}/real", **at_axis)

    def saturates_to(self, format: QFormat) -> tuple[int, int]:
        """The whole storage type: QuantizeLinear knows no narrower width."""
        info = np.iinfo(format.dtype)
        return int(info.min), int(info.max)

    def quantize(self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str) -> None:
        """The pair of QuantizeLinear, called like the value, and DequantizeLinear."""
        codes = b.name(value, last, codes=True)
        scale = b.power((0,) * len(format.exponents), name="ones") if steps else b.power(format.exponents, name=f"{value}/scale")
        b.node("QuantizeLinear", [source, scale, self._zero(b, format)], codes, exact_name=True, **self._axis(b, value, format, last))
        self.hold_codes(b, value, codes, last)

    def hold_codes(self, b: Builder, value: str, codes: str, last: bool) -> None:
        """Remember the integers of a value, and the reals made of them."""
        from onnx import helper

        format = b.graph.format(value)
        assert format is not None
        b.value_info[codes] = helper.make_tensor_value_info(codes, helper.np_dtype_to_tensor_dtype(format.dtype), b.dims(value, last))
        b.hold(value, self.to_reals(b, value, codes, f"{value}/real", last), last, codes=codes)

    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A DequantizeLinear."""
        format = b.graph.format(value)
        assert format is not None
        inputs = [codes, b.power(format.exponents, name=f"{value}/scale"), self._zero(b, format)]
        return b.node("DequantizeLinear", inputs, name, **self._axis(b, value, format, last))

    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """``Gather`` of stored codes."""
        codes = b.name(value, last, codes=True)
        b.node("Gather", [b.initializer(b.graph.constants[table], table), index], codes, exact_name=True, axis=0)
        self.hold_codes(b, value, codes, last)

    @staticmethod
    def _zero(b: Builder, format: QFormat) -> str:
        return b.initializer(np.zeros(len(format.exponents) if format.per_channel else (), format.dtype), f"zero/{format.dtype.name}")

    @staticmethod
    def _axis(b: Builder, value: str, format: QFormat, last: bool) -> dict[str, Any]:
        return {"axis": b.axis(value, -1, last)} if format.per_channel else {}


class QonnxStyle(Style):
    """``Quant(x, 2**e, 0, bits)`` with the format's very width; constants are stored as reals and quantized by their own Quant."""

    opset = 18
    domains = {QONNX_DOMAIN: 1}
    native = ("half_even", "floor")  # its HALF_UP adds 0.5 in float32 and rounds away from zero: neither of ours
    pairs = False
    repeats_inputs = False  # qonnx renames only the first of them

    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool = False) -> str:
        """An initializer of reals and its Quant."""
        from onnx import helper

        shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
        exponents = np.array(format.exponents).reshape(shape) if format.per_channel else format.exponents[0]
        reals = b.initializer(np.ldexp(codes.astype(np.float64), exponents).astype(np.float32), name, own=own)
        out = self._quant(b, reals, b.unique(f"{name}/quantized"), format, codes.ndim, axis, "half_even")
        b.value_info[out] = helper.make_tensor_value_info(out, b.float_type(False), codes.shape)
        return out

    def saturates_to(self, format: QFormat) -> tuple[int, int]:
        """The format's own range."""
        return format.qmin, format.qmax

    def quantize(self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str) -> None:
        """One Quant, called like the value."""
        rank, axis = b.rank(value), b.axis(value, -1, last)
        if steps:
            source = b.node("Mul", [source, b.power(format.exponents, rank=rank, axis=axis)], f"{value}/rounded")
        name = b.name(value, last, codes=False)
        b.hold(value, self._quant(b, source, name, format, rank, axis, "half_even" if steps else rounding), last)

    def _quant(self, b: Builder, source: str, name: str, format: QFormat, rank: int, axis: int, rounding: str) -> str:
        inputs = [source, b.power(format.exponents, rank=rank, axis=axis, name=f"{name}/scale"), b.initializer(np.float32(0), "zero"), b.initializer(np.float32(format.bits), f"bits/{format.bits}")]
        return b.node("Quant", inputs, name, exact_name=True, domain=QONNX_DOMAIN, signed=int(format.signed), narrow=int(format.narrow),
                      rounding_mode={"half_even": "ROUND", "floor": "FLOOR"}[rounding])

    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A Cast and a product: only graph inputs of codes are integers here."""
        format = b.graph.format(value)
        assert format is not None
        real = b.node("Cast", [codes], f"{name}/float", to=b.float_type(False))
        return b.node("Mul", [real, b.power(format.exponents, rank=b.rank(value), axis=b.axis(value, -1, last), name=f"{value}/scale")], name)

    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """``Gather`` of quantized reals."""
        b.put(value, "Gather", [b.get(table, True), index], last, axis=0)
