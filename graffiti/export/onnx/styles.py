"""How constants and quantizers are written: what a style is, and QONNX' Quant. QuantizeLinear with DequantizeLinear
is ``qdq.py``.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

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

    integer_inputs: bool = False  # whether a file takes integers where the Keras model does, without a format
    integers: bool = False  # whether a runtime computes products between two of its quantizers in integers

    def zero(self, format: QFormat) -> int:
        """The zero-point that codes of a format are stored with."""
        return 0

    def clips_codes(self, format: QFormat) -> bool:
        """Whether the quantizer of a format can be told lower limits than those that it saturates to by itself."""
        return False

    @abc.abstractmethod
    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int) -> str:
        """A float32 tensor of ``codes * 2**exponent``; several exponents belong to ``axis``."""

    def kernel(
        self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool, meets: int | None,
        integers: bool,
    ) -> str:
        """As ``constant``, for the weights of a product.

        Args:
            own: stored even where an equal one is there.
            meets: the largest stored code that int8 kernels may multiply it with; ``None`` where the input is no stored
                code.
            integers: whether the product must be computed in integers.
        """
        return self.constant(b, name, codes, format, axis)

    @abc.abstractmethod
    def saturates_to(self, format: QFormat) -> tuple[int, int]:
        """The codes that the quantizer of a format saturates to by itself."""

    @abc.abstractmethod
    def quantize(
        self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str,
        clip: tuple[int, int] | None = None,
    ) -> None:
        """Write the quantizer that makes ``value`` from ``source``, float32: reals, or integers where ``steps`` is
        true.

        ``clip``: lower limits of the codes, for formats that ``clips_codes``.
        """

    @abc.abstractmethod
    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A float32 tensor of a value's stored integers."""

    def take_codes(self, b: Builder, name: str) -> None:
        """A graph input of codes, at most 16 bits wide."""
        b.hold(name, self.to_reals(b, name, name, f"{name}/real", True), True, codes=name)

    @abc.abstractmethod
    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """Write the entries of a constant table at ``index`` as ``value``."""


class QonnxStyle(Style):
    """``Quant(x, 2**e, 0, bits)`` with the format's very width; constants are stored as reals and quantized by their
    own Quant.
    """

    opset = 18
    domains = {QONNX_DOMAIN: 1}
    native = ("half_even", "floor")  # its HALF_UP adds 0.5 in float32 and rounds away from zero: neither of ours
    pairs = False
    repeats_inputs = False  # qonnx renames only the first of them

    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int) -> str:
        """An initializer of reals and its Quant."""
        return self._constant(b, name, codes, format, axis)

    def kernel(
        self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool, meets: int | None,
        integers: bool,
    ) -> str:
        """As a constant."""
        return self._constant(b, name, codes, format, axis, own)

    def _constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, own: bool = False) -> str:
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

    def quantize(
        self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str,
        clip: tuple[int, int] | None = None,
    ) -> None:
        """One Quant, called like the value."""
        rank, axis = b.rank(value), b.axis(value, -1, last)
        if steps:
            source = b.node("Mul", [source, b.power(format.exponents, rank=rank, axis=axis)], f"{value}/rounded")
        name = b.name(value, last, codes=False)
        b.hold(value, self._quant(b, source, name, format, rank, axis, "half_even" if steps else rounding), last)

    def _quant(self, b: Builder, source: str, name: str, format: QFormat, rank: int, axis: int, rounding: str) -> str:
        scale = b.power(format.exponents, rank=rank, axis=axis, name=f"{name}/scale")
        inputs = [
            source, scale, b.initializer(np.float32(0), "zero"),
            b.initializer(np.float32(format.bits), f"bits/{format.bits}")
        ]
        return b.node(
            "Quant", inputs, name, exact_name=True, domain=QONNX_DOMAIN, signed=int(format.signed),
            narrow=int(format.narrow), rounding_mode={"half_even": "ROUND", "floor": "FLOOR"}[rounding]
        )

    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A Cast and a product: only graph inputs of codes are integers here."""
        format = b.graph.format(value)
        assert format is not None
        real = b.node("Cast", [codes], f"{name}/float", to=b.float_type(False))
        return b.node(
            "Mul",
            [real, b.power(format.exponents, rank=b.rank(value), axis=b.axis(value, -1, last), name=f"{value}/scale")],
            name
        )

    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """``Gather`` of quantized reals."""
        b.put(value, "Gather", [b.get(table, True), index], last, axis=0)
