"""What CONTRIBUTING says that a new op and a new activation function cost, held against where those that are there
stand.
"""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUFFIXES = (".py", ".cc", ".h", ".c", ".inc", ".yaml")
OP = re.compile(r"[\"']minimum[\"']|\bGRAFFITI_MINIMUM\b|\(MINIMUM\b|^def minimum\(|^### .*`minimum`", re.MULTILINE)
NOT_THE_OP = {  # name it for something that is no part of adding an op
    "graffiti/keras_io/float_rules.py": "keras.ops.minimum with a number is a clip",
    "graffiti/transforms/prepare/unfuse_leaky_relu.py": "a PReLU becomes one",
    "graffiti/ops/integer_ops.py": "a public function beside elementwise",
    "graffiti/ops/__init__.py": "its name",
}


def listed() -> list[str]:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## What one op costs")[2]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def mentions(pattern: re.Pattern) -> set[str]:
    files = (
        [path for path in (ROOT / "graffiti").rglob("*") if path.suffix in SUFFIXES]
        + [ROOT / "graffiti/numerics/README.md", ROOT / "tests/c_graphs.py"]
    )
    return {str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())}


def test_an_op_stands_where_the_list_says():
    assert mentions(OP) - set(NOT_THE_OP) == set(listed())
    assert len(listed()) <= 12 and set(NOT_THE_OP) <= mentions(OP)


def test_an_activation_function_stands_in_one_file():
    assert mentions(re.compile(r"[\"']squareplus[\"']")) == {"graffiti/graph/functions.py"}
