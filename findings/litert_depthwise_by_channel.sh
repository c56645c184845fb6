#!/usr/bin/env bash
# LiteRT's builtin kernels: int8 DEPTHWISE_CONV_2D with equal inputs, weights, biases and scales in all channels.
# One would guess: equal channels give equal codes.
# What happens: -1.5 becomes -1 in whole groups of eight channels and -2 in the channels behind them.
# Who is hit: comparisons with a reference that has one rounding: ties of 4, 12, 20 ... channels never all agree.
# Versions: ai-edge-litert 2.3.0, numpy 2.4.6, Python 3.11, x86-64.
# Date: 2026-12-01.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ai-edge-litert==2.3.0 flatbuffers==25.12.19 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import sys
from importlib.metadata import version

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType


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


product = operator(0, [0, 1, 2], [3], "DepthwiseConv2DOptions")
options = product.builtinOptions
options.padding = schema.Padding.VALID
options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = options.depthMultiplier = 1
codes, words = schema.TensorType.INT8, schema.TensorType.INT32
tensors = [tensor("x", [1, 1, 1, 12], codes, (1.0,)), tensor("kernel", [1, 1, 1, 12], codes, (1.0,), 1),
           tensor("bias", [12], words, (1.0,), 2), tensor("y", [1, 1, 1, 12], codes, (4.0,))]
constants = [np.ones(12, np.int8), np.zeros(12, np.int32)]
data = file(tensors, [("DEPTHWISE_CONV_2D", 3)], [product], 3, constants)
x = np.full((1, 1, 1, 12), -6, np.int8)
builtin = litert(data, x, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES).ravel()
xnnpack = litert(data, x, OpResolverType.AUTO).ravel()
print("ai-edge-litert", version("ai-edge-litert"))
print("12 channels: -6 at the scale 1, a weight of 1 at the scale 1, no bias, to the scale 4: -1.5")
print("builtin kernels  ", *builtin)
print("XNNPACK delegate ", *xnnpack)
same = builtin.tolist() == [-1] * 8 + [-2] * 4 and xnnpack.tolist() == [-2] * 12
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
