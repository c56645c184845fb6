"""Calls that ``benchmark`` times: a graph's own exports on fixed inputs, nothing in the call but the runtime."""

from __future__ import annotations

import numpy as np

from graffiti.executors.executor import Call, Unavailable, unavailable
from graffiti.graph.ir import Graph


def litert(graph: Graph, inputs: list[np.ndarray], threads: int) -> Call:
    """The graph exported to LiteRT, float in and out.

    Args:
        graph: of stage ``integer``, float in and out.
        inputs: one array for each input of the graph; a call runs on all of it.
        threads: of the interpreter.

    Raises:
        Unavailable: where the graph takes or gives codes, or the exporter refuses it.
    """
    from graffiti.export.base import ExportError
    from graffiti.export.litert.exporter import LiteRTExporter
    from graffiti.export.litert.runner import interpreter

    if any(graph.format(name) is not None for name in (*graph.inputs, *graph.outputs)):
        raise Unavailable("only graphs with float inputs and outputs are timed in LiteRT")
    with unavailable(ExportError):
        data = LiteRTExporter().program(graph).data
    engine = interpreter(data, "xnnpack", threads)
    details = engine.get_input_details()
    for detail, array in zip(details, inputs, strict=True):
        engine.resize_tensor_input(detail["index"], array.shape)
    engine.allocate_tensors()
    outputs = [detail["index"] for detail in engine.get_output_details()]

    def call():
        for detail, array in zip(details, inputs):
            engine.set_tensor(detail["index"], array)
        engine.invoke()
        return [engine.get_tensor(index) for index in outputs]

    return call


def onnx(graph: Graph, inputs: list[np.ndarray], threads: int) -> Call:
    """The graph exported to ONNX, in ONNX Runtime with all its optimizations.

    Args:
        graph: of stage ``integer``.
        inputs: one array for each input of the graph; a call runs on all of it.
        threads: of a session that runs one operator at a time.

    Raises:
        Unavailable: where the exporter refuses the graph.
    """
    import onnxruntime

    from graffiti.export.base import ExportError
    from graffiti.export.onnx.exporter import OnnxExporter
    from graffiti.export.onnx.harness import feeds, session_options

    with unavailable(ExportError):
        built = OnnxExporter().build(graph)
    options = session_options(optimize=True)
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(built.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = feeds(graph, inputs, built)
    return lambda: session.run(built.outputs, feed)
