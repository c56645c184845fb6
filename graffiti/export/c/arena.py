"""The arena: one static buffer in which every tensor has a place for as long as it lives.

The order of the steps is given. At one step there live the tensors that were made and are still needed, the output, and
the scratch of the kernel; an output that takes the memory of an input which ends there counts once. The most of it at
any step is the best possible for that order, whatever the layout: ``lower_bound``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from graffiti.export.c.emit import EMITTERS
from graffiti.export.c.fuse import Step
from graffiti.export.c.names import comment
from graffiti.export.c.types import type_of
from graffiti.export.c.writer import format_of
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
class Load:
    """What lives at one step: bytes of tensors (an output in the memory of an input counts once) and of scratch."""

    tensors: int
    scratch: int

    @property
    def bytes(self) -> int:
        """Both."""
        return self.tensors + self.scratch


@dataclasses.dataclass(frozen=True)
class Arena:
    """A layout.

    Attributes:
        offsets: tensor → first byte.
        scratch: step index → first byte of its scratch.
        bytes: size of the buffer.
        loads: what lives at each step.
        blocks: the pieces, by step and offset.
    """

    offsets: dict[str, int]
    scratch: dict[int, int]
    bytes: int
    loads: list[Load]
    blocks: list[Block]

    @property
    def lower_bound(self) -> int:
        """Bytes that live at the fullest step: no layout for this order of steps is smaller."""
        return max((load.bytes for load in self.loads), default=0)


def lay_out(
    graph: Graph, steps: Sequence[Step], roots: Mapping[str, str], ports: Collection[str], kept: Collection[str],
    inputs: Collection[str],
) -> Arena:
    """Place every tensor that a step makes and no port of the caller holds.

    Args:
        graph: of codes.
        steps: in order.
        roots: value → the value whose bytes it is (``memory.roots_of``).
        ports: roots that lie in memory of the caller.
        kept: roots that are needed after the last step.
        inputs: roots that are full before the first.

    An output may lie where an input lies that ends at its step, if the kernel works in place. Offsets at multiples of
    16, of 4 and of the element are tried; the first arena that reaches the bound is taken, else the smallest.
    """
    used = [([roots[v] for v in step.inputs if not graph.is_constant(v)], [roots[step.output]]) for step in steps]
    lives = memory.lifetimes(used, kept, inputs)
    made = {roots[step.output] for step in steps}
    sizes = {name: memory.bytes_of(graph, name) for name in lives if name in made and name not in ports}
    scratch = [EMITTERS[step.op].scratch(graph, step) for step in steps]
    # for each step its output, and the inputs that end there whose memory it may take
    candidates: list[tuple[str, list[str]]] = []
    for index, step in enumerate(steps):
        target = roots[step.output]
        reusable = EMITTERS[step.op].reusable(graph, step) if step.output == target and target in sizes else ()
        candidates.append((target, [roots[v] for v in reusable if roots[v] in sizes and lives[roots[v]][1] == index]))
    loads = _loads(sizes, lives, scratch, candidates)
    bound = max((load.bytes for load in loads), default=0)
    names = list(sizes)
    extra = [index for index, size in enumerate(scratch) if size]
    spans = [lives[name] for name in names] + [(index, index) for index in extra]
    bytes = [sizes[name] for name in names] + [scratch[index] for index in extra]
    position = {name: place for place, name in enumerate(names)}
    shared = [(position[source], position[target]) for target, sources in candidates for source in sources]
    best: memory.Plan | None = None
    for alignment in (16, 4, 1):
        aligned = (
            [max(type_of(format_of(graph, name)).bytes, alignment) for name in names] + [max(4, alignment)] * len(extra)
        )
        plan = memory.plan(bytes, spans, aligned, shared)
        if best is None or plan.total < best.total:
            best = plan
        if best.total <= bound:
            break
    assert best is not None
    labels = [*names, *(f"scratch of {steps[index].output}" for index in extra)]
    blocks = [
        Block(label, offset, size, *span) for label, offset, size, span in zip(labels, best.offsets, bytes, spans)
    ]
    blocks.sort(key=lambda block: (block.first, block.offset))
    return Arena(
        dict(zip(names, best.offsets)), dict(zip(extra, best.offsets[len(names) :])), best.total, loads, blocks
    )


def _loads(
    sizes: Mapping[str, int], lives: Mapping[str, tuple[int, int]], scratch: Sequence[int],
    candidates: Sequence[tuple[str, list[str]]]
) -> list[Load]:
    loads = []
    for index in range(len(scratch) + 1):  # the last one: copies to the ports
        tensors = sum(size for name, size in sizes.items() if lives[name][0] <= index <= lives[name][1])
        if index < len(scratch) and candidates[index][1]:
            tensors -= sizes[candidates[index][0]]
        loads.append(Load(tensors, scratch[index] if index < len(scratch) else 0))
    return loads


def map_text(name: str, arena: Arena, steps: Sequence[Step]) -> str:
    """``arena_map.txt``: the size, the bound, every piece, and what lives at each step.

    Args:
        name: of the model; names in the text are made safe for a C comment.
        arena: the layout.
        steps: the program, in the order that the arena was planned for.
    """
    lines = [f"Arena of {comment(name)}: {arena.bytes} bytes."]
    if arena.loads and arena.lower_bound:
        fullest = max(range(len(arena.loads)), key=lambda index: arena.loads[index].bytes)
        load, above = arena.loads[fullest], 100 * (arena.bytes / arena.lower_bound - 1)
        lines += [
            f"Best possible for this order of steps: {arena.lower_bound} bytes, which live at step {fullest}: "
            f"{load.tensors} in tensors, {load.scratch} in scratch.",
            f"The arena is {above:.2f} % above it.",
        ]
    lines += [
        "Inputs and outputs of the network lie in memory of the caller and are not counted.", "",
        f"{'offset':>8} {'bytes':>8} {'steps':>9}  what"
    ]
    lines += [f"{b.offset:>8} {b.bytes:>8} {f'{b.first}-{b.last}':>9}  {comment(b.name)}" for b in arena.blocks]
    lines += ["", f"{'step':>4} {'tensors':>8} {'scratch':>8}  makes"]
    lines += [
        f"{index:>4} {load.tensors:>8} {load.scratch:>8}  {comment(step.output)}"
        for index, (load, step) in enumerate(zip(arena.loads, steps))
    ]
    return "\n".join(lines) + "\n"
