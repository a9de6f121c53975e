"""The video reader: exact frames of every kind of clip, constant memory, clear messages for other files."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import H264, LOSSLESS, VP9, add_cover_art, decode_all, ffmpeg, make, make_album, middle_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from platforms import posix
from properties import examples

from minivideococa.media.video import read_video, sample_indices, timed_frames

pytestmark = pytest.mark.filterwarnings("ignore:.*different frame:UserWarning")


def count_packets(path: Path) -> int:
    packets = ffmpeg("-i", path, "-map", "0:v:0", "-c", "copy", "-copyinkf", "-f", "framemd5", "-")
    return packets.count(b"\n0,")


def assert_exact(path: Path, width: int, height: int) -> np.ndarray:
    """Assert that read_video returns the full decode's frames: few, all, and more than there are."""
    frames = decode_all(path, width, height)
    for num_frames in (8, len(frames), 2 * len(frames) + 1):
        clip = read_video(path, num_frames)
        assert clip.dtype == np.uint8
        np.testing.assert_array_equal(clip, middle_frames(frames, num_frames))
    return frames


@given(st.integers(1, 10**7), st.integers(1, 300))
def test_each_index_is_the_middle_of_its_segment(count, num_frames):
    indices = sample_indices(count, num_frames).tolist()
    assert len(indices) == num_frames and indices == sorted(indices)
    for i, index in enumerate(indices):
        middle = Fraction(2 * i + 1, 2) * count / num_frames
        assert 0 <= index <= middle < index + 1 <= count
        opposite = indices[-1 - i]  # the same, counted from the clip's end
        assert index + opposite == (count if middle == index else count - 1)


@pytest.fixture(scope="module")
def counted_clip(tmp_path_factory):
    path = make(
        tmp_path_factory.mktemp("counted") / "clip.mkv", *LOSSLESS, source="testsrc=s=32x16:r=25:d=0.92"
    )
    return path, decode_all(path, 32, 16)


@settings(max_examples=examples(12))
@given(num_frames=st.integers(1, 40))
def test_any_number_of_frames(counted_clip, num_frames):
    path, frames = counted_clip
    assert len(frames) == 23
    np.testing.assert_array_equal(read_video(path, num_frames), middle_frames(frames, num_frames))


VIDEOS = {
    "lossless.mkv": LOSSLESS,
    "b_frames.mp4": H264,
    "full_range_bt709.mp4": [
        "-vf",
        "scale=out_color_matrix=bt709:out_range=pc",
        "-color_range",
        "pc",
        "-colorspace",
        "bt709",
        *H264,
    ],
    "ten_bits.mkv": ["-pix_fmt", "yuv420p10le", *LOSSLESS],
    "gray.mkv": ["-pix_fmt", "gray", *LOSSLESS],
    "interlaced.mpg": ["-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-bf", "2"],
    "vp9.webm": VP9,
    "raw.h264": H264,
    "colours.gif": [],
    "animation.png": ["-f", "apng"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VIDEOS)
def test_frames_equal_those_of_a_full_decode(tmp_path, name):
    frames = assert_exact(make(tmp_path / name, *VIDEOS[name]), 64, 48)
    assert len(frames) >= 15 and not np.array_equal(frames[0], frames[-1])


@pytest.mark.slow
def test_odd_sizes(tmp_path):
    for pixels in ("yuv444p", "yuv420p"):
        path = make(tmp_path / f"{pixels}.mkv", "-vf", f"scale=63:47,format={pixels}", *LOSSLESS)
        assert_exact(path, 63, 47)


@pytest.mark.slow
def test_rotation_is_applied(tmp_path):
    upright = make(tmp_path / "upright.mp4", "-frames:v", "10", "-c:v", "libx264rgb", "-qp", "0")
    frames = decode_all(upright, 64, 48)
    for turns, size in ((1, (48, 64)), (2, (64, 48)), (3, (48, 64))):
        path = tmp_path / f"{turns}.mp4"
        ffmpeg("-display_rotation", str(90 * turns), "-i", upright, "-c", "copy", path)
        rotated = assert_exact(path, *size)
        np.testing.assert_array_equal(rotated, np.rot90(frames, turns, axes=(1, 2)))


@pytest.mark.parametrize("name", ["trimmed.mp4", "late.h264"])
def test_packets_that_are_not_shown(tmp_path, name):
    path, whole = tmp_path / name, make(tmp_path / f"whole_{name}", *H264)
    if name == "trimmed.mp4":  # an edit list hides the frames before the cut
        ffmpeg("-ss", "0.3", "-i", whole, "-c", "copy", path)
    else:  # a stream that begins between two key frames
        path.write_bytes(whole.read_bytes()[whole.stat().st_size // 4 :])
    frames = assert_exact(path, 64, 48)
    assert 20 < len(frames) < count_packets(path)


@pytest.mark.slow
def test_picture_size_that_changes_in_mid_stream(tmp_path):
    """The later frames are scaled to the size of the first, as by ffmpeg."""
    first = make(tmp_path / "first.h264", *H264)
    second = make(tmp_path / "second.h264", *H264, source="testsrc2=s=96x80:r=25:d=2")
    path = tmp_path / "both.h264"
    path.write_bytes(first.read_bytes() + second.read_bytes() + first.read_bytes())
    frames = assert_exact(path, 64, 48)
    assert len(frames) == 150


@pytest.mark.slow
def test_clip_that_is_damaged_midway(tmp_path):
    """The frames that decode are used."""
    whole = make(tmp_path / "whole.mkv", *LOSSLESS)
    for share in (0.3, 0.71):
        path = tmp_path / "broken.mkv"
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
        frames = assert_exact(path, 64, 48)
        assert 0 < len(frames) < 50


def test_cover_art_is_not_the_video(tmp_path):
    """The picture is the file's first stream, so that only its disposition marks it as cover art."""
    cover = make(tmp_path / "cover.png", "-frames:v", "1", source="testsrc=s=32x32")
    path = add_cover_art(tmp_path / "cover.mp4", cover)
    data = path.read_bytes()
    start = data.index(b"moov") - 4
    boxes, at = [], start + 8  # put moov's "udta", the cover, before the tracks
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes.append(data[at : at + size])
        at += size
    assert boxes[-1][4:8] == b"udta"
    path.write_bytes(data[: start + 8] + boxes[0] + boxes[-1] + b"".join(boxes[1:-1]))
    assert len(decode_all(path, 32, 32, "0:v:0")) == 1
    np.testing.assert_array_equal(read_video(path), middle_frames(decode_all(path, 64, 48, "0:V:0"), 8))


@pytest.mark.parametrize(
    "name",
    ["-dash.gif", "100%d.gif", "a%03d.png", "http:clip.gif", "a b#c?*[d].gif", "映像 é.gif", "no_suffix"],
)
def test_awkward_names(tmp_path, monkeypatch, name):
    plain = make(tmp_path / "plain.gif", "-frames:v", "7")
    expected = read_video(plain, 3)
    plain.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        np.testing.assert_array_equal(read_video(path, 3), expected)


MEASURE = """
import re, resource, sys
from minivideococa.media.video import read_video
for path in sys.argv[2:]:
    read_video(path, int(sys.argv[1]))
    ours = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]
    print(ours, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("num_frames", [8, 80])  # ffmpeg selects a few frames; we select many
def test_memory_does_not_grow_with_the_clip(tmp_path, num_frames):
    """Compare the peaks in KiB, ours and ffmpeg's, after a short clip and after a long one."""
    short = make(tmp_path / "short.mp4", "-c:v", "mpeg4", "-g", "100", source="testsrc2=s=320x240:r=25:d=4")
    long = tmp_path / "long.mp4"
    ffmpeg("-stream_loop", "11", "-i", short, "-c", "copy", long)  # 1200 frames: 264 MiB decoded
    command = [sys.executable, "-c", MEASURE, str(num_frames), short, long]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    peaks = np.array([line.split() for line in lines], int)
    assert (peaks[1] - peaks[0] < 24 * 1024).all()


def save_images(folder: Path, names: list[str]) -> np.ndarray:
    """A different image for each name, in the order of the names."""
    folder.mkdir()
    images = np.random.default_rng(3).integers(0, 256, (len(names), 12, 20, 3), np.uint8)
    for name, image in zip(names, images):
        Image.fromarray(image).save(folder / name)
    return images


def test_folder_of_images(tmp_path):
    folder = tmp_path / "clip"
    images = save_images(folder, ["1.png", "2.bmp", "03.png", "10.PNG", "11 a.tiff", "11 b.png", "100.png"])
    (folder / ".DS_Store").write_bytes(b"\0\1")
    (folder / "._1.png").write_bytes(b"\0\1")
    (folder / "notes.txt").write_text("no image")
    for num_frames in (1, 3, 7, 20):
        np.testing.assert_array_equal(read_video(folder, num_frames), middle_frames(images, num_frames))


def test_still_image_is_a_clip_of_one_frame(tmp_path):
    (image,) = save_images(tmp_path / "clip", ["still.png"])
    np.testing.assert_array_equal(read_video(str(tmp_path / "clip" / "still.png"), 3), np.stack([image] * 3))
    np.testing.assert_array_equal(read_video(tmp_path / "clip", 2), np.stack([image] * 2))


def test_image_orientation_is_applied(tmp_path):
    (image,) = save_images(tmp_path / "clip", ["upright.png"])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_video(tmp_path / "turned.png", 1)[0], np.rot90(image, -1))


def assert_rejected(path: Path, *words: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        read_video(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 300 + len(str(path))
    for word in words:
        assert word in message


def test_invalid_folders_of_images(tmp_path):
    folder = tmp_path / "clip"
    save_images(folder, ["1.png", "2.png", "3.png"])
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="2.png"):
        read_video(folder)
    Image.new("RGB", (9, 8)).save(folder / "2.png")
    for num_frames in (1, 2, 8):  # whether it is sampled or not
        with pytest.raises(ValueError, match=r"2\.png is 9 x 8, but 1\.png, the first, is 20 x 12"):
            read_video(folder, num_frames)
    (tmp_path / "empty").mkdir()
    assert_rejected(tmp_path / "empty", "no videos and no images directly in", "subfolders are not", "give")


@pytest.mark.slow
def test_files_without_video(tmp_path):
    cover = make(tmp_path / "cover.png", "-frames:v", "1", source="testsrc=s=32x32")
    video = make(tmp_path / "video.mp4", *H264)
    make(tmp_path / "sound.mp3", source="sine=d=1")
    make_album(tmp_path / "album.mp3", cover)
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "text.txt").write_text("not a video\n" * 50)
    (tmp_path / "text.png").write_text("not an image\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "half.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (tmp_path / "half.png").write_bytes(cover.read_bytes()[: cover.stat().st_size // 2])
    for name in ("sound.mp3", "album.mp3", "text.mp4", "text.txt", "text.png", "empty.mp4"):
        assert_rejected(tmp_path / name, "no video", "give")
    assert_rejected(tmp_path / "half.mp4", "incomplete or damaged (moov atom not found)", "download")
    faststart = make(tmp_path / "faststart.mp4", *H264, "-movflags", "+faststart")
    faststart.write_bytes(faststart.read_bytes()[:2500])
    assert_rejected(faststart, "incomplete or damaged", "download")
    assert_rejected(tmp_path / "half.png", "repair")
    assert_rejected(tmp_path / "missing.mp4", "check the path", error=FileNotFoundError)
    for num_frames in (0, -1):
        with pytest.raises(ValueError, match="num_frames is .*1 to"):
            read_video(video, num_frames)


def fake_ffmpeg(tmp_path: Path, script: str) -> dict[str, str]:
    """Return an environment in which ffmpeg is a shell script."""
    executable = tmp_path / "ffmpeg"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    return os.environ | {"IMAGEIO_FFMPEG_EXE": str(executable)}


@posix
def test_many_messages_do_not_block(tmp_path, monkeypatch):
    environment = fake_ffmpeg(
        tmp_path,
        "[ \"$1\" = -version ] && exec echo ffmpeg version 7.0\nyes 'a message' | head -c 1000000 >&2",
    )
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", environment["IMAGEIO_FFMPEG_EXE"])
    assert_rejected(tmp_path / "ffmpeg", "a message")


@posix
def test_killed_ffmpeg_is_reported(tmp_path, monkeypatch):
    environment = fake_ffmpeg(tmp_path, "printf 'P6\\n64 48\\n255\\nabc'; kill -9 $$")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", environment["IMAGEIO_FFMPEG_EXE"])
    assert_rejected(tmp_path / "ffmpeg", "signal 9")


@pytest.mark.slow
@posix
def test_interrupt_ends_ffmpeg(tmp_path):
    """Ctrl-C reaches only the reader. The script writes its process id and would keep running."""
    environment = fake_ffmpeg(tmp_path, "echo $$ > pid.part; mv pid.part pid; exec sleep 60")
    script = (  # a background job ignores SIGINT
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from minivideococa.media.video import read_video; read_video('ffmpeg')"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    reader.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in reader.communicate(timeout=20)[1]
    with pytest.raises(ProcessLookupError):
        for _ in range(400):
            os.kill(pid, 0)
            time.sleep(0.05)


@posix
def test_a_fifo_is_rejected_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="pipe.mp4: not a regular file"):
        read_video(tmp_path / "pipe.mp4")


def to_frames(*args, **how):
    """Return the frames of `timed_frames` without their times."""
    return timed_frames(*args, **how)[0]


def test_to_frames_of_a_path_an_array_and_lists(tmp_path):
    images = save_images(tmp_path / "clip", ["1.png", "2.png", "3.png"])
    np.testing.assert_array_equal(to_frames(tmp_path / "clip", 3), images)
    np.testing.assert_array_equal(to_frames(str(tmp_path / "clip"), 2), read_video(tmp_path / "clip", 2))
    assert to_frames(images, 2) is images  # num_frames is for paths
    np.testing.assert_array_equal(to_frames(list(images)), images)
    np.testing.assert_array_equal(to_frames([Image.fromarray(image) for image in images]), images)


def test_to_frames_rejects_other_values_and_times_without_a_path():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="^start and end can only be given with a path; slice the frames"):
        to_frames(frames, start=0, end=1)
    with pytest.raises(ValueError, match="^video must be a path, frames uint8"):
        to_frames(3)
    with pytest.raises(ValueError, match=r"^frames\[1\] is 4 x 5.*give frames of one size"):
        to_frames([frames[0], np.zeros((5, 4, 3), np.uint8)], name="frames")
    with pytest.raises(ValueError, match="num_frames is 0"):
        to_frames(frames, 0)
