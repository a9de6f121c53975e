"""Conversion of images to upright 8-bit RGB, `uint8 [H, W, 3]`.

| Mode of Pillow                  | Result                                                                   |
|---------------------------------|--------------------------------------------------------------------------|
| 1, L, P, RGB, RGBX, YCbCr, HSV  | `convert("RGB")`                                                         |
| CMYK                            | `convert("RGB")`: no colour management                                   |
| LA, PA, RGBA, La, RGBa          | over black: round(value * alpha / 255)                                   |
| 1, L, P, RGB, I;16 with a       | over black: transparent pixels are black                                 |
| transparent colour or palette   |                                                                          |
| I;16, I;16L, I;16B, I;16N       | round(value / 257); a 12-bit TIFF: round(value * 255 / 4095)             |
| I                               | as I;16 for PNG and PGM files, which have 16 bits; otherwise rejected    |
| F                               | round(value * 255), clipped to 0..255; NaN is 0                          |
| LAB                             | rejected                                                                 |

Files with 16-bit RGB keep the upper 8 bits, which is within 1 of round(value / 257).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any  # Any: Pillow's format plugins add attributes to an image

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Pillow's transpositions for the EXIF orientations 2 to 8
TRANSPOSITIONS = (
    "FLIP_LEFT_RIGHT",
    "ROTATE_180",
    "FLIP_TOP_BOTTOM",
    "TRANSPOSE",
    "ROTATE_270",
    "TRANSVERSE",
    "ROTATE_90",
)


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a Pillow image, or its current frame, to upright RGB over black: uint8 `[H, W, 3]`.

    The module's table gives the result for each mode. Raises ValueError for a mode without a defined result,
    and Pillow's errors for a damaged file.
    """
    from PIL import Image

    image.load()  # the orientation of a PNG may be stored after the pixels
    source, orientation = image, exif_orientation(image)
    if orientation > 1:
        image = image.transpose(Image.Transpose[TRANSPOSITIONS[orientation - 2]])
    if image.mode.startswith("I") or image.mode == "F":
        return array_to_rgb(_to_8_bits(source, image))
    if image.mode == "LAB":
        raise ValueError("no colour management for mode LAB: save it as RGB")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if image.mode == "La":  # Pillow converts it to LA only
        image = image.convert("LA")
    return array_to_rgb(np.asarray(image.convert("RGBA")))


def array_to_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert grey, grey with alpha, RGB or RGBA to RGB over black.

    `pixels` is uint8 `[H, W]` or `[H, W, C]` with C = 2, 3 or 4, or uint16 `[H, W]` with white at 65535.
    Returns uint8 `[H, W, 3]`.
    """
    if pixels.dtype == np.uint16:
        pixels = scale_grey(pixels, 65535)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))  # channels without alpha
    if colours == pixels.shape[2]:
        return pixels
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel in range(3):  # one channel at a time keeps temporary arrays small
        product = pixels[..., channel % colours].astype(np.uint16)
        product *= pixels[..., -1]
        product += 127  # at most 255 * 255 + 127 = 65152: no overflow
        product //= 255
        rgb[..., channel] = product
    return rgb


def scale_grey(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """Scale integers from 0..white to 0..255, rounded: any shape -> uint8 of the same shape."""
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8: 1 (upright) if there is none or the EXIF data are damaged."""
    try:
        orientation: Any = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF data raise errors of many classes
        return 1
    return int(orientation) if orientation in range(2, 9) else 1


def _to_8_bits(source: Any, image: Image.Image) -> NDArray[np.uint8]:
    """Scale 16-bit integers or floats to uint8 `[H, W]`; `image` is `source` turned upright."""
    values: NDArray[Any] = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0, posinf=1, neginf=0)
        scaled: NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
        return scaled
    if image.mode == "I" and source.format not in ("PNG", "PPM"):
        raise ValueError("32-bit or signed integers have no known white: save it with 8 or 16 bits")
    white = 65535
    if source.format == "TIFF":
        white = 2 ** source.tag_v2[258][0] - 1  # BitsPerSample
    grey = scale_grey(values, white)
    if source.format == "TIFF" and source.tag_v2.get(262) == 0:  # PhotometricInterpretation: 0 is white
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 0
    return grey
