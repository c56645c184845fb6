"""What a target can hold, as plain values: one frozen dataclass, read from YAML or JSON and checked strictly.

The fields are explained in ``graffiti/docs/targets.md``; what is done with them is in ``check.py``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from graffiti import documents
from graffiti.graph.ops import OPS
from graffiti.numerics.rounding import ROUNDING_MODES

# between reals and codes: not what a target computes in integers
BORDER = ("rescaling", "quantize", "dequantize", "softmax", "island")
INTEGER_OPS = tuple(name for name, row in OPS.items() if "integer" in row.stages and name not in BORDER)
SIGNS = ("signed", "unsigned", "both")
AVERAGES = ("any", "powers_of_two")
SOFTMAX = ("none", "output", "anywhere")
SIZES = ("fixed", "windows", "any")
SATURATION = ("saturate", "none")


@dataclasses.dataclass(frozen=True)
class TensorLimits:
    """Which codes one kind of tensor may have.

    Args:
        bits: narrowest and widest code.
        unsigned_bits: the widest unsigned code; ``None`` takes ``bits``'.
        sign: ``signed``, ``unsigned`` or ``both``.
        narrow: whether a signed code of ``bits`` must leave its lowest value out (−127…127).
        per_channel: whether one exponent for each output channel is allowed.
    """

    bits: tuple[int, int]
    unsigned_bits: int | None = None
    sign: str = "both"
    narrow: bool = False
    per_channel: bool = False

    @classmethod
    def from_config(cls, config: Any, where: str) -> TensorLimits:
        """From plain values, checked; ``where`` names them in messages."""
        content = documents.check_keys(
            config, [field.name for field in dataclasses.fields(cls)], where, required=("bits",)
        )
        content["bits"] = documents.span(content["bits"], f"bits of {where}")
        for bits in content["bits"]:
            documents.whole(bits, f"bits of {where}", 1, 32)
        if content.get("unsigned_bits") is not None:
            documents.whole(content["unsigned_bits"], f"unsigned_bits of {where}", 1, 32)
        if "sign" in content:
            documents.one_of(content["sign"], SIGNS, f"sign of {where}")
        for key in ("narrow", "per_channel"):
            if key in content:
                documents.flag(content[key], f"{key} of {where}")
        return cls(**content)


@dataclasses.dataclass(frozen=True)
class TargetProfile:
    """What a target can hold; every field is one line of its YAML file.

    Args:
        name: identifier.
        description: one line for lists.
        export: the export format that writes for it (``c``, ``litert``, ``onnx``, ``qonnx``); ``None`` where none does.
        scheme: the preset that ``quantize(target=...)`` takes where no scheme is given.
        ops: integer ops that it has (``graph/ops.py``).
        weights: codes of kernels and of constant factors.
        activations: codes of stored values.
        bias_bits: narrowest and widest code of a bias.
        accumulator_bits: the widest value that may leave a product; below 32 every product is rounded to it before
            anything else.
        sum_bits: the register that products and sums are added in; lowering proves that none overflows it.
        rounding: rounding modes of requantization.
        input_rounding: rounding modes where floats become codes.
        saturation: ``saturate``, or ``none`` where the target cannot clip: then no stored value may need it.
        shift: lowest and highest right shift of a requantization (negative: to the left).
        exponents: lowest and highest exponent of a stored value or weight.
        spatial_axes: fewest and most spatial axes of windows.
        dense_axes: fewest and most axes, the batch not counted, of what a dense layer reads.
        averages: which windows an average may divide by: ``any``, or ``powers_of_two`` (a shift).
        softmax: where a float softmax may stand: ``none``, ``output`` or ``anywhere``.
        float_layers: whether layers kept in float are allowed.
        sizes: ``fixed``: every size but the batch is known; ``windows``: those of windows' inputs and outputs, reshapes
            and crops; or ``any``.
    """

    name: str
    description: str
    ops: tuple[str, ...]
    weights: TensorLimits
    activations: TensorLimits
    export: str | None = None
    scheme: str = "int8"
    bias_bits: tuple[int, int] = (32, 32)
    accumulator_bits: int = 32
    sum_bits: int = 32
    rounding: tuple[str, ...] = tuple(ROUNDING_MODES)
    input_rounding: tuple[str, ...] = tuple(ROUNDING_MODES)
    saturation: str = "saturate"
    shift: tuple[int, int] = (-1000, 1000)
    exponents: tuple[int, int] = (-126, 126)
    spatial_axes: tuple[int, int] = (1, 2)
    dense_axes: tuple[int, int] = (1, 8)
    averages: str = "any"
    softmax: str = "output"
    float_layers: bool = False
    sizes: str = "any"

    def to_config(self) -> dict[str, Any]:
        """Plain values; ``from_config`` reads them back."""
        return documents.plain(self)

    @classmethod
    def from_config(cls, config: Any, where: str = "a target profile") -> TargetProfile:
        """From plain values, checked.

        Args:
            config: as in a profile's file.
            where: what to call it in messages.

        Raises:
            ValueError: names the key, what is expected there and what it got.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        content = documents.check_keys(
            config, known, where, required=("name", "description", "ops", "weights", "activations")
        )
        for key, value in content.items():
            content[key] = _CHECKS[key](value, f"{key} of {where}")
        profile = cls(**content)
        if profile.accumulator_bits > profile.sum_bits:
            raise ValueError(
                f"accumulator_bits of {where} is at most its sum_bits, got {profile.accumulator_bits} and "
                f"{profile.sum_bits}"
            )
        return profile


def _name(value: Any, where: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", documents.text(value, where)):
        raise ValueError(f"{where} is made of letters, digits, '_', '-' and '.', got {value!r}")
    return value


def _bias(value: Any, where: str) -> tuple[int, int]:
    low, high = documents.span(value, where)
    return documents.whole(low, where, 2, 32), documents.whole(high, where, 2, 32)


_CHECKS: Mapping[str, Any] = {
    "name": _name,
    "description": documents.text,
    "export": lambda value, where: None if value is None else documents.text(value, where),
    "scheme": documents.text,
    "ops": lambda value, where: INTEGER_OPS if value == "all" else documents.several_of(value, INTEGER_OPS, where),
    "weights": TensorLimits.from_config,
    "activations": TensorLimits.from_config,
    "bias_bits": _bias,
    "accumulator_bits": lambda value, where: documents.whole(value, where, 2, 32),
    "sum_bits": lambda value, where: documents.whole(value, where, 2, 32),
    "rounding": lambda value, where: documents.several_of(value, ROUNDING_MODES, where),
    "input_rounding": lambda value, where: documents.several_of(value, ROUNDING_MODES, where),
    "saturation": lambda value, where: documents.one_of(value, SATURATION, where),
    "shift": documents.span,
    "exponents": documents.span,
    "spatial_axes": documents.span,
    "dense_axes": documents.span,
    "averages": lambda value, where: documents.one_of(value, AVERAGES, where),
    "softmax": lambda value, where: documents.one_of(value, SOFTMAX, where),
    "float_layers": documents.flag,
    "sizes": lambda value, where: documents.one_of(value, SIZES, where),
}
