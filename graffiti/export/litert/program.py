"""From an integer graph to a flatbuffer: one walk in order, chains first, single nodes where no chain fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from graffiti.export.base import Problem
from graffiti.export.litert import averages, chains, moves, products, reals
from graffiti.export.litert.emitter import Emitter, Unsupported
from graffiti.export.litert.layout import Layout, layout_of
from graffiti.export.ports import input_dtype, output_dtype
from graffiti.graph.ir import Graph, Node
from graffiti.graph.ops import OPS, PRODUCTS

CHAINS: dict[str, Callable[[Emitter, Node], list[Node] | None]] = {
    **dict.fromkeys(PRODUCTS, chains.try_product),
    **{name: chains.try_sum for name, row in OPS.items() if row.binary and row.sums},
    "requantize": chains.try_requantize,
    "average_pool": averages.try_average,
}
RULES: dict[str, Callable[[Emitter, Node], None]] = {
    **dict.fromkeys(PRODUCTS, products.real_product),
    **dict.fromkeys(reals.BINARY, reals.binary),
    "maximum": reals.select, "minimum": reals.select,
    "rescaling": reals.rescaling, "quantize": reals.store, "requantize": reals.store, "relu": reals.relu,
    "dequantize": reals.dequantize,
    "softmax": reals.softmax, "reshape": moves.reshape, "permute": moves.permute, "pad": moves.zeros_around,
    "crop": moves.crop,
    "slice": moves.slice_axes, "take": moves.take,
    "upsample": moves.upsample, "concat": moves.concat, "max_pool": moves.max_pool,
    "global_max_pool": moves.global_max_pool,
    "lookup": moves.lookup, "average_pool": averages.average,
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A file's bytes and what they hold.

    Attributes:
        data: the flatbuffer.
        tensors: value of the graph → number of its tensor, the integer one where there is one.
        layouts: value → layout of that tensor; ``None`` for float32.
        inputs, outputs: signature names in the order of the graph's.
        inexact: runtime (``xnnpack``, ``builtin``) → values whose own operator may round otherwise than the graph.
        operators: names of the operators, in order.
    """

    data: bytes
    tensors: dict[str, int]
    layouts: dict[str, Layout | None]
    inputs: list[str]
    outputs: list[str]
    inexact: dict[str, set[str]]
    operators: list[str]


def build(
    graph: Graph, *, arithmetic: str = "int8", every_tensor: bool = False
) -> tuple[Program | None, list[Problem]]:
    """The program of a graph, or the problems that stand against it.

    Args:
        graph: of stage ``integer``.
        arithmetic: one of ``ARITHMETICS``, see ``LiteRTExporter.write``.
        every_tensor: make every tensor with a counterpart in the graph an output, so that delegates keep them all.
    """
    if graph.stage != "integer":
        return (
            None,
            [
                Problem(
                    graph.name, "graph", f"it is a graph of stage {graph.stage!r}",
                    "lower it to integers first (graffiti.to_integer)"
                )
            ]
        )
    problems = [
        Problem(name, "tensor", f"its shape is {graph.shape(name)}", "build the model with sizes of at least one")
        for name in (*graph.inputs, *(out for node in graph.nodes for out in node.outputs)) if 0 in graph.shape(name)
    ]
    e = Emitter(graph, arithmetic)
    inputs = {}
    for name in graph.inputs:
        format = graph.format(name)
        if format is not None and layout_of(format) is None:
            problems.append(
                Problem(
                    name, "input", f"LiteRT has no tensor for the format {format}",
                    "use at most 16 signed or 15 unsigned bits"
                )
            )
            continue
        inputs[name] = _take_real(e, name) if format is None else e.declare(name)
    done: set[str] = set()
    unwritten = {problem.layer for problem in problems}
    for node in graph.nodes:
        if node.name in done:
            continue
        # its own problem, if any, shows once the first ones are gone ...
        if any(value in unwritten for value in node.inputs):
            unwritten.update(node.outputs)
            if node.op == "island" or node.op not in RULES:   # ... except that islands never go
                problems.append(_island(node))
            continue
        try:
            if node.op not in RULES:
                raise Unsupported(node, _island(node).reason, _island(node).fix)
            covered = CHAINS[node.op](e, node) if node.op in CHAINS and arithmetic != "float32" else None
            if covered is None:
                RULES[node.op](e, node)
            done.update(part.name for part in covered or ())
        except Unsupported as error:
            problems.append(error.problem)
            unwritten.update(node.outputs)
    if problems:
        return None, problems
    return _finish(e, inputs, every_tensor), []


def _take_real(e: Emitter, name: str) -> int:
    """A graph input in the model's own dtype, and its reals."""
    dtype = input_dtype(e.graph, name)
    if dtype == np.float32:
        return e.declare_real(name)
    tensor = e.writer.tensor(name, e.graph.shape(name), dtype.name)
    e.op("CAST", [tensor], [e.declare_real(name)], kind="Cast")
    return tensor


def _island(node: Node) -> Problem:
    if node.op == "island":
        return Problem(
            node.name, node.op, f"it is kept in float ({node.attrs.get('reason') or 'no integer form'})",
            "quantize it, replace it, or leave it out of the exported model"
        )
    return Problem(
        node.name, node.op, "the LiteRT export has no rule for this op", "add one to export/litert/program.py"
    )


def _finish(e: Emitter, inputs: dict[str, int], every_tensor: bool) -> Program:
    graph = e.graph
    tensors = {**e.reals, **e.integers}
    outputs: dict[str, int] = {}
    for index, (name, called) in enumerate(zip(graph.outputs, graph.output_names())):
        tensor = (
            tensors[name] if not graph.is_constant(name) else e.real(name) if graph.format(name) is not None
            else e.real_constant(name, graph.constants[name])
        )
        if graph.format(name) is None and (dtype := output_dtype(graph, index)) != np.float32:
            source, tensor = tensor, e.writer.tensor(called, graph.shape(name), dtype.name)
            e.op("CAST", [source], [tensor], kind="Cast")
        elif tensor in outputs.values() or tensor in inputs.values() or graph.is_constant(name):
            # a tensor leaves the network once
            like = e.layout(name) if name in e.integers else None
            tensor = e.reshape(tensor, graph.shape(name), name, like)
        outputs[called] = tensor
        if called not in graph.inputs:  # signatures name inputs and outputs apart, tensors have one name each
            e.writer.rename(tensor, called)
    shown = {
        name: tensor for name, tensor in tensors.items()
        if not graph.is_constant(name) and name not in graph.inputs and name not in e.rounded
    }
    extra = (
        {
            name: tensor for name, tensor in shown.items()
            if tensor not in outputs.values() and tensor not in inputs.values()
        }
        if every_tensor else {}
    )
    outputs_all = dict(outputs)
    for name, tensor in extra.items():
        if tensor not in outputs_all.values():
            outputs_all[f"tensor {name}"] = tensor
    data = e.writer.finish(inputs, outputs_all)
    layouts = {name: e.layout(name) if name in e.integers else None for name in shown}
    return Program(data, shown, layouts, list(inputs), list(outputs), e.inexact, e.writer.operators)
