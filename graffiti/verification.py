"""``verify``: the proof, tensor by tensor, that every executor computes the integers of the retrained model.

The reference interpreter (numpy, ``graph/interpreter.py``) is what "correct" means. The Keras model and every target are
compared with it on each tensor they have, with ``==``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graffiti import interface
from graffiti.certificate import MAX_OFFENDERS, Bound, TensorResult, VerificationReport
from graffiti.export.c.targets import TARGETS as C_TARGETS
from graffiti.graph import interpreter
from graffiti.graph.ir import Graph
from graffiti.graph.ops import PRODUCTS
from graffiti.integer_graph import IntegerGraph
from graffiti.numerics.formats import QFormat

DEFAULT_TARGETS = ("reference", "native", "python")


def verify(
    q, ig: IntegerGraph, data, targets: Sequence[str] = DEFAULT_TARGETS, *, batch_size: int = 100, progress: bool = True,
    timestamp: str = "",
) -> VerificationReport:
    """Compare the Keras model and every target with the numpy reference, on every tensor.

    Args:
        q: the quantized Keras model that ``ig`` was lowered from; ``None`` compares the targets only.
        ig: the integer graph.
        data: array or list / dict of arrays of inputs; all of it is used.
        targets: any of ``reference`` (always run: it is what the others are compared with), ``native`` (the program
            runner, on every tier this CPU has; ``native:avx2`` names one), ``ops`` (the TensorFlow op library),
            ``python`` (pure TensorFlow), ``litert`` (exported and run in LiteRT with XNNPACK, its default;
            ``litert:builtin`` takes its builtin kernels, ``litert:half_up`` and ``litert:float32`` the exports that are equal there, ``litert:micro`` the first of
            them in LiteRT for Microcontrollers), ``c`` (exported, compiled by
            the host's compiler and run; once as exported and once without fusing, which has every accumulator; ``c:cortex-m4``,
            ``c:cortex-m55``, ``c:aarch64``, ``c:riscv64`` ... cross-compiled and run in QEMU), ``onnx`` (exported, in ONNX Runtime: ``onnx:plain`` with every
            tensor, ``onnx:optimized`` rewritten by the runtime, with the tensors of codes), ``qonnx`` (in the qonnx executor).
        batch_size: examples at a time; memory grows with it.
        progress: show a bar.
        timestamp: goes into the certificate as it is; none by default, so that equal runs give equal files.

    Returns:
        A ``VerificationReport``; ``report.mismatches`` is the number of unequal integers. Where a target's own arithmetic cannot be equal, ``report.bounds``
        names the tensors and by how much they may differ at most.

    Raises:
        ValueError: for an unknown target, a ``q`` that is not quantized or was never lowered to ``ig``, or where there is no data.
    """
    arrays = interface.arrays_of(ig.graph, data, "verify")
    examples = len(arrays[0])
    if isinstance(targets, str):
        targets = [targets]
    runs: dict[str, Callable[[list[np.ndarray]], dict[str, np.ndarray]]] = {}
    skipped: dict[str, str] = {}
    if q is not None:
        runs["keras"] = _keras_run(q, ig)
    for target in targets:
        kind, _, option = target.partition(":")
        if kind not in _TARGETS or option not in _OPTIONS.get(kind, ("",)):
            known = [f"{name}:{tier}" if tier else name for name in _TARGETS for tier in _OPTIONS.get(name, ("",))]
            raise ValueError(f"verify knows the targets {', '.join(known)}, got {target!r}")
    for target in targets:
        kind, _, option = target.partition(":")
        try:
            runs.update(_TARGETS[kind](ig, option))
        except (ImportError, OSError, RuntimeError, ValueError) as error:  # not built, not on this CPU, not exportable
            skipped[target] = " ".join(str(error).split())
    report = VerificationReport(
        ig.graph.name, ig.digest(), examples, [], skipped, _bounds(ig, runs), {value: _codes_of(ig.graph, value) for value in _reals(ig.graph)},
        model_digest="" if q is None else _model_digest(q), data_digest=_data_digest(ig, arrays), formats=_formats(ig.graph),
        environment=_environment(runs), timestamp=timestamp)
    classes = _class_outputs(ig.graph)
    results: dict[tuple[str, str], TensorResult] = {}
    # computed in float from equal integers, by each runtime's own kernels; what follows from them is compared again
    in_float = {name for node in ig.graph.nodes if node.op in ("softmax", "island") for name in node.outputs}
    starts: Any = range(0, examples, batch_size)
    if progress and examples > batch_size:
        from tqdm import tqdm

        starts = tqdm(starts, desc="verify", unit="batch")
    island = ig._island()  # once: it keeps the layers that it has built
    for start in starts:
        batch = [array[start : start + batch_size] for array in arrays]
        reference = interpreter.run(ig.graph, batch, values=True, island=island)
        for target, run in runs.items():
            values = run(batch)
            if classes and all(output in values for output in classes):
                same = [np.argmax(reference[output], -1) == np.argmax(values[output], -1) for output in classes]
                report.top1[target] = report.top1.get(target, 0) + int(np.all(same, 0).sum())
            for tensor, got in values.items():
                if tensor not in reference or tensor in in_float:
                    continue
                result = results.setdefault((target, tensor), TensorResult(target, tensor))
                expected, got = _comparable(ig.graph, tensor, reference[tensor], got, target)
                result.add(expected, got, start)
    report.results = list(results.values())
    wrong = dict.fromkeys(place[0] for result in report.results for place, _, _ in result.offenders)
    for example in list(wrong)[:MAX_OFFENDERS]:
        report.inputs[example] = {name: array[example].tolist() for name, array in zip(ig.graph.inputs, arrays)}
    for target in runs:
        compared = {result.tensor for result in results.values() if result.target == target}
        unproven = [output for output, codes in ((output, report.ends[output]) for output in ig.graph.outputs) if codes and compared.isdisjoint((output, *codes))]
        if unproven or not compared:
            report.skipped[target] = f"it has no tensor for the network's output {', '.join(unproven)}; pass the model that was lowered"
    return report


def _reals(graph: Graph) -> list[str]:
    """The outputs, and what lies between them and their codes."""
    found, producers = [], graph.producers()
    for output in graph.outputs:
        found.append(output)
        while found[-1] in producers and producers[found[-1]].op in _MOVES and graph.format(producers[found[-1]].inputs[0]) is None:
            found.append(producers[found[-1]].inputs[0])
    return found


_MOVES = ("dequantize", "softmax", "reshape", "permute")  # without further computing on the codes


def _codes_of(graph: Graph, output: str) -> list[str]:
    """The codes that an output is made of without further computing, behind dequantize, softmax and moves; none behind an island."""
    chain, producers = [output], graph.producers()
    while chain[-1] in producers and producers[chain[-1]].op in _MOVES:
        chain.append(producers[chain[-1]].inputs[0])
    return [value for value in chain if graph.format(value) is not None]


def _class_outputs(graph: Graph) -> list[str]:
    """Outputs ``[batch, classes]``."""
    return [output for output in graph.outputs if len(graph.shape(output)) == 2 and (graph.shape(output)[-1] or 0) > 1]


def _bounds(ig: IntegerGraph, runs) -> list[Bound]:
    """Where a runtime rounds otherwise than the graph, and how far that can reach (``export/difference.py``)."""
    from graffiti.export.litert.exporter import LiteRTExporter

    found = []
    for target in runs:
        kind, _, runtime = target.partition(":")
        if kind == "litert":
            kernels, arithmetic = _LITERT_FILES[runtime]
            why = f"an operator of LiteRT's {kernels} kernels at or before it rounds ties otherwise than the graph; the exports with arithmetic='half_up' or 'float32' are equal there"
            steps = LiteRTExporter().expected_difference(ig.graph, runtime=kernels, arithmetic=arithmetic)
            found += [Bound(target, tensor, most, why) for tensor, most in steps.items()]
        if kind == "onnx":
            from graffiti.export.onnx.exporter import OnnxExporter

            why = "a product at or before it is written for int8 kernels and computed in float32 here; the export with exact='anywhere' is equal there"
            steps = OnnxExporter().expected_difference(ig.graph, session="plain" if runtime == "plain" else "default")
            found += [Bound(target, tensor, most, why) for tensor, most in steps.items()]
    return found


def _model_digest(q) -> str:
    """SHA-256 of architecture and weights."""
    digest = hashlib.sha256(q.to_json().encode())
    for weight in q.weights:
        value = np.ascontiguousarray(weight.numpy())
        digest.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return digest.hexdigest()


def _data_digest(ig: IntegerGraph, arrays: list[np.ndarray]) -> str:
    """SHA-256 of the inputs, with names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in zip(ig.graph.inputs, arrays):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _formats(graph: Graph) -> dict[str, dict[str, int]]:
    """How many tensors of each width: the scheme, as the graph holds it."""
    found: dict[str, Counter[str]] = {"weights": Counter(), "activations": Counter(), "accumulators": Counter()}
    kernels = {node.inputs[1] for node in graph.nodes if node.op in PRODUCTS}
    for kernel in kernels:
        if (format := graph.format(kernel)) is not None:
            found["weights"][f"int{format.bits}{' per channel' if len(format.exponents) > 1 else ''}"] += 1
    for value in (output for node in graph.nodes for output in node.outputs):
        if (format := graph.format(value)) is not None:
            found["accumulators" if format.bits > 16 else "activations"][f"{'' if format.signed else 'u'}int{format.bits}"] += 1
    return {role: dict(sorted(counts.items())) for role, counts in found.items()}


_PACKAGES = {"litert:micro": "tflite-micro", "litert": "ai-edge-litert", "onnx": "onnxruntime", "qonnx": "qonnx"}


def _environment(runs) -> dict[str, Any]:
    """Versions of everything that took part, and what the processor has."""
    from graffiti.runtime import runner

    needed = ["graffiti", "numpy", "tensorflow", "keras", *dict.fromkeys(package for target in runs for kind, package in _PACKAGES.items() if kind in (target, target.partition(":")[0]))]
    versions: dict[str, Any] = {"python": platform.python_version()}
    for package in needed:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "unknown"
    try:
        tiers = list(runner.supported_tiers())
    except (ImportError, OSError, RuntimeError):  # no kernel library
        tiers = []
    return {**versions, "machine": platform.machine(), "tiers": tiers}


def _comparable(graph: Graph, tensor: str, expected: np.ndarray, got: np.ndarray, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as integers (floats at the border bit by bit)."""
    format = graph.format(tensor)
    if target == "keras" and format is not None:
        return _as_keras_holds(expected, format), np.asarray(got, np.float64) / format.scale
    if format is None:
        zero = np.float32(0)  # adding it makes one zero of the two
        return (np.asarray(expected, np.float32) + zero).view(np.int32), (np.asarray(got, np.float32) + zero).view(np.int32)
    return expected, got


def _as_keras_holds(codes: np.ndarray, format: QFormat) -> np.ndarray:
    """Codes as float32 holds them: exact to 24 bits, round to odd beyond (ARCHITECTURE, 'Exactness', point 2)."""
    codes = np.asarray(codes, np.int64)
    if format.bits <= 24:
        return codes
    magnitude = np.abs(codes)
    extra = np.maximum(np.frexp(magnitude.astype(np.float64))[1] - 24, 0)
    kept = magnitude >> extra
    kept |= (magnitude & ((np.int64(1) << extra) - 1)) != 0
    return np.where(codes < 0, -1, 1) * (kept << extra)


def _keras_run(q, ig: IntegerGraph):
    """A function that returns every Keras tensor that has a counterpart in the integer graph."""
    import keras

    from graffiti.keras_io.read import read_with_tensors

    graph, tensors = read_with_tensors(q)
    if graph.stage != "fakequant":
        raise ValueError(f"verify compares a model made by graffiti.quantize, and {q.name!r} is not quantized; pass the model that was lowered, or None")
    names = [name for name in tensors if name in ig.graph.types and name not in ig.graph.inputs]
    inputs, lowered = ([(name, g.shape(name)) for name in g.inputs] for g in (graph, ig.graph))
    if not names or inputs != lowered:
        raise ValueError(f"model {q.name!r} is not the one that the integer graph {ig.graph.name!r} was lowered from: inputs {inputs} and {lowered}")
    probe = keras.Model(q.inputs, [tensors[name] for name in names])

    def run(batch: list[np.ndarray]) -> dict[str, np.ndarray]:
        inputs = [np.asarray(array) for array in batch]
        values = probe.predict_on_batch(inputs[0] if len(inputs) == 1 else inputs)
        return dict(zip(names, values if isinstance(values, (list, tuple)) else [values]))

    return run


def _reference_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    return {}


def _native_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.runtime import runner

    tiers = [option] if option else runner.supported_tiers()
    return {f"native:{tier}": runner.Runner(ig.graph, tier=tier, island=ig._island()).run_all for tier in tiers}


def _ops_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.runtime_tf import TensorFlowExecutor

    return {f"ops:{option}" if option else "ops": TensorFlowExecutor(ig.graph, ops="native", tier=option or "auto", island=ig._island()).run_all}


def _python_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.runtime_tf import TensorFlowExecutor

    return {"python": TensorFlowExecutor(ig.graph, ops="python", island=ig._island()).run_all}


def _c_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.export.c.harness import CModel
    from graffiti.export.c.targets import EmulatedModel

    if option in C_TARGETS:  # cross-compiled, run in an emulator
        return {f"c:{option}": EmulatedModel(ig.graph, option).run_all}
    forms = [option] if option else ["fused", "unfused"]  # what is exported, and a build that stores the accumulators too
    return {f"c:{form}": CModel(ig.graph, fused=form == "fused").run_all for form in forms}


def _litert_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.export.litert.runner import LiteRTModel

    option = option or "xnnpack"  # what LiteRT runs by default
    runtime, arithmetic = _LITERT_FILES[option]
    return {f"litert:{option}": LiteRTModel(ig.graph, runtime, arithmetic=arithmetic).run_all}


def _onnx_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.export.onnx.harness import OnnxModel

    forms = {"plain": "all", "optimized": "codes"}  # with accumulators shown the runtime would not fuse them
    return {f"onnx:{form}": OnnxModel(ig.graph, optimize=form == "optimized", show=forms[form]).run_all for form in ([option] if option else forms)}


def _qonnx_runs(ig: IntegerGraph, option: str) -> dict[str, Callable]:
    from graffiti.export.onnx.harness import QonnxModel

    return {"qonnx": QonnxModel(ig.graph).run_all}


_TARGETS: dict[str, Callable[[IntegerGraph, str], dict[str, Callable]]] = {
    "reference": _reference_runs,
    "native": _native_runs,
    "ops": _ops_runs,
    "python": _python_runs,
    "c": _c_runs,
    "litert": _litert_runs,
    "onnx": _onnx_runs,
    "qonnx": _qonnx_runs,
}
# Option → runtime and arithmetic of the file (LiteRTExporter.write); float32 is equal in every runtime, and the builtin one is the stricter test.
_LITERT_FILES = {
    "xnnpack": ("xnnpack", "int8"), "builtin": ("builtin", "int8"), "half_up": ("builtin", "half_up"), "float32": ("builtin", "float32"), "micro": ("micro", "half_up"),
}
_OPTIONS = {
    "native": ("", "scalar", "avx2", "avx512vnni"), "ops": ("", "scalar", "avx2", "avx512vnni"), "c": ("", "fused", "unfused", *C_TARGETS),
    "onnx": ("", "plain", "optimized"), "litert": ("", *_LITERT_FILES),
}
