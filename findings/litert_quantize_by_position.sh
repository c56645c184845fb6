#!/usr/bin/env bash
# LiteRT's builtin kernels: QUANTIZE of equal floats, float32 to int8.
# One would guess: equal inputs give equal codes, wherever they lie in the tensor.
# What happens: 2.5 becomes 2 in whole groups of eight and 3 in the elements behind them: it depends on the position.
# Who is hit: comparisons between runtimes, batch sizes or crops of one input, without the XNNPACK delegate.
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


x = np.full((1, 12), 2.5, np.float32)
tensors = [tensor("x", [1, 12], schema.TensorType.FLOAT32), tensor("q", [1, 12], schema.TensorType.INT8, (1.0,))]
data = file(tensors, [("QUANTIZE", 1)], [operator(0, [0], [1])], 1)
builtin = litert(data, x, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES).ravel()
xnnpack = litert(data, x, OpResolverType.AUTO).ravel()
print("ai-edge-litert", version("ai-edge-litert"))
print("12 times 2.5 at the scale 1")
print("builtin kernels  ", *builtin)
print("XNNPACK delegate ", *xnnpack)
same = builtin.tolist() == [2] * 8 + [3] * 4 and xnnpack.tolist() == [2] * 12
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
