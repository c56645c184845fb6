"""Small helpers for passes: who alone reads a value, which chain of ops made it, and how to take a node out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from graffiti.graph.ir import Graph, Node


def only_reader(graph: Graph, value: str, users: Mapping[str, Sequence[Node]] | None = None) -> Node | None:
    """The one node that reads ``value``, perhaps twice; ``None`` where none or several do, or it leaves the graph.

    Args:
        graph: where to look.
        value: the name of an input, a constant or a node's output.
        users: ``graph.users()``, for callers that ask often; it must be that of the graph as it is now.
    """
    if value in graph.outputs:
        return None
    readers = graph.consumers(value) if users is None else users.get(value, ())
    return readers[0] if len(readers) == 1 else None


def chain(graph: Graph, value: str, *ops: str | Collection[str]) -> tuple[Node, ...] | None:
    """The nodes that make ``value``, in order: ``chain(graph, v, ("conv", "dense"), "bias_add")``.

    Each node's first input is the output of the one before. Every value on the way, ``value`` included, has one reader
    and does not leave the graph.

    Args:
        graph: where to look.
        value: the output of the last node.
        ops: for each node its op, or the ops it may be.

    Returns:
        As many nodes as ``ops``, or ``None`` where the graph looks otherwise.
    """
    found: list[Node] = []
    for allowed in reversed(ops):
        node = graph.producer(value)
        names = (allowed,) if isinstance(allowed, str) else allowed
        if node is None or node.op not in names or only_reader(graph, value) is None:
            return None
        found.append(node)
        value = node.inputs[0] if node.inputs else ""
    return tuple(reversed(found))


def walk_up(graph: Graph, value: str, through: Collection[str]) -> str:
    """The value reached from ``value`` by following first inputs through nodes of the given ops.

    Args:
        graph: where to look.
        value: where the walk starts; returned where no node of these ops makes it.
        through: ops to pass; other readers on the way do not stop the walk.
    """
    node = graph.producer(value)
    while node is not None and node.op in through:
        value = node.inputs[0]
        node = graph.producer(value)
    return value


def splice_out(graph: Graph, node: Node, value: str) -> None:
    """Take a node out of its (own, copied) graph; its readers, the graph's outputs too, take ``value`` instead.

    Args:
        graph: is changed.
        node: of one output.
        value: of the graph, with the node's output type; usually the node's first input.
    """
    graph.replace_uses(node.output, value)
    graph.remove(node)


def only_rounded(graph: Graph, value: str) -> bool:
    """Whether every reader of ``value`` rounds it, ReLUs between them or not: a quantizer then absorbs what made it."""
    readers = graph.consumers(value)
    if not readers or value in graph.outputs:
        return False
    return all(
        reader.op == "fake_quantize" or (reader.op == "relu" and only_rounded(graph, reader.output))
        for reader in readers
    )
