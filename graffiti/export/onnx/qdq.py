"""``QuantizeLinear`` and ``DequantizeLinear``: how codes are stored so that ONNX Runtime computes with them exactly.

A default session of ONNX Runtime puts int8 kernels in the place of ``DequantizeLinear, product, QuantizeLinear``. What
it does was measured (1.32, x86), and the file is written so that every such kernel is exact:

- Its products take one type in and out, and in a default session on x86 that is uint8. Signed 8-bit activations are
  stored as ``code + 128`` with the zero-point 128, so that every product fuses (``exact="runtime"``).
- Limits that are narrower than the storage (ReLU6, 4-bit codes) are a ``Clip`` of the integers: one of the reals keeps
  a convolution in float.
- On x86 CPUs without VNNI its uint8 x int8 kernels add pairs of products in 16 bits with saturation. Weights that could
  reach that are stored as uint8 with the zero-point 128, for which it has exact kernels everywhere
  (``weights="auto"``).
- A product whose input is no stored code, or in a ``Gemm`` or ``MatMul`` one of 16 bits, must not read a
  ``DequantizeLinear``: they would become ``MatMulNBits``, which quantizes its input by itself. Such weights are a
  ``Cast`` and a ``Mul``, which a session computes once; such an input is too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graffiti.export.onnx.styles import Style
from graffiti.numerics.formats import QFormat

if TYPE_CHECKING:
    from graffiti.export.onnx.builder import Builder

EXACT = ("runtime", "anywhere")
WEIGHTS = ("auto", "int8")
PAIR = 2**15  # sums of two products that stay below it do not saturate in 16 bits
UNSIGNED = 128  # the zero-point of signed 8-bit codes that are stored as uint8


class QdqStyle(Style):
    """``codes = QuantizeLinear(x, 2**e)``, ``x = DequantizeLinear(codes, 2**e)``; constants are stored as codes.

    Args:
        exact: see ``OnnxExporter.write``.
        weights: see ``OnnxExporter.write``.

    Raises:
        ValueError: for another word.
    """

    opset = 21  # the first with int4 and 16-bit codes in QuantizeLinear and DequantizeLinear
    domains: dict[str, int] = {}
    native = ("half_even",)
    pairs = True
    repeats_inputs = True
    integer_inputs = True

    def __init__(self, exact: str = "runtime", weights: str = "auto") -> None:
        for what, given, known in (("exact", exact, EXACT), ("weights", weights, WEIGHTS)):
            if given not in known:
                raise ValueError(f"{what} is one of {', '.join(known)}, got {given!r}")
        self.integers, self.weights = exact == "runtime", weights

    # ---- how codes are stored ----------------------------------------------------------------------------------------
    def zero(self, format: QFormat) -> int:
        """128 for signed codes of 8 bits that are stored as uint8."""
        return UNSIGNED if self.integers and format.signed and format.bits <= 8 else 0

    def storage(self, format: QFormat) -> np.dtype:
        """The type that codes of a format are stored in."""
        return np.dtype(np.uint8) if self.zero(format) else format.dtype

    def stored(self, codes: np.ndarray, format: QFormat) -> np.ndarray:
        """Codes as they are stored."""
        return (codes.astype(np.int32) + self.zero(format)).astype(self.storage(format)) if self.zero(format) else codes

    def saturates_to(self, format: QFormat) -> tuple[int, int]:
        """The whole storage type: QuantizeLinear knows no narrower width."""
        info = np.iinfo(self.storage(format))
        return int(info.min) - self.zero(format), int(info.max) - self.zero(format)

    def clips_codes(self, format: QFormat) -> bool:
        """ONNX Runtime has no Clip of 16-bit integers."""
        return format.bits <= 8

    # ---- constants ---------------------------------------------------------------------------------------------------
    def constant(self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int) -> str:
        """An initializer stored like an activation, and its DequantizeLinear."""
        return self._constant(b, name, self.stored(codes, format), format, axis, self.zero(format))

    def kernel(
        self, b: Builder, name: str, codes: np.ndarray, format: QFormat, axis: int, *, own: bool, meets: int | None,
        integers: bool,
    ) -> str:
        """An initializer of int4, uint4, int8, uint8 or the format's dtype, as the head of this file says."""
        from onnx import TensorProto

        if meets is None:
            stored = b.initializer(codes, name, own=own)
            floats = b.node("Cast", [stored], f"{name}/float", to=b.float_type(False))
            return b.node(
                "Mul", [floats, b.power(format.exponents, rank=codes.ndim, axis=axis, name=f"{name}/scale")],
                f"{name}/real"
            )
        if format.bits <= 4 and not integers:
            onnx_type = TensorProto.INT4 if format.signed else TensorProto.UINT4
            return self._constant(b, name, codes.astype(np.int8), format, axis, 0, onnx_type, own=own)
        if format.bits <= 8 and format.signed and self.weights == "auto" and may_saturate(codes, axis, meets):
            return self._constant(
                b, name, (codes.astype(np.int32) + UNSIGNED).astype(np.uint8), format, axis, UNSIGNED, own=own
            )
        return self._constant(b, name, codes, format, axis, 0, own=own)

    @staticmethod
    def _constant(
        b: Builder, name: str, stored: np.ndarray, format: QFormat, axis: int, zero: int, onnx_type: int | None = None,
        *, own: bool = False,
    ) -> str:
        at_axis: dict[str, Any] = {"axis": axis} if format.per_channel else {}
        inputs = [b.initializer(stored, name, onnx_type, own=own), b.power(format.exponents, name=f"{name}/scale")]
        zeros = np.full(len(format.exponents) if format.per_channel else (), zero, stored.dtype)
        # ONNX Runtime may rewrite it, for this constant alone
        inputs.append(b.initializer(zeros, f"{name}/zero", onnx_type, own=True))
        return b.node("DequantizeLinear", inputs, f"{name}/real", **at_axis)

    # ---- values ------------------------------------------------------------------------------------------------------
    def quantize(
        self, b: Builder, value: str, source: str, format: QFormat, last: bool, *, steps: bool, rounding: str,
        clip: tuple[int, int] | None = None,
    ) -> None:
        """QuantizeLinear, called like the value, perhaps a Clip of its integers, and DequantizeLinear."""
        codes = b.name(value, last, codes=True)
        scale = (
            b.power((0,) * len(format.exponents), name="ones") if steps
            else b.power(format.exponents, name=f"{value}/scale")
        )
        at_axis = self._axis(b, value, format, last)
        whole = codes if clip is None else b.unique(f"{value}/unclipped")
        b.node("QuantizeLinear", [source, scale, self._zero(b, format)], whole, exact_name=True, **at_axis)
        if clip is not None:
            ends = [self._integer(b, end + self.zero(format), format) for end in clip]
            b.node("Clip", [whole, *ends], codes, exact_name=True)
        self.hold_codes(b, value, codes, last)

    def hold_codes(self, b: Builder, value: str, codes: str, last: bool) -> None:
        """Remember the stored integers of a value, and the reals made of them."""
        from onnx import helper

        format = b.graph.format(value)
        assert format is not None
        b.value_info[codes] = helper.make_tensor_value_info(
            codes, helper.np_dtype_to_tensor_dtype(self.storage(format)), b.dims(value, last)
        )
        b.hold(value, self.to_reals(b, value, codes, f"{value}/real", last), last, codes=codes)

    def to_reals(self, b: Builder, value: str, codes: str, name: str, last: bool) -> str:
        """A DequantizeLinear."""
        format = b.graph.format(value)
        assert format is not None
        inputs = [codes, b.power(format.exponents, name=f"{value}/scale"), self._zero(b, format)]
        return b.node("DequantizeLinear", inputs, name, **self._axis(b, value, format, last))

    def take_codes(self, b: Builder, name: str) -> None:
        """The input itself, or with the zero-point added."""
        format = b.graph.format(name)
        assert format is not None
        if self.zero(format):
            self.hold_codes(b, name, b.shifted(name, self.zero(format), self.storage(format), f"{name}/stored"), True)
        else:
            super().take_codes(b, name)

    def table(self, b: Builder, value: str, table: str, index: str, last: bool) -> None:
        """``Gather`` of stored codes."""
        codes, format = b.name(value, last, codes=True), b.graph.format(value)
        assert format is not None
        b.node(
            "Gather", [b.initializer(self.stored(b.graph.constants[table], format), table), index], codes,
            exact_name=True, axis=0
        )
        self.hold_codes(b, value, codes, last)

    def _zero(self, b: Builder, format: QFormat) -> str:
        zeros = np.full(len(format.exponents) if format.per_channel else (), self.zero(format), self.storage(format))
        return b.initializer(zeros, f"zero/{zeros.dtype.name}{self.zero(format) or ''}")

    def _integer(self, b: Builder, value: int, format: QFormat) -> str:
        return b.initializer(np.array(value, self.storage(format)), f"constant/{self.storage(format).name}/{value}")

    @staticmethod
    def _axis(b: Builder, value: str, format: QFormat, last: bool) -> dict[str, Any]:
        return {"axis": b.axis(value, -1, last)} if format.per_channel else {}


def may_saturate(codes: np.ndarray, axis: int, meets: int) -> bool:
    """Whether two products of one output channel, with unsigned codes up to ``meets``, may add up to more than 16 bits
    hold.

    Args:
        codes: int8 kernel, in any layout.
        axis: of its output channels.
        meets: the largest input code.
    """
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.int64)
    if not rows.size:
        return False
    count = min(2, rows.shape[1])
    sides = (
        np.partition(np.maximum(side, 0), rows.shape[1] - count, axis=1)[:, -count:].sum(1) for side in (rows, -rows)
    )
    return max(int(side.max()) for side in sides) * meets >= PAIR
