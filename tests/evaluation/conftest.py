"""Fixtures of the evaluation's tests: a small model, and pictures, which are videos of one frame and quickly read."""

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
    """The number of calls of what takes long: {"encode_video": ..., "generate": ..., "encode_text": ...}."""
    counts = dict.fromkeys(("encode_video", "generate", "encode_text"), 0)
    for name in counts:

        def counted(self, *rest, _name=name, _method=getattr(mvc.VideoCoCa, name), **more):
            counts[_name] += 1
            return _method(self, *rest, **more)

        monkeypatch.setattr(mvc.VideoCoCa, name, counted)
    return counts
