"""How a network meets its users: their data as batches in the order of the graph's inputs, results in the Keras model's structure.

Knows numpy only; datasets are recognised by what they can do, so that nothing is imported for their sake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from graffiti.graph.interpreter import cut
from graffiti.graph.ir import Graph


def arrays_of(graph: Graph, x: Any, who: str) -> list[np.ndarray]:
    """All of the user's data, one array for each input of the graph.

    Args:
        graph, x: as in ``batches``.
        who: the verb, for the message.

    Raises:
        ValueError: where there is no example; and as in ``batches``.
    """
    parts = list(_parts(graph, x))
    arrays = [np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*parts)]
    if not arrays or not len(arrays[0]):
        raise ValueError(f"{who} got no data: expected at least one example")
    return arrays


def batches(graph: Graph, x: Any, batch_size: int) -> Iterator[list[np.ndarray]]:
    """The user's data, batch by batch.

    Args:
        graph: says how many inputs there are, their shapes and the Keras model's dtypes.
        x: an array; a dict by input name or a list of arrays for several inputs; or a ``tf.data.Dataset``,
            ``keras.utils.PyDataset``, generator or other iterable of batches, each ``x``, ``(x, y)`` or
            ``(x, y, sample_weight)`` (only ``x`` is used).
        batch_size: examples in a batch; batches of a dataset stay as they are. A graph with a batch size of its own gets that.

    Yields:
        Arrays in the order of ``graph.inputs``, each ``(batch, ...)``.

    Raises:
        ValueError: where the data has another number, shape, dtype or length of inputs than the graph, never ends, or does not
            fill the graph's own batches.
        TypeError: for something else than data.
    """
    if isinstance(batch_size, bool) or batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size is a whole number of examples, at least 1, got {batch_size!r}")
    plain = _is_plain(x)
    for arrays in _parts(graph, x):
        yield from cut(graph, arrays, int(batch_size) if plain else max(len(arrays[0]), 1))


def _parts(graph: Graph, x: Any) -> Iterator[list[np.ndarray]]:
    """All of plain data at once, or a dataset's batches."""
    return iter([_arrays(graph, x)]) if _is_plain(x) else (_arrays(graph, inputs_of(batch)) for batch in elements(x))


def labelled(graph: Graph, x: Any, who: str) -> tuple[Any, np.ndarray | None]:
    """Data and the labels that come with it.

    Args:
        graph: says how many inputs there are.
        x: as in ``batches``, or ``(x, y)``, or ``(x, y, sample_weight)``.
        who: the verb, for the message.

    Returns:
        ``x`` alone, as ``batches`` takes it, and the labels; ``None`` where there are none, or more than one array of them.

    Raises:
        ValueError: for an empty dataset.
    """
    if isinstance(x, tuple) and len(x) in (2, 3) and (len(_flatten(x)) != len(graph.inputs) or not all(map(is_array, x))):
        return x[0], _labels(x[1])
    if _is_plain(x):
        return x, None
    parts = [(inputs_of(element), _labels(element[1]) if isinstance(element, (tuple, list)) and len(element) > 1 else None) for element in elements(x)]
    if not parts:
        raise ValueError(f"{who} got no data: expected at least one batch, got an empty dataset")
    labels = [found for _, found in parts if found is not None]
    return ((part,) for part, _ in parts), np.concatenate(labels) if len(labels) == len(parts) else None


def _labels(y: Any) -> np.ndarray | None:
    """One array of labels, of any library or as numbers; ``None`` for anything else."""
    return np.asarray(y) if is_array(y) or (isinstance(y, (list, tuple)) and not any(map(is_array, _flatten(y)))) else None


def inputs_of(batch: Any) -> Any:
    """``x`` of a dataset's element ``x``, ``(x, y)`` or ``(x, y, sample_weight)``, as Keras reads it."""
    return batch[0] if isinstance(batch, tuple) and len(batch) <= 3 else batch


def structured(graph: Graph, outputs: list[Any]) -> Any:
    """The graph's outputs as the Keras model returns them: one array, a list, a dict, or these within each other; integers and
    booleans in the model's dtype. Keras takes the only tensor out of a list of one."""
    outputs = [_as(output, dtype) for output, dtype in itertools.zip_longest(outputs, graph.interface.get("output_dtypes") or ())]

    def fill(structure):
        if isinstance(structure, dict):
            return {key: fill(part) for key, part in structure.items()}
        return type(structure)(map(fill, structure)) if isinstance(structure, (list, tuple)) else outputs[structure]

    structure = graph.interface.get("outputs")
    if isinstance(structure, (list, tuple)) and len(structure) == 1:
        structure = structure[0]
    if structure is None:  # a graph that no Keras model was read for
        return outputs[0] if len(outputs) == 1 else list(outputs)
    return fill(structure)


def _as(output: Any, dtype: str | None) -> Any:
    """An output in the model's dtype where that is no float: what is a float there is float32 here."""
    return output if dtype is None or "float" in dtype or getattr(output, "dtype", dtype) == dtype else np.asarray(output).astype(dtype)


def is_array(x: Any) -> bool:
    """Whether ``x`` is one tensor of any library."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _is_plain(x: Any) -> bool:
    """Whether ``x`` is arrays already, not batches of them."""
    return is_array(x) or isinstance(x, (Mapping, list, tuple))


def elements(x: Any) -> Iterator[Any]:
    """The batches of a dataset, a bounded number of them."""
    if not isinstance(x, Iterable) and not hasattr(x, "__getitem__"):
        raise TypeError(f"inputs are an array, a dict or list of arrays, or a dataset of batches, got {type(x).__name__}")
    endless = ValueError("the dataset is endless; pass dataset.take(count)")
    if hasattr(x, "num_batches"):  # keras.utils.PyDataset: its items do not end by themselves
        if x.num_batches is None:
            raise endless
        return (x[index] for index in range(x.num_batches))
    if hasattr(x, "cardinality") and int(x.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise endless
    return iter(x)


def _flatten(x: Any) -> list[Any]:
    """Nested lists and dicts in Keras' order; arrays and everything else are leaves."""
    parts = [x[key] for key in sorted(x)] if isinstance(x, Mapping) else list(x) if isinstance(x, (list, tuple)) else None
    return [x] if parts is None else list(itertools.chain.from_iterable(map(_flatten, parts)))


def _arrays(graph: Graph, x: Any) -> list[np.ndarray]:
    """One batch, or all the data, as checked arrays in the order of the graph's inputs."""
    names = graph.inputs
    if isinstance(x, Mapping) and not set(names) <= set(x) and not any(isinstance(part, (Mapping, list, tuple)) for part in x.values()):
        raise ValueError(f"the network has the inputs {', '.join(names)}, missing {', '.join(n for n in names if n not in x)}; got {', '.join(map(str, x))}")
    if isinstance(x, Mapping) and set(names) <= set(x):
        parts = [x[name] for name in names]
    elif len(names) == 1 and isinstance(x, (list, tuple)) and not any(map(is_array, _flatten(x))):
        parts = [x]  # plain numbers
    else:
        parts = _flatten(x)
    if len(parts) != len(names):
        raise ValueError(f"the network has {len(names)} inputs ({', '.join(names)}), got {len(parts)} arrays")
    dtypes = graph.interface.get("input_dtypes") or ["float32"] * len(names)
    arrays = [_check(graph, name, part, dtype) for name, part, dtype in zip(names, parts, dtypes)]
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"all inputs need the same number of examples, got {', '.join(f'{n} for {name!r}' for n, name in zip(lengths, names))}")
    return arrays


def _check(graph: Graph, name: str, x: Any, dtype: str) -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"input {name!r} takes one array, the examples have different shapes ({error})") from error
    shape = graph.shape(name)
    if dtype == "string":
        if array.dtype.kind not in "OSUT":
            raise ValueError(f"input {name!r} takes text, got dtype {array.dtype}")
    elif array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(f"input {name!r} takes {dtype} numbers, got dtype {array.dtype}")
    if array.ndim != len(shape) or any(size is not None and size != n for size, n in zip(shape[1:], array.shape[1:])):
        hint = "; add the batch axis (x[None])" if array.shape == tuple(shape[1:]) else ""
        raise ValueError(f"input {name!r} has shape ({', '.join(['batch', *map(str, shape[1:])])}), got {array.shape}{hint}")
    if dtype.startswith(("int", "uint")) and array.dtype != dtype:
        with np.errstate(invalid="ignore"):
            cast = array.astype(dtype)
        if not np.array_equal(cast, array):  # Keras would cut them off; nobody wants that
            raise ValueError(f"input {name!r} takes {dtype} values, got {array.dtype} with other ones; convert them first")
        return cast
    if array.dtype.name == "bfloat16" or dtype in ("float16", "bfloat16"):
        return array.astype(np.float16 if dtype == "float16" else np.float32)
    return array
