"""The named schemes: one explicit table. A new preset is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graffiti import training_schemes
from graffiti.config import QuantizerSpec, Scheme
from graffiti.training_config import TrainingScheme

_WEIGHTS_8 = QuantizerSpec(8, signed=True, narrow=True, calibration="mse")
_WEIGHTS_4 = _WEIGHTS_8.replace(bits=4)
_ACTIVATIONS_8 = QuantizerSpec(8, calibration="mse")  # at least as good as KL-J on every network measured (BENCHMARKS.md)
_ACTIVATIONS_4 = _ACTIVATIONS_8.replace(bits=4)
_PUBLISHED_8 = QuantizerSpec(8, signed=True, calibration="max")     # weights: full range, MAX (section 3)
_PUBLISHED_4 = _PUBLISHED_8.replace(bits=4)
_PUBLISHED_ACTIVATIONS = QuantizerSpec(8, calibration="kl_j")
_PUBLISHED_INPUT = _PUBLISHED_ACTIVATIONS.replace(signed=True)
_PER_CHANNEL = {"per_channel": True}
_EVEN = {"rounding": "half_even"}

# Integer weights narrow so that every target accepts them; int32 bias at e_x + e_w. int8_half_up shifts with ties up, as LiteRT's builtin kernels do. The graffitist presets are the
# published topology: full-range weights, 16-bit accumulator and bias sharing one threshold, signed input.
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (
    Scheme(_WEIGHTS_8, _ACTIVATIONS_8, name="int8"),
    Scheme(_WEIGHTS_8.replace(**_PER_CHANNEL), _ACTIVATIONS_8, name="int8_per_channel"),
    Scheme(_WEIGHTS_8.replace(**_EVEN), _ACTIVATIONS_8, inputs=_ACTIVATIONS_8.replace(**_EVEN), rounding="half_up", name="int8_half_up"),
    Scheme(
        _WEIGHTS_8.replace(**_EVEN, **_PER_CHANNEL), _ACTIVATIONS_8, inputs=_ACTIVATIONS_8.replace(**_EVEN), rounding="half_up", name="int8_half_up_per_channel",
    ),
    Scheme(_WEIGHTS_4, _ACTIVATIONS_8, first_layer=_WEIGHTS_8, last_layer=_WEIGHTS_8, name="int4"),
    Scheme(
        _WEIGHTS_4.replace(**_PER_CHANNEL), _ACTIVATIONS_8, first_layer=_WEIGHTS_8.replace(**_PER_CHANNEL),
        last_layer=_WEIGHTS_8.replace(**_PER_CHANNEL), name="int4_per_channel",
    ),
    Scheme(
        _WEIGHTS_4, _ACTIVATIONS_4, first_layer=_WEIGHTS_8, last_layer=_WEIGHTS_8, inputs=_ACTIVATIONS_8,
        outputs=_ACTIVATIONS_8, name="w4a4",
    ),
    Scheme(
        _PUBLISHED_8, _PUBLISHED_ACTIVATIONS, bias_bits=16, accumulator_bits=16, inputs=_PUBLISHED_INPUT, signs="published", reciprocal_bits=8,
        name="graffitist_int8",
    ),
    Scheme(
        _PUBLISHED_4, _PUBLISHED_ACTIVATIONS, bias_bits=16, accumulator_bits=16, inputs=_PUBLISHED_INPUT,
        first_layer=_PUBLISHED_8, last_layer=_PUBLISHED_8, signs="published", reciprocal_bits=8, name="graffitist_int4",
    ),
)}


def names() -> tuple[str, ...]:
    """The presets' names."""
    return tuple(SCHEMES)


def training_names() -> tuple[str, ...]:
    """Names of the presets of low-bit training."""
    return tuple(training_schemes.TRAINING_SCHEMES)


def get(scheme: str | Scheme | TrainingScheme | Mapping[str, Any]) -> Scheme | TrainingScheme:
    """A scheme from a preset's name (of quantization or of low-bit training), a scheme (returned as it is) or the plain values of ``to_config``.

    Raises:
        ValueError: where there is no such preset, or the values are no scheme.
        TypeError: where ``scheme`` is none of these.
    """
    if isinstance(scheme, TrainingScheme) or (isinstance(scheme, str) and scheme in training_schemes.TRAINING_SCHEMES):
        return get_training(scheme)
    if isinstance(scheme, str) and scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r}; the presets are {', '.join(SCHEMES)}, and for low-bit training {', '.join(training_names())}")
    return get_static(scheme)


def get_training(scheme: str | Scheme | TrainingScheme | Mapping[str, Any]) -> TrainingScheme:
    """A scheme of low-bit training, as ``get``.

    Raises:
        ValueError: where there is no such preset, or the values are no scheme.
        TypeError: where ``scheme`` is something else, for instance a scheme of ``quantize``.
    """
    if isinstance(scheme, TrainingScheme):
        return scheme
    if isinstance(scheme, str) and scheme not in SCHEMES:
        return training_schemes.get(scheme)
    if isinstance(scheme, Mapping):
        return TrainingScheme.from_config(scheme)
    raise TypeError(
        f"low-bit training takes a TrainingScheme or one of {', '.join(training_names())}, got {scheme!r}"
        + ("; that is a scheme of graffiti.quantize" if isinstance(scheme, (str, Scheme)) else ""))


def get_static(scheme: str | Scheme | TrainingScheme | Mapping[str, Any]) -> Scheme:
    """A scheme of ``quantize``, as ``get``.

    Raises:
        ValueError: where there is no such preset, or the values are no scheme.
        TypeError: where ``scheme`` is something else, for instance a scheme of low-bit training.
    """
    if isinstance(scheme, TrainingScheme) or (isinstance(scheme, str) and scheme in training_schemes.TRAINING_SCHEMES):
        raise TypeError(f"graffiti.quantize takes one of {', '.join(SCHEMES)}, got {scheme!r}; that is a scheme of graffiti.quantize_training")
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, str):
        if scheme not in SCHEMES:
            raise ValueError(f"there is no scheme {scheme!r}; the presets are {', '.join(SCHEMES)}")
        return SCHEMES[scheme]
    if isinstance(scheme, Mapping):
        return Scheme.from_config(scheme)
    raise TypeError(f"a scheme is a preset's name, a Scheme or its config, got {scheme!r}")
