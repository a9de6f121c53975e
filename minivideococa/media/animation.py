"""Animated GIF, APNG, WebP and AVIF files: the duration and the pixels of each frame.

Pillow decodes them. imageio returns no durations without decoding all frames, its GIF reader changes a global
setting of Pillow, and it does not composite frames as the GIF and APNG specifications require.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any  # Any: Pillow's format plugins add attributes to an image

import numpy as np
from numpy.typing import NDArray

from .rgb import to_rgb

if TYPE_CHECKING:
    from PIL import Image

ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")  # Pillow's names of the formats


def frame_durations(image: Any, positions: list[int]) -> list[float]:
    """Return the duration of each frame in milliseconds; 10 ms or less become 100 ms, as in browsers.

    This decodes every frame, since Pillow reads a frame's duration only then. Use an image opened for this
    call: Pillow may lose the palette of a frame that it decodes a second time.
    """
    durations = []
    for position in positions:
        _seek(image, position)
        image.load()
        duration = image.info.get("duration", 0)
        durations.append(duration if duration > 10 else 100)
    return durations


def animation_frames(
    image: Any, positions: list[int], indices: list[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, frame uint8 `[H, W, 3]`) for the sorted `indices` into `positions`."""
    if image.format in ("GIF", "PNG"):
        for index, canvas in enumerate(_canvases(image, positions[: indices[-1] + 1])):
            if index in indices:
                yield index, to_rgb(canvas)
        return
    for index in indices:
        image.seek(positions[index])
        yield index, to_rgb(image)


def _seek(image: Any, position: int) -> None:
    """Seek the first frame or the one after the current frame.

    The state of a GIF's decoder is cleared first, so that Pillow draws the frame alone on a transparent
    canvas. Raises ValueError, before the frame is decoded, if it is larger than those before.
    """
    from PIL import Image

    if image.format == "GIF" and position > 0:
        image.im, image._mode = Image.new("RGBA", image.size).im, "RGBA"
        image.dispose, image.disposal_method = None, 0
    before = image.size
    image.seek(position)
    if image.size != before:
        sizes = [f"{width} x {height}" for width, height in (image.size, before)]
        raise ValueError(f"frame {position + 1} is {sizes[0]}, the first one {sizes[1]}")


def _canvases(image: Any, positions: list[int]) -> Iterator[Image.Image]:
    """Yield the RGBA canvas after each frame of a GIF or an APNG.

    Pillow's own compositing is wrong where an APNG blends semi-transparent frames and where a GIF clears
    pixels.
    """
    from PIL import Image

    canvas = Image.new("RGBA", image.size)
    canvas.info = dict(image.info)  # includes the orientation
    for position in positions:
        _seek(image, position)
        box, blend, disposal = _frame_control(image)
        frame = Image.fromarray(to_rgb(image)) if image.mode.startswith("I") else image
        part, before = frame.crop(box).convert("RGBA"), canvas.copy() if disposal == 2 else None
        if blend:
            canvas.alpha_composite(part, box[:2])
        else:
            canvas.paste(part, box)
        yield canvas
        if disposal == 1:
            canvas.paste((0, 0, 0, 0), box)
        elif before:
            canvas = before


def _frame_control(image: Any) -> tuple[tuple[int, int, int, int], bool, int]:
    """Return the frame's box, whether it is blended over the canvas, and its disposal.

    Disposals are numbered as in APNG: 0 keeps the canvas, 1 clears the box, 2 restores the canvas before the
    frame.
    """
    if image.format == "GIF":
        return image.dispose_extent, True, image.disposal_method - 1
    image.blend_op = 0  # Pillow then leaves the frame's own pixels in its box
    return image.info["bbox"], bool(image.info["blend"]), image.info["disposal"]
