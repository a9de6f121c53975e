"""Videos of the synthetic world: shapes that move and turn, and in some sets grow, appear or disappear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .captions import caption
from .scenes import (
    EVERYTHING,
    MAX_TILT,
    NAMES,
    RADII,
    SHAPES,
    SIZE,
    Composition,
    Object,
    draw,
    overlap,
    pick,
    sample_background,
    sample_object,
    sample_objects,
)

CLIP_SETS = {  # what the clips of a set show
    "single": "one object, always visible",
    "brief": "one object, visible for 2 or 3 of 8 frames",
    "pair": "two objects, always visible",
    "split": "one object in the first half, another in the second",
    "mixed": "one to three objects, always visible",
    "grow": "one or two objects, always visible, growing or shrinking",
}
QUESTION_SETS = {  # further sets, for questions
    "count": "none to three objects, always visible",
    "moment": "two objects: one always visible, one for 2 or 3 of 8 frames",
    "order": "one object in the first half, another, of another shape, in the second",
}
# pairs of a colour and a shape that training on questions never shows: two of each colour, a fifth of all
HELD_OUT = tuple(name for i, name in enumerate(NAMES) if (i % len(SHAPES) - i // len(SHAPES)) % 5 == 0)
# what clips with questions are drawn from; the test also has those pairs, medium sizes, clouds and more speed
SPLITS = {
    "train": Composition(
        names=tuple(name for name in NAMES if name not in HELD_OUT), backgrounds=("plain", "graded", "grain")
    ),
    "test": Composition(radii=((RADII["small"][0], RADII["large"][1]),), speed=28),
}
# least and greatest ratio of the larger to the smaller radius of an object that grows or shrinks
GROWTH = (1.25, 2)
OBJECT_COUNTS = {  # numbers of objects, each with the same probability
    "single": [1],
    "brief": [1],
    "pair": [2],
    "split": [2],
    "mixed": [1, 1, 2, 2, 3],
    "grow": [1, 2],
    "count": [0, 1, 2, 3],
    "moment": [2],
    "order": [2],
}


@dataclass(frozen=True)
class Clip:
    """A clip: its objects in the first and in the last frame, and when they are visible.

    `visible` is bool `[objects, frames]`, `background` float32 `[64, 64, 3]` in 0..1.
    """

    first: tuple[Object, ...]
    last: tuple[Object, ...]
    visible: NDArray[np.bool_]
    background: NDArray[np.float32]

    @property
    def names(self) -> set[tuple[str, str]]:
        """The (colour, shape) of every object that appears."""
        return {o.name for o in self.first}

    @property
    def trajectory(self) -> list[tuple[Object, ...]]:
        """The objects in each frame, visible or not."""
        return _trajectory(self.first, self.last, self.visible.shape[1])


def _trajectory(first: tuple[Object, ...], last: tuple[Object, ...], frames: int) -> list[tuple[Object, ...]]:
    """Return the objects in each frame, interpolated between the first and the last."""
    return [
        tuple(_interpolate(a, b, t) for a, b in zip(first, last, strict=True))
        for t in np.linspace(0, 1, frames)
    ]


def _interpolate(a: Object, b: Object, t: float) -> Object:
    """Return the object at time t in 0..1 on its way from a to b."""
    x, y, radius, angle = (
        p + t * (q - p) for p, q in ((a.x, b.x), (a.y, b.y), (a.radius, b.radius), (a.angle, b.angle))
    )
    return replace(a, x=x, y=y, radius=radius, angle=angle)


def _collide(trajectory: list[tuple[Object, ...]]) -> bool:
    """Tell whether two objects overlap in any frame."""
    return any(overlap(a, b) for objects in trajectory for i, a in enumerate(objects) for b in objects[:i])


def _move(o: Object, rng: np.random.Generator, speed: float) -> Object:
    """Return the object up to `speed` pixels away, with another angle."""
    low, high = o.radius + 1, SIZE - o.radius - 1
    x, y = np.clip((o.x, o.y) + rng.uniform(-speed, speed, 2) / np.sqrt(2), low, high)
    return replace(o, x=float(x), y=float(y), angle=rng.uniform(-MAX_TILT, MAX_TILT))


def _resized(o: Object, rng: np.random.Generator) -> Object:
    """Return a small object grown, or a large one shrunk, by a factor in GROWTH, within the usual radii."""
    growth = rng.uniform(*GROWTH)
    radius = o.radius * growth if o.size == "small" else o.radius / growth
    return replace(o, radius=float(np.clip(radius, RADII["small"][0], RADII["large"][1])))


def sample_clip(
    kind: str, rng: np.random.Generator, frames: int = 8, composition: Composition = EVERYTHING
) -> Clip:
    """Return a random clip of one of the CLIP_SETS or QUESTION_SETS. Raises KeyError for any other kind."""
    count = pick(OBJECT_COUNTS[kind], rng)
    if kind in ("split", "order"):
        return _sample_sequence(kind, rng, frames, composition)
    while True:
        first = sample_objects(rng, count, composition)
        moving = (_resized(o, rng) if kind == "grow" else o for o in first)
        last = tuple(_move(o, rng, composition.speed) for o in moving)
        if not _collide(_trajectory(first, last, frames)):
            break
    visible = np.ones((count, frames), bool)
    if kind in ("brief", "moment"):
        length = max(1, int(rng.integers(2, 4)) * frames // 8)
        start = int(rng.integers(0, frames - length + 1))
        which = int(rng.integers(count)) if count > 1 else 0
        visible[which] = False
        visible[which, start : start + length] = True
    return Clip(first, last, visible, sample_background(rng, composition.backgrounds))


def _sample_sequence(kind: str, rng: np.random.Generator, frames: int, composition: Composition) -> Clip:
    """Return a clip of "split" or "order": one object, then another. Their paths may cross."""
    a = sample_object(rng, (), composition)
    b = sample_object(rng, (a,), composition)
    while kind == "order" and a.shape == b.shape:
        b = sample_object(rng, (a,), composition)
    visible = np.ones((2, frames), bool)
    last = tuple(_move(o, rng, composition.speed) for o in (a, b))
    visible[0, frames // 2 :] = visible[1, : frames // 2] = False
    return Clip((a, b), last, visible, sample_background(rng, composition.backgrounds))


def draw_clip(clip: Clip) -> NDArray[np.uint8]:
    """Return the frames of a clip: uint8 `[T, 64, 64, 3]`."""
    return np.stack(
        [
            draw(tuple(o for o, shown in zip(objects, visible, strict=True) if shown), clip.background)
            for objects, visible in zip(clip.trajectory, clip.visible.T, strict=True)
        ]
    )


def caption_throughout(clip: Clip, rng: np.random.Generator) -> str:
    """Return a random sentence of `caption` that is true in every frame of a clip.

    It may name a size that an object keeps, and a relation that never changes if the objects are visible
    together.
    """
    together = bool(clip.visible.all(axis=0).any())
    while True:  # ends: the plain sentence is true in every frame
        seed = int(rng.integers(2**32))
        sentences = {caption(objects, np.random.default_rng(seed), together) for objects in clip.trajectory}
        if len(sentences) == 1:
            return sentences.pop()
