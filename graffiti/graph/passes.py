"""Passes: graph → graph, one idea each, and the pipelines that run them in order.

A pass states which stage it takes, what must hold before (``requires``) and what holds after (``ensures``), and says
honestly whether it changed anything. It never changes the graph it is given. With ``GRAFFITI_DEBUG=1`` in the
environment a pipeline checks all of that, and verifies every graph between two passes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np

from graffiti.graph.ir import STAGES, Graph
from graffiti.graph.verify import verify_graph

DEBUG_VARIABLE = "GRAFFITI_DEBUG"


class PassError(RuntimeError):
    """A pass broke its contract, or was run where it cannot run: a mistake in graffiti, not in the user's model."""


@dataclasses.dataclass(frozen=True)
class Note:
    """Something a pass left alone, and why; where ``what`` says so, it is a line of the user's report."""

    node: str
    why: str
    what: str = ""


@dataclasses.dataclass(frozen=True)
class PassResult:
    """What a pass hands back: the new graph, whether it differs from the one that came in, what was left alone and
    why.
    """

    graph: Graph
    modified: bool
    notes: tuple[Note, ...] = ()


class Pass:
    """One transform. The class docstring numbers its cases; the tests walk the numbers.

    Attributes:
        stage: the stage of the graphs it takes; ``None`` for any.
        result_stage: the stage of the graphs it hands back; ``None`` for the one it took.
    """

    stage: str | None = None
    result_stage: str | None = None

    @property
    def name(self) -> str:
        """The name in messages."""
        return type(self).__name__

    def requires(self, graph: Graph) -> Iterable[str]:
        """What is missing for this pass to run, one sentence each; nothing by default."""
        return ()

    def ensures(self, graph: Graph) -> Iterable[str]:
        """What this pass promised and did not do, one sentence each; nothing by default."""
        return ()

    def run(self, graph: Graph) -> PassResult:
        """The transform, on a copy.

        Args:
            graph: of the pass's stage; it stays as it is.

        Returns:
            The new graph and whether it differs.
        """
        raise NotImplementedError

    def __call__(self, graph: Graph) -> PassResult:
        """Check the stage and ``requires``, run, check ``ensures``.

        Raises:
            PassError: where the pass cannot run on this graph, or did not keep its word.
        """
        if self.stage is not None and graph.stage != self.stage:
            raise PassError(f"{self.name} takes a graph of stage {self.stage}, got one of stage {graph.stage}")
        _complain(f"{self.name} cannot run", self.requires(graph))
        result = self.run(graph)
        expected = self.result_stage or self.stage or graph.stage
        if result.graph.stage != expected:
            raise PassError(f"{self.name} promises a graph of stage {expected}, made one of stage {result.graph.stage}")
        _complain(f"{self.name} did not keep its word", self.ensures(result.graph))
        return result


class Pipeline(Pass):
    """Passes in order; itself a pass, so pipelines nest.

    What a pass refuses for the user's sake (a ``ValueError`` of any kind) goes through as it is. Everything else is a
    mistake in graffiti and becomes a ``PassError`` that names the pass and those that ran before it.

    Args:
        name: for messages.
        passes: in the order of running.
        debug: verify every graph in between and watch for passes that change their input or misreport ``modified``;
            by default where ``GRAFFITI_DEBUG`` is set to something else than 0.
    """

    def __init__(self, name: str, passes: Sequence[Pass], *, debug: bool | None = None) -> None:
        self._name, self.passes, self.debug = name, tuple(passes), debug
        self.stage = self.passes[0].stage if self.passes else None
        for step in self.passes:
            if any(stage not in (None, *STAGES) for stage in (step.stage, step.result_stage)):
                raise ValueError(
                    f"a pass works on one of the stages {', '.join(STAGES)}, {step.name} names {step.stage!r}"
                )
            self.result_stage = step.result_stage or step.stage or self.result_stage

    @property
    def name(self) -> str:
        """The name in messages."""
        return self._name

    def run(self, graph: Graph) -> PassResult:
        """All passes in order.

        Raises:
            PassError: names the pass that failed and the ones that ran before it.
        """
        debug = os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0") if self.debug is None else self.debug
        done: list[str] = []
        notes: dict[Note, None] = {}
        modified = False
        if debug:
            try:
                verify_graph(graph)
            except ValueError as error:
                raise PassError(f"pipeline {self.name!r} was given a broken graph: {error}") from error
        for step in self.passes:
            before = snapshot(graph) if debug else None
            result = self._guard(step.name, done, step, graph)
            if debug:
                self._guard(step.name, done, _check_honest, before, graph, result)
                self._guard(step.name, done, verify_graph, result.graph, refusal=False)
            graph, modified = result.graph, modified or result.modified
            notes.update(dict.fromkeys(result.notes))
            done.append(step.name)
        if not self.passes:
            graph = graph.copy()
        return PassResult(graph, modified, tuple(notes))

    def _guard(self, what: str, done: Sequence[str], function, *args, refusal: bool = True):
        try:
            return function(*args)
        except Exception as error:
            if refusal and isinstance(error, ValueError):
                raise
            before = f"after {', '.join(done)}" if done else "as the first pass"
            raise PassError(f"pipeline {self.name!r}, {what}, {before}: {error or type(error).__name__}") from error


def _complain(what: str, problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise PassError(f"{what}: {'; '.join(found)}")


def _check_honest(before: tuple, graph: Graph, result: PassResult) -> None:
    if snapshot(graph) != before:
        raise PassError("it changed the graph it was given; work on graph.copy()")
    changed = snapshot(result.graph) != before
    if changed and not result.modified:
        raise PassError("it changed the graph and reports modified=False")
    if result.modified and not changed:
        raise PassError("it reports modified=True and changed nothing")


def snapshot(graph: Graph) -> tuple:
    """Everything a pass can change, comparable with ``==``; two equal graphs have equal snapshots."""
    return (
        graph.stage, graph.name, tuple(graph.inputs), tuple(graph.outputs),
        tuple((n.op, tuple(n.inputs), tuple(n.outputs), _plain(n.attrs)) for n in graph.nodes),
        frozenset((k, v.dtype.str, v.shape, v.tobytes()) for k, v in graph.constants.items()),
        frozenset(graph.types.items()), _plain(graph.interface), _plain(graph.training),
    )


def _plain(value):
    """Attribute values as something that compares with ``==`` to one boolean."""
    if isinstance(value, dict):
        return tuple(sorted((str(key), _plain(part)) for key, part in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(_plain(part) for part in value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return repr(value)
