"""The pages of graffiti/docs: their options, fields and commands are those of the code; the slow test reruns every
command.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from graffiti import cli, documents, export, recipes, targets
from graffiti.calibration.methods import METHODS
from graffiti.recipes import AltOptions, CalibrationOptions, Recipe
from graffiti.targets import TargetProfile, TensorLimits

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "graffiti" / "docs"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    parser = cli.make_parser()
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The first long name of every option."""
    # not absl's own
    shown = [
        action for action in parser._actions
        if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS
    ]
    return {action.option_strings[0] for action in shown if action.option_strings[0] != "--helpfull"}


def rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose first line is ``heading``."""
    lines = text.splitlines()
    start = lines.index(heading) + 2
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_every_command_has_a_page():
    assert {path.stem for path in (DOCS / "cli").glob("*.md")} - {"README"} == set(cli.COMMANDS) == set(subparsers())
    listed = {
        name for row in rows((DOCS / "cli" / "README.md").read_text(), "| command | what it does |")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert listed == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_options_are_those_of_help(command):
    """Every option of --help is in the page's table, and the other way round."""
    table = rows((DOCS / "cli" / f"{command}.md").read_text(), "| option | meaning |")
    written = [name for row in table for name in re.findall(r"`(--\w+)`", row[0])]
    parser = subparsers()[command]
    assert set(written) == options(parser) and len(set(written)) == len(written)
    help_text = parser.format_help()
    assert all(name in help_text for name in written) and all(action.help for action in parser._actions)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_commands_on_the_pages_parse(command):
    text = (DOCS / "cli" / f"{command}.md").read_text()
    commands = (
        re.findall(r"^(?:\$|   ) (graffiti .*)$", text, re.MULTILINE)
        + re.findall(r"^    (graffiti .*)$", text, re.MULTILINE)
    )
    assert commands
    for line in commands:
        assert cli.parse_arguments(shlex.split(line)).command == command


def test_commands_on_the_other_pages_parse():
    """Every command on a page that is no command's own, in a block or between backticks; `…` and alternatives are
    prose.
    """
    found = []
    for path in [DOCS.parents[1] / "README.md", *DOCS.glob("*.md")]:
        text = path.read_text()
        found += re.findall(r"^    (graffiti .*)$", text, re.MULTILINE) + re.findall(r"`(graffiti \w+ [^`|…]*)`", text)
    assert len(found) > 3, f"the pages show the commands {found}; with so few this test proves nothing"
    for line in found:
        cli.parse_arguments(shlex.split(line))


def names_in(table: list[list[str]]) -> list[str]:
    return [re.findall(r"`(\w+)`", row[0])[0] for row in table]


def test_target_fields():
    text = (DOCS / "targets.md").read_text()
    tables = text.split("| field | default | meaning |")
    heading = "| field | default | meaning |"
    for part, kind in ((tables[1], TargetProfile), (tables[2], TensorLimits)):
        assert set(names_in(rows(heading + part, heading))) == {field.name for field in dataclasses.fields(kind)}
    listed = {row[0].strip("`"): row[2].strip("`") for row in rows(text, "| profile | for | exported as |")}
    assert (
        listed == {name: targets.get(name).export for name in targets.names()}
        and set(listed.values()) == set(export.EXPORTERS)
    )


def test_recipe_fields():
    text = (DOCS / "recipes.md").read_text()
    assert set(names_in(rows(text, "| key | meaning |"))) == {field.name for field in dataclasses.fields(Recipe)}
    heading, parts = "| key | default | meaning |", text.split("| key | default | meaning |")
    for part, kind in ((parts[1], CalibrationOptions), (parts[2], AltOptions)):
        table = rows(heading + part, heading)
        assert set(names_in(table)) == {field.name for field in dataclasses.fields(kind)}
        for row in table:
            default = next(field.default for field in dataclasses.fields(kind) if field.name == row[0].strip("`"))
            assert default is None or row[1] == str(default)
    assert (
        set(
            re.findall(
                r"`(\w+)`",
                next(row[2] for row in rows(text.split("`calibration`:")[1], heading) if row[0] == "`weights`")
            )
        )
        == set(METHODS)
    )


def test_files_on_the_pages_are_read(tmp_path):
    for page, key, read in (
        ("recipes.md", "rules:", recipes.load), ("cli/quantize.md", "rules:", recipes.load),
        ("targets.md", "ops:", targets.load)
    ):
        found = [
            block for block in re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(), re.DOTALL) if key in block
        ]
        assert found
        for number, block in enumerate(found):
            path = tmp_path / f"{page.replace('/', '_')}{number}.yaml"
            path.write_text(block)
            assert read(path) and documents.read(path)["name"] == read(path).name


@pytest.mark.slow  # a minute: every command on a fresh network
def test_the_output_on_the_pages_is_what_the_commands_print():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ai_edge_litert")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "cli_docs.py"), "--check"], capture_output=True, text=True,
        env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
