"""How a graph is started on each executor. Everything heavy is imported where it is used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graffiti.executors.executor import Unavailable, unavailable
from graffiti.graph import interpreter
from graffiti.graph.interpreter import Island
from graffiti.graph.ir import Graph
from graffiti.graph.ops import attributes


class Reference:
    """The interpreter on ``numerics.reference``, as an object like the others."""

    def __init__(self, graph: Graph, island: Island | None) -> None:
        self.graph, self.island = graph, island

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs."""
        return interpreter.run(self.graph, inputs, island=self.island)

    def run_all(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Every value, the graph's inputs included."""
        return interpreter.run(self.graph, inputs, values=True, island=self.island)


def reference(graph: Graph, island: Island | None, option: str, threads: int | None) -> Reference:
    """Numpy; the oracle.

    Args:
        graph, island: as of ``Executor.run``.
        option, threads: not used.
    """
    return Reference(graph, island)


# ---- the program runner and TensorFlow -------------------------------------------------------------------------------
def native(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The program runner.

    Args:
        graph, island, threads: as of ``Executor.run``.
        option: a tier; ``""`` for the best of this CPU.

    Raises:
        Unavailable: without the kernel library, or where this CPU lacks the tier.
    """
    from graffiti.runtime import library
    from graffiti.runtime.runner import Runner

    _has_tier(option)
    with unavailable(library.KernelsNotAvailable):
        return Runner(graph, tier=option or "auto", threads=threads, island=island)


def _has_tier(option: str) -> None:
    from graffiti.runtime import library

    library.tier_number(option or "auto")
    if option and option not in tiers():
        raise Unavailable(f"this CPU does not run the tier {option}; it has {', '.join(tiers())}")


def tiers() -> Sequence[str]:
    """Every tier of the runner that this CPU has."""
    from graffiti.runtime import library

    with unavailable(library.KernelsNotAvailable):
        return library.load().tiers()


def ops(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The TensorFlow op library.

    Args:
        graph, island: as of ``Executor.run``.
        option: a tier; ``""`` for the best of this CPU.
        threads: not used; TensorFlow has its own.

    Raises:
        Unavailable: without the op library, or where this CPU lacks the tier.
    """
    from graffiti.executors.tensorflow import TensorFlowExecutor
    from graffiti.ops import loader

    with unavailable(loader.OpsNotAvailable):
        loader.load()
    _has_tier(option)
    return TensorFlowExecutor(graph, ops="native", tier=option or "auto", island=island)


def python(graph: Graph, island: Island | None, option: str, threads: int | None):
    """Pure TensorFlow.

    Args:
        graph, island: as of ``Executor.run``.
        option, threads: not used.
    """
    from graffiti.executors.tensorflow import TensorFlowExecutor

    return TensorFlowExecutor(graph, ops="python", island=island)


# ---- exports ---------------------------------------------------------------------------------------------------------
class Exported:
    """A compiled C export, with its outputs as reals beside its tensors."""

    def __init__(self, graph: Graph, model) -> None:
        self.graph, self.model = graph, model

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The output codes, by the helpers in the exported header as reals; without a softmax at the end, which the
        file leaves to the caller.
        """
        reals, whole = self._outputs(inputs), []
        for index, port in enumerate(self.model.outputs):
            if "part" not in port or index == 0 or self.model.outputs[index - 1]["source"] != port["source"]:
                whole.append(reals[port["source"]])
        return whole

    def _outputs(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; parts that leave one by one are joined as the graph joins them."""
        ports = self.model.outputs
        reals = self.model.dequantize(self.model.run(self._named(inputs)))
        known = {port.get("part", port["source"]): real for port, real in zip(ports, reals, strict=True)}
        return {port["source"]: _joined(self.graph, port["source"], known) for port in ports}

    def run_all(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The traced tensors, and the outputs but those of a softmax."""
        producers = self.graph.producers()
        values = _codes(self.graph, self.model.run_all(self._named(inputs)))
        for name, real in self._outputs(inputs).items():
            if self.graph.format(name) is None and not _behind_softmax(name, producers):
                values[name] = real
        return values

    def _named(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.graph.inputs, inputs, strict=True))


def _joined(graph: Graph, value: str, known: dict[str, np.ndarray]) -> np.ndarray:
    """A real value of the graph from those that are known, by moves."""
    if value not in known:
        node = graph.producers()[value]
        known[value] = interpreter.RULES[node.op](
            graph, node, attributes(node), *(_joined(graph, name, known) for name in node.inputs)
        )
    return known[value]


def _codes(graph: Graph, traced: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what an exported program makes of the border: moves of codes that are moves of reals in the graph."""
    return {name: array for name, array in traced.items() if name in graph.types and graph.format(name) is not None}


def _behind_softmax(value: str, producers) -> bool:
    node = producers.get(value)
    return (
        node is not None
        and (
            node.op == "softmax"
            or (node.op != "dequantize" and any(_behind_softmax(name, producers) for name in node.inputs))
        )
    )


class Emulated:
    """A cross-compiled C export in an emulator; codes only."""

    def __init__(self, graph: Graph, model) -> None:
        self.graph, self.model = graph, model

    def run(self, inputs: list[np.ndarray]) -> Sequence[np.ndarray]:
        """Nothing: the emulated program writes tensors only."""
        raise NotImplementedError("an emulated program shows its tensors; use run_all")

    def run_all(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The traced tensors."""
        return _codes(self.graph, self.model.run_all(dict(zip(self.graph.inputs, inputs, strict=True))))


def c(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The C export: compiled for this machine, or cross-compiled for a board and emulated.

    Args:
        graph: as of ``Executor.run``.
        option: ``""`` fused, as it is written; ``unfused``; or a board of ``export.c.boards.BOARDS``.
        island, threads: not used; the exporter takes no Keras layers, the code runs on one thread.

    Raises:
        Unavailable: where the exporter refuses the graph, or a compiler or emulator is missing.
    """
    from graffiti.export.base import ExportError
    from graffiti.export.c.boards import BOARDS, EmulatedModel, missing
    from graffiti.export.c.harness import CModel, compiler

    with unavailable(ExportError):
        if option in BOARDS:
            if why := missing(option):
                raise Unavailable(why)
            return Emulated(graph, EmulatedModel(graph, option))
        with unavailable(RuntimeError):
            compiler()
        return Exported(graph, CModel(graph, fused=option != "unfused"))


# Option → runtime and arithmetic of the file (LiteRTExporter.write); float32 is equal in every runtime, and the builtin
# one is the stricter test.
LITERT_FILES = {
    "xnnpack": ("xnnpack", "int8"), "builtin": ("builtin", "int8"), "half_up": ("builtin", "half_up"),
    "float32": ("builtin", "float32"),
    "micro": ("micro", "half_up"),
}


def litert(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The LiteRT export in its interpreter.

    Args:
        graph: as of ``Executor.run``.
        option: a key of ``LITERT_FILES``; ``""`` for XNNPACK, which the interpreter runs by default.
        island: not used; the exporter takes no Keras layers.
        threads: of the interpreter; 1 by default, and always with ``micro``.

    Raises:
        Unavailable: where the exporter or the interpreter refuses the graph.
    """
    from graffiti.export.base import ExportError
    from graffiti.export.litert.runner import LiteRTModel, NotTaken

    runtime, arithmetic = LITERT_FILES[option or "xnnpack"]
    with unavailable(ExportError, NotTaken):
        return LiteRTModel(graph, runtime, arithmetic=arithmetic, threads=threads or 1)


def litert_bounds(graph: Graph, option: str) -> dict[str, tuple[int, str]]:
    """Where LiteRT rounds otherwise than the graph, and how far that can reach (``export/difference.py``)."""
    from graffiti.export.litert.exporter import LiteRTExporter

    kernels, arithmetic = LITERT_FILES[option or "xnnpack"]
    why = (f"an operator of LiteRT's {kernels} kernels at or before it rounds ties otherwise than the graph; "
           "the exports with arithmetic='half_up' or 'float32' are equal there")
    steps = LiteRTExporter().expected_difference(graph, runtime=kernels, arithmetic=arithmetic)
    return {tensor: (most, why) for tensor, most in steps.items()}


# Option → form of the file (OnnxExporter.write) and whether the session is the default one, which rewrites it, or runs
# it as it is written.
ONNX_FILES = {
    "plain": ({"exact": "runtime"}, False), "optimized": ({"exact": "runtime"}, True),
    "anywhere": ({"exact": "anywhere"}, False),
    "int8": ({"exact": "runtime", "weights": "int8"}, True),
}


def onnx(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The ONNX export in ONNX Runtime.

    Args:
        graph: as of ``Executor.run``.
        option: a key of ``ONNX_FILES``; ``""`` for ``plain``. ``optimized`` and ``int8`` show the tensors of codes:
            with accumulators shown the runtime would not fuse them. ``int8`` runs with
            ``session.x64quantprecision=1``, which x86 CPUs without VNNI need for its weights.
        island, threads: not used; the exporter takes no Keras layers, the session has one thread.

    Raises:
        Unavailable: where the exporter refuses the graph.
    """
    from graffiti.export.base import ExportError
    from graffiti.export.onnx.harness import OnnxModel

    with unavailable(ExportError):
        form, optimize = ONNX_FILES[option or "plain"]
        return OnnxModel(graph, optimize=optimize, show="codes" if optimize else "all", **form)


def onnx_bounds(graph: Graph, option: str) -> dict[str, tuple[int, str]]:
    """Where ONNX Runtime computes in float32 what is written for int8 kernels (``export/difference.py``)."""
    from graffiti.export.onnx.exporter import OnnxExporter

    why = (
        "a product at or before it is written for int8 kernels and computed in float32 here; the export with "
        "exact='anywhere' is equal there"
    )
    form, optimize = ONNX_FILES[option or "plain"]
    steps = OnnxExporter().expected_difference(graph, session="default" if optimize else "plain", exact=form["exact"])
    return {tensor: (most, why) for tensor, most in steps.items()}


def qonnx(graph: Graph, island: Island | None, option: str, threads: int | None):
    """The QONNX export in the qonnx package's executor.

    Args:
        graph: as of ``Executor.run``.
        option, island, threads: not used.

    Raises:
        Unavailable: where the exporter refuses the graph.
    """
    from graffiti.export.base import ExportError
    from graffiti.export.onnx.harness import QonnxModel

    with unavailable(ExportError):
        return QonnxModel(graph)
