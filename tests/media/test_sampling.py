"""Sampling by time stamps: the frame on screen at the middle of each of T equal parts, exactly."""

from fractions import Fraction
from itertools import accumulate
from math import floor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa.media.sampling import (
    frame_count,
    sample_indices,
    sample_points,
    seconds,
    warn_if_frames_repeat,
)


def sample_times(*args):
    """Return the indices of the sampled frames alone."""
    return sample_points(*args)[0]


RATES = [Fraction(rate) for rate in (1, 10, 15, 24, 25, 30, 50, 60, 120)]
RATES += [Fraction(rate, 1001) for rate in (24000, 30000, 60000, 120000)]
TICKS = [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 12800), Fraction(1, 30000), Fraction(1, 10**9)]


def on_screen(durations, point):
    """Return the frame on screen at a time after the first time stamp, by counting down the durations."""
    for index, duration in enumerate(durations):
        if point < duration:
            return index
        point -= duration
    raise AssertionError("beyond the end")


def by_time(durations, num_frames, start=0, end=None):
    end = sum(durations) if end is None else end
    part = Fraction(end - start, num_frames)
    return [on_screen(durations, start + (t + Fraction(1, 2)) * part) for t in range(num_frames)]


def stamps_of(durations, first=0):
    return list(accumulate(durations[:-1], initial=first))


def test_one_second_of_red_and_eight_of_blue():
    assert sample_times([0, 1000], 8000, 8).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert sample_times([0, 1000, 2000], 8000, 10).tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_brief_object_in_a_long_clip():
    durations = [900, 150, 150, 150, 150, 900]  # D = 2400: the points are 150, 450, 750, 1050, ...
    assert sample_times(stamps_of(durations), 900, 8).tolist() == [0, 0, 0, 2, 4, 5, 5, 5]


@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=40), st.integers(1, 40), st.integers(-(10**12), 10**12)
)
def test_uneven_time_stamps_are_sampled_by_time(durations, num_frames, first):
    durations.append(max(durations) + min(durations) + 10)  # so that no even grid is near
    expected = by_time(durations, num_frames)
    indices = sample_times(stamps_of(durations, first), durations[-1], num_frames)
    assert indices.dtype == np.int64 and indices.tolist() == expected


@given(
    st.sampled_from(RATES),
    st.sampled_from(TICKS),
    st.integers(1, 400),
    st.integers(1, 70),
    st.sampled_from(["nearest", "down", "up"]),
    st.sampled_from(["own", "none"]),
    st.integers(0, 10**9),
)
@example(Fraction(30000, 1001), Fraction(1, 1000), 300, 8, "nearest", "own", 0)
def test_a_constant_rate_keeps_the_index_formula(rate, tick, n, num_frames, rounding, last, first):
    """For any rate and tick: rounded time stamps do not decide which frame is selected."""
    rounded = {"nearest": round, "down": floor, "up": lambda time: -floor(-time)}[rounding]
    stamps = [first + rounded(i / rate / tick) for i in range(n)]
    duration = rounded(1 / rate / tick) if last == "own" else None
    expected = [floor(Fraction(2 * t + 1, 2) * n / num_frames) for t in range(num_frames)]
    assert sample_times(stamps, duration, num_frames).tolist() == expected


def test_rounded_time_stamps_do_not_decide_ties():
    """30 frames a second in milliseconds need the rule for constant rates."""
    stamps = [round(i * 1000 / 30) for i in range(30)]
    assert by_time([*np.diff(stamps).tolist(), 33], 15) != sample_indices(30, 15).tolist()
    assert sample_times(stamps, 33, 15).tolist() == sample_indices(30, 15).tolist()


def test_one_tick_is_the_limit_of_a_constant_rate():
    stamps = [0, 100, 200, 300, 400, 500]
    for jitter, even in ((1, True), (2, False)):
        moved = [
            *stamps[:3],
            300 + jitter,
            *stamps[4:],
        ]  # the point 300 of T = 1 falls on this frame or before it
        assert sample_times(moved, 100, 1).tolist() == [3 if even else 2]


def test_the_last_duration_may_be_off_by_one_tick():
    stamps = [0, 40, 80, 120]
    for last in (None, 0, 39, 40, 41):
        assert sample_times(stamps, last, 2).tolist() == [1, 3]
    assert sample_times(stamps, 400, 2).tolist() == [3, 3]
    assert sample_times([0, 10, 400], None, 2).tolist() == [1, 2]  # as long as the one before: D = 790


@given(st.sampled_from(RATES), st.sampled_from(TICKS), st.integers(2, 300), st.integers(1, 30), st.data())
def test_a_cut_on_the_boundaries_of_frames_is_a_clip_of_its_own(rate, tick, n, num_frames, data):
    """At a constant rate: frames a to b - 1 by the index formula, however time stamps are rounded."""
    if tick > Fraction(1, 50) / rate or (1 / rate / tick).denominator > 3:
        tick = Fraction(1, 1001 * 12800 * 3)  # every rate has whole ticks here
    a = data.draw(st.integers(0, n - 1))
    b = data.draw(st.integers(a + 1, n))
    stamps = [round(i / rate / tick) for i in range(n)]
    if not all(Fraction(str(float(i / rate))) == i / rate for i in (a, b)):
        return  # no decimal number of seconds
    indices = sample_times(stamps, round(1 / rate / tick), num_frames, float(a / rate), float(b / rate), tick)
    assert indices.tolist() == [
        a + floor(Fraction(2 * t + 1, 2) * (b - a) / num_frames) for t in range(num_frames)
    ]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 20), st.data())
def test_start_and_end_cut_exactly(durations, num_frames, data):
    durations.append(max(durations) + min(durations) + 10)
    start = data.draw(st.integers(0, sum(durations) - 1))
    end = data.draw(st.integers(start + 1, sum(durations) + 100))
    stamps = stamps_of(durations, 7)
    indices = sample_times(stamps, durations[-1], num_frames, start / 1000, end / 1000)
    assert indices.tolist() == by_time(durations, num_frames, start, min(end, sum(durations)))
    assert (
        indices.tolist()
        == sample_times(
            stamps,
            durations[-1],
            num_frames,
            f"0:00:{start / 1000:.3f}" if start < 60000 else start / 1000,
            end / 1000,
        ).tolist()
    )


def test_frames_at_30_per_second_begin_at_exact_thirds():
    """Frame i begins at exactly i / 30 s, although the time stamp of frame 55 is 1833 ms."""
    stamps = [round(i * 1000 / 30) for i in range(150)]
    assert sample_times(stamps, 33, 3, 1, 2).tolist() == [35, 45, 55]


@pytest.mark.parametrize(
    "start, end, words",
    [
        (9, None, "start is 9, and the clip lasts 9 s; give an earlier"),
        (100, 200, "and the clip lasts 9 s"),
        (2, 2, "end 2 is not after start 2"),
        (3, 2, "not after start"),
        (None, 0, "not after start"),
        (-1, None, "start is -1"),
        (None, float("nan"), "end is nan"),
        ("1:x", None, "start is '1:x'"),
    ],
)
def test_invalid_start_and_end_are_rejected(start, end, words):
    with pytest.raises(ValueError, match=words) as error:
        sample_times([0, 1000], 8000, 8, start, end)
    assert "\n" not in str(error.value)


def test_a_single_frame_without_a_duration_has_no_parts():
    for last in (None, 0):
        assert sample_times([7], last, 2).tolist() == [0, 0]
        for times in ((0, None), (None, 1), (0.5, None)):
            with pytest.raises(
                ValueError, match="^a single frame without a duration has no time; leave out start"
            ):
                sample_times([7], last, 2, *times)
    assert sample_times([7], 1000, 2, 0.5).tolist() == [0, 0]


def test_an_end_after_the_end_of_the_clip_is_its_end():
    assert sample_times([0, 1000], 8000, 8, 0, 100).tolist() == sample_times([0, 1000], 8000, 8).tolist()
    assert sample_times([0, 1000], 8000, 4, 0.5, 1.5).tolist() == [0, 0, 1, 1]


def test_time_stamps_that_run_back_are_a_discontinuity():
    """The frame before lasts as long as its predecessor, and no frame is skipped."""
    assert sample_times([0, 100, 200, 50, 150, 250], 100, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert sample_times([0, 100, 200, 0, 1000], 100, 14).tolist() == [0, 1, 2] + 10 * [3] + [4]


@pytest.mark.parametrize(
    "stamps",
    [
        [0, 40, 80, 20120, 160, 200, 240, 280],  # ahead: one frame of after the jump
        [0, 40, 80, 20120, 20160, 200, 240, 280],
        [0, 40, 80, 20120, 160, 20200, 240, 280],
        [30000, 30040, 30080, 120, 30160, 200, 240, 280],
    ],
)  # behind
def test_frames_out_of_order_around_a_jump_last_no_longer_than_others(stamps):
    assert sample_times(stamps, 40, 8).tolist() == list(range(8))


def test_a_jump_far_from_a_discontinuity_is_a_long_frame():
    times = [0, *range(20, 40), *range(5, 14)]  # 20 s, then 1 s each: 49 s, the points 3.5, 10.5, ...
    assert sample_times([1000 * time for time in times], 1000, 7).tolist() == [0, 0, 0, 5, 12, 19, 26]
    assert sample_times([0, 20000, 20040], 40, 8).tolist() == [0] * 8


@given(
    st.lists(st.integers(-(10**4), 10**4), min_size=1, max_size=20), st.integers(0, 500), st.integers(1, 30)
)
@settings(max_examples=examples(300))
def test_any_time_stamps_give_indices_in_order(stamps, last, num_frames):
    for start in (None, 0):
        try:
            indices = sample_times(stamps, last, num_frames, start).tolist()
        except ValueError as error:
            words = "a single frame without a duration" if len(stamps) == 1 else "the clip lasts 0 s"
            assert start == 0 and words in str(error)
            continue
        assert len(indices) == num_frames and indices == sorted(indices)
        assert indices[0] >= 0 and indices[-1] < len(stamps)


def test_a_clip_without_frames_is_rejected():
    with pytest.raises(ValueError, match="no frame"):
        sample_times([], None, 8)


@pytest.mark.parametrize(
    "text, value",
    [
        ("12.5", 12.5),
        ("10s", 10),
        ("1.5 min", 90),
        ("2h", 7200),
        ("0", 0.0),
        (" 7. ", 7.0),
        ("1:02", 62.0),
        ("90:00", 5400.0),
        ("01:02:03.25", 3723.25),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (Fraction(1, 4), 0.25),
    ],
)
def test_times(text, value):
    assert seconds(text) == value and type(seconds(text)) is float


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1:2:3:4",
        "1:2s",
        "10m",
        "s",
        "1:60",
        "1:61:00",
        "-1",
        "1e3",
        "nan",
        "1,5",
        "१",
        "9" * 400,
        -1,
        -0.5,
        float("inf"),
        float("nan"),
        None,
        True,
        [],
        10**400,
    ],
)
def test_invalid_times(text):
    with pytest.raises(ValueError, match="^start is .*give seconds, as 12.5, or hh:mm:ss") as error:
        seconds(text, "start")
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("number", [2.5, 8.0, None, True, "8", 0, -1, 10**21, 10**400, np.bool_(True), [8]])
def test_invalid_num_frames(number):
    with pytest.raises(ValueError, match="num_frames is ") as error:
        frame_count(number)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_numpy_integers_are_valid_num_frames():
    assert frame_count(np.int32(8)) == 8 and type(frame_count(np.uint8(8))) is int


def test_repeated_frames_give_a_warning():
    with pytest.warns(UserWarning, match="^clip.mp4: only 3 different frames at the 8 times") as caught:
        warn_if_frames_repeat("clip.mp4", sample_indices(3, 8))
    assert len(caught) == 1
    warn_if_frames_repeat("clip.mp4", sample_indices(8, 8))  # an error where warnings are errors
