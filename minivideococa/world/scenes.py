"""Still images: up to three coloured shapes on an unobtrusive background, 64 x 64 pixels."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model.config import Array

T = TypeVar("T")
SIZE = 64  # pixels, width and height
RADII = {"small": (7.0, 9.0), "large": (12.5, 16.0)}  # ranges, pixels
COUNTS = {0: 0.04, 1: 0.36, 2: 0.38, 3: 0.22}  # number of objects -> probability
MAX_TILT = np.radians(30)
SUPERSAMPLING = 6  # masks are drawn larger by this factor, then averaged down

# hue in degrees, its jitter, and the ranges of saturation and value; far enough apart to be told apart by
# people
COLOURS = {
    "red": (0, 7, (0.80, 1.00), (0.70, 0.95)),
    "orange": (28, 6, (0.85, 1.00), (0.90, 1.00)),
    "yellow": (55, 6, (0.75, 1.00), (0.90, 1.00)),
    "green": (122, 18, (0.65, 1.00), (0.45, 0.75)),
    "cyan": (184, 8, (0.70, 1.00), (0.80, 1.00)),
    "blue": (226, 12, (0.75, 1.00), (0.60, 0.95)),
    "purple": (278, 10, (0.60, 0.95), (0.45, 0.70)),
    "pink": (330, 10, (0.35, 0.60), (0.95, 1.00)),
}


@dataclass(frozen=True)
class Object:
    """A shape in an image. Lengths are in pixels, `angle` is in radians, `rgb` in 0..1."""

    shape: str
    colour: str
    rgb: tuple[float, float, float]
    x: float
    y: float
    radius: float
    angle: float

    @property
    def name(self) -> tuple[str, str]:
        """The colour and the shape, which a caption has to name."""
        return self.colour, self.shape

    @property
    def size(self) -> str | None:
        """The word "small" or "large"; None in between, where people would disagree."""
        if self.radius <= RADII["small"][1]:
            return "small"
        return "large" if self.radius >= RADII["large"][0] else None

    @property
    def area(self) -> float:
        """The area of its outline without its holes, in square pixels."""
        areas = [_polygon_area(outline) for outline in SHAPES[self.shape]]
        return self.radius**2 * (sum(areas[::2]) - sum(areas[1::2]))


def _polygon_area(points: Array) -> float:
    """Return the area of a polygon `[K, 2]` by the shoelace formula."""
    x, y = points.T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _circle(radius: float = 1.0, x: float = 0.0) -> Array:
    """Return the outline of a circle with its centre at (x, 0): `[48, 2]`."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([x + radius * np.cos(t), radius * np.sin(t)], axis=1)


def _rays(*radii: float, points: int) -> Array:
    """Return an outline with corners at equal angles, the first on top: `[points, 2]`. The radii repeat."""
    t = np.arange(points) * 2 * np.pi / points - np.pi / 2
    r = np.resize(radii, points)
    return np.stack([r * np.cos(t), r * np.sin(t)], axis=1)


def _heart() -> Array:
    """Return the outline of a heart: `[48, 2]`."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2], axis=1) / 16


def _crescent() -> Array:
    """Return the outline of a crescent: a circle minus a smaller one to its right, `[K, 2]`."""
    outer, inner = _circle(), _circle(0.85, 0.55)
    return np.concatenate(
        [
            outer[np.hypot(outer[:, 0] - 0.55, outer[:, 1]) >= 0.85],
            inner[np.hypot(inner[:, 0], inner[:, 1]) <= 1][::-1],
        ]
    )


# shape -> outlines [K, 2] in units of the radius, the y axis pointing down; every second outline is a hole
SHAPES: dict[str, list[Array]] = {
    "circle": [_circle(0.95)],
    "square": [_rays(1.15, points=4) @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2)],
    "triangle": [_rays(1.15, points=3) + [0, 0.15]],
    "star": [_rays(1.15, 0.47, points=10)],
    "heart": [_heart()],
    "cross": [
        np.array(
            [
                [-1, -3],
                [1, -3],
                [1, -1],
                [3, -1],
                [3, 1],
                [1, 1],
                [1, 3],
                [-1, 3],
                [-1, 1],
                [-3, 1],
                [-3, -1],
                [-1, -1],
            ]
        )
        / 3.0
    ],
    "ring": [_circle(), _circle(0.55)],
    "diamond": [_rays(1.15, 0.72, points=4)],
    "crescent": [_crescent()],
    "arrow": [
        np.array([[-1, -0.3], [0.1, -0.3], [0.1, -0.85], [1.05, 0], [0.1, 0.85], [0.1, 0.3], [-1, 0.3]])
    ],
}

NAMES = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
BACKGROUNDS = ("plain", "graded", "grain", "clouds")


@dataclass(frozen=True)
class Composition:
    """What objects, backgrounds and movements are drawn from, each with the same probability.

    `names` are pairs of a colour and a shape, `radii` ranges in pixels; `speed` is the most pixels that an
    object moves over a whole clip.
    """

    names: tuple[tuple[str, str], ...] = NAMES
    radii: tuple[tuple[float, float], ...] = tuple(RADII.values())
    backgrounds: tuple[str, ...] = BACKGROUNDS
    speed: float = 20


EVERYTHING = Composition()


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """Return one of the options, each with the same probability."""
    return options[int(rng.integers(len(options)))]


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Return the RGB colour in 0..1 of a hue in degrees, a saturation and a value in 0..1."""
    return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


def sample_background(rng: np.random.Generator, kinds: Sequence[str] = BACKGROUNDS) -> NDArray[np.float32]:
    """Return a background of low saturation, of one of the `kinds`: float32 `[64, 64, 3]`, 0..1."""
    kind = pick(kinds, rng)
    hue, value = rng.uniform(0, 360), rng.uniform(0.1, 1.0)
    base = np.array(_rgb(hue, rng.uniform(0, 0.28), value), np.float32)
    if kind == "plain":
        return np.broadcast_to(base, (SIZE, SIZE, 3)).copy()
    if kind == "graded":
        other = np.array(_rgb(hue, rng.uniform(0, 0.28), rng.uniform(0.1, 1.0)), np.float32)
        t, axis = rng.uniform(0, 2 * np.pi), np.linspace(-0.5, 0.5, SIZE, dtype=np.float32)
        ramp = np.clip(0.5 + np.cos(t) * axis[None] + np.sin(t) * axis[:, None], 0, 1)[..., None]
        return np.asarray(base + ramp * (other - base), np.float32)
    cells = SIZE if kind == "grain" else 8
    noise = rng.standard_normal((cells, cells, 1), dtype=np.float32)
    if kind == "clouds":
        noise = _enlarge(noise, SIZE // cells)
    return np.asarray(np.clip(base + np.float32(rng.uniform(0.03, 0.12)) * noise, 0, 1))


def _enlarge(coarse: Array, factor: int) -> Array:
    """Interpolate `[n, n, 1]` bilinearly to `[n * factor, n * factor, 1]`, wrapping around at the edges."""
    for axis in (0, 1):
        t = np.arange(coarse.shape[axis] * factor, dtype=np.float32) % factor / factor
        t = t.reshape(-1, 1, 1) if axis == 0 else t.reshape(1, -1, 1)
        current = coarse.repeat(factor, axis)
        following = np.roll(coarse, -1, axis).repeat(factor, axis)
        coarse = current + t * (following - current)
    return coarse


def sample_object(
    rng: np.random.Generator, taken: tuple[Object, ...] = (), composition: Composition = EVERYTHING
) -> Object:
    """Return an object at a random place. No object in `taken` has the same colour and shape."""
    while True:
        colour, shape = pick(tuple(COLOURS), rng), pick(tuple(SHAPES), rng)
        if (colour, shape) in composition.names and (colour, shape) not in [o.name for o in taken]:
            break
    hue, jitter, saturation, value = COLOURS[colour]
    radius = rng.uniform(*pick(composition.radii, rng))
    x, y = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    rgb = _rgb(hue + rng.uniform(-jitter, jitter), rng.uniform(*saturation), rng.uniform(*value))
    return Object(shape, colour, rgb, x, y, radius, rng.uniform(-MAX_TILT, MAX_TILT))


def overlap(a: Object, b: Object) -> bool:
    """Tell whether the circles of two objects are less than two pixels apart.

    Corners extend beyond them by 15 %.
    """
    return bool(np.hypot(a.x - b.x, a.y - b.y) < a.radius + b.radius + 2)


def sample_objects(
    rng: np.random.Generator, count: int | None = None, composition: Composition = EVERYTHING
) -> tuple[Object, ...]:
    """Return `count` different objects that do not overlap; by default 0 to 3, as COUNTS says."""
    if count is None:
        count = int(rng.choice(list(COUNTS), p=list(COUNTS.values())))
    while True:  # start again if there is no room for the last object
        objects: tuple[Object, ...] = ()
        for _ in range(20 * count):
            if len(objects) == count:
                break
            new = sample_object(rng, objects, composition)
            if not any(overlap(new, o) for o in objects):
                objects += (new,)
        if len(objects) == count:
            return objects


def farther(objects: tuple[Object, ...], rng: np.random.Generator) -> tuple[Object, ...]:
    """Return the objects as if each were up to twice as far away: its radius times a number from 0.5 to 1."""
    return tuple(replace(o, radius=o.radius * rng.uniform(0.5, 1)) for o in objects)


def draw(objects: tuple[Object, ...], background: Array) -> NDArray[np.uint8]:
    """Draw objects, anti-aliased, on a background float `[64, 64, 3]` in 0..1: uint8 `[64, 64, 3]`."""
    image = background.copy()
    for o in objects:
        left, top = int(o.x - o.radius * 1.2) - 1, int(o.y - o.radius * 1.2) - 1
        mask = _mask(o, left, top)
        rows = slice(max(top, 0), min(top + mask.shape[0], SIZE))
        columns = slice(max(left, 0), min(left + mask.shape[1], SIZE))
        mask = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left, None]
        image[rows, columns] += mask * (np.array(o.rgb, np.float32) - image[rows, columns])
    return np.asarray(np.rint(image * 255), np.uint8)


def _mask(o: Object, left: int, top: int) -> NDArray[np.float32]:
    """Return the coverage of each pixel in the box with this upper left corner: float32 `[n, n]` in 0..1."""
    from PIL import Image, ImageDraw

    n = int(2.4 * o.radius) + 4
    canvas = Image.new("L", (n * SUPERSAMPLING, n * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    cos, sin = np.cos(o.angle), np.sin(o.angle)
    for i, outline in enumerate(SHAPES[o.shape]):
        points = outline @ np.array([[cos, sin], [-sin, cos]]) * o.radius + (o.x - left, o.y - top)
        pen.polygon((points * SUPERSAMPLING).ravel().tolist(), fill=0 if i % 2 else 255)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / np.float32(255)
