"""What every executor keeps: its integers are the reference's on every op's cases, and it shows what its row says.

A row of ``EXECUTORS`` buys these tests, a case of ``c_graphs.CASES`` reaches every executor. A case that an executor refuses by name
is skipped with its words; that nobody refuses all is a test too.
"""

from __future__ import annotations

import c_graphs
import numpy as np
import pytest

from graffiti import executors
from graffiti.executors import EVERY, EXECUTORS, Unavailable
from graffiti.export.c.targets import TARGETS as BOARDS
from graffiti.graph import interpreter
from graffiti.graph.ops import OPS
from graffiti.verification.values import EXACT, Values, comparable

# Emulated boards have tests of their own (export/test_c_targets.py); each other way to run an executor is here.
WORDS = [word for word in executors.words() if word not in EXECUTORS or not EXECUTORS[word].options]
WORDS = [word for word in WORDS if word.partition(":")[2] not in BOARDS]
FULL = ("native:avx2", "ops:avx2", "litert:xnnpack", "onnx:optimized")  # every case; the others one for each op, and all with -m slow


def cover() -> list[str]:
    """The first case of each op: a new op's case is among them by itself."""
    chosen, covered = [], set()
    for case, make in c_graphs.CASES.items():
        if new := {node.op for node in make().nodes} - covered:
            covered |= new
            chosen.append(case)
    return chosen


COVER = cover()


def start(word, graph, threads=None):
    row, option = executors.split(word)
    try:
        return row, option, row.run(graph, None, option, threads)
    except Unavailable as why:
        pytest.skip(f"{word}: {why}")


def assert_contract(word, graph, inputs):
    row, option, running = start(word, graph)
    expected = interpreter.run(graph, inputs, values=True)
    kinds, shown = Values.of(graph).kinds, running.run_all(inputs)
    bounds = {} if row.bounds is None else row.bounds(graph, option)
    compared = set()
    for name, got in shown.items():
        if name not in expected or name in graph.inputs or kinds[name] != EXACT:
            continue
        want, have = comparable(graph.format(name), expected[name], got)
        assert want.shape == have.shape, f"{word} {name}: shape {have.shape}, expected {want.shape}"
        if name in bounds or any(code in bounds for code in Values.of(graph).ends.get(name, ())):
            continue  # stated before anything ran; how far it may lie is tested where the bound is made
        unequal = np.argwhere(want != have)
        place = tuple(unequal[0]) if len(unequal) else ()
        assert not len(unequal), f"{graph.name} {word} {name}: {len(unequal)} differ, first at {place}: expected {want[place]}, got {have[place]}"
        compared.add(name)
    values = Values.of(graph)
    assert compared or bounds
    assert not [output for output in graph.outputs if values.uncompared(output, {*shown})], "an output that does not follow from what it shows"
    if row.shown(option) == EVERY:
        assert {out for node in graph.nodes for out in node.outputs} <= set(shown)
    if row.predicts:
        for name, got in zip(graph.outputs, running.run(inputs), strict=True):
            np.testing.assert_array_equal(got, expected[name])


def check_case(word, case):
    graph = c_graphs.CASES[case]()
    assert_contract(word, graph, c_graphs.real_inputs(graph, 3))


@pytest.mark.parametrize(("word", "case"), [(word, case) for word in WORDS for case in (c_graphs.CASES if word in FULL else COVER)])
def test_op(word, case):
    check_case(word, case)


OTHERS = [(word, case) for word in WORDS for case in c_graphs.CASES if word not in FULL and case not in COVER]


@pytest.mark.slow
@pytest.mark.parametrize(("word", "case"), OTHERS)
def test_every_other_op(word, case):
    check_case(word, case)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("seed", range(2))
def test_random_network(word, seed):
    graph = c_graphs.random_network(seed)
    assert_contract(word, graph, c_graphs.real_inputs(graph, 2, seed))


@pytest.mark.parametrize("word", WORDS)
def test_batches_of_every_size(word):
    graph = c_graphs.CASES["conv_same"]()
    inputs = c_graphs.real_inputs(graph, 5)
    *_, running = start(word, graph)
    whole = running.run_all(inputs)
    for size in (1, 2):
        for name, array in running.run_all([part[:size] for part in inputs]).items():
            np.testing.assert_array_equal(array, whole[name][:size])


@pytest.mark.parametrize("word", WORDS)
def test_inputs_come_in_the_order_of_the_graph(word):
    """Not in the order in which they are used."""
    builder = c_graphs.Builder((6,), c_graphs.S8(-7))
    late = builder.node("requantize", "late_q", builder.node("add", "late", builder.add_input((6,), c_graphs.S8(-7), "second"), builder.input), format=c_graphs.S8(-6))
    graph = builder.finish(late)
    graph.inputs.reverse()
    inputs = c_graphs.real_inputs(graph, 3)
    inputs[0] *= 0.25
    assert_contract(word, graph, inputs)


def test_every_integer_op_has_a_case():
    used = {node.op for make in c_graphs.CASES.values() for node in make().nodes}
    integer = {name for name, row in OPS.items() if "integer" in row.stages}
    own = {"island", "softmax", "rescaling"}  # the border has its own suite over the executors, tests/graph/test_border.py
    assert integer - used <= own, "an op without a case in c_graphs.CASES reaches no executor's tests"


@pytest.mark.parametrize("word", executors.words())
def test_a_word_names_its_row(word):
    row, option = executors.split(word)
    assert word == (f"{row.name}:{option}" if option else row.name) and row.shown(option) in (EVERY, executors.STORED)
    assert all(package.name and package.module for package in row.needs(option))


def test_a_missing_package_is_a_reason_to_skip_and_a_fault_is_not():
    graph = c_graphs.CASES["relu"]()

    def broken(graph, island, option, threads):
        raise ValueError("a fault of graffiti's")

    row = executors.Executor("x", "x", broken, packages=(executors.Package("no-such-thing", "no_such_thing_at_all"),))
    with pytest.raises(Unavailable, match="the package no-such-thing is needed .*; pip install no-such-thing"):
        row.run(graph)
    row = executors.Executor("x", "x", broken)
    with pytest.raises(ValueError, match="a fault of graffiti's"):
        row.run(graph)
