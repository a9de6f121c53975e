"""Preprocessing: the frames of a video -> the pixels that the image encoder takes.

Each frame is resized, cropped or padded to a square and normalized, bit for bit as open_clip's
`image_transform` does it for inference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .checkpoint.config import PreprocessConfig


def preprocess(frames: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Resize, centre and normalize frames: uint8 [T, H, W, 3] (0..255) -> float32 [T, 3, S, S].

    Raises ValueError for anything but uint8 [T, H, W, 3].
    """
    from PIL import Image

    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with values 0..255, not {frames.dtype} {list(frames.shape)}; "
            "floats in 0..1 become so by (frames * 255).round().astype(np.uint8), one image by image[None]"
        )
    S = config.size
    height, width = _resized(frames.shape[1], frames.shape[2], S, config.resize_mode)
    resample = Image.Resampling[config.interpolation.upper()]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (config.mean, config.std))
    pixels = np.empty((len(frames), 3, S, S), np.float32)
    for frame, out in zip(frames, pixels):
        # Pillow resizes and rounds in uint8: the pretrained encoders saw these very roundings.
        image = np.asarray(Image.fromarray(frame).resize((width, height), resample))
        image = _centered(image, S, config.fill_color).transpose(2, 0, 1)
        out[:] = (image.astype(np.float32) / 255 - mean) / std
    return pixels


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


def _centered(image: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Crop what is larger and pad what is smaller: uint8 [h, w, 3] -> [size, size, 3]."""
    top, left = (max(0, round((side - size) / 2)) for side in image.shape[:2])
    image = image[top : top + size, left : left + size]
    height, width = image.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    square = np.full((size, size, 3), fill, np.uint8)
    square[top : top + height, left : left + width] = image
    return square
