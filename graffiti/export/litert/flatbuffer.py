"""A LiteRT flatbuffer under construction: tensors, operators, constants; knows the schema and nothing about graphs.

The schema's Python binding comes with ``ai-edge-litert``. Constants are aligned to 16 bytes as the schema asks (the
binding itself does not do it), equal constants share one buffer, and equal content gives equal bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
ALIGNMENT = 16
SIGNATURE = "serving_default"
TYPES = {"float32": "FLOAT32", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
         "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "bool": "BOOL"}


@dataclasses.dataclass(frozen=True)
class Quantization:
    """``real = (stored - zero_point) * scale``; several scales belong to the indices of ``axis``."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


def schema():
    """The schema's binding.

    Raises:
        ImportError: where ``ai-edge-litert`` is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError("the LiteRT export needs the package ai-edge-litert: pip install ai-edge-litert") from error
    return schema_py_generated


class ModelWriter:
    """Collects tensors and operators in order; ``finish`` gives the file's bytes. Tensors are numbered as they are
    added.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._schema = schema()
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        self._buffers: list[bytes] = [b""]  # the schema's empty buffer
        self._buffer_of: dict[bytes, int] = {}
        self._constants: dict[tuple, int] = {}
        self._names: set[str] = set()
        self._packed: dict[Any, int] = {}  # offsets of what tensors share while ``finish`` packs

    def tensor(
        self, name: str, shape: Sequence[int | None], dtype: str, quantization: Quantization | None = None
    ) -> int:
        """Add a tensor that an operator or the caller fills; sizes ``None`` are dynamic."""
        return self._add(name, shape, dtype, quantization, 0)

    def rename(self, tensor: int, name: str) -> None:
        """Call a tensor otherwise; what is called so already gets another name."""
        for other in self._tensors:
            if other.name == name and other is not self._tensors[tensor]:
                other.name = self.unique(f"{name}/value")
        self._names.add(name)
        self._tensors[tensor].name = name

    def constant(self, name: str, array: np.ndarray, quantization: Quantization | None = None) -> int:
        """Add a stored tensor; the same array under the same quantization is stored and numbered once."""
        array = np.ascontiguousarray(array)
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        key = (data, array.shape, str(array.dtype), quantization)
        if key not in self._constants:
            if data not in self._buffer_of:
                self._buffer_of[data] = len(self._buffers)
                self._buffers.append(data)
            self._constants[key] = self._add(name, array.shape, str(array.dtype), quantization, self._buffer_of[data])
        return self._constants[key]

    def operator(
        self, op: str, inputs: Sequence[int], outputs: Sequence[int], options: Mapping[str, Any] | None = None, *,
        version: int = 1, kind: str | None = None
    ) -> None:
        """Add an operator.

        Args:
            op: a name of the schema's ``BuiltinOperator``.
            inputs, outputs: numbers of tensors; −1 for an optional input that is absent.
            options: fields of the options table.
            version: of the operator.
            kind: the options table's name without ``Options``; none where the operator has none.
        """
        s = self._schema
        operator = s.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((op, version), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if kind is not None:
            table = getattr(s, f"{kind}OptionsT")()
            for field, value in (options or {}).items():
                if not hasattr(table, field):
                    raise ValueError(f"the schema's {kind}Options have no field {field!r}")
                setattr(table, field, value)
            operator.builtinOptionsType, operator.builtinOptions = getattr(s.BuiltinOptions, f"{kind}Options"), table
        self._operators.append(operator)

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
        """The whole file; the mappings name the signature's inputs and outputs, in order."""
        import flatbuffers

        s = self._schema
        graph = s.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        codes = []
        for op, version in self._codes:
            code = s.OperatorCodeT()
            code.builtinCode = getattr(s.BuiltinOperator, op)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # readers from before the wider field see this one
            code.version = version
            codes.append(code)
        signature = s.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = self._maps(inputs), self._maps(outputs)
        model = s.ModelT()
        model.version, model.description = SCHEMA_VERSION, f"{self.name}, exported by graffiti"
        model.operatorCodes, model.subgraphs, model.signatureDefs = codes, [graph], [signature]
        model.buffers = [_AlignedBuffer(data) for data in self._buffers]
        self._packed.clear()
        builder = flatbuffers.Builder(1024 + sum(map(len, self._buffers)))
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    @property
    def operators(self) -> list[str]:
        """The operators' names in order."""
        names = [op for op, _ in self._codes]
        return [names[operator.opcodeIndex] for operator in self._operators]

    def unique(self, name: str) -> str:
        """``name``, numbered where a tensor has it already."""
        candidate, number = name, 0
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def _add(
        self, name: str, shape: Sequence[int | None], dtype: str, quantization: Quantization | None, buffer: int
    ) -> int:
        tensor = self._schema.TensorT()
        tensor.name = self.unique(name)
        self._names.add(tensor.name)
        tensor.shape = [1 if n is None else int(n) for n in shape]
        if any(n is None for n in shape):
            tensor.shapeSignature = [-1 if n is None else int(n) for n in shape]
        tensor.type, tensor.buffer, tensor.hasRank = getattr(self._schema.TensorType, TYPES[dtype]), buffer, True
        if quantization is not None:
            tensor.quantization = _SharedQuantization(quantization, self._packed)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _maps(self, names: Mapping[str, int]) -> list[Any]:
        maps = []
        for name, index in names.items():
            entry = self._schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            maps.append(entry)
        return maps


class _AlignedBuffer:
    """The schema's ``Buffer`` with its data where ``force_align: 16`` wants it, which the Python binding leaves out."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def Pack(self, builder) -> int:
        vector = None
        if self.data:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head = builder.Head() - len(self.data)
            builder.Bytes[builder.Head() : builder.Head() + len(self.data)] = self.data
            vector = builder.EndVector()
        s = schema()
        s.BufferStart(builder)
        if vector is not None:
            s.BufferAddData(builder, vector)
        return s.BufferEnd(builder)



class _SharedQuantization:
    """The schema's ``QuantizationParameters``; tensors with equal ones point to the same table, and equal vectors are
    stored once.

    With one scale per channel the zero-points alone would otherwise be an eighth of a small dense network.
    """

    def __init__(self, quantization: Quantization, packed: dict[Any, int]) -> None:
        self.quantization, self._packed = quantization, packed

    def Pack(self, builder) -> int:
        if self.quantization not in self._packed:
            q, s = self.quantization, schema()
            scales = self._vector(builder, np.asarray(q.scales, np.float32))
            zero_points = self._vector(builder, np.full(len(q.scales), q.zero_point, np.int64))
            s.QuantizationParametersStart(builder)
            s.QuantizationParametersAddScale(builder, scales)
            s.QuantizationParametersAddZeroPoint(builder, zero_points)
            s.QuantizationParametersAddQuantizedDimension(builder, q.axis if len(q.scales) > 1 else 0)
            self._packed[q] = s.QuantizationParametersEnd(builder)
        return self._packed[self.quantization]

    def _vector(self, builder, array: np.ndarray) -> int:
        key = (array.tobytes(), str(array.dtype))
        if key not in self._packed:
            self._packed[key] = builder.CreateNumpyVector(array)
        return self._packed[key]
