"""Progress: the bars that the command line draws, and the default that draws nothing."""

import io
import sys

import pytest

from minivideococa.progress import no_progress, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, shown", [(Terminal, True), (io.StringIO, False)], ids=["terminal", "no terminal"]
)
def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch, capfd, stream, shown):
    """At 0 of 8 at once; when the work is done, the line is empty."""
    now, err = [1000.0], stream()
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", err)
    with progress_bar(8, "frames") as update:
        assert ("0/8" in err.getvalue()) is shown
        for _ in range(4):
            now[0] += 1
            update(2)
        drawn = err.getvalue()
    assert ("frames" in drawn and "/8" in drawn) if shown else err.getvalue() == ""
    assert err.getvalue().rpartition("\r")[2].strip() == "" and "\n" not in err.getvalue()
    assert capfd.readouterr().out == ""


def test_a_note_stands_beside_the_bar(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    with progress_bar(8, "clips") as update:
        for note in ("loss 2.0", "loss 1.0"):
            now[0] += 1
            update(2, note)
        assert "loss 2.0" in err.getvalue() and "loss 1.0]" in err.getvalue().rpartition("\r")[2]
    with no_progress(8, "clips") as update:
        update(1, "loss 1.0")


def test_an_error_closes_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", err := Terminal())
    with pytest.raises(ZeroDivisionError), progress_bar(1, "texts"):
        raise ZeroDivisionError
    assert err.getvalue().rpartition("\r")[2].strip() == ""


def test_no_progress_prints_nothing(capfd):
    with no_progress(8, "frames") as update:
        update(1)
        update(1000)
    assert capfd.readouterr() == ("", "")
