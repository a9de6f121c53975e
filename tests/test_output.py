"""Output is written completely or not at all, and only where a file may be written."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import posix

from minivideococa.output import atomic_folder, atomic_write, json_text, require_empty, resolve_output


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("before", [None, "old"])
def test_file_is_moved_at_the_end(tmp_path: Path, before: str | None) -> None:
    place = tmp_path / "a.txt"
    if before:
        place.write_text(before)
    with atomic_write(place) as partial:
        partial.write_text("new")
        assert partial.parents[1] == tmp_path and (place.read_text() if before else not place.exists())
    assert place.read_text() == "new" and names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_failure_changes_nothing(tmp_path: Path, error: type, kind: str) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")
    with pytest.raises(error), atomic_write(place) as partial:
        if kind == "file":
            partial.write_text("half")
        if kind == "folder":
            partial.mkdir()
            (partial / "half").touch()
        raise error
    assert place.read_text() == "old" and names(tmp_path) == {"a.txt"}


def test_folder_is_moved_at_the_end(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "made") as partial:
        partial.mkdir()
        (partial / "inside").touch()
    assert names(tmp_path) == {"made"} and names(tmp_path / "made") == {"inside"}


def test_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "a" / "empty").mkdir(parents=True)
    for place in (tmp_path / "a" / "b" / "made", tmp_path / "a" / "empty"):
        with atomic_folder(place) as partial:
            (partial / "inside").touch()
            assert partial.parent == (place if place.name == "empty" else place.parent)
            assert not (place / "inside").exists()
        assert names(place.parent) == {place.name} | ({"b"} if place.name == "empty" else set())
        assert names(place) == {"inside"}


def test_folder_must_be_empty_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for free in ("empty", "nothing"):
        require_empty(tmp_path / free)
    for wrong, expected in (tmp_path, "not empty"), (tmp_path / "file", "is a file"):
        with pytest.raises(ValueError, match=f"{expected}: give another name"), atomic_folder(wrong):
            raise AssertionError("never reached")
    with pytest.raises(ValueError, match="not empty"), atomic_folder(tmp_path / "empty"):
        (tmp_path / "empty" / "theirs").touch()
    assert names(tmp_path) == {"file", "empty"} and names(tmp_path / "empty") == {"theirs"}


def test_empty_folder_is_filled_not_replaced(tmp_path: Path) -> None:
    """It may be a working directory or a mount point."""
    before = tmp_path.stat().st_ino
    with atomic_folder(tmp_path) as partial:
        (partial / "inside").touch()
        (partial / "deeper").mkdir()
    assert tmp_path.stat().st_ino == before and names(tmp_path) == {"inside", "deeper"}


def test_failure_leaves_an_empty_folder_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path) as partial:
        (partial / "inside").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


@posix
def test_inputs_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    (tmp_path / "in").touch()
    (tmp_path / "link").symlink_to("in")
    inputs = [tmp_path / "in", tmp_path / "images", tmp_path / "missing", "a\0b", tmp_path / "loop"]
    (tmp_path / "loop").symlink_to("loop")
    for wrong in ("in", "link", "images/0.png", "images/1.png"):
        with pytest.raises(ValueError, match=f"{wrong}: would overwrite an input"):
            resolve_output(tmp_path / wrong, inputs)
    assert resolve_output(tmp_path / "out", inputs) == tmp_path / "out"


@given(st.text() | st.lists(st.text()))
def test_json_round_trip(data: object) -> None:
    assert json.loads(json_text(data)) == data and "\n" not in json_text(data)
    json_text(data).encode()
    assert json_text("é") == '"é"'


def test_json_of_surrogates() -> None:
    for text in "\ud83d", "\udce9", "é\udce9":
        assert json.loads(json_text(text).encode()) == text


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(resolve_output(tmp_path / "link")) as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"


@posix
def test_destinations_that_cannot_be_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for wrong in ("pipe", ".", "/dev/null"):
        with pytest.raises(ValueError, match="not a regular file"):
            resolve_output(tmp_path / wrong)
    for wrong in ("missing/file", "file/inside"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            resolve_output(tmp_path / wrong)
    assert resolve_output(tmp_path / "file") == resolve_output(tmp_path / "." / "file")


def test_a_folder_without_permission_is_an_error_before_the_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(PermissionError, match="a.txt: cannot be written; give another"):
        resolve_output(tmp_path / "a.txt")
