"""Videos of the world: the same shapes, moving and turning, in some sets growing or not always there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .captions import caption
from .scenes import (
    MAX_TILT,
    RADII,
    SIZE,
    Object,
    draw,
    overlap,
    pick,
    sample_background,
    sample_object,
    sample_objects,
)

# what a set shows, over the length of a clip:
CLIP_SETS = {
    "single": "one object, always visible",
    "brief": "one object, visible for 2 or 3 of 8 frames",
    "pair": "two objects, always visible",
    "split": "one object in the first half, another in the second",
    "mixed": "one to three objects, always visible",
    "grow": "one or two objects, always visible, growing or shrinking",
}
SPEED = 20  # pixels, at most, over a whole clip
GROWTH = (1.25, 2)  # the larger radius of an object that grows or shrinks, over the smaller


@dataclass(frozen=True)
class Clip:
    """`first` and `last` hold the objects as they begin and end; `visible` bool [objects, frames]."""

    first: tuple[Object, ...]
    last: tuple[Object, ...]
    visible: np.ndarray
    background: np.ndarray

    @property
    def names(self) -> set[tuple[str, str]]:
        """The (colour, shape) of everything that appears."""
        return {o.name for o in self.first}

    @property
    def moments(self) -> list[tuple[Object, ...]]:
        """For each frame all the objects as they are then, visible or not."""
        return _moments(self.first, self.last, self.visible.shape[1])


def _moments(first: tuple[Object, ...], last: tuple[Object, ...], frames: int) -> list[tuple[Object, ...]]:
    return [
        tuple(_between(a, b, t) for a, b in zip(first, last, strict=True)) for t in np.linspace(0, 1, frames)
    ]


def _between(a: Object, b: Object, t: float) -> Object:
    """The object at time t in 0..1 on its way from a to b."""
    x, y, radius, angle = (
        p + t * (q - p) for p, q in ((a.x, b.x), (a.y, b.y), (a.radius, b.radius), (a.angle, b.angle))
    )
    return replace(a, x=x, y=y, radius=radius, angle=angle)


def _collide(moments: list[tuple[Object, ...]]) -> bool:
    return any(overlap(a, b) for now in moments for i, a in enumerate(now) for b in now[:i])


def _elsewhere(o: Object, rng: np.random.Generator) -> Object:
    """The same object, up to SPEED pixels and MAX_TILT away."""
    low, high = o.radius + 1, SIZE - o.radius - 1
    x, y = np.clip((o.x, o.y) + rng.uniform(-SPEED, SPEED, 2) / np.sqrt(2), low, high)
    return replace(o, x=float(x), y=float(y), angle=rng.uniform(-MAX_TILT, MAX_TILT))


def _resized(o: Object, rng: np.random.Generator) -> Object:
    """A small object grown or a large one shrunk, as GROWTH says; no larger or smaller than any on a still image."""
    growth = rng.uniform(*GROWTH)
    radius = o.radius * growth if o.size == "small" else o.radius / growth
    return replace(o, radius=float(np.clip(radius, RADII["small"][0], RADII["large"][1])))


def sample_clip(kind: str, rng: np.random.Generator, frames: int = 8) -> Clip:
    """A clip of one of the CLIP_SETS. Raises KeyError for any other kind."""
    counts = {
        "single": [1],
        "brief": [1],
        "pair": [2],
        "split": [2],
        "mixed": [1, 1, 2, 2, 3],
        "grow": [1, 2],
    }
    count = pick(counts[kind], rng)
    visible = np.ones((count, frames), bool)
    if kind == "split":  # never on stage together, so they may cross
        a = sample_object(rng)
        first = (a, sample_object(rng, (a,)))
        last = tuple(_elsewhere(o, rng) for o in first)
        visible[0, frames // 2 :] = visible[1, : frames // 2] = False
        return Clip(first, last, visible, sample_background(rng))
    while True:
        first = sample_objects(rng, count)
        last = tuple(_elsewhere(_resized(o, rng) if kind == "grow" else o, rng) for o in first)
        if not _collide(_moments(first, last, frames)):
            break
    if kind == "brief":
        length = max(1, int(rng.integers(2, 4)) * frames // 8)
        start = int(rng.integers(0, frames - length + 1))
        visible[:] = False
        visible[0, start : start + length] = True
    return Clip(first, last, visible, sample_background(rng))


def draw_clip(clip: Clip) -> np.ndarray:
    """The clip's frames: uint8 [T, 64, 64, 3]."""
    return np.stack(
        [
            draw(tuple(o for o, seen in zip(now, visible, strict=True) if seen), clip.background)
            for now, visible in zip(clip.moments, clip.visible.T, strict=True)
        ]
    )


def caption_throughout(clip: Clip, rng: np.random.Generator) -> str:
    """One of the many sentences of `caption` that are true from the clip's beginning to its end.

    It names a size that an object keeps, and where two stand if that never changes and they are seen together.
    """
    together = bool(clip.visible.all(axis=0).any())
    while True:  # the plainest sentence holds always, so there is an end
        chance = int(rng.integers(2**32))
        said = {caption(now, np.random.default_rng(chance), together) for now in clip.moments}
        if len(said) == 1:
            return said.pop()
