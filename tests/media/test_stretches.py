"""Long videos in stretches, decoded once. The oracle is `read_video` of each part, and a full decode."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from clips import H264, MPEG4, TEST, VP9, decode_all, ffmpeg, make
from imageio_ffmpeg import get_ffmpeg_exe

from minivideococa import resources
from minivideococa.media import ffmpeg as running
from minivideococa.media import stretches
from minivideococa.media.stretches import read_stretches
from minivideococa.media.video import read_video

CASES = Path(__file__).parents[1] / "cases"
SIX = TEST.replace("d=2", "d=6")  # seconds
UNEVEN = ["-vf", "select='lt(mod(n*n,11),4)'", "-fps_mode", "vfr"]
RATE = SIX.replace("r=25", "r=30000/1001")

posix = pytest.mark.skipif(os.name != "posix", reason="shell scripts and signals")
pytestmark = pytest.mark.filterwarnings("ignore:.*different frame:UserWarning")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clip") / "clip.mp4", *H264, source=SIX)


def bounds(path, *arguments, **options):
    return [(round(x.start, 3), round(x.end, 3)) for x in read_stretches(path, *arguments, **options)]


def assert_frames_are_those_of_the_parts(path, every, num_frames, **part):
    """Assert that each stretch has the frames that read_video samples there. Returns their number."""
    found = list(read_stretches(path, every, num_frames, **part))
    for i, stretch in enumerate(found):
        end = part.get("end") if i == len(found) - 1 else stretch.end
        expected = read_video(path, num_frames, stretch.start, end)
        np.testing.assert_array_equal(stretch.frames, expected, str(stretch[:2]))
    return len(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, encoding, source",
    [
        ("even.mp4", H264, SIX),
        ("uneven.mp4", [*UNEVEN, *H264], SIX),
        ("uneven.mkv", [*UNEVEN, *H264], SIX),
        ("ntsc.mkv", H264, RATE),
        ("ntsc.flv", H264, RATE),
        ("late.ts", H264, SIX),  # begins at 1.4 s
        ("uneven.webm", [*UNEVEN, *VP9], SIX),
        ("packed.avi", MPEG4, SIX),
        ("stream.h264", H264, SIX),  # no time stamps
        ("frames.mjpeg", ["-c:v", "mjpeg"], SIX),
        ("uneven.gif", UNEVEN, SIX),
        ("still.mkv", ["-vf", "select='not(between(n,20,120))'", "-fps_mode", "vfr", *H264], SIX),
    ],
)
def test_frames_are_those_of_the_parts(tmp_path, name, encoding, source):
    path = make(tmp_path / name, *encoding, source=source)
    with warnings.catch_warnings(action="error", category=UserWarning):
        warnings.filterwarnings("ignore", ".*different frame")
        assert assert_frames_are_those_of_the_parts(path, 2.5, 3, start=0.5, end=5.6) == 2
        if name in ("even.mp4", "uneven.mkv"):
            assert assert_frames_are_those_of_the_parts(path, 1, 8) in (6, 7)


def test_frames_are_those_of_a_full_decode(clip):
    """Independent of `read_video`: 25 frames a second, every second sampled at 1/16, 3/16, ... of it."""
    frames = decode_all(clip)
    for i, stretch in enumerate(read_stretches(clip, 1)):
        indices = [25 * i + 25 * (2 * t + 1) // 16 for t in range(8)]
        np.testing.assert_array_equal(stretch.frames, frames[indices])
    assert i == 5


@pytest.mark.slow
def test_a_stream_that_begins_between_key_frames(tmp_path):
    encoding = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "50", "-sc_threshold", "0"]
    whole = make(tmp_path / "whole.ts", *encoding, source="testsrc2=s=160x120:r=25:d=8")
    path = tmp_path / "clip.ts"
    path.write_bytes(whole.read_bytes()[26 * 188 :])
    assert assert_frames_are_those_of_the_parts(path, 1, 4) in range(5, 8)


def test_frames_out_of_order_around_a_jump(tmp_path):
    """4 seconds each of red, green and blue; at 6 s the time stamps jump by 20 s, among B-frames."""
    path, inputs = tmp_path / "jump.ts", []
    for colour in ("red", "lime", "blue"):
        inputs += ["-f", "lavfi", "-i", f"color={colour}:s=64x64:r=25:d=4"]
    filters = "[0][1][2]concat=n=3,setpts='PTS+gt(N,149)*20/TB'"
    ffmpeg(*inputs, "-filter_complex", filters, "-fps_mode", "passthrough", "-c:v", "libx264", path)
    found = [stretch.frames[:, 32, 32].argmax(axis=-1).tolist() for stretch in read_stretches(path, 4, 4)]
    assert found == [[0] * 4, [1] * 4, [2] * 4]


@pytest.mark.slow
def test_the_rest_at_the_end(clip):
    """A rest is a stretch of its own, unless it is at most a tenth of a stretch."""
    assert bounds(clip, 4) == [(0, 4), (4, 6)]
    assert bounds(clip, 5.5) == [(0, 6)]  # 0.5 of 5.5
    assert bounds(clip, 5.4) == [(0, 5.4), (5.4, 6)]
    assert bounds(clip, 2.95) == [(0, 2.95), (2.95, 6)]
    assert bounds(clip, 60) == [(0, 6)]  # shorter than one stretch
    assert bounds(clip, "0:02") == bounds(clip, "2s") == bounds(clip, 2) == [(0, 2), (2, 4), (4, 6)]
    assert bounds(clip, 2, start=1, end=4) == [(1, 3), (3, 4)]
    assert bounds(clip, 2, start=1, end=99) == [(1, 3), (3, 5), (5, 6)]


@posix
def test_it_is_decoded_once(tmp_path, clip, monkeypatch):
    """Frames are decoded in one run, besides the first; few are sent that are not sampled."""
    script, calls, real = tmp_path / "ffmpeg", tmp_path / "calls", get_ffmpeg_exe()
    script.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec "{real}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    sent, read = [], stretches.read_pictures
    monkeypatch.setattr(
        stretches, "read_pictures", lambda *args: (sent.append(1) or frame for frame in read(*args))
    )
    assert len(list(read_stretches(clip, 1, 2))) == 6
    calls = [call for call in calls.read_text().splitlines() if "-version" not in call]
    kinds = ("image2pipe", "-c copy", "-frames:v 1 ")  # all frames; packets; the first frame alone
    assert [sum(kind in call for call in calls) for kind in kinds] == [1, 1, 2] and len(calls) == 4
    assert 12 <= len(sent) <= 30  # of 150


# What cannot be read


def test_pictures_that_do_not_fit_into_memory(clip, monkeypatch):
    monkeypatch.setattr(resources, "available_memory", lambda: 10**6)
    with pytest.raises(ValueError, match="clip.mp4: reading 999 frames of 64 x 48 pixels needs"):
        list(read_stretches(clip, 1, 999))


@pytest.mark.parametrize(
    "name, message",
    [
        ("still.png", "still.png: a still image has no time; give a video"),
        ("pages.tif", "pages.tif: a sequence of pages has no time; give a video"),
        ("folder", "folder: a folder of images has no time; give a video"),
        ("missing.mp4", "missing.mp4: no such file"),
        ("text.mp4", "text.mp4: ffmpeg finds no video in it"),
    ],
)
def test_what_has_no_time_is_refused(tmp_path, name, message):
    from PIL import Image

    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "still.png")
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    (tmp_path / "folder").mkdir()
    image.save(tmp_path / "folder" / "a.png")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises((ValueError, OSError)) as error:
        list(read_stretches(tmp_path / name))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0.05}, "every is 0.05; give at least 0.1 seconds"),
        ({"every": "x"}, "every is 'x'; give seconds"),
        ({"every": -1}, "every is -1; give seconds"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"start": 7}, "clip.mp4: start is 7, and the clip lasts 6 s"),
        ({"start": 2, "end": 1}, "clip.mp4: end 1 is not after start 2"),
    ],
)
def test_wrong_arguments(clip, options, message):
    with pytest.raises(ValueError, match=message):
        list(read_stretches(clip, **options))


def test_a_file_that_is_cut_short_is_read_to_its_end(tmp_path):
    whole = make(tmp_path / "whole.mp4", *H264, "-movflags", "faststart", source=SIX)
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"cut.mp4: the file is incomplete or damaged, its pictures end at"):
        found = list(read_stretches(path, 1))
    assert 2 <= len(found) <= 4 and found[-1].end < 4
    with warnings.catch_warnings(action="error"):
        assert len(list(read_stretches(path, 1, 8, end=1))) == 1  # the part that is asked for is there


def test_damage_midway_leaves_the_times_of_the_rest(tmp_path):
    """Frames that do not decode show the frame before; those after the damage keep their times."""
    path = make(tmp_path / "clip.mkv", "-c:v", "mjpeg", source=SIX)
    data, frames = bytearray(path.read_bytes()), decode_all(path)
    middle = len(data) // 2
    data[middle - 20_000 : middle] = bytes(20_000)
    path.write_bytes(data)
    with warnings.catch_warnings(action="ignore"):
        last = list(read_stretches(path, 1))[-1]
    assert last.start == 5
    np.testing.assert_array_equal(last.frames, frames[[125 + 25 * (2 * t + 1) // 16 for t in range(8)]])


@posix
def test_an_ffmpeg_that_dies_leaves_the_stretches_before(tmp_path, clip, monkeypatch):
    script, real = tmp_path / "ffmpeg", get_ffmpeg_exe()
    pictures = 3 * 8 * (64 * 48 * 3 + 13)  # those of three stretches, and some that are not sampled
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *image2pipe*) "{real}" "$@" | head -c {pictures}; kill -9 $$;; '
        f'*) exec "{real}" "$@";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    found = []
    with pytest.raises(ValueError, match="clip.mp4: signal 9 ended ffmpeg"):
        found.extend((x.start, x.frames) for x in read_stretches(clip, 1))
    monkeypatch.undo()
    assert [start for start, _ in found] == [0.0, 1.0][: len(found)] and found
    for start, frames in found:
        np.testing.assert_array_equal(frames, read_video(clip, 8, start, start + 1))


@pytest.mark.slow
def test_ffmpeg_may_wait_for_a_slow_reader(tmp_path, monkeypatch):
    """ffmpeg stands still while a stretch is captioned, which may take longer than a hang is suffered."""
    path = make(tmp_path / "clip.mp4", *H264, source="testsrc2=s=320x240:r=25:d=6")
    monkeypatch.setattr(running, "HANG_SECONDS", 1.0)
    for i, _ in enumerate(read_stretches(path, 1)):
        time.sleep(1.5 if i < 2 else 0)
    assert i == 5


@pytest.mark.slow
@posix
def test_a_reader_that_stops_ends_ffmpeg(tmp_path, monkeypatch):
    path = make(tmp_path / "clip.mp4", *H264, source="testsrc2=s=640x480:r=25:d=6")
    processes, popen = [], subprocess.Popen

    def remember(*args, **options):
        processes.append(popen(*args, **options))
        return processes[-1]

    monkeypatch.setattr(running.subprocess, "Popen", remember)
    reader = read_stretches(path, 1, 25)
    next(reader)
    assert processes[-1].poll() is None
    reader.close()
    assert processes[-1].returncode == -9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_length(tmp_path):
    """20 minutes, 20 times as long as the other clip, take at most 4 MB more."""
    minute = make(tmp_path / "minute.mp4", *H264, source="testsrc2=s=64x48:r=25:d=60")
    long = tmp_path / "long.mp4"
    ffmpeg("-stream_loop", "19", "-i", minute, "-c", "copy", long)
    script = (
        "import re, sys; from minivideococa.media.stretches import read_stretches\n"
        "n = sum(1 for _ in read_stretches(sys.argv[1], 10))\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]; print(n, peak)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "MALLOC_ARENA_MAX": "1"}
    peaks = {}
    for path in (minute, long):
        output = subprocess.check_output([sys.executable, "-c", script, path], env=environment)
        count, peaks[path] = map(int, output.split())
        assert count == (6 if path == minute else 120)
    assert peaks[long] - peaks[minute] < 4000, peaks
