"""``prepare``: every order dependency of its passes."""

from __future__ import annotations

import pytest

from graffiti.graph.passes import PassError, Pipeline, snapshot
from graffiti.graph.printer import parse
from graffiti.transforms.pipelines import prepare, prepare_pipeline

BN = """
    const %bn/gamma:f32[4] = random(11)
    const %bn/beta:f32[4] = random(12)
    const %bn/mean:f32[4] = random(13)
    const %bn/variance:f32[4] = full(0.6)
"""
HEAD = f"""
    float graph g
    input %x:f32[_,6,6,4]
    const %c/kernel:f32[3,3,4,4] = random(1)
    {BN}
    %c = conv(%x, %c/kernel) {{strides=(1, 1), padding='same', dilation=(1, 1)}}
"""
NORM = "batch_norm({}, %bn/gamma, %bn/beta, %bn/mean, %bn/variance) {{epsilon=0.001}}"


def reordered(first: str, second: str | None) -> Pipeline:
    """The pipeline with ``first`` right behind ``second``, or without it."""
    passes = list(prepare_pipeline().passes)
    (moved,) = [step for step in passes if step.name == first]
    passes.remove(moved)
    if second is not None:
        passes.insert([step.name for step in passes].index(second) + 1, moved)
    return Pipeline("reordered", passes, debug=True)


def shape_of(graph) -> list[str]:
    return [node.op for node in graph.nodes]


FOLDED = ["fold_kernel", "fold_bias", "conv", "bias_add"]
# what comes first, behind what it must not run, a graph, its ops when the order is right
DEPENDENCIES = [
    (
        "CanonicalActivation", "RemoveIdentity",
        HEAD + "%a = activation(%c) {function='linear'}\n%bn = " + NORM.format("%a") + "\noutput %bn", FOLDED
    ),
    ("RemoveDead", "LeaveInFloat", HEAD + "%bn = " + NORM.format("%c") + "\n%dead = relu(%c)\noutput %bn", FOLDED),
    (
        "SinkTraining", "FoldBatchNorm",
        HEAD + "%d = training_only(%c) {layer='Dropout', config={'rate': 0.5}}\n%bn = " + NORM.format("%d")
        + "\noutput %bn",
        [*FOLDED, "training_only"]
    ),
    ("RemoveIdentity", "SinkTraining", HEAD + "%d = training_only(%c) {layer='Dropout', config={'rate': 0.5}}\n%i = "
                                              "identity(%d)\n%bn = " + NORM.format("%i") + "\noutput %bn",
     [*FOLDED, "training_only"]),
    (
        "RemoveIdentity", "FoldBatchNorm", HEAD + "%i = identity(%c)\n%bn = " + NORM.format("%i") + "\noutput %bn",
        FOLDED
    ),
    (
        "RemoveIdentity", "CollapseConcat",
        HEAD + "%a = concat(%c, %x)\n%i = identity(%a)\n%b = concat(%i, %x)\noutput %b", ["conv", "concat"]
    ),
    (
        "RemoveIdentity", "MergeRescaling",
        HEAD
        + "%a = rescaling(%c) {scale=2.0, offset=1.0}\n%i = identity(%a)\n%b = rescaling(%i) {scale=0.5, "
          "offset=1.0}\noutput %b",
        ["conv", "depthwise_conv", "bias_add"]
    ),
    (
        "MergeRescaling", "AffineToDepthwise",
        HEAD + "%a = rescaling(%c) {scale=2.0, offset=1.0}\n%b = rescaling(%a) {scale=0.5, offset=1.0}\noutput %b",
        ["conv", "depthwise_conv", "bias_add"]
    ),
    ("SplitSeparableConv", "AffineToDepthwise", HEAD + """
        const %s/depthwise_kernel:f32[3,3,4,1] = random(5)
        const %s/pointwise_kernel:f32[1,1,4,4] = random(6)
        %s = separable_conv(%c, %s/depthwise_kernel, %s/pointwise_kernel) {strides=(1, 1), dilation=(1, 1)}
        %bn = """ + NORM.format("%s") + "\noutput %bn", ["conv", "depthwise_conv", *FOLDED]),
    (
        "MeanToAveragePool", "LeaveInFloat", HEAD + "%m = mean(%c) {axes=(1, 2)}\noutput %m",
        ["conv", "average_pool", "reshape"]
    ),
    ("AffineToDepthwise", "FoldBatchNorm", HEAD + "%r = relu(%c)\n%bn = " + NORM.format("%r") + "\noutput %bn",
     ["conv", "relu", "fold_kernel", "fold_bias", "depthwise_conv", "bias_add"]),
    (
        "UnfuseLeakyRelu", "LeaveInFloat", HEAD + "%l = leaky_relu(%c) {alpha=0.1}\noutput %l",
        ["conv", "multiply", "maximum"]
    ),
]


@pytest.mark.parametrize(
    "first, second, text, ops", DEPENDENCIES, ids=[f"{first}-before-{second}" for first, second, _, _ in DEPENDENCIES]
)
def test_order(same_function, first, second, text, ops):
    """In order it gives these ops; the other way round it raises or gives something else. Both keep the function
    where they run.
    """
    graph = parse(text)
    after = prepare(graph)
    assert shape_of(after) == ops
    same_function(graph, after)
    try:
        wrong = reordered(first, second)(graph).graph
    except PassError:
        return
    assert shape_of(wrong) != ops
    same_function(graph, wrong)


def test_input_graph_and_notes():
    graph = parse("float graph g\ninput %x:f32[_,_,5,4]\n%m = mean(%x) {axes=(1, 2)}\noutput %m")
    before, notes = snapshot(graph), []
    after = prepare(graph, notes=notes)
    assert snapshot(graph) == before
    assert [note.node for note in notes] == ["m"] and "known lengths" in notes[0].why
    assert after.node("m").op == "island" and after.node("m").attrs["reason"] == notes[0].why


def test_takes_float_graphs_only():
    graph = parse("float graph g\ninput %x:f32[_,4]\noutput %x")
    graph.stage = "fakequant"
    with pytest.raises(ValueError, match="prepare takes a float graph, got one of stage fakequant"):
        prepare(graph)
