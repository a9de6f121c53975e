"""A released checkpoint, from the hub to a caption, against open_clip. Needs a network:

    MINIVIDEOCOCA_RELEASED=laion/CoCa-ViT-B-32-laion2B-s13B-b90k pytest tests/oracle/test_released.py

Both libraries download the repository (1 GB for a B/32, 2.6 GB for an L/14) to huggingface_hub's cache.
In float64 an L/14 takes 11 GB of memory.
"""

import os

import numpy as np
import open_clip
import pytest
import reference
import torch
from common import errors
from compare import assert_same_from_frames

import minivideococa as mvc

REPOSITORY = os.environ.get("MINIVIDEOCOCA_RELEASED")
SOURCE = f"hf-hub:{REPOSITORY}"
pytestmark = pytest.mark.skipif(
    not REPOSITORY,
    reason="needs a network: to download a checkpoint and compare, "
    "set MINIVIDEOCOCA_RELEASED=laion/CoCa-ViT-B-32-laion2B-s13B-b90k",
)
TEXTS = [
    "a photo of a dog",
    "Two men are arm wrestling!",
    "don't stop, it's 3:45 on 12/07",
    "café 猫 🎬 &amp; naïve",
    " ".join(["many words"] * 60),
]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Frames uint8 [8, 240, 320, 3] of random coloured tiles."""
    tiles = np.random.RandomState(0).randint(0, 256, (8, 6, 8, 3)).astype(np.uint8)
    return tiles.repeat(40, axis=1).repeat(40, axis=2)


def open_clips_names() -> tuple[str, str]:
    """Return the model and the tag of the repository in open_clip."""
    found = {
        open_clip.get_pretrained_cfg(*names).get("hf_hub", "").strip("/"): names
        for names in open_clip.list_pretrained()
    }
    return found[REPOSITORY]


def load_both(dtype: str):
    """Return our model, open_clip's for videos, and its preprocessing."""
    model, tag = open_clips_names()
    theirs, _, transform = open_clip.create_model_and_transforms(model, pretrained=tag)
    theirs = reference.flatten_frames(theirs.eval().to(getattr(torch, dtype)))
    return mvc.load(SOURCE, dtype=dtype), theirs, transform


def test_tokenization():
    assert np.array_equal(
        mvc.load(SOURCE).tokenize(TEXTS), open_clip.get_tokenizer(open_clips_names()[0])(TEXTS).numpy()
    )


def test_float64_from_frames_to_caption(frames):
    ours, theirs, transform = load_both("float64")
    assert_same_from_frames(ours, theirs, transform, frames, ours.tokenize(TEXTS[:1]), max_length=30)
    assert ours.logit_scale == pytest.approx(theirs.logit_scale.exp().item(), rel=1e-12)


def test_float32_is_as_exact_as_torchs(frames, capsys):
    ours, theirs, _ = load_both("float32")
    pixels, ids = ours.preprocess(frames), ours.tokenize(TEXTS[:1])
    with mvc.trace() as trace:
        ours.decode(ours.encode_video(pixels).tokens, ids)
    del ours
    single = reference.trace(theirs, pixels, ids)
    double = reference.trace(theirs.double(), pixels, ids)
    our_error, torchs = errors(trace, double), errors(single, double)
    ratios = {name: our_error[name] / torchs[name] for name in our_error if torchs[name] > 0}
    median = np.median(list(ratios.values()))
    with capsys.disabled():
        print(f"\n{REPOSITORY}: in float32 our error is {median:.2f} times torch's in the median")
    assert median <= 1.25, ratios
    assert max(ratios.values()) < 4, ratios
