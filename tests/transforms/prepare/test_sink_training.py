"""SinkTraining: the numbers are the cases of the class docstring."""

from __future__ import annotations

import pytest

from graffiti.graph.printer import parse
from graffiti.transforms.prepare.sink_training import SinkTraining

DROP = "{layer='Dropout', config={'rate': 0.5}}"
L1 = {"module": "keras.regularizers", "class_name": "L1", "config": {"l1": 0.5}, "registered_name": None}
ACTIVITY = f"{{layer='ActivityLoss', config={{'regularizer': {L1}}}}}"
HEAD = """
    float graph g
    input %x:f32[_,4]
    const %c/kernel:f32[4,4] = random(1)
    const %c/bias:f32[4] = random(2)
    const %gamma:f32[4] = [1.0, 2.0, 1.0, 2.0]
"""
LAYER = """
    %c/product = dense(%x, %c/kernel)
    %c = bias_add(%c/product, %c/bias)
"""
AFFINE = {
    "1 batch norm": "batch_norm({}, %gamma, %c/bias, %c/bias, %gamma) {{epsilon=0.001}}",
    "1 rescaling": "rescaling({}) {{scale=2.0, offset=1.0}}", "2 relu": "relu({}) {{max_value=None}}",
    "2 leaky relu": "leaky_relu({}) {{alpha=0.1}}"
}


@pytest.mark.parametrize("case", AFFINE)
def test_1_and_2_what_belongs_to_the_layer_goes_in_front(check, case):
    op = AFFINE[case]
    check(SinkTraining(), HEAD + LAYER + f"%d = training_only(%c) {DROP}\n%f = {op.format('%d')}\noutput %f, %x",
          HEAD + LAYER + f"%f = {op.format('%c')}\n%d = training_only(%f) {DROP}\noutput %d, %x")


def test_3_several_in_a_row(check):
    norm, relu = AFFINE["1 batch norm"], AFFINE["2 relu"]
    text = (HEAD + LAYER + f"%d = training_only(%c) {DROP}\n%e = training_only(%d) {DROP}\n%f = "
                           f"{norm.format('%e')}\n%g = {relu.format('%f')}\noutput %g")
    check(
        SinkTraining(), text,
        HEAD + LAYER
        + f"%f = {norm.format('%c')}\n%g = {relu.format('%f')}\n%d = training_only(%g) {DROP}\n%e = training_only(%d) "
          f"{DROP}\noutput %e"
    )


def test_4_an_activity_regularizer_in_front_of_relu_is_the_layers(check):
    text = HEAD + LAYER + f"%a = training_only(%c) {ACTIVITY}\n%r = relu(%a)\noutput %r"
    check(
        SinkTraining(), text, HEAD + f"training %c/kernel {{'activity': {L1}}}\n" + LAYER + "%r = relu(%c)\noutput %r"
    )


def test_4_of_a_kernel_that_is_called_twice_goes_behind(check):
    two = LAYER + "%c2 = dense(%x, %c/kernel)\n"
    check(
        SinkTraining(), HEAD + two + f"%a = training_only(%c) {ACTIVITY}\n%r = relu(%a)\noutput %r, %c2",
        HEAD + two + f"%r = relu(%c)\n%a = training_only(%r) {ACTIVITY}\noutput %a, %c2"
    )


def test_5_called_with_training_true():
    graph = parse(HEAD + "%d = training_only(%x) {layer='Dropout', config={'rate': 0.5}, always=True}\noutput %d")
    result = SinkTraining()(graph)
    assert result.modified and result.graph.node("d").attrs == {"layer": "Dropout", "config": {"rate": 0.5}}
    assert (
        [(note.node, note.what) for note in result.notes] == [("d", "training")]
        and not SinkTraining()(result.graph).modified
    )


@pytest.mark.parametrize(
    "rest",
    [
        "%s = softmax(%d)\noutput %s", "%r = relu(%d)\noutput %r, %d", "%r = relu(%d)\n%t = softmax(%d)\noutput %r, %t",
        "output %d"
    ]
)
def test_6_left_alone(check, rest):
    check(SinkTraining(), HEAD + LAYER + f"%d = training_only(%c) {DROP}\n{rest}")
