"""Ops of one operand that are nothing but stages: requantize, relu, and a constant bias on its own."""

from __future__ import annotations

from graffiti.export.base import Problem
from graffiti.export.c.emit.base import Emitter, rows_and_channels, same_elements
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer
from graffiti.graph.ir import Graph, Node


class Requantize(Emitter):
    """``out = epilogue(x)``."""

    ops = ("requantize", "relu", "bias_add")

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        found = super().problems(graph, node)
        if node.op == "bias_add" and not graph.is_constant(node.inputs[1]):
            found.append(Problem(node.name, node.op, f"its bias {node.inputs[1]!r} is computed", "use an add for what "
                                                                                                 "is no constant"))
        return found

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        return tuple(value for value in step.inputs[:1] if same_elements(graph, step, value))

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        rows, channels = rows_and_channels(writer.graph, x, step.per_channel)
        return [
            f"graffiti_requantize({writer.read(x)}, {writer.type(x).enum}, {rows}, {channels}, "
            f"{writer.epilogue(step)}, {writer.write(step.output)});"
        ]
