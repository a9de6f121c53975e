"""Still images, animated images and folders of images: T sampled frames `uint8 [T, H, W, 3]`, read by Pillow.

The format of a file is recognized by its content; only `.mjpeg` and `.mjpg` are told by their ending, as are the images
of a folder. What Pillow does not open is left to ffmpeg.

| Format                          | Read as                                                                      |
|---------------------------------|------------------------------------------------------------------------------|
| JPEG, BMP, PPM/PGM/PBM/PFM      | still                                                                        |
| MPO: JPEG with more pictures    | still: the first picture, not the other view, gain map or thumbnail          |
| ICO                             | still: the largest picture                                                   |
| HEIC, HEIF                      | still: the primary picture; needs the package `pillow-heif`, refused else    |
| GIF, APNG, WebP, AVIF           | clip, frames sampled by time; still if there is one frame only               |
| TIFF                            | sequence of its pages, sampled by index; still if there is one page only     |
| JPEG XL                         | left to ffmpeg: still, or clip if animated                                   |
| folder of any of these          | sequence of its files, sampled by index; an animated or multi-page file is   |
|                                 | refused                                                                      |

Stills and sequences without time take no `start` and `end`. A frame of 10 ms or less lasts 100 ms, as in browsers. The
default image of an APNG that is not part of the animation is left out, as are reduced-resolution pages and masks of a
TIFF. (Pillow and imageio read each page of a TIFF, ffmpeg the first one only.)

Pixels are upright (EXIF orientation) and 8-bit RGB:

| Mode of Pillow                  | Result                                                                       |
|---------------------------------|------------------------------------------------------------------------------|
| 1, L, P, RGB, RGBX, YCbCr, HSV  | `convert("RGB")`                                                             |
| CMYK                            | `convert("RGB")`: no colour management                                       |
| LA, PA, RGBA, La, RGBa          | over black: round(value * alpha / 255)                                       |
| 1, L, P, RGB, I;16 with a       | the same; transparent is black                                               |
| transparent colour or palette   |                                                                              |
| I;16, I;16L, I;16B, I;16N       | round(value / 257); a 12-bit TIFF: round(value * 255 / 4095)                 |
| I                               | as I;16 if it came from a PNG or PGM file, which have 16 bits; refused else  |
| F                               | round(value * 255), clipped to 0..255; NaN is 0                              |
| LAB                             | refused                                                                      |

Files of 16-bit RGB are read as the upper 8 bits, which is within 1 of round(value / 257).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, Any  # Any: an image with attributes of its format's plugin

import numpy as np

from ..inputs import regular_file
from ..resources import require_memory
from .sampling import sample_indices, sample_times, warn_of_repeats

if TYPE_CHECKING:
    from PIL import Image

FORMATS = (
    "AVIF",
    "BMP",
    "GIF",
    "ICO",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # Pillow's names; MPO is within JPEG
SIGNED = (
    "AVIF",
    "GIF",
    "ICO",
    "JPEG",
    "PNG",
    "TIFF",
    "WEBP",
)  # with a signature that no other file has by chance
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")
ENDINGS = {
    ".apng",
    ".avif",
    ".avifs",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".hif",
    ".ico",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".jxl",
    ".mpo",
    ".pbm",
    ".pfm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
}
JPEG_STREAMS = (".mjpeg", ".mjpg")  # JPEG after JPEG: a video for ffmpeg, though the first one is an image
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
# of EXIF orientations 2 to 8, by Pillow's names
TURNS = (
    "FLIP_LEFT_RIGHT",
    "ROTATE_180",
    "FLIP_TOP_BOTTOM",
    "TRANSPOSE",
    "ROTATE_270",
    "TRANSVERSE",
    "ROTATE_90",
)
MAX_PIXELS = 2**28 // 3  # a quarter of a GiB in RGB: beyond it Pillow suspects a decompression bomb
MAX_ANIMATION = (
    2**36
)  # pixels of all frames together, some 20 minutes of decoding: 33,000 frames of 1920 x 1080


def is_image(path: str) -> bool:
    """Return whether `read_images` is to read this file: an image by its content, even one that will be refused."""
    from PIL import UnidentifiedImageError

    if path.lower().endswith(JPEG_STREAMS):
        return False
    try:
        with _open(path):
            return True
    except UnidentifiedImageError:
        return False
    except (OSError, ValueError):
        return True


def is_jpeg_xl(path: str) -> bool:
    """Return whether a file is JPEG XL, by its content."""
    return _first_bytes(path).startswith(JPEG_XL)


def list_images(folder: str) -> list[str]:
    """Return the images of a folder, chosen by the endings of their names, in natural order: img2 before IMG10.

    Hidden files and folders inside are passed over. Raises ValueError for a folder without images and for a FIFO or a
    device among them, OSError for an image that cannot be read.
    """

    def natural(name: str) -> tuple[list[str | int], str]:
        return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)], name

    paths = [
        os.path.join(folder, name)
        for name in sorted(os.listdir(folder), key=natural)
        if os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith(".")
    ]
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        raise ValueError(f"{folder}: no images in this folder; give a video or a folder of .jpg or .png")
    for path in paths:
        regular_file(path, "a folder of images holds regular files; remove it")
    return paths


def read_images(
    path: str,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    decode: Callable[[str], np.ndarray] | None = None,
) -> np.ndarray:
    """Sample T = `num_frames` frames of an image file or a folder of images: uint8 `[T, H, W, 3]`, RGB.

    `start` and `end` are in seconds. `decode` returns the frame `[1, H, W, 3]` of a JPEG XL file, for folders. Only
    the T frames are kept. An animated image is decoded twice, since Pillow learns a frame's duration by decoding it.

    Raises ValueError or OSError, whose message begins with the file's name, for images that cannot be read, differ in
    size, do not fit into memory or have more than `MAX_PIXELS` pixels (all frames together: `MAX_ANIMATION`), and for a
    time where there is none.
    """
    require_memory(
        300 * num_frames, f"{path}: sampling {num_frames} frames", "ask for fewer frames"
    )  # fractions
    if os.path.isdir(path):
        refuse_times(path, "a folder of images", start, end)
        paths = list_images(path)
        count, indices = len(paths), sample_indices(len(paths), num_frames)
        clip = _gather(_folder_frames(paths, indices, decode), indices)
    else:
        with _open(path) as image:
            with _reading(path):
                positions = _positions(image)
            _check_size(path, image, num_frames)
            count = len(positions)
            if count > 1 and image.format in ANIMATED:
                if count * image.width * image.height > MAX_ANIMATION:
                    what = f"{count} frames of {_text(image.size)} pixels"
                    raise ValueError(f"{path}: {what} take too long to decode; convert it to a video")
                indices = _sample_animation(path, positions, num_frames, start, end)
            else:
                refuse_times(path, "a still image" if count == 1 else "a sequence of pages", start, end)
                indices = sample_indices(count, num_frames)
            clip = _gather(_file_frames(path, image, positions, indices), indices)
    if count > 1:
        warn_of_repeats(path, indices)
    return clip


def to_rgb(image: Image.Image) -> np.ndarray:
    """Return an image, or the current frame of one, upright and over black: uint8 `[H, W, 3]`; see the table above.

    Raises ValueError for a mode without a stated result, and Pillow's errors for a damaged file.
    """
    from PIL import Image

    image.load()  # a PNG may state its orientation after the pixels
    source, orientation = image, _orientation(image)
    if orientation > 1:
        image = image.transpose(Image.Transpose[TURNS[orientation - 2]])
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_grey(source, image)[..., None], 3, axis=2)
    if image.mode == "LAB":
        raise ValueError("no colour management for mode LAB: save it as RGB")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if image.mode == "La":
        image = image.convert("LA")
    layer, frame = image.convert("RGBA"), Image.new("RGB", image.size)
    frame.paste(layer, mask=layer)
    return np.asarray(frame)


def _grey(source: Any, image: Image.Image) -> np.ndarray:
    """Scale integers of 16 bits and floats to 8 bits: uint8 `[H, W]`. `image` is `source`, upright."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0, posinf=1, neginf=0)
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    if image.mode == "I" and source.format not in ("PNG", "PPM"):
        raise ValueError("32-bit or signed integers have no known white: save it with 8 or 16 bits")
    white = 65535
    if source.format == "TIFF":
        white = 2 ** source.tag_v2[258][0] - 1  # BitsPerSample
    grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    if source.format == "TIFF" and source.tag_v2.get(262) == 0:  # PhotometricInterpretation: 0 is white
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 0
    return grey


def _open(path: str) -> Image.Image:
    """Open an image without decoding it. Raises UnidentifiedImageError if it is none, ValueError or OSError."""
    from PIL import Image, UnidentifiedImageError

    regular_file(path, "give an image")
    with _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size refuses those
        try:
            return Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{path}: {_line(error)}; scale it down to at most {MAX_PIXELS} pixels"
            ) from None
        except UnidentifiedImageError:
            start = _first_bytes(path)
            if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
                return _open_heic(path)
            signatures: list[Any] = [Image.OPEN[name][1] for name in SIGNED]
            if any(fits(start) for fits in signatures):  # ffmpeg might read what is left of it
                raise ValueError(f"{path}: a damaged image; repair or remove it") from None
            raise


def _open_heic(path: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        hint = "convert it to JPEG, or pip install pillow-heif"
        raise ValueError(f"{path}: HEIC needs another package; {hint}") from None
    return HeifImageFile(path)


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn errors of Pillow, which raises many kinds, into a ValueError of one line that names the file."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except (UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: not a readable image ({_line(error)}); repair or convert it") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def refuse_times(path: str, kind: str, start: float | None, end: float | None) -> None:
    """Raise ValueError if a part of something that has no time is asked for. `kind` says what it is."""
    if start is not None or end is not None:
        raise ValueError(f"{path}: {kind} has no time; leave out start and end")


def _check_size(path: str, image: Image.Image, num_frames: int) -> None:
    """Raise ValueError if an image is too large to be decoded, or T frames of it to be kept."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path}: {_text(image.size)} pixels are more than {MAX_PIXELS}, "
            "the most that is decoded; scale it down"
        )
    animated = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    copies = 4 * (12 if animated else 4)  # 4 bytes a pixel: decoded, upright, converted, over black; canvases
    what = f"{path}: reading {num_frames} frames of {_text(image.size)} pixels"
    require_memory((copies + 3 * num_frames) * width * height, what, "scale it down or ask for fewer frames")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) as turned by the EXIF orientation, as far as it is known without decoding."""
    known = image.format != "PNG" or "exif" in image.info  # getexif() of a PNG would decode it
    turned = known and image.format != "TIFF" and _orientation(image) >= 5  # TIFF's size is upright
    return image.size[::-1] if turned else image.size


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8: 1, as stored, if none is stated or the EXIF data are damaged."""
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # of many kinds
        return 1
    return int(orientation) if orientation in range(2, 9) else 1


def _positions(image: Any) -> list[int]:
    """Return the numbers, for `seek`, of the frames that an image consists of. Nothing is decoded."""
    count = getattr(image, "n_frames", 1)
    if image.format in ANIMATED:
        return list(range(int(image.info.get("default_image", False) and count > 1), count))
    if image.format != "TIFF":
        return [image.tell()]
    pages, sizes = [], []
    for page in range(count):
        image.seek(page)
        if not image.tag_v2.get(254, 0) & 5:  # NewSubfileType: 1 reduced resolution, 4 mask
            pages.append(page)
            sizes.append(image.size)
    if len(set(sizes)) > 1:
        page, size = next((page, size) for page, size in zip(pages, sizes) if size != sizes[0])
        raise ValueError(f"page {page + 1} is {_text(size)}, the first one {_text(sizes[0])}")
    if not pages:
        raise ValueError("reduced-resolution pictures only, as in a camera's raw file")
    image.seek(pages[0])
    return pages


def _go_to(image: Any, position: int) -> None:
    """Seek the first frame of an animation, or the next one. Pillow then draws that of a GIF alone, over nothing."""
    from PIL import Image

    if image.format == "GIF" and position > 0:
        image.im, image._mode = Image.new("RGBA", image.size).im, "RGBA"
        image.dispose, image.disposal_method = None, 0
    image.seek(position)


def _sample_animation(
    path: str, positions: list[int], num_frames: int, start: float | None, end: float | None
) -> np.ndarray:
    """Return the numbers of the sampled frames, counted in `positions`: int64 `[T]`."""
    durations = []
    with (
        _open(path) as image,
        _reading(path),
    ):  # opened for this alone: what Pillow decodes again may lack its palette
        for position in positions:
            _go_to(image, position)
            image.load()
            duration = image.info.get("duration", 0)  # ms
            durations.append(duration if duration > 10 else 100)
    ticks = 10 if image.format == "GIF" else 1  # ms
    begins = [round(begin / ticks) for begin in accumulate(durations, initial=0)]
    try:
        return sample_times(
            begins[:-1], begins[-1] - begins[-2], num_frames, start, end, Fraction(ticks, 1000)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _file_frames(
    path: str, image: Image.Image, positions: list[int], indices: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the frame of each sampled frame of a file."""
    wanted = np.unique(indices).tolist()
    with _reading(path):
        if image.format == "GIF" or (image.format == "PNG" and len(positions) > 1):
            for index, canvas in enumerate(_canvases(image, positions[: wanted[-1] + 1])):
                if index in indices:
                    yield index, to_rgb(canvas)
            return
        for index in wanted:
            image.seek(positions[index])
            yield index, to_rgb(image)


def _canvases(image: Any, positions: list[int]) -> Iterator[Image.Image]:
    """Yield the canvas (RGBA) of each frame of a GIF or an APNG.

    Pillow's own is wrong where an APNG blends semi-transparent frames and where a GIF clears pixels.
    """
    from PIL import Image

    canvas = Image.new("RGBA", image.size)
    canvas.info = dict(image.info)  # the orientation
    for position in positions:
        _go_to(image, position)
        if image.format == "GIF":
            box, over, disposal = image.dispose_extent, True, image.disposal_method - 1
        else:
            image.blend_op = 0  # leaves the frame's own pixels in its box
            box, over, disposal = (image.info[key] for key in ("bbox", "blend", "disposal"))
        if image.size != canvas.size:
            raise ValueError(
                f"frame {position + 1} is {_text(image.size)}, the first one {_text(canvas.size)}"
            )
        frame = Image.fromarray(to_rgb(image)) if image.mode.startswith("I") else image
        part, before = frame.crop(box).convert("RGBA"), canvas.copy() if disposal == 2 else None
        if over:
            canvas.alpha_composite(part, box[:2])
        else:
            canvas.paste(part, box)
        yield canvas
        if disposal == 1:
            canvas.paste((0, 0, 0, 0), box)
        elif before:
            canvas = before


def _folder_frames(
    paths: list[str], indices: np.ndarray, decode: Callable[[str], np.ndarray] | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the frame of each sampled image of a folder.

    The others are opened, but not decoded, except JPEG XL files, whose size ffmpeg tells by decoding them.
    """
    from PIL import Image, UnidentifiedImageError

    wanted, size = set(indices.tolist()), None
    for index, path in enumerate(paths):
        try:
            image = _open(path)
        except UnidentifiedImageError:
            if decode is None or not is_jpeg_xl(path):
                raise ValueError(f"{path}: not a readable image; repair or remove it") from None
            image = Image.fromarray(decode(path)[0])
        with image, _reading(path):
            positions = _positions(image)
            if len(positions) > 1:
                raise ValueError(
                    f"{path}: holds {len(positions)} frames; give it by itself, not in a folder of images"
                )
            _check_size(path, image, len(indices))
            image.seek(positions[0])
            if size is None:
                image.load()  # a PNG may state its orientation after the pixels
                size = _upright_size(image)
            if _upright_size(image) != size:
                image.load()
            if _upright_size(image) != size:
                raise ValueError(
                    f"{path}: it is {_text(_upright_size(image))} upright, the first one, "
                    f"{os.path.basename(paths[0])}, {_text(size)}; remove it, or scale it"
                )
            if index in wanted:
                yield index, next(_file_frames(path, image, positions, np.zeros(1, np.int64)))[1]


def _gather(frames: Iterator[tuple[int, np.ndarray]], indices: np.ndarray) -> np.ndarray:
    """Put the sampled frames, which come with their numbers, into one array: uint8 `[T, H, W, 3]`."""
    clip = None
    for index, frame in frames:
        if clip is None:
            clip = np.empty((len(indices), *frame.shape), np.uint8)
        for t in np.flatnonzero(indices == index):
            clip[t] = frame
    assert clip is not None
    return clip
