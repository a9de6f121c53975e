"""A short soak: nothing grows over 60 captions, and what is planted to grow is found."""

import subprocess
import tempfile
import threading

import pytest
from platforms import linux
from soak import COUNTED, growth, soak

pytestmark = [linux, pytest.mark.slow]

CAPTIONS = 60


def test_nothing_grows(tmp_path):
    assert growth(soak(CAPTIONS, tmp_path)) == []


def test_what_leaks_is_found(tmp_path):
    """A child process, an open file, a thread, a temporary file and the frames of a clip for each caption."""
    kept, end = [], threading.Event()

    def leak():
        thread, file = threading.Thread(target=end.wait), open("/dev/null")  # noqa: SIM115 (it stays open)
        thread.start()
        tempfile.mkstemp()
        kept.append((subprocess.Popen(["sleep", "600"]), file, thread, b"\1" * 98_304))

    try:
        grown = growth(soak(CAPTIONS // 3, tmp_path, leak))
    finally:
        end.set()
        for process, file, *_ in kept:
            process.kill()
            process.wait()
            file.close()
    assert [line.split(":")[0] for line in grown] == [*COUNTED, "memory"]
