"""``numerics/README.md`` is normative: its examples are run, and no op of the integer stage is missing."""

from __future__ import annotations

import doctest
import pathlib
import re

import graffiti.numerics
from graffiti.graph.ops import OPS
from graffiti.numerics.rounding import ROUNDING_MODES, round_real

PAGE = pathlib.Path(graffiti.numerics.__file__).with_name("README.md")


def test_examples_are_true():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.failed == 0 and result.attempted > 25


def test_every_integer_op_has_its_section():
    headings = " ".join(line for line in PAGE.read_text().splitlines() if line.startswith("###"))
    assert set(re.findall(r"`(\w+)`", headings)) == {name for name, row in OPS.items() if "integer" in row.stages}


def test_rounding_table_is_true():
    rows = [
        [cell.strip().strip("`").replace("−", "-") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines() if line.startswith("|")
    ]
    header = next(row for row in rows if row[:2] == ["mode", "-2.5"])
    for mode in ROUNDING_MODES:
        row = next(row for row in rows if row[0] == mode and len(row) == len(header))
        assert [float(cell) for cell in row[1:]] == round_real([float(cell) for cell in header[1:]], mode).tolist()
