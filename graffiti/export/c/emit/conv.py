"""Convolution, 1-D and 2-D, with groups, strides, dilation and both paddings."""

from __future__ import annotations

import math

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import front_pads, kernel_type, patch_bytes, shrinking, window_struct
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr


class Conv(Emitter):
    """The kernel is stored ``[out][window][in/groups]``: one output is one dot product with a gathered patch."""

    ops = ("conv",)
    ranks = (3, 4)
    weights = (1,)

    def scratch(self, graph: Graph, step: Step) -> int:
        shape = graph.constants[step.inputs[1]].shape
        return patch_bytes(kernel_type(graph, step), 0, math.prod(shape[:-1]))

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        sizes = graph.constants[step.inputs[1]].shape[:-2]
        pads = front_pads(graph, step, sizes, attr(step.node, "strides"), attr(step.node, "dilation"))
        in_place = attr(step.node, "groups") == 1 and not any(pads) and shrinking(graph, step)
        return step.inputs[:1] if in_place else ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph, node, (x, kernel) = writer.graph, step.node, step.inputs
        values = graph.constants[kernel]
        strides, dilation, groups = attr(node, "strides"), attr(node, "dilation"), attr(node, "groups")
        pads = front_pads(graph, step, values.shape[:-2], strides, dilation)
        window = window_struct(writer, step, values.shape[:-2], strides, dilation, pads, groups)
        type = kernel_type(graph, step)
        packed = writer.kernel(kernel, values.reshape(-1, values.shape[-1]).T, type)
        return [
            f"graffiti_conv({window}, {writer.read(x)}, {writer.type(x).enum}, {packed}, {type.enum}, "
            f"{writer.epilogue(step)}, {writer.write(step.output)}, {scratch});"
        ]
