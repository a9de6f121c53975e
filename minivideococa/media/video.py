"""Reading videos: a file or a folder of images to T sampled frames `uint8 [T, H, W, 3]`.

The frames are those on screen at the middle of T equal parts of the clip's duration, see `sampling.py`.
`images.py` reads images; ffmpeg decodes everything else. Only the T frames are kept, so memory does not grow
with the length of the clip.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..inputs import path_name, regular_file
from ..resources import require_memory_for
from .ffmpeg import no_video, run_ffmpeg
from .images import Times, is_image, is_jpeg_xl, list_images, read_images, refuse_times
from .preprocess import as_frames
from .sampling import frame_count, sample_indices, sample_points, seconds, warn_if_frames_repeat

# Without -map, ffmpeg selects one of several video streams itself, and cover art only if there is nothing
# else.
_VIDEO_ONLY = ["-an", "-sn", "-dn"]
# All frames as decoded, with the file's time stamps.
_EVERY_FRAME = [*_VIDEO_ONLY, "-fps_mode", "passthrough", "-enc_time_base", "demux"]
# With the input option nofillin libavformat does not invent durations; with 1 added to each, the muxer does
# not either. The second output fails if there is cover art only. (framecrc accepts pictures of unknown size,
# null does not.)
_PACKET_REPORT = [
    *_VIDEO_ONLY,
    "-c",
    "copy",
    "-copyinkf",
    "-bsf:v",
    "setts=pts=PTS:dts=DTS:duration=DURATION+1",
    "-f",
    "framecrc",
    "pipe:2",
    "-map",
    "0:V:0",
    "-c",
    "copy",
    "-f",
    "framecrc",
    "-",
]


def read_video(
    path: str | os.PathLike[str],
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
) -> NDArray[np.uint8]:
    """Sample T = `num_frames` frames of a clip uniformly: uint8 `[T, H, W, 3]`, RGB.

    Frame t is the one on screen at (t + 1/2) * D / T, where D is the duration of the clip. At a constant
    frame rate this is frame floor((t + 1/2) * n / T) of the clip's n frames. If n is less than T, frames
    repeat, with a UserWarning. `path` is a file that ffmpeg reads, an image, or a folder of images (sampled
    by index, in natural order of their names). `start` and `end` select a part of the clip: seconds from its
    first frame, or strings such as "00:01:12.5". An `end` after the end of the clip means the end of the
    clip.

    Rotation metadata is applied. If there are several video streams, ffmpeg's default is read, never cover
    art. Time stamps are those of ffmpeg: edit lists apply, and where the time stamps of a transport stream
    jump back, or ahead by more than 10 seconds, the gap is closed. The frames are bit for bit those of
    `ffmpeg -i FILE -fps_mode passthrough -pix_fmt rgb24`. If a clip is damaged midway, the frames that decode
    are used.

    Raises FileNotFoundError or another OSError if `path` cannot be opened, ValueError if it holds no readable
    clip, the frames do not fit into memory, `num_frames` is not an integer of at least 1, or no frame of the
    clip is on screen in [`start`, `end`).
    """
    return read_timed(path, num_frames, start, end)[0]


def read_timed(
    path: str | os.PathLike[str],
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
) -> tuple[NDArray[np.uint8], Times]:
    """Sample frames as `read_video`. Return them, and the times at which they were sampled.

    The times are in seconds from the first frame; None for a still, a folder of images and the pages of a
    TIFF, which have no time.
    """
    path = path_name(path, "give a video, an image or a folder of images")
    num_frames = frame_count(num_frames)
    start = None if start is None else seconds(start, "start")
    end = None if end is None else seconds(end, "end")
    files_of(path)
    try:
        if os.path.isdir(path) or is_image(path):
            return read_images(path, num_frames, start, end, decode=_decode_still)
        return _read_with_ffmpeg(path, num_frames, start, end)
    except MemoryError:
        raise ValueError(f"{path}: out of memory; scale it down or ask for fewer frames") from None


def timed_frames(
    source: Any,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    *,
    name: str = "video",
) -> tuple[NDArray[np.uint8], Times]:
    """Return frames uint8 `[T, H, W, 3]`, and their times as `read_timed`; None without a path.

    `source` is a path, an array, or a list of arrays or PIL images. A path is read with `num_frames`, `start`
    and `end`. Frames are returned as they are, whatever `num_frames`; PIL images are converted to upright
    RGB. `name` names the argument in error messages.

    Raises ValueError for anything else, for frames of different sizes, and for `start` or `end` without a
    path; and the errors of `read_video`. `preprocess` checks the dtype and the shape of an array.
    """
    num_frames = frame_count(num_frames)
    if isinstance(source, str | os.PathLike):
        return read_timed(source, num_frames, start, end)
    times = [key for key, value in (("start", start), ("end", end)) if value is not None]
    if times:
        raise ValueError(f"{' and '.join(times)} can only be given with a path; slice the frames instead")
    return as_frames(name, source), None


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """Return the paths of a video's files: itself, or the images of a folder in natural order of their names.

    Raises FileNotFoundError or another OSError if `path` cannot be opened, ValueError for a folder without
    images, a FIFO or a device.
    """
    hint = "check the path, and give a video, an image or a folder of images"
    path = path_name(path, hint)
    return list_images(path) if os.path.isdir(path) else [os.fspath(regular_file(path, hint))]


def _read_with_ffmpeg(
    path: str, num_frames: int, start: float | None, end: float | None
) -> tuple[NDArray[np.uint8], Times]:
    """Sample the frames of one file that is not an image, see `read_timed`.

    Packets are read first, which is fast: most clips have one for each frame, so their time stamps predict
    the indices of the sampled frames. The time stamps of the decoded frames decide; where they disagree, the
    clip is decoded again.
    """
    stamps, durations, packet_tick, size = read_packets(path)
    _require_memory(path, num_frames, *size)

    def sample(stamps: list[int], tick: Fraction) -> tuple[NDArray[np.int64], tuple[float, ...]]:
        last_duration = durations.get(stamps[-1], durations[max(durations)]) * (packet_tick / tick)
        try:
            return sample_points(stamps, int(last_duration), num_frames, start, end, tick)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    try:
        indices, _ = sample(stamps, packet_tick)
    except ValueError:  # start is after the last packet
        indices = sample_indices(len(stamps), num_frames)
    select = True
    for _ in range(3):
        clip, stamps, tick = _decode(path, indices, select)
        still = len(stamps) == 1 and is_jpeg_xl(path)
        if still:
            refuse_times(path, "a still image", start, end)
        prediction, (indices, times) = indices, sample(stamps, tick)
        if np.array_equal(prediction, indices):
            if clip is not None:
                if not still:
                    warn_if_frames_repeat(path, indices)
                return clip, None if still else times
            select = False
    raise ValueError(f"{path}: each decode gives other frames, the file is damaged; re-encode it")


def read_packets(path: str) -> tuple[list[int], dict[int, int], Fraction, tuple[int, int]]:
    """Read a video's packets without decoding them.

    Returns the sorted time stamps of the packets that will be shown; the duration stated in the file for each
    time stamp (0 if there is none); the length of a tick in seconds; and (width, height) of the pictures, (0,
    0) if not known.
    """
    _, log = run_ffmpeg(path, ["-fflags", "nofillin"], _PACKET_REPORT)
    tick = re.search(r"#tb 0: (\d+)/(\d+)", log)
    size = re.search(r"#dimensions 0: (\d+)x(\d+)", log)
    packets = re.findall(r"0, +(-?\d+), +(-?\d+), +(\d+), +\d+, 0x[0-9a-f]{8}(?:, F=0x([0-9A-F]+))?", log)
    stamp = 0 if any(int(packet[1]) == -(2**63) for packet in packets) else 1  # dts, if some have no pts
    durations = {int(packet[stamp]): int(packet[2]) - 1 for packet in packets}
    # AV_PKT_FLAG_DISCARD: decoded but not shown, because of an edit list
    stamps = sorted(int(packet[stamp]) for packet in packets if not int(packet[3] or "0", 16) & 4)
    if not tick or not durations:
        raise no_video(path, log)
    return (
        stamps or list(durations),
        durations,
        Fraction(int(tick[1]), int(tick[2])),
        (int(size[1]), int(size[2])) if size else (0, 0),
    )


def _decode_still(path: str) -> NDArray[np.uint8]:
    """Decode a file of one frame: uint8 `[1, H, W, 3]`. Raises ValueError if it has more or none."""
    clip, stamps, _ = _decode(path, np.zeros(1, np.int64), select=True)
    if len(stamps) > 1:
        raise ValueError(f"{path}: holds {len(stamps)} frames; give it by itself, not in a folder of images")
    if clip is None:
        raise ValueError(f"{path}: not a readable image; repair or remove it")
    return clip


def _decode(
    path: str, indices: NDArray[np.int64], select: bool
) -> tuple[NDArray[np.uint8] | None, list[int], Fraction]:
    """Decode a video and gather the frames with these `indices`, int64 `[T]`.

    With `select` ffmpeg drops the other frames before it converts them to RGB. Its filter restarts counting
    at 0 where the picture format changes in mid-stream, so ffmpeg also reports the true number of each frame
    that it sends. Without `select` it sends every frame.

    Returns the frames uint8 `[T, H, W, 3]`, or None if the filter was wrong or `indices` are beyond the last
    frame; the time stamps of all decoded frames; and the length of a tick in seconds.
    """
    distinct = np.unique(indices).tolist()
    select = select and len(distinct) <= 64  # ffmpeg's expressions may nest 100 deep
    received = 0

    def gather(stream: IO[bytes]) -> NDArray[np.uint8] | None:
        nonlocal received
        clip: NDArray[np.uint8] | None = None
        numbers = itertools.chain(distinct, itertools.repeat(-1)) if select else itertools.count()
        for index, frame in zip(numbers, _read_pictures(path, stream, len(indices)), strict=False):
            received += 1
            if clip is None:
                clip = np.empty((len(indices), *frame.shape), np.uint8)
            clip[indices == index] = frame
        return clip

    clip, log = run_ffmpeg(path, [], _decoding_options(distinct if select else None), gather)
    decoded = re.findall(r"decoded=(-?\d+) (\d+)/(\d+)", log)
    sent = [int(number) for number in re.findall(r"sent=(\d+)", log)]
    if not decoded:
        raise no_video(path, log)
    if received != len(sent):
        subject = f"{path}: ffmpeg sent {received} pictures of {len(sent)}"
        raise ValueError(f"{subject}; try again, or another ffmpeg")
    complete = sent == distinct if select else len(sent) > distinct[-1]
    tick = Fraction(int(decoded[0][1]), int(decoded[0][2]))
    return clip if complete else None, [int(pts) for pts, *_ in decoded], tick


def _decoding_options(indices: list[int] | None) -> list[str]:
    """Return options to report the time stamp of each frame, and to send those with `indices` (None: all)."""
    # The two reports need different names of standard error, or their lines mix.
    reporting = [*_EVERY_FRAME, "-stats_enc_pre", "pipe:2", "-stats_enc_pre_fmt", "decoded={pts} {tb}"]
    sending = [*_EVERY_FRAME, "-stats_enc_pre", "pipe:02", "-stats_enc_pre_fmt", "sent={ni}"]
    sending += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"]
    if indices is not None:
        sending += ["-vf", "select='" + "+".join(f"eq(n,{index})" for index in indices) + "'"]
    return [*reporting, "-f", "null", "-", *sending, "-"]


def _read_pictures(path: str, stream: IO[bytes], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the PPM pictures of a stream, all of one size: uint8 `[H, W, 3]`.

    A picture is the lines `P6`, `W H` and `255`, then its pixels.
    """
    first, width, height = b"", 0, 0
    while header := stream.readline(80):
        header += stream.readline(80) + stream.readline(80)
        if not first and (match := re.fullmatch(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n", header)):
            first, width, height = header, int(match[1]), int(match[2])
            _require_memory(path, num_frames, width, height)
        if header != first:
            subject = f"{path}: ffmpeg sends something other than pictures of one size"
            raise ValueError(f"{subject}; try another ffmpeg")
        pixels = stream.read(height * width * 3)
        if len(pixels) < height * width * 3:  # ffmpeg was ended
            return
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _require_memory(path: str, num_frames: int, width: int, height: int) -> None:
    """Raise ValueError if T frames, and what ffmpeg holds while it decodes, do not fit into memory."""
    frame = 3 * width * height + 1000  # with its index and time
    subject = f"{path}: reading {num_frames} frames of {width} x {height} pixels"
    require_memory_for(num_frames, lambda T: (T + 8) * frame, subject, "frames")
