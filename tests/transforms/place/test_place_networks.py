"""Whole networks: every row of the published table, first and last layers, rules, and the report."""

import networks
import numpy as np
import pytest
from networks import Network, inception_block, mobilenet_block, resnet, text
from random_networks import random_network

from graffiti import schemes
from graffiti.config import Rule
from graffiti.graph import border
from graffiti.graph.verify import verify_graph
from graffiti.transforms import pipelines


def lines(graph, scheme, rules=(), unsigned=()):
    placed, report = pipelines.place(graph, scheme, rules, unsigned)
    verify_graph(placed)
    return networks.short(placed).splitlines(), report, placed


def published(cluster: str, kernel: str, x: str, op="conv") -> str:
    return text(f"""
        %{cluster}/q_kernel = fake_quantize(%{cluster}/kernel) {kernel} weight
        %{cluster}/product = {op}(%{x}, %{cluster}/q_kernel)
        %{cluster}/accumulator = fake_quantize(%{cluster}/product) s16 accumulator group={cluster}/accumulator
        %{cluster}/q_bias = fake_quantize(%{cluster}/bias) s16 bias group={cluster}/accumulator
        %{cluster} = bias_add(%{cluster}/accumulator, %{cluster}/q_bias)""")


def test_resnet_in_the_published_topology():
    """Section 1: input, weights (first and last 8), accumulator, bias, ReLU, projection shortcut, add, pool, logits."""
    expected = [
        "%x_q = fake_quantize(%x) s8 input",
        published("stem", "s8", "x_q"), "%stem_relu = relu(%stem)",
        "%stem_relu_q = fake_quantize(%stem_relu) u8 activation",
        published("a1", "s4", "stem_relu_q"), "%a1_relu = relu(%a1)",
        "%a1_relu_q = fake_quantize(%a1_relu) u8 activation",
        published("a2", "s4", "a1_relu_q"), "%a2_q = fake_quantize(%a2) s8 activation group=a_add_inputs",
        # identity shortcut: eltw_rescale, signed
        "%a_add_rescale_1 = fake_quantize(%stem_relu_q) s8 rescale group=a_add_inputs",
        "%a_add = add(%a2_q, %a_add_rescale_1)", "%a_relu = relu(%a_add)",
        "%a_relu_q = fake_quantize(%a_relu) u8 activation",
        published("b1", "s4", "a_relu_q"), "%b1_relu = relu(%b1)", "%b1_relu_q = fake_quantize(%b1_relu) u8 activation",
        published("b2", "s4", "b1_relu_q"), "%b2_q = fake_quantize(%b2) s8 activation group=b_add_inputs",
        published("shortcut", "s4", "a_relu_q"),
        "%shortcut_q = fake_quantize(%shortcut) s8 activation group=b_add_inputs",
        "%b_add = add(%b2_q, %shortcut_q)", "%b_relu = relu(%b_add)",
        "%b_relu_q = fake_quantize(%b_relu) u8 activation",
        "%pool/product/q_reciprocal = fake_quantize(%pool/product/reciprocal) u8 reciprocal fixed",
        "%pool/product = depthwise_conv(%b_relu_q, %pool/product/q_reciprocal)",
        "%pool/product_q = fake_quantize(%pool/product) u8 activation floor", "%pool = reshape(%pool/product_q)",
        published("logits", "s8", "pool", "dense"), "%logits_q = fake_quantize(%logits) s8 activation",
        "%probabilities = softmax(%logits_q)", "output %probabilities",
    ]
    assert "\n".join(lines(resnet(), "graffitist_int4", unsigned=["x"])[0]) == "\n".join(expected)


def test_mobilenet_v2_block_in_the_published_topology():
    """Linear bottlenecks are signed, the identity of the add is rescaled, add without ReLU is signed 8."""
    found = lines(mobilenet_block(), "graffitist_int8")[0]
    for line in (
        "%stem_q = fake_quantize(%stem) s8 activation", "%expand_relu_q = fake_quantize(%expand_relu) u8 activation",
        "%depthwise_relu_q = fake_quantize(%depthwise_relu) u8 activation",
        "%project_q = fake_quantize(%project) s8 activation group=add_inputs",
        "%add_rescale_0 = fake_quantize(%stem_q) s8 rescale group=add_inputs", "%add = add(%add_rescale_0, %project_q)",
        "%add_q = fake_quantize(%add) s8 activation", "output %next_q",
    ):
        assert line in found
    assert not any(line.startswith("%expand_q") for line in found)  # nothing between bias and ReLU


def test_inception_concat_in_the_published_topology():
    """ReLU branches share, the max pool of a shared input is rescaled with the signedness of the others."""
    found = lines(inception_block(), "graffitist_int8")[0]
    for line in (
        "%one_relu_q = fake_quantize(%one_relu) u8 activation group=mixed_inputs",
        "%three_relu_q = fake_quantize(%three_relu) u8 activation group=mixed_inputs",
        "%pool = max_pool(%stem_relu_q)", "%mixed_rescale_2 = fake_quantize(%pool) u8 rescale group=mixed_inputs",
        "%mixed = concat(%one_relu_q, %three_relu_q, %mixed_rescale_2)",
        "%after/product = conv(%mixed, %after/q_kernel)",
    ):
        assert line in found


def test_depthwise_directly_followed_by_conv():
    """Inception v2's separable convolution: no bias between, so weight q8 and output q8 signed, no accumulator
    quantizer.
    """
    net = Network()
    x = net.conv(net.depthwise(net.input((6, 6, 3)), "s", bias=False), "p", 4)
    found = lines(net.output(x), "graffitist_int8")[0]
    assert found[1:4] == text("""
        %s/q_kernel = fake_quantize(%s/kernel) s8 weight
        %s = depthwise_conv(%x_q, %s/q_kernel)
        %s_q = fake_quantize(%s) s8 activation""").splitlines()


def test_leaky_relu_and_its_signed_average_pool():
    net = Network()
    x = net.leaky_relu(net.conv(net.input((8, 8, 3)), "c", 4), "l")
    found = lines(net.output(net.average_pool(x, "pool", 8)), "graffitist_int8")[0]
    assert found[6:] == text("""
        %c_q16 = fake_quantize(%c) s16 activation group=l/inputs
        %l/q_alpha = fake_quantize(%l/alpha) s16 alpha fixed
        %l/scaled = multiply(%c_q16, %l/q_alpha)
        %l/scaled_q = fake_quantize(%l/scaled) s16 activation group=l/inputs
        %l = maximum(%c_q16, %l/scaled_q)
        %l_q = fake_quantize(%l) s8 activation
        %pool/q_reciprocal = fake_quantize(%pool/reciprocal) u8 reciprocal fixed
        %pool = depthwise_conv(%l_q, %pool/q_reciprocal)
        %pool_q = fake_quantize(%pool) s8 activation floor
        output %pool_q""").splitlines()


def test_leaky_relu_and_the_exact_mean_of_the_default_schemes():
    net = Network()
    x = net.leaky_relu(net.conv(net.input((8, 8, 3)), "c", 4), "l")
    found = lines(net.output(net.average_pool(x, "pool", 8)), "int8")[0]
    assert (
        found[-3:] == ["%pool = average_pool(%l_q)", "%pool_q = fake_quantize(%pool) s8 activation", "output %pool_q"]
    )


def weights(graph, scheme, rules=()):
    placed = pipelines.place(graph, scheme, rules)[0]
    return {
        n.name.removesuffix("/q_kernel"): n.attrs["bits"] for n in placed.nodes
        if n.op == "fake_quantize" and n.attrs["role"] == "weight"
    }


@pytest.mark.parametrize("scheme", ["int4", "int4_per_channel", "w4a4", "graffitist_int4"])
def test_first_and_last_layers_have_8_bits(scheme):
    assert weights(resnet(), scheme) == {"stem": 8, "a1": 4, "a2": 4, "b1": 4, "b2": 4, "shortcut": 4, "logits": 8}


def test_all_layers_at_an_edge_count_and_an_affine_map_does_not_hide_them():
    net = Network()
    x = net.input((6, 6, 3))
    scaled = net.depthwise(x, "normalise", 1)
    a, b = net.conv(scaled, "a", 4), net.conv(x, "b", 4)
    both = net.conv(net.add(a, b, "sum"), "middle", 4)
    outs = net.conv(both, "out1", 2), net.max_pool(net.conv(both, "out2", 2), "pool")
    assert weights(net.output(*outs), "int4") == {"normalise": 8, "a": 8, "b": 8, "middle": 4, "out1": 8, "out2": 8}


def test_a_split_layer_is_first_as_a_whole():
    net = Network()
    depthwise = net.depthwise(net.input((6, 6, 3)), "s/depthwise", bias=False)
    x = net.conv(net.conv(net.relu(net.conv(depthwise, "s", 4, 1), "r"), "m", 4), "e", 4)
    assert weights(net.output(x), "int4") == {"s/depthwise": 8, "s": 8, "m": 4, "e": 8}


# ---- rules -----------------------------------------------------------------------------------------------------------
class Conv2D:
    """Stands for the Keras class of that name."""


class GlobalAveragePooling2D:
    """Stands for the Keras class of that name."""


def test_rules_change_layers_first_match_wins():
    rules = [Rule("a1", "int8"), Rule("a.*", schemes.get("int4").replace(first_layer=None)), Rule(Conv2D, "int8")]
    assert (
        weights(resnet(), "int4", rules) == {"stem": 8, "a1": 8, "a2": 4, "b1": 8, "b2": 8, "shortcut": 8, "logits": 8}
    )


def test_a_rule_keeps_a_layer_in_float_with_quantized_borders():
    found, report, _ = lines(resnet(), "int8", [Rule("a1", None)])
    for line in ("%a1/product = conv(%stem_relu_q, %a1/kernel)", "%a1 = bias_add(%a1/product, %a1/bias)",
                 "%a1_q = fake_quantize(%a1) s8 activation", "%a1_relu = relu(%a1_q)"):
        assert line in found
    assert ("a1", "float", "the rule 'a1' → float keeps it so") in [(r.layer, r.what, r.why) for r in report]
    assert ("a1", "quantized", "output s8, a float layer's output") in [(r.layer, r.what, r.why) for r in report]


def test_a_function_as_a_rule_sees_path_op_and_classes():
    seen = []
    pipelines.place(resnet(), "int8", [Rule(lambda layer: bool(seen.append(layer)) or layer.path == "stem", None)])
    by_path = {layer.path: (layer.op, layer.classes) for layer in seen}
    assert by_path["stem"] == ("conv", ("Conv2D",)) and by_path["logits"][1] == ("Dense", "EinsumDense")
    assert "GlobalAveragePooling2D" in by_path["pool"][1] and by_path["a_add"] == ("add", ("Add",))
    assert "stem/product" not in by_path


def test_a_rule_matches_pools_by_class():
    found = lines(resnet(), "int8", [Rule(GlobalAveragePooling2D, None)])[0]
    assert (
        "%pool/product = average_pool(%b_relu_q)" in found
        and "%pool/product_q = fake_quantize(%pool/product) u8 activation" not in found
    )


@pytest.mark.parametrize("rule", [Rule("conv", "int8"), Rule(int, None), Rule(lambda layer: False, None)])
def test_a_rule_that_matches_nothing_is_an_error(rule):
    with pytest.raises(ValueError, match="matches no layer.*The layers are: stem, stem_relu, a1") as error:
        pipelines.place(resnet(), "int8", [rule])
    assert str(rule) in str(error.value)


def test_a_rule_behind_an_earlier_one_is_no_error():
    pipelines.place(resnet(), "int8", [Rule("stem", "int4"), Rule("stem", "int8")])


def test_bad_arguments():
    with pytest.raises(ValueError, match="takes a float graph, got a fakequant graph"):
        pipelines.place(pipelines.place(resnet(), "int8")[0], "int8")
    with pytest.raises(ValueError, match="unsigned_inputs names image; the graph's inputs are x"):
        pipelines.place(resnet(), "int8", unsigned_inputs=["image"])
    net = Network()
    with pytest.raises(ValueError, match="mean 'm' has no quantized form; prepare the graph"):
        pipelines.place(net.output(net.emit("mean", (net.input((4, 4, 2)),), "m", axes=(1, 2))), "int8")


def test_what_has_no_integers_is_kept_in_float_not_refused():
    net = Network()
    x, y = net.input((4, 3), "x"), net.input((4, 3), "y")
    graph = net.output(net.relu(net.emit("multiply", (x, y), "gate"), "r"))
    found, report, _ = lines(graph, "int8")
    assert found == text("""
        %gate = multiply(%x, %y)
        %gate_q = fake_quantize(%gate) s8 activation
        %r = relu(%gate_q)
        %r_q = fake_quantize(%r) u8 activation
        output %r_q""").splitlines()
    assert (
        ("gate", "float", "multiply has an integer form only where one operand is a constant")
        in [(r.layer, r.what, r.why) for r in report]
    )


def test_the_report_tells_the_final_formats():
    net = Network()
    x = net.input((6, 6, 3))
    y = net.concat([net.relu(net.conv(x, "a", 2), "r"), net.conv(x, "b", 2)], "k")
    report = lines(net.output(net.island(y, "i")), "int8", unsigned=["x"])[1]
    found = [(r.layer, r.what, r.why) for r in report]
    assert ("x", "quantized", "input u8, never negative") in found
    assert ("r", "quantized", "output s8, signed because it shares its grid with negative values") in found
    assert ("k", "shared", "'r_q', 'b_q' share one threshold") in found
    assert ("i", "float", "no integer form") in found


@pytest.mark.parametrize("scheme", schemes.names())
def test_placing_random_networks(scheme):
    """Invariants of any placement: every integer op reads a grid, quantizers stand once behind a value, groups
    agree.
    """
    for seed in range(2000, 2040):
        graph = random_network(seed)
        before = networks.short(graph)
        placed = pipelines.place(graph, scheme)[0]
        assert networks.short(graph) == before, f"seed {seed}: place changed its input"
        producers = placed.producers()
        for node in placed.nodes:
            if (
                node.op
                in (
                    "conv", "dense", "depthwise_conv", "conv_transpose", "add", "subtract", "concat", "maximum",
                    "minimum", "activation"
                )
            ):
                for value in node.inputs:
                    while (
                        producers[value].op
                        in (
                            "max_pool", "global_max_pool", "concat", "pad", "crop", "slice", "take", "reshape",
                            "permute", "upsample", "maximum", "minimum"
                        )
                    ):
                        value = producers[value].inputs[0]
                    assert producers[value].op == "fake_quantize", f"seed {seed}: {node.name} reads {value}"
            if node.op == "relu":
                assert all(
                    reader.op in ("fake_quantize", "relu") for reader in placed.consumers(node.name)
                ), f"seed {seed}: {node.name}"
            if node.op in ("add", "subtract", "concat") and len(set(node.inputs)) > 1:
                groups = {_source(producers, value).attrs["group"] for value in node.inputs}
                if node.name in border.joins(placed):
                    assert f"{node.name}_inputs" not in groups, f"seed {seed}: {node.name} only joins an output"
                else:
                    assert groups == {f"{node.name}_inputs"}, f"seed {seed}: {node.name} has {groups}"


def _source(producers, value):
    while producers[value].op != "fake_quantize":
        value = producers[value].inputs[0]
    return producers[value]


def test_fake_quantization_at_16_bits_keeps_the_function():
    """With wide codes and generous thresholds the fakequant graph computes what the float graph did."""
    wide = schemes.get("int8").replace(
        weights=schemes.get("int8").weights.replace(bits=16),
        activations=schemes.get("int8").activations.replace(bits=16)
    )
    for make in (resnet, mobilenet_block, inception_block):
        graph = make(3, norm=True)
        data = np.random.default_rng(1).normal(size=(4, *graph.shape("x")[1:])).astype(np.float32)
        placed = networks.calibrate(pipelines.place(graph, wide)[0], [data], spread=(0.0, 0.0))
        (expected,), (found,) = networks.run_float(graph, [data]), networks.run_float(placed, [data])
        np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())
