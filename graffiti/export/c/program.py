"""The exported program before it is text: border, steps, and where every tensor lies in the arena."""

from __future__ import annotations

import dataclasses
import math

from graffiti.export.base import Problem
from graffiti.export.c.arena import Arena, Block, lay_out, map_text
from graffiti.export.c.border import Border, InputPort, OutputPort, take_border_off
from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.fuse import Step, fuse
from graffiti.export.c.names import Names, model_identifier
from graffiti.export.c.types import is_storable
from graffiti.export.c.writer import Address
from graffiti.graph import memory
from graffiti.graph.ir import Graph


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything the text is rendered from.

    Attributes:
        name: identifier of the model.
        graph: of codes.
        inputs, outputs: the ports with the identifiers of the function's arguments.
        model_inputs: names of all of the model's inputs in order, those that nothing reads included.
        passed: see ``Border.passed``.
        steps: kernel calls in order.
        addresses: value → place, for all tensors.
        arena: what lies where in the static buffer.
        copies: values that an output port gets by a copy at the end: (port index, value).
    """

    name: str
    graph: Graph
    inputs: list[tuple[str, InputPort]]
    outputs: list[tuple[str, OutputPort]]
    model_inputs: list[str]
    passed: dict[str, str]
    steps: list[Step]
    addresses: dict[str, Address]
    arena: Arena
    copies: list[tuple[int, str]]

    @property
    def arena_bytes(self) -> int:
        """Size of the static buffer."""
        return self.arena.bytes

    @property
    def lower_bound(self) -> int:
        """The best possible arena for this order of steps: bytes that live at once at the fullest step."""
        return self.arena.lower_bound

    @property
    def blocks(self) -> list[Block]:
        """The map of the arena."""
        return self.arena.blocks

    def arena_map(self) -> str:
        """The map as text, the bound beside it (``arena_map.txt``)."""
        return map_text(self.name, self.arena, self.steps)


def find_problems(graph: Graph, border: Border) -> list[Problem]:
    """Everything that keeps a graph from being written as C."""
    if graph.stage != "integer":
        return [
            Problem(
                graph.name, "graph", f"it is a graph of stage {graph.stage!r}",
                "lower it to integers first (graffiti.to_integer)"
            )
        ]
    problems = list(border.problems)
    inner = border.graph
    odd: set[str] = set()  # tensors that have no C form: what reads them is not judged
    for name in (*inner.inputs, *(out for node in inner.nodes for out in node.outputs)):
        found = _tensor_problems(inner, name)
        problems += found
        odd.update([name] if found else ())
    for node in inner.nodes:
        emitter = EMITTERS.get(node.op)
        if emitter is None:
            problems.append(
                Problem(node.name, node.op, "the C export has no emitter for this op", "add one to export/c/emit")
            )
        elif odd.isdisjoint((*node.inputs, *node.outputs)):
            problems += emitter.problems(inner, node)
    return problems


def _tensor_problems(graph: Graph, name: str) -> list[Problem]:
    shape, format = graph.shape(name), graph.format(name)
    if any(not n for n in shape[1:]):
        return [Problem(name, "tensor", f"its shape is {shape}", "build the model with fixed, positive sizes")]
    if format is not None and not is_storable(format):
        return [Problem(name, "tensor", f"its format is {format}", "use at most 31 unsigned bits")]
    count = math.prod(n for n in shape[1:] if n)
    if count > 2**31 - 1:
        return [
            Problem(name, "tensor", f"it has {count} elements, the C kernels count up to 2147483647", "make it smaller")
        ]
    return []


def build(graph: Graph, border: Border, *, fused: bool = True) -> Program:
    """Arrange a graph without problems: fuse it, lay its tensors out.

    Args:
        graph: of stage ``integer``; names the program and its inputs.
        border: what crosses the edge of the program: ports, and the graph between them.
        fused: whether chains become one step; if not, every node is a step and every tensor can be seen.
    """
    inner = border.graph
    steps = fuse(inner, fused)
    names = Names()
    inputs = [
        (names.unique("input" if len(border.inputs) == 1 else f"input_{_short(p.source)}"), p) for p in border.inputs
    ]
    outputs = [
        (names.unique("output" if len(border.outputs) == 1 else f"output_{_short(p.value if p.part else p.name)}"), p)
        for p in border.outputs
    ]
    roots = memory.roots_of(inner)
    made = {roots[step.output] for step in steps}
    port_of: dict[str, str] = {port.value: identifier for identifier, port in inputs}
    copies = []
    for index, (identifier, port) in enumerate(outputs):
        base = roots[port.value]
        if base in made and base not in port_of:
            port_of[base] = identifier
        else:
            copies.append((index, port.value))
    kept = {roots[value] for _, value in copies}

    arena = lay_out(inner, steps, roots, port_of, kept, [port.value for _, port in inputs])
    addresses = {}
    for name, base in roots.items():
        if base in port_of:
            addresses[name] = Address(port_of[base])
        elif base in arena.offsets:
            addresses[name] = Address(None, arena.offsets[base])
    return Program(
        model_identifier(graph.name), inner, inputs, outputs, list(graph.inputs), border.passed, steps, addresses,
        arena, copies
    )


def _short(name: str) -> str:
    return name.removesuffix("/codes")


def prepare(graph: Graph) -> tuple[Border, list[Problem]]:
    """The border of a graph, and what stands against exporting it."""
    if graph.stage != "integer":
        border = Border(graph, [], [], {}, [])
        return border, find_problems(graph, border)
    border = take_border_off(graph)
    return border, find_problems(graph, border)
