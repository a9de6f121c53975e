"""Sampling of videos by time. The oracle is ffmpeg's `showinfo`: time stamps and durations of the frames."""

import re
import subprocess
import warnings
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from clips import H264, MPEG4, TEST, VP9, add_cover_art, decode_all, ffmpeg, make, make_album, middle_frames
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from minivideococa.media import video
from minivideococa.media.video import read_video, sample_indices

CASES = Path(__file__).parents[1] / "cases"
UNEVEN = [
    "-vf",
    "select='lt(mod(n*n,11),4)'",
    "-fps_mode",
    "vfr",
]  # 23 frames of TEST, with their time stamps

pytestmark = pytest.mark.filterwarnings("ignore:.*different frame:UserWarning")


def showinfo(path: Path) -> tuple[list[Fraction], Fraction]:
    """Return the time stamps of all decoded frames and ffmpeg's duration of the last one, in seconds."""
    output = ["-an", "-vf", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"]
    command = [get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", str(path), *output]
    log = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    tick = Fraction(re.search(r"config in time_base: (\d+/\d+)", log)[1])
    frames = re.findall(r"n: *\d+ pts: *(-?\d+) .*?duration: *(\d+)", log)
    return [int(pts) * tick for pts, _ in frames], int(frames[-1][1]) * tick


def expected_indices(stamps, last, num_frames, start=0, end=None):
    """Return the last frame whose time stamp is not after the sampling point, for each t."""
    begins = [stamp - stamps[0] for stamp in stamps]
    end = begins[-1] + last if end is None else end
    points = [start + Fraction(2 * t + 1, 2) * (end - start) / num_frames for t in range(num_frames)]
    return [max(i for i, begin in enumerate(begins) if begin <= point) for point in points]


def assert_by_time(path: Path) -> list[Fraction]:
    """Assert that read_video returns the frames on screen. Returns the time stamps."""
    stamps, last = showinfo(path)
    if path.suffix in (".ts", ".flv", ".mkv-without"):  # have no durations: as long as the frame before
        last = stamps[-1] - stamps[-2]
    frames = decode_all(path)
    assert len(frames) == len(stamps)
    for num_frames in (8, 70):  # test_sampling.py tests the rule for any number; here the time stamps count
        indices = expected_indices(stamps, last, num_frames)
        sampled, times = video.read_timed(path, num_frames)
        np.testing.assert_array_equal(sampled, frames[indices])
        duration = float(stamps[-1] - stamps[0] + last)
        np.testing.assert_allclose(times, (np.arange(num_frames) + 0.5) * duration / num_frames, atol=0.002)
    return stamps


def is_even(stamps: list[Fraction]) -> bool:
    return len({later - earlier for earlier, later in pairwise(stamps)}) == 1


# Variable frame rates


def red_and_blue(path: Path) -> Path:
    """Save one second of red and eight of blue, as two frames."""
    red, blue = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")
    red.save(path, save_all=True, append_images=[blue], duration=[1000, 8000])
    return path


@pytest.mark.parametrize("name", ["clip.gif", "clip.mp4", "clip.mov", "repeated.mp4"])
def test_a_second_of_red_and_eight_of_blue(tmp_path, name):
    path = red_and_blue(tmp_path / "clip.gif")
    if name != "clip.gif":
        path = tmp_path / name
        filters = ["-vf", "fps=10,select='lt(t,1)+eq(mod(n,10),0)'"] if name[0] == "r" else []
        encoding = ["-fps_mode", "vfr", "-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv444p"]
        ffmpeg("-i", tmp_path / "clip.gif", *filters, *encoding, path)
    assert [int(frame[0, 0].argmax()) for frame in read_video(path, 8)] == [0] + [2] * 7


@pytest.mark.parametrize(
    "name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.ts", "clip.flv", "clip.gif", "clip.webm"]
)
def test_variable_rate(tmp_path, name):
    codec = {".gif": [], ".webm": VP9}
    path = make(tmp_path / name, *UNEVEN, *codec.get(Path(name).suffix, H264))
    stamps = assert_by_time(path)
    assert len(stamps) == 23 and not is_even(stamps)


def test_frames_out_of_order(tmp_path):
    """B-frames are stored after the frames that they lie between."""
    path = make(tmp_path / "clip.mp4", *UNEVEN, *H264)
    packets = re.findall(rb"\n0, +-?\d+, +(-?\d+)", ffmpeg("-i", path, "-c", "copy", "-f", "framemd5", "-"))
    assert packets != sorted(packets, key=int)
    assert_by_time(path)


def test_matroska_without_durations(tmp_path):
    """The last frame lasts as long as the one before it, whatever duration libavformat invents."""
    five = "select='eq(n,0)+eq(n,5)+eq(n,10)+eq(n,30)+eq(n,49)'"
    path = make(tmp_path / "clip.mkv", "-vf", five, "-fps_mode", "vfr", *H264)
    data = path.read_bytes()
    assert data.count(b"\x23\xe3\x83\x84") == 1
    path = tmp_path / "clip.mkv-without"
    path.write_bytes(data.replace(b"\x23\xe3\x83\x84", b"\xec\x86\0\0"))  # DefaultDuration becomes a Void
    stamps, invented = showinfo(path)
    assert len(stamps) == 5 and invented != stamps[-1] - stamps[-2] == Fraction(19, 25)
    assert_by_time(path)


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("filters", [[], UNEVEN])
def test_edit_lists(tmp_path, container, filters):
    """The frames before the cut are decoded, but not shown."""
    whole = make(tmp_path / f"whole.{container}", *filters, *H264)
    path = tmp_path / f"trimmed.{container}"
    ffmpeg("-ss", "0.5", "-i", whole, "-c", "copy", path)
    shown = assert_by_time(path)
    assert 10 < len(shown) < len(showinfo(whole)[0])
    packets = ffmpeg("-i", path, "-c", "copy", "-copyinkf", "-f", "framemd5", "-").count(b"\n0,")
    assert packets > len(shown)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_time_stamps_that_do_not_start_at_0(tmp_path, container):
    """Sound begins 3 seconds before the picture: the clip begins with its first frame."""
    path = tmp_path / f"late.{container}"
    inputs = ["-f", "lavfi", "-i", "sine=d=4", "-itsoffset", "3", "-f", "lavfi", "-i", TEST]
    ffmpeg(*inputs, "-map", "1", "-map", "0", *UNEVEN, *H264, path)
    stamps = assert_by_time(path)
    assert stamps[0] >= 2 and not is_even(stamps)


@pytest.mark.parametrize("offset", [7200, -1])
def test_transport_stream_with_a_jump(tmp_path, offset):
    """Time stamps jump by hours, or back to 0, where a second recording is appended to the first.

    ffmpeg joins the two, as players do: no frame lasts for hours."""
    first, source = make(tmp_path / "first.ts", *H264), TEST.replace("d=2", "d=1").replace("seed=7", "seed=8")
    second = make(tmp_path / "second.ts", *H264, "-output_ts_offset", str(offset), source=source)
    path = tmp_path / "jump.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    frames = decode_all(path)
    assert len(frames) == 75
    for num_frames in (1, 8, 75):
        np.testing.assert_array_equal(read_video(path, num_frames), frames[sample_indices(75, num_frames)])


def test_frames_out_of_order_around_a_jump(tmp_path):
    """4 seconds each of red, green and blue. At 6 s the time stamps jump by 20 s, among B-frames.

    ffmpeg joins the parts, but some frames of the second come before the jump, with their own time stamps."""
    path, inputs = tmp_path / "jump.ts", []
    for colour in ("red", "lime", "blue"):
        inputs += ["-f", "lavfi", "-i", f"color={colour}:s=64x64:r=25:d=4"]
    filters = "[0][1][2]concat=n=3,setpts='PTS+gt(N,149)*20/TB'"
    ffmpeg(*inputs, "-filter_complex", filters, "-fps_mode", "passthrough", "-c:v", "libx264", path)
    stamps, _ = showinfo(path)
    assert any(later < earlier for earlier, later in pairwise(stamps))
    assert [int(frame[32, 32].argmax()) for frame in read_video(path, 8)] == [0, 0, 0, 1, 1, 2, 2, 2]


@pytest.mark.slow
def test_a_transport_stream_that_begins_between_key_frames(tmp_path):
    """The first key frame, which has the picture's size, comes after the part that ffmpeg probes."""
    encoding = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "250", "-sc_threshold", "0"]
    whole = make(tmp_path / "whole.ts", *encoding, source="testsrc2=s=320x240:r=25:d=32")
    path = tmp_path / "clip.ts"
    path.write_bytes(whole.read_bytes()[26 * 188 :])
    frames = decode_all(path, 320, 240)
    assert 500 < len(frames) < 790
    np.testing.assert_array_equal(read_video(path, 8), frames[sample_indices(len(frames), 8)])


def test_one_frame(tmp_path):
    path = make(tmp_path / "clip.mp4", "-frames:v", "1", *H264)
    np.testing.assert_array_equal(read_video(path, 3), decode_all(path)[[0, 0, 0]])


# Constant frame rates


@pytest.mark.parametrize(
    "rate, container",
    [
        ("30000/1001", "mkv"),
        ("30", "webm"),
        ("24000/1001", "mkv"),
        ("60", "mkv"),
        ("30000/1001", "mp4"),
        ("30", "flv"),
        ("24000/1001", "ts"),
        ("30000/1001", "avi"),
        ("25", "gif"),
        ("30", "gif"),
        ("15", "h264"),
    ],
)
def test_a_constant_rate_keeps_the_index_formula(tmp_path, rate, container):
    """Also where time stamps are rounded to milliseconds, or to hundredths of a second."""
    codec = {"webm": VP9, "gif": [], "avi": MPEG4}.get(container, H264)
    source = TEST.replace("r=25", f"r={rate}").replace("d=2", "d=1")
    path = make(tmp_path / f"clip.{container}", *codec, source=source)
    frames = decode_all(path)
    for num_frames in (8, 15, 70):  # 15 has sampling points on the boundaries of 15, 30 and 60 frames
        np.testing.assert_array_equal(read_video(path, num_frames), middle_frames(frames, num_frames))


@pytest.mark.slow
def test_one_decode_is_enough(tmp_path, monkeypatch):
    """The packets predict the time stamps and which frames are not shown: there is no second decode."""
    decodes, decode = [], video._decode
    monkeypatch.setattr(video, "_decode", lambda *arguments: decodes.append(1) or decode(*arguments))
    whole = make(tmp_path / "whole.mp4", *UNEVEN, *H264)
    ffmpeg("-ss", "0.5", "-i", whole, "-c", "copy", tmp_path / "trimmed.mp4")
    names = ["whole.mp4", "trimmed.mp4"]
    for name, encoding in (("a.mkv", H264), ("b.ts", H264), ("c.avi", MPEG4), ("d.h264", H264)):
        names.append(make(tmp_path / name, *encoding).name)
    for name in names:
        decodes.clear()
        read_video(tmp_path / name)
        assert len(decodes) == 1, name


# Parts of a clip


@pytest.mark.slow
@pytest.mark.parametrize("filters", [[], UNEVEN])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_start_and_end(tmp_path, filters, container):
    path = make(tmp_path / f"clip.{container}", *filters, *H264)
    frames, (stamps, last) = decode_all(path), showinfo(path)
    for start, end in ((0.52, 1.4), ("0.28", "00:00:01.32"), (0.3, None), (None, 0.33), (1.999, 2), (1, 100)):
        first = Fraction(str(start or 0))
        final = min(Fraction(str(end).split(":")[-1]) if end else 100, stamps[-1] - stamps[0] + last)
        for num_frames in (1, 8, 30) if start == 0.52 else (8,):
            indices = expected_indices(stamps, last, num_frames, first, final)
            np.testing.assert_array_equal(read_video(path, num_frames, start, end), frames[indices])


def test_invalid_start_and_end(tmp_path):
    path = make(tmp_path / "clip.mp4", *H264)
    for start, end, words in (
        (2, None, "start is 2, and the clip lasts 2 s"),
        (1, 1, "end 1 is not after start 1"),
        (-1, None, "start is -1"),
        ("x", None, "start is 'x'"),
        (0, "1:99", "end is '1:99'"),
    ):
        with pytest.raises(ValueError, match=words):
            read_video(path, 8, start, end)
    with pytest.raises(ValueError, match=r"clip\.mp4: start is"):
        read_video(path, 8, 5)


# Clips of fewer frames than requested


def test_repeated_frames_give_one_warning(tmp_path):
    path = make(tmp_path / "clip.mp4", "-frames:v", "3", *H264)
    with pytest.warns(UserWarning, match=r"clip\.mp4: only 3 different frames at the 8 times") as caught:
        read_video(path, 8)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=r"2 different frames at the 8 times sampled$"):
        read_video(path, 8, 0, 0.08)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_video(path, 3)


# Several streams


@pytest.mark.parametrize("name", ["two.mp4", "two.ts"])
def test_the_stream_is_the_default_of_ffmpeg(name):
    pixels = ffmpeg("-i", CASES / name, "-an", "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-")
    assert pixels.startswith(b"P6\n128 96\n")
    clip = read_video(CASES / name, 8)
    assert clip.shape == (8, 96, 128, 3) and clip[0, 0, 0].argmax() == 2


@pytest.mark.slow
def test_cover_art_is_ignored(tmp_path):
    """Although it is larger, and a default stream."""
    cover = make(tmp_path / "cover.png", "-frames:v", "1", source="testsrc=s=640x480")
    path = add_cover_art(tmp_path / "clip.mp4", cover)
    np.testing.assert_array_equal(read_video(path), decode_all(path)[sample_indices(50, 8)])
    make_album(tmp_path / "album.m4a", cover)
    with pytest.raises(ValueError, match="no video"):
        read_video(tmp_path / "album.m4a")
