"""Fixtures of the tests of evaluation: a small model, and images, which are videos of one frame."""

import numpy as np
import pytest
from PIL import Image

import minivideococa as mvc


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(2, tokenizer=tokenizer)


@pytest.fixture
def pictures(tmp_path):
    """The paths of six random pictures, a.png to f.png."""
    paths = [tmp_path / f"{name}.png" for name in "abcdef"]
    for seed, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 16, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def calls(monkeypatch):
    """The number of calls of slow methods: {"encode_video": ..., "generate": ..., "encode_text": ...}."""
    counts = dict.fromkeys(("encode_video", "generate", "encode_text"), 0)

    def count(name):
        method = getattr(mvc.VideoCoCa, name)

        def counted(self, *arguments, **keywords):
            counts[name] += 1
            return method(self, *arguments, **keywords)

        monkeypatch.setattr(mvc.VideoCoCa, name, counted)

    for name in counts:
        count(name)
    return counts
