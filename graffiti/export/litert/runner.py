"""Runs an exported network in LiteRT's interpreter, with every tensor that has a counterpart in the graph."""

from __future__ import annotations

import os

import numpy as np

from graffiti.export.litert.emitter import RUNTIMES
from graffiti.export.litert.exporter import LiteRTExporter
from graffiti.export.litert.layout import layout_of
from graffiti.graph.interpreter import bind_inputs
from graffiti.graph.ir import Graph


def interpreter(data: bytes, runtime: str = "xnnpack", threads: int = 1):
    """A LiteRT interpreter of a flatbuffer.

    Args:
        data: the file.
        runtime: ``xnnpack``, or ``builtin`` for the kernels without any delegate.
        threads: of the interpreter.

    Raises:
        ImportError: where ``ai-edge-litert`` is not installed.
        ValueError: for another runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"a LiteRT runtime is one of {', '.join(RUNTIMES)}, got {runtime!r}")
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError("running LiteRT models needs the package ai-edge-litert; install graffiti[litert]") from error
    resolver = OpResolverType.AUTO if runtime == "xnnpack" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=data, experimental_op_resolver_type=resolver, num_threads=threads)


class LiteRTModel:
    """An integer graph in LiteRT.

    Args:
        graph: of stage ``integer``.
        runtime: ``xnnpack`` or ``builtin``.
        arithmetic: as in ``LiteRTExporter.write``.
        path: run this file's bytes for ``run``, instead of a fresh export.
        threads: of the interpreter.

    Raises:
        ExportError: where the graph cannot be exported.
        ImportError: where ``ai-edge-litert`` is not installed.
    """

    def __init__(self, graph: Graph, runtime: str = "xnnpack", *, arithmetic: str = "int8", path: str | os.PathLike | None = None, threads: int = 1) -> None:
        exporter = LiteRTExporter()
        self.graph = graph
        self.program = exporter.program(graph, arithmetic=arithmetic)
        data = self.program.data
        if path is not None:
            with open(path, "rb") as file:
                data = file.read()
        self._plain = interpreter(data, runtime, threads)
        self._full = interpreter(exporter.program(graph, arithmetic=arithmetic, every_tensor=True).data, runtime, threads)

    def run(self, inputs) -> list[np.ndarray]:
        """The file's outputs in the graph's order: reals as they are, codes without their zero-point."""
        self._invoke(self._plain, inputs)
        details = self._plain.get_output_details()
        return [self._codes(name, self._plain.get_tensor(detail["index"])) for name, detail in zip(self.graph.outputs, details, strict=True)]

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """Every tensor with a counterpart in the graph, by name, as codes where it has a format; outputs are those of the plain file."""
        outputs = dict(zip(self.graph.outputs, self.run(inputs)))
        self._invoke(self._full, inputs)
        return {**{name: self._codes(name, self._full.get_tensor(index)) for name, index in self.program.tensors.items()}, **outputs}

    def _invoke(self, interpreter, inputs) -> None:
        arrays = [np.ascontiguousarray(self._stored(name, array)) for name, array in bind_inputs(self.graph, inputs).items()]
        details = interpreter.get_input_details()
        for detail, array in zip(details, arrays, strict=True):
            if tuple(detail["shape"]) != array.shape:
                interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(details, arrays):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()

    def _stored(self, name: str, array: np.ndarray) -> np.ndarray:
        """An input as its tensor takes it."""
        format = self.graph.format(name)
        layout = None if format is None else layout_of(format)
        return array.astype(np.float32) if layout is None else (array.astype(np.int64) + layout.zero_point).astype(layout.dtype)

    def _codes(self, name: str, array: np.ndarray) -> np.ndarray:
        """A tensor's content in the graph's terms; reals become codes by an exact division."""
        format = self.graph.format(name)
        if format is None:
            return array
        if array.dtype.kind == "i":
            layout = layout_of(format)
            assert layout is not None
            return array.astype(np.int64) - layout.zero_point
        return np.ldexp(array.astype(np.float64), -np.asarray(format.exponent, np.int64))
