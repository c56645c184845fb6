"""The tables that C++ and Python both read: ``ops/kernels/*.inc``."""

from __future__ import annotations

import pathlib
import re

import pytest

from graffiti.executors import EXECUTORS
from graffiti.ops import integer_ops, loader
from graffiti.ops.kernels import build, tables
from graffiti.runtime import library

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = [tier.name for tier in tables.tiers()]


def test_the_rows_of_a_table():
    text = """
    // ROW(0, "left out")
    #define ROW(a, b) a
    ROW(1, "one, \\"two\\"", f(2, g(3)))  /* ROW(4) */
    ROWS(5)
    ROW(A,
        "first "  // said
        "second")
    """
    assert tables.rows(text, "ROW") == [["1", '"one, \\"two\\""', "f(2, g(3))"], ["A", '"first " "second"']]
    assert tables.text_of('"first " "second"') == "first second"
    with pytest.raises(ValueError, match="a row that does not end"):
        tables.rows("ROW(1, (2)", "ROW")


def test_everyone_has_the_tiers_of_the_table():
    assert loader.TIERS == library.TIERS == integer_ops.TIERS == ("auto", *NAMES)
    assert list(EXECUTORS["native"].options) == list(EXECUTORS["ops"].options) == NAMES
    assert NAMES[0] == "scalar" and tables.tiers()[0].cpu == "any" and len(set(NAMES)) == len(NAMES)
    for tier in tables.tiers():
        assert tier.name == tier.constant.lower() and (tables.HERE / tier.vectors).is_file()


def test_each_family_is_built_for_each_tier():
    families = {path.parent.name for path in tables.HERE.glob("*/each_tier.cc")}
    built = [tier for tier in tables.tiers() if tier.is_built]
    assert {"dot", "loops", "depthwise"} <= families and built
    for family in families:
        for tier in built:
            source, flags = build.objects()[f"{family}_{tier.name}.o"]
            assert source.name == "each_tier.cc" and set(tier.flags) < set(flags)
            assert f"-DGRAFFITI_TIER=GRAFFITI_TIER_{tier.constant}" in flags


def test_no_other_source_lists_the_tiers():
    """A tier is named in its own rows only: in the table, in the register tiles, in its vectors."""
    own = [tables.HERE / name for name in ("tiers.inc", "dot/kernels.inc", *(tier.vectors for tier in tables.tiers()))]
    rest = tables.tiers()[1:]
    words = [tier.name for tier in rest]
    words += [f"GRAFFITI_{kind}_{tier.constant}" for tier in rest for kind in ("TIER", "TIER_IS")]
    named = re.compile("|".join(rf"\b{word}\b" for word in words))
    sources = [path for pattern in ("*.h", "*.cc", "*.inc", "*.py") for path in tables.HERE.rglob(pattern)]
    sources += [*(ROOT / "graffiti/runtime").glob("*.py"), *(ROOT / "graffiti/executors").glob("*.py")]
    assert all(named.search(path.read_text()) for path in own[:2])
    found = [str(path.relative_to(ROOT)) for path in sources if path not in own and named.search(path.read_text())]
    assert not found, f"these list tiers of their own: {found}"


def test_the_readme_names_the_tiers():
    text = (ROOT / "README.md").read_text()
    assert f"GRAFFITI_MAX_TIER={'|'.join(NAMES)}" in text
