"""Two affine maps in a row are one."""

from __future__ import annotations

import numpy as np

from graffiti.graph.ir import Graph
from graffiti.graph.match import chain, splice_out
from graffiti.graph.ops import attr
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.prepare.remove_identity import does_nothing


class MergeRescaling(Pass):
    """``(x*s + o)*t + p → x*(s*t) + (o*t + p)``, so that one rounding stands where two would.

    1. ``rescaling → rescaling`` with numbers, one per channel, or mixed: the second takes both.
    2. Any number of them in a row.
    3. What comes out is x itself (``x/256*256``): nothing stays.
    4. The value in between has another reader or is an output: left alone.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified = graph.copy(), False
        for node in list(graph.nodes):
            found = chain(graph, node.inputs[0], "rescaling") if node.op == "rescaling" else None
            if found is None:
                continue
            (first,) = found
            (s, o), (t, p) = ([np.asarray(attr(n, key), np.float64) for key in ("scale", "offset")] for n in (first, node))
            node.attrs = {"scale": _plain(s * t), "offset": _plain(o * t + p)}
            node.inputs = first.inputs
            graph.remove(first)
            if does_nothing(graph, node):
                splice_out(graph, node, node.inputs[0])
            modified = True
        return PassResult(graph, modified)


def _plain(value: np.ndarray) -> float | tuple[float, ...]:
    return float(value) if value.ndim == 0 else tuple(value.tolist())
