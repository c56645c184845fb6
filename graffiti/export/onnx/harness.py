"""Runs an exported network in ONNX Runtime or the QONNX executor and returns its tensors as codes, for comparing."""

from __future__ import annotations

import numpy as np

from graffiti.export.onnx.builder import Tensor
from graffiti.export.onnx.exporter import OnnxExporter, QonnxExporter
from graffiti.export.onnx.model import OnnxGraph
from graffiti.graph.interpreter import bind_inputs
from graffiti.graph.ir import Graph


def session_options(optimize: bool, *, precise: bool = False):
    """ONNX Runtime's options, on one thread.

    Args:
        optimize: the default level, at which it rewrites the graph; else none.
        precise: precise int8 kernels on x86 CPUs without VNNI, for files with ``weights="int8"``. Not the default of a
            session.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about nodes that constant folding left alone
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


class OnnxModel:
    """The ``onnx`` export of an integer graph in ONNX Runtime on the CPU.

    Args:
        graph: of stage ``integer``.
        optimize: whether ONNX Runtime rewrites the graph (then it computes most of it by int8 kernels).
        show: which tensors ``run_all`` returns: ``all``, or ``codes``, those that the optimized graph has too. Showing
            accumulators would keep the runtime from fusing them.
        exact, weights: as in ``OnnxExporter.write``.

    Raises:
        ImportError: where onnx or onnxruntime is not installed.
        ExportError: where the graph cannot be exported.
    """

    def __init__(
        self, graph: Graph, *, optimize: bool = False, show: str = "all", exact: str = "runtime", weights: str = "auto"
    ) -> None:
        import onnxruntime

        self.graph = graph
        self.exported: OnnxGraph = OnnxExporter().build(graph, show=show, exact=exact, weights=weights)
        options = session_options(optimize, precise=weights == "int8")
        self.session = onnxruntime.InferenceSession(
            self.exported.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self.session.get_outputs()]

    def run(self, inputs) -> list[np.ndarray]:
        """The network's outputs, as the file gives them."""
        got = self._run(inputs)
        return [got[name] for name in self.exported.outputs]

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """Every shown tensor by its name in the integer graph, as codes (floats where it has no format),
        channels-last.
        """
        got = self._run(inputs)
        return collect(self.graph, self.exported, got)

    def _run(self, inputs) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self.session.run(self._names, feeds(self.graph, inputs, self.exported))))


class QonnxModel:
    """The ``qonnx`` export of an integer graph in the qonnx package's executor, which is slow and runs node by node.

    Args:
        graph: of stage ``integer``.

    Raises:
        ImportError: where onnx or qonnx is not installed.
        ExportError: where the graph cannot be exported.
    """

    def __init__(self, graph: Graph) -> None:
        import qonnx.core.onnx_exec  # noqa: F401  so that a missing package is noticed here

        self.graph, self._built = graph, {1: QonnxExporter().build(graph)}

    def run_all(self, inputs) -> dict[str, np.ndarray]:
        """As ``OnnxModel.run_all``, with all tensors."""
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx

        batch = len(next(iter(bind_inputs(self.graph, inputs).values())))
        if batch not in self._built:
            self._built[batch] = QonnxExporter().build(self.graph, batch=batch)
        exported = self._built[batch]
        fed = feeds(self.graph, inputs, exported)
        return collect(
            self.graph, exported, execute_onnx(ModelWrapper(exported.model), fed, return_full_exec_context=True)
        )


def feeds(graph: Graph, inputs, exported: OnnxGraph) -> dict[str, np.ndarray]:
    """Inputs by name in the dtype that the file takes.

    Args:
        graph: of stage ``integer``.
        inputs: as of ``interpreter.run``.
        exported: the file.
    """
    return {
        name: np.ascontiguousarray(array, exported.inputs[name]) for name, array in bind_inputs(graph, inputs).items()
    }


def collect(graph: Graph, exported: OnnxGraph, got: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a run by value name, as the interpreter shows them.

    Args:
        graph: of stage ``integer``.
        exported: the file that ran; says which tensor holds which value.
        got: ONNX name → array. What the session did not return is left out.
    """
    shown: dict[str, np.ndarray] = {}
    for value, tensor in exported.tensors.items():
        if tensor.name in got and value not in graph.inputs:
            shown[value] = as_codes(graph, value, tensor, got[tensor.name])
    for value, name in zip(graph.outputs, exported.outputs):
        if value in graph.types and value not in graph.constants and value not in graph.inputs:
            shown[value] = got[name]
    return shown


def as_codes(graph: Graph, value: str, tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """An ONNX tensor in the Keras layout and in codes; reals that are no whole number of steps stay fractions.

    Args:
        graph: of stage ``integer``.
        value: what the tensor holds; its format says what a step is.
        tensor: how it is held.
        array: from the session.

    Returns:
        Codes in the format's dtype where the file holds codes, else float64 in steps; reals where the value has no
        format.
    """
    if not tensor.last:
        array = np.moveaxis(array, 1, -1)
    format = graph.format(value)
    if format is None or (tensor.codes and not tensor.zero):
        return array
    if tensor.codes:
        return (array.astype(np.int32) - tensor.zero).astype(format.dtype)
    return np.ldexp(np.asarray(array, np.float64), -np.asarray(format.exponent, np.int64))
