"""Pictures of an explanation: a strip of frames for each word, and an animation of the text being written.

A map is drawn over a frame as a heat map: the frame paler and darker, and over it a colour, the more opaque
the more the patch counted. The scale is each word's own: full colour is its largest value in all frames, or
twice its median if the map is flat. A bar below a frame is the frame's share of the word's weight: a whole
frame wide for all of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..model.config import Array
from .explanation import Explanation

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

PAPER, INK, PALE, TRACK, BAR = (255, 255, 255), (30, 30, 30), (110, 110, 110), (230, 230, 230), (205, 75, 15)
GAP, LABEL, BAR_HEIGHT, NUMBER, LINE, LEAST_WIDTH = 6, 118, 4, 14, 24, 480  # pixels
WIDTH = 1400  # pixels, at most, of the frames of a strip; more frames go on in a row below
SIDES = (48, 128)  # pixels, the least and the greatest side of a frame in a picture
COLOURS, MILLISECONDS, HOLD = 256, 130, 3000  # of an animation: its palette, a picture, the last picture
FAINT = 0.06  # relevance up to which a place keeps its colour: an animation of noise would be large
STEPS = 3  # pictures per word of an animation, on the way from the map of the word before
# from the least to the greatest relevance, RGB: dark red, orange, yellow, white
HEAT = np.array([(60, 0, 30), (160, 20, 20), (235, 100, 10), (255, 190, 30), (255, 250, 200)], np.float32)


def figure(explanation: Explanation) -> Image.Image:
    """Draw a row for each word: the word, its probability, and its map over every frame.

    Below a frame is a bar: how much the frame counted for the word. The first row shows the frames.
    """
    rows = [i for i, word in enumerate(explanation.words) if word]
    image, draw, y = canvas(explanation, LABEL, len(rows) + 1)
    write(draw, (GAP, y), explanation.text.split(), None)
    y += text_height(explanation, image.width)
    strip(image, draw, (LABEL, y), explanation, explanation.frames)
    for i in rows:
        y += row_height(explanation)
        draw.text((GAP, y), explanation.words[i], INK, font(15))
        draw.text((GAP, y + 20), f"{explanation.probabilities[i]:.0%}", PALE, font(11))
        if is_flat(explanation.maps[i]):
            draw.text((GAP, y + 34), "a flat map", PALE, font(11))
        pictures = heated(explanation, explanation.maps[i])
        strip(image, draw, (LABEL, y), explanation, pictures, explanation.frame_weights[i])
    return image


def animation(explanation: Explanation) -> list[Image.Image]:
    """Draw the text as it is written: STEPS pictures for each word, in which the map moves to the word's.

    The last picture shows the whole text and the frames as they are.
    """
    maps, weights = (
        np.concatenate([np.zeros_like(x[:1]), x]) for x in (explanation.maps, explanation.frame_weights)
    )
    pictures = []
    for i in [i for i, word in enumerate(explanation.words) if word]:
        for step in range(1, STEPS + 1):
            shown, bars = (x[i] + (x[i + 1] - x[i]) * np.float32(step / STEPS) for x in (maps, weights))
            pictures.append(_moment(explanation, heated(explanation, shown), bars, i + 1))
    return [*pictures, _moment(explanation, explanation.frames)]


def _moment(
    explanation: Explanation, pictures: Any, bars: Array | None = None, written: int | None = None
) -> Image.Image:
    """Return a picture of an animation: the first words of the text, the last one marked, and the frames."""
    image, draw, y = canvas(explanation, GAP, 1)
    words = explanation.text.split() if written is None else list(explanation.words[:written])
    write(draw, (GAP, y), words, written)
    y += text_height(explanation, image.width)
    strip(image, draw, (GAP, y), explanation, pictures, bars)
    return image


def stack(pictures: Sequence[Image.Image], labels: Sequence[str] = ()) -> Image.Image:
    """Return pictures below each other as one, each under its label if there are labels."""
    from PIL import Image, ImageDraw

    titles = LINE * bool(labels)
    height = sum(picture.height + titles for picture in pictures)
    image = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    draw, y = ImageDraw.Draw(image), 0
    for i, picture in enumerate(pictures):
        if labels:
            draw.text((GAP, y + GAP), labels[i], PALE, font(13))
        image.paste(picture, (0, y + titles))
        y += picture.height + titles
    return image


def stack_animations(
    animations: Sequence[Sequence[Image.Image]], labels: Sequence[str] = ()
) -> list[Image.Image]:
    """Return animations below each other as one; the last picture of a shorter one stays."""
    length = max(map(len, animations))
    return [stack([x[min(i, len(x) - 1)] for x in animations], labels) for i in range(length)]


def write_gif(path: str | os.PathLike[str], pictures: Sequence[Image.Image]) -> None:
    """Write an animation that repeats, and holds its last picture for some seconds.

    All pictures share a palette and are not dithered, so what does not change from one to the next is stored
    once.
    """
    from PIL import Image

    sample = stack([*pictures[:: max(1, len(pictures) // 8)], pictures[-1]])
    palette = sample.quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # rare colours too: maps are small
    first, *rest = [x.quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures]
    durations = [MILLISECONDS] * len(rest) + [HOLD]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


def columns(explanation: Explanation) -> int:
    """Return the number of frames in a row of a strip, so that it is not wider than WIDTH."""
    T, most = len(explanation.frames), WIDTH // (SIDES[0] + GAP)
    return ceil(T / ceil(T / most))


def frame_side(explanation: Explanation) -> int:
    """Return the side in pixels of a frame in a picture."""
    return int(np.clip(WIDTH // columns(explanation) - GAP, *SIDES))


def row_height(explanation: Explanation) -> int:
    """Return the height of a strip of frames with its bars and numbers."""
    rows = ceil(len(explanation.frames) / columns(explanation))
    return rows * (frame_side(explanation) + BAR_HEIGHT + NUMBER + GAP) + GAP


def is_flat(maps: Array) -> bool:
    """Return whether most patches of a map have at least half of the largest relevance."""
    return bool(np.median(maps) >= maps.max() / 2)


def heated(explanation: Explanation, maps: Array) -> list[NDArray[np.uint8]]:
    """Return the frames with a map [T, rows, cols] over them: T arrays uint8 [S, S, 3]."""
    scale = max(maps.max(), 2 * np.median(maps)) or 1.0
    return [
        heat(frame, map_ / scale, explanation.patch_size)
        for frame, map_ in zip(explanation.frames, maps, strict=True)
    ]


def heat(frame: NDArray[np.uint8], relevance: Array, patch_size: int) -> NDArray[np.uint8]:
    """Return a frame [S, S, 3] with a relevance in 0..1 over its patches [rows, cols] as colours.

    Pixels beyond the last whole patch have no relevance: the model does not see them.
    """
    from PIL import Image

    S, seen = len(frame), len(relevance) * patch_size
    smooth = Image.fromarray(relevance.astype(np.float32)).resize((seen, seen), Image.Resampling.BICUBIC)
    opacity = np.zeros((S, S, 1), np.float32)
    opacity[:seen, :seen, 0] = np.clip((np.asarray(smooth) - FAINT) / (1 - FAINT), 0, 1)
    dull = 0.3 * frame + 0.35 * frame.mean(axis=-1, keepdims=True, dtype=np.float32) + 25
    place = opacity[..., 0] * (len(HEAT) - 1)
    channels = [np.interp(place, range(len(HEAT)), HEAT[:, c]) for c in range(3)]
    colour = np.stack(channels, axis=-1).astype(np.float32)
    opacity = np.minimum(1, 1.6 * opacity) * 0.85
    return np.asarray(dull + opacity * (colour - dull), np.uint8)


def canvas(explanation: Explanation, left: int, rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Return an image for `rows` strips from `left` on, with the question, and where the text begins."""
    from PIL import Image, ImageDraw

    width = max(left + columns(explanation) * (frame_side(explanation) + GAP), LEAST_WIDTH)
    y = GAP + (LINE if explanation.question else 0)
    height = y + text_height(explanation, width) + rows * row_height(explanation) + LINE
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    if explanation.question:
        draw.text((GAP, GAP), explanation.question, PALE, font(15))
    legend(image, draw, left)
    return image, draw, y


def legend(image: Image.Image, draw: ImageDraw.ImageDraw, left: int) -> None:
    """Draw, in the last line, the scale of colours over grey and what a bar is."""
    from PIL import Image

    y, middle = image.height - LINE + 4, image.height - LINE + 8
    scale = heat(np.full((100, 100, 3), 150, np.uint8), np.tile(np.linspace(0, 1, 100), (100, 1)), 1)[:9]
    draw.text((left, middle), "none", PALE, font(10), anchor="lm")
    image.paste(Image.fromarray(scale), (left + 30, y))
    draw.text((left + 136, middle), "most", PALE, font(10), anchor="lm")
    draw.rectangle((left + 180, y + 2, left + 204, y + 2 + BAR_HEIGHT), BAR)
    draw.text((left + 210, middle), "the frame's share", PALE, font(10), anchor="lm")


def text_height(explanation: Explanation, width: int) -> int:
    """Return the height of the text, however it is divided into words."""
    from PIL import Image, ImageDraw

    scratch = ImageDraw.Draw(Image.new("RGB", (width, 1)))
    texts = (explanation.text.split(), list(explanation.words))
    return max(write(scratch, (GAP, 0), words, None) for words in texts) + GAP


def write(draw: ImageDraw.ImageDraw, start: tuple[int, int], words: Sequence[str], marked: int | None) -> int:
    """Write words in lines, word number `marked` in colour, and return their height."""
    (x, y), width = start, draw.im.size[0]
    for number, word in enumerate(words, 1):
        length = round(draw.textlength(f"{word} ", font(17)))
        if x + length > width and x > start[0]:
            x, y = start[0], y + LINE
        draw.text((x, y), word, BAR if number == marked else INK, font(17))
        x += length
    return y + LINE - start[1]


def strip(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    start: tuple[int, int],
    explanation: Explanation,
    pictures: Any,
    bars: Array | None = None,
) -> None:
    """Draw pictures uint8 [S, S, 3] side by side, and below each its share of the `bars` and its number."""
    from PIL import Image

    side, width = frame_side(explanation), columns(explanation)
    for t, picture in enumerate(pictures):
        x = start[0] + t % width * (side + GAP)
        y = start[1] + t // width * (side + BAR_HEIGHT + NUMBER + GAP)
        image.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        if bars is not None:
            top = y + side + 2
            draw.rectangle((x, top, x + side - 1, top + BAR_HEIGHT), TRACK)
            if length := round(float(bars[t]) * side):
                draw.rectangle((x, top, x + length - 1, top + BAR_HEIGHT), BAR)
        draw.text((x, y + side + BAR_HEIGHT + 4), frame_name(explanation, t, side), PALE, font(10))


def frame_name(explanation: Explanation, t: int, width: int) -> str:
    """Return "3, 1.2 s", or "3" where the time is not known or takes more than `width` pixels."""
    if explanation.times is None:
        return f"{t + 1}"
    name = f"{t + 1}, {explanation.times[t]:.2f} s"
    return name if font(10).getlength(name) <= width else f"{t + 1}"


@cache
def font(size: int) -> Any:
    """Return Pillow's own font in this size, in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)
