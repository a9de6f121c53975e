"""Still and animated images: the frames and the pixel values read from each format."""

import itertools
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from clips import ffmpeg
from PIL import Image, ImageFile
from platforms import posix

from minivideococa import resources
from minivideococa.media import images
from minivideococa.media.animation import ANIMATED
from minivideococa.media.images import FORMATS, MAX_PIXELS, SUFFIXES, is_image, list_images
from minivideococa.media.rgb import to_rgb
from minivideococa.media.video import read_video

CASES = Path(__file__).parents[1] / "cases" / "img"
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]

pytestmark = pytest.mark.filterwarnings("ignore:.*times sampled")


def plain(colour=(200, 0, 0), size=(16, 8), mode="RGB"):
    return Image.new(mode, size, colour)


def save(path, pictures, **options):
    """Save one picture, or several into one file."""
    more = dict(save_all=True, append_images=pictures[1:]) if len(pictures) > 1 else {}
    if path.suffix == ".webp":
        options = dict(lossless=True) | options
    if path.suffix == ".avif":
        options = dict(quality=100, subsampling="4:4:4") | options
    if path.suffix == ".ico":
        options = dict(sizes=[pictures[0].size])
    pictures[0].save(path, **more, **options)
    return path


def which(frames, colours=COLOURS):
    """The number of the colour that each frame of a clip has."""
    distance = np.abs(frames.astype(int).mean((1, 2))[:, None] - np.array(colours)).max(2)
    assert (distance.min(1) < 4).all()
    return distance.argmin(1).tolist()


def by_time(durations, num_frames, start=0, end=None):
    """The frames that the definition gives: on screen at (t + 1/2) * D / T. Times in ms."""
    ends = list(itertools.accumulate(durations))
    end = ends[-1] if end is None else end
    points = [start + (2 * t + 1) * (end - start) / (2 * num_frames) for t in range(num_frames)]
    return [sum(point >= one for one in ends) for point in points]


def decoded_by_ffmpeg(path, size, pixels="rgb24"):
    raw = ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixels, "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], len(pixels.rstrip("2481")))


def rejected(path, *words, **options):
    with pytest.raises((ValueError, OSError)) as caught:
        read_video(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 400 + len(str(path))
    for word in words:
        assert word in message
    return message


def write_png(path, chunks):
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in [*chunks, (b"IEND", b"")]
        )
    )
    return path


# Formats


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a.jfif", "a.png", "a.gif", "a.tif", "a.webp", "a.avif", "a.bmp", "a.ppm", "a.ico", "a.mpo"],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_every_format_is_read_as_a_still_and_in_a_folder(tmp_path, name, in_folder):
    save(tmp_path / name, [plain()])
    frames = read_video(tmp_path if in_folder else tmp_path / name, 3)
    assert frames.shape == (3, 8, 16, 3) and which(frames) == [0, 0, 0]


# What comes out of four pictures, red, green, blue and grey, in one file: alone, and in a folder.
SEVERAL = [
    ("a.gif", [0, 1, 2, 3], "rejected"),
    ("a.png", [0, 1, 2, 3], "rejected"),
    ("a.webp", [0, 1, 2, 3], "rejected"),
    ("a.avif", [0, 1, 2, 3], "rejected"),
    ("a.tif", [0, 1, 2, 3], "rejected"),
    ("a.mpo", [0, 0, 0, 0], [0, 0, 0, 0]),
    ("a.jpg", [0, 0, 0, 0], [0, 0, 0, 0]),
]


@pytest.mark.parametrize("name, alone, in_folder", SEVERAL)
def test_stills_and_sequences_of_several_pictures(tmp_path, name, alone, in_folder):
    path, several = tmp_path / name, [plain(colour) for colour in COLOURS]
    if alone == [0, 0, 0, 0]:
        several[0].save(path, format="MPO", save_all=True, append_images=several[1:])
    else:
        save(path, several, **({} if name == "a.tif" else dict(duration=100)))
    with Image.open(path) as image:
        assert image.n_frames == 4
    assert which(read_video(path, 4)) == alone
    if in_folder == "rejected":
        with pytest.raises(ValueError, match=f"{name}: holds 4 frames; give it by itself"):
            read_video(tmp_path, 4)
    else:
        assert which(read_video(tmp_path, 4)) == in_folder


def test_the_suffixes_are_those_of_the_formats():
    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}
    assert known | {".heic", ".heif", ".hif", ".jxl"} == SUFFIXES


PLAIN = [(name, mode) for name in ("a.png", "a.tif") for mode in ("L", "LA", "RGB", "RGBA")]
PLAIN += [(name, mode) for name in ("a.bmp", "a.jpg", "a.ppm", "a.webp", "a.avif") for mode in ("L", "RGB")]
PLAIN += [("a.png", "I;16"), ("a.webp", "RGBA"), ("a.avif", "RGBA")]


@pytest.mark.parametrize("name, mode", PLAIN)
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_plain_stills_are_decoded_by_imageio(tmp_path, monkeypatch, name, mode, orientation):
    """The values are imageio's, over black, and the size is imageio's, turned upright."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 4), np.uint8)
    grey = Image.fromarray(noise.view("<u2")[..., 0])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if name in ("a.bmp", "a.ppm") else dict(exif=exif)
    (grey if mode == "I;16" else Image.fromarray(noise).convert(mode)).save(tmp_path / name, **options)
    pixels = iio.imread(tmp_path / name, plugin="pillow", rotate=True)
    expected = pixels.reshape(*pixels.shape[:2], -1).astype(int)
    if mode == "I;16":
        expected = np.rint(expected / 257)
    elif mode in ("LA", "RGBA"):
        expected = over_black(expected)
    monkeypatch.setattr(images, "to_rgb", None)  # Pillow's conversion
    (frame,) = read_video(tmp_path / name, 1)
    np.testing.assert_array_equal(frame, np.broadcast_to(expected, frame.shape))
    np.testing.assert_array_equal(read_video(tmp_path, 1)[0], frame)
    size = iio.improps(tmp_path / name, plugin="pillow").shape[:2]
    assert frame.shape[:2] == pixels.shape[:2] in (size, size[::-1])


TIMED = {"a.gif": {}, "a.png": {}, "a.webp": {}, "a.avif": {}}


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize(
    "durations", [[900, 100, 100, 900], [100, 800, 50, 50], [40, 40, 40, 1000], [100] * 4]
)
def test_animations_are_sampled_by_time(tmp_path, name, durations):
    path = save(tmp_path / name, [plain(colour) for colour in COLOURS], duration=durations)
    with Image.open(path) as image:
        assert image.format in ANIMATED and image.n_frames == 4
    for num_frames in (1, 3, 8, 16):
        assert which(read_video(path, num_frames)) == by_time(durations, num_frames)


def test_a_flash_of_red_in_a_gif_is_one_frame_of_eight(tmp_path):
    path = save(tmp_path / "a.gif", [plain(COLOURS[0]), plain(COLOURS[2])], duration=[1000, 8000])
    assert which(read_video(path, 8)) == [0, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("short", [0, 10])
def test_frames_of_no_duration_last_100_ms_as_in_browsers(tmp_path, name, short):
    path = save(tmp_path / name, [plain(colour) for colour in COLOURS], duration=[short, 100, short, 700])
    assert which(read_video(path, 20)) == by_time([100, 100, 100, 700], 20)


@pytest.mark.parametrize("name", TIMED)
def test_start_and_end_cut_an_animation(tmp_path, name):
    durations = [900, 100, 100, 900]
    path = save(tmp_path / name, [plain(colour) for colour in COLOURS], duration=durations)
    frames, times = images.read_images(str(path), 6, 0.85, 1.3)
    assert which(frames) == by_time(durations, 6, 850, 1300)
    assert times == pytest.approx([0.8875, 0.9625, 1.0375, 1.1125, 1.1875, 1.2625])
    with pytest.raises(ValueError, match="a[.].*: start is 5"):
        images.read_images(str(path), 6, 5.0)


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.tif", ""])
def test_start_and_end_are_rejected_where_there_is_no_time(tmp_path, name):
    save(tmp_path / (name or "a.png"), [plain()] * (2 if name == "a.tif" else 1))
    for times in ((0.0, None), (None, 1.0)):
        with pytest.raises(ValueError, match="has no time; leave out start and end"):
            images.read_images(str(tmp_path / name), 8, *times)


@pytest.mark.parametrize("name", ["photo_stereo.jpg", "photo_ultrahdr.jpg"])
def test_the_second_picture_of_a_photo_is_ignored(name):
    """A stereo photo and a phone's HDR photo with a gain map are the still that they show."""
    with Image.open(CASES / name) as image:
        assert image.format == "MPO" and image.n_frames == 2
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_video(CASES / name, 4), [expected] * 4)
    assert np.abs(expected.astype(int) - read_video(CASES / "photo_plain.jpg", 1)[0]).max() < 40


def test_pages_of_a_tiff_are_a_sequence_by_index(tmp_path):
    path = save(tmp_path / "a.tif", [plain(colour) for colour in COLOURS])
    assert which(read_video(path, 4)) == [0, 1, 2, 3]
    assert which(read_video(path, 8)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert which(read_video(path, 2)) == [1, 3]
    save(path, [plain(), plain(size=(9, 8))])
    rejected(path, "page 2 is 9 x 8, but the first page is 16 x 8")


def test_a_thumbnail_in_a_tiff_is_not_a_page(tmp_path):
    path, thumbnail = tmp_path / "a.tif", plain(COLOURS[1], size=(4, 2))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    save(path, [plain(), thumbnail])
    assert which(read_video(path, 3)) == [0, 0, 0]
    thumbnail.save(path, save_all=True, append_images=[plain()], tiffinfo={254: 1})  # which marks both pages
    entry, before, after = (
        struct.pack("<HHI", 254, 4, 1),
        *path.read_bytes().rsplit(struct.pack("<HHI", 254, 4, 1), 1),
    )
    path.write_bytes(before + entry + bytes(4) + after[4:])
    assert which(read_video(path, 3)) == which(read_video(tmp_path, 3)) == [0, 0, 0]
    assert read_video(tmp_path, 1).shape == (1, 8, 16, 3)


def test_a_raw_file_is_not_read_as_its_thumbnail(tmp_path):
    thumbnail = plain()
    thumbnail.save(tmp_path / "a.dng", format="TIFF", tiffinfo={254: 1})
    rejected(tmp_path / "a.dng", "raw file", "convert it")


def test_an_icon_is_its_largest_picture(tmp_path):
    plain(size=(64, 64)).save(tmp_path / "a.ico", sizes=[(16, 16), (64, 64), (32, 32)])
    assert read_video(tmp_path / "a.ico", 2).shape == (2, 64, 64, 3)


def test_the_default_image_of_an_apng_is_not_played(tmp_path):
    path = save(tmp_path / "a.png", [plain(c) for c in COLOURS[:3]], duration=100, default_image=True)
    assert which(read_video(path, 2)) == [1, 2]
    (tmp_path / "folder").mkdir()
    path = save(
        tmp_path / "folder" / "a.png", [plain(c) for c in COLOURS[:2]], duration=100, default_image=True
    )
    assert which(read_video(path, 2)) == which(read_video(tmp_path / "folder", 2)) == [1, 1]


@pytest.mark.parametrize(
    "name, content", [("a.jpg", "png"), ("a.mp4", "jpeg"), ("a.webm", "gif"), ("none", "webp")]
)
def test_the_format_is_recognized_by_content(tmp_path, name, content):
    plain().save(tmp_path / name, format=content)
    assert is_image(str(tmp_path / name)) and which(read_video(tmp_path / name, 2)) == [0, 0]


def test_a_video_with_the_suffix_of_an_image_is_a_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x16:r=5:d=1", "-f", "mp4", tmp_path / "a.jpg")
    assert not is_image(str(tmp_path / "a.jpg"))
    assert len(np.unique(read_video(tmp_path / "a.jpg", 5), axis=0)) > 2
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x16:r=5:d=1", tmp_path / "b.mjpeg")  # JPEG after JPEG
    assert len(np.unique(read_video(tmp_path / "b.mjpeg", 5), axis=0)) > 2


def has_codec(name):
    return (
        f" {name} "
        in ffmpeg("-hide_banner", "-encoders").decode() + ffmpeg("-hide_banner", "-decoders").decode()
    )


@pytest.mark.slow
@pytest.mark.skipif(not has_codec("libjxl"), reason="this ffmpeg is built without libjxl")
def test_jpeg_xl_is_decoded_by_ffmpeg(tmp_path):
    for i, colour in enumerate(COLOURS):
        plain(colour).save(tmp_path / "a.png")
        ffmpeg("-i", tmp_path / "a.png", "-distance", 0, tmp_path / f"{i}.jxl")
    (tmp_path / "a.png").unlink()
    assert not is_image(str(tmp_path / "2.jxl")) and which(read_video(tmp_path / "2.jxl", 2)) == [2, 2]
    with warnings.catch_warnings():  # a still: frames do not repeat
        warnings.simplefilter("error")
        read_video(tmp_path / "2.jxl", 2)
    for times in ((0, None), (None, 0.01), (9, None)):
        assert "a still image has no time; leave out start and end" in rejected(
            tmp_path / "2.jxl", start=times[0], end=times[1]
        )
    assert which(read_video(tmp_path, 4)) == [0, 1, 2, 3]


def test_heic_is_read_or_rejected_by_name(tmp_path):
    path = tmp_path / "a.heic"
    try:
        import pillow_heif
    except ImportError:
        path.write_bytes(struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + bytes(100))
        assert is_image(str(path))
        rejected(path, "HEIC", "convert it", "pip install pillow-heif")
        with pytest.raises(ValueError, match="a.heic: HEIC"):
            read_video(tmp_path)
    else:
        pillow_heif.from_pillow(plain()).save(path, quality=-1)
        registered = set(Image.OPEN)
        assert which(read_video(path, 2)) == [0, 0] and which(read_video(tmp_path, 2)) == [0, 0]
        assert set(Image.OPEN) == registered


# Compositing


def test_opaque_gifs_equal_those_of_ffmpeg(tmp_path):
    path = tmp_path / "a.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=3,noise=alls=20:allf=t:all_seed=1", path)
    expected = decoded_by_ffmpeg(path, (64, 48))
    assert len(expected) == 30
    np.testing.assert_array_equal(read_video(path, 30), expected)
    pictures = [Image.fromarray(frame).quantize(16) for frame in expected[:8]]  # a palette for each frame
    save(path, pictures, duration=100, optimize=False)
    np.testing.assert_array_equal(
        read_video(path, 8), [np.asarray(picture.convert("RGB")) for picture in pictures]
    )


def over_black(rgba):
    """round(value * alpha / 255), in integers."""
    rgba = np.asarray(rgba).astype(int)
    return (2 * rgba[..., :-1] * rgba[..., -1:] + 255) // 510


@pytest.mark.parametrize("disposal", [1, 2])
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_transparency_and_disposal_over_black(tmp_path, name, disposal):
    """A square moves over a transparent canvas. It stays where it was (1) or is cleared (2)."""
    layers = []
    for i in range(3):
        layer = np.zeros((8, 16, 4), np.uint8)
        layer[2:6, 4 * i : 4 * i + 4] = (*COLOURS[i], 255)
        layers.append(layer)
    options = {".gif": dict(disposal=disposal), ".png": dict(disposal=disposal - 1, blend=1), ".webp": {}}
    path = save(
        tmp_path / name, [Image.fromarray(layer) for layer in layers], duration=100, **options[name[1:]]
    )
    expected = [layer[..., :3] for layer in layers]
    if disposal == 1 and name != "a.webp":
        expected = np.maximum.accumulate(expected)
    np.testing.assert_array_equal(read_video(path, 3), expected)


def gif_frame(left, top, pixels, disposal, transparent=None, palette=b""):
    """Return a GIF's frame with 9-bit codes, which are never compressed: int [h, w] -> bytes."""
    codes = pixels.ravel().tolist()  # fewer than 254: their width stays the same
    bits = "".join(f"{code:09b}"[::-1] for code in [256, *codes, 257])
    packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    blocks = b"".join(
        bytes([len(packed[i : i + 255])]) + packed[i : i + 255] for i in range(0, len(packed), 255)
    )
    flags = 4 * disposal + (transparent is not None)
    return (
        b"!\xf9\x04"
        + struct.pack("<BHBB", flags, 10, transparent or 0, 0)
        + struct.pack("<cHHHHB", b",", left, top, *pixels.shape[::-1], 0x87 if palette else 0)
        + palette
        + b"\x08"
        + blocks
        + b"\0"
    )


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_disposal_of_gifs_as_in_the_specification(tmp_path, seed, grey):
    """Each frame is a part of the canvas. Disposal 0 and 1 keep it, 2 clears it, 3 restores what was before.

    Some frames have a palette of their own or no transparent colour."""
    rng, (height, width) = np.random.default_rng(seed), (9, 12)
    common = (
        np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
        if grey
        else rng.integers(1, 256, (256, 3), np.uint8)
    )
    canvas, expected, parts = np.zeros((height, width, 3), np.uint8), [], []
    for _ in range(6):
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        pixels, disposal, transparent = (
            rng.integers(0, 8, (h, w)),
            int(rng.integers(0, 4)),
            int(rng.integers(0, 8)),
        )
        transparent = None if rng.random() < 0.5 else transparent
        palette = common if rng.random() < 0.7 else rng.integers(1, 256, (256, 3), np.uint8)
        own = b"" if palette is common else palette.tobytes()
        parts.append(gif_frame(left, top, pixels, disposal, transparent, own))
        before, part = canvas.copy(), canvas[top : top + h, left : left + w]
        seen = np.ones((h, w), bool) if transparent is None else pixels != transparent
        part[seen] = palette[pixels][seen]
        expected.append(canvas.copy())
        if disposal == 2:
            part[:] = 0
        elif disposal == 3:
            canvas = before
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + common.tobytes()
    (tmp_path / "a.gif").write_bytes(head + b"".join(parts) + b";")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.gif").write_bytes(head + parts[0] + b";")  # a still, the rest is black
    np.testing.assert_array_equal(read_video(tmp_path / "folder", 1), expected[:1])
    np.testing.assert_array_equal(read_video(tmp_path / "folder" / "1.gif", 1), expected[:1])
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif", 6), expected)
    np.testing.assert_array_equal(read_video(tmp_path / "a.gif", 2), [expected[1], expected[4]])


@pytest.mark.parametrize("maker", ["pillow", "ffmpeg"])
def test_an_apng_with_a_palette_has_its_colours(tmp_path, maker):
    path = tmp_path / "a.png"
    if maker == "pillow":
        pictures = [plain(colour).quantize() for colour in COLOURS]
        palette = [value for colour in COLOURS for value in colour]
        for i, picture in enumerate(pictures):
            picture.putdata([i] * (16 * 8))
            picture.putpalette(palette)
        save(path, pictures, duration=100)
        expected = np.array([np.full((8, 16, 3), colour) for colour in COLOURS])
    else:
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            "testsrc=s=40x30:r=5:d=1",
            "-pix_fmt",
            "pal8",
            "-f",
            "apng",
            "-c:v",
            "apng",
            path,
        )
        expected = decoded_by_ffmpeg(path, (40, 30))
    with Image.open(path) as image:
        assert image.mode == "P" and image.n_frames == len(expected)
    np.testing.assert_array_equal(read_video(path, len(expected)), expected)


@pytest.mark.parametrize("seed", range(20))
def test_blending_and_disposal_of_apngs_as_in_the_specification(tmp_path, seed):
    """Each frame is a semi-transparent part of the canvas with its own blending and disposal; in floats."""
    rng, (height, width), n = np.random.default_rng(seed), (9, 12), 6
    canvas, expected, number = np.zeros((height, width, 4)), [], itertools.count()  # premultiplied, 0..1
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"acTL", struct.pack(">II", n, 0)),
    ]
    for i in range(n):
        h, w = (rng.integers(1, height + 1), rng.integers(1, width + 1)) if i else (height, width)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        pixels, disposal, blend = rng.integers(0, 256, (h, w, 4), np.uint8), *rng.integers(0, [3, 2]).tolist()
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
        chunks.append(
            (b"fcTL", struct.pack(">IIIIIHHBB", next(number), w, h, left, top, 1, 10, disposal, blend))
        )
        chunks.append((b"fdAT", struct.pack(">I", next(number)) + data) if i else (b"IDAT", data))
        before, part, alpha = canvas.copy(), canvas[top : top + h, left : left + w], pixels[..., 3:] / 255
        part[:] = np.concatenate([pixels[..., :3] / 255 * alpha, alpha], 2) + blend * (1 - alpha) * part
        expected.append(255 * canvas[..., :3])
        if disposal == 1:
            part[:] = 0
        elif disposal == 2:
            canvas = before
    path = write_png(tmp_path / "a.png", chunks)
    assert np.abs(read_video(path, n) - np.array(expected)).max() < 3
    assert np.abs(read_video(path, 2) - np.array(expected)[[1, 4]]).max() < 3


def test_gif_transparency_equals_that_of_ffmpeg(tmp_path):
    filters = (
        "format=rgba,colorkey=black:0.3:0,split[a][b];"
        "[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse=alpha_threshold=128"
    )
    path = tmp_path / "a.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=1", "-filter_complex", filters, path)
    rgba = decoded_by_ffmpeg(path, (64, 48), "rgba")
    assert (rgba[..., 3] == 0).any()
    np.testing.assert_array_equal(read_video(path, 10), over_black(rgba))


# Modes

ALPHA = np.array([[0, 1, 127, 128, 254, 255]], np.uint8)
VALUE = np.array([[255, 255, 255, 100, 100, 100]], np.uint8)
OVER_BLACK = [[0, 1, 127, 50, 100, 100]]


def test_transparency_is_over_black():
    grey_alpha = Image.merge("LA", [Image.fromarray(VALUE), Image.fromarray(ALPHA)])
    rgba = grey_alpha.convert("RGBA")
    palette = Image.frombytes("P", (6, 1), bytes(range(6)))
    palette.putpalette(np.repeat(VALUE[0], 3).tolist())
    palette.info["transparency"] = ALPHA.tobytes()
    for image in (grey_alpha, rgba, palette, grey_alpha.convert("La"), rgba.convert("RGBa")):
        tolerance = (
            0 if image.mode in ("LA", "RGBA", "P") else 1
        )  # premultiplied values are rounded once more
        assert np.abs(to_rgb(image)[..., 1].astype(int) - OVER_BLACK).max() <= tolerance, image.mode


def test_a_palette_with_alpha_is_over_black():
    image = Image.new("PA", (3, 1))
    image.putpalette([10, 20, 30, 250, 150, 50])
    for x, pixel in enumerate([(1, 255), (1, 51), (0, 0)]):
        image.putpixel((x, 0), pixel)
    assert to_rgb(image).tolist() == [[[250, 150, 50], [50, 30, 10], [0, 0, 0]]]


@pytest.mark.parametrize(
    "mode, key, pixels, expected",
    [
        ("L", 7, [7, 8], [0, 8]),
        ("1", 255, [255, 0], [0, 0]),
        ("RGB", (7, 7, 7), [(7, 7, 7), (8, 8, 8)], [0, 8]),
        ("I;16", 2570, [2570, 5140], [0, 20]),
    ],
)
def test_the_transparent_colour_of_a_png_is_black(tmp_path, mode, key, pixels, expected):
    image = Image.new(mode, (2, 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    image.save(tmp_path / "a.png", transparency=key)
    assert read_video(tmp_path / "a.png", 1)[0, 0, :, 1].tolist() == expected


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("1", 255, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 9), (1, 2, 3)),
        ("CMYK", (0, 255, 102, 0), (255, 0, 153)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("HSV", (0, 255, 200), (200, 0, 0)),
        ("P", 0, (0, 0, 0)),
        ("I;16", 32896, (128, 128, 128)),
        ("I;16L", 257 * 9 + 128, (9, 9, 9)),
        ("I;16B", 257 * 9 + 129, (10, 10, 10)),
        ("I;16N", 65535, (255, 255, 255)),
        ("F", 0.5, (128, 128, 128)),
        ("F", 0.1, (26, 26, 26)),
        ("F", -3.0, (0, 0, 0)),
        ("F", 1e30, (255, 255, 255)),
        ("F", float("inf"), (255, 255, 255)),
        ("F", float("nan"), (0, 0, 0)),
    ],
)
def test_every_mode_has_a_defined_result(mode, value, expected):
    """0.5 * 255 = 127.5 is rounded to the even 128; 32896 = 128 * 257."""
    try:
        image = Image.new(mode, (2, 1), value)
    except (ValueError, TypeError, KeyError):
        kind = {"I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}[mode]
        image = Image.frombytes(mode, (2, 1), np.array([value, value], kind).tobytes())
    frame = to_rgb(image)
    assert frame.dtype == np.uint8 and frame.tolist() == [[list(expected)] * 2]


def test_every_mode_of_pillow_is_handled():
    for mode in Image.MODES:
        image = Image.new(mode, (2, 3))
        if mode in ("LAB", "I"):
            with pytest.raises(ValueError, match="save it "):
                to_rgb(image)
        else:
            assert to_rgb(image).shape == (3, 2, 3)


def test_32_bit_integers_are_rejected_and_16_bit_ones_are_read(tmp_path):
    values = np.array([[0, 257, 65535, 70000]], np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    rejected(tmp_path / "a.tif", "32-bit", "save it with 8 or 16 bits")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + values[0, :3].astype(">u2").tobytes())
    with Image.open(tmp_path / "a.pgm") as image:
        assert image.mode in ("I", "I;16")
    assert read_video(tmp_path / "a.pgm", 1)[0, 0, :, 0].tolist() == [0, 1, 255]
    (tmp_path / "b.pgm").write_bytes(b"P5 3 1 1023\n" + np.array([0, 1023, 512], ">u2").tobytes())
    assert read_video(tmp_path / "b.pgm", 1)[0, 0, :, 0].tolist() == [0, 255, 128]


def test_a_16_bit_ramp_is_linear():
    """tests/cases/img/grey16.png: 0 to 65535. ffmpeg dithers, so that it may be 1 away."""
    frame = read_video(CASES / "grey16.png", 1)[0]
    with Image.open(CASES / "grey16.png") as image:
        values = np.asarray(image).astype(int)
        expected = decoded_by_ffmpeg(CASES / "grey16.png", image.size)[0]
    assert (values.min(), values.max()) == (0, 65535)
    np.testing.assert_array_equal(frame[..., 0], (2 * values + 257) // 514)
    assert np.abs(frame.astype(int) - expected).max() <= 1 and abs(frame.mean() - 127.5) < 1


@pytest.mark.parametrize("ending", ["png", "tiff", "ppm"])
@pytest.mark.parametrize("pixels, channels", [("rgb48le", 3), ("gray16le", 1)])
def test_16_bits_compared_with_ffmpeg(tmp_path, ending, pixels, channels):
    values = np.random.default_rng(0).integers(0, 65536, (16, 32, channels)).astype("<u2")
    path = tmp_path / f"a.{ending if channels == 3 or ending != 'ppm' else 'pgm'}"
    ffmpeg(
        "-f",
        "rawvideo",
        "-pix_fmt",
        pixels,
        "-s",
        "32x16",
        "-i",
        "-",
        "-frames:v",
        1,
        path,
        input=values.tobytes(),
    )
    frame = read_video(path, 1)[0].astype(int)
    assert np.abs(frame - values / 257).max() <= (1 if channels == 3 else 0.5)
    assert np.abs(frame - decoded_by_ffmpeg(path, (32, 16))[0]).max() <= 2  # which dithers


@pytest.mark.parametrize(
    "bits, white_is_zero, data, expected",
    [
        (12, False, bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]), [255, 0, 128, 0]),  # 4095, 0, 2048, 0
        (16, False, struct.pack("<4H", 65535, 0, 257, 32896), [255, 0, 1, 128]),
        (16, True, struct.pack("<4H", 65535, 0, 257, 32896), [0, 255, 254, 127]),
    ],
)
def test_white_of_a_grey_tiff(tmp_path, bits, white_is_zero, data, expected):
    entries = [
        (256, 4),
        (257, 1),
        (258, bits),
        (259, 1),
        (262, 1 - white_is_zero),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(data)),
    ]
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    (tmp_path / "a.tif").write_bytes(
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries))
        + directory
        + bytes(4)
    )
    assert read_video(tmp_path / "a.tif", 1)[0, 0, :, 0].tolist() == expected


# Orientation and order


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_orientation_is_applied_in_every_format(tmp_path, ending):
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:8, :16], picture[8:, 16:] = (200, 0, 0), (0, 0, 200)
    turned = {
        1: picture,
        3: np.rot90(picture, 2),
        6: np.rot90(picture, -1),
        8: np.rot90(picture),
        2: picture[:, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        7: np.rot90(picture, 2).transpose(1, 0, 2),
    }
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = dict(tiffinfo={274: orientation}) if ending == "tif" else dict(exif=exif)
        if ending == "jpg":
            options |= dict(quality=100, subsampling=0)
        save(tmp_path / f"a.{ending}", [Image.fromarray(picture)], **options)
        frame = read_video(tmp_path / f"a.{ending}", 1)[0]
        assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).max() < 12, orientation


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_damaged_exif_means_no_orientation(tmp_path, ending, exif):
    plain().save(tmp_path / f"a.{ending}", exif=exif, **(dict(lossless=True) if ending == "webp" else {}))
    assert which(read_video(tmp_path / f"a.{ending}", 1)) == which(read_video(tmp_path, 1)) == [0]


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_invalid_orientation_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain().save(tmp_path / "1.jpg", exif=exif)
    plain().save(tmp_path / "2.jpg")
    assert read_video(tmp_path, 2).shape == (2, 8, 16, 3)


def test_sizes_are_compared_upright():
    frames = read_video(CASES / "fold_upright", 3)
    assert frames.shape == (3, 96, 64, 3)
    message = None
    for num_frames in (1, 2, 8):
        with pytest.raises(ValueError) as caught:
            read_video(CASES / "fold_mixed", num_frames)
        message = str(caught.value)
        assert message.startswith(str(CASES / "fold_mixed" / "2.jpg"))
    sizes = []
    for name in ("1.jpg", "2.jpg"):
        _, height, width, _ = read_video(CASES / "fold_mixed" / name, 1).shape
        sizes.append(f"{width} x {height}")
    assert sizes[0] != sizes[1] and all(size in message for size in sizes) and "1.jpg" in message


def test_an_orientation_stored_after_the_pixels_of_a_png_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(4):
        plain(size=(8, 16)).save(tmp_path / f"{i}.png")
    for i in (1, 3):
        plain(size=(16, 8)).save(tmp_path / f"{i}.png")
        data, block = (tmp_path / f"{i}.png").read_bytes(), b"eXIf" + exif.tobytes()[6:]
        chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
        (tmp_path / f"{i}.png").write_bytes(data[:-12] + chunk + data[-12:])
    for num_frames in (1, 2, 4):
        assert read_video(tmp_path, num_frames).shape == (num_frames, 16, 8, 3)


def test_natural_order_ignores_case(tmp_path):
    names = ["IMG1.png", "img2.PNG", "IMG3.png", "img10.png", "Img20.png"]
    for name in names[::-1]:
        plain().save(tmp_path / name, format="png")
    assert [os.path.basename(path) for path in list_images(str(tmp_path))] == names


# Rejected files


@posix
def test_a_fifo_or_a_device_in_a_folder_is_rejected_and_a_subfolder_is_skipped(tmp_path):
    plain().save(tmp_path / "1.png")
    (tmp_path / "inner.png").mkdir()
    os.mkfifo(tmp_path / "pipe")  # no ending of an image: none of our files
    assert read_video(tmp_path, 1).shape == (1, 8, 16, 3)
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(ValueError, match="2.png: not a regular file"):
        read_video(tmp_path, 1)
    os.remove(tmp_path / "2.png")
    os.symlink("/dev/zero", tmp_path / "2.png")
    with pytest.raises(ValueError, match="2.png: not a regular file"):
        read_video(tmp_path, 1)
    os.remove(tmp_path / "2.png")
    os.symlink("nowhere", tmp_path / "2.png")
    with pytest.raises(OSError, match="2.png: no such file"):
        read_video(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.avif", "a.bmp", "a.ppm", "a.ico"]
)
@pytest.mark.parametrize("several", [False, True])
def test_damage_is_reported_in_one_line_with_the_name_of_the_file(tmp_path, name, several):
    if several and name not in (*TIMED, "a.tif"):
        pytest.skip("a still")
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    path = save(tmp_path / name, [Image.fromarray(frame) for frame in noise[: 1 + several]])
    data = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        rejected(path)
        with pytest.raises(ValueError, match=f"{name}: "):
            read_video(tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(60):  # bytes changed: read, or refused in one line
        changed = np.frombuffer(data, np.uint8).copy()
        changed[rng.integers(0, len(data) if rng.random() < 0.5 else 120, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_video(path, 2).dtype == np.uint8
            except (ValueError, OSError) as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)


def bomb(path, width, height):
    """Write a grey PNG of zeros, whose data are 1000 times smaller than its pixels."""
    rows, compress = min(height, 100), zlib.compressobj(9)
    # A full flush makes the compressed rows independent of those before, so that they can be repeated.
    blocks = [compress.compress(bytes((1 + width) * rows)) + compress.flush(zlib.Z_FULL_FLUSH) for _ in "ab"]
    checksum = (1 + width) * height % 65521 << 16 | 1  # Adler-32 of zeros
    data = blocks[0] + blocks[1] * (height // rows - 1) + b"\x03\0" + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return write_png(path, [(b"IHDR", header), (b"IDAT", data)])


@pytest.mark.parametrize("width, height", [(13_000, 13_000), (100_000, 1_000), (1_000, 100_000)])
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_decompression_bomb_is_rejected_before_it_is_decoded(
    tmp_path, monkeypatch, width, height, in_folder
):
    path = bomb(tmp_path / "bomb.png", width, height)
    assert path.stat().st_size < 200_000
    monkeypatch.setattr(Image.Image, "load", None)  # not decoded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=f"bomb.png: {width} x {height} pixels are more than {MAX_PIXELS}"
        ):
            read_video(tmp_path if in_folder else path)


def test_an_animation_of_many_giant_frames_is_rejected(tmp_path):
    """80 KB: a canvas of 9000 x 9000, and 2000 frames of one pixel each."""
    frames = gif_frame(0, 0, np.zeros((1, 1), int), 1, 1) * 2000
    head = b"GIF89a" + struct.pack("<HHBBB", 9000, 9000, 0xF7, 0, 0) + bytes(768)
    (tmp_path / "a.gif").write_bytes(head + frames + b";")
    rejected(tmp_path / "a.gif", "2000 frames of 9000 x 9000", "convert it to a video")


def test_a_larger_bomb_is_rejected_by_pillow(tmp_path):
    rejected(bomb(tmp_path / "bomb.png", 20_000, 20_000), "400000000 pixels", "scale it down")


@pytest.mark.parametrize("num_frames", [8, 1000])
def test_memory_is_estimated_before_an_image_is_decoded(tmp_path, monkeypatch, num_frames):
    """1000 x 1000 pixels: 16 bytes each while it is read, 3 for each frame."""
    path, need = bomb(tmp_path / "a.png", 1000, 1000), 10**6 * (16 + 3 * num_frames)
    monkeypatch.setattr(resources, "available_memory", lambda: need - 1)
    rejected(path, f"{num_frames} frames of 1000 x 1000", "of memory", "fewer frames", num_frames=num_frames)
    monkeypatch.setattr(resources, "available_memory", lambda: need)
    if num_frames == 8:
        assert read_video(path, num_frames).shape == (8, 1000, 1000, 3)


@pytest.mark.parametrize("name", ["", "a.png", "a.gif"])
def test_any_number_of_frames_is_read_or_rejected_at_once(tmp_path, name):
    path = save(tmp_path / (name or "a.png"), [plain(), plain(COLOURS[1])][: 1 + (name == "a.gif")])
    rejected(
        path if name else tmp_path, "2000000000 frames", "of memory", "fewer frames", num_frames=2 * 10**9
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, frames, copies", [("a.png", 1, 4), ("a.png", 3, 12), ("a.gif", 3, 12), ("a.webp", 3, 12)]
)
def test_the_memory_estimate_is_an_upper_bound(tmp_path, monkeypatch, name, frames, copies):
    """The peak of a process that reads transparent, turned pictures is below the estimate."""
    side, T = 1000, 4
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [Image.new("RGBA", (side, side), (9 * i, 9, 9, 99)) for i in range(frames)]
    save(
        tmp_path / name,
        pictures,
        **({} if name == "a.gif" else dict(exif=exif)),
        **({} if frames == 1 or name == "a.webp" else dict(disposal=3 - (name == "a.png"))),
    )
    need = side * side * (4 * copies + 3 * T)
    with monkeypatch.context() as patch:
        patch.setattr(resources, "available_memory", lambda: need - 1)
        rejected(tmp_path / name, f"{T} frames of {side} x {side}", "of memory", num_frames=T)
    code = (  # a first, small file loads all libraries
        "import sys, re; from minivideococa.media.video import read_video\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        f"read_video(sys.argv[1]); before = peak(); read_video(sys.argv[2], {T}); print(peak() - before)"
    )
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    small = save(tmp_path / f"small_{name}", [picture.resize((8, 8)) for picture in pictures])
    command = [sys.executable, "-W", "ignore", "-c", code, small, tmp_path / name]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert int(run.stdout) * 1024 < need


@pytest.mark.parametrize("where", ["load", "clip"])
def test_the_error_for_a_lack_of_memory_does_not_blame_the_image(tmp_path, monkeypatch, where):
    def fail(*_, **__):
        raise MemoryError

    plain().save(tmp_path / "a.png")
    monkeypatch.setattr(*((ImageFile.ImageFile, "load") if where == "load" else (images.np, "empty")), fail)
    assert "readable" not in rejected(tmp_path / "a.png", "out of memory", "scale it down")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_memory_does_not_grow_with_an_animation(tmp_path, name):
    code = (
        "import sys, re; from minivideococa.media.video import read_video\n"
        "for path in sys.argv[1:]:\n"
        "    read_video(path, 8)\n"
        "    print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    base = np.tile(np.random.default_rng(0).integers(0, 4, (48, 64), np.uint8) * 60, (5, 5))
    fast = {"a.webp": dict(lossless=True, method=0), "a.png": dict(compress_level=1)}.get(name, {})
    paths = []
    for n in (10, 110):  # 23 MB more, decoded
        pictures = [Image.fromarray(np.roll(base, i, 1)) for i in range(n)]
        paths.append(save(tmp_path / f"{n}_{name}", pictures, duration=50, **fast))
    run = subprocess.run([sys.executable, "-c", code, *paths], check=True, stdout=subprocess.PIPE)
    peaks = [int(line) for line in run.stdout.split()]
    assert peaks[1] - peaks[0] < 8 * 1024 + paths[1].stat().st_size // 512  # WebP's decoder holds the file


def test_images_that_are_not_sampled_are_not_decoded(tmp_path, monkeypatch):
    for i in range(9):
        plain().save(tmp_path / f"{i}.png")
    decoded = set()
    load = ImageFile.ImageFile.load

    def count(image):
        if image.fp:  # imageio opens a file object, which alone has the name
            decoded.add(os.path.basename(image.filename or image.fp.name))
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    read_video(tmp_path, 2)
    assert decoded == {"0.png", "2.png", "6.png"}  # the first for its size
