"""The folder of a run: whose it is, what it was asked for, and the saved states."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from platforms import posix

from minivideococa.training import state
from minivideococa.training.state import (
    Position,
    read_state,
    record_run,
    require_same_run,
    run_folder,
    saved_steps,
    write_state,
)


def vectors(seed=0):
    rng = np.random.default_rng(seed)
    names = ("values", "first", "second")
    return {name: rng.standard_normal(5).astype("float32") for name in names} | {"step": np.array(3)}


def test_a_state_comes_back_to_the_same_bits(tmp_path):
    position = Position(step=7, phase=1, phase_step=3, best=0.1 + 0.2, best_step=5, stale=2)
    write_state(tmp_path, position, saved := vectors(), keep=1)
    again, read = read_state(tmp_path, 7)
    assert again == position and read.keys() == saved.keys()
    assert all(read[name].tobytes() == saved[name].tobytes() for name in saved)


def test_the_newest_states_are_kept_and_the_best(tmp_path):
    for step in range(1, 12):
        write_state(tmp_path, Position(step=step, best=1.0, best_step=min(step, 2)), vectors(), keep=3)
    assert saved_steps(tmp_path) == [2, 9, 10, 11]


def test_a_file_that_is_no_state(tmp_path):
    write_state(tmp_path, Position(step=1), vectors(), keep=3)
    path = state.state_path(tmp_path, 1)
    path.write_bytes(path.read_bytes().replace(b"minivideococa.position", b"minivideococa.positiom"))
    with pytest.raises(
        ValueError, match="state-1.safetensors: is damaged, or no state of finetune: remove it"
    ):
        read_state(tmp_path, 1)


def test_a_damaged_state_says_what_to_do(tmp_path):
    write_state(tmp_path, Position(step=1), vectors(), keep=3)
    path = state.state_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="state-1.safetensors: .*remove it, to go on from an older one"):
        read_state(tmp_path, 1)


def test_a_state_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(f"{path}: No space left on device")

    monkeypatch.setattr(state, "save_tensors", full)
    with pytest.raises(OSError, match="state-1.safetensors: No space .*; make room, and repeat the command"):
        write_state(tmp_path, Position(step=1), vectors(), keep=3)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with (
        pytest.raises(OSError, match="run: cannot be made: Not a directory; give another"),
        run_folder(folder),
    ):
        pass


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"options": 5}'])
def test_a_record_that_says_nothing_is_an_error(tmp_path, content):
    write_state(tmp_path, Position(step=1), vectors(), keep=3)
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match="run.json: does not say what the run was asked for; remove the"):
        require_same_run(tmp_path, {"options": {"batch": 4}})


def test_a_folder_without_permission_is_an_error_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    with pytest.raises(PermissionError, match="cannot be written; give another"), run_folder(tmp_path):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(ValueError, match=r"holds no run of finetune \(holiday.mp4\)"), run_folder(tmp_path):
        pass
    with pytest.raises(ValueError, match="is a file"), run_folder(tmp_path / "holiday.mp4"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_a_folder_is_made_with_its_parents_and_reopened(tmp_path):
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        with run_folder(folder):
            record_run(folder, {"options": {"batch": 4}})
            write_state(folder, Position(step=1), vectors(), keep=3)


def test_what_a_killed_process_left_is_removed(tmp_path):
    """The unfinished file of the safetensors library, too, which is in the folder of unfinished work."""
    record_run(tmp_path, {})
    (tmp_path / ".partial-7calr77n.work").mkdir()
    for name in (".partial-7calr77n", ".partial-7calr77n.work/.tmpOV2Bl7", "notes.txt"):
        (tmp_path / name).touch()
    with run_folder(tmp_path):
        record_run(tmp_path, {})
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "notes.txt"}


@posix
def test_a_folder_in_use_is_refused_and_free_when_its_process_is_killed(tmp_path):
    code = (
        "import sys, pathlib\nfrom minivideococa.training.state import run_folder\n"
        "with run_folder(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with (
            pytest.raises(ValueError, match="another process is writing there"),
            run_folder(tmp_path / "run"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with run_folder(tmp_path / "run"):
        pass


ASKED = {"options": {"batch": 4, "keep": 3}, "model": "abc", "data": ["1", None]}


@pytest.fixture
def saved(tmp_path):
    """The folder of a run with a saved state."""
    record_run(tmp_path, ASKED)
    write_state(tmp_path, Position(step=1), vectors(), keep=3)
    return tmp_path


def test_a_run_is_repeated_as_it_was_asked_for(saved):
    assert json.loads((saved / "run.json").read_text()) == ASKED
    require_same_run(saved, ASKED)
    require_same_run(saved, {"options": {"batch": 4, "keep": 9}, "model": "abc"})  # keep changes no result


@pytest.mark.parametrize(
    "other, difference",
    [
        ({"options": {"batch": 8, "keep": 3}}, "batch was 4 and is 8"),
        ({"model": "xyz"}, "another model"),
        ({"data": ["2", None]}, "other clips, texts or validation"),
    ],
)
def test_a_run_of_something_else_is_refused_by_name(saved, other, difference):
    with pytest.raises(ValueError, match=rf"holds a run of something else \({difference}\)"):
        require_same_run(saved, {**ASKED, **other})


def test_a_run_that_saved_nothing_may_be_asked_for_differently(tmp_path):
    record_run(tmp_path, ASKED)
    require_same_run(tmp_path, {**ASKED, "model": "xyz"})
