"""The memory that comparing a trace needs, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..model.config import Array, Config
from .names import FLATTENING

RUNS = 4  # sets of activations held at once: reference, local, the trace's, one with rounding


def bytes_needed(config: Config, inputs: Mapping[str, Array], found: Mapping[str, Array]) -> int:
    """Return the largest number of bytes that `verify` holds at once, in float64, besides the weights."""
    video = _video_elements(config, inputs)
    text = _text_elements(config, inputs["ids"]) if "ids" in inputs else (0, 0)
    activations, work = video[0] + text[0], max(video[1], text[1])
    resized = _resizing_bytes(config, inputs["frames"]) if "frames" in inputs else 0
    return 8 * (RUNS * activations + work + sum(x.size for x in found.values())) + resized


def _video_elements(config: Config, inputs: Mapping[str, Array]) -> tuple[int, int]:
    """Return the elements of a video's activations, and of the largest step on the way."""
    video = [inputs[name] for name in ("frames", "pixels") if name in inputs]
    if not video:
        return 0, 0
    c, frames = config.vision, len(np.atleast_1d(video[0]))
    tokens = frames * c.tokens_per_frame
    separately, across = config.adapter not in FLATTENING, config.factorized
    activations = (
        3 * frames * c.image_size**2
        + (c.layers + 2) * tokens * c.width
        + (frames if separately else 2) * c.queries * config.embed_dim
        + (across.layers + 2 if across else 0) * frames * config.embed_dim
    )
    keys = tokens if config.adapter == "joint" else c.tokens_per_frame
    block = tokens * (6 * c.width + 2 * c.mlp_width + 2 * c.heads * keys)
    pooler = 2 * tokens * (config.embed_dim + c.pooler_heads * c.queries)
    return activations, max(block, pooler)


def _text_elements(config: Config, ids: Array) -> tuple[int, int]:
    """Return the elements of the texts' activations, and of the largest block on the way."""
    text, decoder = config.text, config.decoder
    longest, rows = ids.shape[-1] + 1 if ids.ndim else 1, ids.size + len(np.atleast_2d(ids))
    activations = rows * (
        (text.layers + 3) * text.width + 2 * decoder.layers * decoder.width + text.vocab_size
    )
    keys = max(longest, config.vision.queries)
    blocks = [
        rows * (6 * part.width + 2 * part.mlp_width + 2 * part.heads * keys) for part in (text, decoder)
    ]
    return activations, max(blocks)


def _resizing_bytes(config: Config, frames: Array) -> int:
    """Return the bytes of a frame before and after it is resized."""
    if frames.ndim != 4:
        return 0
    size = config.vision.image_size
    short, long = (max(1, side) for side in sorted(frames.shape[1:3]))
    return int(8 * (size * max(size, size * long // short) + short * long))
