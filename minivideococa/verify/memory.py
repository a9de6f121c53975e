"""What comparing a trace takes, worked out from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..model.config import Config

TAPES = 4  # the truth, each block by itself, the port's tensors, a run with rounding


def bytes_needed(config: Config, inputs: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> int:
    """The most bytes that `verify` holds at once for these inputs and tensors, in float64; the weights come on top."""
    vision, text, decoder = config.vision, config.text, config.decoder
    tape, work, resized = 0, [0], 0  # numbers in a run's tensors; in the largest step of each stage; bytes
    if video := [inputs[name] for name in ("frames", "pixels") if name in inputs]:
        frames, size = len(np.atleast_1d(video[0])), vision.image_size
        tokens = frames * vision.tokens
        tape += (
            3 * frames * size**2
            + (vision.layers + 2) * tokens * vision.width
            + 2 * vision.queries * config.embed_dim
        )
        work.append(tokens * (6 * vision.width + 2 * vision.mlp_width + 2 * vision.heads * vision.tokens))
        work.append(2 * tokens * (config.embed_dim + vision.pooler_heads * vision.queries))
        if "frames" in inputs and video[0].ndim == 4:
            short, long = (max(1, side) for side in sorted(video[0].shape[1:3]))
            resized = 8 * (size * max(size, size * long // short) + short * long)
    if "ids" in inputs:
        ids = inputs["ids"]
        longest, rows = ids.shape[-1] + 1 if ids.ndim else 1, ids.size + len(np.atleast_2d(ids))
        tape += rows * ((text.layers + 3) * text.width + 2 * decoder.layers * decoder.width + text.vocab_size)
        work += [
            rows * (6 * part.width + 2 * part.mlp_width + 2 * part.heads * max(longest, vision.queries))
            for part in (text, decoder)
        ]
    return 8 * (TAPES * tape + max(work) + sum(x.size for x in found.values())) + resized
