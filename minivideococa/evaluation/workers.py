"""Encode the videos of an evaluation one after another here, or on the workers of a cluster.

A worker also generates what the tasks need of a video (captions, answers); the rest is done here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import model_hash
from ..cluster import Cluster, map_in_order
from ..model.config import Video
from ..model.videococa import VideoCoCa
from .tasks import Clip, Settings, Task

Encode = Callable[[Clip, Settings], Video | None]  # sets the clip's key and latent, or why it is unreadable


class Work(NamedTuple):
    """What a worker is given for a video, which it reads at `clip.path` in its own file system."""

    clip: Clip
    tasks: list[type[Task]]
    encode: Encode


def encode_each(
    clips: Collection[Clip],
    tasks: Sequence[Task],
    settings: Settings,
    encode: Encode,
    cluster: Cluster | None,
) -> Iterator[tuple[Clip, Video | None]]:
    """Yield each clip with its encoded video, in order; None if it cannot be read.

    Until the next clip, `settings` also finds what a worker has generated for these tasks. Raises as `encode`
    and `map_in_order`; ValueError if a worker has another model or version.
    """
    if cluster is None:
        yield from ((clip, encode(clip, settings)) for clip in clips)
        return
    works = (
        Work(replace(clip, path=_absolute(clip.path)), [type(x) for x in tasks if clip in x.targets], encode)
        for clip in clips
    )
    unloaded = replace(settings, cache=settings.cache and _absolute(settings.cache))
    unloaded.model = None  # type: ignore[assignment]  # until `_load`
    load = cluster.with_check(model_hash, settings.model_key).load
    load = partial(_load, load, unloaded, settings.model_key)
    done = map_in_order(Cluster(cluster.scheduler, load), _work, works)
    for clip, (theirs, video, found) in zip(clips, done, strict=True):
        clip.key, clip.latent, settings.found = theirs.key, theirs.latent, found
        if theirs.unreadable:
            clip.unreadable = theirs.unreadable.replace(str(theirs.path), str(clip.path))
        yield clip, video
    settings.found = None


def _absolute(path: Path) -> Path:
    """Return a path for another working directory, symbolic links as they are."""
    return Path(os.path.abspath(path))


# In the workers


def _load(load: Callable[[], VideoCoCa], unloaded: Settings, model_key: str) -> Settings:
    """Return the settings with the model, whose hash is known."""
    settings = replace(unloaded, model=load())
    settings.model_key = model_key
    return settings


def _work(settings: Settings, work: Work) -> tuple[Clip, Video | None, dict[str, Any]]:
    """Return the clip, its encoded video, and what was generated for it, by the keys of the cache."""
    clip, found = work.clip, dict[str, Any]()
    settings = copy(settings)  # with the model's hash; a worker may have several threads
    settings.found = found
    video = work.encode(clip, settings)
    if video is not None:
        for task in work.tasks:
            task(settings, [clip]).generate(clip, video)
    return clip, video, found
