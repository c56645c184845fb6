"""Nodes one by one on float32 tensors: exact wherever every value is an integer number of steps below 2**24.

This carries what LiteRT's integer operators cannot: 16-bit accumulators between 8-bit tensors, leaky ReLU, pools over
partial windows, broadcasts. ``ROUND`` and ``FLOOR`` are exact in every kernel; ``QUANTIZE`` is not (the builtin one
rounds the last elements of a tensor half away), so it only ever gets reals that are whole steps, but for the plain int8
border.
"""

from __future__ import annotations

import math

import numpy as np

from graffiti.export.litert import products
from graffiti.export.litert.emitter import EXACT, RUNTIMES, Emitter
from graffiti.export.litert.layout import layout_of
from graffiti.graph import affine
from graffiti.graph.ir import Node
from graffiti.graph.match import only_reader
from graffiti.graph.ops import attr
from graffiti.numerics.formats import QFormat
from graffiti.numerics.rounding import round_real, shift_right

BINARY = {"add": ("ADD", "Add"), "subtract": ("SUB", "Sub"), "multiply": ("MUL", "Mul"), "bias_add": ("ADD", "Add")}
ROUNDINGS: dict[str, tuple[tuple[str, str | None, float], ...]] = {  # on steps: operator, options, constant
    "half_even": (("ROUND", None, 0.0),), "floor": (("FLOOR", None, 0.0),),
    "half_up": (("ADD", "Add", 0.5), ("FLOOR", None, 0.0)),
}


def binary(e: Emitter, node: Node) -> None:
    """``add``, ``subtract``, ``multiply`` and ``bias_add`` on reals."""
    x, y = node.inputs
    largest = [
        int(np.abs(e.graph.constants[v].astype(np.int64)).max(initial=0)) if e.graph.is_constant(v) else e.largest(v)
        for v in (x, y)
    ]
    bound = largest[0] * largest[1] if node.op == "multiply" else sum(largest)
    if bound > EXACT:
        if node.op != "multiply" or not _multiplies_well(e, node):
            e.problem_where(
                True, node, f"its result may reach {bound} steps, beyond what float32 holds exactly",
                "give its operands fewer bits"
            )
    op, kind = BINARY[node.op]
    e.op(op, [e.real(x), e.real(y)], [e.declare_real(node.output, exactly=bound <= EXACT)], kind=kind)
    e.bound[node.output] = bound


def _multiplies_well(e: Emitter, node: Node) -> bool:
    """Whether float32's rounding of a product with a constant moves the requantize behind it by no step or one,
    tried for every code.
    """
    x, y = node.inputs
    reader = only_reader(e.graph, node.output, e.users)
    if not e.graph.is_constant(y) or reader is None or reader.op != "requantize":
        return False
    source, target, factors = e.format(x), attr(reader, "format"), np.unique(e.graph.constants[y].astype(np.int64))
    product = e.format(node.output)
    if source.bits > 16 or len(factors) > 64 or product.per_channel:
        return False
    shift, mode = target.exponents[0] - product.exponents[0], attr(reader, "rounding")
    codes, worst = np.arange(source.qmin, source.qmax + 1, dtype=np.int64), 0
    limits = products.requantize_limits(e, reader)
    for factor in factors:
        exact = np.clip(shift_right(codes * factor, shift, mode), *limits)
        single = np.ldexp((codes.astype(np.float32) * np.float32(factor)).astype(np.float64), -shift)
        worst = max(worst, int(np.abs(np.clip(round_real(single, mode), *limits).astype(np.int64) - exact).max()))
    if worst == 1:
        for runtime in RUNTIMES:
            e.inexact[runtime].add(reader.output)
    return worst <= 1


def rescaling(e: Emitter, node: Node) -> None:
    """``MUL`` and ``ADD`` in float32 at the border, which round one after the other."""
    tensor, rank, steps = e.real(node.inputs[0]), len(e.graph.shape(node.output)), []
    for op, kind, value in zip(("MUL", "ADD"), ("Mul", "Add"), affine.numbers(e.graph, node)):
        if op == "MUL" or value.any():
            value = value.reshape(()) if value.size == 1 else value.reshape((1,) * (rank - value.ndim) + value.shape)
            steps.append(
                (op, kind, e.writer.constant(e.writer.unique(f"{node.name}/constant"), np.asarray(value, np.float32)))
            )
    for op, kind, constant in steps[:-1]:
        out = e.temporary(node.name, e.graph.shape(node.output))
        e.op(op, [tensor, constant], [out], kind=kind)
        tensor = out
    op, kind, constant = steps[-1]
    e.op(op, [tensor, constant], [e.declare_real(node.output)], kind=kind)


def store(e: Emitter, node: Node) -> None:
    """``quantize`` and ``requantize`` from reals: saturate, round (the two commute), store as integers of the node's
    format.
    """
    format: QFormat = attr(node, "format")
    layout, mode = layout_of(format), attr(node, "rounding")
    source = node.inputs[0]
    e.problem_where(
        layout is None, node, f"LiteRT has no tensor for the format {format}",
        "use at most 16 signed or 15 unsigned bits at one scale"
    )
    e.problem_where(
        mode == "half_away", node, "LiteRT cannot round half away from zero exactly",
        "use the rounding half_even, half_up or floor"
    )
    assert layout is not None
    border = e.graph.format(source) is None
    e.problem_where(
        mode == "half_up" and border, node, "LiteRT cannot round reals half up exactly",
        "use the rounding half_even or floor"
    )
    rounds = border or min(e.format(source).exponents) < format.exponents[0]
    # the usual border: XNNPACK rounds it to even
    plain = border and mode == "half_even" and layout.dtype == "int8" and e.arithmetic not in ("half_up", "float32")
    if plain:
        e.inexact["builtin"].add(node.output)
    store_real(e, node, e.real(source), rounds=rounds, plain=plain)


def store_real(e: Emitter, node: Node, tensor: int, *, rounds: bool, plain: bool) -> None:
    """A float tensor as integers of a node's format: saturated, rounded unless it holds whole steps; ``plain`` leaves
    both to ``QUANTIZE``.

    Args:
        e: the emitter; takes the node's integer tensor.
        node: a ``quantize`` or ``requantize``.
        tensor: float32, in real units.
        rounds: whether it may lie between two steps.
        plain: whether a runtime's own ``QUANTIZE`` is enough.
    """
    format: QFormat = attr(node, "format")
    layout, mode, exponent, shape = (
        layout_of(format), attr(node, "rounding"), format.exponents[0], e.graph.shape(node.output)
    )
    low, high = products.requantize_limits(e, node)
    assert layout is not None
    # out there the builtin QUANTIZE overflows
    if not plain and rounds or (low, high) != layout.saturates or layout.dtype == "int16":
        for op, end in (("MAXIMUM", low), ("MINIMUM", high)):
            out = e.temporary(node.name, shape)
            e.op(op, [tensor, e.scalar(node.name, math.ldexp(end, exponent))], [out], version=1, kind="MaximumMinimum")
            tensor = out
    if rounds and not plain:
        for op, kind, constant in (
            ("MUL", "Mul", math.ldexp(1.0, -exponent)), *ROUNDINGS[mode], ("MUL", "Mul", math.ldexp(1.0, exponent))
        ):
            out = e.temporary(node.name, shape)
            e.op(op, [tensor] if kind is None else [tensor, e.scalar(node.name, constant)], [out], kind=kind)
            tensor = out
    e.op("QUANTIZE", [tensor], [e.declare(node.output)], version=1)


def relu(e: Emitter, node: Node) -> None:
    """A ReLU on its own, on the carrier there is."""
    (x,), high = node.inputs, attr(node, "max_code")
    if x in e.integers:
        layout = e.layout(x)
        assert layout is not None
        top = layout.saturates[1] if high is None else int(high)
        if layout.saturates[0] >= 0 and top >= layout.saturates[1]:
            e.integers[node.output] = e.integers[x]
            return
        e.clamp(e.integers[x], node.output, 0, top, e.declare(node.output))
        return
    tensor = e.real(x)
    if high is None:
        e.op("RELU", [tensor], [e.declare_real(node.output)])
    else:
        limit = e.writer.constant(
            e.writer.unique(f"{node.name}/constant"), np.asarray(int(high) * e.format(x).scale, np.float32)
        )
        cut = e.temporary(node.name, e.graph.shape(x))
        e.op("RELU", [tensor], [cut])
        e.op("MINIMUM", [cut, limit], [e.declare_real(node.output)], kind="MaximumMinimum")
    e.bound[node.output] = e.largest(x)


def select(e: Emitter, node: Node) -> None:
    """The larger or the smaller of two: on integers where both are stored so."""
    if all(v in e.integers for v in node.inputs) and len({e.layout(v) for v in node.inputs}) == 1:
        layout = e.layout(node.output)
        assert layout is not None
        tensors, out = [e.integers[v] for v in node.inputs], e.declare(node.output)
        e.op(node.op.upper(), tensors, [out], version=3 if layout.dtype == "int16" else 2, kind="MaximumMinimum")
        return
    tensors = [e.real(v) for v in node.inputs]
    e.op(node.op.upper(), tensors, [e.declare_real(node.output)], kind="MaximumMinimum")
    e.bound[node.output] = max(e.largest(v) for v in node.inputs)


def dequantize(e: Emitter, node: Node) -> None:
    """Codes to reals: an operator from integers, nothing from values that are real already."""
    (x,) = node.inputs
    if x in e.integers:
        layout = e.layout(x)
        assert layout is not None
        e.op("DEQUANTIZE", [e.integers[x]], [e.declare_real(node.output)], version=2 if layout.dtype == "int8" else 3)
    else:
        e.reals[node.output] = e.real(x)


def softmax(e: Emitter, node: Node) -> None:
    """The float softmax at the border, over the last axis."""
    rank = len(e.graph.shape(node.output))
    e.problem_where(
        attr(node, "axis") not in (-1, rank - 1), node,
        f"LiteRT's softmax is over the last axis, this one over {attr(node, 'axis')}", "permute the axes in front of it"
    )
    e.op("SOFTMAX", [e.real(node.inputs[0])], [e.declare_real(node.output)], {"beta": 1.0}, kind="Softmax")
