"""The values that every tensor of a float or fakequant graph can take: whether it can be negative decides its sign
bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from graffiti.graph.functions import EVERYTHING, Interval
from graffiti.graph.interval_rules import Rule, Site
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, attributes

_DTYPES: dict[str, Interval] = {
    "bool": (0.0, 1.0), **{f"uint{bits}": (0.0, float(2**bits - 1)) for bits in (8, 16, 32, 64)}
}


def of_dtype(dtype: str) -> Interval:
    """What an input of a dtype can be."""
    return _DTYPES.get(dtype, EVERYTHING)


def intervals(
    graph: Graph, known: Mapping[str, Interval] | None = None, *, rule: Callable[[Node], Rule | None] | None = None,
) -> dict[str, Interval]:
    """The interval of every value, whatever the trained weights become.

    Args:
        graph: of stage ``float`` or ``fakequant``.
        known: of inputs or other values, beside what follows from the graph; both hold. Of a constant: in place of its
            numbers.
        rule: node → a rule that holds in place of its op's; ``None`` where that one does.

    Returns:
        Value → lowest and highest, perhaps infinite; constants included.
    """
    found: dict[str, Interval] = {}
    known = known or {}

    def put(value: str, interval: Interval) -> None:
        low, high = known.get(value, EVERYTHING)
        found[value] = (max(low, interval[0]), min(high, interval[1]))

    dtypes = dict(zip(graph.inputs, graph.interface.get("input_dtypes", ())))
    for name in graph.inputs:
        put(name, of_dtype(dtypes.get(name, "")))
    for name, array in graph.constants.items():
        found[name] = known.get(name) or ((float(np.min(array)), float(np.max(array))) if array.size else EVERYTHING)
    for node in graph.nodes:
        of_node = (None if rule is None else rule(node)) or OPS[node.op].interval_rule
        interval = of_node(Site(graph, node, attributes(node), [found[value] for value in node.inputs]))
        for out in node.outputs:
            put(out, EVERYTHING if any(math.isnan(end) for end in interval) else interval)
    return found
