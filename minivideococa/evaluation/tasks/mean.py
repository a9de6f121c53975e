"""The mean of encoded videos: what the question-only baseline sees in place of a video."""

from __future__ import annotations

import hashlib

import numpy as np

from ...model.config import Array, Video
from ...model.ops import normalize


class MeanVideo:
    """A running mean of encoded videos, in float64: latents [E] and caption tokens [Q', E]."""

    def __init__(self) -> None:
        self.count = 0
        self._latents: Array = np.zeros(())
        self._tokens: Array = np.zeros(())

    def add(self, video: Video) -> None:
        """Count a video. All have the same number of caption tokens."""
        self.count += 1
        self._latents = self._latents + video.latent.astype(np.float64)
        self._tokens = self._tokens + video.tokens.astype(np.float64)

    def video(self, dtype: np.dtype) -> Video:
        """Return the mean as a video in `dtype`; its latent is of unit length. At least one was counted."""
        latent, tokens = normalize(self._latents), self._tokens / self.count
        return Video(latent.astype(dtype), tokens.astype(dtype))


def tokens_hash(video: Video) -> str:
    """Return the SHA-256 of the caption tokens, which identifies a mean in the cache."""
    return hashlib.sha256(np.ascontiguousarray(video.tokens).data).hexdigest()
