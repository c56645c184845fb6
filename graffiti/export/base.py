"""What every exporter is: it names what it cannot write, and writes the rest to a folder or file, all or nothing."""

from __future__ import annotations

import abc
import dataclasses
import os
import pathlib
from collections.abc import Sequence

from graffiti.graph.ir import Graph


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing a target cannot take: where it is, why, and what would fix it."""

    layer: str
    op: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.layer} ({self.op}): {self.reason}; {self.fix}"


class ExportError(ValueError):
    """A graph cannot be exported; ``problems`` lists every offending layer."""

    def __init__(self, format: str, graph: Graph, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"graph {graph.name!r} cannot be exported as {format}, {len(self.problems)} layers stand against it:{lines}")


class Exporter(abc.ABC):
    """A target that integer graphs are written for.

    Attributes:
        name: the word for ``export(format=...)``.
        description: one line for lists.
    """

    name: str
    description: str

    @abc.abstractmethod
    def supports(self, graph: Graph) -> list[Problem]:
        """Everything in the graph that this target cannot take; empty where it can be written."""

    @abc.abstractmethod
    def write(self, graph: Graph, path: str | os.PathLike, *, overwrite: bool = False) -> list[pathlib.Path]:
        """Write the graph; returns the files. A target may take further keyword arguments.

        Raises:
            ExportError: where ``supports`` finds a problem. Nothing is written.
            FileExistsError: where ``path`` exists and ``overwrite`` is false. Nothing is written.
        """

    def check(self, graph: Graph) -> None:
        """Raise an ``ExportError`` that lists every problem, if there is one."""
        problems = self.supports(graph)
        if problems:
            raise ExportError(self.name, graph, problems)
