"""Static memory planning: which bytes of one arena each tensor uses, when tensors live for only a part of a program.

Knows sizes and lifetimes only, so that the C export and the native runner plan with the same code. Steps are counted
from 0; a buffer lives from the step that writes it to the last step that reads it, both included.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection, Iterable, Sequence

from graffiti.graph.ir import Graph

VIEW_OPS = ("reshape",)  # ops whose output is its input's bytes
_SEARCH_WORK = 3_000_000  # pairs of buffers that the search for a better order may look at (about a second)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where every buffer lies.

    Attributes:
        offsets: first byte of each buffer, in the order of the sizes given to ``plan``.
        total: bytes of the arena.
        lower_bound: the most bytes that live at one step; no plan for this order of steps is smaller.
    """

    offsets: tuple[int, ...]
    total: int
    lower_bound: int


def plan(
    sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]], alignment: int | Sequence[int] = 16,
    shared: Collection[tuple[int, int]] = (),
) -> Plan:
    """Place buffers so that no two that live at one step overlap, in few bytes.

    Greedy best fit over several orders of placement (large first, long-lived large first, ...); where none reaches the
    lower bound, a short seeded search exchanges pairs in the best of them. The same arguments give the same plan.

    Args:
        sizes: bytes of each buffer; a size of 0 takes no place.
        lifetimes: ``(first, last)`` step of each, both included.
        alignment: every offset is a multiple of it; or one number for each buffer.
        shared: pairs of buffers that may overlap where both have one offset: an output in the memory of an input. The
            bound does not know them.

    Raises:
        ValueError: where the two lists differ in length, a size is negative, a lifetime ends before it begins, or the
            alignment is not positive.
    """
    count = len(sizes)
    if len(lifetimes) != count:
        raise ValueError(f"plan expects one lifetime for each size, got {count} sizes and {len(lifetimes)} lifetimes")
    alignments = [alignment] * count if isinstance(alignment, int) else list(alignment)
    if len(alignments) != count or any(a < 1 for a in alignments) or (isinstance(alignment, int) and alignment < 1):
        raise ValueError(
            f"an alignment is a positive number of bytes (or one for each of the {count} buffers), got {alignment}"
        )
    for index, (size, (first, last)) in enumerate(zip(sizes, lifetimes)):
        if size < 0 or last < first:
            raise ValueError(
                f"buffer {index} has {size} bytes and lives from step {first} to {last}; expected size >= 0 and "
                "first <= last"
            )
    bound = lower_bound(sizes, lifetimes)
    rivals = [
        [
            j for j in range(count)
            if j != i and sizes[j] and lifetimes[j][0] <= lifetimes[i][1] and lifetimes[i][0] <= lifetimes[j][1]
        ]
        for i in range(count)
    ]
    partners: list[set[int]] = [set() for _ in range(count)]
    for a, b in shared:
        partners[a].add(b)
        partners[b].add(a)
    duration = [last - first + 1 for first, last in lifetimes]
    keys: tuple[Callable[[int], tuple], ...] = (
        lambda i: (-sizes[i], lifetimes[i][0]),
        lambda i: (-sizes[i] * duration[i], lifetimes[i][0]),
        lambda i: (-duration[i], -sizes[i]),
        lambda i: (-sum(sizes[j] for j in rivals[i]) - sizes[i], -sizes[i]),
        lambda i: (lifetimes[i][0], -sizes[i]),
        lambda i: (-lifetimes[i][1], -sizes[i]),
    )
    best: tuple[int, list[int], list[int], bool] | None = None
    for key in keys:
        order = sorted(range(count), key=key)
        for fit in (True, False):
            total, offsets = _place(order, sizes, rivals, partners, alignments, fit)
            if best is None or total < best[0]:
                best = (total, offsets, order, fit)
    assert best is not None
    tries = min(400, _SEARCH_WORK // (sum(map(len, rivals)) + count + 1))
    generator = random.Random(0)
    while best[0] > bound and tries > 0 and count > 1:
        tries -= 1
        order = list(best[2])
        a, b = generator.sample(range(count), 2)
        if generator.random() < 0.5:
            order[a], order[b] = order[b], order[a]
        else:
            order.insert(a, order.pop(b))
        total, offsets = _place(order, sizes, rivals, partners, alignments, best[3])
        if total <= best[0]:
            best = (total, offsets, order, best[3])
    return Plan(tuple(best[1]), best[0], bound)


def lower_bound(sizes: Sequence[int], lifetimes: Sequence[tuple[int, int]]) -> int:
    """The most bytes that live at one step."""
    change: dict[int, int] = {}
    for size, (first, last) in zip(sizes, lifetimes):
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    live = most = 0
    for step in sorted(change):
        live += change[step]
        most = max(most, live)
    return most


def _place(
    order: Sequence[int], sizes: Sequence[int], rivals: Sequence[Sequence[int]], partners: Sequence[Collection[int]],
    alignments: Sequence[int], best_fit: bool,
) -> tuple[int, list[int]]:
    """Put buffers down in ``order``, each where a partner lies, or into the tightest (or the first) gap between
    those it shares a step with.
    """
    offsets = [-1] * len(sizes)
    total = 0
    for i in order:
        size, alignment = sizes[i], alignments[i]
        taken = sorted((offsets[j], offsets[j] + sizes[j]) for j in rivals[i] if offsets[j] >= 0)
        end, place, slack = 0, -1, -1
        for partner in partners[i]:
            at = offsets[partner]
            if (at >= 0 and size and at % alignment == 0 and all(
                offsets[j] < 0 or offsets[j] + sizes[j] <= at or at + size <= offsets[j]
                or (j in partners[i] and offsets[j] == at)
                for j in rivals[i]
            )):
                place, taken = at, []
                break
        for low, high in taken:
            gap = low - end
            if gap >= size and (place < 0 or gap < slack):
                place, slack = end, gap
                if not best_fit:
                    break
            end = max(end, -(-high // alignment) * alignment)
        offsets[i] = (place if place >= 0 else end) if size else 0
        total = max(total, offsets[i] + size)
    return total, offsets


def lifetimes(
    steps: Sequence[tuple[Iterable[str], Iterable[str]]], keep: Collection[str] = (), given: Collection[str] = ()
) -> dict[str, tuple[int, int]]:
    """First and last step of every buffer that a program reads or writes.

    Args:
        steps: for each step the buffers it reads and those it writes.
        keep: buffers that outlive the program: they last to the step ``len(steps)``.
        given: buffers that are full before the program starts: they begin at step 0.
    """
    first: dict[str, int] = dict.fromkeys(given, 0)
    last: dict[str, int] = dict.fromkeys(given, 0)
    for index, (reads, writes) in enumerate(steps):
        for name in (*reads, *writes):
            first.setdefault(name, index)
            last[name] = index
    for name in keep:
        first.setdefault(name, 0)
        last[name] = len(steps)
    return {name: (first[name], last[name]) for name in first}


def roots_of(graph: Graph, views: Collection[str] = VIEW_OPS) -> dict[str, str]:
    """For every value the value whose bytes it is: itself, or what a chain of view ops (reshape) started from."""
    roots = {name: name for name in (*graph.inputs, *graph.constants)}
    for node in graph.nodes:
        for out in node.outputs:
            roots[out] = roots[node.inputs[0]] if node.op in views else out
    return roots


def lifetimes_of(graph: Graph, views: Collection[str] = VIEW_OPS) -> dict[str, tuple[int, int]]:
    """Lifetimes of all inputs and node outputs of a graph, one entry for a value and all its views together.

    The steps are ``graph.nodes``. Inputs begin at step 0, outputs last to step ``len(graph.nodes)``; constants have no
    entry.
    """
    roots = roots_of(graph, views)
    steps = [
        (
            {roots[v] for v in node.inputs if not graph.is_constant(roots[v])},
            {roots[o] for o in node.outputs if not graph.is_constant(roots[o])}
        )
        for node in graph.nodes
    ]
    keep = {roots[v] for v in graph.outputs if not graph.is_constant(roots[v])}
    return lifetimes(steps, keep, graph.inputs)


def bytes_of(graph: Graph, value: str) -> int:
    """Bytes of one example of a value (all of it for a constant): codes in their storage type, 4 where it is
    float32.
    """
    format, shape = graph.format(value), graph.shape(value)
    sizes = shape if graph.is_constant(value) else shape[1:]
    count = 1
    for size in sizes:
        if size is None:
            raise ValueError(f"value {value!r} has the unknown shape {shape}; memory is planned for fixed sizes only")
        count *= size
    return count * (4 if format is None else format.dtype.itemsize)
