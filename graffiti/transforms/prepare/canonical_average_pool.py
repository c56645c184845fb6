"""Average pools that average nothing, and those that have no fixed-point form."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Note, Pass, PassResult
from graffiti.numerics.windows import window_pads


class CanonicalAveragePool(Pass):
    """1. A window of one pixel (with strides): nothing to average, a ``max_pool`` that only moves values.
    2. Any other average over one or two spatial axes: left alone, an integer graph has the op itself.
    3. SAME over the border of an image of unknown size, more than two spatial axes, an unknown number of channels: left
       alone, with a note.
    """

    stage = "float"

    def run(self, graph: Graph) -> PassResult:
        graph, modified, notes = graph.copy(), False, []
        for node in graph.nodes:
            if node.op != "average_pool":
                continue
            why = reason_against(graph, node)
            if why:
                notes.append(Note(node.name, why))
            elif all(n == 1 for n in attr(node, "pool_size")):
                node.op, node.attrs = "max_pool", {key: attr(node, key) for key in ("pool_size", "strides", "padding")}
                modified = True
        return PassResult(graph, modified, tuple(notes))


def over_the_border(graph: Graph, pool: Node) -> bool:
    """Whether windows of a pool reach beyond the image, so that they cover fewer elements there."""
    spatial = graph.shape(pool.inputs[0])[1:-1]
    return attr(pool, "padding") == "same" and any(
        size is not None and window > 1 and any(window_pads(size, window, stride, 1, "same"))
        for size, window, stride in zip(spatial, attr(pool, "pool_size"), attr(pool, "strides"))
    )


def reason_against(graph: Graph, pool: Node) -> str | None:
    """Why an ``average_pool`` has no fixed-point form; ``None`` where it has one."""
    shape, window = graph.shape(pool.inputs[0]), attr(pool, "pool_size")
    if len(shape) not in (3, 4):
        return f"an average pool has a fixed-point form over one or two spatial axes, this one is over {len(shape) - 2}"
    if all(n == 1 for n in window):
        return None
    if shape[-1] is None:
        return "an average pool needs a known number of channels"
    if attr(pool, "padding") == "same" and any(size is None and n > 1 for size, n in zip(shape[1:-1], window)):
        return (
            f"a 'same' average pool of an image of unknown size {shape} has unknown windows at the border; give the "
            "model a fixed input size"
        )
    return None
