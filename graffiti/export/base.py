"""What every exporter is: it names what it cannot write, and writes the rest to a folder or file, all or nothing."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import os
import pathlib
from collections.abc import Mapping, Sequence

from graffiti import targets
from graffiti.graph.ir import Graph
from graffiti.graph.problem import Problem


class ExportError(ValueError):
    """A graph cannot be exported. Nothing was written.

    Args:
        format: the export format.
        graph: that cannot be written.
        problems: at least one.

    Attributes:
        format: the export format.
        problems: a ``Problem(layer, op, reason, fix)`` for each offending layer.
    """

    def __init__(self, format: str, graph: Graph, problems: Sequence[Problem]) -> None:
        self.format, self.problems = format, list(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(
            f"graph {graph.name!r} cannot be exported as {format}, {len(self.problems)} layers stand against it:{lines}"
        )


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that an exporter or an executor needs.

    Attributes:
        name: what is installed.
        module: what is imported.
    """

    name: str
    module: str

    def missing(self) -> str:
        """Why it does not import and what to do, in a sentence; nothing where it does."""
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"the package {self.name} is needed and does not import ({error}); pip install {self.name}"
        return ""


@dataclasses.dataclass(frozen=True)
class WriteOption:
    """A keyword of an exporter's ``write``, as the command line offers it.

    Attributes:
        help: one line.
        kind: what stands behind it there: ``word``, ``size`` (a number from 1 on) or ``data`` (a file of examples).
    """

    help: str
    kind: str = "word"


class Exporter(abc.ABC):
    """A target that integer graphs are written for: one row of ``EXPORTERS``.

    Attributes:
        name: the word for ``export(format=...)``.
        description: one line for lists.
        target: the profile (``graffiti/targets``) that a graph is held against before anything is written.
        suffix: of the file that it writes; nothing where it writes a folder.
        options: keyword of ``write`` → how the command line offers it.
        packages: what it needs to write.
    """

    name: str
    description: str
    target: str
    suffix: str = ""
    options: Mapping[str, WriteOption] = {}
    packages: Sequence[Package] = ()

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

    def problems(self, graph: Graph, target: str | os.PathLike | targets.TargetProfile | None = None) -> list[Problem]:
        """What ``supports`` finds, and what a profile (the exporter's own by default) says besides about other layers.

        Args:
            graph: of stage ``integer``.
            target: a profile that exports by this exporter; its limits may be narrower than the exporter's.
        """
        found = self.supports(graph)
        if graph.stage != "integer":
            return found
        known = {problem.layer for problem in found}
        return [
            *found,
            *(
                problem for problem in targets.problems(graph, targets.get(self.target if target is None else target))
                if problem.layer not in known
            )
        ]

    def check(self, graph: Graph, target: str | os.PathLike | targets.TargetProfile | None = None) -> None:
        """Raise an ``ExportError`` that lists every problem, if there is one."""
        problems = self.problems(graph, target)
        if problems:
            raise ExportError(self.name, graph, problems)

    def check_packages(self) -> None:
        """Raise an ``ImportError`` that says what to install, where a package is missing."""
        for package in self.packages:
            if why := package.missing():
                raise ImportError(f"the export format {self.name!r} cannot be written: {why}")

    def check_target(self, graph: Graph) -> None:
        """Hold the graph against the exporter's profile alone; ``write`` does so before it writes anything."""
        if graph.stage == "integer":
            problems = targets.problems(graph, targets.get(self.target))
            if problems:
                raise ExportError(self.name, graph, problems)
