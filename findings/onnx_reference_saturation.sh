#!/usr/bin/env bash
# The onnx package's ReferenceEvaluator: QuantizeLinear to int8 of reals far beyond the codes.
# One would guess: QuantizeLinear saturates, as the operator's page says: a large real becomes the highest code.
# What happens: from 2**31 steps on the reference gives the lowest code, -128; ONNX Runtime gives 127.
# Who is hit: whoever takes the reference as the oracle for inputs in raw units, at a small scale.
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, Python 3.11, x86-64.
# Date: 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import sys
import warnings

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

warnings.simplefilter("ignore")  # the cast of what int32 does not hold
model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
g (float[N] x) => (int8[N] y) <float s = {0.0078125}, int8 zero = {0}> { y = QuantizeLinear(x, s, zero) }""")
onnx.checker.check_model(model, full_check=True)
x = np.float32([1.0, 1e6, 1.6e7, 1.7e7, 3e9])
reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
runtime = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
print("onnx", onnx.__version__, "onnxruntime", ort.__version__)
print("reals at the scale 2**-7", *x)
print("ReferenceEvaluator      ", *reference)
print("ONNX Runtime            ", *runtime)
same = reference.tolist() == [127, 127, 127, -128, -128] and runtime.tolist() == [127] * 5
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
