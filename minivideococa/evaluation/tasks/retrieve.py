"""Text-to-video and video-to-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...model.config import Array
from ...progress import Progress
from ...resources import require_memory
from ...tasks import TEXTS, batches, cosine
from ..manifest import Entry
from ..metrics import ranks, recall
from .task import Clip, Metrics, Task, finite_latents, latent_matrix, metrics_of, targets_among


class Retrieve(Task):
    """Retrieval of videos by captions and of captions by videos: recall at 1, 5 and 10, and the median rank.

    A caption is a query for its own video only, as in published figures, even where another video has the
    same caption. For a video every caption with the text of one of its own is correct, and the best-ranked
    counts.
    """

    name = "retrieve"
    needs = '"captions"'
    compares_latents = True

    @staticmethod
    def targets_of(entry: Entry) -> Sequence[str]:
        """Return the captions."""
        return entry.captions

    def check(self) -> None:
        """Raise ValueError if the cosines and ranks do not fit into memory."""
        texts = sum(map(len, self.targets.values()))
        require_memory(
            texts * len(self.targets) * 24,
            f"retrieval among {texts} captions and {len(self.targets)} videos",
            "give fewer entries, or leave it out with tasks (--tasks)",
        )
        self.text_ranks: dict[Clip, dict[str, int]] = {}  # of the video, for each of its captions
        self.video_ranks: dict[Clip, int] = {}  # of the best-ranked of its captions, for the video

    @property
    def texts(self) -> list[str]:
        """The captions, each once."""
        return list(dict.fromkeys(text for captions in self.targets.values() for text in captions))

    def prepare(self, progress: Progress) -> None:
        """Encode the captions, in batches that are cached, so that an interrupted run continues."""
        texts = self.texts
        self.latents: dict[str, Array] = {}  # caption -> [E]
        with progress(len(texts), "captions") as update:
            for rows in batches(len(texts), TEXTS):
                self.latents |= zip(texts[rows], self._text_latents(texts[rows]), strict=True)
                update(len(texts[rows]))

    def _text_latents(self, texts: list[str]) -> Array:
        key = ["texts", self.settings.model_key, texts]
        latents: Array = self.settings.cached(
            key, lambda: finite_latents(self.model.encode_text(texts), texts)
        )
        return latents

    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Rank the videos for each caption and the captions for each video."""
        captions = [self.targets[clip] for clip in clips]
        texts = [text for texts in captions for text in texts]
        latents = latent_matrix(clips)
        cosines = np.stack([cosine(latents, self.latents[text]) for text in texts])  # [texts, videos]
        own = np.repeat(np.eye(len(clips), dtype=bool), [len(texts) for texts in captions], axis=0)
        text_ranks = ranks(cosines, own)
        video_ranks = ranks(cosines.T, targets_among(texts, captions))
        remaining = iter(text_ranks.tolist())
        for clip, rank in zip(clips, video_ranks.tolist(), strict=True):
            self.text_ranks[clip] = {text: next(remaining) for text in self.targets[clip]}
            self.video_ranks[clip] = rank
        return _metrics("text-to-video", text_ranks) | _metrics("video-to-text", video_ranks)

    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the rank of the video for each caption, and that of the best caption for the video."""
        if not entry.captions:
            return {}
        return {
            "text_to_video_ranks": [self.text_ranks[clip][text] for text in entry.captions],
            "video_to_text_rank": self.video_ranks[clip],
        }


def _metrics(direction: str, ranks: Array) -> Metrics:
    values = {f"{direction} R@{k}": recall(ranks, k) for k in (1, 5, 10)}
    return metrics_of(len(ranks), values | {f"{direction} median rank": float(np.median(ranks))})
