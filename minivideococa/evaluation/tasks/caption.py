"""Video captioning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...model.config import Video
from ...model.generation import prepare
from ...progress import Progress
from ...tasks import CAPTIONS, caption_batch, require_captions
from ..manifest import Entry
from ..metrics import caption_scores, has_caption_metrics, tokenizer_for
from .task import Clip, Metrics, Task, metrics_of


class Caption(Task):
    """Captioning: BLEU-4, ROUGE-L and CIDEr of the generated caption against all captions of the video."""

    name = "caption"
    needs = '"captions"'

    @classmethod
    def missing_package(cls) -> str | None:
        """Return how to install pycocoevalcap if it is missing."""
        return None if has_caption_metrics() else 'pip install "minivideococa[eval]"'

    @staticmethod
    def targets_of(entry: Entry) -> Sequence[str]:
        """Return the captions."""
        return entry.captions

    def check(self) -> None:
        """Raise ValueError for options that do not suit the model, and if the metrics cannot be computed."""
        prepare(self.model, self.settings.options)
        try:
            require_captions(self.model, self.settings.options.prompt)
        except ValueError as error:  # other tasks of the same manifest may suit the model
            warnings.warn(f"captions: {error}", stacklevel=2)
        self.tokenize = tokenizer_for(self.settings.tokenizer)
        self.captions: dict[Clip, str] = {}
        self.waiting: dict[Clip, Video] = {}  # encoded, without a caption

    def predict(self, clip: Clip, video: Video) -> None:
        """Generate the caption, once there are enough videos to generate theirs together."""
        if (caption := self.settings.get(self._key(clip))) is not None:
            self.captions[clip] = caption
            return
        self.waiting[clip] = video
        if len(self.waiting) == CAPTIONS:
            self._caption_waiting()

    def generate(self, clip: Clip, video: Video) -> None:
        """Generate the caption."""
        self.settings.cached(
            self._key(clip), lambda: caption_batch(self.model, [video], self.settings.options)[0]
        )

    def conclude(self, progress: Progress) -> None:
        """Generate the captions that are left."""
        if self.waiting:
            self._caption_waiting()

    def _caption_waiting(self) -> None:
        captions = caption_batch(self.model, [*self.waiting.values()], self.settings.options)
        for clip, caption in zip(self.waiting, captions, strict=True):
            self.captions[clip] = caption
            self.settings.put(self._key(clip), caption)
        self.waiting.clear()

    def _key(self, clip: Clip) -> list[Any]:
        return ["caption", clip.key, asdict(self.settings.options)]

    def depends_on(self) -> dict[str, Any]:
        """Return the tokenization of the metrics and the decoding options."""
        return {"tokenizer": self.settings.tokenizer, "decoding": asdict(self.settings.options)}

    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Compare each caption with all of the video's own."""
        captions, references = [self.captions[clip] for clip in clips], [self.targets[clip] for clip in clips]
        return metrics_of(len(clips), caption_scores(captions, references, self.tokenize))

    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the caption."""
        return {"caption": self.captions[clip]} if entry.captions else {}
