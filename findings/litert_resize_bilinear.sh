#!/usr/bin/env bash
# LiteRT's builtin kernels: RESIZE_BILINEAR of int8, half pixel centers, by a factor of three.
# One would guess: interpolated codes within a step of the real value, like other int8 operators, in every kernel.
# What happens: the ratio is kept in few fractional bits and drifts over the image: many steps at 64 to 192.
# Who is hit: decoders and super resolution with factors that are no powers of two, without the XNNPACK delegate.
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



def resized(codes, size):
    """In float64: half pixel centers, edges repeated."""
    def axis(array, number):
        n = array.shape[number]
        place = (np.arange(size) + 0.5) * n / size - 0.5
        low = np.floor(place).astype(int)
        first, second = (np.take(array, np.clip(low + i, 0, n - 1), number) for i in (0, 1))
        weight = (place - low).reshape([-1 if i == number else 1 for i in range(array.ndim)])
        return first * (1 - weight) + second * weight
    return axis(axis(codes.astype(np.float64), 1), 2)


def worst(n, size):
    """Largest distance from the real value in steps: builtin kernels, XNNPACK."""
    resize = operator(0, [0, 1], [2], "ResizeBilinearOptions")
    resize.builtinOptions.halfPixelCenters = True
    kind = schema.TensorType.INT8
    tensors = [tensor("x", [1, n, n, 1], kind, (1.0,)), tensor("size", [2], schema.TensorType.INT32, buffer=1),
               tensor("y", [1, size, size, 1], kind, (1.0,))]
    data = file(tensors, [("RESIZE_BILINEAR", 2)], [resize], 2, [np.int32([size, size])])
    x = np.random.default_rng(0).integers(-128, 128, (1, n, n, 1)).astype(np.int8)
    kernels = (OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES, OpResolverType.AUTO)
    return [float(np.abs(litert(data, x, each) - resized(x, size)).max()) for each in kernels]


print("ai-edge-litert", version("ai-edge-litert"))
found = {(n, size): worst(n, size) for n, size in ((64, 128), (64, 192))}
for (n, size), (builtin, xnnpack) in found.items():
    print(f"{n} -> {size}: builtin kernels at most {builtin:.2f} steps off, XNNPACK delegate {xnnpack:.2f}")
same = found[64, 128][0] < 1 and found[64, 192][0] > 5 and max(x for _, x in found.values()) < 1
print("AS DESCRIBED" if same else "CHANGED")
sys.exit(not same)
PROGRAM
