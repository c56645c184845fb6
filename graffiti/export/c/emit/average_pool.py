"""Mean over a window: one sum, one division, one rounding."""

from __future__ import annotations

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import front_pads, shrinking, window_struct
from graffiti.export.c.fuse import Step, requantize_shift
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import ROUNDING, Writer, example_shape, format_of, literal
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
        size, strides, target = attr(node, "pool_size"), attr(node, "strides"), attr(node, "format")
        pads = front_pads(graph, step, size, strides, (1,) * len(size))
        window = window_struct(writer, step, size, strides, (1,) * len(size), pads)
        low, high = (attr(node, key) for key in ("low", "high"))
        low = target.qmin if low is None else max(int(low), target.qmin)
        high = target.qmax if high is None else min(int(high), target.qmax)
        values = (
            int(attr(node, "divide")), requantize_shift(graph.format(x), target, most_left=MOST_LEFT), ROUNDING[attr(node, "rounding")],
            literal(low), literal(high), type_of(format_of(graph, step.output)).enum,
        )
        mean = writer.struct("graffiti_mean", f"{step.output}_mean", "{" + ", ".join(map(str, values)) + "}")
        source, out = f"{writer.read(x)}, {writer.type(x).enum}", writer.write(step.output)
        return [f"graffiti_average_pool({window}, {source}, &{mean}, {out}, {scratch});"]


MOST_LEFT = 61  # a sum that is not 0 leaves every format of codes behind it, whatever it is divided by
