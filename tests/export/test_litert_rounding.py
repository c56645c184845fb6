"""LiteRT's own rounding, measured over every residue: the table in ``graffiti.export.litert`` holds, and is no worse
and no better.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from graffiti.export.litert import rounding
from graffiti.export.litert.flatbuffer import ModelWriter, Quantization
from graffiti.export.litert.runner import interpreter
from graffiti.numerics import reference
from graffiti.numerics.rounding import shift_right

A, B = (grid.ravel() for grid in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
PAIRS = np.stack([A, B], 1).astype(np.int8)  # all 2**16 pairs of codes
SHAPES = {"FULLY_CONNECTED": (-1, 2), "CONV_2D": (-1, 1, 1, 2), "DEPTHWISE_CONV_2D": (-1, 1, 2, 1)}  # of pairs


def scale(exponent: int) -> Quantization:
    return Quantization((2.0**exponent,))


def run(data: bytes, arrays, runtime: str) -> np.ndarray:
    model = interpreter(data, runtime)
    details = model.get_input_details()
    for detail, array in zip(details, arrays, strict=True):
        model.resize_tensor_input(detail["index"], array.shape)
    model.allocate_tensors()
    for detail, array in zip(details, arrays):
        model.set_tensor(detail["index"], array)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"]).astype(np.int64).ravel()


def product(op: str, shift: int, bias: int, kernel_scale: float = 1.0, batch: int | None = None) -> bytes:
    """``(127 * a + b + bias) / 2**shift`` for a pair of codes."""
    w = ModelWriter("product")
    shape = (batch, *SHAPES[op][1:])
    kernel = {"FULLY_CONNECTED": (1, 2), "CONV_2D": (1, 1, 1, 2), "DEPTHWISE_CONV_2D": (1, 1, 2, 1)}[op]
    x, k = (
        w.tensor("x", shape, "int8", scale(0)),
        w.constant("k", np.array([127, 1], np.int8).reshape(kernel), Quantization((kernel_scale,)))
    )
    y = w.tensor("y", (batch, 1) if op == "FULLY_CONNECTED" else (batch, 1, 1, 1), "int8", scale(shift))
    b = w.constant("b", np.array([bias], np.int32), Quantization((kernel_scale,)))
    options = {} if op == "FULLY_CONNECTED" else {"padding": 1, "strideH": 1, "strideW": 1}
    if op == "DEPTHWISE_CONV_2D":
        options["depthMultiplier"] = 1
    kind = {"FULLY_CONNECTED": "FullyConnected", "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D"}[op]
    w.operator(op, [x, k, b], [y], options, version=4 if op == "FULLY_CONNECTED" else 3, kind=kind)
    return w.finish({"x": x}, {"y": y})


@pytest.mark.parametrize("op", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("shift", [1, 2, 5, 8, 12, 15])
def test_products_over_all_residues(op, shift):
    residues = set()
    for bias in (0, 16384, -16384, 2**15 + 1):
        acc = 127 * A + B + bias
        residues.update(np.unique(acc % (1 << shift)).tolist())
        exact = np.clip(shift_right(acc, shift, "half_even"), -128, 127)
        np.testing.assert_array_equal(run(product(op, shift, bias), [PAIRS.reshape(SHAPES[op])], "xnnpack"), exact)
        np.testing.assert_array_equal(np.clip(rounding.xnnpack(acc, 2.0**-shift), -128, 127), exact)
        builtin = run(product(op, shift, bias), [PAIRS.reshape(SHAPES[op])], "builtin")
        away = op == "DEPTHWISE_CONV_2D"
        np.testing.assert_array_equal(builtin, np.clip(rounding.builtin(acc, 2.0**-shift, away=away), -128, 127))
        rest, half = acc % (1 << shift), 1 << (shift - 1)
        wrong = builtin != exact
        assert np.abs(builtin - exact).max() <= 1
        assert set(rest[wrong].tolist()) <= {half, half - 1}
        if away:
            assert not (wrong & (rest == half - 1) & (acc < 0)).any() or shift == 1
    assert len(residues) == 1 << shift


@pytest.mark.parametrize("op", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("shift", [1, 2, 5, 8, 12, 15])
def test_just_below_a_power_of_two_builtin_products_round_once(op, shift):
    """Half up over all residues; depthwise ones half away, which is the same where codes are not negative."""
    below = float(rounding.just_below(1.0))
    assert (
        below == 1 - 2.0**-24
        and rounding.just_below(np.float32([0.5, 4.0]), np.array([True, False])).tolist() == [0.5 - 2.0**-25, 4.0]
    )
    for bias in (0, 16384, -16384, 2**15 + 1):
        acc = 127 * A + B + bias
        got = run(product(op, shift, bias, below), [PAIRS.reshape(SHAPES[op])], "builtin")
        mode = "half_away" if op == "DEPTHWISE_CONV_2D" else "half_up"
        np.testing.assert_array_equal(got, np.clip(shift_right(acc, shift, mode), -128, 127))
        np.testing.assert_array_equal(np.maximum(got, 0), np.clip(shift_right(acc, shift, "half_up"), 0, 127))


@pytest.mark.parametrize("channels", [1, 7, 8, 20, 35])
def test_ties_of_builtin_depthwise_products_depend_on_the_channel(channels):
    """Whole groups of eight channels round half up, the channels behind them half away."""
    w = ModelWriter("ties")
    x, y = (w.tensor(name, (None, 1, 1, channels), "int8", scale(exponent)) for name, exponent in (("x", 0), ("y", 1)))
    k = w.constant("k", np.ones((1, 1, 1, channels), np.int8), Quantization((float(rounding.just_below(1.0)),)))
    b = w.constant("b", np.zeros(channels, np.int32), Quantization((float(rounding.just_below(1.0)),)))
    options = {"padding": 1, "strideH": 1, "strideW": 1, "depthMultiplier": 1}
    w.operator("DEPTHWISE_CONV_2D", [x, k, b], [y], options, version=3, kind="DepthwiseConv2D")
    data, codes = w.finish({"x": x}, {"y": y}), np.arange(-128, 128)
    images = np.repeat(codes.astype(np.int8), channels).reshape(-1, 1, 1, channels)
    got = run(data, [images], "builtin").reshape(-1, channels)
    for channel in range(channels):
        mode = "half_up" if channel < channels // 8 * 8 else "half_away"
        np.testing.assert_array_equal(got[:, channel], shift_right(codes, 1, mode), err_msg=f"channel {channel}")


@pytest.mark.parametrize("op", ["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("shift", [1, 2, 5, 8, 12, 15])
def test_just_below_a_power_of_two_microcontrollers_round_once_and_half_away(op, shift):
    """All products, over all residues; which is half up where codes are not negative."""
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    for bias in (0, 16384, -16384, 2**15 + 1):
        acc = 127 * A + B + bias
        model = micro.Interpreter.from_bytes(
            product(op, shift, bias, float(rounding.just_below(1.0)), len(PAIRS)), arena_size=1 << 20
        )
        model.set_input(PAIRS.reshape(SHAPES[op]), 0)
        model.invoke()
        got = model.get_output(0).astype(np.int64).ravel()
        np.testing.assert_array_equal(got, np.clip(shift_right(acc, shift, "half_away"), -128, 127))


@pytest.mark.parametrize("shift", range(1, 24))
def test_just_below_a_power_of_two_on_accumulators_of_any_size(shift):
    """By the model that the test above confirms: exact below 2**23, and beyond it where 8-bit codes saturate."""
    ties = ((np.arange(-300, 300)[:, None] * 2 + 1) << (shift - 1)) + np.arange(-3, 4)
    edges = [sign * (1 << power) + d for power in range(1, 31) for sign in (-1, 1) for d in range(-3, 4)]
    acc = np.unique(np.clip(np.concatenate([ties.ravel(), edges]), -(2**31) + 1, 2**31 - 1))
    got = rounding.builtin(acc, 2.0**-shift * (1 - 2.0**-24), away=False)
    exact = shift_right(acc, shift, "half_up")
    small = np.abs(acc) < 2**23
    np.testing.assert_array_equal(got[small], exact[small])
    if shift <= 14:
        np.testing.assert_array_equal(np.clip(got, -128, 255), np.clip(exact, -128, 255))


def test_wide_accumulators_differ_by_one_step_at_most_and_only_beyond_24_bits():
    """By the model of XNNPACK that the test above confirms, on accumulators around every tie."""
    ties = (np.arange(-128, 128)[:, None] * 2 + 1) << np.arange(14, 22)[None]  # (k + 1/2) * 2**(s + 1)
    for shift, column in zip(range(15, 23), ties.T):
        acc = (column[:, None] + np.arange(-9, 10)).ravel()
        acc = acc[np.abs(acc) < 2**31]
        difference = np.abs(rounding.xnnpack(acc, 2.0**-shift) - shift_right(acc, shift, "half_even"))
        assert difference.max() <= (shift > 15)
        assert not difference[np.abs(acc) <= 2**24].any()
    assert difference.max() == 1  # it does happen


def two_operands(op: str, shift: int) -> bytes:
    w = ModelWriter("sum")
    x, y = (w.tensor(name, (None,), "int8", scale(0)) for name in "xy")
    z = w.tensor("z", (None,), "int8", scale(shift))
    w.operator(op, [x, y], [z], {}, version=2, kind=op.capitalize())
    return w.finish({"x": x, "y": y}, {"z": z})


@pytest.mark.parametrize("op", ["ADD", "SUB"])
@pytest.mark.parametrize("shift", [-2, 0, 1, 3])
def test_sums_of_all_code_pairs(op, shift):
    acc = A + B if op == "ADD" else A - B
    for runtime, mode in (("xnnpack", "half_up"), ("builtin", "half_away")):
        got = run(two_operands(op, shift), [PAIRS[:, 0].copy(), PAIRS[:, 1].copy()], runtime)
        np.testing.assert_array_equal(got, np.clip(shift_right(acc, shift, mode), -128, 127))
        if shift <= 0:
            np.testing.assert_array_equal(got, np.clip(shift_right(acc, shift, "half_even"), -128, 127))


def quantize(source: str, target: str, shift: int) -> bytes:
    w = ModelWriter("quantize")
    x = w.tensor("x", (None,), source, None if source == "float32" else scale(0))
    y = w.tensor("y", (None,), target, scale(shift))
    w.operator("QUANTIZE", [x], [y], version=2)
    return w.finish({"x": x}, {"y": y})


@pytest.mark.parametrize("runtime", ["xnnpack", "builtin"])
@pytest.mark.parametrize("target", ["int8", "int16"])
@pytest.mark.parametrize("rest", [0, 5])
def test_quantize_from_reals_rounds_half_to_even_but_for_the_builtin_tail(runtime, target, rest):
    codes = np.append(np.arange(-70000, 70000), [-7, -3, 1, 5, 9][:rest])
    info = np.iinfo(target)
    for shift in (0, 1, 4):
        got = run(quantize("float32", target, shift), [codes.astype(np.float32)], runtime)
        exact = np.clip(shift_right(codes, shift, "half_even"), info.min, info.max)
        if target == "int16" or runtime == "builtin":  # there is no XNNPACK kernel to int16
            exact[140000:] = np.clip(shift_right(codes[140000:], shift, "half_away"), info.min, info.max)
        np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("runtime", ["xnnpack", "builtin"])
@pytest.mark.parametrize("op", ["ROUND", "FLOOR"])
@pytest.mark.parametrize("count", [1, 7, 8, 2**16 + 3])
def test_rounding_in_float32_is_exact_everywhere(runtime, op, count):
    w = ModelWriter("round")
    x, y = w.tensor("x", (None,), "float32"), w.tensor("y", (None,), "float32")
    w.operator(op, [x], [y])
    values = (np.arange(count) - count // 2).astype(np.float32) / 4
    got = run(w.finish({"x": x}, {"y": y}), [values], runtime)
    np.testing.assert_array_equal(got, (np.rint if op == "ROUND" else np.floor)(values))


@pytest.mark.parametrize("runtime", ["xnnpack", "builtin"])
def test_quantize_between_int8_is_only_exact_to_the_left(runtime):
    codes = np.arange(-128, 128)
    for shift in (0, -1, -3):
        got = run(quantize("int8", "int8", shift), [codes.astype(np.int8)], runtime)
        np.testing.assert_array_equal(got, np.clip(codes << -shift, -128, 127))
    for shift in (1, 3):
        got = run(quantize("int8", "int8", shift), [codes.astype(np.int8)], runtime)
        difference = np.abs(got - shift_right(codes, shift, "half_even"))
        assert difference.max() == 1


def test_16_bit_convolutions_round_half_up():
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**15), 2**15, (1 << 16, 1, 1, 2)).astype(np.int16)
    acc = x.reshape(-1, 2).astype(np.int64) @ [127, 1]
    for shift in (0, 2, 8):
        w = ModelWriter("wide")
        a, y = w.tensor("x", (None, 1, 1, 2), "int16", scale(0)), w.tensor("y", (None, 1, 1, 1), "int16", scale(shift))
        k, b = (
            w.constant("k", np.array([127, 1], np.int8).reshape(1, 1, 1, 2), scale(0)),
            w.constant("b", np.zeros(1, np.int64), scale(0))
        )
        w.operator("CONV_2D", [a, k, b], [y], {"padding": 1, "strideH": 1, "strideW": 1}, version=4, kind="Conv2D")
        got = run(w.finish({"x": a}, {"y": y}), [x], "xnnpack")
        np.testing.assert_array_equal(got, np.clip(shift_right(acc, shift, "half_up"), -(2**15), 2**15 - 1))


@pytest.mark.parametrize("count", [4, 9, 16, 25, 49, 64])
@pytest.mark.parametrize("codes", [(0, 255), (-128, 127)])
def test_pool_parameters_hold_for_every_sum(count, codes):
    code, format = reference.reciprocal(count)
    for shift, runtime in itertools.product((-format.exponent, -format.exponent - 1), ("xnnpack", "builtin")):
        found = rounding.pool_parameters(code, shift, count, codes, codes, runtime)
        if (count, codes, shift) == (4, (-128, 127), 10):  # 255 has no pair there: such a pool is computed in float32
            assert found is None
            continue
        # its second rounding takes negative ties away from zero: in float32 then
        if runtime == "builtin" and codes[0] < 0 and found is None:
            continue
        assert found is not None
        weight, bias, everywhere = found
        sums = np.arange(count * codes[0], count * codes[1] + 1)
        multiplier = float(np.float32(np.ldexp(code / weight, -shift)))
        expected = np.clip(code * sums >> shift, *codes)
        if everywhere or runtime == "xnnpack":
            np.testing.assert_array_equal(np.clip(rounding.xnnpack(weight * sums + bias, multiplier), *codes), expected)
        if everywhere or runtime == "builtin":
            for away in (True, False):
                got = rounding.builtin(weight * sums + bias, multiplier, away=away)
                np.testing.assert_array_equal(np.clip(got, *codes), expected)
