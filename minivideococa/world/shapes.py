"""Write clips of the synthetic world as files, with a manifest of their ground truth.

`write_shapes` writes mp4 files, as people have them; `write_questions` writes clips with questions to train
on: animated PNGs, which are read exactly as they were drawn.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..evaluation.manifest import Entry, write_manifest
from ..media.ffmpeg import ffmpeg_path, no_ffmpeg
from ..media.video import read_packets
from ..model.config import check_int
from ..output import atomic_folder
from ..progress import Progress, no_progress
from ..resources import require_memory
from .captions import caption_of, question_of
from .clips import CLIP_SETS, Clip, caption_throughout, draw_clip, sample_clip
from .questions import ASKED, Question, Wordings, sample_questions
from .scenes import SHAPES

MANIFEST = "manifest.jsonl"
ANSWERS = "answers.txt"  # of the questions, one per line: the shapes
FPS = 8
SCALE = 4  # each pixel becomes 4 x 4, so that chroma subsampling blurs none
TIMEOUT = 60  # seconds that ffmpeg may take for a clip, plus one per frame
FRAME_BYTES = 1_000_000  # upper bound of the memory per frame while a clip is written
CAPTIONS = 5  # per clip, at most: the plain one and random ones

# BT.709 colours, tagged as such; one thread and no encoder version, so that the same frames give the same
# bytes
ENCODING = [
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+bitexact"),
    *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "10", "-threads", "1"),
    *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"),
]


def write_shapes(
    folder: str | os.PathLike[str],
    count: int = 200,
    seed: int = 0,
    frames: int = 16,
    *,
    progress: Progress = no_progress,
) -> Path:
    """Write `count` clips, of each of the `CLIP_SETS` in turn; return the path of their manifest.

    The clips are 0000.mp4 and so on: `frames` frames of 256 x 256 pixels at 8 frames per second, H.264. Their
    entries have captions, a label if one object is shown, and a question with its answer; answers.txt lists
    the possible answers, one per line. A clip and its entry depend on the seed and the clip's number only: a
    larger `count` adds clips, and the same machine writes the same bytes. `progress` is called once, with
    "clips".

    The folder is written as a whole or not at all. Raises ValueError if `folder` is not empty or a number is
    out of range, OSError if a file cannot be written or there is no ffmpeg.
    """
    count, seed = check_int("count", count, 1), check_int("seed", seed, 0)
    frames = check_int("frames", frames, 2)  # one frame cannot show one object after another
    require_memory(frames * FRAME_BYTES, f"a clip of {frames} frames", "give fewer frames")
    kinds = list(CLIP_SETS)
    with atomic_folder(folder) as partial, progress(count, "clips") as update:
        entries = []
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            clip = sample_clip(kinds[i % len(kinds)], rng, frames)
            video = partial / f"{i:04}.mp4"
            write_video(video, draw_clip(clip))
            entries.append(entry_of(video, clip, rng))
            update(1)
        write_manifest(partial / MANIFEST, entries)
        (partial / ANSWERS).write_text("".join(f"{shape}\n" for shape in SHAPES), encoding="utf-8")
    return Path(folder) / MANIFEST


def entry_of(video: Path, clip: Clip, rng: np.random.Generator) -> Entry:
    """Return the manifest's entry of a clip. Its captions are all different, and true in every frame."""
    captions = captions_of(clip, rng)
    labels = (caption_of(clip.first),) if len(clip.first) == 1 else ()
    return Entry(video, captions, labels, *question_of(clip.first, rng))


def captions_of(clip: Clip, rng: np.random.Generator) -> tuple[str, ...]:
    """Return at most CAPTIONS different sentences that are true in every frame, the plain one first."""
    sentences = [caption_of(clip.first), *(caption_throughout(clip, rng) for _ in range(CAPTIONS - 1))]
    return tuple(dict.fromkeys(sentences))


def write_questions(
    folder: str | os.PathLike[str],
    count: int = 700,
    seed: int = 0,
    frames: int = 8,
    *,
    split: Literal["train", "test"] = "train",
    wordings: Wordings = "training",
    kinds: Sequence[str] = ASKED,
    progress: Progress = no_progress,
) -> Path:
    """Write `count` clips for questions of each of the `kinds` in turn; return the path of their manifest.

    The clips are 0000.png and so on: animated PNGs of `frames` frames of 64 x 64 pixels, 8 per second. Their
    frames are read exactly as they were drawn. A clip has one entry for each question of `sample_questions`,
    with the kind as the question's type; the first also has the captions. In clips of one object after
    another these are "a red circle then a blue star". `split` and `wordings` are those of `questions.py`.

    As in `write_shapes`, a clip and its entries depend on the seed, the clip's number and the other arguments
    only, and the folder is written as a whole or not at all. Raises as `write_shapes`, and as
    `sample_questions`.
    """
    count, seed, frames = (
        check_int("count", count, 1),
        check_int("seed", seed, 0),
        check_int("frames", frames),
    )
    require_memory(frames * FRAME_BYTES, f"a clip of {frames} frames", "give fewer frames")
    with atomic_folder(folder) as partial, progress(count, "clips") as update:
        entries: list[Entry] = []
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            clip, questions = sample_questions(kinds[i % len(kinds)], rng, frames, split, wordings)
            video = partial / f"{i:04}.png"
            write_animation(video, draw_clip(clip))
            entries += entries_of(video, clip, questions, rng)
            update(1)
        write_manifest(partial / MANIFEST, entries)
    return Path(folder) / MANIFEST


def entries_of(
    video: Path, clip: Clip, questions: Sequence[Question], rng: np.random.Generator
) -> Iterator[Entry]:
    """Yield the manifest's entry of each question about a clip. The first one has the captions."""
    together = bool(clip.visible.all(axis=0).any())
    captions = captions_of(clip, rng) if together else (caption_of(clip.first, "then"),)
    for i, q in enumerate(questions):
        yield Entry(video, () if i else captions, question=q.question, answer=q.answer, question_type=q.kind)


def write_animation(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write uint8 frames `[T, H, W, 3]` as an animated PNG, without loss, at 8 frames per second.

    Pillow joins equal frames to one of a longer duration, unless they differ in how they are blended; opaque
    frames look the same in both ways. So T frames stay T frames. Raises OSError if it cannot be written.
    """
    from PIL import Image

    first, *others = map(Image.fromarray, frames)
    blend = [i % 2 for i in range(len(frames))]
    options = dict(append_images=others, duration=1000 // FPS, loop=0, blend=blend, compress_level=1)
    first.save(path, "PNG", save_all=True, **options)


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Write uint8 frames `[T, H, W, 3]` as an mp4, four times as large, at 8 frames per second.

    Raises OSError if ffmpeg fails, does not end, or does not leave a video of T frames.

    When read back, the mean of a pixel's 4 x 4 is off by 1.1 of 255 levels on average (200 clips; 13 at
    most).
    """
    frames = frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(FPS), "-i", "-"]
    command = [ffmpeg_path(), "-y", "-loglevel", "error", *source, *ENCODING, "-f", "mp4", f"file:{path}"]
    _run_ffmpeg(command, path, frames)
    try:  # a status of 0 is no proof: count the frames
        written = len(read_packets(str(path)).shown)
    except (OSError, ValueError):
        written = 0
    if written != len(frames):
        raise OSError(
            f"{path}: cannot be written: ffmpeg ends without an error, but {written} of {len(frames)} frames "
            f"are there; check the ffmpeg at {command[0]}"
        )


def _run_ffmpeg(command: list[str], path: Path, frames: NDArray[np.uint8]) -> None:
    """Run ffmpeg with the frames on its standard input. Raises OSError if it fails or does not end."""
    timeout = TIMEOUT + len(frames)
    try:
        result = subprocess.run(command, input=frames.tobytes(), capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise OSError(f"{path}: cannot be written: ffmpeg does not end ({timeout} seconds)") from None
    except OSError as error:
        raise no_ffmpeg(command[0], error.strerror) from None
    if result.returncode:
        message = result.stderr.decode(errors="replace").strip()
        message = message or f"ffmpeg ends with status {result.returncode}"
        raise OSError(f"{path}: cannot be written: " + message.split("\n")[0])
