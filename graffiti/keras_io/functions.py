"""Which row of ``graph/functions.py`` a Keras callable, layer or operation means: by identity, never by a name it
gives itself.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from graffiti.graph.functions import EVERYTHING, FUNCTIONS, Function, Interval, NodeForm
from graffiti.keras_io import compat
from graffiti.layers.functions import resolve


class Meaning(NamedTuple):
    """A function with its parameters."""

    row: Function
    parameters: dict[str, Any]

    @property
    def node(self) -> NodeForm:
        """The op and the attributes that it reads as."""
        return self.row.as_node(self.parameters)

    def interval(self, low: float = -math.inf, high: float = math.inf) -> Interval:
        """The values it takes on ``low <= x <= high``."""
        return self.row.interval(low, high, self.parameters)


class _Names(NamedTuple):
    functions: dict[int, list[Function]]        # by identity: id(keras.ops.relu)
    layers: dict[type, list[Function]]
    operations: dict[str, list[Function]]       # what keras.ops.relu is in a functional model, see _key


@functools.cache
def _names() -> _Names:
    names = _Names({}, {}, {})
    for row in FUNCTIONS.values():
        for name in row.keras:
            try:
                thing = resolve(name)
            except AttributeError:  # newer than the Keras at hand
                continue
            if isinstance(thing, type):
                names.layers.setdefault(thing, []).append(row)
                continue
            names.functions.setdefault(id(thing), []).append(row)
            names.operations.setdefault(_key(name.split(".")[-1]), []).append(row)
    return names


def _key(name: str) -> str:
    """One spelling for the name of a function and that of its operation: ``hard_silu``, ``HardSilu``, ``ReLU``,
    ``Relu``.
    """
    return name.replace("_", "").lower()


def _operation_key(operation) -> str:
    return _key(compat.operation_kind(operation) or "")


def layer_classes() -> tuple[type, ...]:
    """The Keras layers that are a function and nothing else."""
    return tuple(_names().layers)


def means_one(operation) -> bool:
    """Whether an operation of ``keras.ops`` is of a class of the table, whatever its arguments."""
    return _operation_key(operation) in _names().operations


def find(thing) -> Meaning | None:
    """What an activation (a function, a layer) or an operation of ``keras.ops`` means; ``None`` where it is no function
    of the table.

    Args:
        thing: ``keras.activations.relu``, ``keras.ops.gelu``, ``keras.layers.ReLU(6.0)``,
            ``keras.layers.Activation(...)``, the operation of a symbolic call. ``None`` is the linear activation, as in
            Keras.
    """
    names = _names()
    if thing is None:
        return Meaning(FUNCTIONS["linear"], {})
    if type(thing) is keras.layers.Activation:
        return find(thing.activation)
    if isinstance(thing, keras.layers.Layer):
        return _choose(names.layers.get(type(thing), ()), thing.__dict__)
    if means_one(thing):
        return _choose(names.operations[_operation_key(thing)], thing.__dict__)
    rows = names.functions.get(id(thing), ())
    return _choose(rows, _defaults(thing)) if rows else None


def _defaults(function) -> dict[str, Any]:
    return {key: p.default for key, p in inspect.signature(function).parameters.items() if p.default is not p.empty}


def _choose(rows, given: Mapping[str, Any]) -> Meaning | None:
    """The row whose fixed arguments are those given, with the parameters given."""
    for row in rows:
        if any(given.get(key, value) != value for key, value in row.fixed.items()):
            continue
        try:
            return Meaning(row, {key: _plain(given.get(key, default)) for key, default in row.parameters.items()})
        except TypeError:  # an array or a tensor: no function of one number
            return None
    return None


def _plain(value):
    """A number (or a list of them) of a layer as a plain value."""
    if value is None or isinstance(value, (bool, int, float, str, list, tuple)):
        return value
    array = np.asarray(value)
    if array.size != 1:
        raise TypeError(f"expected one number, got the shape {array.shape}")
    return float(array.reshape(()))


__all__ = ["EVERYTHING", "Meaning", "find", "layer_classes"]
