"""The exported program before it is text: border, steps, and where every tensor lies in the arena."""

from __future__ import annotations

import dataclasses

from graffiti.export.base import Problem
from graffiti.export.c.border import Border, InputPort, OutputPort, take_border_off
from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.fuse import Step, fuse
from graffiti.export.c.names import Names, model_identifier
from graffiti.export.c.types import is_storable
from graffiti.export.c.writer import Address
from graffiti.graph import memory
from graffiti.graph.ir import Graph


@dataclasses.dataclass(frozen=True)
class Block:
    """One piece of the arena: what lies there, from which step to which."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything the text is rendered from.

    Attributes:
        name: identifier of the model.
        graph: of codes.
        inputs, outputs: the ports with the identifiers of the function's arguments.
        steps: kernel calls in order.
        addresses: value → place, for all tensors.
        scratch: step index → offset of its scratch bytes in the arena.
        copies: values that an output port gets by a copy at the end: (port index, value).
        arena_bytes: size of the static buffer.
        lower_bound: bytes that live at once at the fullest step.
        blocks: the map of the arena.
    """

    name: str
    graph: Graph
    inputs: list[tuple[str, InputPort]]
    outputs: list[tuple[str, OutputPort]]
    steps: list[Step]
    addresses: dict[str, Address]
    scratch: dict[int, int]
    copies: list[tuple[int, str]]
    arena_bytes: int
    lower_bound: int
    blocks: list[Block]


def find_problems(graph: Graph, border: Border) -> list[Problem]:
    """Everything that keeps a graph from being written as C."""
    if graph.stage != "integer":
        return [Problem(graph.name, "graph", f"it is a graph of stage {graph.stage!r}", "lower it to integers first (graffiti.to_integer)")]
    problems = list(border.problems)
    inner = border.graph
    for name in (*inner.inputs, *(out for node in inner.nodes for out in node.outputs)):
        shape, format = inner.shape(name), inner.format(name)
        if any(not n for n in shape[1:]):
            problems.append(Problem(name, "tensor", f"its shape is {shape}", "build the model with fixed, positive sizes"))
        if format is not None and not is_storable(format):
            problems.append(Problem(name, "tensor", f"its format is {format}", "use at most 31 unsigned bits"))
    if not problems:
        for node in inner.nodes:
            emitter = EMITTERS.get(node.op)
            if emitter is None:
                problems.append(Problem(node.name, node.op, "the C export has no emitter for this op", "add one to export/c/emit"))
            else:
                problems += emitter.problems(inner, node)
    return problems


def build(graph: Graph, border: Border, *, fused: bool = True, alignment: int = 16) -> Program:
    """Arrange a graph without problems: fuse it, lay its tensors out."""
    inner = border.graph
    steps = fuse(inner, fused)
    names = Names()
    inputs = [(names.unique("input" if len(border.inputs) == 1 else f"input_{_short(p.source)}"), p) for p in border.inputs]
    outputs = [(names.unique("output" if len(border.outputs) == 1 else f"output_{_short(p.source)}"), p) for p in border.outputs]
    root = memory.roots_of(inner)
    inner_root = {name: root[name] for name in root}
    made = {inner_root[step.output] for step in steps}
    port_of: dict[str, str] = {port.value: identifier for identifier, port in inputs}
    copies = []
    for index, (identifier, port) in enumerate(outputs):
        base = inner_root[port.value]
        if base in made and base not in port_of:
            port_of[base] = identifier
        else:
            copies.append((index, port.value))
    kept = {inner_root[value] for _, value in copies}

    # Buffers of the arena: roots that no port holds, and scratch. Elementwise outputs move into an input that ends there.
    program_steps = [
        ([inner_root[v] for v in step.inputs if not inner.is_constant(v)], [inner_root[step.output]]) for step in steps
    ]
    lives = memory.lifetimes(program_steps, kept, [port.value for _, port in inputs])
    alias: dict[str, str] = {}

    def home(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    for index, step in enumerate(steps):
        target = inner_root[step.output]
        if step.output != target or target in port_of:
            continue
        for value in EMITTERS[step.op].reusable(inner, step):
            source = home(inner_root[value])
            if source not in port_of and lives[source][1] == index and not inner.is_constant(source):
                alias[target] = source
                lives[source] = (lives[source][0], lives.pop(target)[1])
                break
    buffers: dict[str, tuple[int, tuple[int, int]]] = {
        name: (memory.bytes_of(inner, name), life) for name, life in lives.items() if name not in port_of and name in made
    }
    tensors = list(buffers)
    scratches = [(index, EMITTERS[step.op].scratch(inner, step)) for index, step in enumerate(steps)]
    scratches = [(index, size) for index, size in scratches if size]
    sizes = [buffers[name][0] for name in tensors] + [size for _, size in scratches]
    spans = [buffers[name][1] for name in tensors] + [(index, index) for index, _ in scratches]
    plan = memory.plan(sizes, spans, alignment)
    offsets = dict(zip(tensors, plan.offsets))
    scratch = {index: offset for (index, _), offset in zip(scratches, plan.offsets[len(tensors) :])}

    addresses = {}
    for name, base in inner_root.items():
        if not inner.is_constant(base) and (base in port_of or home(base) in offsets):
            addresses[name] = Address(port_of[base]) if base in port_of else Address(None, offsets[home(base)])
    labels = [*tensors, *(f"scratch of {steps[index].output}" for index, _ in scratches)]
    members: dict[str, list[str]] = {}
    for name in alias:
        members.setdefault(home(name), []).append(name)
    blocks = [
        Block(", ".join([label, *members.get(label, [])]), offset, size, *span) for label, offset, size, span in zip(labels, plan.offsets, sizes, spans)
    ]
    blocks.sort(key=lambda block: (block.first, block.offset))
    return Program(
        model_identifier(graph.name), inner, inputs, outputs, steps, addresses, scratch, copies, plan.total, plan.lower_bound, blocks
    )


def _short(name: str) -> str:
    return name.removesuffix("/codes")


def prepare(graph: Graph) -> tuple[Border, list[Problem]]:
    """The border of a graph, and what stands against exporting it."""
    if graph.stage != "integer":
        return Border(graph, [], [], []), find_problems(graph, Border(graph, [], [], []))
    border = take_border_off(graph)
    return border, find_problems(graph, border)
