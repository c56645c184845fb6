"""Ops of two operands that broadcast: add, subtract, multiply, maximum, minimum; and a bias that is no constant."""

from __future__ import annotations

from graffiti.export.base import Problem
from graffiti.export.c.emit.base import Emitter, same_elements
from graffiti.export.c.emit.loops import broadcast_steps, collapse
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer, example_shape
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS

MAX_RANK = 8  # GRAFFITI_MAX_RANK


class Elementwise(Emitter):
    """``out = epilogue(a op b)`` over one nest of loops."""

    ops = tuple(name for name, row in OPS.items() if row.binary)
    tensors = ()

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        found = super().problems(graph, node)
        ranks = [len(graph.shape(v)) for v in node.inputs]
        constant = [graph.is_constant(v) for v in node.inputs]
        if all(constant):
            found.append(
                Problem(
                    node.name, node.op, "both operands are constants", "fold the node into a constant before exporting"
                )
            )
        rank = len(graph.shape(node.output))
        if any(r != rank for r, c in zip(ranks, constant) if not c):
            found.append(
                Problem(
                    node.name, node.op, f"its operands have {ranks[0]} and {ranks[1]} axes", "reshape them to one rank"
                )
            )
        for value, r, is_constant in zip(node.inputs, ranks, constant):
            if is_constant and r == rank and graph.shape(value)[0] != 1:
                found.append(
                    Problem(
                        node.name, node.op, f"the constant {value!r} differs between the examples of a batch",
                        "give it a first axis of 1"
                    )
                )
        if rank - 1 > MAX_RANK:
            found.append(
                Problem(
                    node.name, node.op, f"it has {rank} axes, the C kernels take up to {MAX_RANK + 1}",
                    "reshape it in the model"
                )
            )
        return found

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        return tuple(value for value in step.inputs if same_elements(graph, step, value))

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph = writer.graph
        target = example_shape(graph, step.output)
        steps = []
        for value in step.inputs:
            shape = example_shape(graph, value)
            steps.append(broadcast_steps(shape[1:] if len(shape) > len(target) else shape, target))
        loops = writer.loops(step.output, *collapse(target, steps[0], steps[1], keep_last=step.per_channel))
        (a, a_type), (b, b_type) = (writer.operand(value) for value in step.inputs)
        return [
            f"graffiti_binary(GRAFFITI_{step.op.upper()}, {loops}, {a}, {a_type.enum}, {b}, {b_type.enum}, "
            f"{writer.epilogue(step)}, {writer.write(step.output)});"
        ]
