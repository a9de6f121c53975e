"""Frame sampling: from the time stamps of a clip to the indices of T frames.

Frame t of T is the frame on screen at time (t + 1/2) * D / T, where D is the duration of the clip. The
arithmetic is exact (integers and fractions): a sampling point that equals a time stamp selects the frame that
begins there.
"""

from __future__ import annotations

import re
import warnings
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, chain, count, pairwise
from math import floor

import numpy as np
from numpy.typing import NDArray

from ..model.config import check_int, shorten

RULE = "time 2"  # part of cache keys: change it whenever the sampling rule changes
MILLISECOND = Fraction(1, 1000)
UNITS = {"s": 1, "min": 60, "h": 3600}
JUMP = 10  # seconds: ffmpeg's dts_delta_threshold
REORDERED = 16  # frames: the largest reordering delay of H.264 and HEVC


class Timeline:
    """When each of the n frames of a clip is on screen, in ticks of `tick` seconds from the first time stamp.

    `stamps` are the time stamps of the frames in display order, in ticks. Each frame lasts until the next
    time stamp. The last frame lasts for `last_duration` ticks, or as long as the frame before it if that is
    None or 0. Discontinuities in the time stamps are closed, see `_frame_durations`.

    The frame rate is constant if there is a period such that frame i begins within one tick of i periods.
    Frame i then begins at exactly i periods, so that rounded time stamps do not decide which frame a sampling
    point on a boundary selects.

    Raises ValueError if there are no frames.
    """

    def __init__(self, stamps: Sequence[int], last_duration: int | None, tick: Fraction) -> None:
        if not len(stamps):
            raise ValueError("no frame to sample")
        self.tick, self.n = tick, len(stamps)
        self.timeless = self.n == 1 and not last_duration
        # [n + 1]: the beginning of each frame, then the clip's end
        self.begins = _compact(accumulate(_frame_durations(stamps, last_duration, tick), initial=0))
        self._low, self._high = _period_bounds(self.begins)

    @property
    def is_constant(self) -> bool:
        """Whether the frame rate is constant."""
        return self._low <= self._high

    @cached_property
    def period(self) -> Fraction | None:
        """The duration of a frame in ticks, at a constant rate."""
        mean = Fraction(self.begins[self.n], self.n)
        return _simplest_period(self._low, self._high, mean) if self.is_constant else None

    @property
    def duration(self) -> Fraction:
        """The duration of the clip in ticks."""
        return Fraction(self.begins[self.n]) if self.period is None else self.n * self.period

    def cut(self, start: float | str | None, end: float | str | None) -> tuple[Fraction, Fraction]:
        """Return [start, end) of the clip in ticks. Raises ValueError as `sample_points`."""
        if self.timeless and (start is not None or end is not None):
            raise ValueError("a single frame without a duration has no time; leave out start and end")
        return _cut(self.duration, start, end, self.tick)

    def sample(
        self, num_frames: int, start: float | str | None = None, end: float | str | None = None
    ) -> tuple[NDArray[np.int64], tuple[float, ...]]:
        """Sample the frames on screen at the middle of each of T equal parts of [start, end).

        Returns and raises as `sample_points`.
        """
        whole = start is None and end is None
        first, last = (Fraction(0), Fraction(self.begins[self.n])) if whole else self.cut(start, end)
        points = [first + (last - first) * (2 * t + 1) / (2 * num_frames) for t in range(num_frames)]
        if whole and self.is_constant:
            indices = sample_indices(self.n, num_frames)
        elif whole or self.period is None:
            found = [bisect_right(self.begins, floor(point), hi=self.n) - 1 for point in points]
            indices = np.array(found, np.int64)
        else:
            indices = np.array([floor(point / self.period) for point in points], np.int64)
        return indices, tuple(float(point * self.tick) for point in points)


def sample_points(
    stamps: Sequence[int],
    last_duration: int | None,
    num_frames: int,
    start: float | str | None = None,
    end: float | str | None = None,
    tick: Fraction = MILLISECOND,
) -> tuple[NDArray[np.int64], tuple[float, ...]]:
    """Sample the frames on screen at the middle of each of T equal parts of a clip, see `Timeline`.

    Return their indices int64 `[T]`, and the sampling points in seconds from the first time stamp.

    `start` and `end` (see `seconds`), counted from the first time stamp, select what is on screen in [start,
    end). An `end` after the end of the clip means the end of the clip. Without both, and at a constant frame
    rate, frame t is frame floor((t + 1/2) * n / T).

    Raises ValueError if there are no frames, `num_frames` is not an integer of at least 1, `start` is not
    before the end of the clip, `end` is not after `start`, or either is given for a single frame whose
    duration is not known.
    """
    num_frames = frame_count(num_frames)
    return Timeline(stamps, last_duration, tick).sample(num_frames, start, end)


def sample_indices(n: int, num_frames: int) -> NDArray[np.int64]:
    """Return the middle of each of T equal segments of n frames, floor((t + 1/2) * n / T): int64 `[T]`."""
    indices: NDArray[np.int64] = (2 * np.arange(num_frames) + 1) * n // (2 * num_frames)
    return indices


def _frame_durations(stamps: Sequence[int], last_duration: int | None, tick: Fraction) -> Sequence[int]:
    """Return the duration of each of the n frames in ticks.

    The frame before a discontinuity lasts as long as its predecessor. A discontinuity is a time stamp that
    runs back, and a jump ahead of more than 10 s within 16 frames of one that runs back: where the time
    stamps of a transport stream jump, B-frames may keep time stamps from the other side of the jump.
    """
    between = _compact(later - earlier for earlier, later in pairwise(stamps))
    durations = _compact(chain(between, [last_duration or (between[-1] if between else 1)]))
    back = [i for i, duration in enumerate(durations) if duration < 0]
    ahead = [i for i, duration in enumerate(durations) if back and duration * tick > JUMP]
    jumps = [i for i in ahead if any(abs(i - j) <= REORDERED for j in back)]
    for i in sorted(back + jumps):
        durations[i] = durations[i - 1] if i > 0 else 0
    return durations


def _compact(numbers: Iterable[int]) -> array[int]:
    """Return integers in 8 bytes each. Raises ValueError for larger ones."""
    try:
        return array("q", numbers)
    except OverflowError:
        raise ValueError("the time stamps are too far apart; re-encode the file") from None


def _period_bounds(begins: Sequence[int]) -> tuple[Fraction, Fraction]:
    """Return the least and the greatest frame period in ticks; least > greatest at a variable rate.

    `begins` has the beginning of each of n frames, then the end of the clip. A period fits if frame i begins
    within one tick of i periods, and the last frame lasts one period to within a tick.
    """
    n = len(begins) - 1
    last = begins[n] - begins[n - 1]
    low = max((Fraction(begins[i] - 1, i) for i in range(1, n)), default=Fraction(last - 1))
    high = min((Fraction(begins[i] + 1, i) for i in range(1, n)), default=Fraction(last + 1))
    return max(low, Fraction(last - 1)), min(high, Fraction(last + 1))


def _simplest_period(low: Fraction, high: Fraction, mean: Fraction) -> Fraction:
    """Return the fraction in [low, high] of least denominator, near `mean`: 100/3 ms rather than 33 ms."""
    mean = min(max(mean, low), high)
    candidates = (Fraction(max(1, round(mean * d)), d) for d in count(1))
    return next(candidate for candidate in candidates if low <= candidate <= high)


def seconds(value: float | str, name: str = "time") -> float:
    """Return a time in seconds from a number or a string: "ss.s", "mm:ss", "hh:mm:ss.s", "10s", "2min", "1h".

    Raises ValueError for anything else and for negative or infinite times; `name` names the argument in its
    message.
    """
    hint = f"{name} is {shorten(value)}; give seconds, as 12.5, or hh:mm:ss, as 00:01:12.5"
    if isinstance(value, str):
        if match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{0,20})?) ?(s|min|h)", value.strip()):
            return float(Fraction(match[1]) * UNITS[match[2]])
        match = re.fullmatch(
            r"(?:(?:([0-9]{1,9}):)?([0-9]{1,9}):)?([0-9]{1,9}(?:\.[0-9]{0,20})?)", value.strip()
        )
        if not match:
            raise ValueError(hint)
        hours, minutes, rest = (Fraction(part or 0) for part in match.groups())
        if (match[1] and minutes >= 60) or (match[2] and rest >= 60):
            raise ValueError(hint)
        return float(3600 * hours + 60 * minutes + rest)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(hint) from None
    if isinstance(value, bool | bytes) or not 0 <= number < float("inf"):
        raise ValueError(hint)
    return number


def frame_count(num_frames: int) -> int:
    """Return `num_frames` as an int. Raises ValueError if it is not a whole number of 1 or more."""
    return check_int("num_frames", num_frames, 1, 2**31 - 1)


def warn_if_frames_repeat(path: str, indices: NDArray[np.int64]) -> None:
    """Issue a UserWarning if an index occurs twice among the sampled frames' `indices`, int64 `[T]`."""
    distinct = len(np.unique(indices))
    if distinct < len(indices):
        frames = f"{distinct} different frame{'s' * (distinct > 1)}"
        warnings.warn(f"{path}: only {frames} at the {len(indices)} times sampled", stacklevel=4)


def _plain(time: float | str | None) -> str:
    """Return a time as in a message: "2" for 2.0."""
    return f"{time:.12g}" if isinstance(time, float) else str(time)


def _cut(
    duration: Fraction, start: float | str | None, end: float | str | None, tick: Fraction
) -> tuple[Fraction, Fraction]:
    """Return [start, end) in ticks. Raises ValueError if it is empty or begins after the clip's end."""
    # str() gives the shortest decimal, so that 0.1 is exactly a tenth of a second.
    first = Fraction(0) if start is None else Fraction(str(seconds(start, "start"))) / tick
    last = duration if end is None else Fraction(str(seconds(end, "end"))) / tick
    if last <= first and end is not None:
        raise ValueError(
            f"end {_plain(end)} is not after start {_plain(start or 0)}; give a later end or an earlier start"
        )
    if first >= duration:
        raise ValueError(
            f"start is {_plain(start)}, and the clip lasts {float(duration * tick):g} s; "
            "give an earlier start"
        )
    return first, min(last, duration)
