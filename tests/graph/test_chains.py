"""Chains: every form they have, where they end, and that what one says is what its nodes compute."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph import interpreter
from graffiti.graph.chains import Chain, Rounded, chain_of, chains_of
from graffiti.graph.match import only_reader
from graffiti.graph.printer import parse
from graffiti.numerics import rounding
from graffiti.numerics.formats import QFormat

HEAD = """integer graph net
input %x:s8@-3[_,4]
const %w:s8@-4[4,3] = random(1)
const %b:s32@-7[3] = [900, -800, 0]
const %w_channels:s8@[-4,-5,-6][4,3] = random(2)
const %w_alike:s8@[-4,-4,-4][4,3] = random(2)
%p = dense(%x, %w)
"""


def graph(*lines: str, output: str = "y", head: str = HEAD):
    return parse(head + "\n".join(lines) + f"\noutput %{output}\n")


def check(net, chain: Chain) -> None:
    """The chain's formula, on what its head makes of random codes, gives what the interpreter gives."""
    codes = np.random.default_rng(0).integers(-128, 128, (64, 4)).astype(np.int8)
    values = interpreter.run(net, codes, values=True)
    value = values[chain.head.output].astype(np.int64)
    if chain.bias is not None:
        value = value + net.constants[chain.bias]
    low, high = chain.clamp or (-(2**31), None)
    value = np.clip(value, low, high)
    if (rounded := chain.rounded) is not None:
        value = np.clip(rounding.shift_right(value, np.asarray(rounded.shift), rounded.mode), rounded.low, rounded.high)
    np.testing.assert_array_equal(value, values[chain.last])


# lines behind the product → bias, (shift, low, high) of the rounding or (low, high) of what is not rounded, last
FORMS = {
    "relu": (["%y = relu(%p)"], (None, (0, None), "y")),
    "relu6": (["%a = relu(%p) {max_code=900}", "%y = relu(%a) {max_code=1200}"], (None, (0, 900), "y")),
    "bias": (["%y = bias_add(%p, %b)"], ("b", None, "y")),
    "requantize": (["%y = requantize(%p) {format=s8@-2}"], (None, (5, -128, 127), "y")),
    "bias, requantize": (
        ["%a = bias_add(%p, %b)", "%y = requantize(%a) {format=u8@-1, rounding='floor'}"], ("b", (6, 0, 255), "y")
    ),
    "limits of its own": (["%y = requantize(%p) {format=s8@-2, low=-3, high=90}"], (None, (5, -3, 90), "y")),
    "relu in front": (["%a = relu(%p)", "%y = requantize(%a) {format=s8@-2}"], (None, (5, 0, 127), "y")),
    "relu6 in front": (
        ["%a = relu(%p) {max_code=1003}", "%y = requantize(%a) {format=s8@-2, rounding='half_up'}"],
        (None, (5, 0, 31), "y")
    ),
    "two in front": (
        ["%a = relu(%p) {max_code=1003}", "%c = relu(%a) {max_code=640}", "%y = requantize(%c) {format=s8@-2}"],
        (None, (5, 0, 20), "y")
    ),
    "relu behind": (["%a = requantize(%p) {format=s8@-2}", "%y = relu(%a) {max_code=50}"], (None, (5, 0, 50), "y")),
    "relus around": (
        ["%a = bias_add(%p, %b)", "%c = relu(%a)", "%d = requantize(%c) {format=s8@-2}", "%y = relu(%d) {max_code=40}"],
        ("b", (5, 0, 40), "y")
    ),
    "to the left": (["%a = relu(%p) {max_code=9}", "%y = requantize(%a) {format=s8@-9}"], (None, (-2, 0, 36), "y")),
    "far to the left": (
        ["%a = relu(%p) {max_code=9}", "%y = requantize(%a) {format=s16@-99}"], (None, (-32, 0, 32767), "y")
    ),
    "far to the right": (["%y = requantize(%p) {format=s8@90}"], (None, (62, -128, 127), "y")),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    lines, (bias, numbers, last) = FORMS[name]
    net = graph(*lines)
    chain = chain_of(net, net.node("p"))
    rounded = chain.rounded
    assert (chain.bias, chain.last, chain.computes) == (bias, last, True)
    assert (chain.clamp if rounded is None else (*rounded.shift, rounded.low, rounded.high)) == numbers
    assert chain.covered == net.nodes
    check(net, chain)


@pytest.mark.parametrize("kernel, shift", [("w_channels", (5, 6, 7)), ("w_alike", (5, 5, 5))])
def test_shifts_for_each_channel(kernel, shift):
    net = graph(
        "%y = requantize(%q) {format=s8@-2}", head=HEAD.replace("%p = dense(%x, %w)", f"%q = dense(%x, %{kernel})")
    )
    chain = chain_of(net, net.node("q"))
    assert chain.rounded.shift == shift
    check(net, chain)


def test_a_maximum_in_front_of_differing_shifts_ends_the_chain():
    head = HEAD.replace("%p = dense(%x, %w)", "%p = dense(%x, %w_channels)")
    net = graph("%a = relu(%p) {max_code=1003}", "%y = requantize(%a) {format=s8@-2}", head=head)
    first, second = chains_of(net, net.node("p"))
    assert (
        (first.last, first.clamp, first.rounded) == ("a", (0, 1003), None)
        and (second.last, second.rounded.shift) == ("y", (5, 6, 7))
    )
    check(net, first)
    without_maximum = graph("%a = relu(%p)", "%y = requantize(%a) {format=s8@-2}", head=head)
    chain = chain_of(without_maximum, without_maximum.node("p"))
    assert (chain.rounded.shift, chain.rounded.low) == ((5, 6, 7), 0)
    check(without_maximum, chain)


@pytest.mark.parametrize("lines, last", [
    (["%a = requantize(%p) {format=s8@-2}", "%y = requantize(%a) {format=s8@-1}"], "a"),         # a second rounding
    (["%a = relu(%p)", "%y = bias_add(%a, %b)"], "a"),                                          # a bias behind a ReLU
    (["%a = bias_add(%p, %b)", "%y = bias_add(%a, %b)"], "a"),                                   # a second bias
    # ranges with nothing in common
    (["%a = requantize(%p) {format=s8@-2, high=-5}", "%y = relu(%a)"], "a"),
    # an op that is no follower
    (["%a = requantize(%p) {format=s8@-2}", "%y = reshape(%a) {shape=(3, 1)}"], "a"),
    # two readers
    (["%a = bias_add(%p, %b)", "%c = relu(%a)", "%d = requantize(%a) {format=s8@-2}", "%y = concat(%d, %d)"], "a"),
    # one reader that reads it twice
    (["%a = bias_add(%p, %b)", "%y = add(%a, %a)"], "a"),
])
def test_where_it_ends(lines, last):
    net = graph(*lines)
    chain = chain_of(net, net.node("p"))
    assert chain.last == last
    check(net, chain)


def test_a_value_that_leaves_the_graph_ends_it():
    net = graph("%a = bias_add(%p, %b)", "%y = requantize(%a) {format=s8@-2}", output="a, %y")
    assert chain_of(net, net.node("p")).last == "a"


def test_a_computed_bias_is_no_bias():
    net = graph("%s = dense(%x, %w)", "%y = bias_add(%p, %s)")
    assert not chain_of(net, net.node("p")).computes


def test_what_is_declined_may_be_passed_over():
    net = graph("%a = bias_add(%p, %b)", "%c = relu(%a)", "%d = requantize(%c) {format=s8@-2}", "%y = relu(%d)")
    node = net.node("p")
    assert chain_of(net, node, declines=lambda chain: chain.clamp is not None).last == "y"
    assert chain_of(net, node, declines=lambda chain: chain.nodes[-1].op == "relu").last == "d"
    assert chain_of(net, node, declines=lambda chain: chain.rounded is not None).last == "c"
    assert chain_of(net, node, declines=lambda chain: True) == Chain(node, "p")


def test_a_follower_on_its_own_is_the_first_of_its_chain():
    net = graph("%a = requantize(%x) {format=s8@-2}", "%y = relu(%a)")
    chain = chain_of(net, net.node("a"))
    assert (
        (chain.head.name, chain.rounded.shift, chain.rounded.low, [node.name for node in chain.nodes])
        == ("a", (1,), 0, ["y"])
    )
    assert chain_of(net, net.node("a"), declines=lambda chain: True).rounded.shift == (1,)


def test_a_mean_rounds_and_takes_relus():
    net = parse("""integer graph net
input %x:s8@-3[_,4,3]
%m = average_pool(%x) {pool_size=(2,), strides=(2,), format=s8@-90, high=90}
%y = relu(%m)
output %y
""")
    chain = chain_of(net, net.node("m"))
    assert chain.rounded == Rounded((-61,), "half_even", 0, 90, QFormat(8, True, -90)) and chain.last == "y"


def test_chains_one_behind_another():
    net = graph(
        "%a = bias_add(%p, %b)", "%c = requantize(%a) {format=s8@-2}", "%d = requantize(%c) {format=s8@-1}",
        "%y = relu(%d)"
    )
    first, second = chains_of(net, net.node("p"))
    assert (
        (first.last, second.head.name, second.last, second.rounded.shift, second.rounded.low)
        == ("c", "d", "y", (1,), 0)
    )


def test_only_reader():
    net = graph(
        "%a = relu(%p)", "%c = add(%a, %a)", "%y = add(%c, %w_pad)",
        head=HEAD + "const %w_pad:s32@-7[1,3] = random(3)\n"
    )
    users = net.users()
    for table in (None, users):
        assert only_reader(net, "p", table) is net.node("a")
        assert only_reader(net, "a", table) is net.node("c")  # which reads it twice
        assert only_reader(net, "w_pad", table) is net.node("y")
        assert only_reader(net, "y", table) is None      # leaves the graph
        assert only_reader(net, "w_alike", table) is None
