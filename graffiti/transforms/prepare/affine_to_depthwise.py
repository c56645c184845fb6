"""Affine maps per channel that no compute layer absorbs are compute layers themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from graffiti.graph import affine, border
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import attr
from graffiti.graph.passes import Note, Pass, PassResult
from graffiti.transforms.prepare.clusters import foldable


class AffineToDepthwise(Pass):
    """Batch norms without a layer to fold into, and ``rescaling``, become 1x1 depthwise convolutions: nothing stays in
    float.

    1. A batch norm that cannot fold: ``<bn>/product``, a depthwise_conv by ones, in front of it; ``fold_batch_norm``,
       which comes next, folds it there.
    2. ``rescaling``: depthwise_conv by the scale, ``<r>/product``, and the bias_add ``<r>``; without an offset ``<r>``
       alone.
    3. One or two spatial axes: a window of 1 along each.
    4. No spatial axes, or three and more: reshaped to ``(positions, 1, channels)`` and back; the bias_add is
       ``<name>/affine`` and the last reshape has the name.
    5. A batch norm that folds, or is in a layer of its own already: left alone.
    6. Batch norms that are calls of one layer: one constant of ones for all.
    7. Batch norms that share parameters otherwise (one also folds, or has another epsilon): each has its own copy from
       then on.
    8. Unknown channels, a reshape of unknown lengths, parameters that are no constants, numbers that differ along other
       axes than the last: left alone, with a note.
    9. ``rescaling`` at the border (``graph/border.py``): left alone, it is computed on real numbers in front of the
       first quantizer.
    """

    stage = "float"

    def requires(self, graph: Graph) -> Iterable[str]:
        for node in graph.nodes:
            front = graph.producer(node.inputs[0]) if node.op == "batch_norm" else None
            if front is not None and front.op == "separable_conv":
                yield (
                    f"batch norm {node.name!r} can fold into separable_conv {front.name!r} once that is split; "
                    "split it first"
                )

    def run(self, graph: Graph) -> PassResult:
        graph, notes = graph.copy(), []
        folding = {id(call.batch_norm) for calls in foldable(graph) for call in calls}
        found: dict[tuple, list[Node]] = {}  # the calls of one layer together
        at_border = {id(node) for node in border.nodes(graph)}
        for node in graph.nodes:
            if node.op in ("batch_norm", "rescaling") and id(node) not in folding | at_border:
                why = reason_against(graph, node)
                if why:
                    notes.append(Note(node.name, why))
                else:
                    found.setdefault(_layer(graph, node), []).append(node)
        for calls in found.values():
            names = [node.name for node in calls]
            for node in calls:
                self._flatten(graph, node)
            if calls[0].op == "batch_norm":
                self._batch_norms(graph, calls, names)
            else:
                self._rescaling(graph, calls[0], names[0])
        return PassResult(graph, bool(found), tuple(notes))

    @staticmethod
    def _flatten(graph: Graph, node: Node) -> None:
        """Put reshapes around a node whose tensor has no or too many spatial axes."""
        shape, name = graph.shape(node.output), node.name
        if len(shape) in (3, 4):
            return
        graph.rename(name, graph.unique(f"{name}/affine"))
        flat = (math.prod(size or 0 for size in shape[1:-1]), 1, shape[-1])  # all known: see reason_against
        expand = graph.insert("reshape", node.inputs[:1], f"{name}/expand", {"shape": flat}, before=node)
        node.inputs = (expand.output, *node.inputs[1:])
        graph.types[node.output] = graph.types[expand.output]
        back = graph.insert("reshape", (node.output,), name, {"shape": shape[1:]}, after=node)
        graph.replace_uses(node.output, back.output, except_in=(back,))

    @staticmethod
    def _batch_norms(graph: Graph, calls: list[Node], names: list[str]) -> None:
        base, parameters = names[0], list(calls[0].inputs[1:])
        members = {id(node) for node in calls}
        for index, (value, role) in enumerate(zip(parameters, ("gamma", "beta", "mean", "variance"))):
            if any(id(reader) not in members for reader in graph.consumers(value)):
                parameters[index] = graph.add_constant(f"{base}/{role}", graph.constants[value])
                if value in graph.training:
                    graph.training[parameters[index]] = graph.training[value]
        shape = _kernel_shape(graph, calls[0].inputs[0])
        kernel = graph.add_constant(f"{base}/kernel", np.ones(shape, np.float32))
        if graph.training.get(parameters[0], {}).get("trainable", True) is False:
            graph.training[kernel] = {"trainable": False}
        for norm, name in zip(calls, names):
            product = graph.insert(
                "depthwise_conv", (norm.inputs[0], kernel), f"{name}/product", _window(shape), before=norm
            )
            norm.inputs = (product.output, *parameters)

    @staticmethod
    def _rescaling(graph: Graph, node: Node, name: str) -> None:
        (x,), fixed = node.inputs, {"fixed": True}
        shape = _kernel_shape(graph, x)
        scale, offset = (_per_channel(value, shape[-2]) for value in affine.numbers(graph, node))
        kernel = graph.add_constant(f"{name}/kernel", scale.reshape(shape))
        if not offset.any():
            node.op, node.inputs, node.attrs = "depthwise_conv", (x, kernel), {**_window(shape), **fixed}
            return
        bias = graph.add_constant(f"{name}/bias", offset)
        product = graph.insert(
            "depthwise_conv", (x, kernel), f"{name}/product", {**_window(shape), **fixed}, before=node
        )
        node.op, node.inputs, node.attrs = "bias_add", (product.output, bias), dict(fixed)


def _layer(graph: Graph, node: Node) -> tuple:
    """What the calls of one batch norm have in common; every rescaling is its own."""
    if node.op == "rescaling":
        return (node.name,)
    shape = graph.shape(node.output)
    return (*node.inputs[1:], attr(node, "epsilon"), attr(node, "momentum"), len(shape) if len(shape) in (3, 4) else 0)


def _kernel_shape(graph: Graph, x: str) -> tuple[int, ...]:
    shape = graph.shape(x)
    return (*(1,) * (len(shape) - 2), shape[-1] or 0, 1)


def _window(kernel_shape: tuple[int, ...]) -> dict[str, object]:
    ones = (1,) * (len(kernel_shape) - 2)
    return {"strides": ones, "padding": "valid", "dilation": ones}


def _per_channel(value, channels: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float32).reshape(-1), (channels,)).copy()


def reason_against(graph: Graph, node: Node) -> str | None:
    """Why an affine map cannot become a product; ``None`` where it can."""
    shape = graph.shape(node.output)
    if len(shape) < 2 or shape[-1] is None:
        return f"{node.op} of a tensor of shape {shape} has no fixed-point form: the number of channels must be known"
    if len(shape) > 4 and None in shape[1:]:
        return (
            f"{node.op} over the {len(shape) - 2} unknown spatial lengths of {shape} has no fixed-point form; give "
            "the model a fixed input size"
        )
    if node.op == "batch_norm" and not all(graph.is_constant(value) for value in node.inputs[1:]):
        return "a batch norm whose parameters are computed has no fixed-point form"
    if node.op == "rescaling":
        for key, value in zip(affine.KEYS, affine.numbers(graph, node)):
            if not affine.is_along_channels(value, shape[-1]):
                return (
                    f"inside a network the {key} of a rescaling is one number or one per channel ({shape[-1]}), "
                    f"this one has the shape {value.shape}"
                )
    return None
