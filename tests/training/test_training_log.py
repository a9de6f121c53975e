"""The log of a run, and the plot of its losses."""

import json
import sys
from pathlib import Path

import pytest

from minivideococa.training.log import Log, curves, plot_losses, read_log

LINES = [
    {"step": 1, "loss": 3.0, "caption": 1.0, "contrastive": 1.0},
    {"step": 2, "loss": 2.0, "caption": 0.5, "contrastive": 1.0},
    {"step": 2, "validation": {"loss": 2.5, "caption": 1.0, "contrastive": 0.5}},
    {"step": 3, "loss": 1.0, "caption": 0.25, "contrastive": 0.5},
]


def test_each_line_is_in_the_file_when_it_is_written(tmp_path):
    with Log(tmp_path / "log.jsonl", 0) as log:
        for i, line in enumerate(LINES, 1):
            log.write(line)
            assert read_log(tmp_path / "log.jsonl") == LINES[:i]


@pytest.mark.parametrize("step, kept", [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
def test_a_resumed_log_has_no_later_steps(tmp_path, step, kept):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    with Log(path, step) as log:
        assert log.lines == read_log(path) == LINES[:kept]
        log.write(LINES[0])
    assert read_log(path) == [*LINES[:kept], LINES[0]]


def test_a_line_that_was_cut_short_is_no_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + json.dumps(LINES[1])[:20])
    with Log(path, 9) as log:
        assert log.lines == LINES[:1]


def test_a_log_that_is_none_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text("step 1\n")
    with pytest.raises(ValueError, match="log.jsonl: not JSON"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("line", ["[]", "{}", "5", '{"step": "1"}'])
def test_a_line_without_its_step_is_no_log(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="log.jsonl: is not the log of a run; remove it"):
        Log(tmp_path / "log.jsonl", 1)


def test_curves():
    found = curves(LINES)
    assert found["loss"] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found["validation loss"] == [(2, 2.5)] and "validation contrastive" in found
    assert "answer" not in found
    alone = [{"step": 1, "loss": 3.0, "answer": 3.0, "accuracy": 0.5}]
    assert curves(alone) == {"answer": [(1, 3.0)]}


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_a_plot_is_drawn(tmp_path, suffix, magic):
    pytest.importorskip("matplotlib")
    plot_losses(tmp_path / f"losses.{suffix}", LINES, best_step=2)
    assert (tmp_path / f"losses.{suffix}").read_bytes().startswith(magic)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r'pip install "minivideococa\[docs\]"'):
        plot_losses(tmp_path / "losses.png", LINES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_an_error_that_names_the_log(tmp_path):
    with Log(tmp_path / "log.jsonl", 0) as log:
        log.file.close()
        log.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(OSError, match="log.jsonl: cannot be written: No space left on device; make room"):
            log.write(LINES[0])
