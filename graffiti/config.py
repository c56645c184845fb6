"""What to quantize and how: frozen dataclasses of plain values, nothing else.

A ``Scheme`` says it for a whole network, a ``Rule`` for single layers. Named presets are in ``schemes.py``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from graffiti import checks
from graffiti.numerics.rounding import check_rounding
from graffiti.training_config import TrainingScheme

MIN_BITS = 2
MAX_BITS = 16


def _set_bits(spec: Any, field: str, name: str) -> None:
    """Check a width of a frozen dataclass, and hold it as an ``int``."""
    object.__setattr__(spec, field, checks.whole(name, getattr(spec, field), MIN_BITS, MAX_BITS))


@dataclasses.dataclass(frozen=True)
class QuantizerSpec:
    """How one kind of tensor is quantized: ``clip(round(x/s), qmin, qmax) * s`` with ``s`` a power of two.

    Args:
        bits: width of the code, 2 to 16.
        signed: ``True``, ``False``, or ``"auto"``: unsigned where the values cannot be negative (weights: signed).
        narrow: a signed range without its lowest code (−127…127 for 8 bits).
        per_channel: one threshold for each output channel (weights only).
        rounding: a mode of ``numerics/rounding.py``; ``None`` takes the scheme's.
        trainable: whether ALT trains the threshold.
        calibration: the name of the method that gives the first threshold (``calibration/methods.py``).
        quantizer: registry name (``quantizers/__init__.py``).

    Raises:
        ValueError: where a value is out of its range.
    """

    bits: int
    signed: bool | str = "auto"
    narrow: bool = False
    per_channel: bool = False
    rounding: str | None = None
    trainable: bool = True
    calibration: str = "max"
    quantizer: str = "log_threshold"

    def __post_init__(self) -> None:
        _set_bits(self, "bits", "bits of a quantizer")
        if self.signed not in ("auto", True, False):
            raise ValueError(f"signed is True, False or 'auto', got {self.signed!r}")
        if self.narrow and self.signed is False:
            raise ValueError("narrow drops the lowest code of a signed range; an unsigned quantizer cannot be narrow")
        if self.rounding is not None:
            check_rounding(self.rounding)
        for field in ("calibration", "quantizer"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise ValueError(f"{field} is a registry name, got {getattr(self, field)!r}")

    def replace(self, **changes) -> QuantizerSpec:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_config(self) -> dict[str, Any]:
        """Plain values; ``from_config`` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuantizerSpec:
        """The inverse of ``to_config``."""
        return cls(**_known(cls, config))


SIGNS = ("intervals", "published")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Which numbers a quantized network is made of.

    Args:
        weights: kernels of the compute layers.
        activations: what the layers hand on.
        gradients: ``None``. Gradients are quantized by low-bit training (``quantize_training``), never by a static
            scheme; anything else is refused.
        bias_bits: the same as ``accumulator_bits``: bias and accumulator are on one grid.
        accumulator_bits: 32: exact, the bias is an integer at the accumulator's own exponent ``e_x + e_w``. Up to 16: a
            quantizer follows each product and shares its threshold with the bias's (the published topology).
        rounding: of every quantizer that names none itself.
        first_layer: weights of the compute layers that see the network's inputs; ``None`` takes ``weights``.
        last_layer: weights of the compute layers that make the network's outputs; ``None`` takes ``weights``.
        inputs: the network's inputs; ``None`` takes ``activations``.
        outputs: what the last layer hands out; ``None`` takes ``activations``.
        leaky_relu_bits: width of the three quantizers inside a leaky ReLU.
        reciprocal_bits: ``None``: an average pool is the exact mean, rounded by the scheme's mode. Else the published
            form: a product with the constant ``1/(kh*kw)`` of this width, rounded down.
        signs: which stored values have no sign bit where their spec says ``auto``. ``intervals``: those that cannot be
            negative whatever the input and the trained weights (``graph/intervals.py``). ``published``: the outputs of
            ReLU and of functions that are never negative, and what moves or averages them.
        name: for messages.

    Raises:
        ValueError: where fields are out of range or contradict each other.

    References: Jain et al., arXiv 1903.08066, sections 3 and 4.
    """

    weights: QuantizerSpec
    activations: QuantizerSpec
    gradients: QuantizerSpec | None = None
    bias_bits: int = 32
    accumulator_bits: int = 32
    rounding: str = "half_even"
    first_layer: QuantizerSpec | None = None
    last_layer: QuantizerSpec | None = None
    inputs: QuantizerSpec | None = None
    outputs: QuantizerSpec | None = None
    leaky_relu_bits: int = 16
    reciprocal_bits: int | None = None
    signs: str = "intervals"
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.gradients is not None:
            raise ValueError(
                "gradients of a Scheme stay None: a static scheme quantizes a trained network; to train with quantized "
                f"gradients use graffiti.quantize_training with a TrainingScheme, got {self.gradients!r}")
        if self.signs not in SIGNS:
            raise ValueError(f"signs of a scheme are one of {', '.join(SIGNS)}, got {self.signs!r}")
        for field in _SPECS:
            spec = getattr(self, field)
            if not isinstance(spec, QuantizerSpec) and not (spec is None and field in _OPTIONAL_SPECS):
                raise ValueError(f"{field} of a scheme is a QuantizerSpec, got {spec!r}")
        for field in ("activations", "inputs", "outputs"):
            spec = getattr(self, field)
            if spec is not None and spec.per_channel:
                raise ValueError(f"{field} have one threshold for the whole tensor; per_channel is for weights only")
        for field in ("weights", "first_layer", "last_layer"):
            spec = getattr(self, field)
            if spec is not None and spec.signed is False:
                raise ValueError(f"{field} hold negative values; use signed=True or 'auto'")
        _set_bits(self, "leaky_relu_bits", "leaky_relu_bits")
        if self.reciprocal_bits is not None:
            _set_bits(self, "reciprocal_bits", "reciprocal_bits")
        if self.accumulator_bits != 32:
            _set_bits(self, "accumulator_bits", "accumulator_bits (other than 32)")
        if self.bias_bits != self.accumulator_bits:
            raise ValueError(
                "bias and accumulator are on one grid, so bias_bits and accumulator_bits are the same (32, or 2 "
                "to 16); "
                f"got {self.bias_bits} and {self.accumulator_bits}"
            )
        check_rounding(self.rounding)

    def replace(self, **changes) -> Scheme:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_config(self) -> dict[str, Any]:
        """Plain values; ``from_config`` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Scheme:
        """The inverse of ``to_config``."""
        values = _known(cls, config)
        for field in _SPECS:
            if isinstance(values.get(field), Mapping):
                values[field] = QuantizerSpec.from_config(values[field])
        return cls(**values)


_OPTIONAL_SPECS = ("gradients", "first_layer", "last_layer", "inputs", "outputs")
_SPECS = ("weights", "activations", *_OPTIONAL_SPECS)


def _known(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(config) - set(names))
    if unknown:
        raise ValueError(f"a {cls.__name__} has the fields {', '.join(names)}, got {', '.join(unknown)} too")
    return dict(config)


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """What a rule can look at.

    Attributes:
        path: the layer's name in the graph, ``inner/layer`` inside a nested model.
        classes: names of the Keras classes that it may have been, for instance ``("Conv2D",)``.
        op: the graph op, for instance ``conv``.
    """

    path: str
    classes: tuple[str, ...]
    op: str


@dataclasses.dataclass(frozen=True)
class Rule:
    """An exception to the scheme for some layers; of a list of rules the first that matches a layer holds.

    Args:
        match: a regular expression that the whole layer path must match (``"block1/.*"``), a layer class
            (``keras.layers.Dense``), or a function ``LayerInfo -> bool``.
        scheme: a ``Scheme`` (for low-bit training a ``TrainingScheme``) or a preset's name; ``None`` keeps the layer in
            float.

    Raises:
        ValueError: where ``match`` is not a valid regular expression.
        TypeError: where ``match`` is none of these.
    """

    match: str | type | Callable[[LayerInfo], bool]
    scheme: Scheme | TrainingScheme | str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.match, str):
            try:
                re.compile(self.match)
            except re.error as error:
                raise ValueError(f"the rule {self.match!r} is not a valid regular expression: {error}") from error
        elif not callable(self.match):
            raise TypeError(f"a rule matches by a regular expression, a class or a function, got {self.match!r}")
        if self.scheme is not None and not isinstance(self.scheme, (Scheme, TrainingScheme, str)):
            raise TypeError(f"a rule's scheme is a Scheme, a preset's name or None, got {self.scheme!r}")

    def matches(self, layer: LayerInfo) -> bool:
        """Whether the rule speaks about this layer."""
        if isinstance(self.match, str):
            return re.fullmatch(self.match, layer.path) is not None
        if isinstance(self.match, type):
            return self.match.__name__ in layer.classes
        return bool(self.match(layer))

    def __str__(self) -> str:
        shown = self.match if isinstance(self.match, str) else getattr(self.match, "__name__", repr(self.match))
        to = "float" if self.scheme is None else self.scheme if isinstance(self.scheme, str) else self.scheme.name
        return f"{shown!r} → {to}"


@dataclasses.dataclass(frozen=True)
class ReportLine:
    """One decision.

    Attributes:
        layer: the layer or tensor it is about.
        what: ``quantized``, ``folded``, ``shared``, ``float``, ``frozen``, ``dropped``, ``warning`` (something is lost
            that a rule, or another scale in the model, would keep) or ``training`` (how it is trained from now on).
        why: one sentence.
    """

    layer: str
    what: str
    why: str

    def __post_init__(self) -> None:
        if self.what not in REPORT_KINDS:
            raise ValueError(f"a report line is one of {', '.join(REPORT_KINDS)}, got {self.what!r}")


REPORT_KINDS = ("quantized", "folded", "shared", "float", "frozen", "dropped", "warning", "training")
