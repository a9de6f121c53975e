"""Zero-shot video classification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...model.config import Array
from ...model.ops import softmax
from ...progress import Progress
from ...tasks import TEMPLATES, best_first, cosine, label_sentences, latents_in_parts
from ..manifest import Entry
from ..metrics import mean_average_precision, ranks, recall
from .task import Clip, Metrics, Task, finite_latents, latent_matrix, metrics_of, targets_among


class Classify(Task):
    """Zero-shot classification: the labels of all entries are the classes.

    Top-1 and top-5 accuracy, or mean average precision if a video has several labels.
    """

    name = "classify"
    needs = '"label" or "labels"'
    compares_latents = True

    @staticmethod
    def targets_of(entry: Entry) -> Sequence[str]:
        """Return the labels."""
        return entry.labels

    def check(self) -> None:
        """Raise ValueError for a template without a place for the label."""
        self.labels: list[str] = sorted({label for labels in self.targets.values() for label in labels})
        self.sentences = label_sentences(self.labels, self.settings.templates)
        # the five most probable labels of each clip, the best first
        self.ranking: dict[Clip, list[tuple[str, float]]] = {}

    @property
    def texts(self) -> list[str]:
        """The sentences of the labels."""
        return [text for sentences in self.sentences for text in sentences]

    def prepare(self, progress: Progress) -> None:
        """Encode the labels, in batches that are cached."""
        with progress(len(self.texts), "labels") as update:
            self.latents = latents_in_parts(self.model, self.sentences, self._cached, update)  # [labels, E]

    def _cached(self, sentences: list[Sequence[str]], compute: Callable[[], Array]) -> Array:
        latents: Array = self.settings.cached(
            ["labels", self.settings.model_key, sentences], lambda: finite_latents(compute(), sentences)
        )
        return latents

    def depends_on(self) -> dict[str, Any]:
        """Return the templates."""
        return {"templates": list(self.settings.templates or TEMPLATES)}

    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Rank the labels of each video by probability, and compute the metrics from cosines.

        A softmax would change the order of the videos for a label, and make equal what it rounds to 0.
        """
        # [videos, labels]
        cosines = np.array([cosine(self.latents, latent) for latent in latent_matrix(clips)])
        for clip, probabilities in zip(clips, softmax(self.model.logit_scale * cosines), strict=True):
            best = best_first(probabilities)[:5]
            self.ranking[clip] = [(self.labels[i], float(probabilities[i])) for i in best]
        correct = targets_among(self.labels, [self.targets[clip] for clip in clips])
        if any(len(labels) > 1 for labels in self.targets.values()):
            return metrics_of(len(clips), {"mAP": mean_average_precision(cosines, correct)})
        label_ranks = ranks(cosines, correct)
        return metrics_of(len(clips), {f"top-{k}": recall(label_ranks, k) for k in (1, 5)})

    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the five most probable labels."""
        if not entry.labels:
            return {}
        return {"labels": [{"label": label, "probability": p} for label, p in self.ranking[clip]]}
