"""Mean over a window: one sum, one division, one rounding."""

from __future__ import annotations

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import front_pads, shrinking, window_struct
from graffiti.export.c.fuse import Step, one_shift
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import ROUNDING, Writer, example_shape, format_of, literal
from graffiti.graph.chains import rounded_by
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr


class AveragePool(Emitter):
    """The sums of one output pixel are in scratch until they are divided."""

    ops = ("average_pool",)
    ranks = (3, 4)

    def scratch(self, graph: Graph, step: Step) -> int:
        return 4 * example_shape(graph, step.output)[-1]

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        size = attr(step.node, "pool_size")
        pads = front_pads(graph, step, size, attr(step.node, "strides"), (1,) * len(size))
        return step.inputs[:1] if not any(pads) and shrinking(graph, step) else ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph, node, (x,) = writer.graph, step.node, step.inputs
        size, strides = attr(node, "pool_size"), attr(node, "strides")
        pads = front_pads(graph, step, size, strides, (1,) * len(size))
        window = window_struct(writer, step, size, strides, (1,) * len(size), pads)
        rounded = rounded_by(graph, node)
        values = (
            int(attr(node, "divide")), one_shift(rounded.shift), ROUNDING[rounded.mode],
            literal(rounded.low), literal(rounded.high), type_of(format_of(graph, step.output)).enum,
        )
        mean = writer.struct("graffiti_mean", f"{step.output}_mean", "{" + ", ".join(map(str, values)) + "}")
        source, out = f"{writer.read(x)}, {writer.type(x).enum}", writer.write(step.output)
        return [f"graffiti_average_pool({window}, {source}, &{mean}, {out}, {scratch});"]

