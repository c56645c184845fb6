"""The limit that pyproject.toml declares holds: lines of 120 columns, in every source and page."""

from __future__ import annotations

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLUMNS = 120
OFF = {".py": ("# fmt: off", "# fmt: on"), ".md": ("<!-- fmt: off -->", "<!-- fmt: on -->")}
SOURCES = ("*.py", "*.cc", "*.h", "*.c", "*.inc", "*.md", "*.yaml", "*.in", "*.sh")


GRAPH_TEXT = ("%", "output %", "const %")  # one node of a graph's text stands on one line


def long_lines(text: str, suffix: str) -> list[int]:
    """Numbers of the lines over 120 columns. Not counted: regions that a marker opens and closes, rows of tables, the
    text of graphs, blocks of code in Markdown, and lines that are one long word (a link).
    """
    off, on = OFF.get(suffix, ("// clang-format off", "// clang-format on"))
    found, marked, code = [], False, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() in (off, on):
            marked = line.strip() == off
        if suffix == ".md" and line.lstrip().startswith("```"):
            code = not code
        data = code or suffix == ".md" and line.startswith("    ") or line.lstrip().startswith(("|", *GRAPH_TEXT))
        if len(line) > COLUMNS and not marked and not data and len(line.split()) > 2:
            found.append(number)
    return found


def test_no_line_is_longer_than_the_limit():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("graffiti", "recipes", "tools", "tests") for pattern in SOURCES
        for path in (ROOT / folder).rglob(pattern) for number in long_lines(path.read_text(), path.suffix)
    ]
    found += [
        f"{path.name}:{number}" for path in [ROOT / "setup.py", *ROOT.glob("*.md")]
        for number in long_lines(path.read_text(), path.suffix)
    ]
    assert not found, f"{len(found)} lines over {COLUMNS} columns: {found[:20]}"


@pytest.mark.parametrize("suffix, text, found", [
    (".py", "x = 1\n" + "y " * 70, [2]),
    (".py", "# fmt: off\n" + "y " * 70 + "\n# fmt: on\n" + "y " * 70, [4]),
    (".cc", "// clang-format off\n" + "y " * 70 + "\n// clang-format on\n" + "y " * 70, [4]),
    (".md", "| " + "y " * 70 + "\n```\n" + "y " * 70 + "\n```\n" + "y " * 70, [5]),
    (".md", "[a]: https://" + "y" * 140, []),
    (".py", "  %y = relu(%x) {" + "y " * 70 + "}\n" + "y " * 70, [2]),
], ids=["python", "marked", "marked C++", "Markdown", "link", "graph"])
def test_long_lines_are_found(suffix, text, found):
    assert long_lines(text, suffix) == found
