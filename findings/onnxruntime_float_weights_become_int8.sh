#!/usr/bin/env bash
# ONNX Runtime: a Conv with float32 weights between DequantizeLinear and QuantizeLinear.
# One would guess: weights that the file keeps in float32 stay float32; optimizations move no output by steps.
# What happens: from ORT_ENABLE_BASIC on they are quantized to int8, by their largest value, in the session.
# Who is hit: mixed files whose layer was left in float on purpose, such as one with an outlier among its weights.
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
g (float[1, 4, 8, 8] x) => (float[1, 8, 8, 8] y) <float s = {0.0625}, float t = {0.25}, int8 zero = {0}> {
    x_q = QuantizeLinear(x, s, zero)
    x_r = DequantizeLinear(x_q, s, zero)
    c = Conv<pads = [1, 1, 1, 1]>(x_r, w)
    c_q = QuantizeLinear(c, t, zero)
    y = DequantizeLinear(c_q, t, zero)
}""")
random = np.random.default_rng(0)
weights = random.normal(size=(8, 4, 3, 3)).astype(np.float32)
weights[0, 0, 0, 0] = 20  # the outlier
model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
onnx.checker.check_model(model, full_check=True)
x = random.normal(size=(1, 4, 8, 8)).astype(np.float32)


def run(level):
    """The output, and the types of the constants of the graph that ran."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 3
        options.optimized_model_filepath = str(pathlib.Path(folder) / "ran.onnx")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        ran = onnx.load(options.optimized_model_filepath)
    kinds = [onnx.TensorProto.DataType.Name(t.data_type) for t in ran.graph.initializer if len(t.dims) == 4]
    return session.run(None, {"x": x})[0], kinds


print("onnx", onnx.__version__, "onnxruntime", ort.__version__)
plain, same = run("ORT_DISABLE_ALL")[0], True
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
    got, kinds = run(level)
    steps = np.abs(got - plain) / 0.25
    off = f"{(steps > 0).sum()} of {steps.size} outputs differ, by up to {steps.max():.0f} steps"
    print(f"{level}: the convolution's weights are {kinds}; {off}")
    untouched = level == "ORT_DISABLE_ALL"
    same &= kinds == ["FLOAT" if untouched else "INT8"] and (steps.max() >= 1) != untouched
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
