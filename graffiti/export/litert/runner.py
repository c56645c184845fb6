"""Runs an exported network in LiteRT's interpreter or in LiteRT for Microcontrollers, with every tensor that has a
counterpart in the graph.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from graffiti.export.litert.emitter import KERNELS
from graffiti.export.litert.exporter import LiteRTExporter
from graffiti.export.litert.layout import layout_of
from graffiti.export.ports import input_dtype
from graffiti.graph.interpreter import bind_inputs
from graffiti.graph.ir import Graph


def interpreter(data: bytes, runtime: str = "xnnpack", threads: int = 1):
    """A LiteRT interpreter of a flatbuffer.

    Args:
        data: the file.
        runtime: ``xnnpack``, ``builtin`` for the kernels without any delegate, or ``micro`` for the portable kernels of
            LiteRT for Microcontrollers.
        threads: of the interpreter.

    Raises:
        ImportError: where ``ai-edge-litert`` (``micro``: ``tflite-micro``) is not installed.
        ValueError: for another runtime.
    """
    if runtime not in KERNELS:
        raise ValueError(f"a LiteRT runtime is one of {', '.join(KERNELS)}, got {runtime!r}")
    if runtime == "micro":
        return MicroInterpreter(data)
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise ImportError(
            "running LiteRT models needs the package ai-edge-litert: pip install ai-edge-litert"
        ) from error
    resolver = OpResolverType.AUTO if runtime == "xnnpack" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_content=data, experimental_op_resolver_type=resolver, num_threads=threads)


class NotTaken(RuntimeError):
    """A runtime lacks an operator or a type that a file needs."""


ARENA = 1 << 26  # bytes beside ten times the file, for the tensors of one example


class MicroInterpreter:
    """LiteRT for Microcontrollers on this machine, with the methods of LiteRT's interpreter that ``LiteRTModel`` calls;
    one example at a time, as on a chip.

    Args:
        data: the file.

    Raises:
        ImportError: where ``tflite-micro`` is not installed.
        NotTaken: where it does not take the file.
    """

    def __init__(self, data: bytes) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise ImportError("running models in LiteRT for Microcontrollers needs the package tflite-micro: pip "
                              "install tflite-micro") from error
        try:
            self._interpreter = runtime.Interpreter.from_bytes(data, arena_size=10 * len(data) + ARENA)
        except RuntimeError as error:
            raise NotTaken(
                "LiteRT for Microcontrollers does not take the file: it lacks an operator or a type, named on standard "
                "error; keep what needs it out of the network"
            ) from error
        described = interpreter(data, "builtin")
        self._input_details, self._output_details = described.get_input_details(), described.get_output_details()
        self._inputs: dict[int, np.ndarray] = {}
        self._outputs: dict[int, np.ndarray] = {}

    def get_input_details(self) -> list[dict[str, Any]]:
        """``index`` and ``shape`` of each input, for one example."""
        return self._input_details

    def get_output_details(self) -> list[dict[str, Any]]:
        """``index`` of each output."""
        return self._output_details

    def resize_tensor_input(self, index: int, shape) -> None:
        """Nothing: ``set_tensor`` brings the batch."""

    def allocate_tensors(self) -> None:
        """Nothing: done."""

    def set_tensor(self, index: int, array: np.ndarray) -> None:
        """An input of any number of examples."""
        self._inputs[index] = array

    def invoke(self) -> None:
        """Every example by itself."""
        found: dict[int, list[np.ndarray]] = {detail["index"]: [] for detail in self._output_details}
        for i in range(len(next(iter(self._inputs.values())))):
            for number, detail in enumerate(self._input_details):
                self._interpreter.set_input(self._inputs[detail["index"]][i : i + 1], number)
            self._interpreter.invoke()
            for number, detail in enumerate(self._output_details):
                found[detail["index"]].append(self._interpreter.get_output(number))
        self._outputs = {index: np.concatenate(arrays) for index, arrays in found.items()}

    def get_tensor(self, index: int) -> np.ndarray:
        """An output of all examples."""
        return self._outputs[index]


class LiteRTModel:
    """An integer graph in LiteRT.

    Args:
        graph: of stage ``integer``.
        runtime: ``xnnpack``, ``builtin`` or ``micro``.
        arithmetic: as in ``LiteRTExporter.write``.
        path: run this file's bytes for ``run``, instead of a fresh export.
        threads: of the interpreter.

    Raises:
        ExportError: where the graph cannot be exported.
        ImportError: where ``ai-edge-litert`` (``micro``: ``tflite-micro``) is not installed.
    """

    def __init__(
        self, graph: Graph, runtime: str = "xnnpack", *, arithmetic: str = "int8",
        path: str | os.PathLike | None = None, threads: int = 1
    ) -> None:
        exporter = LiteRTExporter()
        self.graph = graph
        self.program = exporter.program(graph, arithmetic=arithmetic)
        data = self.program.data
        if path is not None:
            with open(path, "rb") as file:
                data = file.read()
        self._plain = interpreter(data, runtime, threads)
        self._full = interpreter(
            exporter.program(graph, arithmetic=arithmetic, every_tensor=True).data, runtime, threads
        )

    def run(self, inputs) -> list[np.ndarray]:
        """The file's outputs in the graph's order: reals as they are, codes without their zero-point."""
        self._invoke(self._plain, inputs)
        details = self._plain.get_output_details()
        return [
            self._codes(name, self._plain.get_tensor(detail["index"]))
            for name, detail in zip(self.graph.outputs, details, strict=True)
        ]

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """Every tensor with a counterpart in the graph, by name, as codes where it has a format; outputs are those
        of the plain file.
        """
        outputs = dict(zip(self.graph.outputs, self.run(inputs)))
        self._invoke(self._full, inputs)
        return {
            **{name: self._codes(name, self._full.get_tensor(index)) for name, index in self.program.tensors.items()},
            **outputs
        }

    def _invoke(self, interpreter, inputs) -> None:
        arrays = [
            np.ascontiguousarray(self._stored(name, array)) for name, array in bind_inputs(self.graph, inputs).items()
        ]
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
        return (
            array.astype(input_dtype(self.graph, name)) if layout is None
            else (array.astype(np.int64) + layout.zero_point).astype(layout.dtype)
        )

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
