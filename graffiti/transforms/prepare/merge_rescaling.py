"""Two affine maps in a row are one."""

from __future__ import annotations

import numpy as np

from graffiti.graph import affine
from graffiti.graph.ir import Graph
from graffiti.graph.match import chain, splice_out
from graffiti.graph.passes import Pass, PassResult
from graffiti.transforms.prepare.remove_identity import does_nothing


class MergeRescaling(Pass):
    """``(x*s + o)*t + p → x*(s*t) + (o*t + p)``, so that one rounding stands where two would.

    1. ``rescaling → rescaling`` with numbers, one per channel, arrays over an example, or mixed: the second takes both.
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
            (s, o), (t, p) = (affine.numbers(graph, n, np.float64) for n in (first, node))
            node.attrs = affine.attributes_of(graph, node.name, s * t, o * t + p, graph.shape(node.output)[-1])
            node.inputs = first.inputs
            graph.remove(first)
            if does_nothing(graph, node):
                splice_out(graph, node, node.inputs[0])
            modified = True
        if modified:
            graph.prune()  # arrays over an example that were joined
        return PassResult(graph, modified)
