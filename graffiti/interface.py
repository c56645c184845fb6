"""How an integer graph meets its users: their data as batches in the order of its inputs, results in the Keras
model's structure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from graffiti import checks, user_data
from graffiti.graph.interpreter import cut
from graffiti.graph.ir import Graph


def inputs_of(graph: Graph) -> user_data.Inputs:
    """What a graph takes: names, shapes and the Keras model's dtypes."""
    dtypes = graph.interface.get("input_dtypes") or ["float32"] * len(graph.inputs)
    return user_data.Inputs(tuple(graph.inputs), tuple(map(graph.shape, graph.inputs)), tuple(dtypes))


def arrays_of(graph: Graph, x: Any, who: str) -> list[np.ndarray]:
    """All of the user's data, one array for each input of the graph.

    Args:
        graph: whose inputs they are.
        x: as in ``user_data.Inputs.parts``.
        who: the verb, for the message.

    Raises:
        ValueError: where there is no example; and as in ``user_data.Inputs.parts``.
    """
    parts = list(inputs_of(graph).parts(x))
    arrays = [np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*parts)]
    if not arrays or not len(arrays[0]):
        raise ValueError(f"{who} got no data: expected at least one example")
    return arrays


def batches(graph: Graph, x: Any, batch_size: int) -> Iterator[list[np.ndarray]]:
    """The user's data, batch by batch.

    Args:
        graph: whose inputs they are.
        x: as in ``user_data.Inputs.parts``.
        batch_size: examples in a batch; batches of a dataset stay as they are. A graph with a batch size of its own
            gets that.

    Yields:
        Arrays in the order of ``graph.inputs``, each ``(batch, ...)``.

    Raises:
        ValueError: where the data does not fill the graph's own batches; and as in ``user_data.Inputs.parts``.
        TypeError: for something else than data.
    """
    batch_size = checks.whole("batch_size", batch_size, 1, of="examples")
    plain = user_data.is_plain(x)
    for arrays in inputs_of(graph).parts(x):
        yield from cut(graph, arrays, batch_size if plain else max(len(arrays[0]), 1))


def labelled(graph: Graph, x: Any, who: str) -> tuple[Any, np.ndarray | None]:
    """Data and the labels that come with it.

    Args:
        graph: says how many inputs there are.
        x: as in ``batches``, or ``(x, y)``, or ``(x, y, sample_weight)``.
        who: the verb, for the message.

    Returns:
        ``x`` alone, as ``batches`` takes it, and the labels; ``None`` where there are none, or more than one array of
        them.

    Raises:
        ValueError: for an empty dataset.
    """
    own = isinstance(x, tuple) and len(user_data.flatten(x)) == len(graph.inputs) and all(map(user_data.is_array, x))
    if isinstance(x, tuple) and len(x) in (2, 3) and not own and user_data.is_plain(x):
        return x[0], user_data.labels_of(x[1])
    if user_data.is_plain(x):
        return x, None
    parts, labels = [], []
    for element in user_data.elements(x):
        parts.append((user_data.inputs_of(element),))
        if (
            isinstance(element, (tuple, list)) and len(element) > 1
            and (found := user_data.labels_of(element[1])) is not None
        ):
            labels.append(found)
    if not parts:
        raise ValueError(f"{who} got no data: expected at least one batch, got an empty dataset")
    return iter(parts), np.concatenate(labels) if len(labels) == len(parts) else None


def structured(graph: Graph, outputs: list[Any]) -> Any:
    """The graph's outputs as the Keras model returns them: one array, a list, a dict, or these within each other;
    integers and booleans in the model's dtype. Keras takes the only tensor out of a list of one.
    """
    outputs = [
        _as(output, dtype)
        for output, dtype in itertools.zip_longest(outputs, graph.interface.get("output_dtypes") or ())
    ]

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
    return (
        output if dtype is None or "float" in dtype or getattr(output, "dtype", dtype) == dtype
        else np.asarray(output).astype(dtype)
    )
