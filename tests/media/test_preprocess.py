"""Preprocessing: open_clip's pixels from the conformance kit, invariants of resizing, and rejected input."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from minivideococa import resources
from minivideococa.media import preprocess as module
from minivideococa.media.preprocess import preprocess, square_frames

KIT = Path(__file__).parents[1] / "conformance" / "preprocessing"
TRUTH, CASES = load_file(KIT / "cases.safetensors"), json.loads((KIT / "cases.json").read_text())
MODES = st.sampled_from(["shortest", "longest", "squash"])
FILTERS = st.sampled_from(["bicubic", "bilinear"])
SIDES = st.integers(1, 60)
SEEDS = st.integers(0, 2**32 - 1)


def config(**fields):
    plain = dict(
        size=8, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", resize_mode="shortest", fill_color=0
    )
    return SimpleNamespace(**plain | fields)


@pytest.mark.parametrize("case", CASES)
def test_pixels_equal_those_of_open_clip_bit_for_bit(case):
    pixels = preprocess(TRUTH[f"{case}.frames"], config(**CASES[case]))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, TRUTH[f"{case}.pixels"], strict=True)


@given(SIDES, SIDES, st.integers(1, 20), MODES, st.integers(0, 255))
def test_a_uniform_frame_becomes_a_uniform_square(height, width, size, mode, grey):
    frames = np.full((1, height, width, 3), grey, np.uint8)
    pixels = preprocess(frames, config(size=size, resize_mode=mode, fill_color=grey))
    assert pixels.shape == (1, 3, size, size)
    np.testing.assert_array_equal(pixels, np.float32(grey) / np.float32(255))


@given(SIDES, SIDES, MODES, FILTERS, st.integers(0, 3), SEEDS)
def test_frames_are_independent(height, width, mode, interpolation, T, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (T, height, width, 3), np.uint8)
    options = config(resize_mode=mode, interpolation=interpolation)
    each = [preprocess(frame[None], options)[0] for frame in frames]
    np.testing.assert_array_equal(preprocess(frames, options), np.reshape(each, (T, 3, 8, 8)))


@given(SIDES, SIDES, st.integers(1, 20), MODES, FILTERS, SEEDS)
def test_squares_keep_all_that_the_pixels_are_made_of(height, width, size, mode, interpolation, seed):
    """The pixels of the squares are bit for bit those of the frames."""
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    options = config(
        size=size, resize_mode=mode, interpolation=interpolation, mean=(0.5, 0.25, 0), std=(0.3, 1, 2)
    )
    squares = square_frames(frames, options)
    assert squares.dtype == np.uint8 and squares.shape == (2, size, size, 3)
    np.testing.assert_array_equal(preprocess(squares, options), preprocess(frames, options), strict=True)


@given(st.integers(1, 30), MODES, SEEDS)
def test_a_square_of_the_right_size_is_only_normalized(size, mode, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), np.uint8)
    pixels = preprocess(frames, config(size=size, resize_mode=mode, mean=(0.5, 0.25, 0), std=(0.5, 1, 2)))
    back = pixels * np.reshape([0.5, 1, 2], (3, 1, 1)) + np.reshape([0.5, 0.25, 0], (3, 1, 1))
    np.testing.assert_allclose(back.transpose(0, 2, 3, 1) * 255, frames, atol=1e-4)


def test_longest_pads_with_the_fill_color():
    pixels = preprocess(np.zeros((1, 4, 8, 3), np.uint8), config(resize_mode="longest", fill_color=255))
    np.testing.assert_array_equal(pixels[0, 0, :, 0], [1, 1, 0, 0, 0, 0, 1, 1])


def test_longest_keeps_one_pixel_of_a_very_narrow_frame():
    pixels = preprocess(np.zeros((1, 1, 500, 3), np.uint8), config(resize_mode="longest", fill_color=255))
    assert (pixels == 0).sum() == 3 * 8


def test_frames_that_are_not_contiguous():
    frames = np.random.default_rng(0).integers(0, 256, (4, 18, 30, 3), np.uint8)
    views = frames[::2, ::-1, ::3]
    np.testing.assert_array_equal(preprocess(views, config()), preprocess(views.copy(), config()))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 3), np.int64),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_rejected_with_a_hint(frames):
    with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\].*\* 255") as error:
        preprocess(frames, config())
    assert str(list(frames.shape)) in str(error.value) and "\n" not in str(error.value)


@given(st.integers(9, 3000), st.integers(1, 12), FILTERS, st.booleans(), SEEDS)
def test_only_the_middle_of_a_giant_frame_is_resized(long, size, interpolation, tall, seed):
    """The result is the same; where a frame is resized along one side, to one level of 255."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (1, long, size, 3), np.uint8)
    frames = frames if tall else frames.transpose(0, 2, 1, 3)
    short = np.repeat(
        frames[:, :, :1] if tall else frames[:, :1], 3, axis=2 if tall else 1
    )  # constant across
    for clip in (frames, short):
        options = config(size=size, interpolation=interpolation)
        whole = preprocess(clip, options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "LARGE", 0)
            assert np.abs(preprocess(clip, options) - whole).max() * 255 < 1.01


@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (2, 1_000_000)])
def test_a_giant_aspect_ratio_needs_no_giant_array(shape, monkeypatch):
    """1 x 1,000,000 pixels at S = 224 would be 224 x 224,000,000: 150 GB."""
    frames = np.zeros((2, *shape, 3), np.uint8)
    long = int(np.argmax(shape))
    middle = np.take(frames[1], range(499_990, 500_010), axis=long)
    middle[:] = 200  # the crop sees a pixel or two of these
    index = (1, slice(499_990, 500_010)) if long == 0 else (1, slice(None), slice(499_990, 500_010))
    frames[index] = middle
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, *a, **k: sizes.append(size) or resize(image, size, *a, **k)
    )
    pixels = preprocess(frames, config(size=224))
    assert pixels.shape == (2, 3, 224, 224) and max(w * h for w, h in sizes) <= 224 * 224
    np.testing.assert_array_equal(pixels[0], 0)
    np.testing.assert_array_equal(pixels[1], np.float32(200) / np.float32(255))


def test_memory_for_the_pixels_is_checked_first(monkeypatch):
    frames = np.broadcast_to(np.uint8(0), (10**6, 8, 8, 3))
    monkeypatch.setattr(resources, "available_memory", lambda: 10**9)
    with pytest.raises(ValueError, match="preprocessing 1000000 frames needs 602 GB of memory.*fewer frames"):
        preprocess(frames, config(size=224))


def test_frames_of_different_sizes_are_rejected():
    with pytest.raises(ValueError, match="frames of one size"):
        preprocess([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], config())
