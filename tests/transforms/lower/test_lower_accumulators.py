"""The overflow proof: exact at the limit, and never wrong on data."""

import networks
import numpy as np
import pytest
from random_networks import random_network

from graffiti.graph.interpreter import run
from graffiti.graph.ops import infer_all
from graffiti.graph.printer import parse
from graffiti.transforms import pipelines
from graffiti.transforms.lower.prove_accumulators import AccumulatorOverflow, ProveAccumulators, intervals


def graph(body):
    result = parse(f"integer graph net\n{body}")
    infer_all(result)
    return result


def bounds(body):
    low, high = intervals(graph(body))["y"]
    return np.ravel(low).tolist(), np.ravel(high).tolist()


def test_a_product_is_bounded_channel_by_channel():
    body = """input %x: f32[_,3]
        const %k: s8@-7[3,2] = [[1, -2], [3, 4], [-5, 0]]
        %q = quantize(%x) {format=F}
        %y = dense(%q, %k)
        output %y"""
    assert bounds(body.replace("F", "u8@-8")) == ([-5 * 255, -2 * 255], [4 * 255, 4 * 255])
    assert (
        bounds(body.replace("F", "s8@-7"))
        == ([-4 * 128 - 5 * 127, -4 * 128 - 2 * 127], [4 * 127 + 5 * 128, 4 * 127 + 2 * 128])
    )
    assert bounds(body.replace("F", "s8n@-7")) == ([-9 * 127, -6 * 127], [9 * 127, 6 * 127])


@pytest.mark.parametrize("op, shape, kernel, attrs, expected", [
    (
        "depthwise_conv", "1,2,2,1", "[[[[1], [2]], [[-3], [4]]]]", "strides=(1, 1), dilation=(1, 1)",
        ([-3 * 255, 0], [255, 6 * 255])
    ),
    (
        "conv", "1,2,1,2", "[[[[1, 2]], [[-3, 4]]]]", "strides=(1, 1), dilation=(1, 1), groups=2",
        ([-3 * 255, 0], [255, 6 * 255])
    ),
    ("conv_transpose", "1,1,1,2", "[[[[5, -7]]]]", "strides=(1, 1)", ([-7 * 255], [5 * 255])),
])
def test_kernel_layouts(op, shape, kernel, attrs, expected):
    assert bounds(f"""input %x: f32[_,4,4,2]
        const %k: s8@-7[{shape}] = {kernel}
        %q = quantize(%x) {{format=u8@-8}}
        %y = {op}(%q, %k) {{{attrs}}}
        output %y""") == expected


@pytest.mark.parametrize("node, expected", [
    # -128..127 at 2**-8 is -32..32 at 2**-6, saturated below
    ("requantize(%q) {format=u8@-6}", ([0], [32])),
    ("requantize(%q) {format=s8@-6, low=-3, high=20}", ([-3], [20])),
    ("requantize(%q) {format=s8@-10}", ([-128], [127])),
    ("requantize(%q) {format=s8@-100}", ([-128], [127])),
    ("add(%q, %q)", ([-256], [254])), ("subtract(%q, %q)", ([-255], [255])), ("maximum(%q, %r)", ([-5], [127])),
    ("multiply(%q, %m)", ([-128 * 3], [127 * 3])), ("relu(%q)", ([0], [127])),
    ("lookup(%q, %t) {format=s8@-7}", ([-9], [9])),
    ("pad(%r) {pads=((1, 1),)}", ([-5], [0])), ("concat(%q, %r)", ([-128], [127])),
    ("bias_add(%q, %b)", ([-121, -138], [134, 117])),
])
def test_every_op(node, expected):
    table = np.tile(np.array([-9, 9], np.int8), 128)
    body = parse(f"""integer graph net
        input %x: f32[_,2]
        const %m: s8@-7[2] = [3, -2]
        const %b: s32@-8[2] = [7, -10]
        const %t: s8@-7[256]
        %q = quantize(%x) {{format=s8@-8}}
        %r = requantize(%q) {{format=s8@-8, low=-5, high=-2}}
        %y = {node}
        output %y""", {"t": table})
    infer_all(body)
    low, high = intervals(body)["y"]
    assert (np.ravel(low).tolist(), np.ravel(high).tolist()) == expected


LIMIT = """input %x: s16@0[_,1]
    const %c/kernel: s16@0[1,1] = [[{w}]]
    const %c/bias: s32@0[1] = [{b}]
    %c/product = dense(%x, %c/kernel)
    %y = bias_add(%c/product, %c/bias)
    output %y"""


def test_exactly_at_the_limit():
    # quantized inputs of 16 bits: -32768 * -32768 = 2**30; a bias of 2**30 - 1 still fits, one more does not
    body = LIMIT.replace("input %x: s16@0[_,1]", "input %f: f32[_,1]\n%x = quantize(%f) {{format=s16@0}}")
    fits = body.format(w=-32768, b=2**30 - 1)
    assert bounds(fits)[1] == [2**31 - 1]
    assert not ProveAccumulators()(graph(fits)).modified
    with pytest.raises(
        AccumulatorOverflow,
        match=r"layer 'y' \(bias_add\): its accumulator may reach 2147483648, more than the 2147483647"
    ):
        ProveAccumulators()(graph(body.format(w=-32768, b=2**30)))


def test_below_the_lowest():
    body = LIMIT.replace("input %x: s16@0[_,1]", "input %f: f32[_,1]\n%x = quantize(%f) {{format=u16@0}}")
    # 65535 * -32768 = -(2**31 - 32768)
    assert bounds(body.format(w=-32768, b=-32768))[0] == [-(2**31)]
    with pytest.raises(AccumulatorOverflow, match="may reach 2147483649"):
        ProveAccumulators()(graph(body.format(w=-32768, b=-32769)))


def test_the_first_offending_layer_is_named_through_the_pipeline():
    net = networks.Network()
    x = net.input((70000,))
    graph = net.output(net.dense(net.relu(net.dense(x, "first", 2), "r"), "second", 2))
    graph.constants["first/kernel"] = np.ones((70000, 2), np.float32)
    placed = pipelines.place(graph, "int8")[0]
    for node in placed.nodes:
        if node.op == "fake_quantize":
            node.attrs["log2_threshold"] = (0.0,)
    bound = 70000 * 127 * 128
    assert bound < 2**31
    pipelines.lower(placed)
    wide = pipelines.place(graph, _sixteen_bits())[0]
    for node in wide.nodes:
        if node.op == "fake_quantize":
            node.attrs["log2_threshold"] = (0.0,)
    with pytest.raises(
        AccumulatorOverflow, match=r"layer 'first' \(dense\): its accumulator may reach \d+, .*use fewer bits"
    ):
        pipelines.lower(wide)
    assert issubclass(AccumulatorOverflow, ValueError)


def _sixteen_bits():
    from graffiti import schemes

    scheme = schemes.get("int8")
    return scheme.replace(weights=scheme.weights.replace(bits=16), activations=scheme.activations.replace(bits=16))


def test_a_bias_beyond_32_bits_is_refused():
    net = networks.Network()
    graph = net.output(net.dense(net.input((3,)), "c", 2))
    graph.constants["c/bias"] = np.array([1e6, 0], np.float32)
    placed = pipelines.place(graph, "int8")[0]
    for node in placed.nodes:
        if node.op == "fake_quantize":
            node.attrs["log2_threshold"] = (-10.0,)
    with pytest.raises(
        AccumulatorOverflow, match="the bias of 'c' is .* steps of its accumulator, more than 32 bits hold"
    ):
        pipelines.lower(placed)


def test_no_code_of_random_networks_leaves_its_proven_range():
    tight = 0
    for seed in range(3000, 3030):
        net = random_network(seed, islands=False)
        random = np.random.default_rng(seed)
        data = [random.normal(size=(4, *net.shape(name)[1:])).astype(np.float32) for name in net.inputs]
        integer = pipelines.lower(networks.calibrate(pipelines.place(net, "int8_per_channel")[0], data, seed))
        proven = intervals(integer)
        for name, codes in run(integer, [array * 20 for array in data], values=True).items():
            if name in proven:
                low, high = proven[name]
                assert (codes >= low).all() and (codes <= high).all(), f"seed {seed}: {name}"
                tight += int(codes.min() == np.min(low)) + int(codes.max() == np.max(high))
    assert tight > 100  # the ranges are reached, not just wide
