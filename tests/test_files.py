"""Nothing half written, nothing overwritten by accident."""

from __future__ import annotations

import pytest

from graffiti import files


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.atomic_file(tmp_path / "a.txt") as temporary:
        assert temporary.suffix == ".txt" and not (tmp_path / "a.txt").exists()
        temporary.write_text("whole")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "whole")]


def test_an_existing_path_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(
        FileExistsError, match="exists already; choose another path"
    ), files.atomic_file(tmp_path / "a.txt"):
        pytest.fail("the block must not run")
    with files.atomic_file(tmp_path / "a.txt", overwrite=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_path_taken_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(FileExistsError), files.atomic_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("mine")
        (tmp_path / "a.txt").write_text("theirs")
    assert (tmp_path / "a.txt").read_text() == "theirs"


def test_a_missing_parent_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="does not exist; create it first"
    ), files.atomic_file(tmp_path / "b" / "a.txt"):
        pytest.fail("the block must not run")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "d") as temporary:
        (temporary / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.atomic_folder(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
    with pytest.raises(FileExistsError), files.atomic_folder(tmp_path / "d"):
        pytest.fail("the block must not run")
    with files.atomic_folder(tmp_path / "d", overwrite=True) as temporary:
        (temporary / "y").write_text("2")
    assert [p.name for p in tmp_path.iterdir()] == ["d"] and [p.name for p in (tmp_path / "d").iterdir()] == ["y"]
