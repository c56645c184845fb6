"""The border of a network: what is computed on the real numbers that come in, before anything is rounded to codes.

``rescaling`` (Normalization, Rescaling, ``x / 255``) behind an input, also with moves or other ones in between, belongs
to it: sensor columns that differ by orders of magnitude must meet on one scale before one quantizer can serve them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from graffiti.graph import affine
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS

AFFINE = ("rescaling", "batch_norm")
EXACT_INPUTS = ("uint8", "int8", "bool")  # dtypes whose every value is a code already


def real_values(graph: Graph) -> set[str]:
    """Values that are made of the graph's inputs by moves and affine maps with constant numbers only; the inputs are
    among them.
    """
    found = set(graph.inputs)
    for node in graph.nodes:
        if is_affine(graph, node):
            data = node.inputs[:1]
        elif OPS[node.op].moves_codes:
            data = node.inputs
        else:
            continue
        if data and all(value in found for value in data):
            found.update(node.outputs)
    return found


def is_affine(graph: Graph, node: Node) -> bool:
    """Whether a node is an affine map whose numbers are constants."""
    return node.op in AFFINE and all(graph.is_constant(value) for value in node.inputs[1:])


def nodes(graph: Graph) -> list[Node]:
    """The nodes of the border: affine maps of real values, and the moves between them and the inputs, in order.

    Bytes are codes already, and a chip hands over bytes: where an input is one (``uint8``, ``int8``), an affine map
    with one number for all elements stays behind the quantizer, unless a map of the border reads it.
    """
    real = real_values(graph)
    dtypes = dict(zip(graph.inputs, graph.interface.get("input_dtypes") or ()))
    exact = {name for name in graph.inputs if dtypes.get(name) in EXACT_INPUTS}
    sources: dict[str, set[str]] = {name: {name} for name in graph.inputs}
    for node in graph.nodes:
        reached = set().union(*(sources.get(value, set()) for value in node.inputs)) if node.inputs else set()
        sources.update(dict.fromkeys(node.outputs, reached))
    found: list[Node] = []
    wanted: set[str] = set()  # what a node of the border reads
    for node in reversed(graph.nodes):
        if not real.issuperset(node.outputs):
            continue
        read = any(out in wanted for out in node.outputs)
        if is_affine(graph, node):
            in_codes = node.op == "rescaling" and affine.is_uniform(graph, node) and sources[node.output] <= exact
            read = read or not in_codes
        if read:
            found.append(node)
            wanted.update(node.inputs[:1] if node.op in AFFINE else node.inputs)
    return found[::-1]


def joins(graph: Graph) -> list[str]:
    """The names of concats of several values that only leave the network, and of the moves behind them.

    Such a join is the caller's business: its parts can leave with scales of their own, and meet as real numbers.
    """
    leaving: set[str] = set()  # nodes whose every reader only moves what leaves
    users = graph.users()
    for node in reversed(graph.nodes):
        if not OPS[node.op].moves_codes:
            continue
        readers = [reader for out in node.outputs for reader in users.get(out, ())]
        if (
            all(reader.name in leaving for reader in readers)
            and (readers or any(out in graph.outputs for out in node.outputs))
        ):
            leaving.add(node.name)
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in leaving and (len(set(node.inputs)) > 1 or any(value in found for value in node.inputs)):
            found[node.name] = None
    return list(found)


def values(graph: Graph, inside: Collection[Node]) -> list[str]:
    """The values that may leave the border for the network: its inputs, and what its nodes make."""
    return [*graph.inputs, *(out for node in inside for out in node.outputs)]


def subgraph(graph: Graph) -> Graph:
    """The nodes of the border alone as a float graph, with the inputs that they read; it returns what they make."""
    inside = nodes(graph)
    read = {value for node in inside for value in node.inputs}
    outputs = [out for node in inside for out in node.outputs]
    part = Graph(
        "float", [name for name in graph.inputs if name in read], outputs, inside, dict(graph.constants),
        dict(graph.types), graph.name
    ).copy()
    part.prune()
    return part


def nonnegative(graph: Graph, examples: Sequence[Any]) -> list[str]:
    """The values of the border that are never negative on examples.

    Args:
        graph: prepared.
        examples: for each input of the graph what has a ``dtype`` and ``chunks()``: its arrays, chunk by chunk and all
            alike.
    """
    from graffiti.graph.float_interpreter import run_float

    given = dict(zip(graph.inputs, examples, strict=True))
    lowest: dict[str, float] = {}

    def see(name: str, array: np.ndarray) -> None:
        lowest[name] = min(lowest.get(name, np.inf), float(np.min(array, initial=np.inf)))

    for name, values_of in given.items():
        for chunk in values_of.chunks() if values_of.dtype.kind != "O" else ():
            see(name, np.asarray(chunk, np.float64))
    part = subgraph(graph)
    for chunks in zip(*(given[name].chunks() for name in part.inputs)):
        for name, result in zip(part.outputs, run_float(part, list(chunks), dtype=np.float32), strict=True):
            see(name, result)
    return [name for name in values(graph, nodes(graph)) if lowest.get(name, -1.0) >= 0]
