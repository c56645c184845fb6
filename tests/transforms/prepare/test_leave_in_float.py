"""LeaveInFloat; Keras makes the layers again and they compute what the graph computed."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.passes import PassError, snapshot
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph
from graffiti.transforms.prepare.leave_in_float import LeaveInFloat

BN = """
    const %bn/gamma:f32[3] = random(11)
    const %bn/beta:f32[3] = random(12)
    const %bn/mean:f32[3] = random(13)
    const %bn/variance:f32[3] = full(0.6)
"""
CASES = [  # shape, op, why
    ("_,_,5,3", "mean(%x) {axes=(3,)}", "known lengths"),
    ("_,6,_,3", "mean(%x) {axes=(1, 3), keepdims=True}", "known lengths"),
    ("_,_,5,3", "mean(%x) {axes=(1,), divide=False}", "known lengths"),
    ("_,_,_,3", "mean(%x) {axes=(1, 2)}", "known lengths"),
    ("_,_,5,3", "average_pool(%x) {pool_size=(2, 2), strides=(1, 2), padding='same'}", "unknown size"),
    ("_,_,3", "average_pool(%x) {pool_size=(3,), strides=(2,), padding='same'}", "unknown size"),
    ("_,_,2,2,3", "rescaling(%r) {scale=(0.5, 2.0, -1.0), offset=0.25}", "fixed input size"),
    ("_,4,3", "rescaling(%r) {scale=%c, offset=0.25}", "one number or one per channel"),
    ("_,_,2,2,3", "batch_norm(%r, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) {epsilon=0.01}", "fixed input size"),
    ("_,6", "leaky_relu(%x) {alpha=1.5}", "slope above 1"),
]


@pytest.mark.parametrize("shape, op, why", CASES, ids=[f"{op.split('(')[0]}-{shape}" for shape, op, why in CASES])
def test_1_to_4_islands_compute_the_same(shape, op, why):
    from graffiti.keras_io.islands import IslandRunner

    front = "\n".join([
        BN if op.startswith("batch") else "", "const %c:f32[4,3] = random(3)" if "%c" in op else "",
        "%r = relu(%x)" if "(%r" in op else ""
    ])
    graph = parse(
        f"float graph g\ninput %x:f32[{shape}]\n{front}\n%a/b = {op.replace('%c', repr('c'))}\n%y = relu(%a/b)\noutput "
        "%y, %a/b"
    )
    original = snapshot(graph)
    result = LeaveInFloat()(graph)
    assert result.modified and snapshot(graph) == original
    verify_graph(result.graph)
    island = result.graph.node("a/b")
    assert island.op == "island" and why in island.attrs["reason"]
    again = LeaveInFloat()(result.graph)
    assert not again.modified and snapshot(again.graph) == snapshot(result.graph)
    x = np.random.RandomState(1).normal(size=[4 if n == "_" else int(n) for n in shape.split(",")])
    runner = IslandRunner(result.graph)
    for expected, got in zip(run_float(graph, [x]), run_float(result.graph, [x], island=runner)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_5_what_fakequant_graphs_hold_stays(check):
    check(LeaveInFloat(), """
        float graph g
        input %x:f32[_,6,4,3]
        %r = relu(%x)
        %s = softmax(%r)
        %p = max_pool(%s) {pool_size=(2, 2), strides=(2, 2)}
        output %p
    """)


@pytest.mark.parametrize("op", ["mean(%x) {axes=(1, 2)}", "leaky_relu(%x) {alpha=0.1}"])
def test_6_what_a_pass_before_should_have_rewritten_is_a_mistake(op):
    graph = parse(f"float graph g\ninput %x:f32[_,6,4,3]\n%y = {op}\noutput %y")
    with pytest.raises(PassError, match="LeaveInFloat did not keep its word: .* 'y' is still there"):
        LeaveInFloat()(graph)
