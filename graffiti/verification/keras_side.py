"""The Keras model as one more side of the comparison."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from graffiti.graph.ir import Graph


def started(q, graph: Graph) -> contextlib.AbstractContextManager[None]:
    """Let ``q`` begin in the state that the graph holds (stateful layers), and give it its own back afterwards."""
    if q is None or not any(node.op == "island" for node in graph.nodes):
        return contextlib.nullcontext()
    from graffiti.keras_io import islands

    return islands.started(q, graph)


def runner(q, graph: Graph) -> Callable[[list[np.ndarray]], dict[str, np.ndarray]]:
    """A function that returns every Keras tensor with a counterpart in the integer graph, and every output.

    Args:
        q: the quantized model that ``graph`` was lowered from.
        graph: of stage ``integer``.

    Raises:
        ValueError: where ``q`` is not quantized, or another network.
    """
    import keras

    from graffiti.keras_io.read import read_with_tensors

    read, tensors = read_with_tensors(q)
    if read.stage != "fakequant":
        raise ValueError(
            f"verify compares a model made by graffiti.quantize, and {q.name!r} is not quantized; pass the model that "
            "was lowered, or None")
    names = [name for name in tensors if name in graph.types and name not in graph.inputs and name not in graph.outputs]
    inputs, lowered = ([(name, g.shape(name)) for name in g.inputs] for g in (read, graph))
    if inputs != lowered or len(q.outputs) != len(graph.outputs) or not (names or graph.outputs):
        raise ValueError(
            f"model {q.name!r} is not the one that the integer graph {graph.name!r} was lowered from: inputs {inputs} "
            f"and {lowered}"
        )
    probe = keras.Model(q.inputs, [*(tensors[name] for name in names), *q.outputs])
    names += graph.outputs

    def run(batch: list[np.ndarray]) -> dict[str, np.ndarray]:
        inputs = [np.asarray(array) for array in batch]
        values = probe.predict_on_batch(inputs[0] if len(inputs) == 1 else inputs)
        return dict(zip(names, values if isinstance(values, (list, tuple)) else [values], strict=True))

    return run
