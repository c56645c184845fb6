"""``verify``: the proof, tensor by tensor, that every executor computes the integers of the retrained model.

The reference interpreter (numpy, ``graph/interpreter.py``) is what "correct" means. The Keras model and every target
are compared with it on each tensor they have, with ``==``, and on every output of the network: plan, run, compare,
conclude.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from graffiti import executors, interface
from graffiti.graph.ir import Graph
from graffiti.integer_graph import IntegerGraph
from graffiti.verification import keras_side, provenance
from graffiti.verification.certificate import MAX_OFFENDERS, Bound, FloatResult, TensorResult, VerificationReport
from graffiti.verification.values import EXACT, SOFTMAX, SOFTMAX_ERROR, Values, comparable

DEFAULT_TARGETS = ("reference", "native", "python")

Run = Callable[[list[np.ndarray]], dict[str, np.ndarray]]


def verify(
    q, ig: IntegerGraph, data, targets: Sequence[str] = DEFAULT_TARGETS, *, batch_size: int = 100,
    progress: bool = True,
    timestamp: str = "",
) -> VerificationReport:
    """Compare the Keras model and every target with the numpy reference, on every tensor and every output.

    Args:
        q: the quantized Keras model that ``ig`` was lowered from; ``None`` compares the targets only.
        ig: the integer graph.
        data: array or list / dict of arrays of inputs; all of it is used.
        targets: names of executors, with an option behind a colon where one is meant
            (``graffiti.executors.EXECUTORS``):

            - ``reference``: always run; it is what the others are compared with.
            - ``native``: the program runner, on every tier this CPU has; ``native:avx2`` names one.
            - ``ops``: the TensorFlow op library; ``python``: pure TensorFlow.
            - ``c``: exported, compiled by the host's compiler and run; once as exported (``c:fused``) and once with
              every accumulator (``c:unfused``). ``c:cortex-m4``, ``c:cortex-m55``, ``c:aarch64``, ``c:riscv64`` ... are
              cross-compiled and run in QEMU.
            - ``litert``: exported and run in LiteRT with XNNPACK, its default; ``litert:builtin`` takes its builtin
              kernels, ``litert:half_up`` and ``litert:float32`` the exports that are equal there, ``litert:micro`` the
              first of them in LiteRT for Microcontrollers.
            - ``onnx``: exported, in ONNX Runtime: ``onnx:plain`` with optimizations off and every tensor,
              ``onnx:optimized`` in a default session, which rewrites the file, with the tensors of codes;
              ``onnx:anywhere`` the export with ``exact="anywhere"``, with every tensor; ``onnx:int8`` the export with
              ``weights="int8"``, in a session with ``session.x64quantprecision=1``, which x86 CPUs without VNNI need
              for it.
            - ``qonnx``: in the qonnx executor.
        batch_size: examples at a time; memory grows with it. A network with a fixed batch size keeps its own.
        progress: show a bar.
        timestamp: goes into the certificate as it is; none by default, so that equal runs give equal files.

    Returns:
        A ``VerificationReport``; ``report.mismatches`` is the number of unequal values. Where a target's own arithmetic
        cannot be equal, ``report.bounds`` names the tensors and by how much they may differ at most.

    Raises:
        ValueError: for an unknown target, a ``q`` that is not quantized or was never lowered to ``ig``, or where there
            is no data.
    """
    arrays = interface.arrays_of(ig.graph, data, "verify")
    plan = Plan.of(q, ig, [targets] if isinstance(targets, str) else targets)
    values = Values.of(ig.graph)
    comparison = Comparison(ig.graph, values)
    with keras_side.started(q, ig.graph):
        for start, reference, found in run(plan, ig.graph, arrays, batch_size, progress):
            for target, got in found:
                comparison.add(target, start, reference, got)
    report = VerificationReport(
        ig.graph.name, ig.digest(), len(arrays[0]), [], plan.skipped, plan.bounds, values.ends,
        model_digest="" if q is None else provenance.model_digest(q),
        data_digest=provenance.data_digest(ig.graph, arrays),
        formats=provenance.formats(ig.graph), environment=provenance.environment(plan.runs), timestamp=timestamp)
    comparison.conclude(report, list(plan.runs), dict(zip(ig.graph.inputs, arrays)))
    return report


@dataclasses.dataclass
class Plan:
    """What is run and what is not, before anything is.

    Attributes:
        reference: the oracle.
        runs: name in the certificate → how its tensors are made.
        skipped: target → why it cannot run here.
        bounds: where a target's arithmetic cannot be the graph's.
    """

    reference: Run
    runs: dict[str, Run]
    skipped: dict[str, str]
    bounds: list[Bound]

    @classmethod
    def of(cls, q, ig: IntegerGraph, targets: Sequence[str]) -> Plan:
        """Start everything that takes part.

        Args:
            q, ig, targets: as in ``verify``.
        """
        chosen = [(target, *executors.split(target)) for target in targets]
        plan = cls(executors.EXECUTORS["reference"].run(ig.graph, ig.island()).run_all, {}, {}, [])
        if q is not None:
            plan.runs["keras"] = keras_side.runner(q, ig.graph)
        for target, row, option in chosen:
            if row.name == "reference":
                continue
            try:
                options = [option] if option else row.usual()
                started = {_word(row, name): row.run(ig.graph, ig.island(), name).run_all for name in options}
            except executors.Unavailable as why:
                plan.skipped[target] = str(why)
                continue
            plan.runs.update(started)
            for name in options if row.bounds is not None else ():
                found = row.bounds(ig.graph, name)  # type: ignore[misc]
                plan.bounds += [Bound(_word(row, name), tensor, steps, why) for tensor, (steps, why) in found.items()]
        return plan


def _word(row: executors.Executor, option: str) -> str:
    return f"{row.name}:{option}" if option else row.name


def run(
    plan: Plan, graph: Graph, arrays: list[np.ndarray], batch_size: int, progress: bool,
) -> Iterator[tuple[int, dict[str, np.ndarray], Iterator[tuple[str, dict[str, np.ndarray]]]]]:
    """All data through everything, batch by batch.

    Args:
        plan, graph, arrays: what is run on what.
        batch_size, progress: as in ``verify``.

    Yields:
        The number of the batch's first example, the reference's values, and ``(target, values)`` of the others, one
        after another.
    """
    batches: Any = interface.batches(graph, arrays, batch_size)
    if progress and len(arrays[0]) > batch_size:
        from tqdm import tqdm

        batches = tqdm(batches, desc="verify", unit="batch", total=-(-len(arrays[0]) // batch_size))
    start = 0
    for batch in batches:
        yield start, plan.reference(batch), ((target, execute(batch)) for target, execute in plan.runs.items())
        start += len(batch[0])


class Comparison:
    """Counts what is equal and what is not.

    Args:
        graph: of stage ``integer``.
        values: what its values are made of.
    """

    def __init__(self, graph: Graph, values: Values) -> None:
        self.graph, self.values = graph, values
        self.tensors: dict[tuple[str, str], TensorResult] = {}
        self.floats: dict[tuple[str, str], FloatResult] = {}
        self.top1: dict[str, int] = {}
        # outputs [batch, classes]
        self._classes = [
            name for name in graph.outputs if len(graph.shape(name)) == 2 and (graph.shape(name)[-1] or 0) > 1
        ]

    def add(self, target: str, start: int, reference: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
        """Compare one batch of one target.

        Args:
            target: its name.
            start: number of the batch's first example.
            reference, got: tensors by name.
        """
        for name, array in got.items():
            if name not in reference:
                continue
            if self.values.kinds[name] == EXACT:
                result = self.tensors.setdefault((target, name), TensorResult(target, name))
                result.add(*comparable(self.graph.format(name), reference[name], array, keras=target == "keras"), start)
            elif name in self.graph.outputs:  # what lies between is made of float, and what follows is compared again
                limit = SOFTMAX_ERROR if self.values.kinds[name] == SOFTMAX else 0.0
                self.floats.setdefault(
                    (target, name), FloatResult(target, name, limit)
                ).add(reference[name], array, start)
        if self._classes and all(name in got for name in self._classes):
            same = [np.argmax(reference[name], -1) == np.argmax(got[name], -1) for name in self._classes]
            self.top1[target] = self.top1.get(target, 0) + int(np.all(same, 0).sum())

    def conclude(self, report: VerificationReport, targets: Sequence[str], arrays: dict[str, np.ndarray]) -> None:
        """Write the results into a report, and what was not compared.

        Args:
            report: gets them.
            targets: that were run.
            arrays: all inputs by name.
        """
        report.results, report.floats, report.top1 = list(self.tensors.values()), list(self.floats.values()), self.top1
        offenders = [place[0] for result in report.everything for place, _, _ in result.offenders]
        for example in list(dict.fromkeys(offenders))[:MAX_OFFENDERS]:
            report.inputs[example] = {name: array[example].tolist() for name, array in arrays.items()}
        for target in targets:
            compared = {name for who, name in (*self.tensors, *self.floats) if who == target}
            unproven = [
                output for output in dict.fromkeys(self.graph.outputs) if self.values.uncompared(output, compared)
            ]
            if unproven or not compared:
                report.skipped[target] = (
                    f"it has no tensor for the network's output {', '.join(unproven)}; pass the model that was lowered")
            elif by_codes := [
                output for output in dict.fromkeys(self.graph.outputs)
                if output not in compared and output not in self.graph.inputs
            ]:
                report.by_codes[target] = by_codes


__all__ = ["DEFAULT_TARGETS", "Comparison", "Plan", "Values", "VerificationReport", "run", "verify"]
