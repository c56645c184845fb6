"""The program format, read from the table that the native reader includes: ``ops/kernels/program_format.inc``."""

from __future__ import annotations

import dataclasses
import functools
import re

from graffiti.ops.kernels import tables


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a record or step.

    Attributes:
        kind: ``NUMBER``, ``READ``, ``DATA`` ..., as in the table.
        name: its own.
        of: of a ``RECORD`` the record's name, of ``NUMBERS`` the field with their count.
    """

    kind: str
    name: str
    of: str = ""


@dataclasses.dataclass(frozen=True)
class Format:
    """A whole table.

    Attributes:
        magic: the first word of a program.
        version: the second.
        records: the fields of each record.
        kinds: the number of each step.
        steps: the fields of each step.
    """

    magic: int
    version: int
    records: dict[str, tuple[Field, ...]]
    kinds: dict[str, int]
    steps: dict[str, tuple[Field, ...]]


def parse(text: str) -> Format:
    """A table from its text.

    Raises:
        ValueError: where a kind or a name appears twice, or a field is of an unknown kind.
    """
    ((magic, version),) = tables.rows(text, "GRAFFITI_PROGRAM")
    records = {name: _fields(fields) for name, fields in tables.rows(text, "GRAFFITI_RECORD")}
    steps = tables.rows(text, "GRAFFITI_STEP")
    kinds = {name: int(kind) for kind, name, _ in steps}
    if len(set(kinds.values())) < len(steps):
        raise ValueError("the program format has two steps of one name or kind")
    return Format(int(magic, 0), int(version), records, kinds, {name: _fields(fields) for _, name, fields in steps})


@functools.cache
def load() -> Format:
    """The format of this version."""
    return parse((tables.HERE / "program_format.inc").read_text())


_ONE = ("NUMBER", "READ", "WRITE", "TYPE", "ROUNDING", "OPERATION", "DATA", "OPTIONAL_READ", "OPTIONAL_DATA")


def _fields(text: str) -> tuple[Field, ...]:
    found = []
    for kind, inside in re.findall(r"(\w+)\(([^)]*)\)", text):
        names = [name.strip() for name in inside.split(",")]
        if kind in _ONE and len(names) == 1:
            found.append(Field(kind, names[0]))
        elif kind == "NUMBERS" and len(names) == 2:
            found.append(Field(kind, names[0], names[1]))
        elif kind == "RECORD" and len(names) == 2:
            found.append(Field(kind, names[1], names[0]))
        else:
            raise ValueError(f"a field is one of {', '.join(_ONE)}, NUMBERS and RECORD, got {kind}({inside})")
    return tuple(found)
