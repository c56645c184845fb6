"""How training treats the weights of a layer: regularizers, constraints, what stays as it is."""

from __future__ import annotations

from typing import Any

import keras

Settings = dict[str, dict[str, Any]]


def restored(given: Settings | None) -> Settings:
    """Settings with objects in the places of configs: role → ``trainable``, ``regularizer``, ``constraint``."""
    kinds = {"regularizer": keras.regularizers.get, "constraint": keras.constraints.get}
    return {
        role: {key: kinds.get(key, lambda v: v)(value) for key, value in parts.items()}
        for role, parts in (given or {}).items()
    }


def serialized(settings: Settings) -> Settings:
    """Settings with configs in the places of objects."""
    return {
        role: {
            key: value if key == "trainable" else keras.saving.serialize_keras_object(value)
            for key, value in parts.items()
        }
        for role, parts in settings.items()
    }


def arguments(parts: dict[str, Any]) -> dict[str, Any]:
    """What ``add_weight`` takes for one weight."""
    return {
        "trainable": bool(parts.get("trainable", True)), "regularizer": parts.get("regularizer"),
        "constraint": parts.get("constraint")
    }


def ties(given) -> list[tuple[str, int, str]]:
    """``ties`` of a layer from its config: name of another layer, number of its weight, name of this layer's
    attribute that is its variable.
    """
    return [(str(name), int(number), str(role)) for name, number, role in given or ()]
