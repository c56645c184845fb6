"""Table lookup: any function of one code."""

from __future__ import annotations

import numpy as np

from graffiti.export.base import Problem
from graffiti.export.c.emit.base import Emitter, same_elements
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer, count_of, format_of
from graffiti.graph.ir import Graph, Node


class Lookup(Emitter):
    """The table has one entry for each input code, ascending, in the output's type."""

    ops = ("lookup",)
    weights = (1,)

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        found = super().problems(graph, node)
        format = graph.format(node.inputs[0])
        if not found and format is not None and graph.constants[node.inputs[1]].size != format.qmax - format.qmin + 1:
            size = graph.constants[node.inputs[1]].size
            found.append(Problem(node.name, node.op, f"its table has {size} entries for the codes {format.qmin} to "
                                                     f"{format.qmax}", "store one entry for each code"))
        return found

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        return tuple(value for value in step.inputs[:1] if same_elements(graph, step, value))

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x, table = step.inputs
        type = writer.type(step.output)
        lowest = format_of(writer.graph, x).qmin
        entries = writer.array(table, np.asarray(writer.graph.constants[table]), type)
        count = count_of(writer.graph, x)
        return [
            f"graffiti_lookup({writer.read(x)}, {writer.type(x).enum}, {lowest}, {entries}, {type.enum}, {count}, "
            f"{writer.write(step.output)});"
        ]
