"""Draws demo.gif, the README's picture: the demo's clips, and below each the caption that the model writes.

python assets/draw_demo.py               # some seconds
"""

import textwrap
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minivideococa.demo import CLIPS, run
from minivideococa.world import CLIP_SETS

FRAMES, MILLISECONDS, HOLD = 16, 150, 3000  # of a clip; per frame; of the last frame
SIDE, GAP = 128, 22
COLORS = 224
HEIGHT = 232
COLUMN, LINE = 23, 15  # characters of a line of text, pixels between lines
PAPER, INK, PALE, GREEN = (255, 255, 255), (30, 30, 30), (120, 120, 120), (20, 130, 60)


def main() -> None:
    clips = run()["clips"]
    videos = [iio.imread(CLIPS / clip["clip"], plugin="pillow", mode="RGB") for clip in clips]
    pictures = one_palette(np.stack([picture(clips, videos, t) for t in range(FRAMES)]))
    durations = [MILLISECONDS] * (FRAMES - 1) + [HOLD]
    path = Path(__file__).with_name("demo.gif")
    iio.imwrite(path, pictures, plugin="pillow", duration=durations, loop=0)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def picture(clips: list[dict], videos: list[np.ndarray], t: int) -> np.ndarray:
    """Return frame `t` of the animation, uint8 [H, W, 3]: one clip per column, its caption word by word."""
    image = Image.new("RGB", (len(clips) * (SIDE + GAP) + GAP, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    for column, (clip, video) in enumerate(zip(clips, videos, strict=True)):
        x = GAP + column * (SIDE + GAP)
        frame = Image.fromarray(video[min(t, len(video) - 1)]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        image.paste(frame, (x, GAP // 2))
        y = GAP // 2 + SIDE + 8
        y = write(draw, x, y, CLIP_SETS[clip["set"]], 11, PALE)
        words = clip["caption"].split()
        finished = t == FRAMES - 1
        shown = words if finished else words[: t * len(words) // (FRAMES - 2)]
        color = GREEN if finished and clip["caption_right"] else INK
        write(draw, x, y + 4, " ".join(shown), 12, color)
    return np.array(image)


def one_palette(pictures: np.ndarray) -> np.ndarray:
    """Reduce uint8 [T, H, W, 3] to COLORS colours in all, so that what stands still is stored once."""
    T, H, W, _ = pictures.shape
    flat = Image.fromarray(pictures.reshape(T * H, W, 3))
    flat = flat.quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
    return np.array(flat).reshape(T, H, W, 3)


def write(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, color: tuple[int, int, int]
) -> int:
    """Write a text in lines, and return where the next line begins."""
    for line in textwrap.wrap(text, COLUMN):
        draw.text((x, y), line, color, ImageFont.load_default(size))
        y += LINE
    return y


if __name__ == "__main__":
    main()
