"""Maximum over a window, and over whole axes."""

from __future__ import annotations

import math

from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.window import front_pads, shrinking, window_struct
from graffiti.export.c.fuse import Step
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import Writer, example_shape, format_of
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr


class MaxPool(Emitter):
    """A window; padding never wins."""

    ops = ("max_pool",)
    ranks = (3, 4)

    def reusable(self, graph: Graph, step: Step) -> tuple[str, ...]:
        size = attr(step.node, "pool_size")
        in_place = (
            not any(front_pads(graph, step, size, attr(step.node, "strides"), (1,) * len(size)))
            and shrinking(graph, step)
        )
        return step.inputs[:1] if in_place else ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        size, strides = attr(step.node, "pool_size"), attr(step.node, "strides")
        pads = front_pads(writer.graph, step, size, strides, (1,) * len(size))
        window = window_struct(writer, step, size, strides, (1,) * len(size), pads)
        x = step.inputs[0]
        return [f"graffiti_max_pool({window}, {writer.read(x)}, {writer.type(x).enum}, {writer.write(step.output)});"]


class GlobalMaxPool(Emitter):
    """Whole axes. Neighbouring ones at once: the tensor is (before, axes, behind) and a window over ``axes`` slides
    along ``before``. Separate ones one after another, through scratch.
    """

    ops = ("global_max_pool",)

    def scratch(self, graph: Graph, step: Step) -> int:
        return sum(bytes for *_, bytes in self._passes(graph, step)[:-1])

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        source, type, at, lines = writer.read(x), writer.type(x).enum, 0, []
        passes = self._passes(writer.graph, step)
        for index, (before, covered, behind, bytes) in enumerate(passes):
            window = writer.struct(
                "graffiti_window", f"{step.output}_window",
                f"{{{before}, {covered}, {behind}, {before}, 1, {behind}, 1, {covered}, 1, 1, 1, 1, 0, 0, 1}}"
            )
            target = writer.write(step.output) if index == len(passes) - 1 else f"(uint8_t *){scratch} + {at}"
            lines.append(f"graffiti_max_pool(&{window}, {source}, {type}, {target});")
            source, at = target, at + bytes
        return lines

    @staticmethod
    def _passes(graph: Graph, step: Step) -> list[tuple[int, int, int, int]]:
        """(before, covered, behind, bytes of the result) for each run of neighbouring axes, the last run first."""
        x = step.inputs[0]
        shape, width = list(example_shape(graph, x)), type_of(format_of(graph, x)).bytes
        axes = sorted(axis - 1 for axis in attr(step.node, "axes"))
        passes = []
        while axes:
            first = last = axes.pop()
            while axes and axes[-1] == first - 1:
                first = axes.pop()
            before, covered, behind = (
                math.prod(part) for part in (shape[:first], shape[first : last + 1], shape[last + 1 :])
            )
            shape[first : last + 1] = [1] * (last + 1 - first)
            passes.append((before, covered, behind, -(-before * behind * width // 16) * 16))
        return passes
