"""What values an op can take, given those of its inputs: the column ``interval`` of ``ops.OPS``.

A rule (``Rule``) takes a ``Site`` and gives ``(low, high)`` over all elements of the output; ends may be infinite.
They are intervals of the real network: rounding may carry a value past an end by its half step, never past zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graffiti.graph.functions import EVERYTHING, FUNCTIONS, Interval
from graffiti.graph.ir import Graph, Node
from graffiti.graph.kernels import Kernel


@dataclasses.dataclass(frozen=True)
class Site:
    """What a rule may look at.

    Attributes:
        graph: of any stage.
        node: whose output is asked for.
        attrs: the node's attributes, defaults filled in.
        inputs: the interval of each of its inputs, in order.
    """

    graph: Graph
    node: Node
    attrs: dict[str, Any]
    inputs: Sequence[Interval]


Rule = Callable[[Site], Interval]


def anything(site: Site) -> Interval:
    """Nothing is known: trained numbers, islands."""
    return EVERYTHING


def same(site: Site) -> Interval:
    """Every output is one of the inputs, or a mean of them."""
    return min(low for low, _ in site.inputs), max(high for _, high in site.inputs)


def with_zero(site: Site) -> Interval:
    """As ``same``, or zero."""
    low, high = same(site)
    return min(low, 0.0), max(high, 0.0)


def add(site: Site) -> Interval:
    """x + y."""
    (a, b), (c, d) = site.inputs
    return a + c, b + d


def corners(function: Callable, site: Site) -> Interval:
    """Of a function of two operands that is monotone in each: its ends are at the ends of the operands.

    Args:
        function: of numpy, of the operands.
        site: as of every rule.
    """
    with np.errstate(invalid="ignore"):
        ends = [function(a, b) for a in site.inputs[0] for b in site.inputs[1]]
    return EVERYTHING if any(np.isnan(ends)) else (min(ends), max(ends))


def multiply(site: Site) -> Interval:
    """x * y; a square where both are one value. A trained factor may become anything."""
    if site.attrs["trained"]:
        return EVERYTHING
    if site.node.inputs[0] == site.node.inputs[1]:
        return FUNCTIONS["square"].interval(*site.inputs[0])
    corners = [_times(a, b) for a in site.inputs[0] for b in site.inputs[1]]
    return min(corners), max(corners)


def prelu(site: Site) -> Interval:
    """x where that is not negative; behind a trained slope anything."""
    return site.inputs[0] if site.inputs[0][0] >= 0 else EVERYTHING


def relu(site: Site) -> Interval:
    """Between 0 and the maximum."""
    return FUNCTIONS["relu"].interval(*site.inputs[0], {"max_value": site.attrs["max_value"]})


def leaky_relu(site: Site) -> Interval:
    """Negative only where the input is."""
    return FUNCTIONS["leaky_relu"].interval(*site.inputs[0], {"negative_slope": site.attrs["alpha"]})


def activation(site: Site) -> Interval:
    """The function's own."""
    row = FUNCTIONS.get(site.attrs["function"])
    return EVERYTHING if row is None else row.interval(*site.inputs[0], site.attrs["parameters"])


def softmax(site: Site) -> Interval:
    """0 to 1."""
    return FUNCTIONS["softmax"].interval()


def product(form: Kernel, site: Site) -> Interval:
    """Of a kernel that nobody trains: every output is a sum of at most so many terms. A trained kernel may become
    anything.

    Args:
        form: how the op's kernels lie.
        site: as of every rule.
    """
    kernel = fixed_kernel(site.graph, site.node)
    if kernel is None:
        return EVERYTHING
    terms = form.terms(kernel.shape) or 1
    corners = [_times(end, float(weight)) for end in site.inputs[0] for weight in (kernel.min(), kernel.max())]
    low, high = min(corners), max(corners)
    if terms == 1:
        return low, high
    return min(terms * low, 0.0), max(terms * high, 0.0)  # padding leaves terms out


def bias_add(site: Site) -> Interval:
    """As ``add`` where the bias is fixed too."""
    return add(site) if site.attrs["fixed"] else EVERYTHING


def rescaling(site: Site) -> Interval:
    """``x*scale + offset``, element by element."""
    constants, given = site.graph.constants, (site.attrs["scale"], site.attrs["offset"])
    scale, offset = (np.asarray(constants[value] if isinstance(value, str) else value, np.float64) for value in given)
    with np.errstate(invalid="ignore"):
        ends = [np.where(scale == 0, 0.0, end * scale) + offset for end in site.inputs[0]]
    return float(np.min(ends)), float(np.max(ends))


def average(site: Site) -> Interval:
    """A mean over a window or over axes, or the sum; zeros where the window reaches over the border."""
    (low, high), attrs = site.inputs[0], site.attrs
    if attrs.get("divide", True):
        return low, high
    shape = site.graph.shape(site.node.inputs[0])
    sizes = attrs["pool_size"] if "pool_size" in attrs else [shape[axis] for axis in attrs["axes"]]
    count = math.inf if None in sizes else float(math.prod(sizes))
    return min(_times(low, count), 0.0), max(_times(high, count), 0.0)


def fake_quantize(site: Site) -> Interval:
    """The value, or nearer to zero where it saturates; never negative without a sign."""
    low, high = with_zero(site)
    return low if site.attrs["signed"] else 0.0, high


def quantize_bias(site: Site) -> Interval:
    """The bias: 32 bits do not saturate."""
    return site.inputs[0]


def averages(graph: Graph, node: Node) -> bool:
    """Whether a node multiplies by the reciprocals of an average pool."""
    operand = graph.producer(node.inputs[1]) if len(node.inputs) == 2 else None
    return operand is not None and operand.op == "fake_quantize" and operand.attrs.get("role") == "reciprocal"


def fixed_kernel(graph: Graph, node: Node) -> np.ndarray | None:
    """The constant that a product multiplies by, where it is none that is trained; a quantizer in front is looked
    through.
    """
    if not (node.attrs.get("fixed") or averages(graph, node)):
        return None
    value, producer = node.inputs[1], graph.producer(node.inputs[1])
    while producer is not None and producer.op == "fake_quantize":
        value, producer = producer.inputs[0], graph.producer(producer.inputs[0])
    return graph.constants.get(value)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b
