"""``verify``: the proof, tensor by tensor, that every executor computes the integers of the retrained model.

The reference interpreter (numpy, ``graph/interpreter.py``) is what "correct" means. The Keras model and every target are
compared with it on each tensor they have, with ``==``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graffiti import files, interface
from graffiti.export.c.targets import TARGETS as C_TARGETS
from graffiti.graph import interpreter
from graffiti.graph.ir import Graph
from graffiti.integer_graph import IntegerGraph
from graffiti.numerics.formats import QFormat

MAX_OFFENDERS = 5
DEFAULT_TARGETS = ("reference", "native", "python")


@dataclasses.dataclass
class TensorResult:
    """The comparison of one tensor on one target.

    Attributes:
        target: ``keras``, ``native:avx2``, ``c`` ...
        tensor: the value's name in the integer graph.
        compared: how many integers were compared.
        unequal: how many of them differ from the reference.
        worst: the largest difference in steps.
        offenders: the first few as ``(index, expected, got)``; the index counts from the first example of the data.
    """

    target: str
    tensor: str
    compared: int = 0
    unequal: int = 0
    worst: int = 0
    offenders: list[tuple[tuple[int, ...], int, float]] = dataclasses.field(default_factory=list)

    def add(self, expected: np.ndarray, got: np.ndarray, first_example: int) -> None:
        """Compare one batch."""
        if expected.shape != got.shape:
            raise ValueError(f"{self.target}: tensor {self.tensor!r} has shape {got.shape}, the reference {expected.shape}")
        self.compared += expected.size
        unequal = np.not_equal(expected, got)
        count = int(np.count_nonzero(unequal))
        if count:
            self.unequal += count
            difference = np.abs(expected.astype(np.float64) - got.astype(np.float64))
            self.worst = max(self.worst, math.ceil(float(np.nanmax(np.where(np.isnan(difference), np.inf, difference)))) if
                             np.isfinite(difference).all() else 2**31)
            for index in np.argwhere(unequal)[: MAX_OFFENDERS - len(self.offenders)]:
                place = (int(index[0]) + first_example, *map(int, index[1:]))
                value = float(got[tuple(index)])
                self.offenders.append((place, int(expected[tuple(index)]), int(value) if value.is_integer() else value))


@dataclasses.dataclass
class VerificationReport:
    """What ``verify`` found.

    Attributes:
        model: the model's name.
        digest: SHA-256 of the integer graph.
        examples: how many inputs went through.
        results: one ``TensorResult`` per target and tensor.
        skipped: target → why it was not run.
    """

    model: str
    digest: str
    examples: int
    results: list[TensorResult]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def mismatches(self) -> int:
        """Unequal integers over all targets and tensors."""
        return sum(result.unequal for result in self.results)

    @property
    def compared(self) -> int:
        """Compared integers over all targets and tensors."""
        return sum(result.compared for result in self.results)

    @property
    def targets(self) -> list[str]:
        """The targets that were compared, in order."""
        return list(dict.fromkeys(result.target for result in self.results))

    @property
    def ok(self) -> bool:
        """Whether something was compared, nothing differs and nothing asked for was skipped."""
        return self.compared > 0 and self.mismatches == 0 and not self.skipped

    def to_config(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.model, "sha256": self.digest, "examples": self.examples, "compared": self.compared,
            "mismatches": self.mismatches, "ok": self.ok, "skipped": self.skipped,
            "results": [dataclasses.asdict(result) for result in self.results],
        }

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the report as JSON, atomically."""
        with files.atomic_file(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_config(), indent=1) + "\n")

    def __str__(self) -> str:
        lines = [
            f"verify {self.model}: {self.examples} examples, integer graph sha256 {self.digest[:16]}",
            f"{'target':<20} {'tensors':>8} {'integers compared':>18} {'unequal':>9} {'worst':>6}",
        ]
        for target in self.targets:
            of_target = [result for result in self.results if result.target == target]
            lines.append(
                f"{target:<20} {len(of_target):>8} {sum(r.compared for r in of_target):>18,} "
                f"{sum(r.unequal for r in of_target):>9,} {max(r.worst for r in of_target):>6}"
            )
        lines += [f"{target:<20} skipped: {why}" for target, why in self.skipped.items()]
        for result in (r for r in self.results if r.unequal):
            lines.append(f"  {result.target} {result.tensor}: {result.unequal} of {result.compared} differ, at most {result.worst} steps")
            lines += [f"    at {place}: expected {expected}, got {got}" for place, expected, got in result.offenders]
        failure = f"{self.mismatches} unequal integers, {len(self.skipped)} targets skipped" if self.compared else "nothing was compared"
        lines.append("all integers agree" if self.ok else f"NOT proven: {failure}")
        return "\n".join(lines)


def verify(
    q, ig: IntegerGraph, data, targets: Sequence[str] = DEFAULT_TARGETS, *, batch_size: int = 100, progress: bool = True,
) -> VerificationReport:
    """Compare the Keras model and every target with the numpy reference, on every tensor.

    Args:
        q: the quantized Keras model that ``ig`` was lowered from; ``None`` compares the targets only.
        ig: the integer graph.
        data: array or list / dict of arrays of inputs; all of it is used.
        targets: any of ``reference`` (always run: it is what the others are compared with), ``native`` (the program
            runner, on every tier this CPU has; ``native:avx2`` names one), ``ops`` (the TensorFlow op library),
            ``python`` (pure TensorFlow), ``litert`` (exported and run in LiteRT with XNNPACK, its default;
            ``litert:builtin`` takes its builtin kernels, ``litert:float32`` the export that is equal in both), ``c`` (exported, compiled by
            the host's compiler and run; once as exported and once without fusing, which has every accumulator; ``c:cortex-m4``,
            ``c:cortex-m55``, ``c:aarch64``, ``c:riscv64`` ... cross-compiled and run in QEMU), ``onnx`` (exported, in ONNX Runtime: ``onnx:plain`` with every
            tensor, ``onnx:optimized`` rewritten by the runtime, with the tensors of codes), ``qonnx`` (in the qonnx executor).
        batch_size: examples at a time; memory grows with it.
        progress: show a bar.

    Returns:
        A ``VerificationReport``; ``report.mismatches`` is the number of unequal integers.

    Raises:
        ValueError: for an unknown target, a ``q`` that is not quantized or was never lowered to ``ig``, or where there is no data.
    """
    arrays = _arrays(ig, data)
    examples = len(arrays[0])
    if examples == 0:
        raise ValueError("verify got no data: expected at least one example")
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
            for tensor, got in run(batch).items():
                if tensor not in reference or tensor in in_float:
                    continue
                result = results.setdefault((target, tensor), TensorResult(target, tensor))
                expected, got = _comparable(ig.graph, tensor, reference[tensor], got, target)
                result.add(expected, got, start)
    report = VerificationReport(ig.graph.name, ig.digest(), examples, list(results.values()), skipped)
    ends = {output: _codes_of(ig.graph, output) for output in ig.graph.outputs}
    for target in runs:
        compared = {result.tensor for result in results.values() if result.target == target}
        unproven = [output for output, codes in ends.items() if codes and compared.isdisjoint((output, *codes))]
        if unproven or not compared:
            report.skipped[target] = f"it has no tensor for the network's output {', '.join(unproven)}; pass the model that was lowered"
    return report


def _codes_of(graph: Graph, output: str) -> list[str]:
    """The codes that an output is made of without further computing, behind dequantize, softmax and moves; none behind an island."""
    chain, producers = [output], graph.producers()
    while chain[-1] in producers and producers[chain[-1]].op in ("dequantize", "softmax", "reshape", "permute"):
        chain.append(producers[chain[-1]].inputs[0])
    return [value for value in chain if graph.format(value) is not None]


def _arrays(ig: IntegerGraph, data) -> list[np.ndarray]:
    batches = list(interface.batches(ig.graph, data, 1 << 30))
    if not batches:
        raise ValueError("verify got no data: expected at least one example")
    return [np.concatenate(parts) for parts in zip(*batches)]


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

    if option == "float32":  # equal in every kernel; the builtin ones are the stricter test
        return {"litert:float32": LiteRTModel(ig.graph, "builtin", arithmetic="float32").run_all}
    runtime = option or "xnnpack"  # what LiteRT runs by default
    return {f"litert:{runtime}": LiteRTModel(ig.graph, runtime).run_all}


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
_OPTIONS = {"native": ("", "scalar", "avx2", "avx512vnni"), "ops": ("", "scalar", "avx2", "avx512vnni"), "c": ("", "fused", "unfused", *C_TARGETS), "onnx": ("", "plain", "optimized"), "litert": ("", "xnnpack", "builtin", "float32")}
