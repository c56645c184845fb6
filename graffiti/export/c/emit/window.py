"""Geometry of everything that slides a window: from attributes to the runtime's ``graffiti_window``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graffiti.export.c.fuse import Step
from graffiti.export.c.types import S4, S8, S16, S32, U8, CType, smallest, type_of
from graffiti.export.c.writer import Writer, example_shape, format_of
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attr, window_pads


def image(shape: Sequence[int]) -> tuple[int, int, int]:
    """(height, width, channels) of one example; 1-D has height 1."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)  # type: ignore[return-value]


def pair(values: Sequence[int], first: int = 1) -> tuple[int, int]:
    """One number per spatial axis as (vertical, horizontal); 1-D gets ``first`` as its vertical one."""
    return (first, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def front_pads(
    graph: Graph, step: Step, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """Zeros in front of each spatial axis: those of an absorbed ``pad`` and those of the op's own padding.

    Args:
        graph: of stage ``integer``.
        step: of an op with a window; its own ``padding`` counts.
        window, strides, dilation: one integer per spatial axis.
    """
    sizes = example_shape(graph, step.inputs[0])[:-1]
    outer = step.pads or ((0, 0),) * len(sizes)
    padding = attr(step.node, "padding")
    return tuple(
        before + window_pads(size + before + after, k, s, d, padding)[0]
        for size, (before, after), k, s, d in zip(sizes, outer, window, strides, dilation)
    )


def window_struct(writer: Writer, step: Step, window, strides, dilation, pads, groups: int = 1) -> str:
    """Define the ``graffiti_window`` of a step.

    Args:
        writer: takes the definition.
        step: of an op with a window; the image sizes are those of its first input and its output.
        window, strides, dilation: one integer per spatial axis.
        pads: zeros in front of each spatial axis, from ``front_pads``.
        groups: of a grouped convolution.

    Returns:
        A C expression, a pointer to the struct.
    """
    values = (
        *image(example_shape(writer.graph, step.inputs[0])), *image(example_shape(writer.graph, step.output)),
        *pair(window), *pair(strides), *pair(dilation), *pair(pads, 0), groups,
    )
    return "&" + writer.struct("graffiti_window", f"{step.output}_window", "{" + ", ".join(map(str, values)) + "}")


def kernel_type(graph: Graph, step: Step) -> CType:
    """How a kernel that is multiplied with gathered patches is stored: 4, 8 or 16 bits where it and the input allow,
    else 32.
    """
    if type_of(format_of(graph, step.inputs[0])) not in (S8, U8, S16):
        return S32
    if fits_nibbles(graph, step.inputs[1]):
        return S4
    return smallest(np.asarray(graph.constants[step.inputs[1]]), (S8, S16, S32))


def fits_nibbles(graph: Graph, kernel: str) -> bool:
    """Whether a kernel's format has signed codes of at most 4 bits: it is stored two weights to a byte."""
    format = format_of(graph, kernel)
    return format.signed and format.bits <= 4


def shrinking(graph: Graph, step: Step) -> bool:
    """Whether the output has no more rows and columns than the input, and a pixel of it takes no more bytes.

    Without padding in front, the window of output pixel ``n`` begins at input pixel ``n`` or behind it. An output that
    is written after its whole window was read then overwrites nothing that is still to be read, and may take the
    input's memory.
    """
    def pixel(value: str) -> int:
        return example_shape(graph, value)[-1] * type_of(format_of(graph, value)).bytes

    x = step.inputs[0]
    if graph.is_constant(x) or pixel(step.output) > pixel(x):
        return False
    return all(out <= given for out, given in zip(example_shape(graph, step.output)[:-1], example_shape(graph, x)[:-1]))


def patch_bytes(type: CType, sums: int, elements: int) -> int:
    """Scratch of a product: int32 sums, then a patch of int16 (int32 where the kernel is stored in 32 bits).

    Args:
        type: how the kernel is stored, from ``kernel_type``.
        sums: how many sums the kernel holds at a time.
        elements: how many inputs one patch gathers.
    """
    return 4 * sums + (4 if type == S32 else 2) * elements
