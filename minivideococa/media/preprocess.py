"""Preprocessing: the frames of a video -> the pixels that the image encoder takes.

Each frame is resized, cropped or padded to a square and normalized, bit for bit as open_clip's
`image_transform` does it for inference.
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model import arguments
from ..model.hooks import replaceable
from ..resources import require_memory

if TYPE_CHECKING:
    from PIL import Image

    from ..model.config import PreprocessConfig

LARGE = 2**26  # pixels of a resized frame: beyond, only the part that the crop keeps is resized


@replaceable
def preprocess(frames: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Resize, centre and normalize frames: uint8 [T, H, W, 3] (0..255) -> float32 [T, 3, S, S].

    Raises ValueError for anything but uint8 [T, H, W, 3], and for more frames than fit into memory.
    """
    from PIL import Image

    frames = as_frames("frames", frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with values 0..255, not {frames.dtype} {list(frames.shape)}; "
            "convert floats in 0..1 with (frames * 255).round().astype(np.uint8), and pass one image as image[None]"
        )
    S = config.size
    require_memory(len(frames) * 3 * S * S * 4, f"preprocessing {len(frames)} frames", "give fewer frames")
    height, width = _resized(frames.shape[1], frames.shape[2], S, config.resize_mode)
    resample = Image.Resampling[config.interpolation.upper()]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (config.mean, config.std))
    pixels = np.empty((len(frames), 3, S, S), np.float32)
    for t, frame in enumerate(frames):
        if t > 0 and _same(frame, frames[t - 1]):  # a still, or a clip of fewer than T frames
            pixels[t] = pixels[t - 1]
            continue
        # Pillow resizes and rounds in uint8: the pretrained encoders saw these very roundings.
        if height * width > LARGE:
            image = _resize_middle(frame, height, width, S, resample)
        else:
            image = np.asarray(Image.fromarray(frame).resize((width, height), resample))
        image = _centered(image, S, config.fill_color).transpose(2, 0, 1)
        pixels[t] = (image.astype(np.float32) / 255 - mean) / std
    return pixels


def _same(frame: np.ndarray, other: np.ndarray) -> bool:
    middle = len(frame) // 2  # tells most frames apart at once
    return np.array_equal(frame[middle], other[middle]) and np.array_equal(frame, other)


def as_frames(name: str, values: Any) -> np.ndarray:
    """Return the frames of a video, an array, or a list or tuple of arrays or PIL images of one size: [T, H, W, 3].

    PIL images become RGB as in the table of `images.py`. The dtype and the shape of arrays are left to `preprocess`.
    """
    from .images import to_rgb

    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list | tuple) or len(values) == 0:
        raise ValueError(
            f"{name} must be a path, frames uint8 [T, H, W, 3], or a list of frames or PIL images of one "
            f"size, not {arguments.what(values)}"
        )
    images = []
    for i, value in enumerate(values):
        if hasattr(value, "convert"):  # a PIL image
            try:
                value = to_rgb(value)
            except ValueError as error:
                raise ValueError(f"{name}[{i}]: {error}") from None
        if not isinstance(value, np.ndarray):
            raise ValueError(
                f"{name}[{i}] is {arguments.what(value)}: a list holds the frames of one video, as arrays or PIL "
                "images; give one path, or encode several videos one at a time"
            )
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
            raise ValueError(f"{name}[{i}] is {value.dtype} {list(value.shape)}: give frames uint8 [H, W, 3]")
        if images and value.shape != images[0].shape:
            raise ValueError(
                f"{name}[{i}] is {value.shape[1]} x {value.shape[0]}, and {name}[0] is "
                f"{images[0].shape[1]} x {images[0].shape[0]}: give frames of one size"
            )
        images.append(value)
    return np.stack(images)


def _resized(height: int, width: int, size: int, mode: str) -> tuple[int, int]:
    """The (height, width) that a frame is resized to before it is cropped or padded to [size, size]."""
    if mode == "squash":
        return size, size
    if mode == "shortest":
        short, long = sorted((height, width))
        new_long = int(size * long / short)
        return (size, new_long) if height <= width else (new_long, size)
    # "longest". A frame so narrow that it would vanish keeps one pixel; open_clip fails there.
    ratio = max(height / size, width / size)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize_middle(
    frame: np.ndarray, height: int, width: int, size: int, resample: Image.Resampling
) -> np.ndarray:
    """Resize to [height, width] only the middle that `_centered` keeps: uint8 [H, W, 3] -> [<= size, <= size, 3].

    Resizing the shortest side of a 1 x 1,000,000 frame to 224 would take 150 GB. Where one side keeps its length, the result
    is within 1 of 255 levels of the full resize. Where both change, high contrast can differ more. This path is taken
    only beyond an aspect ratio of about 1300 at S = 224.
    """
    from PIL import Image

    cut, box, shape = [], [], []
    for old, new in zip(frame.shape[:2], (height, width)):
        scale, kept = old / new, min(new, size)
        start = max(0, round((new - size) / 2)) * scale  # in pixels of the frame
        margin = 2 + ceil(
            2 * max(1, scale)
        )  # the bicubic filter reaches 2 pixels, of the larger scale, to each side
        first, last = max(0, floor(start) - margin), ceil(start + kept * scale) + margin
        cut.append(slice(first, last))
        box.append((start - first, start - first + kept * scale))
        shape.append(kept)
    (top, bottom), (left, right) = box
    middle = Image.fromarray(np.ascontiguousarray(frame[cut[0], cut[1]]))
    return np.asarray(middle.resize((shape[1], shape[0]), resample, box=(left, top, right, bottom)))


def _centered(image: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Crop what is larger and pad what is smaller: uint8 [h, w, 3] -> [size, size, 3]."""
    top, left = (max(0, round((side - size) / 2)) for side in image.shape[:2])
    image = image[top : top + size, left : left + size]
    height, width = image.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    square = np.full((size, size, 3), fill, np.uint8)
    square[top : top + height, left : left + width] = image
    return square
