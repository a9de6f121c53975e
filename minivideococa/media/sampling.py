"""Which frames of a clip are sampled: from time stamps to the indices of T frames.

Frame t of T is the one on screen at (t + 1/2) * D / T of the clip's duration D. All arithmetic is exact (integers and
fractions), so that a sampling point that falls on a time stamp takes the frame that begins there.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, count, pairwise
from math import floor

import numpy as np

from ..model.arguments import shown, whole

RULE = "time 2"  # part of cache keys: change it whenever the sampling rule changes
MILLISECOND = Fraction(1, 1000)
JUMP = 10  # seconds: ffmpeg's dts_delta_threshold
REORDERED = 16  # frames: the most that H.264 and HEVC hold back


def sample_times(
    stamps: Sequence[int],
    last_duration: int | None,
    num_frames: int,
    start: float | str | None = None,
    end: float | str | None = None,
    tick: Fraction = MILLISECOND,
) -> np.ndarray:
    """Return the index of the frame on screen at the middle of each of T equal parts of a clip: int64 `[T]`.

    `stamps` are the time stamps of the n frames in the order of display, in ticks of `tick` seconds. Each frame lasts
    until the next time stamp, the last one for `last_duration` ticks, or as long as the frame before it if that is
    None or 0. A time stamp that runs back is a discontinuity: the frame before it lasts as long as its predecessor. So
    is a jump ahead of more than 10 s within 16 frames of one that runs back: where the time stamps of a transport
    stream jump, B-frames may keep those of the other side.

    `start` and `end` (see `seconds`), counted from the first time stamp, cut the clip to what is on screen in
    [start, end). An `end` after the clip's end is the clip's end.

    At a constant frame rate, where a period exists such that frame i begins within one tick of i periods, the i-th
    time stamp is taken to be exactly i periods. Without a cut that is index floor((t + 1/2) * n / T): rounded time
    stamps do not decide which frame a sampling point on a boundary takes.

    Raises ValueError if there are no frames, `num_frames` is not an integer of at least 1, `start` is not before the
    clip's end, `end` not after `start`, or either is given for a single frame whose duration is not known.
    """
    num_frames = frame_count(num_frames)
    n = len(stamps)
    if n == 0:
        raise ValueError("no frame to sample")
    if n == 1 and not last_duration and (start is not None or end is not None):
        raise ValueError("a single frame without a duration has no time; leave out start and end")
    durations = [later - earlier for earlier, later in pairwise(stamps)]
    durations.append(last_duration or (durations[-1] if durations else 1))
    back = [i for i in range(n) if durations[i] < 0]
    jumps = [
        i
        for i in range(n)
        if back and durations[i] * tick > JUMP and any(abs(i - j) <= REORDERED for j in back)
    ]
    for i in sorted(back + jumps):
        durations[i] = durations[i - 1] if i > 0 else 0
    begins = list(accumulate(durations, initial=0))  # of each frame; then the clip's end

    # The periods that fit: |begins[i] - i * period| <= 1 for each frame, and the last duration within a tick.
    spans = [*((begins[i], i) for i in range(1, n)), (durations[-1], 1)]
    low = max(Fraction(span - 1, periods) for span, periods in spans)
    high = min(Fraction(span + 1, periods) for span, periods in spans)
    constant_rate = low <= high
    if constant_rate and start is None and end is None:
        return sample_indices(n, num_frames)

    period = Fraction(0)
    if constant_rate:  # the simplest fraction that fits: 100/3 ms, not 33 ms
        mean = min(max(Fraction(begins[n], n), low), high)
        candidates = (Fraction(max(1, round(mean * d)), d) for d in count(1))
        period = next(candidate for candidate in candidates if low <= candidate <= high)
    duration = n * period if constant_rate else Fraction(begins[n])
    first, last = _cut(duration, start, end, tick)
    points = [first + (last - first) * (2 * t + 1) / (2 * num_frames) for t in range(num_frames)]
    if constant_rate:
        return np.array([floor(point / period) for point in points], np.int64)
    return np.array([bisect_right(begins, floor(point), hi=n) - 1 for point in points], np.int64)


def sample_indices(n: int, num_frames: int) -> np.ndarray:
    """Return the middle of each of T equal segments of n frames, floor((t + 1/2) * n / T): int64 `[T]`."""
    return (2 * np.arange(num_frames) + 1) * n // (2 * num_frames)


def seconds(value: float | str, name: str = "time") -> float:
    """Return a time in seconds from a number or a text: "ss.s", "mm:ss" or "hh:mm:ss.s".

    Raises ValueError, in which `name` names the argument, for anything else, for negative and for infinite times.
    """
    hint = f"{name} is {shown(value)}; give seconds, as 12.5, or hh:mm:ss, as 00:01:12.5"
    if isinstance(value, str):
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
    return whole("num_frames", num_frames, 1, 2**31 - 1)


def warn_of_repeats(path: str, indices: np.ndarray) -> None:
    """Warn (UserWarning) if the sampled frames of a clip are not all different ones: `indices` int64 `[T]`."""
    distinct = len(np.unique(indices))
    if distinct < len(indices):
        message = f"{path}: {distinct} distinct frame{'s' * (distinct > 1)} in {len(indices)} samples; frames repeat"
        warnings.warn(message, stacklevel=4)


def _cut(
    duration: Fraction, start: float | str | None, end: float | str | None, tick: Fraction
) -> tuple[Fraction, Fraction]:
    """Return [first, last) in ticks. Raises ValueError if it is empty or begins after the clip."""
    # str gives the shortest decimal: 0.1 is then exactly a tenth of a second.
    first = Fraction(0) if start is None else Fraction(str(seconds(start, "start"))) / tick
    last = duration if end is None else Fraction(str(seconds(end, "end"))) / tick
    if last <= first and end is not None:
        raise ValueError(
            f"end is {end}, not after start, {start or 0}; give an end that is later than the start"
        )
    if first >= duration:
        raise ValueError(
            f"start is {start}, and the clip lasts {float(duration * tick):g} s; give an earlier start"
        )
    return first, min(last, duration)
