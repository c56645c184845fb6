"""What an executor is: one row that says how a graph is started on it, what it shows, and what it needs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from graffiti.export.base import Package
from graffiti.graph.interpreter import Island
from graffiti.graph.ir import Graph

Call = Callable[[], Any]
EVERY, STORED = "every value", "what is stored"  # ``Executor.shows``


class Unavailable(Exception):
    """An executor cannot run a graph here, and that is no fault: a package, a tool or an instruction set is missing, or
    it has no form for one of the graph's layers. The only exception that makes ``verify`` skip a target; its message
    says what is missing.
    """


class Running(Protocol):
    """A graph on an executor. Inputs are a list in the order of the graph's inputs, each ``(batch, ...)``."""

    def run(self, inputs: list[np.ndarray]) -> Sequence[np.ndarray]:
        """The graph's outputs, in order. Reals where the executor's row says ``predicts``."""

    def run_all(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The tensors that it has, by their names in the graph: codes where the value has a format, else reals."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One way to run an executor, behind a colon in ``executor:option``.

    Attributes:
        packages: what it needs beside the executor's own.
        shows: as ``Executor.shows``, where it differs.
    """

    packages: tuple[Package, ...] = ()
    shows: str | None = None


@dataclasses.dataclass(frozen=True)
class Executor:
    """A row of ``EXECUTORS``.

    Attributes:
        name: the word for ``verify(targets=)``, ``predict(engine=)`` and the command line.
        title: for tables and sentences.
        start: ``(graph, island, option, threads) -> Running``; an option of ``""`` is the executor's own choice. Raises
            ``Unavailable`` where it cannot run the graph here, anything else is a fault.
        options: name → ``Option``.
        usual: the options that its bare name stands for in ``verify``; may raise ``Unavailable``.
        packages: what every option needs.
        shows: ``EVERY`` value of the graph, or what is ``STORED``: not what is fused into a step.
        predicts: whether ``run`` gives the outputs as reals, softmax and Keras layers left in float included, and
            ``predict`` takes it.
        bounds: ``(graph, option) -> {tensor: (steps, why)}``, where its arithmetic cannot be the graph's, known before
            anything runs.
        timed: ``(graph, inputs, threads) -> call``, where ``benchmark`` may time it on the graph's own export.
    """

    name: str
    title: str
    start: Callable[[Graph, Island | None, str, int | None], Running]
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    usual: Callable[[], Sequence[str]] = lambda: ("",)
    packages: tuple[Package, ...] = ()
    shows: str = STORED
    predicts: bool = False
    bounds: Callable[[Graph, str], dict[str, tuple[int, str]]] | None = None
    timed: Callable[[Graph, list[np.ndarray], int], Call] | None = None

    @property
    def words(self) -> list[str]:
        """Every way to name it as a target."""
        return [self.name, *(f"{self.name}:{option}" for option in self.options)]

    def needs(self, option: str = "") -> tuple[Package, ...]:
        """The packages of an option."""
        return (*self.packages, *(self.options[option].packages if option in self.options else ()))

    def check(self, option: str = "") -> None:
        """Raise ``Unavailable`` where a package of an option does not import."""
        for package in self.needs(option):
            if why := package.missing():
                raise Unavailable(why)

    def shown(self, option: str = "") -> str:
        """``EVERY`` or ``STORED``, of an option."""
        return (self.options[option].shows if option in self.options else None) or self.shows

    def run(self, graph: Graph, island: Island | None = None, option: str = "", threads: int | None = None) -> Running:
        """Start a graph.

        Args:
            graph: of stage ``integer``.
            island: ``(node, arrays) -> arrays``, computes Keras layers left in float; of this run alone, since layers
                may hold a state.
            option: a key of ``options``, or nothing.
            threads: how many to use, where it can be said; its own choice by default.

        Raises:
            Unavailable: where a package, a tool or an instruction set is missing, or it cannot take the graph.
        """
        self.check(option)
        return self.start(graph, island, option, threads)

    def call(self, graph: Graph, inputs: list[np.ndarray], threads: int) -> Call:
        """A call that is timed, of a row with ``timed``.

        Args:
            graph, inputs: what is run on what.
            threads: of the engine.

        Raises:
            Unavailable: as ``run``.
        """
        if self.timed is None:
            raise Unavailable(f"{self.title} is not timed")
        self.check()
        return self.timed(graph, inputs, threads)


@contextlib.contextmanager
def unavailable(*errors: type[Exception]) -> Iterator[None]:
    """Say ``Unavailable`` for exceptions that are a reason not to run, not a fault."""
    try:
        yield
    except errors as error:
        raise Unavailable(" ".join(str(error).split())) from error


def known(what: str, table: Mapping[str, Any], name: str) -> Any:
    """A row of a table.

    Args:
        what: the error's first words, before the names.
        table: name → row.
        name: what a user wrote.

    Raises:
        ValueError: lists the rows where there is none of that name.
    """
    if name not in table:
        raise ValueError(f"{what} {', '.join(table)}, got {name!r}")
    return table[name]
