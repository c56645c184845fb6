"""The activation functions on tensors: the rows of ``graph/functions.py`` by the Keras function that each names
first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from graffiti.graph import functions


def resolve(name: str) -> Any:
    """What a dotted name of a row stands for: ``ops.relu`` → ``keras.ops.relu``.

    Raises:
        AttributeError: where this Keras has no such thing.
    """
    return functools.reduce(getattr, name.split("."), keras)


def get(name: str, parameters: Mapping[str, Any] | None = None) -> Callable:
    """The function called ``name``, on tensors of any float dtype.

    Args:
        name: of a row.
        parameters: those that differ from the row's defaults.

    Raises:
        ValueError: where there is no such function or parameter; it lists what there is.
    """
    row = functions.get(name)
    keras_function = resolve(row.keras[0])
    known = inspect.signature(keras_function).parameters
    arguments = {key: value for key, value in {**row.fixed, **row.complete(parameters)}.items() if key in known}
    return functools.partial(keras_function, **arguments)
