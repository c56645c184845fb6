"""Keras objects that fake-quantize. Adding one adds a file and a row in ``ALL_QUANTIZERS``."""

from __future__ import annotations

from typing import Any

import keras

from graffiti.quantizers.base import Quantizer
from graffiti.quantizers.fixed_threshold import FixedThreshold
from graffiti.quantizers.identity import Identity
from graffiti.quantizers.log_threshold import LogThreshold, log_threshold_quantize

ALL_QUANTIZERS: dict[str, type[Quantizer]] = {
    "log_threshold": LogThreshold,
    "fixed_threshold": FixedThreshold,
    "identity": Identity,
}

__all__ = [
    "ALL_QUANTIZERS", "FixedThreshold", "Identity", "LogThreshold", "Quantizer", "deserialize", "get",
    "log_threshold_quantize", "name_of", "serialize",
]


def serialize(quantizer: Quantizer | None) -> dict[str, Any] | None:
    """A quantizer as plain values (without its variables); ``None`` stays ``None``."""
    return None if quantizer is None else keras.saving.serialize_keras_object(quantizer)


def deserialize(config: dict[str, Any] | None) -> Quantizer | None:
    """The inverse of ``serialize``."""
    quantizer = keras.saving.deserialize_keras_object(config)
    if quantizer is not None and not isinstance(quantizer, Quantizer):
        raise ValueError(f"expected the config of a quantizer, got one of {type(quantizer).__name__}")
    return quantizer


def get(identifier: Quantizer | dict[str, Any] | str | None, **arguments) -> Quantizer | None:
    """A quantizer from an object, a config, or a registry name with the class's arguments; ``None`` stays ``None``.

    Raises:
        ValueError: for anything else; it lists the names.

    Example:
        >>> get("log_threshold", bits=4, signed=True).qmax
        7
    """
    if identifier is None or isinstance(identifier, Quantizer):
        return identifier
    if isinstance(identifier, dict):
        return deserialize(identifier)
    if isinstance(identifier, str) and identifier in ALL_QUANTIZERS:
        return ALL_QUANTIZERS[identifier](**arguments)
    raise ValueError(f"a quantizer is an object, a config or one of {', '.join(ALL_QUANTIZERS)}; got {identifier!r}")


def name_of(quantizer: Quantizer) -> str:
    """The registry name of a quantizer's class."""
    for name, cls in ALL_QUANTIZERS.items():
        if type(quantizer) is cls:
            return name
    raise ValueError(
        f"{type(quantizer).__name__} is not in ALL_QUANTIZERS; add a row in graffiti/quantizers/__init__.py"
    )
