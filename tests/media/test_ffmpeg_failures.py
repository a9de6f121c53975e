"""An ffmpeg that fails, hangs, prints without end, is too old or missing; requests that exceed the memory."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from children import wait_until_closed
from clips import make
from imageio_ffmpeg import get_ffmpeg_exe

from minivideococa import resources
from minivideococa.media import ffmpeg, video
from minivideococa.media.video import files_of, read_video
from minivideococa.world.shapes import write_shapes

posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts and signals")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return make(path, "-c:v", "libx264", source="testsrc2=s=64x48:r=25:d=2")


@pytest.fixture
def replace_ffmpeg(tmp_path, monkeypatch):
    """Return a function that replaces ffmpeg by a shell script, in which $FFMPEG is the real one."""

    def replace(script):
        executable = tmp_path / "ffmpeg"
        executable.write_text(f"#!/bin/sh\nFFMPEG='{real}'\n{script}\n")
        executable.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(executable))
        return executable

    real = get_ffmpeg_exe()
    return replace


def rejected(path, *words, **arguments):
    """Assert that a clip is rejected with one line that has these words, and return it."""
    with pytest.raises((ValueError, OSError)) as error:
        read_video(path, **arguments)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500 + len(str(path)), message
    assert not [word for word in words if word not in message], message
    return message


DECODING = 'case "$*" in *image2pipe*)'  # not the reading of packets
OTHERWISE = ';; *) exec "$FFMPEG" "$@";; esac'


@posix
@pytest.mark.parametrize("status", [0, 1])
@pytest.mark.parametrize(
    "script",
    [
        '"$FFMPEG" "$@" | head -c 40000; exit {status}',  # within a picture
        f'{DECODING} "$FFMPEG" "$@" | head -c 36964; exit {{status}}' + OTHERWISE,  # after four pictures
        f'{DECODING} "$FFMPEG" "$@" -t 1 2>/dev/null; exit {{status}}' + OTHERWISE,  # all, but no report
        f'{DECODING} printf "decoded=0 1/25\\nsent=0 0\\n" >&2; exit {{status}}' + OTHERWISE,
        f'{DECODING} printf "decoded=0 1/25\\ndecoded=1 1/0\\ndecoded={"9" * 30} 1/9\\n" >&2; exit {{status}}'
        + OTHERWISE,
        'head -c 3000 | "$FFMPEG" "$@" 2>/dev/null; exit {status}',
    ],
)
def test_ffmpeg_that_ends_midway_is_an_error(clip, replace_ffmpeg, script, status):
    replace_ffmpeg(script.replace("{status}", str(status)))
    for num_frames in (8, 80):  # ffmpeg selects the frames, or sends them all
        assert rejected(clip, "ffmpeg", num_frames=num_frames).startswith(f"{clip}: ")


@posix
def test_ffmpeg_that_fails_after_all_frames_is_an_error(clip, replace_ffmpeg):
    replace_ffmpeg(f'{DECODING} "$FFMPEG" "$@"; exit 3' + OTHERWISE)
    assert rejected(clip, "ended midway with exit status 3").startswith(f"{clip}: ")


@posix
@pytest.mark.parametrize(
    "output",
    [
        "head -c 100000 /dev/urandom",
        "head -c 100000 /dev/zero",
        "echo nonsense",
        "printf 'P6\\n64 48\\n65535\\n'",
        "printf 'P6\\n64 48\\n255\\n'; head -c 9216 /dev/zero; "
        "printf 'P6\\n32 24\\n255\\n'; head -c 2304 /dev/zero",
        "printf 'P6\\n999999999 999999999\\n255\\nabc'",
        "printf 'P6\\n0 48\\n255\\n'",
    ],
)
def test_garbage_instead_of_pictures_names_the_file(clip, replace_ffmpeg, output):
    replace_ffmpeg(f'{DECODING} "$FFMPEG" "$@" >/dev/null; {output}' + OTHERWISE)
    assert rejected(clip).startswith(f"{clip}: ")


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "script",
    [
        "sleep 600",
        "exec sleep 600",
        f'{DECODING} "$FFMPEG" "$@" | head -c 20000; sleep 600' + OTHERWISE,
        f"{DECODING} sleep 600" + OTHERWISE,
    ],
)
def test_ffmpeg_that_hangs_is_killed(clip, replace_ffmpeg, monkeypatch, script):
    monkeypatch.setattr(ffmpeg, "HANG_SECONDS", 0.3)
    replace_ffmpeg(script)
    begun = time.monotonic()
    assert rejected(clip, "makes no progress for 0.3 s").startswith(f"{clip}: ")
    assert time.monotonic() - begun < 20


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "output",
    [
        "yes a message >&2",
        "cat /dev/zero >&2",
        "cat /dev/zero",
        "yes",
        "while true; do printf 'P6\\n1 1\\n255\\nabc'; done",
    ],
)
def test_ffmpeg_that_prints_without_end_is_killed(clip, replace_ffmpeg, monkeypatch, output):
    monkeypatch.setattr(ffmpeg, "HANG_SECONDS", 0.3)
    for script in (output, f"{DECODING} {output}" + OTHERWISE):
        replace_ffmpeg(script)
        begun = time.monotonic()
        assert rejected(clip, "ffmpeg").startswith(f"{clip}: ")
        assert time.monotonic() - begun < 20


READ = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from minivideococa.media import ffmpeg, video
class Slow(ffmpeg.subprocess.Popen):
    def _execute_child(self, *arguments):
        super()._execute_child(*arguments)
        os.kill(os.getpid(), signal.SIGINT) if sys.argv[2] == "starts" else None
ffmpeg.subprocess.Popen = Slow
video.read_video(sys.argv[1])
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("moment", ["starts", "runs"])
def test_ctrl_c_kills_an_ffmpeg_that_hangs(tmp_path, clip, replace_ffmpeg, moment):
    """Also if it comes when ffmpeg runs and `Popen` has not returned yet, as on a busy machine.

    The program that a wrapper script runs, and which holds the pipe, is ended too: it holds a FIFO open.
    """
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    interrupt = 'kill -INT "$PPID"; ' if moment == "runs" else ""
    replace_ffmpeg(f"exec 3>{tmp_path}/fifo; {interrupt}sleep 600; true")
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(clip), moment],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert b"KeyboardInterrupt" in reader.communicate(timeout=60)[1]
    wait_until_closed(fifo)


@posix
@pytest.mark.parametrize("version", ["4.4.2-0ubuntu1", "n6.1", "N-12345-gabcdef"])
def test_the_error_for_an_old_ffmpeg_names_ffmpeg(clip, replace_ffmpeg, version):
    executable = replace_ffmpeg(
        f'[ "$1" = -version ] && echo "ffmpeg version {version} Copyright" && exit 0\n'
        "echo \"Unrecognized option 'stats_enc_pre'.\" >&2; exit 1"
    )
    message = rejected(clip, "ffmpeg 7 or newer", "IMAGEIO_FFMPEG_EXE", "Unrecognized option", str(clip))
    assert message.startswith(f"{executable}: this ffmpeg is too old")


@posix
def test_the_error_for_a_missing_decoder_names_ffmpeg(clip, replace_ffmpeg):
    executable = replace_ffmpeg(
        f'{DECODING} echo "[vist#0:0] Decoding requested, but no decoder found for: jpegxl" >&2; exit 1'
        + OTHERWISE
    )
    assert rejected(clip, "no decoder found for: jpegxl", str(clip)).startswith(f"{executable}: ")


@posix
def test_missing_or_invalid_ffmpeg(clip, tmp_path, monkeypatch):
    (tmp_path / "text").write_text("no program")
    for name in ("missing", "text", "."):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / name))
        assert str(tmp_path) in rejected(clip, "cannot be run as ffmpeg", "IMAGEIO_FFMPEG_EXE")


@posix
@pytest.mark.parametrize(
    "script", ["exit 0", "exit 1", "cat", "echo 'no such option' >&2; exit 2", 'exec cat "$@"']
)
def test_the_error_for_another_program_names_that_program(clip, replace_ffmpeg, script):
    executable = replace_ffmpeg(script)
    assert rejected(clip, "IMAGEIO_FFMPEG_EXE").startswith(f"{executable}: cannot be run as ffmpeg (")


@posix
def test_shapes_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with pytest.raises(OSError, match="missing: cannot be run as ffmpeg [(]No such file.*IMAGEIO_FFMPEG_EXE"):
        write_shapes(tmp_path / "world", 2)


@posix
def test_no_temporary_file_is_needed(clip, tmp_path, monkeypatch):
    """What ffmpeg reports is read as it comes: a full folder of temporary files does not matter."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert len(read_video(clip, 8)) == 8


# Paths that are not regular files


@posix
def test_fifos_and_devices_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.mp4", tmp_path / "link.mp4", "/dev/null", "/dev/zero"):
        rejected(path, "not a regular file")
        with pytest.raises(ValueError, match="not a regular file"):
            files_of(path)


@pytest.mark.parametrize("path", [None, ["a.mp4"], 3, "", "a\0b", b"clip.mp4"])
def test_invalid_paths(path):
    rejected(path)


# Bounds


@pytest.mark.parametrize("number", [2.5, None, True, "8", 0, 10**21, np.float64(8)])
def test_num_frames_is_an_integer(clip, number):
    assert rejected(clip, "num_frames is ", num_frames=number)


def test_frames_that_do_not_fit_into_memory(clip, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 10**9)
    for number in (10**6, 10**8, 2**31 - 1):
        message = rejected(
            clip,
            f"reading {number} frames of 64 x 48 pixels needs",
            "1.0 GB are available",
            num_frames=number,
        )
        most = int(re.search(r"(\d+) frames would fit", message)[1])
        assert 90_000 < most < 10**9 / (64 * 48 * 3)  # what fits, with some room
    assert len(read_video(clip, 8)) == 8


def test_giant_pictures_are_rejected_before_they_are_decoded(tmp_path, monkeypatch):
    encoding = ["-c:v", "libx264", "-preset", "ultrafast"]
    path = make(tmp_path / "giant.mkv", *encoding, source="color=s=4096x2048:d=0.04")
    monkeypatch.setattr(video, "_decode", None)
    monkeypatch.setattr(resources, "available_memory", lambda: 25 * 10**7)
    message = rejected(path, "reading 8 frames of 4096 x 2048 pixels needs 402 MB", "1 frames would fit")
    assert message.startswith(f"{path}: ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_the_address_space_counts():
    script = (
        "import resource; from pathlib import Path; from minivideococa.resources import available_memory\n"
        "mapped = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * 10**8, resource.RLIM_INFINITY))\n"
        "print(available_memory())"
    )
    available = int(
        subprocess.check_output(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        )
    )
    assert 10**8 < available <= 2 * 10**8


def test_ctrl_c_while_the_watchdog_starts_is_a_ctrl_c(clip, monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        if thread._target.__name__ == "_watch":
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_video(clip)
