"""The published numbers (checks C9, C10, C11, C13), through placing, lowering and the interpreter."""

import math

import networks
import numpy as np
import pytest

from graffiti import schemes
from graffiti.graph.interpreter import run
from graffiti.graph.ops import infer_all
from graffiti.graph.printer import parse
from graffiti.numerics.formats import QFormat
from graffiti.transforms import pipelines
from graffiti.transforms.lower.freeze_thresholds import frozen_format


def thresholds(graph, **log2):
    """Set thresholds by node name (``__`` stands for ``/``); all of them must be named."""
    for node in graph.nodes:
        if node.op == "fake_quantize":
            value = log2.pop(node.name.replace("/", "__"))
            node.attrs["log2_threshold"] = tuple(np.ravel(value).tolist())
    assert not log2
    return graph


def lowered(body, scheme, unsigned=(), **log2):
    graph = parse(f"float graph net\n{body}")
    infer_all(graph)
    fakequant = thresholds(pipelines.place(graph, scheme, unsigned_inputs=unsigned)[0], **log2)
    return fakequant, pipelines.lower(fakequant)


def test_c10_compute_layer():
    scheme = schemes.get("graffitist_int8").replace(inputs=schemes.get("int8").activations)  # C10's input is unsigned
    t, u = math.log2(1.3), math.log2(0.9)
    fakequant, graph = lowered("""
        input %x: f32[_,3]
        const %c/kernel: f32[3,2] = [[0.30, -0.55], [0.80, 0.10], [-0.42, 0.95]]
        const %c/bias: f32[2] = [0.013, -0.4]
        %c/product = dense(%x, %c/kernel)
        %c = bias_add(%c/product, %c/bias)
        %r = relu(%c)
        output %r""", scheme, ["x"], x_q=math.log2(1.1), c__q_kernel=math.log2(0.95), c__accumulator=t, c__q_bias=t,
        r_q=u)
    x = np.array([[0.7, 0.2, 1.1]], np.float32)
    values = run(graph, x, values=True)
    assert graph.constants["c/q_kernel"].tolist() == [[38, -70], [102, 13], [-54, 122]]
    assert graph.constants["c/q_bias"].tolist() == [213, -6554]
    assert values["x_q"].tolist() == [[90, 26, 141]]
    assert values["c/accumulator"].tolist() == [[-1542, 11240]]
    assert values["c"].tolist() == [[-1542 + 213, 11240 - 6554]]
    assert values["r_q"].tolist() == [[0, 73]]
    assert {name: str(graph.format(name)) for name in ("c/q_kernel", "x_q", "c/accumulator", "c/q_bias", "r_q")} == {
        "c/q_kernel": "s8@-7", "x_q": "u8@-7", "c/accumulator": "s16@-14", "c/q_bias": "s16@-14", "r_q": "u8@-8"}
    assert values["r_q/dequantized"].tolist() == [[0.0, 0.28515625]]
    assert networks.unequal(fakequant, graph, [x]) == (5, {})


def test_c11_leaky_relu():
    fakequant = parse(f"""fakequant graph net
        input %x: f32[_,2]
        const %l/alpha: f32[1] = [0.1]
        %x_q16 = fake_quantize(%x) {{bits=16, signed=True, group='l/inputs', log2_threshold=(1.0,)}}
        %l/q_alpha = fake_quantize(%l/alpha) {{bits=16, signed=True, role='alpha', log2_threshold=({math.log2(0.1)!r},)}}
        %l/scaled = multiply(%x_q16, %l/q_alpha)
        %l/scaled_q = fake_quantize(%l/scaled) {{bits=16, signed=True, group='l/inputs', log2_threshold=(1.0,)}}
        %l = maximum(%x_q16, %l/scaled_q)
        %l_q = fake_quantize(%l) {{bits=8, signed=True, log2_threshold=(0.0,)}}
        output %l_q""")
    infer_all(fakequant)
    graph = pipelines.lower(fakequant)
    x = np.array([[-1.3, 0.8]], np.float32)
    values = run(graph, x, values=True)
    reals = {
        name: np.ldexp(values[name].astype(np.float64), graph.format(name).exponent)[0] for name in ("x_q16", "l_q")
    }
    np.testing.assert_allclose(reals["x_q16"], [-1.2999878, 0.7999878], atol=5e-8)
    np.testing.assert_allclose(
        np.ldexp(float(graph.constants["l/q_alpha"][0]), graph.format("l/q_alpha").exponent), 0.0999985, atol=5e-8
    )
    assert reals["l_q"].tolist() == [-0.1328125, 0.796875]
    assert (
        graph.format("l/scaled")
        == QFormat(32, True, graph.format("x_q16").exponent + graph.format("l/q_alpha").exponent)
    )
    assert networks.unequal(fakequant, graph, [x])[1] == {}


@pytest.mark.parametrize(
    "size, exponent, code, gain",
    [(3, -11, 228, 1.0019531), (7, -13, 167, 0.9989014), (2, -10, 255, 0.9960938), (8, -14, 255, 0.9960938)]
)
def test_c9_average_pool_reciprocal(size, exponent, code, gain):
    net = networks.Network()
    graph = net.output(net.average_pool(net.input((size, size, 2)), "p", size))
    placed = pipelines.place(graph, "graffitist_int8")[0]
    for node in placed.nodes:
        if node.op == "fake_quantize":
            node.attrs["log2_threshold"] = (math.log2(1 / size**2) if node.attrs["role"] == "reciprocal" else 0.0,)
    integer = pipelines.lower(placed)
    assert set(integer.constants["p/q_reciprocal"].ravel().tolist()) == {code}
    assert str(integer.format("p/q_reciprocal")) == f"u8@{exponent}"
    assert size**2 * math.ldexp(code, exponent) == pytest.approx(gain, abs=1e-7)
    # floor, also of negative means
    x = np.random.default_rng(0).uniform(-1, 1, (50, size, size, 2)).astype(np.float32)
    values = run(integer, x, values=True)
    shift = integer.format("p_q").exponent - integer.format("p").exponent
    assert (values["p_q"] == np.clip(values["p"] >> shift, -128, 127)).all()
    assert (values["p"] < 0).any() and networks.unequal(placed, integer, [x])[1] == {}


@pytest.mark.parametrize("log2, bits, fraction", [(0.3, 8, 6), (-2.7, 8, 9), (3.0, 16, 12)])
def test_c13_fractional_length(log2, bits, fraction):
    (node,) = parse(f"""fakequant graph net
        input %x: f32[_,4]
        %q = fake_quantize(%x) {{bits={bits}, signed=True, log2_threshold=({log2},)}}
        output %q""").nodes
    assert frozen_format(node) == QFormat(bits, True, -fraction)
