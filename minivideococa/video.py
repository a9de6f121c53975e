"""The video stage: a file or a folder of images in, T uniformly sampled frames `uint8 [T, H, W, 3]` out.

The frames are the middle ones of T equal segments of the clip, counted over the frames that a full decode
gives. ffmpeg decodes; only the T frames are kept, so memory does not grow with the length of the clip.
"""
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from .images import is_image, list_images, read_images

FIRST_VIDEO = ["-map", "0:V:0"]                              # V: cover art does not count
EVERY_FRAME = [*FIRST_VIDEO, "-fps_mode", "passthrough"]     # as decoded, whatever the timestamps say


def read_video(path: str | os.PathLike, num_frames: int = 8) -> np.ndarray:
    """Sample T = `num_frames` frames of a clip uniformly: uint8 `[T, H, W, 3]`, RGB.

    Frame i is number `floor((i + 0.5) * n / T)` of the clip's n frames; where n < T, frames repeat.
    `path` is a file that ffmpeg reads, a folder of images (in natural order of their names) or one image.
    Rotation metadata is honoured. A video's frames are bit for bit those of
    `ffmpeg -i FILE -fps_mode passthrough -pix_fmt rgb24`. Of a clip that breaks midway, what decodes is used.

    Raises FileNotFoundError if `path` is not there, ValueError if it holds no readable clip or
    `num_frames` < 1.
    """
    path = os.fspath(path)
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; ask for at least 1 frame")
    files_of(path)
    if os.path.isdir(path) or is_image(path):
        return read_images(path, num_frames, decode=lambda file: _decode(file, 1, 1, False)[0])

    # Packets are quick to count, and most clips have one for each frame. The decode tells whether that is so.
    copying = [*FIRST_VIDEO, "-c", "copy", "-copyinkf", "-f", "framecrc", "-"]
    count, *_ = _run_ffmpeg(path, _count_packets, *copying)
    select = True
    for _ in range(3):
        clip, decoded = _decode(path, max(count, 1), num_frames, select)
        if clip is not None:
            return clip
        count, select = decoded, decoded != count
    raise ValueError(f"{path}: each decode gives another number of frames, the file is damaged; re-encode it")


def files_of(path: str | os.PathLike) -> list[str]:
    """The files that a video is read from: itself, or the images of a folder (in natural order of their names).

    Raises FileNotFoundError if `path` is not there, ValueError for a folder without images, and for a pipe or a device.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if os.path.isdir(path):
        return list_images(path)
    if not os.path.isfile(path):                             # it is read more than once
        raise ValueError(f"{path}: neither a file nor a folder; save the video to a file")
    return [path]


def sample_indices(count: int, num_frames: int) -> np.ndarray:
    """The middle of each of T equal segments of n = `count` frames, floor((i + 0.5) * n / T): int64 `[T]`."""
    return (2 * np.arange(num_frames) + 1) * count // (2 * num_frames)


def _decode(path: str, count: int, num_frames: int, select: bool) -> tuple[np.ndarray | None, int]:
    """Decode a video that should have `count` frames.

    With `select` ffmpeg drops unwanted frames before it converts them to RGB. Its filter counts from 0 again
    where the picture format changes in mid-stream, so ffmpeg also reports the true number of each frame that
    it sends. Without `select` it sends every frame.

    Returns the sampled frames, or None if `count` or the filter was wrong; and the true count.
    """
    indices = sample_indices(count, num_frames)
    wanted = np.unique(indices).tolist()
    select = select and len(wanted) <= 64                    # ffmpeg's expressions may nest 100 deep

    def gather(stream: BinaryIO) -> np.ndarray | None:
        clip = None
        arriving = itertools.chain(wanted, itertools.repeat(-1)) if select else itertools.count()
        for index, frame in zip(arriving, _read_pictures(stream)):
            if clip is None:
                clip = np.empty((num_frames, *frame.shape), np.uint8)
            clip[indices == index] = frame
        return clip

    counting = [*EVERY_FRAME, "-f", "null", "-"]
    sending = [*EVERY_FRAME, "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"]
    if select:
        any_wanted = "+".join(f"eq(n,{index})" for index in wanted)
        sending += ["-vf", f"select='{any_wanted}'",
                    "-stats_enc_pre", "pipe:2", "-stats_enc_pre_fmt", "sent={ni}"]
    clip, decoded, sent, complaint = _run_ffmpeg(path, gather, *counting, *sending, "-")
    if decoded == 0:
        raise ValueError(f"{path}: ffmpeg finds no video in it ({complaint or 'no frame decodes'}); "
                         "give a video, a GIF, an image or a folder of images")
    right = decoded == count and (sent == wanted or not select)
    return clip if right else None, decoded


def _run_ffmpeg(path: str, consume: Callable[[BinaryIO], Any], *outputs: str
                ) -> tuple[Any, int, list[int], str]:
    """Run ffmpeg on a file.

    Returns what `consume` makes of its standard output, the number of frames that the first output was given,
    the numbers reported as `sent=`, and ffmpeg's first error message.
    """
    from imageio_ffmpeg import get_ffmpeg_exe

    # Given as an open file, no path is taken for an option, a protocol or a pattern of file names.
    command = [get_ffmpeg_exe(), "-nostdin", "-nostats", "-loglevel", "error", "-progress", "pipe:2",
               "-i", "fd:", *outputs]
    with (open(path, "rb") as file, tempfile.TemporaryFile("w+", errors="replace") as log,
          subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=log) as process):
        try:
            result = consume(process.stdout)
            process.wait()
        except BaseException:                                # Ctrl-C too
            process.kill()
            raise
        if process.returncode < 0:
            raise ValueError(f"{path}: signal {-process.returncode} ended ffmpeg on this file; re-encode it")
        log.seek(0)
        decoded, sent, complaint = 0, [], ""
        for line in log:
            key, _, value = line.strip().partition("=")
            if key == "frame":
                decoded = int(value)                         # a running total
            elif key == "sent":
                sent.append(int(value))
            elif " " in key and not complaint:
                complaint = re.sub(r"^(\[.*?\] )+", "", line.strip())
    return result, decoded, sent, complaint


def _count_packets(stream: BinaryIO) -> int:
    """framecrc output: comments, and one line for each packet."""
    return sum(not line.startswith(b"#") for line in stream)


def _read_pictures(stream: BinaryIO) -> Iterator[np.ndarray]:
    """PPM pictures (lines `P6`, `W H`, `255`, then the pixels) to the stream's end, uint8 `[H, W, 3]`."""
    while stream.readline():
        width, height = map(int, stream.readline().split())
        stream.readline()
        pixels = stream.read(height * width * 3)
        if len(pixels) < height * width * 3:                 # ffmpeg was ended
            return
        yield np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
