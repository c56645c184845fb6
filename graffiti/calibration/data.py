"""What users pass as calibration data → one array for each input of the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from graffiti import checks, user_data
from graffiti.calibration.values import Spool, Values

_BATCH = 32  # examples that one step of a plain array stands for, Keras' default
_ENDLESS = "the calibration dataset is endless; say how many batches to use with steps="


def inputs_of(model: keras.Model) -> user_data.Inputs:
    """What a model takes.

    Raises:
        ValueError: for a model without symbolic inputs.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"model {model.name!r} has no symbolic inputs; call model.build(input_shape) or start it with keras.Input"
        )
    names, shapes = tuple(tensor.name for tensor in model.inputs), tuple(tuple(tensor.shape) for tensor in model.inputs)
    return user_data.Inputs(
        names, shapes, tuple(keras.backend.standardize_dtype(tensor.dtype) for tensor in model.inputs)
    )


def collect(data: Any, model: keras.Model, steps: int | None = None) -> list[np.ndarray]:
    """Read data completely, as arrays in memory; otherwise as ``read``.

    Args:
        data, model, steps: as of ``read``.
    """
    return [values.array() for values in read(data, model, steps)]


def read(data: Any, model: keras.Model, steps: int | None = None, spool: Spool | None = None) -> list[Values]:
    """Read calibration data completely, in bounded memory.

    Args:
        data: as in ``user_data.Inputs.parts``.
        model: a model with symbolic inputs; they say how many arrays, which rank and which dtype.
        steps: how many batches to use; all by default. Of plain arrays one step is 32 examples.
        spool: counts what batches hold in memory; what is too much for it lies in temporary files.

    Returns:
        Values in the order of ``model.inputs``, each ``(examples, ...)`` in its input's dtype, all of equal length.

    Raises:
        ValueError: where there is no data, an endless dataset without ``steps``, NaN or Inf, or another number, rank,
            size or dtype of inputs than the model has.
        TypeError: for something else than data.
    """
    inputs = inputs_of(model)
    if data is None:
        raise ValueError("there is no calibration data; pass 50 to 500 typical inputs of the model")
    steps = None if steps is None else checks.whole("steps", steps, 1, of="batches")
    plain = user_data.is_plain(data)
    limit = steps * _BATCH if steps is not None and plain else None
    found: list[Values] = []
    for batch in inputs.parts(data, steps=steps, endless=_ENDLESS):
        # what a user's array holds is held already; batches of a dataset come and go
        found = found or [Values(None if plain else spool or Spool()) for _ in batch]
        for values, name, array, dtype in zip(found, inputs.names, batch, inputs.dtypes, strict=True):
            values.append(_finite(name, array[:limit], dtype))
    if not found:
        raise ValueError(
            "the calibration dataset is empty; pass one with at least one batch (a used-up generator yields nothing)"
        )
    if not found[0].examples:
        raise ValueError("the calibration data holds no examples; pass 50 to 500 typical inputs of the model")
    return found


def _finite(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """An array in its input's dtype, without NaN and Inf."""
    if array.dtype.kind == "f" and (bad := int(array.size - np.count_nonzero(np.isfinite(array)))):
        raise ValueError(f"the calibration data of input {name!r} holds {bad} NaN or Inf; remove them first")
    return array.astype(object if dtype == "string" else dtype, copy=False)
