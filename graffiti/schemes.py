"""The named schemes: one explicit table. A new preset is a new row."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from graffiti import documents, training_schemes
from graffiti.config import QuantizerSpec, Scheme
from graffiti.training_config import TrainingScheme

_WEIGHTS_8 = QuantizerSpec(8, signed=True, narrow=True, calibration="mse")
_WEIGHTS_4 = _WEIGHTS_8.replace(bits=4)
# at least as good as KL-J on every network measured (BENCHMARKS.md)
_ACTIVATIONS_8 = QuantizerSpec(8, calibration="mse")
_ACTIVATIONS_4 = _ACTIVATIONS_8.replace(bits=4)
_PUBLISHED_8 = QuantizerSpec(8, signed=True, calibration="max")     # weights: full range, MAX (section 3)
_PUBLISHED_4 = _PUBLISHED_8.replace(bits=4)
_PUBLISHED_ACTIVATIONS = QuantizerSpec(8, calibration="kl_j")
_PUBLISHED_INPUT = _PUBLISHED_ACTIVATIONS.replace(signed=True)
_PER_CHANNEL = {"per_channel": True}
_EVEN = {"rounding": "half_even"}

# Integer weights narrow so that every target accepts them; int32 bias at e_x + e_w. int8_half_up shifts with ties up,
# as LiteRT's builtin kernels do. The graffitist presets are the published topology: full-range weights, 16-bit
# accumulator and bias sharing one threshold, signed input.
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (
    Scheme(_WEIGHTS_8, _ACTIVATIONS_8, name="int8"),
    Scheme(_WEIGHTS_8.replace(**_PER_CHANNEL), _ACTIVATIONS_8, name="int8_per_channel"),
    Scheme(
        _WEIGHTS_8.replace(**_EVEN), _ACTIVATIONS_8, inputs=_ACTIVATIONS_8.replace(**_EVEN), rounding="half_up",
        name="int8_half_up"
    ),
    Scheme(
        _WEIGHTS_8.replace(**_EVEN, **_PER_CHANNEL), _ACTIVATIONS_8, inputs=_ACTIVATIONS_8.replace(**_EVEN),
        rounding="half_up", name="int8_half_up_per_channel",
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
        _PUBLISHED_8, _PUBLISHED_ACTIVATIONS, bias_bits=16, accumulator_bits=16, inputs=_PUBLISHED_INPUT,
        signs="published", reciprocal_bits=8,
        name="graffitist_int8",
    ),
    Scheme(
        _PUBLISHED_4, _PUBLISHED_ACTIVATIONS, bias_bits=16, accumulator_bits=16, inputs=_PUBLISHED_INPUT,
        first_layer=_PUBLISHED_8, last_layer=_PUBLISHED_8, signs="published", reciprocal_bits=8, name="graffitist_int4",
    ),
)}


def names(kind: str = "static") -> tuple[str, ...]:
    """The presets' names. No two presets of different kinds have the same.

    Args:
        kind: ``static`` for those of ``graffiti.quantize``, ``low_bit`` for those of ``graffiti.quantize_training``, or
            ``all``.

    Raises:
        ValueError: for another kind.
    """
    found = {"static": tuple(SCHEMES), "low_bit": tuple(training_schemes.TRAINING_SCHEMES)}
    found["all"] = (*found["static"], *found["low_bit"])
    if kind not in found:
        raise ValueError(f"schemes are of the kinds {', '.join(found)}, got {kind!r}")
    return found[kind]


def training_names() -> tuple[str, ...]:
    """Names of the presets of low-bit training: ``names("low_bit")``."""
    return names("low_bit")


def get(scheme: str | Scheme | TrainingScheme | Mapping[str, Any], **hyper: Any) -> Scheme | TrainingScheme:
    """A scheme by a preset's name, static or of low-bit training, perhaps with some of its values changed.

    Args:
        scheme: a name of ``names("all")``, a scheme, or the plain values of ``to_config``.
        **hyper: with the name of a low-bit preset the arguments of its method (``training_schemes.py``), else fields of
            the scheme.

    Returns:
        A ``TrainingScheme`` for presets of low-bit training, a ``Scheme`` for all others. Without ``hyper`` a scheme is
        returned as it is.

    Raises:
        ValueError: where there is no such preset, the values are no scheme, or a name in ``hyper`` is unknown.
        TypeError: where ``scheme`` is none of these.

    Example:
        >>> schemes.get("large_gradients_int4", alpha=2e-3).gradients.arguments["alpha"]
        0.002
        >>> schemes.get("int8", rounding="half_up").rounding
        'half_up'
    """
    if isinstance(scheme, TrainingScheme) or (isinstance(scheme, str) and scheme in training_schemes.TRAINING_SCHEMES):
        return get_training(scheme, **hyper)
    if isinstance(scheme, Mapping) and "kinds" in scheme:  # a field that only a TrainingScheme has
        return get_training(scheme, **hyper)
    if isinstance(scheme, str) and scheme not in SCHEMES:
        known = f"the presets are {', '.join(SCHEMES)}, and for low-bit training {', '.join(training_names())}"
        raise ValueError(f"there is no scheme {scheme!r}{documents.nearest(scheme, names('all'))}; {known}")
    return get_static(scheme, **hyper)


def get_training(scheme: str | Scheme | TrainingScheme | Mapping[str, Any], **hyper: Any) -> TrainingScheme:
    """A scheme of low-bit training, as ``get``.

    Raises:
        ValueError: where there is no such preset, or the values are no scheme.
        TypeError: where ``scheme`` is something else, for instance a scheme of ``quantize``.
    """
    if isinstance(scheme, TrainingScheme):
        return _changed(scheme, hyper)
    if isinstance(scheme, str) and scheme not in SCHEMES:
        return training_schemes.get(scheme, **hyper)
    if isinstance(scheme, Mapping):
        return _changed(TrainingScheme.from_config(scheme), hyper)
    raise TypeError(
        f"low-bit training takes a TrainingScheme or one of {', '.join(training_names())}, got {scheme!r}"
        + ("; that is a scheme of graffiti.quantize" if isinstance(scheme, (str, Scheme)) else ""))


def get_static(scheme: str | Scheme | TrainingScheme | Mapping[str, Any], **hyper: Any) -> Scheme:
    """A scheme of ``quantize``, as ``get``.

    Raises:
        ValueError: where there is no such preset, or the values are no scheme.
        TypeError: where ``scheme`` is something else, for instance a scheme of low-bit training.
    """
    if isinstance(scheme, TrainingScheme) or (isinstance(scheme, str) and scheme in training_schemes.TRAINING_SCHEMES):
        raise TypeError(f"graffiti.quantize takes one of {', '.join(SCHEMES)}, got {scheme!r}; that is a scheme of "
                        "graffiti.quantize_training")
    if isinstance(scheme, Scheme):
        return _changed(scheme, hyper)
    if isinstance(scheme, str):
        if scheme not in SCHEMES:
            raise ValueError(
                f"there is no scheme {scheme!r}{documents.nearest(scheme, tuple(SCHEMES))}; the presets are "
                f"{', '.join(SCHEMES)}"
            )
        return _changed(SCHEMES[scheme], hyper)
    if isinstance(scheme, Mapping):
        return _changed(Scheme.from_config(scheme), hyper)
    raise TypeError(f"a scheme is a preset's name, a Scheme or its config, got {scheme!r}")


def _changed(scheme, changes: Mapping[str, Any]):
    """A scheme with other values in some of its fields."""
    fields = [field.name for field in dataclasses.fields(scheme)]
    unknown = sorted(set(changes) - set(fields))
    if unknown:
        raise ValueError(f"a {type(scheme).__name__} has the fields {', '.join(fields)}, got {', '.join(unknown)} too")
    return scheme.replace(**changes) if changes else scheme
