"""The interface of a task, and the videos and settings that tasks share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...cache import get_value, model_hash, put_value
from ...model.config import Array, Video
from ...model.generation import DecodingOptions
from ...model.videococa import VideoCoCa
from ...progress import Progress
from ..manifest import Entry

# metric -> {"value": ..., "items": number of videos, captions or questions}
Metrics = dict[str, dict[str, float]]


@dataclass(eq=False)
class Clip:
    """A video, or the part of one from `start` to `end` in seconds, and the entries about it."""

    path: Path  # as in the first entry
    start: float | None = None
    end: float | None = None
    entries: list[Entry] = field(default_factory=list)
    key: list[Any] = field(default_factory=list)  # of its encoding in the cache
    latent: Array | None = None  # [E], once it is encoded
    unreadable: str | None = None  # the reason, if it cannot be read


@dataclass(eq=False)
class Settings:
    """The arguments of `evaluate` that tasks use."""

    model: VideoCoCa
    options: DecodingOptions
    templates: list[str] | None
    answers: list[str] | None
    tokenizer: str
    cache: Path | None
    found: dict[str, Any] | None = None  # with a cluster: what a worker generated for the video in question

    @cached_property
    def model_key(self) -> str:
        """The hash that identifies the model."""
        return model_hash(self.model)

    def cached(self, key: list[Any], compute: Callable[[], Any]) -> Any:
        """Return the array or text that the cache holds for `key`, or else compute it and put it there."""
        if (value := self.get(key)) is None:
            value = compute()
            self.put(key, value)
        return value

    def get(self, key: list[Any]) -> Any:
        """Return the array or text that the cache holds for `key`; None if it holds none."""
        if self.found and (found := self.found.get(json.dumps(key))) is not None:
            return found
        return get_value(self.cache, key)

    def put(self, key: list[Any], value: Array | str) -> None:
        """Put an array or a text into the cache."""
        put_value(self.cache, key, value)
        if self.found is not None:
            self.found[json.dumps(key)] = value


class Task(ABC):
    """One task on the videos of a data set. The methods are called in the order in which they stand here.

    `targets` holds, for each video that has any, the ground truth of all its entries without duplicates.
    """

    name: ClassVar[str]
    needs: ClassVar[str]  # the fields that an entry must have, for messages
    compares_latents: ClassVar[bool] = False
    uses_training_videos: ClassVar[bool] = False

    @classmethod
    def missing_package(cls) -> str | None:
        """Return what installs a package that the task needs and that is missing, for a message."""
        return None

    @property
    def texts(self) -> list[str]:
        """The texts that the model encodes; after `check`."""
        return []

    @staticmethod
    @abstractmethod
    def targets_of(entry: Entry) -> Sequence[Any]:
        """Return the ground truth of an entry for this task, hashable values; empty if it has none."""

    def __init__(self, settings: Settings, clips: Collection[Clip]) -> None:
        self.settings, self.model = settings, settings.model
        self.targets: dict[Clip, list[Any]] = {}
        for clip in clips:
            if targets := dict.fromkeys(t for entry in clip.entries for t in self.targets_of(entry)):
                self.targets[clip] = list(targets)

    def check(self) -> None:  # noqa: B027
        """Raise ValueError if the task cannot be run with these settings and targets.

        No video has been read yet.
        """

    def prepare(self, progress: Progress) -> None:  # noqa: B027
        """Encode the texts that every video is compared with."""

    def see_training_video(self, video: Video) -> None:  # noqa: B027
        """Take in a video of the training set, for a baseline. Called if `uses_training_videos`."""

    def predict(self, clip: Clip, video: Video) -> None:  # noqa: B027
        """Generate what is to be generated for one video, at once or by `conclude`.

        Not called for videos without targets.
        """

    def generate(self, clip: Clip, video: Video) -> None:  # noqa: B027
        """Generate, into the cache, what `predict` looks up there for this video. A worker calls it alone."""

    def conclude(self, progress: Progress) -> None:  # noqa: B027
        """Generate what needs all videos, after the last one."""

    @abstractmethod
    def metrics(self, clips: Sequence[Clip]) -> Metrics:
        """Return the metrics over the videos that have targets and could be read; there is at least one."""

    def depends_on(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` that this task's results depend on, JSON values by name."""
        return {}

    def details(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Return what the report says beside the metrics of these videos, JSON values.

        "by_type" holds metrics of parts of the items, {type: Metrics}, and "note" a line of text.
        """
        return {}

    @abstractmethod
    def prediction(self, entry: Entry, clip: Clip) -> dict[str, Any]:
        """Return the fields that this task adds to the prediction for an entry of one of these videos."""


def metrics_of(items: int, values: dict[str, float]) -> Metrics:
    """Return metrics that are all taken over the same number of items."""
    return {name: {"value": value, "items": items} for name, value in values.items()}


def latent_matrix(clips: Sequence[Clip]) -> Array:
    """Return the latents of encoded videos: `[videos, E]`."""
    return np.stack([clip.latent for clip in clips if clip.latent is not None])


def targets_among(candidates: Sequence[str], targets: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Return which candidates are targets of each video: bool `[videos, candidates]`."""
    columns: dict[str, list[int]] = {}
    for column, candidate in enumerate(candidates):
        columns.setdefault(candidate, []).append(column)
    correct = np.zeros((len(targets), len(candidates)), bool)
    for row, texts in zip(correct, targets, strict=True):
        for text in texts:
            row[columns[text]] = True
    return correct


def finite_latents(latents: Array, sources: Sequence[Any]) -> Array:
    """Return the latents [n, E]. Raises ValueError, which names the source of the first that is not finite.

    No metric could be computed from it.
    """
    for latent, source in zip(latents, sources, strict=True):
        if not np.isfinite(latent).all():
            raise ValueError(f"the model's latent of {str(source)!r} is not finite: its weights are damaged")
    return latents
