"""Exported C at the ends of its integers: every 16-bit code, accumulators of 32 bits, any real.

Ops and networks: ``executors/test_contract.py``.
"""

from __future__ import annotations

import c_graphs
import numpy as np
import pytest
from contract import assert_contract

from graffiti.export.c.harness import CModel
from graffiti.graph import interpreter

FLAGS = ("-O1",)  # compiling dominates these tests; the contract suite and the Makefile use -O3


@pytest.mark.parametrize(
    "case", ["conv_same", "per_channel_conv", "conv_accumulator16", "conv_padded", "relu", "average_pool"]
)
def test_unfused_program_has_every_tensor(case):
    graph = c_graphs.CASES[case]()
    traced = CModel(graph, FLAGS, fused=False).run_all(c_graphs.real_inputs(graph, 3))
    assert {n.name for n in graph.nodes if n.op not in ("dequantize", "softmax")} <= set(traced)


def test_resnet8():
    graph = c_graphs.resnet8()
    assert_contract("c:fused", graph, c_graphs.real_inputs(graph, 20))


def test_requantize_of_every_16_bit_code_at_every_shift_and_rounding():
    """One graph: every int16 code, shifted by -32 to 40, in the four rounding modes, to signed and unsigned 8 bits."""
    codes = np.arange(-(2**15), 2**15, dtype=np.int16)
    for rounding in c_graphs.ROUNDINGS:
        builder = c_graphs.Builder((len(codes),), c_graphs.S16(0), name=rounding)
        outputs = []
        for shift in [*range(-34, 20), 30, 31, 32, 33, 40, 62, 63, 80]:
            for target in (c_graphs.S8, c_graphs.U8):
                outputs.append(
                    builder.node(
                        "requantize", f"r{len(outputs)}", builder.input, format=target(shift), rounding=rounding
                    )
                )
        model = CModel(builder.finish(*outputs), FLAGS)
        expected = interpreter.run(builder.graph, codes[None].astype(np.float32), values=True)
        for name, got in zip(outputs, model.run(codes[None], codes=True), strict=True):
            np.testing.assert_array_equal(got, expected[name], err_msg=f"{rounding} {builder.graph.format(name)}")


def test_accumulators_at_the_limits_of_32_bits():
    """Sums that reach the ends of int32 exactly, rounded in every mode: no step on the way may overflow."""
    for rounding in c_graphs.ROUNDINGS:
        builder = c_graphs.Builder((4,), c_graphs.S16(0), name=rounding)
        graph = builder.graph
        weights = np.full((4, 3), -(2**14), np.int16)
        weights[3] += 1  # 2**31 itself would not fit, and the export proves that nothing reaches it
        kernel = graph.add_constant("d/kernel", weights, c_graphs.S16(0))
        product = builder.node("dense", "d/product", builder.input, kernel)
        bias = graph.add_constant("d/bias", np.array([0, -1, 1], np.int32), graph.format(product))
        value = builder.node("bias_add", "d", product, bias)
        outputs = [
            builder.node("requantize", f"r{shift}", value, format=c_graphs.S16(shift), rounding=rounding)
            for shift in (-1, 0, 1, 15, 16, 17, 30, 31, 32, 33, 40)
        ]
        graph = builder.finish(
            *outputs, builder.node("requantize", "wide", value, format=c_graphs.QFormat(32, True, 1), rounding=rounding)
        )
        ends = [
            [-(2**15)] * 4, [2**15 - 1] * 4, [-(2**15)] * 3 + [-(2**15) + 1], [1, 0, 0, 0], [0, 0, 0, 0], [-1, 0, 0, 0]
        ]
        codes = np.array(ends, np.int16)
        expected = interpreter.run(graph, codes.astype(np.float32), values=True)
        assert expected["d"].max() > 2**31 - 2**15 and expected["d"].min() < -(2**31) + 2**17
        for fused in (True, False):
            for name, got in CModel(graph, FLAGS, fused=fused).run_all(codes.astype(np.float32)).items():
                np.testing.assert_array_equal(got, expected[name], err_msg=f"{rounding} {name}")


def test_input_helper_rounds_and_saturates_like_the_reference():
    values = np.array(
        [
            -np.inf, np.inf, -1e38, 1e38, 1e-45, -1e-45, -2.5, -1.5, -0.5, -0.0, 0.0, 0.5, 1.5, 2.5, 0.49999997, 126.5,
            127.5, -128.5
        ],
        np.float32
    )
    for exponent in (-140, -7, 0, 3, 100):
        for rounding in c_graphs.ROUNDINGS:
            builder = c_graphs.Builder((len(values),), c_graphs.S8(exponent))
            builder.graph.nodes[0].attrs["rounding"] = rounding
            graph = builder.finish(builder.node("reshape", "r", builder.input, shape=(len(values),)))
            with np.errstate(over="ignore"):
                x = np.stack([values, np.ldexp(values, exponent)])
            expected = interpreter.run(graph, x, values=True)["x_q"]
            np.testing.assert_array_equal(
                CModel(graph, FLAGS).quantize(x)[0], expected, err_msg=f"{exponent} {rounding}"
            )
