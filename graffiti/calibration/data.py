"""What users pass as calibration data → one array for each input of the model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from graffiti.calibration.values import Spool, Values

_BATCH = 32  # examples that one step of a plain array stands for, Keras' default


def collect(data: Any, model: keras.Model, steps: int | None = None) -> list[np.ndarray]:
    """Read data completely, as arrays in memory; otherwise as ``read``."""
    return [values.array() for values in read(data, model, steps)]


def read(data: Any, model: keras.Model, steps: int | None = None, spool: Spool | None = None) -> list[Values]:
    """Read calibration data completely, in bounded memory.

    Args:
        data: an array; a dict (by input name) or list of arrays where the model has several inputs; a
            ``tf.data.Dataset``, ``keras.utils.PyDataset``, generator or other iterable of batches, each ``x``,
            ``(x, y)`` or ``(x, y, sample_weight)`` (only ``x`` is used).
        model: a model with symbolic inputs; they say how many arrays, which rank and which dtype.
        steps: how many batches to use; all by default. Of plain arrays one step is 32 examples.
        spool: counts what batches hold in memory; what is too much for it lies in temporary files.

    Returns:
        Values in the order of ``model.inputs``, each ``(examples, ...)`` in its input's dtype, all of equal length.

    Raises:
        ValueError: where there is no data, an endless dataset without ``steps``, NaN or Inf, or another number, rank,
            size or dtype of inputs than the model has.
    """
    if not getattr(model, "inputs", None):
        raise ValueError(f"model {model.name!r} has no symbolic inputs; call model.build(input_shape) or start it with keras.Input")
    if data is None:
        raise ValueError("there is no calibration data; pass 50 to 500 typical inputs of the model")
    if steps is not None and (isinstance(steps, bool) or int(steps) != steps or steps < 1):
        raise ValueError(f"steps is the number of calibration batches to use, at least 1, got {steps!r}")
    if _is_plain(data):
        limit = None if steps is None else int(steps) * _BATCH
        batches: Iterator[list[np.ndarray]] = iter([[array[:limit] for array in _inputs_of(data, model)]])
    else:
        batches = (
            _inputs_of(batch[0] if isinstance(batch, tuple) and len(batch) <= 3 else batch, model)
            for batch in itertools.islice(_batches(data, steps), steps)
        )
    found: list[Values] = []
    for batch in batches:
        # what a user's array holds is held already; batches of a dataset come and go
        found = found or [Values(None if _is_plain(data) else spool or Spool()) for _ in batch]
        for values, array in zip(found, batch, strict=True):
            values.append(array)
    if not found:
        raise ValueError("the calibration dataset is empty; pass one with at least one batch (a used-up generator yields nothing)")
    lengths = [values.examples for values in found]
    if not lengths[0]:
        raise ValueError("the calibration data holds no examples; pass 50 to 500 typical inputs of the model")
    if len(set(lengths)) > 1:
        raise ValueError(f"all inputs need the same number of calibration examples, got {lengths}")
    return found


def _is_array(data: Any) -> bool:
    return isinstance(data, (np.ndarray, tf.Tensor)) or (hasattr(data, "__array__") and not isinstance(data, Mapping))


def _is_plain(data: Any) -> bool:
    """Whether ``data`` is arrays already, not batches of them."""
    if _is_array(data):
        return True
    values = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else None
    return values is not None and (not values or all(_is_array(value) or isinstance(value, (list, int, float)) for value in values))


def _batches(data: Any, steps: int | None) -> Iterator[Any]:
    if isinstance(data, tf.data.Dataset):
        if steps is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("the calibration dataset is endless; say how many batches to use with steps=")
        return iter(data)
    if isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        if count is None and steps is None:
            raise ValueError("the calibration dataset is endless; say how many batches to use with steps=")
        return (data[index] for index in (itertools.count() if count is None else range(count)))
    if isinstance(data, Iterable):
        return iter(data)
    raise ValueError(
        "calibration data is an array, a dict or list of arrays, a tf.data.Dataset, a keras.utils.PyDataset or a generator; "
        f"got {type(data).__name__}"
    )


def _inputs_of(x: Any, model: keras.Model) -> list[np.ndarray]:
    """One batch (or the whole set) as checked arrays in the order of the model's inputs."""
    names = [tensor.name for tensor in model.inputs]
    if isinstance(x, Mapping):
        if set(names) - set(x):
            raise ValueError(f"calibration data needs the inputs {', '.join(names)}, got {', '.join(map(str, x))}")
        values = [x[name] for name in names]
    elif _is_array(x):
        values = [x]
    elif isinstance(x, (list, tuple)) and (len(names) > 1 or len(x) == 1):
        values = list(x)
    else:
        try:
            values = [np.asarray(x)]
        except ValueError as error:
            raise ValueError(f"model {model.name!r} has one input; a list of calibration examples must be of one shape ({error})") from error
    if len(values) != len(names):
        raise ValueError(f"model {model.name!r} has {len(names)} inputs ({', '.join(names)}), the calibration data has {len(values)}")
    return [_check(value, tensor) for value, tensor in zip(values, model.inputs, strict=True)]


def _check(value: Any, tensor: keras.KerasTensor) -> np.ndarray:
    array, shape = np.asarray(value), tuple(tensor.shape)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    wanted = np.dtype(object if dtype == "string" else dtype)
    if (array.dtype.kind in "OSUT") != (dtype == "string"):
        raise ValueError(f"input {tensor.name!r} takes {'text' if dtype == 'string' else f'{dtype} numbers'}, the calibration data is of dtype {array.dtype}")
    if dtype != "string" and array.dtype.kind not in "buif" and array.dtype.name != "bfloat16":
        raise ValueError(f"input {tensor.name!r} takes {wanted} numbers, the calibration data is of dtype {array.dtype}")
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape[1:], array.shape[1:], strict=True)):
        hint = "; add the batch axis (data[None] or dataset.batch(n))" if array.shape == shape[1:] else ""
        raise ValueError(f"input {tensor.name!r} takes batches of shape {shape}, the calibration data has {array.shape}{hint}")
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        array = array if array.dtype.kind == "f" else array.astype(np.float32)
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"the calibration data of input {tensor.name!r} holds {bad} NaN or Inf; remove them first")
    if wanted.kind in "ui":
        limits = np.iinfo(wanted)
        if array.dtype.kind not in "bui" or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise ValueError(f"input {tensor.name!r} takes {wanted} values, the calibration data is {array.dtype} or out of their range")
    return array.astype(wanted, copy=False)
