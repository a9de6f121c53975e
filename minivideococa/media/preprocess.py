"""Preprocessing: from the frames of a video to the pixels for the image encoder.

Each frame is resized, cropped or padded to a square and normalized, bit for bit as in open_clip's
`image_transform` for inference.
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..model.config import describe
from ..model.hooks import replaceable
from ..resources import require_memory
from .rgb import to_rgb

if TYPE_CHECKING:
    from PIL import Image

    from ..model.config import PreprocessConfig

LARGE = 2**26  # pixels of a resized frame: above, only the part that the crop keeps is resized


@replaceable
def preprocess(
    frames: NDArray[np.uint8] | list[Any] | tuple[Any, ...], config: PreprocessConfig
) -> NDArray[np.float32]:
    """Resize, crop or pad, and normalize frames: uint8 [T, H, W, 3] (0..255) -> float32 [T, 3, S, S].

    `frames` may be a list, see `as_frames`. S, the interpolation, the mean and the standard deviation of each
    channel are fields of `config`.

    Raises ValueError for frames of another dtype or shape, and for more frames than fit into memory.
    """
    frames = as_frames("frames", frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with values 0..255, not {frames.dtype} {list(frames.shape)}; "
            "convert floats in 0..1 with (frames * 255).round().astype(np.uint8), "
            "and pass one image as image[None]"
        )
    S = config.size
    require_memory(len(frames) * 3 * S * S * 4, f"preprocessing {len(frames)} frames", "give fewer frames")
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (config.mean, config.std))
    pixels = np.empty((len(frames), 3, S, S), np.float32)
    for t, frame in enumerate(frames):
        if t > 0 and _equal(frame, frames[t - 1]):  # a still image, or a clip of fewer than T frames
            pixels[t] = pixels[t - 1]
        else:
            square = _resize_and_center(frame, config).transpose(2, 0, 1)  # [3, S, S]
            pixels[t] = (square.astype(np.float32) / 255 - mean) / std
    return pixels


def square_frames(frames: NDArray[np.uint8], config: PreprocessConfig) -> NDArray[np.uint8]:
    """Resize and crop or pad frames, the first half of `preprocess`: uint8 [T, H, W, 3] -> [T, S, S, 3].

    `preprocess` of the result gives the pixels of the frames bit for bit, because a square of the right size
    stays as it is. It takes a quarter of the memory of these pixels.
    """
    return np.stack([_resize_and_center(frame, config) for frame in frames])


def as_frames(name: str, values: Any) -> NDArray[np.uint8]:
    """Stack a list of arrays or PIL images of one size to frames [T, H, W, 3]; return an array as it is.

    PIL images are converted to RGB as in the table of `rgb.py`. `preprocess` checks the dtype and the shape
    of an array. Raises ValueError for anything else and for frames of different sizes; `name` names the
    argument in its message.
    """
    if isinstance(values, np.ndarray):
        return values
    if not isinstance(values, list | tuple) or len(values) == 0:
        raise ValueError(
            f"{name} must be a path, frames uint8 [T, H, W, 3], or a list of frames or PIL images of one "
            f"size, not {describe(values)}"
        )
    frames = [_as_frame(f"{name}[{i}]", value) for i, value in enumerate(values)]
    for i, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise ValueError(
                f"{name}[{i}] is {frame.shape[1]} x {frame.shape[0]}, and {name}[0] is "
                f"{frames[0].shape[1]} x {frames[0].shape[0]}: give frames of one size"
            )
    return np.stack(frames)


def _as_frame(name: str, value: Any) -> NDArray[np.uint8]:
    """Return one frame, an array or a PIL image, as uint8 [H, W, 3]. Raises ValueError."""
    if hasattr(value, "convert"):  # a PIL image
        try:
            value = to_rgb(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not isinstance(value, np.ndarray):
        raise ValueError(
            f"{name} is {describe(value)}: a list holds the frames of one video, as arrays or PIL "
            "images; give one path, or encode several videos one at a time"
        )
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise ValueError(f"{name} is {value.dtype} {list(value.shape)}: give frames uint8 [H, W, 3]")
    return value


def _equal(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    middle = len(frame) // 2  # one row tells most frames apart
    return np.array_equal(frame[middle], other[middle]) and np.array_equal(frame, other)


def _resize_and_center(frame: NDArray[np.uint8], config: PreprocessConfig) -> NDArray[np.uint8]:
    """Resize a frame, then crop or pad it to a square: uint8 [H, W, 3] -> [S, S, 3]."""
    from PIL import Image

    S, resample = config.size, Image.Resampling[config.interpolation.upper()]
    height, width = _resized(frame.shape[0], frame.shape[1], S, config.resize_mode)
    if height * width > LARGE:
        image = _resize_middle(frame, height, width, S, resample)
    else:  # Pillow resizes and rounds in uint8; the pretrained encoders were trained on exactly these values
        image = np.asarray(Image.fromarray(frame).resize((width, height), resample))
    return _centered(image, S, config.fill_color)


def _resized(height: int, width: int, size: int, mode: str) -> tuple[int, int]:
    """Return the (height, width) to which a frame is resized before it is cropped or padded to a square."""
    if mode == "squash":
        return size, size
    if mode == "shortest":
        short, long = sorted((height, width))
        new_long = int(size * long / short)
        return (size, new_long) if height <= width else (new_long, size)
    # "longest". A frame so narrow that no pixel would be left keeps one; open_clip fails there.
    ratio = max(height / size, width / size)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize_middle(
    frame: NDArray[np.uint8], height: int, width: int, size: int, resample: Image.Resampling
) -> NDArray[np.uint8]:
    """Resize to [height, width], but only the middle: uint8 [H, W, 3] -> [<= size, <= size, 3].

    The middle is the part that `_centered` keeps. Resizing the shortest side of a 1 x 1,000,000 frame to 224
    would take 150 GB. Where one side keeps its length, the result is within 1 of 255 levels of the full
    resize. Where both change, high contrast can differ more. This path is taken only beyond an aspect ratio
    of about 1300 at S = 224.
    """
    from PIL import Image

    cut, box, shape = [], [], []
    for old, new in zip(frame.shape[:2], (height, width), strict=True):
        scale, kept = old / new, min(new, size)
        start = max(0, round((new - size) / 2)) * scale  # in pixels of the frame
        # The support of the bicubic filter is 2 pixels of the larger scale to each side.
        margin = 2 + ceil(2 * max(1, scale))
        first, last = max(0, floor(start) - margin), ceil(start + kept * scale) + margin
        cut.append(slice(first, last))
        box.append((start - first, start - first + kept * scale))
        shape.append(kept)
    (top, bottom), (left, right) = box
    middle = Image.fromarray(np.ascontiguousarray(frame[cut[0], cut[1]]))
    return np.asarray(middle.resize((shape[1], shape[0]), resample, box=(left, top, right, bottom)))


def _centered(image: NDArray[np.uint8], size: int, fill: int) -> NDArray[np.uint8]:
    """Crop the longer sides and pad the shorter ones: uint8 [h, w, 3] -> [size, size, 3]."""
    top, left = (max(0, round((side - size) / 2)) for side in image.shape[:2])
    image = image[top : top + size, left : left + size]
    height, width = image.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    square = np.full((size, size, 3), fill, np.uint8)
    square[top : top + height, left : left + width] = image
    return square
