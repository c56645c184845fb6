"""Transposed convolution, 1-D and 2-D."""

from __future__ import annotations

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import kernel_type, patch_bytes, window_struct
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr, transpose_pads


class ConvTranspose(Emitter):
    """The kernel is stored as it is, ``[window][out][in]``: each tap that reaches an output is one matrix times one
    pixel.
    """

    ops = ("conv_transpose",)
    ranks = (3, 4)
    weights = (1,)

    def scratch(self, graph: Graph, step: Step) -> int:
        *_, outputs, inputs = graph.constants[step.inputs[1]].shape
        return patch_bytes(kernel_type(graph, step), outputs, inputs)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph, node, (x, kernel) = writer.graph, step.node, step.inputs
        values = graph.constants[kernel]
        sizes, strides = values.shape[:-2], attr(node, "strides")
        extra = attr(node, "output_padding") or (None,) * len(sizes)
        pads = tuple(transpose_pads(k, s, attr(node, "padding"), e)[0] for k, s, e in zip(sizes, strides, extra))
        window = window_struct(writer, step, sizes, strides, (1,) * len(sizes), pads)
        type = kernel_type(graph, step)
        return [
            f"graffiti_conv_transpose({window}, {writer.read(x)}, {writer.type(x).enum}, "
            f"{writer.kernel(kernel, values, type)}, {type.enum}, "
            f"{writer.epilogue(step)}, {writer.write(step.output)}, {scratch});"
        ]
