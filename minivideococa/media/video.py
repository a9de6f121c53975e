"""Reading videos: a file or a folder of images to T sampled frames `uint8 [T, H, W, 3]`.

The frames are those on screen at the middle of T equal parts of the clip's duration, see `sampling.py`.
`images.py` reads images; ffmpeg decodes everything else. Only the T frames are kept, so memory does not grow
with the length of the clip.
"""

from __future__ import annotations

import itertools
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..inputs import path_name, regular_file
from ..resources import require_memory_for
from .ffmpeg import no_video, run_ffmpeg
from .images import Times, is_image, is_jpeg_xl, list_images, read_images, refuse_times
from .preprocess import as_frames
from .sampling import frame_count, sample_indices, sample_points, seconds, warn_if_frames_repeat

NO_STAMP = -(2**63)  # AV_NOPTS_VALUE
# Without -map, ffmpeg selects one of several video streams itself, and cover art only if there is nothing
# else.
_VIDEO_ONLY = ["-an", "-sn", "-dn"]
# All frames as decoded, with the file's time stamps.
_EVERY_FRAME = [*_VIDEO_ONLY, "-fps_mode", "passthrough", "-enc_time_base", "demux"]
_REPORTED = [*_EVERY_FRAME, "-stats_enc_pre", "pipe:2", "-stats_enc_pre_fmt", "decoded={pts} {tb}"]
AS_STORED = ["-fflags", "nofillin"]
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
    packets = read_packets(path)
    require_frame_memory(path, num_frames, *packets.size)

    def sample(stamps: Sequence[int], tick: Fraction) -> tuple[NDArray[np.int64], tuple[float, ...]]:
        last_duration = packets.duration(stamps[-1]) * (packets.tick / tick)
        try:
            return sample_points(stamps, int(last_duration), num_frames, start, end, tick)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    try:
        indices, _ = sample(packets.shown, packets.tick)
    except ValueError:  # start is after the last packet
        indices = sample_indices(len(packets.shown), num_frames)
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


class Packets:
    """The packets of a video, as far as they are read: 25 bytes for each.

    `tick` is the length of a tick in seconds, and `size` (width, height) of the pictures, (0, 0) if not
    known.
    """

    _TICK = re.compile(r"#tb 0: (\d{1,10})/(\d{1,10})")
    _SIZE = re.compile(r"#dimensions 0: (\d{1,10})x(\d{1,10})")
    _PACKET = re.compile(
        r"0, +(-?\d{1,19}), +(-?\d{1,19}), +(\d{1,18}), +\d+, 0x[0-9a-f]{8}(?:, F=0x([0-9A-F]+))?"
    )

    messages = ""  # of ffmpeg

    def __init__(self) -> None:
        self.tick, self.size = Fraction(0), (0, 0)
        self.dts, self.pts, self._durations, self._is_shown = array("q"), array("q"), array("q"), bytearray()

    def report(self, line: str) -> bool:
        """Read a line of the muxer framecrc, and return whether it is one."""
        if match := self._PACKET.search(line):
            dts, pts, duration = array("q", (int(match[i]) for i in (1, 2, 3)))  # all of 64 bits, or none
            self.dts.append(dts)
            self.pts.append(pts)
            self._durations.append(duration)
            # AV_PKT_FLAG_DISCARD: decoded but not shown, because of an edit list
            self._is_shown.append(not int(match[4] or "0", 16) & 4)
        elif match := self._TICK.search(line):
            self.tick = tick_of(match)
        elif match := self._SIZE.search(line):
            self.size = int(match[1]), int(match[2])
        return bool(match) or line.startswith("#")

    @property
    def have_stamps(self) -> bool:
        """Whether every packet has a presentation time stamp."""
        return NO_STAMP not in self.pts

    @cached_property
    def shown(self) -> Sequence[int]:
        """The sorted time stamps of the packets that will be shown; dts if a pts is missing."""
        stamps = np.array(self._stamps)
        shown = np.frombuffer(self._is_shown, np.bool_)
        return array("q", np.sort(stamps[shown] if shown.any() else stamps).tobytes())

    def duration(self, stamp: int) -> int:
        """Return the stated duration of the packet with a time stamp, or else of the last one; 0: none."""
        stamps = np.array(self._stamps)
        packet = np.flatnonzero(stamps == (stamp if stamp in self._stamps else stamps.max()))[-1]
        return self._durations[packet] - 1

    @property
    def _stamps(self) -> array[int]:
        return self.pts if self.have_stamps else self.dts


def read_packets(path: str) -> Packets:
    """Read a video's packets without decoding them. Raises ValueError if there are none."""
    packets = Packets()
    _, packets.messages = run_ffmpeg(path, AS_STORED, _PACKET_REPORT, packets.report)
    if not packets.tick or not packets.pts:
        raise no_video(path, packets.messages)
    return packets


def read_stamps(path: str, input_options: Sequence[str] = (), most: int = 2**31 - 1) -> Frames:
    """Decode at most the first `most` frames for their time stamps. Raises ValueError if there are none."""
    frames = Frames()
    output = [*_REPORTED, "-frames:v", str(most), "-f", "null", "-"]
    _, log = run_ffmpeg(path, [*input_options], output, frames.report)
    if not frames.stamps:
        raise no_video(path, log)
    return frames


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
) -> tuple[NDArray[np.uint8] | None, Sequence[int], Fraction]:
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
        for index, frame in zip(numbers, read_pictures(path, stream, len(indices)), strict=False):
            received += 1
            if clip is None:
                clip = np.empty((len(indices), *frame.shape), np.uint8)
            clip[indices == index] = frame
        return clip

    frames = Frames()
    expression = "+".join(f"eq(n,{index})" for index in distinct) if select else None
    clip, log = run_ffmpeg(path, [], decoding_options(expression), frames.report, gather)
    if not frames.stamps:
        raise no_video(path, log)
    if received != len(frames.sent):
        subject = f"{path}: ffmpeg sent {received} pictures of {len(frames.sent)}"
        raise ValueError(f"{subject}; try again, or another ffmpeg")
    sent = frames.sent.tolist()
    complete = sent == distinct if select else len(sent) > distinct[-1]
    return clip if complete else None, frames.stamps, frames.tick


class Frames:
    """The reports of `decoding_options`: the time stamps of the frames, and the numbers of those sent."""

    _DECODED = re.compile(r"decoded=(-?\d{1,19}) (\d{1,10})/(\d{1,10})")
    _SENT = re.compile(r"sent=(\d{1,18}) ")

    def __init__(self) -> None:
        self.stamps, self.sent, self.tick = array("q"), array("q"), Fraction(0)

    def report(self, line: str) -> bool:
        """Read a line of the reports, and return whether it is one."""
        if match := self._DECODED.search(line):
            tick = tick_of(match)
            self.stamps.append(int(match[1]))
            self.tick = tick
        elif match := self._SENT.search(line):
            self.sent.append(int(match[1]))
        return bool(match)


def tick_of(match: re.Match[str]) -> Fraction:
    """Return the length of a tick in seconds, the last two groups. Raises ArithmeticError if it is 0."""
    numerator, denominator = (int(group) for group in match.groups()[-2:])
    return 1 / Fraction(denominator, numerator)


def decoding_options(expression: str | None) -> list[str]:
    """Return options to report the time stamp of each frame, and to send those that ffmpeg's filter selects.

    `expression` is that of the filter; None: all frames.
    """
    # The two reports need different names of standard error, or their lines mix.
    sending = [*_EVERY_FRAME, "-stats_enc_pre", "pipe:02", "-stats_enc_pre_fmt", "sent={ni} {pts}"]
    sending += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"]
    if expression is not None:
        sending += ["-vf", f"select='{expression}'"]
    return [*_REPORTED, "-f", "null", "-", *sending, "-"]


def read_pictures(path: str, stream: IO[bytes], num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the PPM pictures of a stream, all of one size: uint8 `[H, W, 3]`.

    A picture is the lines `P6`, `W H` and `255`, then its pixels.
    """
    first, width, height = b"", 0, 0
    while header := stream.readline(80):
        header += stream.readline(80) + stream.readline(80)
        if not first and (match := re.fullmatch(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n", header)):
            first, width, height = header, int(match[1]), int(match[2])
            require_frame_memory(path, num_frames, width, height)
        if header != first:
            subject = f"{path}: ffmpeg sends something other than pictures of one size"
            raise ValueError(f"{subject}; try another ffmpeg")
        pixels = stream.read(height * width * 3)
        if len(pixels) < height * width * 3:  # ffmpeg was ended
            return
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def require_frame_memory(path: str, num_frames: int, width: int, height: int) -> None:
    """Raise ValueError if T frames, and what ffmpeg holds while it decodes, do not fit into memory."""
    frame = 3 * width * height + 1000  # with its index and time
    subject = f"{path}: reading {num_frames} frames of {width} x {height} pixels"
    require_memory_for(num_frames, lambda T: (T + 8) * frame, subject, "frames")
