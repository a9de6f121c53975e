"""Still images, animated images and folders of images: T sampled frames `uint8 [T, H, W, 3]`.

A file's format is recognized by its content. There are two exceptions: `.mjpeg` and `.mjpg` are videos by
their suffix, and the images of a folder are selected by suffix.

| Format                          | Read as                                                                  |
|---------------------------------|--------------------------------------------------------------------------|
| JPEG, BMP, PPM/PGM/PBM/PFM      | still                                                                    |
| MPO: JPEG with several pictures | still: the first picture, not the other view, gain map or thumbnail      |
| ICO                             | still: the largest picture                                               |
| HEIC, HEIF                      | still: the primary picture; needs the package `pillow-heif`              |
| GIF, APNG, WebP, AVIF           | clip, sampled by time; still if there is only one frame                  |
| TIFF                            | sequence of its pages, sampled by index; still if there is only one page |
| JPEG XL                         | decoded by ffmpeg: still, or clip if animated                            |
| folder of any of these          | sequence of its files, sampled by index; animated and multi-page files   |
|                                 | are rejected                                                             |

`start` and `end` are rejected for stills and for sequences, which have no time. A frame of 10 ms or less
lasts 100 ms, as in browsers. The default image of an APNG is skipped if it is not part of the animation.
Reduced-resolution pages and masks of a TIFF are skipped.

Pillow opens each file, since imageio cannot be restricted to these formats and gives no upright size without
decoding. imageio decodes stills and pages. Pillow decodes animations (see `animation.py`) and the images that
imageio turns or converts incorrectly (see `_is_plain`). If `pillow-heif` is installed, imageio registers its
reader with Pillow. `rgb.py` lists the result for each pixel format.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any  # Any: Pillow's format plugins add attributes to an image

import numpy as np
from numpy.typing import NDArray

from ..inputs import natural_key, one_line, regular_file
from ..resources import require_memory
from .animation import ANIMATED, animation_frames, frame_durations
from .rgb import array_to_rgb, exif_orientation, to_rgb
from .sampling import Timeline, sample_indices, warn_if_frames_repeat

if TYPE_CHECKING:
    from imageio.plugins.pillow import PillowPlugin
    from PIL import Image

# Pillow's names of the formats; MPO is opened as JPEG
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SIGNED = ("AVIF", "GIF", "ICO", "JPEG", "PNG", "TIFF", "WEBP")  # their signatures do not occur by chance
# fmt: off
SUFFIXES = {
    ".apng", ".avif", ".avifs", ".bmp", ".gif", ".heic", ".heif", ".hif", ".ico", ".jfif", ".jpe", ".jpeg",
    ".jpg", ".jxl", ".mpo", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
}
# fmt: on
# concatenated JPEG files: a video, though the first picture opens as an image
JPEG_STREAMS = (".mjpeg", ".mjpg")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
Times = tuple[float, ...] | None  # of sampled frames, in seconds from the clip's first; None: it has no time
FramesAt = Callable[[NDArray[np.int64]], Iterator[tuple[int, NDArray[np.uint8]]]]
MAX_PIXELS = 2**28 // 3  # a quarter of a GiB in RGB: Pillow's own limit against decompression bombs
MAX_ANIMATION = 2**36  # pixels of all frames: 33,000 frames of 1920 x 1080, some 20 minutes of decoding
_locks: dict[int, Lock] = {}  # by process: a forked one has a lock of its own


def is_image(path: str) -> bool:
    """Return whether `read_images` is to read a file: an image by its content, even one that it rejects."""
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
    """Return the paths of a folder's images in natural order: img2 before IMG10.

    Images are selected by suffix. Hidden files and subfolders are skipped. Raises ValueError for a folder
    without images and for a FIFO or a device among them, OSError for an image without read permission.
    """
    paths = [
        os.path.join(folder, name)
        for name in sorted(os.listdir(folder), key=natural_key)
        if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
    ]
    paths = [path for path in paths if not os.path.isdir(path)]
    if not paths:
        raise ValueError(
            f"{folder}: no videos and no images directly in this folder (subfolders are not searched); "
            "give the folder that holds them"
        )
    for path in paths:
        regular_file(path, "a folder of images holds regular files; remove it")
    return paths


def read_images(
    path: str,
    num_frames: int,
    start: float | None = None,
    end: float | None = None,
    decode: Callable[[str], NDArray[np.uint8]] | None = None,
) -> tuple[NDArray[np.uint8], Times]:
    """Sample T = `num_frames` frames of an image file or a folder of images: uint8 `[T, H, W, 3]`, RGB.

    Return them, and the times at which an animation was sampled. `start` and `end` are in seconds. `decode`
    decodes a JPEG XL file in a folder to `[1, H, W, 3]`. Only the T frames are kept in memory. An animated
    image is decoded twice, since Pillow reads a frame's duration by decoding it.

    Raises ValueError or OSError, with the file's name first, for images that cannot be read, differ in size,
    do not fit into memory or have more than `MAX_PIXELS` pixels (`MAX_ANIMATION` for all frames of an
    animation), and for `start` or `end` where there is no time.
    """
    need = 300 * num_frames  # the sampling points are fractions
    require_memory(need, f"{path}: sampling {num_frames} frames", "ask for fewer frames")
    if os.path.isdir(path):
        refuse_times(path, "a folder of images", start, end)
        paths = list_images(path)
        count, indices, times = len(paths), sample_indices(len(paths), num_frames), None
        clip = _gather(_folder_frames(paths, indices, decode), indices)
    else:
        with _open(path) as image:
            with _readable(path):
                positions = _frame_positions(image)
            _check_size(path, image, num_frames)
            count = len(positions)
            indices, times = _sample_file(path, image, positions, num_frames, start, end)
            clip = _gather(_file_frames(path, image, positions, indices), indices)
    if count > 1:
        warn_if_frames_repeat(path, indices)
    return clip, times


def refuse_times(path: str, kind: str, start: float | None, end: float | None) -> None:
    """Raise ValueError if `start` or `end` is given for something that has no time; `kind` names it."""
    if start is not None or end is not None:
        raise ValueError(f"{path}: {kind} has no time; leave out start and end")


# Opening ----------------------------------------------------------------------------------------------------


def _open(path: str) -> Image.Image:
    """Open an image without decoding it. Raises UnidentifiedImageError for another file, or ValueError."""
    from PIL import Image, UnidentifiedImageError

    regular_file(path, "give an image")
    # The filters of warnings belong to the process: of two threads that change them, one would restore the
    # other's
    with _locks.setdefault(os.getpid(), Lock()), _readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size rejects these images
        try:
            return Image.open(path, formats=FORMATS)
        except Image.DecompressionBombError as error:
            hint = f"scale it down to at most {MAX_PIXELS} pixels"
            raise ValueError(f"{path}: {one_line(error)}; {hint}") from None
        except UnidentifiedImageError:
            start = _first_bytes(path)
            if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS:
                return _open_heic(path)
            signatures: list[Any] = [Image.OPEN[name][1] for name in SIGNED]
            if any(matches(start) for matches in signatures):  # ffmpeg might decode the undamaged part
                raise ValueError(f"{path}: a damaged image; repair or remove it") from None
            raise


def _open_heic(path: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        hint = "convert it to JPEG, or pip install pillow-heif"
        raise ValueError(f"{path}: HEIC needs another package; {hint}") from None
    image: Image.Image = HeifImageFile(path)
    return image


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn Pillow's errors, which are of many classes, into a ValueError of one line that names the file."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except (UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: not a readable image ({one_line(error)}); repair or convert it") from None


# Size and number of frames ----------------------------------------------------------------------------------


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _check_size(path: str, image: Image.Image, num_frames: int) -> None:
    """Raise ValueError if an image has too many pixels, or T frames of it do not fit into memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{path}: {_size_text(image.size)} pixels are more than {MAX_PIXELS}, "
            "the most that is decoded; scale it down"
        )
    animated = image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    copies = 4 * (12 if animated else 4)  # 4 bytes per pixel: decoded, upright, converted; canvases
    subject = f"{path}: reading {num_frames} frames of {_size_text(image.size)} pixels"
    need = (copies + 3 * num_frames) * width * height
    require_memory(need, subject, "scale it down or ask for fewer frames")


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) after the EXIF rotation, as far as it is known without decoding."""
    known = image.format != "PNG" or "exif" in image.info  # getexif() of a PNG would decode it
    transposed = known and image.format != "TIFF" and exif_orientation(image) >= 5  # TIFF's size is upright
    return image.size[::-1] if transposed else image.size


def _frame_positions(image: Any) -> list[int]:
    """Return the positions, for `seek`, of the frames or pages of an image, without decoding it."""
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
        page, size = next((page, size) for page, size in zip(pages, sizes, strict=True) if size != sizes[0])
        raise ValueError(
            f"page {page + 1} is {_size_text(size)}, but the first page is {_size_text(sizes[0])}"
        )
    if not pages:
        raise ValueError("reduced-resolution pictures only, as in a camera's raw file")
    image.seek(pages[0])
    return pages


def _sample_file(
    path: str,
    image: Image.Image,
    positions: list[int],
    num_frames: int,
    start: float | None,
    end: float | None,
) -> tuple[NDArray[np.int64], Times]:
    """Return the indices into `positions` of the sampled frames, int64 `[T]`, and their times."""
    if len(positions) == 1 or image.format not in ANIMATED:
        refuse_times(path, "a still image" if len(positions) == 1 else "a sequence of pages", start, end)
        return sample_indices(len(positions), num_frames), None
    timeline = _timeline(path, image, positions)
    try:
        return timeline.sample(num_frames, start, end)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _timeline(path: str, image: Image.Image, positions: list[int]) -> Timeline:
    """Return when each frame of an animation is on screen. Raises ValueError if it is too long to decode."""
    if len(positions) * image.width * image.height > MAX_ANIMATION:
        subject = f"{len(positions)} frames of {_size_text(image.size)} pixels"
        raise ValueError(f"{path}: {subject} take too long to decode; convert it to a video")
    with _open(path) as again, _readable(path):
        durations = frame_durations(again, positions)
    ticks = 10 if image.format == "GIF" else 1  # ms
    begins = [round(begin / ticks) for begin in accumulate(durations, initial=0)]
    return Timeline(begins[:-1], begins[-1] - begins[-2], Fraction(ticks, 1000))


@contextmanager
def open_animation(path: str, num_frames: int) -> Iterator[tuple[Timeline, FramesAt]]:
    """Open an animated image: when its frames are on screen, and a function from indices to the frames.

    The function yields (index, frame uint8 `[H, W, 3]`) for each distinct index. Raises as `read_images`, and
    ValueError for a still or pages, which have no time.
    """
    with _open(path) as image:
        with _readable(path):
            positions = _frame_positions(image)
        if len(positions) == 1 or image.format not in ANIMATED:
            kind = "a still image" if len(positions) == 1 else "a sequence of pages"
            raise ValueError(f"{path}: {kind} has no time; give a video")
        _check_size(path, image, num_frames)
        yield _timeline(path, image, positions), lambda indices: _file_frames(path, image, positions, indices)


# Decoding ---------------------------------------------------------------------------------------------------


def _file_frames(
    path: str, image: Image.Image, positions: list[int], indices: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, frame uint8 `[H, W, 3]`) for each distinct index into `positions`."""
    distinct = np.unique(indices).tolist()
    with _readable(path):
        if image.format == "GIF" or (image.format in ANIMATED and len(positions) > 1):
            yield from animation_frames(image, positions, distinct)
        elif image.format in (*FORMATS, "MPO"):
            yield from _still_frames(path, image, positions, distinct)
        else:  # HEIC, for which imageio would register a reader with Pillow; JPEG XL
            yield 0, to_rgb(image)


def _still_frames(
    path: str, image: Image.Image, positions: list[int], indices: list[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, frame uint8 `[H, W, 3]`) for a still or the pages of a TIFF."""
    import imageio.v3 as iio

    # An open file, since imageio would take some paths for URLs, home folders or members of a zip file.
    with open(path, "rb") as file:
        reader = iio.imopen(file, "r", plugin="pillow")
        with reader:
            for index in indices:
                image.seek(positions[index])
                yield index, _decode_still(reader, image)


def _decode_still(reader: PillowPlugin, image: Image.Image) -> NDArray[np.uint8]:
    """Decode the current picture of `image`, which `reader` has open too: uint8 `[H, W, 3]`."""
    if _is_plain(image):
        try:
            pixels = reader.read(index=image.tell(), rotate=True, writeable_output=False)
            return array_to_rgb(pixels)
        except MemoryError:
            raise
        except Exception:
            pass  # imageio fails on damaged EXIF data; Pillow's message for damaged pixels is clearer
    return to_rgb(image)


def _is_plain(image: Image.Image) -> bool:
    """Return whether imageio's array of a picture has a single meaning.

    It drops a transparent colour, does not tell CMYK from RGBA or the white of a 16-bit TIFF, and turns
    palettes wrongly.
    """
    modes = ("L", "LA", "RGB", "RGBA") if image.format == "TIFF" else ("L", "LA", "RGB", "RGBA", "I;16")
    return image.mode in modes and "transparency" not in image.info


def _folder_frames(
    paths: list[str], indices: NDArray[np.int64], decode: Callable[[str], NDArray[np.uint8]] | None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, frame uint8 `[H, W, 3]`) for each sampled image of a folder.

    The other images are opened to compare their size, but not decoded, except JPEG XL files.
    """
    sampled, first_size = set(indices.tolist()), None
    for index, path in enumerate(paths):
        with _open_in_folder(path, decode) as image, _readable(path):
            positions = _frame_positions(image)
            if len(positions) > 1:
                hint = "give it by itself, not in a folder of images"
                raise ValueError(f"{path}: holds {len(positions)} frames; {hint}")
            _check_size(path, image, len(indices))
            image.seek(positions[0])
            if first_size is None or _upright_size(image) != first_size:
                image.load()  # the orientation of a PNG may be stored after the pixels
            size = _upright_size(image)
            first_size = first_size or size
            if size != first_size:
                raise ValueError(
                    f"{path} is {_size_text(size)}, but {os.path.basename(paths[0])}, the first, is "
                    f"{_size_text(first_size)}; remove it, or scale it"
                )
            if index in sampled:
                _, frame = next(_file_frames(path, image, positions, np.zeros(1, np.int64)))
                yield index, frame


def _open_in_folder(path: str, decode: Callable[[str], NDArray[np.uint8]] | None) -> Image.Image:
    """Open an image of a folder; JPEG XL is decoded by `decode`. Raises ValueError for anything else."""
    from PIL import Image, UnidentifiedImageError

    try:
        return _open(path)
    except UnidentifiedImageError:
        if decode is None or not is_jpeg_xl(path):
            raise ValueError(f"{path}: not a readable image; repair or remove it") from None
    return Image.fromarray(decode(path)[0])


def _gather(frames: Iterator[tuple[int, NDArray[np.uint8]]], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Copy the frames, given with their indices, to where `indices` has them: uint8 `[T, H, W, 3]`."""
    clip: NDArray[np.uint8] | None = None
    for index, frame in frames:
        if clip is None:
            clip = np.empty((len(indices), *frame.shape), np.uint8)
        for t in np.flatnonzero(indices == index):
            clip[t] = frame
    assert clip is not None
    return clip
