"""What every file of the package keeps, read from the sources alone: functions say what their arguments are."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "graffiti"
MANY = 3  # parameters from which on a docstring has ``Args:``
ENTRY = re.compile(r"((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*): ")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function, *, bound: bool = False) -> list[str]:
    """The parameters by name, without the ``self`` of a method."""
    given = function.args
    plain = [*given.posonlyargs, *given.args][bound and not is_static(function):] + given.kwonlyargs
    return [argument.arg for argument in (*plain, given.vararg, given.kwarg) if argument is not None]


def is_static(function: Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)


def documented(docstring: str) -> list[str]:
    """The names in a docstring's ``Args:``; one entry may name several, ``low, high: both included``."""
    lines = iter(docstring.splitlines())
    if not any(line == "Args:" for line in lines):
        return []
    names: list[str] = []
    for line in lines:
        if line and not line.startswith(" "):
            break
        if line.startswith("    ") and not line.startswith("     ") and (entry := ENTRY.match(line[4:])):
            names += [name.strip().lstrip("*") for name in entry[1].split(",")]
    return names


def faults_of(function: Function, docstring: str, *, bound: bool = False) -> Iterator[str]:
    """What is wrong with the docstring of one function or method."""
    given, said = parameters(function, bound=bound), documented(docstring)
    variadic = sum(argument is not None for argument in (function.args.vararg, function.args.kwarg))
    if len(given) - variadic >= MANY:
        for name in given:
            if name not in said:
                yield f"Args does not say what {name!r} is"
    for name in said:
        if name not in given:
            yield f"Args names {name!r}, which is no parameter"


def faults(source: str, classes: set[str] | None = None) -> list[str]:
    """What is wrong with the public functions of a module, and with the public methods of the named classes."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            found += [f"{node.name}: {fault}" for fault in faults_of(node, ast.get_docstring(node) or "")]
        if isinstance(node, ast.ClassDef) and node.name in (classes or ()):
            for method in node.body:
                if not isinstance(method, Function) or (method.name.startswith("_") and method.name != "__init__"):
                    continue
                docstring = ast.get_docstring(node if method.name == "__init__" else method) or ""
                found += [f"{node.name}.{method.name}: {fault}" for fault in faults_of(method, docstring, bound=True)]
    return found


def exported() -> set[str]:
    """The names in ``graffiti.__all__``."""
    return next(
        set(ast.literal_eval(node.value)) for node in ast.parse((PACKAGE / "__init__.py").read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )


EXPORTED = exported()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_of_three_parameters_have_args(path):
    assert faults(path.read_text(), EXPORTED) == []


def test_planted_faults_are_found():
    source = '''
def silent(a, b, c):
    """No list."""

def short(a, b):
    """Two parameters need none."""

def _private(a, b, c):
    """Nor does this."""

def half(a, *, b: int = 1, c=None, **rest):
    """One entry is missing, one is stale.

    Args:
        a, b: said together,
            c: this line goes on and is no entry.
        gone: was a parameter once.
        **rest: more.

    Raises:
        ValueError: this is no parameter.
    """

class Shown:
    """Of the constructor.

    Args:
        a, b: first and second.
    """

    def __init__(self, a, b, c):
        """See the class."""

    def method(self, a, b, *c):
        """Two parameters and more, which need none."""

    @staticmethod
    def bare(a, b, c):
        """No list."""

class Hidden:
    def method(self, a, b, c):
        """Of a class that is not exported."""
'''
    assert faults(source, {"Shown"}) == [
        *(f"silent: Args does not say what {name!r} is" for name in "abc"),
        "half: Args does not say what 'c' is", "half: Args names 'gone', which is no parameter",
        "Shown.__init__: Args does not say what 'c' is",
        *(f"Shown.bare: Args does not say what {name!r} is" for name in "abc"),
    ]


def test_what_is_exported_is_looked_at():
    looked_at = {
        node.name for path in PACKAGE.rglob("*.py") for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef | Function) and node.name in EXPORTED
    }
    assert {"ALT", "IntegerGraph", "TrainingScheme", "VerificationReport", "quantize"} <= looked_at
