"""How the inputs and outputs of a file are typed: as the Keras model's own, which their names and their order are too.
QONNX takes float32 always, because its tools know no other input; C takes codes.

Names are ``graph.inputs`` and ``graph.output_names()``. What a format cannot hold in a name is changed there, each by
its own rule: ONNX, QONNX and LiteRT take any text; C takes ``input_<name>`` with what is no letter, digit or underscore
as ``_`` (``c/names.py``), and its ``<name>.json`` and header keep the names as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graffiti.graph.ir import Graph


def input_dtype(graph: Graph, name: str) -> np.dtype:
    """Of an input in a file: the codes' where the graph takes codes; the model's own where that is integer or
    boolean; else float32.
    """
    return _dtype(graph, name, graph.interface.get("input_dtypes"), graph.inputs.index(name))


def output_dtype(graph: Graph, index: int) -> np.dtype:
    """Of an output in a file, by its place: as for inputs."""
    return _dtype(graph, graph.outputs[index], graph.interface.get("output_dtypes"), index)


def _dtype(graph: Graph, value: str, dtypes: Sequence[str] | None, index: int) -> np.dtype:
    format = graph.format(value)
    if format is not None:
        return format.dtype
    given = dtypes[index] if dtypes and index < len(dtypes) else "float32"
    return np.dtype(given) if given.startswith(("int", "uint", "bool")) else np.dtype(np.float32)
