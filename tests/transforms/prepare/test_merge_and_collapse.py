"""MergeRescaling, CollapseConcat, SplitSeparableConv, UnfuseLeakyRelu."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.printer import parse
from graffiti.transforms.prepare.collapse_concat import CollapseConcat
from graffiti.transforms.prepare.merge_rescaling import MergeRescaling
from graffiti.transforms.prepare.split_separable_conv import SplitSeparableConv
from graffiti.transforms.prepare.unfuse_leaky_relu import UnfuseLeakyRelu


def test_rescaling_1_and_2(check):
    check(MergeRescaling(), """
        float graph g
        input %x:f32[_,4,3]
        %a = rescaling(%x) {scale=0.5, offset=1.0}
        %b = rescaling(%a) {scale=(2.0, 4.0, -1.0), offset=0.25}
        %c = rescaling(%b) {scale=2.0, offset=(1.0, 2.0, 3.0)}
        output %c
    """, """
        float graph g
        input %x:f32[_,4,3]
        %c = rescaling(%x) {scale=(2.0, 4.0, -1.0), offset=(5.5, 10.5, 1.5)}
        output %c
    """)


def test_rescaling_3_nothing_is_left(check):
    check(MergeRescaling(), """
        float graph g
        input %x:f32[_,4,3]
        %a = rescaling(%x) {scale=0.00390625, offset=1.0}
        %b = rescaling(%a) {scale=256.0, offset=-256.0}
        %r = relu(%b)
        output %r
    """, """
        float graph g
        input %x:f32[_,4,3]
        %r = relu(%x)
        output %r
    """)


@pytest.mark.parametrize("outputs", ["%b, %a", "%b, %r"])
def test_rescaling_4_read_twice(check, outputs):
    check(MergeRescaling(), f"""
        float graph g
        input %x:f32[_,4,3]
        %a = rescaling(%x) {{scale=0.5, offset=1.0}}
        %b = rescaling(%a) {{scale=2.0, offset=0.0}}
        %r = relu(%a)
        output {outputs}, %r
    """)


def test_concat_1_to_3(check):
    check(CollapseConcat(), """
        float graph g
        input %x:f32[_,2,3]
        input %y:f32[_,2,1]
        %a = relu(%x)
        %c0 = concat(%x, %y) {axis=-1}
        %c1 = concat(%y, %c0, %a) {axis=2}
        %c2 = concat(%a, %x)
        %c3 = concat(%c2, %c1, %y, %c2) {axis=-1}
        output %c3
    """, """
        float graph g
        input %x:f32[_,2,3]
        input %y:f32[_,2,1]
        %a = relu(%x)
        %c3 = concat(%a, %x, %y, %x, %y, %a, %y, %a, %x) {axis=-1}
        output %c3
    """)


def test_concat_4_another_axis(check):
    check(CollapseConcat(), """
        float graph g
        input %x:f32[_,2,3]
        %c0 = concat(%x, %x) {axis=1}
        %c1 = concat(%c0, %c0) {axis=-1}
        output %c1
    """)


@pytest.mark.parametrize("outputs", ["%c1, %c0", "%c1, %r"])
def test_concat_5_read_elsewhere(check, outputs):
    check(CollapseConcat(), f"""
        float graph g
        input %x:f32[_,2,3]
        %c0 = concat(%x, %x)
        %r = relu({'%c0' if 'r' in outputs else '%x'})
        %c1 = concat(%c0, %x, %r)
        output {outputs}
    """)


def test_separable_1_without_bias(check):
    check(SplitSeparableConv(), """
        float graph g
        input %x:f32[_,9,9,3]
        const %s/depthwise_kernel:f32[3,3,3,2] = random(1)
        const %s/pointwise_kernel:f32[1,1,6,4] = random(2)
        %s = separable_conv(%x, %s/depthwise_kernel, %s/pointwise_kernel) {strides=(2, 2), padding='same', dilation=(1, 1)}
        output %s
    """, """
        float graph g
        input %x:f32[_,9,9,3]
        const %s/depthwise_kernel:f32[3,3,3,2] = random(1)
        const %s/pointwise_kernel:f32[1,1,6,4] = random(2)
        %s/depthwise = depthwise_conv(%x, %s/depthwise_kernel) {strides=(2, 2), padding='same', dilation=(1, 1)}
        %s = conv(%s/depthwise, %s/pointwise_kernel) {strides=(1, 1), padding='valid', dilation=(1, 1), groups=1}
        output %s
    """)


def test_separable_2_to_4_bias_one_axis_dilation_two_calls(check):
    head = """
        float graph g
        input %x:f32[_,12,3]
        const %s/depthwise_kernel:f32[3,3,1] = random(1)
        const %s/pointwise_kernel:f32[1,3,3] = random(2)
        const %s/bias:f32[3] = [1, -2, 0.5]
    """
    check(SplitSeparableConv(), head + """
        %s/product = separable_conv(%x, %s/depthwise_kernel, %s/pointwise_kernel) {strides=(1,), padding='same', dilation=(2,)}
        %s = bias_add(%s/product, %s/bias)
        %s_call1/product = separable_conv(%s, %s/depthwise_kernel, %s/pointwise_kernel) {strides=(1,), padding='same', dilation=(2,)}
        %s_call1 = bias_add(%s_call1/product, %s/bias)
        output %s_call1
    """, head + """
        %s/depthwise = depthwise_conv(%x, %s/depthwise_kernel) {strides=(1,), padding='same', dilation=(2,)}
        %s/product = conv(%s/depthwise, %s/pointwise_kernel) {strides=(1,), padding='valid', dilation=(1,), groups=1}
        %s = bias_add(%s/product, %s/bias)
        %s_call1/depthwise = depthwise_conv(%s, %s/depthwise_kernel) {strides=(1,), padding='same', dilation=(2,)}
        %s_call1/product = conv(%s_call1/depthwise, %s/pointwise_kernel) {strides=(1,), padding='valid', dilation=(1,), groups=1}
        %s_call1 = bias_add(%s_call1/product, %s/bias)
        output %s_call1
    """)


def test_separable_other_products_stay(check):
    check(SplitSeparableConv(), """
        float graph g
        input %x:f32[_,9,9,3]
        const %d/kernel:f32[3,3,3,2] = random(1)
        %d = depthwise_conv(%x, %d/kernel) {strides=(2, 2), dilation=(1, 1)}
        output %d
    """)


@pytest.mark.parametrize("slope", [0.1, 0.9, -0.3])
def test_leaky_relu_1(check, slope):
    check(UnfuseLeakyRelu(), f"""
        float graph g
        input %x:f32[_,4,3]
        %l = leaky_relu(%x) {{alpha={slope}}}
        output %l
    """, f"""
        float graph g
        input %x:f32[_,4,3]
        const %l/alpha:f32[1] = [{slope}]
        %l/scaled = multiply(%x, %l/alpha)
        %l = maximum(%x, %l/scaled)
        output %l
    """)


def test_leaky_relu_1_numbers_of_c11():
    graph = parse("float graph g\ninput %x:f32[_,2]\n%l = leaky_relu(%x) {alpha=0.1}\noutput %l")
    (out,) = run_float(UnfuseLeakyRelu()(graph).graph, [np.array([[-1.3, 0.8]])])
    np.testing.assert_allclose(out, [[-0.13, 0.8]], atol=1e-7)


def test_leaky_relu_2_slope_above_one_and_the_twin():
    text = "float graph g\ninput %x:f32[_,4]\n%l = {}\noutput %l"
    result = UnfuseLeakyRelu()(parse(text.format("leaky_relu(%x) {alpha=1.5}")))
    assert not result.modified
    (note,) = result.notes
    assert note.node == "l" and "1.5" in note.why
    assert not UnfuseLeakyRelu()(parse(text.format("relu(%x)"))).modified
