"""Preprocessing against open_clip's image_transform: the conformance kit, and any size and mode."""

import json
from types import SimpleNamespace

import make_conformance_preprocessing as oracle
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minivideococa.media.preprocess import preprocess

# Sizes where rounding is critical, and any others.
sides = st.one_of(st.sampled_from([1, 2, 3, 223, 224, 225]), st.integers(1, 400))
channels = st.floats(0.05, 1).map(lambda x: round(x, 4))
colors = st.tuples(channels, channels, channels)


def test_the_kit_is_reproducible():
    configs, tensors = oracle.make()
    assert json.loads((oracle.FOLDER / "cases.json").read_text()) == json.loads(json.dumps(configs))
    committed = load_file(oracle.FOLDER / "cases.safetensors")
    assert tensors.keys() == committed.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, committed[name], err_msg=name)


@settings(max_examples=400)
@given(
    height=sides,
    width=sides,
    size=st.one_of(st.just(224), st.integers(1, 64)),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    mean=colors,
    std=colors,
    fill=st.integers(0, 255),
    seed=st.integers(0, 2**32 - 1),
)
def test_pixels_are_open_clips_bit_for_bit(height, width, size, mode, interpolation, mean, std, fill, seed):
    short, long = sorted((height, width))
    assume(size * long / short < 8000)  # longer strips take too much memory
    assume(mode != "longest" or round(size * short / long) > 0)  # open_clip fails there
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    config = SimpleNamespace(
        size=size, mean=mean, std=std, interpolation=interpolation, resize_mode=mode, fill_color=fill
    )
    expected = oracle.open_clip_pixels(frames, size, mean, std, mode, interpolation, fill)
    np.testing.assert_array_equal(preprocess(frames, config), expected, strict=True)
