"""Reads the tables that C++ includes (``*.inc``), so that each of their facts is written down once.

Knows nothing of the rest of the package: ``build.py`` and ``setup.py`` load it by path.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import platform
import re

HERE = pathlib.Path(__file__).resolve().parent
_MACHINES = {"x86_64": ("x86_64", "amd64")}  # what platform.machine() calls the CPU of a row


@dataclasses.dataclass(frozen=True)
class Tier:
    """A row of ``tiers.inc``: an instruction set of the kernels.

    Attributes:
        constant: its name in C++, ``GRAFFITI_TIER_<constant>``.
        name: its name everywhere else.
        cpu: ``any``, or the architecture that it is built for.
        vectors: the file with its vectors.
        flags: of the compiler.
    """

    constant: str
    name: str
    cpu: str
    vectors: str
    flags: tuple[str, ...]

    @property
    def is_built(self) -> bool:
        """Whether this machine's architecture has it."""
        return self.cpu == "any" or platform.machine().lower() in _MACHINES[self.cpu]


@functools.cache
def tiers() -> tuple[Tier, ...]:
    """Every tier, slowest first; its number in the ABI is its place, from 1 on."""
    found = []
    for _, constant, name, cpu, vectors, flags, _ in rows((HERE / "tiers.inc").read_text(), "ROW"):
        found.append(Tier(constant, text_of(name), cpu, text_of(vectors), tuple(text_of(flags).split())))
    return tuple(found)


def tier_names() -> tuple[str, ...]:
    """``auto`` and every tier; a name's place is its number in the ABI."""
    return ("auto", *(tier.name for tier in tiers()))


@functools.cache
def operations() -> dict[str, int]:
    """The ops on two operands (``binary.inc``) and their numbers in the ABI and in programs."""
    text = (HERE / "binary.inc").read_text()
    found = {constant: number for constant, _, number, *_ in rows(text, "GRAFFITI_BINARY_OP")}
    found |= {constant: number for constant, number, _ in rows(text, "GRAFFITI_INNER_BINARY_OP")}
    return {constant.lower(): int(number) for constant, number in found.items()}


def rows(text: str, macro: str) -> list[list[str]]:
    """The arguments of every use of a macro in C++ source, in order; comments and definitions are left out.

    Args:
        text: the source.
        macro: its name.

    Raises:
        ValueError: where a use does not end.
    """
    text = re.sub(r"//[^\n]*|/\*.*?\*/|^[ \t]*#[^\n]*|\\$", " ", text, flags=re.DOTALL | re.MULTILINE)
    return [arguments(text, match.end()) for match in re.finditer(rf"\b{macro}\(", text)]


def arguments(text: str, start: int = 0) -> list[str]:
    """The arguments from ``start`` to the closing bracket, cut at the commas outside of brackets and strings."""
    found, depth = [""], 0
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"|.', text[start:], flags=re.DOTALL):
        part = token.group()
        if part == ")" and depth == 0:
            return [" ".join(argument.split()) for argument in found]
        depth += {"(": 1, ")": -1}.get(part, 0)
        if part == "," and depth == 0:
            found.append("")
        else:
            found[-1] += part
    raise ValueError(f"a table has a row that does not end: {text[start : start + 60]!r}")


def text_of(literal: str) -> str:
    """The text of one or several C string literals behind each other."""
    return "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literal))
