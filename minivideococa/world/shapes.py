"""Write clips of the world as files that every player reads, with a manifest of what is true of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np

from ..evaluation.manifest import Entry, write_manifest
from ..media.video import ffmpeg_path, no_ffmpeg, read_packets
from ..model.arguments import whole
from ..output import atomic_folder
from ..progress import advance
from ..resources import require_memory
from .captions import caption_of, question_of
from .clips import CLIP_SETS, Clip, caption_throughout, draw_clip, sample_clip

MANIFEST = "manifest.jsonl"
FPS = 8
ENLARGED = 4  # each pixel becomes 4 x 4, so that halving the colours' resolution blurs none
TIMEOUT = 60  # seconds that ffmpeg may take for a clip, and one for each frame
FRAME_BYTES = 1_000_000  # of memory that a frame takes while its clip is written, at most
CAPTIONS = 5  # of a clip, at most: the plain one, and what chance adds to it

# BT.709 colours, said in the file; one thread and no version's name, so that the same frames give the same bytes
ENCODING = [
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bitexact",
    "-c:v",
    "libx264",
    "-pix_fmt",
    "yuv420p",
    "-crf",
    "10",
    "-threads",
    "1",
    "-fflags",
    "+bitexact",
    "-flags:v",
    "+bitexact",
    "-movflags",
    "+faststart",
]


def write_shapes(folder: str | os.PathLike[str], count: int = 200, seed: int = 0, frames: int = 16) -> Path:
    """Write `count` clips, of each of the CLIP_SETS in turn, and `manifest.jsonl`, which is returned.

    0000.mp4 and so on: `frames` frames of 256 x 256 pixels, 8 a second, H.264. Their entries have captions, a label where
    one object is shown, and a question with its answer. A clip and its entry follow from the seed and the clip's number: more
    clips begin with the same ones, and the same machine makes the same bytes.

    Written as a whole or not at all. Raises ValueError if `folder` holds something or a number is out of range, OSError
    if a file cannot be written or there is no ffmpeg.
    """
    count, seed = whole("count", count, 1), whole("seed", seed, 0)
    frames = whole("frames", frames, 2)  # one frame cannot show two objects after each other
    require_memory(frames * FRAME_BYTES, f"a clip of {frames} frames", "give fewer frames")
    kinds = list(CLIP_SETS)
    with atomic_folder(folder) as made:
        entries = []
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            clip = sample_clip(kinds[i % len(kinds)], rng, frames)
            video = made / f"{i:04}.mp4"
            write_video(video, draw_clip(clip))
            entries.append(entry_of(video, clip, rng))
            advance()
        write_manifest(made / MANIFEST, entries)
    return Path(folder) / MANIFEST


def entry_of(video: Path, clip: Clip, rng: np.random.Generator) -> Entry:
    """What a manifest says of a clip. No caption says what is not true all the time, or comes twice."""
    captions = dict.fromkeys(
        [caption_of(clip.first), *(caption_throughout(clip, rng) for _ in range(CAPTIONS - 1))]
    )
    labels = (caption_of(clip.first),) if len(clip.first) == 1 else ()
    return Entry(video, tuple(captions), labels, *question_of(clip.first, rng))


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write uint8 frames [T, H, W, 3] to an mp4, four times as large and 8 a second.

    Raises OSError if ffmpeg fails, does not end, or does not leave a video of T frames.

    Read back, the mean of a pixel's 4 x 4 is off by 1.1 of 255 levels on average (200 clips of the world; 13 at most).
    """
    frames = frames.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{frames.shape[2]}x{frames.shape[1]}",
        "-r",
        str(FPS),
        "-i",
        "-",
    ]
    command = [ffmpeg_path(), "-y", "-loglevel", "error", *source, *ENCODING, "-f", "mp4", f"file:{path}"]
    try:
        result = subprocess.run(
            command, input=frames.tobytes(), capture_output=True, timeout=TIMEOUT + len(frames)
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(
            f"{path}: cannot be written: ffmpeg does not end ({error.timeout:.0f} seconds)"
        ) from None
    except OSError as error:
        raise no_ffmpeg(command[0], error.strerror) from None
    if result.returncode:
        complaint = (
            result.stderr.decode(errors="replace").strip() or f"ffmpeg ends with status {result.returncode}"
        )
        raise OSError(f"{path}: cannot be written: " + complaint.split("\n")[0])
    try:  # a status of 0 alone is no proof: the frames are counted
        written = len(read_packets(str(path))[0])
    except (OSError, ValueError):
        written = 0
    if written != len(frames):
        raise OSError(
            f"{path}: cannot be written: ffmpeg ends without an error, but {written} of {len(frames)} frames are "
            f"there; check the ffmpeg at {command[0]}"
        )
