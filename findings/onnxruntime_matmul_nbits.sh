#!/usr/bin/env bash
# ONNX Runtime: MatMul of float32 inputs with int8 weights behind a DequantizeLinear.
# One would guess: weights are dequantized and multiplied in float32; here every sum is an integer float32 holds.
# What happens: a default session runs MatMulNBits, which quantizes the float32 inputs to 8 bits in blocks.
# Who is hit: weight-only files, and quantized layers whose input is wider than 8 bits.
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11, x86-64.
# Date: 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort

model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 1024] x) => (float[N, 64] y) <float one = {1.0}, int8 zero = {0}> {
    w = DequantizeLinear(codes, one, zero)
    y = MatMul(x, w)
}""")
random = np.random.default_rng(0)
codes = random.integers(-8, 8, (1024, 64)).astype(np.int8)
model.graph.initializer.append(onnx.numpy_helper.from_array(codes, "codes"))
onnx.checker.check_model(model, full_check=True)
x = random.integers(-1000, 1001, (16, 1024))  # every sum is below 2**24: exact in float32 in any order
exact = x @ codes.astype(np.int64)
assert (np.abs(x) @ np.abs(codes.astype(np.int64))).max() < 2**24


def run(level):
    """The output, and the operators of the graph that ran."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        if level is not None:
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        options.optimized_model_filepath = str(pathlib.Path(folder) / "ran.onnx")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        ran = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    return session.run(None, {"x": x.astype(np.float32)})[0], ran


print("onnx", onnx.__version__, "onnxruntime", ort.__version__)
same = True
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", None):
    got, ran = run(level)
    off = np.abs(got - exact)
    worst = f"{(off > 0).sum()} of {off.size} outputs differ, by up to {off.max():.1f} of {np.abs(exact).max()}"
    print(f"{level or 'a default session'}: {ran}; {worst}")
    same &= (ran == ["MatMulNBits"] and off.max() > 10) if level is None else off.max() == 0
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
