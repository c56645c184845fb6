"""``inspect``: what of a model will not map to a target, layer by layer, with what would fix it; for any stage of a
model.

A float model is quantized on paper: the target's scheme (or another) is placed and lowered with stand-in thresholds, so
that ops, widths, signs, sizes and weights are the real ones. A calibrated model and an integer graph are checked whole:
shifts, registers and clipping too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from graffiti import export, schemes, targets
from graffiti.config import ReportLine, Rule, Scheme
from graffiti.graph.ir import Graph
from graffiti.graph.problem import Problem
from graffiti.integer_graph import IntegerGraph
from graffiti.keras_io import compat
from graffiti.keras_io.read import read
from graffiti.reports import QuantizationReport
from graffiti.targets import TargetProfile
from graffiti.transforms import pipelines


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    Attributes:
        model: the model's name.
        stage: ``float``, ``fakequant`` or ``integer``: what was inspected.
        target: the profile's name, ``None`` where there was none.
        scheme: for a float model the scheme that was tried, else ``None``.
        problems: every layer that the target cannot take, with the reason and what would fix it.
        unchecked: what could not be known yet, one sentence each.
        lines: for a float model what ``quantize`` would do.
    """

    model: str
    stage: str
    target: str | None
    scheme: str | None
    problems: tuple[Problem, ...]
    unchecked: tuple[str, ...] = ()
    lines: tuple[ReportLine, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing stands against the target."""
        return not self.problems

    def to_config(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        lines = [
            f"{self.model}: a {self.stage} model" + (f" under {self.scheme}" if self.scheme else "")
            + (f", for the target {self.target}" if self.target else "")
        ]
        if self.lines:
            lines.append(str(QuantizationReport(self.lines)))
        for problem in self.problems:
            lines += [f"  {problem.layer} ({problem.op}): {problem.reason}", f"      fix: {problem.fix}"]
        lines += [f"  not known yet: {sentence}" for sentence in self.unchecked]
        if self.target:
            lines.append(
                f"{len(self.problems)} things do not map to {self.target}" if self.problems
                else f"everything maps to {self.target}"
            )
        return "\n".join(lines)


def inspect(
    model, target: str | os.PathLike | TargetProfile | None = None, *, scheme: str | Scheme | None = None,
    rules: Sequence[Rule] | None = None,
) -> Inspection:
    """Say what of a model does not map to a target, and why; nothing is changed or run.

    Args:
        model: a float Keras model, one made by ``quantize``, or an ``IntegerGraph``.
        target: a profile's name (``graffiti.targets.names()``), the path of a YAML or JSON file, or a
            ``TargetProfile``; ``None`` only says what the model holds.
        scheme: for a float model the scheme to try; by default the target's, and ``int8`` without one.
        rules: for a float model, exceptions as in ``quantize``.

    Raises:
        ValueError: for an unknown target or scheme, a rule that matches nothing.
        TypeError: where ``model`` is none of the three.
    """
    profile = None if target is None else targets.get(target)
    name = None if profile is None else profile.name
    if isinstance(model, IntegerGraph):
        return Inspection(model.graph.name, "integer", name, None, _problems(model.graph, profile))
    compat.check_model(model)
    graph = read(model)
    if graph.stage == "fakequant":
        if profile is None:
            return Inspection(graph.name, "fakequant", None, None, ())
        if any(node.attrs["log2_threshold"] is None for node in graph.nodes if node.op == "fake_quantize"):
            return Inspection(
                graph.name, "fakequant", name, None, _problems(pipelines.sketch(graph), profile, values=False), _UNKNOWN
            )
        return Inspection(
            graph.name, "fakequant", name, None, _problems(pipelines.lower(graph, sum_bits=None), profile)
        )
    tried = schemes.get_static(scheme if scheme is not None else profile.scheme if profile is not None else "int8")
    placed, lines = pipelines.place(pipelines.prepare(graph, training=False), tried, rules or ())
    problems = _problems(pipelines.sketch(placed), profile, values=False)
    return Inspection(
        graph.name, "float", name, tried.name, problems, _UNKNOWN if profile is not None else (), tuple(lines)
    )


_UNKNOWN = (
    "shifts, exponents and the width of sums, which depend on the calibrated thresholds; inspect the quantized "
    "model again",
)


def _problems(graph: Graph, profile: TargetProfile | None, *, values: bool = True) -> tuple[Problem, ...]:
    """What the profile lists, and what its exporter finds about other layers."""
    if profile is None:
        return ()
    found = targets.problems(graph, profile, values=values)
    if profile.export in export.EXPORTERS and values:
        known = {problem.layer for problem in found}
        found += [problem for problem in export.get(profile.export).supports(graph) if problem.layer not in known]
    return tuple(found)
