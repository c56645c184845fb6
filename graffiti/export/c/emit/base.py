"""What an emitter is: it knows one family of ops, and how to call the runtime for a step of it."""

from __future__ import annotations

from graffiti.export.base import Problem
from graffiti.export.c.fuse import Step
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import Writer, count_of, example_shape, format_of
from graffiti.graph.ir import Graph, Node


class Emitter:
    """Writes the C of the steps of some ops.

    Attributes:
        ops: the ops, keys of the table in ``emit/__init__.py``.
        ranks: how many axes the first input may have, the batch included.
        weights: which inputs must be constants.
        tensors: which inputs must not be constants.
    """

    ops: tuple[str, ...]
    ranks: tuple[int, ...] | None = None
    weights: tuple[int, ...] = ()
    tensors: tuple[int, ...] = (0,)

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        """What stands against this node; the class attributes are checked here."""
        found = []
        rank = len(graph.shape(node.inputs[0]))
        if self.ranks is not None and rank not in self.ranks:
            expected = " or ".join(map(str, self.ranks))
            found.append(
                Problem(
                    node.name, node.op, f"its input has {rank} axes, the C kernels take {expected} (batch included)",
                    "reshape it in the model"
                )
            )
        for index in self.weights:
            if not graph.is_constant(node.inputs[index]):
                found.append(
                    Problem(
                        node.name, node.op, f"its input {node.inputs[index]!r} is computed",
                        "the C kernels need a constant there"
                    )
                )
        for index in self.tensors:
            if index < len(node.inputs) and graph.is_constant(node.inputs[index]):
                found.append(
                    Problem(
                        node.name, node.op, f"its input {node.inputs[index]!r} is a constant",
                        "fold the node into a constant before exporting"
                    )
                )
        return found

    def scratch(self, graph: Graph, step: Step) -> int:
        """Bytes that the kernel needs beside its tensors."""
        return 0

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        """Inputs whose memory the output may take, if nobody needs them afterwards."""
        return ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        """The C statements of one step; ``scratch`` is a pointer to the scratch bytes."""
        raise NotImplementedError


def same_elements(graph: Graph, step: Step, value: str) -> bool:
    """Whether a tensor has as many elements as the step's output, each at least as wide: it can be overwritten in
    order.

    Args:
        graph: of stage ``integer``.
        step: whose output may take the memory.
        value: one of its inputs; a constant has none to give.
    """
    if graph.is_constant(value) or example_shape(graph, value) != example_shape(graph, step.output):
        return False
    return type_of(format_of(graph, value)).bytes >= type_of(format_of(graph, step.output)).bytes


def rows_and_channels(graph: Graph, value: str, split: bool) -> tuple[int, int]:
    """A tensor as rows times channels; one long row where ``split`` is false.

    Args:
        graph: of stage ``integer``, of known sizes.
        value: any tensor; the batch does not count.
        split: whether the last axis is kept apart.

    Returns:
        ``(rows, channels)``.
    """
    shape = example_shape(graph, value)
    count = count_of(graph, value)
    channels = shape[-1] if shape and split else count
    return (count // channels if channels else 0), channels
