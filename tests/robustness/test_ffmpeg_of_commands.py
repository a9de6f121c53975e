"""An ffmpeg that is killed, hangs or prints garbage, and a Ctrl-C while it runs, in every command that reads.

What `read_video` makes of more kinds of failures is in tests/media/test_ffmpeg_failures.py.
"""

import os
import signal

import pytest
from children import wait_until_closed
from commands import NOTHING_READ, READING, arguments_of, files
from imageio_ffmpeg import get_ffmpeg_exe
from platforms import posix

from minivideococa import cli
from minivideococa.media import ffmpeg

pytestmark = [
    posix,
    pytest.mark.slow,
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]

DECODING = 'case "$*" in *image2pipe*)'  # not the reading of packets
OTHERWISE = ';; *) exec "$FFMPEG" "$@";; esac'
SCRIPTS = {
    "is killed": "kill -9 $$",
    "is killed midway": f'{DECODING} "$FFMPEG" "$@" | head -c 5000; kill -9 $$' + OTHERWISE,
    "prints garbage": f"{DECODING} head -c 100000 /dev/urandom; exit 0" + OTHERWISE,
    "prints garbage as its log": "head -c 100000 /dev/urandom >&2; exit 0",
    "hangs": "sleep 600; true",
    "hangs midway": f'{DECODING} "$FFMPEG" "$@" | head -c 5000; sleep 600; true' + OTHERWISE,
}


@pytest.fixture
def replace_ffmpeg(tmp_path, monkeypatch):
    """Replace ffmpeg by a shell script, in which $FFMPEG is the real one. At the end it may not run any more.

    Each program that the script starts holds a FIFO open.
    """
    real, fifo = get_ffmpeg_exe(), tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def replace(script):
        executable = tmp_path / "ffmpeg"
        executable.write_text(f"#!/bin/sh\nFFMPEG='{real}'\nexec 3>'{fifo}'\n{script}\n")
        executable.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(executable))

    yield replace
    wait_until_closed(reader)


def test_every_command_is_here():
    assert {name.split()[0] for name in READING} | NOTHING_READ == {
        command.__name__.rpartition(".")[2] for command in cli.COMMANDS
    }


def check_nothing_half(folder):
    """Nothing may be left but the folder of a library or a run, to go on with."""
    left = [path for path in files(folder) if "/." in path or not path.startswith("out/")]
    assert not left, left


@pytest.mark.parametrize("how", SCRIPTS)
@pytest.mark.parametrize("name", READING)
def test_one_line_names_the_video(name, how, inputs, tmp_path, refused, replace_ffmpeg, monkeypatch):
    monkeypatch.setattr(ffmpeg, "HANG_SECONDS", 0.3)
    folder = tmp_path / "out"
    folder.mkdir()
    replace_ffmpeg(SCRIPTS[how])
    err = refused(arguments_of(name, READING[name], inputs, folder / "out"))
    assert str(inputs / "film.mp4") in err or str(tmp_path / "ffmpeg") in err
    check_nothing_half(folder)


@pytest.mark.parametrize("name", READING)
def test_ctrl_c_while_ffmpeg_runs(name, inputs, tmp_path, run, replace_ffmpeg):
    folder = tmp_path / "out"
    folder.mkdir()
    replace_ffmpeg('kill -INT "$PPID"; sleep 600; true')
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(arguments_of(name, READING[name], inputs, folder / "out")) == (130, "")
    finally:
        signal.signal(signal.SIGINT, before)
    check_nothing_half(folder)
