"""AffineToDepthwise; the numbers are the cases of the class docstring."""

from __future__ import annotations

import pytest

from graffiti.graph.passes import PassError
from graffiti.graph.printer import parse
from graffiti.transforms.prepare.affine_to_depthwise import AffineToDepthwise

BN = """
        const %bn/gamma:f32[3] = random(11)
        const %bn/beta:f32[3] = random(12)
        const %bn/mean:f32[3] = random(13)
        const %bn/variance:f32[3] = full(0.6)
"""
NORM = "batch_norm({}, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) {{epsilon=0.001}}"
WINDOW = "strides=(1, 1), padding='valid', dilation=(1, 1)"


def test_1_batch_norm_behind_relu(check):
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,_,5,3]
        {BN}
        %r = relu(%x)
        %bn = {NORM.format('%r')}
        output %bn
    """, f"""
        float graph g
        input %x:f32[_,_,5,3]
        const %bn/kernel:f32[1,1,3,1] = full(1)
        {BN}
        %r = relu(%x)
        %bn/product = depthwise_conv(%r, %bn/kernel) {{{WINDOW}}}
        %bn = {NORM.format('%bn/product')}
        output %bn
    """)


def test_2_and_3_rescaling_on_one_axis_and_per_channel(check):
    check(AffineToDepthwise(), """
        float graph g
        input %x:f32[_,7,3]
        %r = relu(%x)
        %a = rescaling(%r) {scale=0.5, offset=(0.0, 1.0, -1.0)}
        %b = rescaling(%a) {scale=(1.0, 2.0, 3.0), offset=0.0}
        output %b, %a
    """, """
        float graph g
        input %x:f32[_,7,3]
        const %a/kernel:f32[1,3,1] = full(0.5)
        const %a/bias:f32[3] = [0, 1, -1]
        const %b/kernel:f32[1,3,1] = [[[1], [2], [3]]]
        %r = relu(%x)
        %a/product = depthwise_conv(%r, %a/kernel) {strides=(1,), padding='valid', dilation=(1,), fixed=True}
        %a = bias_add(%a/product, %a/bias) {fixed=True}
        %b = depthwise_conv(%a, %b/kernel) {strides=(1,), padding='valid', dilation=(1,), fixed=True}
        output %b, %a
    """)


@pytest.mark.parametrize("shape, flat", [("3", (1, 1, 3)), ("2,4,5,3", (40, 1, 3))])
def test_4_other_ranks_are_reshaped(check, shape, flat):
    full = tuple(int(n) for n in shape.split(","))
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,{shape}]
        {BN}
        %r = relu(%x)
        %bn = {NORM.format('%r')}
        %s = rescaling(%bn) {{scale=2.0, offset=1.0}}
        %t = rescaling(%bn) {{scale=2.0, offset=0.0}}
        output %s, %bn, %t
    """, f"""
        float graph g
        input %x:f32[_,{shape}]
        const %bn/kernel:f32[1,1,3,1] = full(1)
        const %s/kernel:f32[1,1,3,1] = full(2)
        const %s/bias:f32[3] = full(1)
        const %t/kernel:f32[1,1,3,1] = full(2)
        {BN}
        %r = relu(%x)
        %bn/expand = reshape(%r) {{shape={flat}}}
        %bn/product = depthwise_conv(%bn/expand, %bn/kernel) {{{WINDOW}}}
        %bn/affine = {NORM.format('%bn/product')}
        %bn = reshape(%bn/affine) {{shape={full!r}}}
        %s/expand = reshape(%bn) {{shape={flat}}}
        %s/product = depthwise_conv(%s/expand, %s/kernel) {{{WINDOW}, fixed=True}}
        %s/affine = bias_add(%s/product, %s/bias) {{fixed=True}}
        %s = reshape(%s/affine) {{shape={full!r}}}
        %t/expand = reshape(%bn) {{shape={flat}}}
        %t/affine = depthwise_conv(%t/expand, %t/kernel) {{{WINDOW}, fixed=True}}
        %t = reshape(%t/affine) {{shape={full!r}}}
        output %s, %bn, %t
    """)


def test_5_what_folds_is_left_alone(check):
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,5]
        const %c/kernel:f32[5,3] = random(1)
        {BN}
        %c = dense(%x, %c/kernel)
        %bn = {NORM.format('%c')}
        output %bn
    """)


def test_1_what_only_looks_like_folding(check):
    """The product is an output too."""
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,4,5]
        const %c/kernel:f32[5,3] = random(1)
        {BN}
        %c = dense(%x, %c/kernel)
        %bn = {NORM.format('%c')}
        output %bn, %c
    """, f"""
        float graph g
        input %x:f32[_,4,5]
        const %c/kernel:f32[5,3] = random(1)
        const %bn/kernel:f32[1,3,1] = full(1)
        {BN}
        %c = dense(%x, %c/kernel)
        %bn/product = depthwise_conv(%c, %bn/kernel) {{strides=(1,), padding='valid', dilation=(1,)}}
        %bn = {NORM.format('%bn/product')}
        output %bn, %c
    """)


def test_6_two_calls_share_the_ones(check):
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,4,3]
        {BN}
        %i = relu(%x)
        %bn = {NORM.format('%i')}
        %r = relu(%bn)
        %bn_call1 = {NORM.format('%r')}
        output %bn_call1
    """, f"""
        float graph g
        input %x:f32[_,4,3]
        const %bn/kernel:f32[1,3,1] = full(1)
        {BN}
        %i = relu(%x)
        %bn/product = depthwise_conv(%i, %bn/kernel) {{strides=(1,), padding='valid', dilation=(1,)}}
        %bn = {NORM.format('%bn/product')}
        %r = relu(%bn)
        %bn_call1/product = depthwise_conv(%r, %bn/kernel) {{strides=(1,), padding='valid', dilation=(1,)}}
        %bn_call1 = {NORM.format('%bn_call1/product')}
        output %bn_call1
    """)


def test_7_parameters_that_others_read_are_copied(check):
    """The first also folds elsewhere with another epsilon; the second has another rank."""
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,4,3]
        input %y:f32[_,3]
        {BN}
        %i = relu(%x)
        %j = relu(%y)
        %bn = {NORM.format('%i')}
        %other = {NORM.format('%bn').replace('0.001', '0.5')}
        %flat = {NORM.format('%j')}
        output %other, %flat
    """, f"""
        float graph g
        input %x:f32[_,4,3]
        input %y:f32[_,3]
        const %bn/kernel:f32[1,3,1] = full(1)
        const %other/kernel:f32[1,3,1] = full(1)
        const %flat/kernel:f32[1,1,3,1] = full(1)
        {BN}
        {BN.replace('bn/', 'other/')}
        const %bn/gamma_1:f32[3] = random(11)
        const %bn/beta_1:f32[3] = random(12)
        const %bn/mean_1:f32[3] = random(13)
        const %bn/variance_1:f32[3] = full(0.6)
        %i = relu(%x)
        %j = relu(%y)
        %bn/product = depthwise_conv(%i, %bn/kernel) {{strides=(1,), padding='valid', dilation=(1,)}}
        %bn = batch_norm(%bn/product, %bn/gamma_1, %bn/beta_1, %bn/mean_1, %bn/variance_1) {{epsilon=0.001}}
        %other/product = depthwise_conv(%bn, %other/kernel) {{strides=(1,), padding='valid', dilation=(1,)}}
        %other = {NORM.format('%other/product').replace('0.001', '0.5').replace('bn/', 'other/')}
        %flat/expand = reshape(%j) {{shape=(1, 1, 3)}}
        %flat/product = depthwise_conv(%flat/expand, %flat/kernel) {{{WINDOW}}}
        %flat/affine = {NORM.format('%flat/product')}
        %flat = reshape(%flat/affine) {{shape=(3,)}}
        output %other, %flat
    """)


@pytest.mark.parametrize("shape, op, why", [
    ("_,_", "rescaling(%i) {scale=2.0, offset=0.0}", "channels"),
    ("_,_,2,2,3", "rescaling(%i) {scale=2.0, offset=0.0}", "fixed input size"),
    ("_,2,3", "rescaling(%i) {scale='bn/gamma_map', offset=0.0}", "one per channel"),
    ("_,2,3", "batch_norm(%x, %bn/gamma, %r, %bn/mean, %bn/variance) {epsilon=0.001}", "computed"),
])
def test_8_left_alone_with_a_note(shape, op, why):
    graph = parse(f"float graph g\ninput %x:f32[{shape}]\n{BN}\nconst %bn/gamma_map:f32[2,1] = random(14)\n%i = "
                  f"relu(%x)\n%r = relu(%bn/beta)\n%y = {op}\noutput %y, %r")
    result = AffineToDepthwise()(graph)
    assert not result.modified
    (note,) = result.notes
    assert note.node == "y" and why in note.why


@pytest.mark.parametrize("op", ["rescaling(%m) {scale=(1.0, 2.0, 3.0), offset=0.5}", "rescaling(%m) {scale='map', "
                                                                                     "offset=0.0}"])
def test_9_at_the_border_it_is_left_alone(check, op):
    check(AffineToDepthwise(), f"""
        float graph g
        input %x:f32[_,3,4,3]
        const %map:f32[4,3,1] = random(3)
        %m = permute(%x) {{dims=(2, 1, 3)}}
        %s = {op}
        %y = softmax(%s)
        output %y
    """)


def test_9_bytes_with_one_number_for_all_stay_codes():
    """``uint8``: they are codes already; with a number for each column, or with such a map behind, they are computed
    as reals.
    """
    def left(dtype, scale, behind=""):
        graph = parse(
            f"float graph g\ninput %x:f32[_,3,4,3]\n%s = rescaling(%x) {{scale={scale}, offset=0.5}}\n{behind}output "
            f"{'%t' if behind else '%s'}"
        )
        graph.interface["input_dtypes"] = [dtype]
        return [node.name for node in AffineToDepthwise()(graph).graph.nodes if node.op == "rescaling"]

    assert left("uint8", "0.5") == [] and left("uint8", "(0.5, 0.5, 0.5)") == []
    assert left("float32", "0.5") == left("int32", "0.5") == left("uint8", "(0.5, 1.0, 0.5)") == ["s"]
    behind = "%r = reshape(%s) {shape=(36,)}\n%t = rescaling(%r) {scale='many', offset=0.0}\n"
    assert left("uint8", "0.5", f"const %many:f32[36] = random(3)\n{behind}") == ["s", "t"]


def test_needs_separable_convolutions_split():
    graph = parse(f"""
        float graph g
        input %x:f32[_,9,9,3]
        const %d:f32[3,3,3,1] = random(1)
        const %p:f32[1,1,3,3] = random(2)
        {BN}
        %s = separable_conv(%x, %d, %p) {{strides=(1, 1), dilation=(1, 1)}}
        %bn = {NORM.format('%s')}
        output %bn
    """)
    with pytest.raises(
        PassError, match="AffineToDepthwise cannot run: batch norm 'bn' can fold into separable_conv 's'"
    ):
        AffineToDepthwise()(graph)
