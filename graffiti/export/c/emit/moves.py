"""Ops that only move codes: concat, pad, crop, slice, take, permute, upsample. All are copies through one nest of
loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graffiti.export.base import Problem
from graffiti.export.c.emit.base import Emitter
from graffiti.export.c.emit.elementwise import MAX_RANK
from graffiti.export.c.emit.loops import collapse, dense_steps
from graffiti.export.c.fuse import Step
from graffiti.export.c.writer import Writer, count_of, example_shape
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.numerics.windows import index_grids


class Move(Emitter):
    """Base of the moves: checks the rank and writes the copy."""

    def axes(self, graph: Graph, node: Node) -> int:
        """Loops that the copy needs at most."""
        return len(graph.shape(node.inputs[0])) - 1

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        found = super().problems(graph, node)
        if self.axes(graph, node) > MAX_RANK:
            found.append(
                Problem(
                    node.name, node.op,
                    f"it needs {self.axes(graph, node)} nested loops, the C kernels have {MAX_RANK}",
                    "reshape it in the model"
                )
            )
        return found

    def copy(
        self, writer: Writer, step: Step, source: str, sizes: Sequence[int], source_steps: Sequence[int],
        target_steps: Sequence[int], target_start: int = 0,
        name: str = "",
    ) -> list[str]:
        """A copy of ``sizes`` elements into the output from the element ``target_start`` on; nothing where there are
        none.
        """
        if math.prod(sizes) == 0:
            return []
        width = writer.type(step.output).bytes
        loops = writer.loops(name or step.output, *collapse(sizes, source_steps, target_steps))
        return [f"graffiti_move({loops}, {source}, {writer.write(step.output, target_start * width)}, {width});"]


class Concat(Move):
    """Each operand is copied to its place along the axis."""

    ops = ("concat",)
    tensors = ()

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        graph = writer.graph
        target = example_shape(graph, step.output)
        axis = attr(step.node, "axis") % (len(target) + 1) - 1
        lines, start, steps = [], 0, dense_steps(target)
        for index, value in enumerate(step.inputs):
            shape = example_shape(graph, value)
            lines += self.copy(
                writer, step, writer.read(value), shape, dense_steps(shape), steps, start * steps[axis],
                f"{step.output}_{index}"
            )
            start += shape[axis]
        return lines

    def problems(self, graph: Graph, node: Node) -> list[Problem]:
        found = super().problems(graph, node)
        if attr(node, "axis") % len(graph.shape(node.output)) == 0:
            found.append(Problem(node.name, node.op, "it joins along the batch axis", "join along another axis"))
        for value in node.inputs:
            if graph.is_constant(value):
                found.append(
                    Problem(
                        node.name, node.op, f"its input {value!r} is a constant",
                        "add it to the model as an input, or leave it out"
                    )
                )
        return found


class Pad(Move):
    """Zeros everywhere, then the input into the middle."""

    ops = ("pad",)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        shape, target = example_shape(writer.graph, step.inputs[0]), example_shape(writer.graph, step.output)
        steps = dense_steps(target)
        start = sum(before * step_ for (before, _), step_ in zip(attr(step.node, "pads"), steps))
        total = count_of(writer.graph, step.output) * writer.type(step.output).bytes
        return [
            f"memset({writer.write(step.output)}, 0, {total});",
            *self.copy(writer, step, writer.read(step.inputs[0]), shape, dense_steps(shape), steps, start),
        ]


class Crop(Move):
    """A box of the input."""

    ops = ("crop",)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        shape, target = example_shape(writer.graph, x), example_shape(writer.graph, step.output)
        steps = dense_steps(shape)
        start = sum(before * step_ for (before, _), step_ in zip(attr(step.node, "crops"), steps))
        return self.copy(writer, step, writer.read(x, start * writer.type(x).bytes), target, steps, dense_steps(target))


class Slice(Move):
    """Every step-th index along each axis."""

    ops = ("slice",)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        target, steps = example_shape(writer.graph, step.output), dense_steps(example_shape(writer.graph, x))
        slices = attr(step.node, "slices")
        start = sum(first * each for (first, _, _), each in zip(slices, steps))
        source_steps = [stride * each for (_, _, stride), each in zip(slices, steps)]
        return self.copy(
            writer, step, writer.read(x, start * writer.type(x).bytes), target, source_steps, dense_steps(target)
        )


class Take(Move):
    """Listed indices along one axis, as few copies as their grids need."""

    ops = ("take",)

    def axes(self, graph: Graph, node: Node) -> int:
        return len(graph.shape(node.inputs[0]))

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        shape, target = example_shape(writer.graph, x), example_shape(writer.graph, step.output)
        axis, steps, target_steps = (
            attr(step.node, "axis") % (len(shape) + 1) - 1, dense_steps(shape), dense_steps(target)
        )
        lines: list[str] = []
        for number, grid in enumerate(index_grids(attr(step.node, "indices"))):
            sizes = [*shape[:axis], *grid.sizes, *shape[axis + 1 :]]
            source_steps = [*steps[:axis], *(each * steps[axis] for each in grid.steps), *steps[axis + 1 :]]
            out_steps = [
                *target_steps[:axis], *(each * target_steps[axis] for each in dense_steps(grid.sizes)),
                *target_steps[axis + 1 :]
            ]
            source = writer.read(x, grid.first * steps[axis] * writer.type(x).bytes)
            lines += self.copy(
                writer, step, source, sizes, source_steps, out_steps, grid.start * target_steps[axis],
                f"{step.output}_{number}"
            )
        return lines


class Permute(Move):
    """The axes in another order."""

    ops = ("permute",)

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        shape, target = example_shape(writer.graph, x), example_shape(writer.graph, step.output)
        steps = dense_steps(shape)
        return self.copy(
            writer, step, writer.read(x), target, [steps[dim - 1] for dim in attr(step.node, "dims")],
            dense_steps(target)
        )


class Upsample(Move):
    """Every element repeated along the spatial axes: an axis of its own for each factor, which the source does not
    step.
    """

    ops = ("upsample",)

    def axes(self, graph: Graph, node: Node) -> int:
        return 2 * len(attr(node, "size")) + 1

    def emit(self, writer: Writer, step: Step, scratch: str) -> list[str]:
        x = step.inputs[0]
        shape, factors = example_shape(writer.graph, x), attr(step.node, "size")
        sizes, source_steps = [], []
        for size, source_step, factor in zip(shape, dense_steps(shape), factors):
            sizes += [size, factor]
            source_steps += [source_step, 0]
        sizes.append(shape[-1])
        return self.copy(writer, step, writer.read(x), sizes, [*source_steps, 1], dense_steps(sizes))
