"""Executors times op cases: a row of ``EXECUTORS`` buys these tests, a case of ``c_graphs.CASES`` reaches each.

What each keeps is in ``tests/contract.py``. What an executor has no form for stands in ``REFUSED``, with a word of its
sentence.
"""

from __future__ import annotations

import functools

import c_graphs
import numpy as np
import pytest
import random_graphs
from contract import Refused, assert_contract, assert_equal, start

from graffiti import executors
from graffiti.executors import EVERY, EXECUTORS, Unavailable
from graffiti.export.c.boards import BOARDS
from graffiti.graph import interpreter
from graffiti.graph.ops import OPS
from graffiti.graph.verify import verify_graph

WORDS = [word for word in executors.words() if word not in EXECUTORS or not EXECUTORS[word].options]  # each way, once
EMULATED = [word for word in WORDS if word.partition(":")[2] in BOARDS]  # with -m slow: minutes for each
WORDS = [word for word in WORDS if word not in EMULATED]
SLOW = ("c:unfused", "ops:scalar", "ops:avx512vnni", "python")  # a compiler or a trace for each: one case for each op

U16, WIDE, AWAY, LACKS = "u16", "accumulator", "half away", "does not take the file"
_LITERT = {
    "packed_conv_wide_input": U16, "conv_wide": U16, "maximum_u16": U16, "minimum_u16": U16,
    "requantize_half_even": U16, "requantize_half_up": U16, "requantize_floor": U16,
    "conv_16_bit_kernel": WIDE, "depthwise_dilated": WIDE, "depthwise_16_bit_both": WIDE,
    "average_pool_half_even": WIDE,
    "conv_dilated_valid": AWAY, "add_half_away": AWAY, "subtract_half_away": AWAY, "multiply_map": AWAY,
    "requantize_half_away": AWAY, "mean_half_away": AWAY, "mean_s8_half_away": AWAY,
}
REFUSED = {  # target → case → a word of the reason
    "litert:xnnpack": _LITERT, "litert:builtin": _LITERT,
    "litert:half_up": {**_LITERT, "conv_16_bit_input": WIDE}, "litert:float32": {**_LITERT, "conv_16_bit_input": WIDE},
    "litert:micro": {**_LITERT, "conv_16_bit_input": WIDE, "lookup_u8_to_s16": LACKS, "slices_16": LACKS},
}


COVER = c_graphs.cover()
USUAL = [(word, case) for word in WORDS for case in (COVER if word in SLOW else c_graphs.CASES)]
OTHERS = [(word, case) for word in (*WORDS, *EMULATED) for case in c_graphs.CASES if (word, case) not in {*USUAL}]


@functools.cache
def reference(case):
    """A case's graph, inputs and values."""
    graph = c_graphs.CASES[case]()
    inputs = c_graphs.real_inputs(graph, 3)
    return graph, inputs, interpreter.run(graph, inputs, values=True)


def check_case(word, case):
    reason = REFUSED.get(word, {}).get(case)
    if reason is None:
        assert_contract(word, *reference(case))
        return
    with pytest.raises(Refused, match=reason):
        start(word, reference(case)[0])


@pytest.mark.parametrize(("word", "case"), USUAL)
def test_op(word, case):
    check_case(word, case)


@pytest.mark.slow
@pytest.mark.parametrize(("word", "case"), OTHERS)
def test_every_other_op(word, case):
    check_case(word, case)


@pytest.mark.parametrize("case", c_graphs.CASES)
def test_a_case_is_a_graph_that_computes_something(case):
    graph, _, values = reference(case)
    verify_graph(graph)
    made = [values[node.output] for node in graph.nodes if node.op not in ("quantize", "dequantize")]
    assert any(len(np.unique(array)) > 1 for array in made), "the case computes a constant: it tests nothing"


def check_random(word, seeds):
    """Networks of both generators; what a row refuses by name is no fault."""
    ran = 0
    for seed in seeds:
        network, graph = c_graphs.random_network(seed), random_graphs.random_graph(seed)
        inputs = c_graphs.real_inputs(network, 2, seed), [random_graphs.images(graph, 2, seed)]
        for made, given in zip((network, graph), inputs):
            try:
                assert_contract(word, made, given)
                ran += 1
            except Refused:
                continue
    assert ran, f"{word} refuses every network"


@pytest.mark.parametrize("word", WORDS)
def test_random_networks(word):
    check_random(word, range(2) if word in SLOW or word.startswith(("c:", "ops:")) else range(10))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 200, 10))
@pytest.mark.parametrize("word", WORDS)
def test_many_random_networks(word, first):
    check_random(word, range(first, first + 10))


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
    second = builder.add_input((6,), c_graphs.S8(-7), "second")
    late = builder.node("add", "late", second, builder.input)
    graph = builder.finish(builder.node("requantize", "late_q", late, format=c_graphs.S8(-6)))
    graph.inputs.reverse()
    inputs = c_graphs.real_inputs(graph, 3)
    inputs[0] *= 0.25
    assert_contract(word, graph, inputs)


def test_a_wrong_weight_is_noticed():
    graph, inputs, expected = reference("conv_same")
    changed = graph.copy()
    kernel = changed.constants["c/kernel"].copy()
    kernel.flat[7] ^= 1
    changed.constants["c/kernel"] = kernel
    *_, running = start("reference", changed)
    with pytest.raises(AssertionError, match="differ by more than 0, first at"):
        assert_equal(graph, running.run_all(inputs), expected, "changed")


def test_every_integer_op_has_a_case():
    used = {node.op for make in c_graphs.CASES.values() for node in make().nodes}
    integer = {name for name, row in OPS.items() if "integer" in row.stages}
    # the border has its own suite over the executors, tests/graph/test_border.py
    own = {"island", "softmax", "rescaling"}
    assert integer - used <= own, "an op without a case in c_graphs.CASES reaches no executor's tests"


def test_refusals_are_of_targets_and_cases_that_exist():
    assert {*REFUSED} <= {*WORDS} and {case for cases in REFUSED.values() for case in cases} <= {*c_graphs.CASES}


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
