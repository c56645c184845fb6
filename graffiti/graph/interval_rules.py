"""What values an op can take, given those of its inputs: the column ``interval`` of ``ops.OPS``.

A rule is ``(graph, node, attributes, inputs) -> (low, high)``, over all elements of the output; ends may be infinite. They are
intervals of the real network: rounding may carry a value past an end by its half step, never past zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graffiti.graph.functions import EVERYTHING, FUNCTIONS, Interval
from graffiti.graph.ir import Graph, Node
from graffiti.graph.kernels import Kernel

Intervals = Sequence[Interval]


def anything(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Nothing is known: trained numbers, islands."""
    return EVERYTHING


def same(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Every output is one of the inputs, or a mean of them."""
    return min(low for low, _ in inputs), max(high for _, high in inputs)


def with_zero(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """As ``same``, or zero."""
    low, high = same(graph, node, attrs, inputs)
    return min(low, 0.0), max(high, 0.0)


def add(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """x + y."""
    (a, b), (c, d) = inputs
    return a + c, b + d


def corners(function: Callable, graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Of a function of two operands that is monotone in each: its ends are at the ends of the operands.

    Args:
        function: of numpy, of the operands.
        graph, node, attrs, inputs: as of every rule.
    """
    with np.errstate(invalid="ignore"):
        ends = [function(a, b) for a in inputs[0] for b in inputs[1]]
    return EVERYTHING if any(np.isnan(ends)) else (min(ends), max(ends))


def multiply(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """x * y; a square where both are one value. A trained factor may become anything."""
    if attrs["trained"]:
        return EVERYTHING
    if node.inputs[0] == node.inputs[1]:
        return FUNCTIONS["square"].interval(*inputs[0])
    corners = [_times(a, b) for a in inputs[0] for b in inputs[1]]
    return min(corners), max(corners)


def prelu(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """x where that is not negative; behind a trained slope anything."""
    return inputs[0] if inputs[0][0] >= 0 else EVERYTHING


def relu(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Between 0 and the maximum."""
    return FUNCTIONS["relu"].interval(*inputs[0], {"max_value": attrs["max_value"]})


def leaky_relu(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Negative only where the input is."""
    return FUNCTIONS["leaky_relu"].interval(*inputs[0], {"negative_slope": attrs["alpha"]})


def activation(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """The function's own."""
    row = FUNCTIONS.get(attrs["function"])
    return EVERYTHING if row is None else row.interval(*inputs[0], attrs["parameters"])


def softmax(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """0 to 1."""
    return FUNCTIONS["softmax"].interval()


def product(form: Kernel, graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """Of a kernel that nobody trains: every output is a sum of at most so many terms. A trained kernel may become
    anything.

    Args:
        form: how the op's kernels lie.
        graph, node, attrs, inputs: as of every rule.
    """
    kernel = fixed_kernel(graph, node)
    if kernel is None:
        return EVERYTHING
    terms = form.terms(kernel.shape) or 1
    corners = [_times(end, float(weight)) for end in inputs[0] for weight in (kernel.min(), kernel.max())]
    low, high = min(corners), max(corners)
    if terms == 1:
        return low, high
    return min(terms * low, 0.0), max(terms * high, 0.0)  # padding leaves terms out


def bias_add(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """As ``add`` where the bias is fixed too."""
    return add(graph, node, attrs, inputs) if attrs["fixed"] else EVERYTHING


def rescaling(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """``x*scale + offset``, element by element."""
    scale, offset = (np.asarray(graph.constants[attrs[key]] if isinstance(attrs[key], str) else attrs[key], np.float64) for key in ("scale", "offset"))
    with np.errstate(invalid="ignore"):
        ends = [np.where(scale == 0, 0.0, end * scale) + offset for end in inputs[0]]
    return float(np.min(ends)), float(np.max(ends))


def average(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """A mean over a window or over axes, or the sum; zeros where the window reaches over the border."""
    low, high = inputs[0]
    if attrs.get("divide", True):
        return low, high
    sizes = attrs["pool_size"] if "pool_size" in attrs else [graph.shape(node.inputs[0])[axis] for axis in attrs["axes"]]
    count = math.inf if None in sizes else float(math.prod(sizes))
    return min(_times(low, count), 0.0), max(_times(high, count), 0.0)


def fake_quantize(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """The value, or nearer to zero where it saturates; never negative without a sign."""
    low, high = with_zero(graph, node, attrs, inputs)
    return low if attrs["signed"] else 0.0, high


def quantize_bias(graph: Graph, node: Node, attrs: dict[str, Any], inputs: Intervals) -> Interval:
    """The bias: 32 bits do not saturate."""
    return inputs[0]


def averages(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies by the reciprocals of an average pool."""
    operand = graph.producer(node.inputs[1]) if len(node.inputs) == 2 else None
    return operand is not None and operand.op == "fake_quantize" and operand.attrs.get("role") == "reciprocal"


def fixed_kernel(graph: Graph, node: Node) -> np.ndarray | None:
    """The constant that a product multiplies by, where it is none that is trained; a quantizer in front is looked through."""
    if not (node.attrs.get("fixed") or averages(graph, node)):
        return None
    value, producer = node.inputs[1], graph.producer(node.inputs[1])
    while producer is not None and producer.op == "fake_quantize":
        value, producer = producer.inputs[0], graph.producer(producer.inputs[0])
    return graph.constants.get(value)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b
