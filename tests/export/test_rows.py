"""What every row of ``EXPORTERS`` keeps: options are keywords of ``write``, packages are asked for, a file is whole."""

from __future__ import annotations

import inspect
import sys

import c_graphs
import pytest

from graffiti import targets
from graffiti.cli import make_parser
from graffiti.export import EXPORTERS

INSIDE = {"graph", "path", "overwrite", "fused"}  # of ``write``; not for the command line


@pytest.fixture(params=EXPORTERS)
def row(request):
    return EXPORTERS[request.param]


def test_its_options_are_the_keywords_of_write(row):
    assert {*row.options} == {*inspect.signature(row.write).parameters} - INSIDE
    assert all(option.help and option.kind in ("word", "size", "data") for option in row.options.values())
    assert targets.get(row.target).export == row.name and row.description


def test_the_command_line_has_its_options(row, capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, option in row.options.items():
        assert f"--{name}" in text and " ".join(option.help.split()[:3]) in text


def test_a_missing_package_is_one_sentence_and_no_file(row, tmp_path, monkeypatch):
    for package in row.packages:
        monkeypatch.setitem(sys.modules, package.module, None)
        path = tmp_path / f"net{row.suffix}"
        sentence = f"the export format '{row.name}' cannot be written: .*; pip install {package.name}"
        with pytest.raises(ImportError, match=sentence):
            row.write(c_graphs.conv_case(), path)
        assert not list(tmp_path.iterdir())
        monkeypatch.undo()


def test_it_writes_what_its_suffix_says(row, tmp_path):
    for why in filter(None, (package.missing() for package in row.packages)):
        pytest.skip(why)
    path = tmp_path / f"net{row.suffix}"
    written = row.write(c_graphs.conv_case(), path)
    assert (written == [path] and path.is_file()) if row.suffix else path.is_dir()
