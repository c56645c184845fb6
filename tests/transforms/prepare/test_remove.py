"""RemoveDead, RemoveIdentity, CanonicalActivation: the numbers are the cases of the class docstrings."""

from __future__ import annotations

import pytest

from graffiti.graph.passes import snapshot
from graffiti.graph.printer import parse
from graffiti.transforms.prepare.canonical_activation import CanonicalActivation
from graffiti.transforms.prepare.remove_dead import RemoveDead
from graffiti.transforms.prepare.remove_identity import RemoveIdentity


def test_dead_1_and_2_go_and_inputs_stay(check):
    check(RemoveDead(), """
        float graph g
        input %x:f32[_,4]
        input %unread:f32[_,2]
        const %k:f32[4,2] = random(1)
        const %lost:f32[3] = [1, 2, 3]
        %y = relu(%x)
        %a = dense(%x, %k)
        %b = relu(%a)
        output %y
    """, """
        float graph g
        input %x:f32[_,4]
        input %unread:f32[_,2]
        %y = relu(%x)
        output %y
    """)


def test_dead_3_weights_of_an_island_stay():
    graph = parse("""
        float graph g
        input %x:f32[_,4]
        const %w:f32[4] = [1, 2, 3, 4]
        %y = island(%x) {layer={'class_name': 'PReLU'}, output_shapes=((None, 4),), weights=('w',)}
        output %y
    """)
    result = RemoveDead()(graph)
    assert not result.modified and snapshot(result.graph) == snapshot(graph)


def test_dead_nothing_to_do(check):
    check(RemoveDead(), """
        float graph g
        input %x:f32[_,4]
        %y = relu(%x)
        output %y, %x
    """)


MOVES_NOTHING = [
    "identity(%a)", "reshape(%a) {shape=(6, 4, 3)}", "permute(%a) {dims=(1, 2, 3)}",
    "pad(%a) {pads=((0, 0), (0, 0), (0, 0))}",
    "crop(%a) {crops=((0, 0), (0, 0), (0, 0))}", "slice(%a) {slices=((0, None, 1), (0, None, 1), (0, None, 1))}",
    "take(%a) {axis=2, indices=(0, 1, 2, 3)}", "upsample(%a) {size=(1, 1)}", "concat(%a) {axis=-1}",
    "max_pool(%a) {pool_size=(1, 1), strides=(1, 1), padding='same'}",
    "average_pool(%a) {pool_size=(1, 1), strides=(1, 1)}",
    "rescaling(%a) {scale=1.0, offset=0.0}", "rescaling(%a) {scale=(1.0, 1.0, 1.0), offset=0.0}",
    "leaky_relu(%a) {alpha=1.0}",
]


@pytest.mark.parametrize("op", MOVES_NOTHING)
def test_identity_1_to_3(check, op):
    check(RemoveIdentity(), f"""
        float graph g
        input %x:f32[_,6,4,3]
        %a = relu(%x)
        %i = {op}
        %y = add(%i, %a)
        output %y, %i
    """, """
        float graph g
        input %x:f32[_,6,4,3]
        %a = relu(%x)
        %y = add(%a, %a)
        output %y, %a
    """)


MOVES_SOMETHING = [
    "reshape(%a) {shape=(4, 6, 3)}", "permute(%a) {dims=(2, 1, 3)}", "pad(%a) {pads=((0, 1), (0, 0), (0, 0))}",
    "crop(%a) {crops=((0, 0), (1, 0), (0, 0))}", "slice(%a) {slices=((0, None, 1), (0, None, 2), (0, None, 1))}",
    "take(%a) {axis=2, indices=(0, 1, 3, 2)}", "upsample(%a) {size=(1, 2)}", "concat(%a, %a) {axis=-1}",
    "max_pool(%a) {pool_size=(1, 1), strides=(2, 1)}", "average_pool(%a) {pool_size=(1, 2), strides=(1, 1)}",
    "rescaling(%a) {scale=1.0, offset=0.5}", "rescaling(%a) {scale=(1.0, 2.0, 1.0), offset=0.0}",
    "leaky_relu(%a) {alpha=0.5}",
]


@pytest.mark.parametrize("op", MOVES_SOMETHING)
def test_identity_4_what_does_something_stays(check, op):
    check(RemoveIdentity(), f"""
        float graph g
        input %x:f32[_,6,4,3]
        %a = relu(%x)
        %i = {op}
        output %i
    """)


def test_identity_4_unknown_shape_stays():
    graph = parse("""
        float graph g
        input %x:f32[_,_,4]
        %i = reshape(%x) {shape=(5, 4)}
        output %i
    """)
    assert not RemoveIdentity()(graph).modified


@pytest.mark.parametrize("before, after", [
    ("activation(%x) {function='linear'}", "identity(%x)"),
    ("activation(%x) {function='relu'}", "relu(%x) {max_value=None}"),
    ("activation(%x) {function='relu6'}", "relu(%x) {max_value=6.0}"),
    ("activation(%x) {function='leaky_relu'}", "leaky_relu(%x) {alpha=0.2}"),
    ("activation(%x) {function='softmax'}", "softmax(%x) {axis=-1}"),
    ("leaky_relu(%x) {alpha=0.0}", "relu(%x) {max_value=None}"),
])
def test_canonical_activation_1_to_6(before, after):
    text = "float graph g\ninput %x:f32[_,4]\n%y = {}\noutput %y"
    graph, expected = parse(text.format(before)), parse(text.format(after))
    result = CanonicalActivation()(graph)
    assert result.modified and snapshot(result.graph) == snapshot(expected)
    again = CanonicalActivation()(result.graph)
    assert not again.modified and snapshot(again.graph) == snapshot(expected)


@pytest.mark.parametrize("op", ["activation(%x) {function='tanh'}", "leaky_relu(%x) {alpha=0.3}", "relu(%x)"])
def test_canonical_activation_7_others_stay(check, op):
    check(CanonicalActivation(), f"float graph g\ninput %x:f32[_,4]\n%y = {op}\noutput %y")
