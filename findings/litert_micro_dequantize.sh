#!/usr/bin/env bash
# LiteRT for Microcontrollers: DEQUANTIZE of a tensor with a scale for each channel.
# One would guess: each channel is multiplied by its own scale, as LiteRT does with the same file.
# What happens: every channel is multiplied by the first channel's scale; no error, no message.
# Who is hit: float32 layers whose int8 weights are stored per channel (weight-only files, float fallbacks).
# Versions: tflite-micro 0.dev20261023182759, ai-edge-litert 2.3.0, numpy 2.4.6, Python 3.11.
# Date: 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6 tflite-micro==0.dev20261023182759
"$folder/venv/bin/python" - <<'PROGRAM'
import sys
from importlib.metadata import version

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from tflite_micro.python.tflite_micro import runtime


def tensor(name, shape, kind, scales=(), buffer=0):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, kind, buffer
    if scales:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = list(scales), [0] * len(scales)
    return made


def operator(number, inputs, outputs, kind=None):
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = number, inputs, outputs
    if kind:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        made.builtinOptions = getattr(schema, f"{kind}T")()
    return made


def file(tensors, codes, operators, output, constants=()):
    """A model whose input is tensor 0; constants are the buffers 1, 2, ..."""
    graph, model = schema.SubGraphT(), schema.ModelT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [0], [output]
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [], []
    for builtin, version in codes:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, builtin)
        code.version = version
        model.operatorCodes.append(code)
    for array in (None, *constants):
        buffer = schema.BufferT()
        buffer.data = None if array is None else np.frombuffer(array.tobytes(), np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert(data, x, resolver):
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


scales = (1.0, 0.5, 0.25, 0.125)
real, codes = schema.TensorType.FLOAT32, schema.TensorType.INT8
tensors = [tensor("x", [4, 1], real), tensor("weights", [4, 1], codes, scales, 1),
           tensor("reals", [4, 1], real), tensor("y", [4, 1], real)]
operators = [operator(0, [1], [2]), operator(1, [0, 2], [3], "AddOptions")]
data = file(tensors, [("DEQUANTIZE", 5), ("ADD", 1)], operators, 3, [np.full(4, 8, np.int8)])
x = np.zeros((4, 1), np.float32)
expected = 8 * np.float32(scales)
large = litert(data, x, OpResolverType.AUTO).ravel()
micro = runtime.Interpreter.from_bytes(data)
micro.set_input(x, 0)
micro.invoke()
small = micro.get_output(0).ravel()
print("ai-edge-litert", version("ai-edge-litert"), "tflite-micro", version("tflite-micro"))
print("weights 8, 8, 8, 8 with the scales", *scales, "plus 0")
print("expected                   ", *expected)
print("LiteRT                     ", *large)
print("LiteRT for Microcontrollers", *small)
same = bool((large == expected).all() and (small == expected[0]).all())
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
