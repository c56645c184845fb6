"""Ops whose output codes are input codes, on whichever carrier the value has: pools of maxima, joins, cuts,
reshapes; and tables.
"""

from __future__ import annotations

import numpy as np

from graffiti.export.litert.emitter import Emitter
from graffiti.export.litert.layout import Layout
from graffiti.export.litert.products import SAME, VALID, pad
from graffiti.graph.ir import Node
from graffiti.graph.ops import attr, attributes

MAX_STRIDED_RANK = 5


def carrier(e: Emitter, node: Node) -> tuple[list[int], int, Layout | None]:
    """The inputs' tensors, the output's, and the layout (``None``: float32): integers where every input has them."""
    values = node.inputs
    if all(v in e.integers for v in values) and len({e.layout(v) for v in values}) == 1:
        tensors = [e.integers[v] for v in values]
        return tensors, e.declare(node.output), e.layout(node.output)
    tensors = [e.real(v) for v in values]
    if e.graph.format(node.output) is not None:
        e.bound[node.output] = max(e.largest(v) for v in values)
    return tensors, e.declare_real(node.output), None


def version(like: Layout | None, real: int, int8: int, int16: int) -> int:
    """An operator's version by what it carries.

    Args:
        like: layout of the operator's tensors; ``None`` for float32.
        real, int8, int16: the operator's version for each.
    """
    return real if like is None else int8 if like.dtype == "int8" else int16


def reshape(e: Emitter, node: Node) -> None:
    """Row-major reshape; one size may follow from the others."""
    shape = e.graph.shape(node.output)
    e.problem_where(
        any(n is None for n in shape[1:]), node, f"its shape is {shape}", "build the model with fixed sizes"
    )
    (x,), out, like = carrier(e, node)
    e.reshape(x, shape, node.name, like, out)


def permute(e: Emitter, node: Node) -> None:
    """Axes in a new order."""
    (x,), out, like = carrier(e, node)
    e.op(
        "TRANSPOSE", [x, e.vector(node.name, [0, *attr(node, "dims")])], [out], version=version(like, 1, 2, 4),
        kind="Transpose"
    )


def zeros_around(e: Emitter, node: Node) -> None:
    """``pad``: code 0, which is the zero-point."""
    (x,), out, like = carrier(e, node)
    pad(e, x, e.graph.shape(node.inputs[0]), attr(node, "pads"), like, node.name, out)


def crop(e: Emitter, node: Node) -> None:
    """A slice; the batch is taken whole."""
    shape = e.graph.shape(node.output)
    e.problem_where(
        any(n is None for n in shape[1:]), node, f"its shape is {shape}", "build the model with fixed sizes"
    )
    (x,), out, like = carrier(e, node)
    begin = e.vector(node.name, [0, *(before for before, _ in attr(node, "crops"))])
    e.op(
        "SLICE", [x, begin, e.vector(node.name, [-1, *(int(n or 0) for n in shape[1:])])], [out],
        version=version(like, 1, 2, 4), kind="Slice"
    )


def slice_axes(e: Emitter, node: Node) -> None:
    """A strided slice; the batch is taken whole."""
    shape = e.graph.shape(node.inputs[0])
    e.problem_where(
        len(shape) > MAX_STRIDED_RANK, node,
        f"its input has {len(shape)} axes, a strided slice takes {MAX_STRIDED_RANK}", "reshape it in the model"
    )
    (x,), out, like = carrier(e, node)
    starts, stops, steps = zip(*attr(node, "slices"))
    # bit i: axis i goes to its end
    ends = (1 << len(shape)) - 1 - sum(1 << axis for axis, stop in enumerate(stops, 1) if stop is not None)
    vectors = [
        e.vector(node.name, values)
        for values in ([0, *starts], [0, *(0 if stop is None else stop for stop in stops)], [1, *steps])
    ]
    options = {"beginMask": 1, "endMask": ends}
    e.op("STRIDED_SLICE", [x, *vectors], [out], options, version=version(like, 1, 2, 4), kind="StridedSlice")


def take(e: Emitter, node: Node) -> None:
    """``GATHER`` by a constant list of indices."""
    (x,), out, like = carrier(e, node)
    axis = attr(node, "axis") % len(e.graph.shape(node.inputs[0]))
    e.op(
        "GATHER", [x, e.vector(node.name, attr(node, "indices"))], [out], {"axis": axis},
        version=version(like, 1, 2, 4), kind="Gather"
    )


def upsample(e: Emitter, node: Node) -> None:
    """Nearest neighbours; sampled at pixel centres, so that no float index falls on an edge."""
    shape, out_shape, size = e.graph.shape(node.inputs[0]), e.graph.shape(node.output), attr(node, "size")
    e.problem_where(
        len(shape) > 4 or any(n is None for n in shape[1:]), node, f"its input has the shape {shape}",
        "use one or two spatial axes of fixed sizes"
    )
    (x,), out, like = carrier(e, node)
    target = out
    if len(size) == 1:
        x = e.reshape(x, (None, 1, *shape[1:]), node.name, like)
        target = e.temporary(node.name, (None, 1, *out_shape[1:]), like)
    sizes = [1] * (2 - len(size)) + [int(n or 1) for n in out_shape[1:-1]]
    options = {"alignCorners": False, "halfPixelCenters": True}
    e.op(
        "RESIZE_NEAREST_NEIGHBOR", [x, e.vector(node.name, sizes)], [target], options, version=version(like, 3, 3, 4),
        kind="ResizeNearestNeighbor"
    )
    if len(size) == 1:
        e.reshape(target, out_shape, node.name, like, out)


def concat(e: Emitter, node: Node) -> None:
    """Joined along an axis; all inputs have one format, hence one layout."""
    axis = attr(node, "axis") % len(e.graph.shape(node.output))
    tensors, out, like = carrier(e, node)
    e.op("CONCATENATION", tensors, [out], {"axis": axis}, version=version(like, 1, 2, 3), kind="Concatenation")


def max_pool(e: Emitter, node: Node) -> None:
    """Maximum over windows; LiteRT's padding never wins either."""
    a, shape, out_shape = attributes(node), e.graph.shape(node.inputs[0]), e.graph.shape(node.output)
    spatial = len(shape) - 2
    e.problem_where(
        spatial not in (1, 2) or any(n is None for n in shape[1:]), node, f"its input has the shape {shape}",
        "use one or two spatial axes of fixed sizes"
    )
    (x,), out, like = carrier(e, node)
    target = out
    if spatial == 1:
        x = e.reshape(x, (None, 1, *shape[1:]), node.name, like)
        target = e.temporary(node.name, (None, 1, *out_shape[1:]), like)
    fill = [1] * (2 - spatial)
    size, strides = [*fill, *a["pool_size"]], [*fill, *a["strides"]]
    options = {
        "padding": SAME if a["padding"] == "same" else VALID, "strideH": strides[0], "strideW": strides[1],
        "filterHeight": size[0], "filterWidth": size[1],
    }
    e.op("MAX_POOL_2D", [x], [target], options, version=version(like, 1, 2, 3), kind="Pool2D")
    if spatial == 1:
        e.reshape(target, out_shape, node.name, like, out)


def global_max_pool(e: Emitter, node: Node) -> None:
    """Maximum over axes."""
    (x,), out, like = carrier(e, node)
    options = {"keepDims": bool(attr(node, "keepdims"))}
    e.op(
        "REDUCE_MAX", [x, e.vector(node.name, list(attr(node, "axes")))], [out], options,
        version=version(like, 1, 2, 3), kind="Reducer"
    )


def lookup(e: Emitter, node: Node) -> None:
    """``table[code - qmin]`` by ``GATHER``: the stored table itself, no second evaluation of the function."""
    x, name = node.inputs
    layout, out_layout = e.layout(x), e.layout(node.output)
    e.problem_where(
        layout is None or out_layout is None or x not in e.integers, node,
        f"LiteRT has no tensor for the formats {e.graph.format(x)} and {e.graph.format(node.output)}",
        "use at most 8 bits, or 16 signed ones, in front of a table and behind it"
    )
    assert layout is not None and out_layout is not None
    shape = e.graph.shape(x)
    index = e.writer.tensor(e.writer.unique(f"{node.name}/litert"), shape, "int32")
    e.op("CAST", [e.integers[x]], [index], version=1, kind="Cast")
    offset = -layout.zero_point - e.format(x).qmin
    if offset:
        moved = e.writer.tensor(e.writer.unique(f"{node.name}/litert"), shape, "int32")
        e.op("ADD", [index, e.vector(node.name, [offset])], [moved], kind="Add")
        index = moved
    codes = e.graph.constants[name].astype(np.int64) + out_layout.zero_point
    table = e.stored(name, codes.astype(out_layout.dtype), out_layout.quantization)
    e.op(
        "GATHER", [table, index], [e.declare(node.output)], {"axis": 0}, version=version(out_layout, 1, 2, 4),
        kind="Gather"
    )
