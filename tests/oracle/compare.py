"""Run the project and open_clip on the same weights and inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import reference
from common import Arrays, cast, errors
from open_clip.coca_model import CoCa
from PIL import Image

import minivideococa as mvc
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import nest


def traces(
    model: CoCa, model_cfg: dict[str, Any], weights: Arrays, pixels: np.ndarray, ids: np.ndarray
) -> tuple[Arrays, Arrays]:
    """Return our trace and open_clip's for pixels [T, 3, S, S] and ids [B, L], on the same weights."""
    theirs = reference.trace(reference.load(model, weights), pixels, ids)
    ours = mvc.VideoCoCa(parse_config(model_cfg), nest(weights))
    with mvc.trace() as trace:
        ours.decode(ours.encode_video(pixels).tokens, ids)
    return trace, {"pixels": pixels} | theirs


def measure(
    model_cfg: dict[str, Any], weights: Arrays, pixels: np.ndarray, ids: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
    """Return two figures per tensor, by name, for weights that are exact in float32.

    The first is the difference of our float64 run from open_clip's. The second is the ratio of our error to
    open_clip's in float32, both measured against open_clip in float64.
    """
    model = reference.video_coca(model_cfg)
    ours32, theirs32 = traces(model, model_cfg, cast(weights, "float32"), pixels, ids)
    ours64, theirs64 = traces(model, model_cfg, cast(weights, "float64"), pixels, ids)
    ours, theirs = errors(ours32, theirs64), errors(theirs32, theirs64)
    return errors(ours64, theirs64), {name: ours[name] / theirs[name] for name in ours if theirs[name] > 0}


def assert_same_from_frames(
    ours: mvc.VideoCoCa,
    theirs: CoCa,
    transform: Callable,
    frames: np.ndarray,
    ids: np.ndarray,
    max_length: int,
) -> None:
    """Compare all intermediates and the greedy caption in float64: frames uint8 [T, H, W, 3], ids [1, L]."""
    pixels = np.stack([transform(Image.fromarray(frame)).numpy() for frame in frames])
    with mvc.trace() as trace:
        video = ours.encode(frames)
        ours.decode(video.tokens, ids)
    found = errors(trace, reference.trace(theirs, pixels, ids) | {"frames": frames, "pixels": pixels})
    assert max(found.values()) < 1e-12, found
    caption = ours.generate(video.tokens, beams=1, min_length=5, max_length=max_length)
    start, end = ours.tokenizer.start_id, ours.tokenizer.end_id
    assert np.array_equal(caption, reference.greedy(theirs, pixels, start, end, 5, max_length))
