"""Dense layers: a 1x1 convolution over the rows of the input."""

from __future__ import annotations

from graffiti.export.c.emit.base import Emitter, rows_and_channels
from graffiti.export.c.emit.window import kernel_type, patch_bytes, shrinking
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer
from graffiti.graph.ir import Graph


class Dense(Emitter):
    """The kernel is stored ``[out][in]``."""

    ops = ("dense",)
    weights = (1,)

    def scratch(self, graph: Graph, step: Step) -> int:
        return patch_bytes(kernel_type(graph, step), 0, graph.constants[step.inputs[1]].shape[0])

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        return step.inputs[:1] if shrinking(graph, step) else ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph, (x, kernel) = writer.graph, step.inputs
        values = graph.constants[kernel]
        inputs, outputs = values.shape
        rows, _ = rows_and_channels(graph, x, True)
        window = writer.struct("graffiti_window", f"{step.output}_window", f"{{1, {rows}, {inputs}, 1, {rows}, "
                                                                           f"{outputs}, 1, 1, 1, 1, 1, 1, 0, 0, 1}}")
        type = kernel_type(graph, step)
        return [
            f"graffiti_conv(&{window}, {writer.read(x)}, {writer.type(x).enum}, "
            f"{writer.kernel(kernel, values.T, type)}, {type.enum}, "
            f"{writer.epilogue(step)}, {writer.write(step.output)}, {scratch});"
        ]
