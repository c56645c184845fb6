"""The README is kept true: the layer table, the scheme table, the public names."""

from __future__ import annotations

import pathlib
import re

import graffiti
from graffiti.keras_io import float_rules

README = (pathlib.Path(__file__).resolve().parents[1] / "README.md").read_text()


def table(title: str) -> list[list[str]]:
    section = README.split(f"## {title}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")
    ][2:]


def test_supported_layers_are_those_that_the_reader_knows():
    written = {name for _, cell in table("Supported layers") for name in cell.split(", ")}
    assert written == {layer.__name__ for layer in float_rules.LAYER_RULES} - {"InputLayer"}


def test_schemes_are_the_presets():
    written = {name for row in table("Schemes") for name in re.findall(r"`(\w+)`", row[0])}
    assert written == set(graffiti.schemes.names())


def test_public_names():
    """A change to this list is a change to the contract."""
    assert (sorted(graffiti.__all__) == [
        "ALT", "AccumulatorOverflow", "ExportError", "Inspection", "IntegerGraph", "LowBitOptimizer",
        "QuantizationReport",
        "QuantizerSpec", "ReportLine", "Rule", "Scheme", "TargetError", "TargetProfile", "TensorSpec",
        "TrainingScheme", "Unavailable", "VerificationReport", "calibrate", "callbacks", "cost", "data", "exceptions",
        "files", "inspect", "layers", "quantize",
        "quantize_training", "quantizers", "recipes", "report", "schemes", "strip", "targets", "tfmot", "to_integer",
        "verify",
    ])
    assert all(hasattr(graffiti, name) for name in graffiti.__all__)


def test_recipes_and_documents_named_exist():
    root = pathlib.Path(__file__).resolve().parents[1]
    for path in re.findall(r"`((?:recipes|graffiti)/[\w/]+\.(?:py|md))`|`([A-Z]+\.md)`", README):
        assert (root / "".join(path)).exists(), path


def test_no_page_installs_somebody_elses_package():
    """The name ``graffiti`` on the package index is another project's: documentation and messages install from a
    checkout.
    """
    root = pathlib.Path(__file__).resolve().parents[1]
    files = [
        path for pattern in ("*.md", "*.py", "*.yaml", "*.toml", "Makefile")
        for folder in ("", "graffiti/**/", "recipes/", "tools/", "tests/**/")
        for path in root.glob(f"{folder}{pattern}")
    ]
    assert len(files) > 200
    wrong = re.compile(r"install\s+(?:-\S+\s+)*['\"]?graffiti(?:\[|['\"`\s]|$)", re.MULTILINE)
    found = [f"{path.relative_to(root)}: {match[0]}" for path in files for match in wrong.finditer(path.read_text())]
    assert not found
