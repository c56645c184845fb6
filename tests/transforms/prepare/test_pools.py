"""MeanToAveragePool, CanonicalAveragePool and the published product that an average pool may become."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.ops import window_output, window_pads
from graffiti.graph.printer import parse
from graffiti.graph.verify import verify_graph
from graffiti.numerics import reference
from graffiti.numerics.formats import QFormat
from graffiti.numerics.windows import window_counts
from graffiti.transforms.place.average_pool_to_depthwise import average_pool_to_depthwise
from graffiti.transforms.prepare.canonical_average_pool import CanonicalAveragePool
from graffiti.transforms.prepare.mean_to_average_pool import MeanToAveragePool


def test_mean_1_keepdims(check):
    check(MeanToAveragePool(), """
        float graph g
        input %x:f32[_,6,4,3]
        %m = mean(%x) {axes=(1, 2), keepdims=True}
        output %m
    """, """
        float graph g
        input %x:f32[_,6,4,3]
        %m = average_pool(%x) {pool_size=(6, 4), strides=(6, 4), padding='valid'}
        output %m
    """)


def test_mean_2_axes_go(check):
    check(MeanToAveragePool(), """
        float graph g
        input %x:f32[_,6,4,3]
        %m = mean(%x) {axes=(1, 2)}
        %r = relu(%m)
        output %r
    """, """
        float graph g
        input %x:f32[_,6,4,3]
        %m/pool = average_pool(%x) {pool_size=(6, 4), strides=(6, 4), padding='valid'}
        %m = reshape(%m/pool) {shape=(3,)}
        %r = relu(%m)
        output %r
    """)


@pytest.mark.parametrize("shape, axes, window, left", [
    ("_,6,4,3", (1,), (6, 1), (4, 3)), ("_,6,4,3", (2,), (1, 4), (6, 3)), ("_,7,3", (1,), (7,), (3,)),
])
def test_mean_3_some_axes(check, shape, axes, window, left):
    check(MeanToAveragePool(), f"""
        float graph g
        input %x:f32[{shape}]
        %m = mean(%x) {{axes={axes}}}
        output %m
    """, f"""
        float graph g
        input %x:f32[{shape}]
        %m/pool = average_pool(%x) {{pool_size={window}, strides={window}, padding='valid'}}
        %m = reshape(%m/pool) {{shape={left}}}
        output %m
    """)


@pytest.mark.parametrize("keepdims, rest", [(False, "%m = reshape(%x) {shape=(3,)}\noutput %m"), (True, "output %x")])
def test_mean_4_nothing_to_average(check, keepdims, rest):
    check(MeanToAveragePool(), f"""
        float graph g
        input %x:f32[_,1,1,3]
        %m = mean(%x) {{axes=(1, 2), keepdims={keepdims}}}
        output %m
    """, f"""
        float graph g
        input %x:f32[_,1,1,3]
        {rest}
    """)


@pytest.mark.parametrize("shape, axes, keepdims, ops", [
    ("_,6,4,3", (3,), False, "permute reshape average_pool reshape"), ("_,6,4,3", (1, 3), True, "permute reshape "
                                                                                                "average_pool reshape"),
    ("_,5", (1,), True, "reshape average_pool reshape"),
    ("_,2,3,2,3", (1, 2, 3), False, "reshape average_pool reshape"),
    ("_,2,3,2,4", (2, 3), False, "permute reshape average_pool reshape"),
    ("_,6,4,1", (3,), False, "permute reshape"),
])
def test_mean_5_other_axes(same_function, shape, axes, keepdims, ops):
    graph = parse(
        f"float graph g\ninput %x:f32[{shape}]\n%m = mean(%x) {{axes={axes}, keepdims={keepdims}}}\noutput %m"
    )
    result = MeanToAveragePool()(graph)
    verify_graph(result.graph)
    assert [node.op for node in result.graph.nodes] == ops.split() and result.graph.outputs == ["m"]
    assert result.graph.types["m"] == graph.types["m"] and not MeanToAveragePool()(result.graph).modified
    same_function(graph, result.graph)


@pytest.mark.parametrize("shape, axes, why", [
    ("_,_,4,3", (1, 2), "known lengths"), ("_,_,4,3", (2,), "unknown lengths"),
    ("_,_,4,3", (3,), "known lengths"), ("_,_,2,2,3", (3, 4), "known lengths"),
])
def test_mean_7_left_alone_with_a_note(check, shape, axes, why):
    result = check(MeanToAveragePool(), f"""
        float graph g
        input %x:f32[{shape}]
        %m = mean(%x) {{axes={axes}}}
        output %m
    """)
    (note,) = result.notes
    assert note.node == "m" and why in note.why


@pytest.mark.parametrize("shape, pool", [
    ("_,7,6,2", "pool_size=(3, 2), strides=(2, 1)"), ("_,_,_,2", "pool_size=(2, 2), strides=(2, 2)"),
    ("_,8,2", "pool_size=(3,), strides=(2,), padding='same'"),
])
def test_average_pool_2_left_alone(check, shape, pool):
    check(CanonicalAveragePool(), f"float graph g\ninput %x:f32[{shape}]\n%p = average_pool(%x) {{{pool}}}\noutput %p")


def test_average_pool_1_window_of_one(check):
    check(CanonicalAveragePool(), """
        float graph g
        input %x:f32[_,7,6,2]
        %p = average_pool(%x) {pool_size=(1, 1), strides=(2, 2), padding='same'}
        output %p
    """, """
        float graph g
        input %x:f32[_,7,6,2]
        %p = max_pool(%x) {pool_size=(1, 1), strides=(2, 2), padding='same'}
        output %p
    """)


@pytest.mark.parametrize("shape, op, why", [
    ("_,_,4,2", "pool_size=(2, 2), strides=(2, 2), padding='same'", "unknown size"),
    ("_,4,4,4,2", "pool_size=(2, 2, 2), strides=(2, 2, 2)", "3"), ("_,4,_", "pool_size=(2,), strides=(2,)", "channels"),
])
def test_average_pool_3_left_alone_with_a_note(shape, op, why):
    result = CanonicalAveragePool()(parse(f"float graph g\ninput %x:f32[{shape}]\n%p = average_pool(%x) "
                                          f"{{{op}}}\noutput %p"))
    assert not result.modified
    (note,) = result.notes
    assert note.node == "p" and why in note.why


def test_average_pool_twin(check):
    check(CanonicalAveragePool(), """
        float graph g
        input %x:f32[_,7,6,2]
        %p = max_pool(%x) {pool_size=(3, 3), strides=(2, 2), padding='same'}
        output %p
    """)


def published(text: str):
    graph = parse(text)
    average_pool_to_depthwise(graph, graph.node("p"))
    return graph


def test_published_product():
    graph = published("float graph g\ninput %x:f32[_,_,6,2]\n%p = average_pool(%x) {pool_size=(3, 2), strides=(2, "
                      "1)}\noutput %p")
    assert (
        graph.node("p").op == "depthwise_conv"
        and graph.node("p").attrs == {"strides": (2, 1), "padding": "valid", "dilation": (1, 1)}
    )
    assert (
        graph.constants["p/reciprocal"].shape == (3, 2, 2, 1)
        and (graph.constants["p/reciprocal"] == np.float32(1 / 6)).all()
    )


def test_published_product_over_the_border():
    window = np.zeros((4, 2))  # 4 rows, window 3, one zero each side; 4 columns in steps of 2, window 3, zero behind
    window[:, 0], window[:, 1] = np.array([2, 3, 3, 2]) * 3, np.array([2, 3, 3, 2]) * 2
    graph = published("float graph g\ninput %x:f32[_,4,4,2]\n%p = average_pool(%x) {pool_size=(3, 3), strides=(1, 2), "
                      "padding='same'}\noutput %p")
    assert [(node.name, node.op, node.inputs) for node in graph.nodes] == [
        ("p/sum", "depthwise_conv", ("x", "p/ones")), ("p", "multiply", ("p/sum", "p/reciprocal"))]
    assert (
        (graph.constants["p/reciprocal"] == (1 / window).astype(np.float32).reshape(1, 4, 2, 1)).all()
        and (graph.constants["p/ones"] == 1).all()
    )


def test_published_product_of_unknown_length_where_the_window_is_one():
    graph = published(
        "float graph g\ninput %x:f32[_,_,2,1]\n%p = average_pool(%x) {pool_size=(1, 3), strides=(1, 1), "
        "padding='same'}\noutput %p"
    )
    assert graph.constants["p/reciprocal"].shape == (1, 1, 2, 1) and (graph.constants["p/reciprocal"] == 0.5).all()


def test_window_counts_against_a_loop():
    for size in range(1, 12):
        for window in range(1, 6):
            for stride in range(1, 5):
                before, _ = window_pads(size, window, stride, 1, "same")
                count = window_output(size, window, stride, 1, "same")
                expected = [sum(0 <= i * stride - before + k < size for k in range(window)) for i in range(count)]
                assert window_counts(size, window, stride, "same").tolist() == expected
                assert (
                    window_counts(size, window, stride, "valid").tolist()
                    == [window] * window_output(size, window, stride, 1, "valid")
                )


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_published_products_of_every_small_size_keep_the_function(padding, same_function):
    for size in range(1, 8):
        for window in range(1, size + 3 if padding == "same" else size + 1):
            for stride in (1, 2, 3):
                text = f"""
                    float graph g
                    input %x:f32[_,{size},5,2]
                    %p = average_pool(%x) {{pool_size=({window}, 2), strides=({stride}, 2), padding='{padding}'}}
                    output %p
                """
                graph = published(text)
                assert "average_pool" not in {node.op for node in graph.nodes}
                same_function(parse(text), graph)


@pytest.mark.parametrize("size, integer, exponent", [(3, 228, -11), (7, 167, -13), (2, 255, -10), (8, 255, -14)])
def test_c9_reciprocals(size, integer, exponent):
    """C9: 8 bit unsigned, MAX threshold; the constant this pass makes is what the published number is made of."""
    after = published(
        f"float graph g\ninput %x:f32[_,{size},{size},1]\n"
        f"%p = average_pool(%x) {{pool_size=({size}, {size}), strides=(1, 1)}}\noutput %p"
    )
    constant = after.constants["p/reciprocal"]
    assert constant.shape == (size, size, 1, 1) and (constant == np.float32(1 / size**2)).all()
    assert int(np.ceil(np.log2(constant.max()))) - 8 == exponent
    codes = reference.quantize(constant, QFormat(8, False, exponent), "half_even")
    assert (codes == integer).all() and reference.reciprocal(size * size) == (integer, QFormat(8, False, exponent))
    gain = {3: 1.0019531, 7: 0.9989014, 2: 0.9960938, 8: 0.9960938}[size]
    assert abs(size * size * integer * 2.0**exponent - gain) < 1e-6
    (mean_of_ones,) = run_float(after, [np.ones((1, size, size, 1))])
    np.testing.assert_allclose(mean_of_ones, 1, rtol=1e-6)


def test_c9_every_window_up_to_32x32_quantizes_from_the_constant_as_from_the_exact_reciprocal():
    for count in range(1, 1025):
        code, format = reference.reciprocal(count)
        constant = np.full((1,), 1 / count, np.float32)
        assert int(np.ceil(np.log2(constant[0]))) - 8 == format.exponent, count
        assert reference.quantize(constant, format, "half_even")[0] == code, count
