"""FoldBatchNorm, both forms; the numbers are the cases of the class docstring."""

from __future__ import annotations

import numpy as np
import pytest

from graffiti.graph.float_interpreter import run_float
from graffiti.graph.match import walk_up
from graffiti.graph.passes import snapshot
from graffiti.graph.printer import parse
from graffiti.numerics import fold
from graffiti.transforms.prepare.fold_batch_norm import FoldBatchNorm

BN = """
        const %{0}/gamma:f32[{1}] = random(11)
        const %{0}/beta:f32[{1}] = random(12)
        const %{0}/mean:f32[{1}] = random(13)
        const %{0}/variance:f32[{1}] = full(0.6)
"""
NORM = "batch_norm({x}, %{bn}/gamma, %{bn}/beta, %{bn}/mean, %{bn}/variance) {{epsilon=0.001, momentum=0.9}}"


def norm(bn: str, x: str) -> str:
    return NORM.format(bn=bn, x=x)


# op, its input, kernel shape, output channels, attributes, channel axis
PRODUCTS = [
    ("conv", "8,8,3", "3,3,3,4", 4, "strides=(2, 1), padding='same', dilation=(1, 1), groups=1", -1),
    ("conv", "8,8,4", "3,3,2,6", 6, "strides=(1, 1), padding='valid', dilation=(2, 2), groups=2", -1),
    ("conv", "9,3", "3,3,4", 4, "strides=(1,), padding='valid', dilation=(1,), groups=1", -1),
    ("depthwise_conv", "8,8,3", "3,3,3,2", 6, "strides=(1, 1), padding='same', dilation=(1, 1)", "flat"),
    ("dense", "5", "5,4", 4, "", -1),
    ("dense", "2,3,5", "5,4", 4, "", -1),
    ("conv_transpose", "4,4,3", "3,3,5,3", 5, "strides=(2, 2), padding='same', output_padding=None", -2),
]
IDS = [f"{p[0]}-{p[1]}" for p in PRODUCTS]


@pytest.mark.parametrize("op, x, kernel, channels, attrs, axis", PRODUCTS, ids=IDS)
def test_1_and_3_with_bias_training(check, op, x, kernel, channels, attrs, axis):
    attrs = f" {{{attrs}}}" if attrs else ""
    check(FoldBatchNorm(), f"""
        float graph g
        input %x:f32[_,{x}]
        const %c/kernel:f32[{kernel}] = random(1)
        const %c/bias:f32[{channels}] = random(2)
        {BN.format('bn', channels)}
        %c/product = {op}(%x, %c/kernel){attrs}
        %c = bias_add(%c/product, %c/bias)
        %bn = {norm('bn', '%c')}
        %r = relu(%bn)
        output %r, %bn
    """, f"""
        float graph g
        input %x:f32[_,{x}]
        const %c/kernel:f32[{kernel}] = random(1)
        const %c/bias:f32[{channels}] = random(2)
        {BN.format('c', channels)}
        %c/folded_kernel = fold_kernel(%c/kernel, %c/gamma, %c/variance) {{epsilon=0.001, channel_axis={axis!r}}}
        %c/folded_bias = fold_bias(%c/bias, %c/gamma, %c/beta, %c/mean, %c/variance) {{epsilon=0.001, momentum=0.9}}
        %c/product = {op}(%x, %c/folded_kernel){attrs}
        %c = bias_add(%c/product, %c/folded_bias)
        %r = relu(%c)
        output %r, %c
    """)


@pytest.mark.parametrize("op, x, kernel, channels, attrs, axis", PRODUCTS, ids=IDS)
def test_1_to_3_inference(check, op, x, kernel, channels, attrs, axis):
    """With and without a bias; the constants are those of numerics/fold.py to the bit."""
    attrs = f" {{{attrs}}}" if attrs else ""
    for bias in (True, False):
        product = f"""%c/product = {op}(%x, %c/kernel){attrs}
        %c = bias_add(%c/product, %c/bias)""" if bias else f"%c = {op}(%x, %c/kernel){attrs}"
        before = f"""
            float graph g
            input %x:f32[_,{x}]
            const %c/kernel:f32[{kernel}] = random(1)
            {f'const %c/bias:f32[{channels}] = random(2)' if bias else ''}
            {BN.format('bn', channels)}
            {product}
            %bn = {norm('bn', '%c')}
            %r = relu(%bn)
            output %r, %bn
        """
        c = parse(before).constants
        gamma, beta, mean, variance = (c[f"bn/{role}"] for role in ("gamma", "beta", "mean", "variance"))
        constants = {
            "c/kernel": fold.fold_kernel(c["c/kernel"], gamma, variance, 0.001, axis),
            "c/bias": fold.fold_bias(
                c.get("c/bias", np.zeros(channels, np.float32)), gamma, beta, mean, variance, 0.001
            ),
        }
        check(FoldBatchNorm(training=False), before, f"""
            float graph g
            input %x:f32[_,{x}]
            const %c/kernel:f32[{kernel}]
            const %c/bias:f32[{channels}]
            %c/product = {op}(%x, %c/kernel){attrs}
            %c = bias_add(%c/product, %c/bias)
            %r = relu(%c)
            output %r, %c
        """, constants)


def test_2_no_bias(check):
    check(FoldBatchNorm(), f"""
        float graph g
        input %x:f32[_,5]
        const %c/kernel:f32[5,4] = random(1)
        {BN.format('bn', 4)}
        %c = dense(%x, %c/kernel)
        %bn = {norm('bn', '%c')}
        output %bn
    """, f"""
        float graph g
        input %x:f32[_,5]
        const %c/kernel:f32[5,4] = random(1)
        const %c/bias:f32[4] = full(0)
        {BN.format('c', 4)}
        %c/folded_kernel = fold_kernel(%c/kernel, %c/gamma, %c/variance) {{epsilon=0.001, channel_axis=-1}}
        %c/folded_bias = fold_bias(%c/bias, %c/gamma, %c/beta, %c/mean, %c/variance) {{epsilon=0.001, momentum=0.9}}
        %c/product = dense(%x, %c/folded_kernel)
        %c = bias_add(%c/product, %c/folded_bias)
        output %c
    """)


def test_a_product_made_for_its_batch_norm_takes_its_name(check):
    """What affine_to_depthwise puts in front, with and without reshapes around it."""
    kernel, bias = "{epsilon=0.001, channel_axis='flat'}", "{epsilon=0.001, momentum=0.9}"
    for last in ("bn", "bn/affine"):
        check(FoldBatchNorm(), f"""
            float graph g
            input %x:f32[_,2,4]
            const %bn/kernel:f32[1,4,1] = full(1)
            {BN.format('bn', 4)}
            %bn/product = depthwise_conv(%x, %bn/kernel) of %bn {{strides=(1,), dilation=(1,)}}
            %{last} = {norm('bn', '%bn/product').replace(') {', ') of %bn {')}
            output %{last}
        """, f"""
            float graph g
            input %x:f32[_,2,4]
            const %bn/kernel:f32[1,4,1] = full(1)
            const %bn/bias:f32[4] = full(0)
            {BN.format('bn', 4)}
            %bn/folded_kernel = fold_kernel(%bn/kernel, %bn/gamma, %bn/variance) of %bn {kernel}
            %bn/folded_bias = fold_bias(%bn/bias, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) of %bn {bias}
            %bn/product = depthwise_conv(%x, %bn/folded_kernel) of %bn {{strides=(1,), dilation=(1,)}}
            %{last} = bias_add(%bn/product, %bn/folded_bias) of %bn
            output %{last}
        """)


def two_calls(kernel: str, second: str) -> str:
    return f"""
        float graph g
        input %x:f32[_,4]
        input %y:f32[_,4]
        const %c/kernel:f32[4,4] = random(1)
        const %d/kernel:f32[4,4] = random(2)
        {BN.format('bn', 4)}
        {BN.format('bo', 4)}
        %c = dense(%x, %c/kernel)
        %c_call1 = dense(%y, {kernel})
        %bn = {norm('bn', '%c')}
        %bn_call1 = {second}
        output %bn_call1, %bn
    """


@pytest.mark.parametrize("training", [True, False])
def test_4_a_layer_called_twice(check, training):
    """Folded once, also where the second call's product comes first in the list of batch norms."""
    before = two_calls("%c/kernel", norm("bn", "%c_call1"))
    before = before.replace(BN.format("bo", 4), "").replace("const %d/kernel:f32[4,4] = random(2)", "")
    if training:
        check(FoldBatchNorm(), before, f"""
            float graph g
            input %x:f32[_,4]
            input %y:f32[_,4]
            const %c/kernel:f32[4,4] = random(1)
            const %c/bias:f32[4] = full(0)
            {BN.format('c', 4)}
            %c/folded_kernel = fold_kernel(%c/kernel, %c/gamma, %c/variance) {{epsilon=0.001, channel_axis=-1}}
            %c/folded_bias = fold_bias(%c/bias, %c/gamma, %c/beta, %c/mean, %c/variance) {{epsilon=0.001, momentum=0.9}}
            %c/product = dense(%x, %c/folded_kernel)
            %c_call1/product = dense(%y, %c/folded_kernel)
            %c = bias_add(%c/product, %c/folded_bias)
            %c_call1 = bias_add(%c_call1/product, %c/folded_bias)
            output %c_call1, %c
        """)
    else:
        c = parse(before).constants
        arrays = [c[f"bn/{role}"] for role in ("gamma", "beta", "mean", "variance")]
        check(FoldBatchNorm(training=False), before, """
            float graph g
            input %x:f32[_,4]
            input %y:f32[_,4]
            const %c/kernel:f32[4,4]
            const %c/bias:f32[4]
            %c/product = dense(%x, %c/kernel)
            %c_call1/product = dense(%y, %c/kernel)
            %c = bias_add(%c/product, %c/bias)
            %c_call1 = bias_add(%c_call1/product, %c/bias)
            output %c_call1, %c
        """, {
            "c/kernel": fold.fold_kernel(c["c/kernel"], arrays[0], arrays[3], 0.001),
            "c/bias": fold.fold_bias(np.zeros(4), *arrays, 0.001),
        })


def test_4_calls_in_another_order(check):
    """The nodes that fold stand before the first product, whichever batch norm comes first."""
    result = FoldBatchNorm()(parse(f"""
        float graph g
        input %x:f32[_,4]
        const %c/kernel:f32[4,4] = random(1)
        {BN.format('bn', 4)}
        %c = dense(%x, %c/kernel)
        %c_call1 = dense(%x, %c/kernel)
        %bn = {norm('bn', '%c_call1')}
        %bn_call1 = {norm('bn', '%c')}
        output %bn, %bn_call1
    """))
    assert result.modified
    assert [n.name for n in result.graph.nodes[:2]] == ["c/folded_kernel", "c/folded_bias"]
    assert result.graph.outputs == ["c_call1", "c"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "reader, outputs", [("relu(%c)", "%bn, %r"), ("relu(%x)", "%bn, %c"), ("relu(%c/product)", "%bn, %r")]
)
def test_5_read_elsewhere(check, training, reader, outputs):
    check(FoldBatchNorm(training=training), f"""
        float graph g
        input %x:f32[_,4]
        const %c/kernel:f32[4,4] = random(1)
        const %c/bias:f32[4] = random(2)
        {BN.format('bn', 4)}
        %c/product = dense(%x, %c/kernel)
        %c = bias_add(%c/product, %c/bias)
        %bn = {norm('bn', '%c')}
        %r = {reader}
        output {outputs}
    """)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel, second", [
    ("%c/kernel", norm("bo", "%c_call1")),            # one kernel, two batch norms
    ("%d/kernel", norm("bn", "%c_call1")),            # one batch norm, two kernels
    ("%c/kernel", "relu(%c_call1)"),                  # one kernel, one batch norm, a call without
    ("%c/kernel", norm("bn", "%c_call1").replace("0.001", "0.01")),
])
def test_6_shared_but_not_alike(check, training, kernel, second):
    check(FoldBatchNorm(training=training), two_calls(kernel, second))


@pytest.mark.parametrize(
    "between, attrs", [("relu", ""), ("pad", "{pads=((0, 0), (0, 0), (0, 0))}"), ("training_only", "{layer='Dropout'}")]
)
def test_7_something_in_between(check, between, attrs):
    check(FoldBatchNorm(), f"""
        float graph g
        input %x:f32[_,2,3,4]
        const %c/kernel:f32[4,4] = random(1)
        {BN.format('bn', 4)}
        %c = dense(%x, %c/kernel)
        %r = {between}(%c) {attrs}
        %bn = {norm('bn', '%r')}
        output %bn
    """)


def test_7_a_kernel_that_is_no_constant(check):
    check(FoldBatchNorm(), f"""
        float graph g
        input %x:f32[_,4]
        const %w:f32[4,4] = random(1)
        {BN.format('bn', 4)}
        %c/kernel = relu(%w)
        %c = dense(%x, %c/kernel)
        %bn = {norm('bn', '%c')}
        output %bn
    """)


def test_twin_without_a_batch_norm(check):
    check(FoldBatchNorm(), """
        float graph g
        input %x:f32[_,4]
        const %c/kernel:f32[4,4] = random(1)
        %c = dense(%x, %c/kernel)
        output %c
    """)


def test_c8_frozen_numbers():
    """C8: moving statistics, an identity kernel, so that the product is Z."""
    text = """
        float graph c8
        input %x:f32[_,2]
        const %c/kernel:f32[2,2] = [[1, 0], [0, 1]]
        const %bn/gamma:f32[2] = [1.5, 0.5]
        const %bn/beta:f32[2] = [0.1, -0.2]
        const %bn/mean:f32[2] = [1, 0.5]
        const %bn/variance:f32[2] = [2, 4]
        %c = dense(%x, %c/kernel)
        %bn = batch_norm(%c, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) {epsilon=0.001}
        output %bn
    """
    z = np.array([[1, -2], [3, 0.5], [2, 1], [-1, 4]])
    expected = [[0.1, -0.8249219], [2.2207902, -0.2], [1.1603951, -0.0750156], [-2.0207902, 0.6748906]]
    inference = FoldBatchNorm(training=False)(parse(text)).graph
    np.testing.assert_allclose(inference.constants["c/kernel"], np.diag([1.0603951, 0.2499688]), atol=1e-6)
    np.testing.assert_allclose(inference.constants["c/bias"], [-0.9603951, -0.3249844], atol=1e-6)
    training = FoldBatchNorm(training=True)(parse(text)).graph
    values = run_float(training, [z], values=True)
    for graph in (inference, training):
        (out,) = run_float(graph, [z])
        np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(np.diag(values["c/folded_kernel"]), [1.0603951, 0.2499688], atol=1e-6)
    np.testing.assert_allclose(values["c/folded_bias"], [-0.9603951, -0.3249844], atol=1e-6)


def test_training_and_inference_form_fold_to_the_same_bits():
    text = f"""
        float graph g
        input %x:f32[_,6,6,3]
        const %c/kernel:f32[3,3,3,2] = random(1)
        const %c/bias:f32[6] = random(2)
        {BN.format('bn', 6)}
        %c/product = depthwise_conv(%x, %c/kernel) {{strides=(1, 1), dilation=(1, 1)}}
        %c = bias_add(%c/product, %c/bias)
        %bn = {norm('bn', '%c')}
        output %bn
    """
    x = np.random.RandomState(3).normal(size=(1, 6, 6, 3))
    graph = parse(text)
    before = snapshot(graph)
    inference, training = (FoldBatchNorm(training=t)(graph).graph for t in (False, True))
    values = run_float(training, [x], values=True)
    assert (values["c/folded_kernel"] == inference.constants["c/kernel"]).all()
    assert (values["c/folded_bias"] == inference.constants["c/bias"]).all()
    assert snapshot(graph) == before
    assert walk_up(training, "c", ("bias_add", "depthwise_conv")) == "x"
