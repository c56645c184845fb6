"""The arena planner: correct on anything, optimal against brute force on small cases, near its bound on real shapes."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graffiti.graph import memory
from graffiti.graph.ir import Graph, TensorType
from graffiti.numerics.formats import QFormat

BUFFER = st.tuples(st.integers(0, 200), st.integers(0, 12), st.integers(0, 6))


def assert_valid(sizes, lifetimes, plan, alignment):
    """Every offset aligned, nothing beyond the total, no two buffers of one step overlap, the bound is a bound."""
    for size, offset in zip(sizes, plan.offsets, strict=True):
        assert offset >= 0 and offset % alignment == 0 and offset + size <= plan.total
    for i, j in itertools.combinations(range(len(sizes)), 2):
        (a, b), (c, d) = lifetimes[i], lifetimes[j]
        if a <= d and c <= b:
            assert (
                plan.offsets[i] + sizes[i] <= plan.offsets[j] or plan.offsets[j] + sizes[j] <= plan.offsets[i]
                or not sizes[i] or not sizes[j]
            )
    live = [sum(s for s, (a, b) in zip(sizes, lifetimes) if a <= step <= b) for step in range(30)]
    assert plan.lower_bound == max(live) <= plan.total


@settings(max_examples=60, deadline=None)
@given(st.lists(BUFFER, max_size=14), st.sampled_from([1, 4, 16]))
def test_a_plan_is_valid(buffers, alignment):
    sizes, lifetimes = [b[0] for b in buffers], [(b[1], b[1] + b[2]) for b in buffers]
    plan = memory.plan(sizes, lifetimes, alignment)
    assert_valid(sizes, lifetimes, plan, alignment)
    assert plan == memory.plan(sizes, lifetimes, alignment), "the same arguments give the same plan"


def optimum(sizes, lifetimes):
    """The smallest arena: one of the orders of first-fit placement gives it (each buffer slides down to a sum of
    others).
    """
    best = sum(sizes)
    for order in itertools.permutations(range(len(sizes))):
        offsets, total = {}, 0
        for i in order:
            taken = sorted(
                (offsets[j], offsets[j] + sizes[j]) for j in offsets
                if lifetimes[j][0] <= lifetimes[i][1] and lifetimes[i][0] <= lifetimes[j][1]
            )
            place = 0
            for low, high in taken:
                if place + sizes[i] <= low:
                    break
                place = max(place, high)
            offsets[i] = place
            total = max(total, place + sizes[i])
        best = min(best, total)
    return best


@pytest.mark.parametrize("seed", range(40))
def test_small_cases_are_optimal(seed):
    generator = random.Random(seed)
    count = generator.randint(2, 6)
    sizes = [generator.randint(1, 9) for _ in range(count)]
    firsts = [generator.randint(0, 5) for _ in range(count)]
    lifetimes = [(first, first + generator.randint(0, 3)) for first in firsts]
    plan = memory.plan(sizes, lifetimes, 1)
    assert_valid(sizes, lifetimes, plan, 1)
    assert plan.total == optimum(sizes, lifetimes)


def test_a_case_whose_optimum_is_above_the_bound():
    sizes, lifetimes = [2, 1, 3, 2, 1], [(0, 1), (0, 2), (2, 3), (3, 4), (1, 4)]
    plan = memory.plan(sizes, lifetimes, 1)
    assert plan.total == optimum(sizes, lifetimes) >= plan.lower_bound


def test_a_chain_takes_the_two_largest_neighbours():
    plan = memory.plan([100, 60, 200, 40], [(0, 1), (1, 2), (2, 3), (3, 4)], 1)
    assert plan.total == plan.lower_bound == 260


def test_no_buffers():
    assert memory.plan([], []) == memory.Plan((), 0, 0)


@pytest.mark.parametrize("arguments, message", [
    (([1], []), "one lifetime for each size"),
    (([-1], [(0, 0)]), "buffer 0 has -1 bytes"),
    (([1], [(2, 1)]), "lives from step 2 to 1"),
    (([1], [(0, 0)], 0), "alignment is a positive number"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        memory.plan(*arguments)


def small_graph():
    graph = Graph("integer", ["x"], name="g")
    graph.types["x"] = TensorType((None, 4, 6))
    graph.insert("quantize", ["x"], "q", {"format": QFormat(8, True, -7)})
    graph.insert("reshape", ["q"], "view", {"shape": (24,)})
    graph.add_constant("k", [[1] * 5] * 24, QFormat(8, True, -7))
    graph.insert("dense", ["view", "k"], "d")
    graph.insert("relu", ["q"], "r")
    graph.outputs = ["d"]
    return graph


def test_lifetimes_of_a_graph_follow_views():
    graph = small_graph()
    assert memory.roots_of(graph) == {"x": "x", "k": "k", "q": "q", "view": "q", "d": "d", "r": "r"}
    assert memory.lifetimes_of(graph) == {"x": (0, 0), "q": (0, 3), "d": (2, 4), "r": (3, 3)}
    assert memory.lifetimes_of(graph, views=()) == {"x": (0, 0), "q": (0, 3), "view": (1, 2), "d": (2, 4), "r": (3, 3)}


def test_bytes_of_values():
    graph = small_graph()
    assert [memory.bytes_of(graph, v) for v in ("x", "q", "view", "d", "k")] == [96, 24, 24, 20, 120 * 1]
    lifetimes = memory.lifetimes_of(graph)
    plan = memory.plan([memory.bytes_of(graph, name) for name in lifetimes], list(lifetimes.values()), alignment=4)
    assert plan.total == plan.lower_bound == 96 + 24


def test_unknown_sizes_are_an_error():
    graph = small_graph()
    graph.types["q"] = TensorType((None, None, 6), QFormat(8, True, -7))
    with pytest.raises(ValueError, match="'q' has the unknown shape"):
        memory.bytes_of(graph, "q")


def test_a_deep_residual_network_reaches_its_bound():
    """Blocks of a skip connection over two layers at shrinking sizes, with scratch beside every product."""
    steps, sizes = [], {}
    x, size = "x", 16384
    sizes[x] = size
    for block in range(24):
        a, b, s = f"a{block}", f"b{block}", f"s{block}"
        size = size // 2 if block % 8 == 7 else size
        sizes |= {a: size, b: size, s: size, f"t{a}": 1200, f"t{b}": 1200}
        steps += [([x], [a, f"t{a}"]), ([a], [b, f"t{b}"]), ([x, b], [s])]
        x = s
    lifetimes = memory.lifetimes(steps, keep=[x])
    plan = memory.plan([sizes[name] for name in lifetimes], list(lifetimes.values()))
    assert plan.total <= 1.05 * plan.lower_bound
