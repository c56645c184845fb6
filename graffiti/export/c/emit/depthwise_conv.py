"""Depthwise convolution, and the published average pool, which is one: a kernel with a single value needs no array."""

from __future__ import annotations

import numpy as np

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import fits_nibbles, front_pads, shrinking, window_struct
from graffiti.export.c.fuse import Step
from graffiti.export.c.types import S4, S8, S16, S32, U8, type_of
from graffiti.export.c.writer import Writer, example_shape, format_of, literal
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr


class DepthwiseConv(Emitter):
    """The kernel is stored as it is, ``[window][in * multiplier]``."""

    ops = ("depthwise_conv",)
    ranks = (3, 4)
    weights = (1,)

    def scratch(self, graph: Graph, step: Step) -> int:
        return 4 * example_shape(graph, step.output)[-1]

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        sizes = graph.constants[step.inputs[1]].shape[:-2]
        pads = front_pads(graph, step, sizes, attr(step.node, "strides"), attr(step.node, "dilation"))
        return step.inputs[:1] if not any(pads) and shrinking(graph, step) else ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph, node, (x, kernel) = writer.graph, step.node, step.inputs
        values = np.asarray(graph.constants[kernel])
        strides, dilation = attr(node, "strides"), attr(node, "dilation")
        pads = front_pads(graph, step, values.shape[:-2], strides, dilation)
        window = window_struct(writer, step, values.shape[:-2], strides, dilation, pads)
        tail = f"{writer.epilogue(step)}, {writer.write(step.output)}, {scratch});"
        source = f"{window}, {writer.read(x)}, {writer.type(x).enum}"
        if values.shape[-1] == 1 and (values == values.flat[0]).all():
            return [f"graffiti_sum_pool({source}, {literal(int(values.flat[0]))}, {tail}"]
        if fits_nibbles(graph, kernel) and type_of(format_of(graph, x)) in (S8, U8, S16):
            packed, type = writer.kernel(kernel, values.reshape(-1, values.shape[-2] * values.shape[-1]), S4), S4
        else:
            packed, type = writer.constant(kernel, (S8, S16, S32))
        return [f"graffiti_depthwise_conv({source}, {packed}, {type.enum}, {tail}"]
