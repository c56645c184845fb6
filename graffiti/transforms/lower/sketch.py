"""Stand-in thresholds, so that a network can be lowered, and held against a target, before anything is calibrated."""

from __future__ import annotations

import math

import numpy as np

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult

WEIGHT_ROLES = ("weight", "reciprocal", "alpha")
ACTIVATION = 8.0         # log2 of a stored value's threshold: large, so that no bias leaves its width
_SMALLEST = 2.0**-12     # of the largest channel's threshold, as in calibration


class SketchThresholds(Pass):
    """Quantizers without a threshold get one: weights their largest magnitude, everything else ``2**8``.

    The bit widths, signs, scales' granularity, ops and sizes of the lowered graph are then the real ones, and so are
    its weights' codes up to calibration; shifts and biases are not.
    """

    stage = "fakequant"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        groups: dict[str, tuple[float, ...]] = {}
        for node in graph.nodes:
            if node.op != "fake_quantize" or attr(node, "log2_threshold") is not None:
                continue
            group = attr(node, "group") or node.name
            if group not in groups:
                groups[group] = _thresholds(graph, node)
            node.attrs = {**node.attrs, "log2_threshold": groups[group]}
            modified = True
        return PassResult(graph, modified)


def _thresholds(graph: Graph, node: Node) -> tuple[float, ...]:
    axis, source = attr(node, "channel_axis"), node.inputs[0]
    shape = graph.shape(source)
    channels = 1 if axis is None else math.prod(n or 1 for n in shape[-2:]) if axis == "flat" else int(shape[axis] or 1)
    if attr(node, "role") not in WEIGHT_ROLES or not graph.is_constant(source):
        return (ACTIVATION,) * channels
    magnitudes = np.abs(np.asarray(graph.constants[source], np.float64))
    if axis is None:
        each = magnitudes.reshape(1, -1).max(1, initial=0)
    elif axis == "flat":
        each = magnitudes.reshape(-1, channels).max(0, initial=0)
    else:
        each = np.moveaxis(magnitudes, axis, 0).reshape(channels, -1).max(1, initial=0)
    largest = float(each.max(initial=0)) or 1.0
    return tuple(float(np.log2(max(value, _SMALLEST * largest))) for value in each)
