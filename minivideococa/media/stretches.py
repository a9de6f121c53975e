"""Long videos: T sampled frames of each stretch of a file, which is decoded once, from its beginning on.

The packets are listed first, without decoding them: their time stamps say which frames are on screen at the
sampling points, as in `video.py`, and how long the video lasts. Memory holds the frames of one stretch, and
the times of all frames: 8 MB at most for two hours.

ffmpeg sends few frames besides those that are sampled: the filter of `_selection` knows the times of the
sampling points, and not the numbers of the frames, of which there may be thousands.
"""

from __future__ import annotations

import os
import queue
import re
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..inputs import path_name, why_unreadable
from ..progress import Progress, no_progress
from .ffmpeg import open_ffmpeg
from .images import is_image, is_jpeg_xl, open_animation
from .sampling import JUMP, Timeline, frame_count, seconds, warn_if_frames_repeat
from .video import (
    AS_STORED,
    Packets,
    decoding_options,
    files_of,
    read_packets,
    read_pictures,
    read_stamps,
    require_frame_memory,
)

LEAST = 0.1  # seconds of a stretch
LEFT_OVER = Fraction(1, 10)  # of a stretch: a rest that is no longer belongs to the stretch before it
MARGIN = 0.002  # seconds: frames a little beyond a sampling point are sent too
REPORT_SECONDS = 10.0  # ffmpeg reports a picture before it sends it
_CUT_SHORT = re.compile(r"[Tt]runcated|[Pp]artial file|ended prematurely")

IndexedFrame = tuple[int, NDArray[np.uint8]]


class Stretch(NamedTuple):
    """A part [start, end) of a video, in seconds from its first frame, and its frames `[T, H, W, 3]`."""

    start: float
    end: float
    frames: NDArray[np.uint8]


def read_stretches(
    path: str | os.PathLike[str],
    every: float | str = 10.0,
    num_frames: int = 8,
    start: float | str | None = None,
    end: float | str | None = None,
    progress: Progress = no_progress,
) -> Iterator[Stretch]:
    """Yield T = `num_frames` sampled frames of each stretch of a video, which is decoded once.

    A stretch lasts `every` seconds. The last one ends with the video, or at `end`; what is left over there is
    a stretch of its own unless it is no longer than a tenth of `every`: then it belongs to the stretch before
    it. The frames of a stretch are those of `read_video(path, num_frames, stretch.start, stretch.end)`.

    `start` and `end` are those of `read_video`. The stage of `progress` counts seconds of the video. If the
    file is cut short, a UserWarning at the end says when its pictures end. Where packets have no time stamps,
    equal ones or some that jump, the video is decoded twice.

    Raises ValueError for `every` below 0.1 seconds, for stills, pages and folders of images, which have no
    time, and as `read_video`; if ffmpeg fails midway, after the stretches before that.
    """
    path = path_name(path, "give a video")
    num_frames, every = frame_count(num_frames), seconds(every, "every")
    if every < LEAST:
        raise ValueError(f"every is {every:g}; give at least {LEAST:g} seconds")
    start = None if start is None else seconds(start, "start")
    end = None if end is None else seconds(end, "end")
    files_of(path)
    if os.path.isdir(path):
        raise ValueError(f"{path}: a folder of images has no time; give a video")
    read = _read_animation if is_image(path) else _read_film
    return read(_Request(path, Fraction(str(every)), num_frames, start, end), progress)


class _Request(NamedTuple):
    """What is to be read. Times are in seconds."""

    path: str
    every: Fraction
    num_frames: int
    start: float | None
    end: float | None


class _Plan:
    """The stretches of a timeline: iteration yields (start, end, indices `[T]`) of each.

    `first` and `last` are where they start and end, in seconds.
    """

    def __init__(self, request: _Request, timeline: Timeline) -> None:
        self.request, self.timeline = request, timeline
        try:
            first, last = timeline.cut(request.start or 0.0, request.end)
        except ValueError as error:
            raise ValueError(f"{request.path}: {error}") from None
        self.first, self.last = first * timeline.tick, last * timeline.tick
        self.count = max(1, ceil((self.last - self.first) / request.every - LEFT_OVER))

    @property
    def last_start(self) -> Fraction:
        """The start of the last stretch."""
        return self.first + (self.count - 1) * self.request.every

    def __iter__(self) -> Iterator[tuple[float, float, NDArray[np.int64]]]:
        _, every, num_frames, _, given_end = self.request
        for k in range(self.count):
            start = float(self.first + k * every)
            is_last = k == self.count - 1
            end = float(self.last if is_last else self.first + (k + 1) * every)
            indices, _ = self.timeline.sample(num_frames, start, given_end if is_last else end)
            yield start, end, indices


def _read_animation(request: _Request, progress: Progress) -> Iterator[Stretch]:
    """Yield the stretches of an animated image."""
    with open_animation(request.path, request.num_frames) as (timeline, frames_at):
        plan = _Plan(request, timeline)
        distinct = sorted({index for _, _, indices in plan for index in indices.tolist()})
        yield from _stretches(plan, frames_at(np.array(distinct, np.int64)), progress)


def _read_film(request: _Request, progress: Progress) -> Iterator[Stretch]:
    """Yield the stretches of a file that ffmpeg reads."""
    path, packets = request.path, read_packets(request.path)
    require_frame_memory(path, request.num_frames, *packets.size)
    try:
        stamps, tick = _frame_stamps(path, packets)
        last_duration = int(packets.duration(stamps[-1]) * (packets.tick / tick))
        timeline = Timeline(stamps, last_duration, tick)
    except (ValueError, OverflowError) as error:  # time stamps of more than 64 bits
        raise ValueError(why_unreadable(path, error)) from None
    if len(stamps) == 1 and is_jpeg_xl(path):
        raise ValueError(f"{path}: a still image has no time; give a video")
    cut_short = bool(_CUT_SHORT.search(packets.messages))
    del packets
    plan, shown = _Plan(request, timeline), 0.0
    with closing(_sent_frames(path, stamps, _selection(plan, stamps), request.num_frames)) as frames:
        for stretch in _stretches(plan, frames, progress):
            yield stretch
            shown = stretch.end
    if shown < float(plan.last) or (cut_short and plan.last == plan.timeline.duration * tick):
        warnings.warn(
            f"{path}: the file is incomplete or damaged, its pictures end at {shown:.3f} s; "
            "download or copy it again",
            stacklevel=2,
        )


def _stretches(plan: _Plan, frames: Iterator[IndexedFrame], progress: Progress) -> Iterator[Stretch]:
    """Yield the stretches of a plan, given frames in order.

    A sampling point shows the last frame whose index is not after that of the point: if a frame does not
    decode, the one before it. The stretches end with the frames. Raises ValueError if there are none.
    """
    path, _, num_frames, *_ = plan.request
    current, following = next(frames, None), next(frames, None)
    if current is None:
        raise ValueError(f"{path}: no frame decodes; download or copy it again")
    with progress(round(plan.last) - round(plan.first), "seconds of video") as update:
        for start, end, indices in plan:
            if following is None and current[0] < indices[0]:
                return
            clip = np.empty((num_frames, *current[1].shape), np.uint8)
            for t, index in enumerate(indices):
                while following is not None and following[0] <= index:
                    current, following = following, next(frames, None)
                clip[t] = current[1]
            warn_if_frames_repeat(path, indices)
            yield Stretch(start, end, clip)
            update(round(end) - round(start))


def _frame_stamps(path: str, packets: Packets) -> tuple[Sequence[int], Fraction]:
    """Return the time stamps of the frames in the order in which they are shown, and the length of a tick.

    They are those of the packets, from the first frame that decodes on, moved to where ffmpeg begins a
    decoded video. The video is decoded for them if packets have no time stamps, have equal ones, or if one is
    far from the time of its decoding: frames out of order around a discontinuity keep time stamps of its
    other side.
    """
    stored, first = read_stamps(path, AS_STORED, 1), read_stamps(path, most=1)
    jump, shown = JUMP / packets.tick, packets.shown
    is_far = any(abs(pts - dts) > jump for pts, dts in zip(packets.pts, packets.dts, strict=True))
    are_known = packets.have_stamps and not is_far and all(a < b for a, b in pairwise(shown))
    if are_known and packets.tick == stored.tick == first.tick and stored.stamps[0] in shown:
        begin = shown.index(stored.stamps[0])
        offset = first.stamps[0] - shown[begin]
        return array("q", (stamp + offset for stamp in shown[begin:])), first.tick
    frames = read_stamps(path)
    return frames.stamps, frames.tick


def _selection(plan: _Plan, stamps: Sequence[int]) -> str | None:
    """Return an expression for ffmpeg's filter that selects the sampled frames, and few others; None: all.

    A frame is on screen at a sampling point if the point is at most the longest duration of a frame after its
    time stamp `t`. The sampling points lie at equal distances, those of the last stretch at their own.
    """
    begins, tick = plan.timeline.begins, plan.timeline.tick
    if any(stamp - stamps[0] != begin for stamp, begin in zip(stamps, begins, strict=False)):
        return None  # the time stamps jump
    origin, longest = float(stamps[0] * tick), max(later - earlier for earlier, later in pairwise(begins))
    margin = MARGIN + 2 * float(tick)
    window = float(longest * tick) + 2 * margin

    def near_a_point(first: Fraction, distance: Fraction) -> str:
        point = origin + float(first + distance / 2) + margin
        return f"lt(mod({point:.9f}-t,{float(distance):.9f}),{window:.9f})"

    _, every, num_frames, *_ = plan.request
    last = near_a_point(plan.last_start, (plan.last - plan.last_start) / num_frames)
    is_late = f"gte(t,{origin + float(plan.last_start) - window:.9f})"
    return f"{near_a_point(plan.first, every / num_frames)}+{is_late}*{last}"


def _sent_frames(
    path: str, stamps: Sequence[int], expression: str | None, num_frames: int
) -> Generator[IndexedFrame, None, None]:
    """Decode a video and yield (index into `stamps`, frame `[H, W, 3]`) of the frames that are selected."""
    reports: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def report(line: str) -> bool:
        if match := re.search(r"sent=(\d+) (-?\d+)$", line):
            reports.put((int(match[1]), int(match[2])))
        return bool(match) or "decoded=" in line

    with open_ffmpeg(path, [], decoding_options(expression), report) as running:
        for frame in read_pictures(path, running.output, num_frames):
            try:
                number, stamp = reports.get(timeout=REPORT_SECONDS)
            except queue.Empty:
                raise ValueError(f"{path}: ffmpeg does not say which picture it sends; try another") from None
            running.paused = True  # while the frame is used
            yield _index(stamps, number, stamp), frame
            running.paused = False


def _index(stamps: Sequence[int], number: int, stamp: int) -> int:
    """Return the index of a decoded frame. A frame may be missing before it, so its time stamp decides."""
    if number < len(stamps) and stamps[number] == stamp:
        return number
    return max(0, bisect_right(stamps, stamp) - 1)
