"""Measure how well `minivideococa.world.in_world` separates clips of the synthetic world from real footage.

    python weights/measure_in_world.py FOLDER      print the error rates
    python weights/measure_in_world.py --fit       fit the statistics again and write tiny/in_world.npz

FOLDER holds real footage: FOLDER/GROUP/SOURCE/FILE. Files of one source are not independent, such as the
parts of one video. The synthetic clips are of all `CLIP_SETS`, 16 frames each, from seeds that training never
used, in three forms in turn: the frames as drawn, as the mp4 that `shapes` writes, and as a GIF. Intervals
are 95%, by bootstrap over clips, and over sources for real footage.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import minivideococa as mvc
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.media.video import sample_indices
from minivideococa.model.config import Video
from minivideococa.world import CLIP_SETS, draw_clip, in_world, sample_clip
from minivideococa.world.detection import STATISTICS, distance
from minivideococa.world.shapes import write_video

Array = NDArray[Any]
Setup = tuple[int, str]  # T and adapter
Errors = dict[str, dict[Setup, dict[str, list[bool]]]]  # group -> setup -> source -> is each file wrong?

FRAMES = 16
FIT_SEED, LIMIT_SEED, TEST_SEED = 8192, 8193, 8194
FITTED = [(1, "attentional"), (8, "attentional"), (16, "attentional"), (8, "mean")]
MEASURED = [*FITTED, (4, "attentional"), (8, "joint")]
CAPTIONED = (8, "attentional, with the caption")
LIMIT = 350  # of the distance, see README.md
RIDGE = 1e-3  # of the mean variance, added to every variance


def encode(model: mvc.VideoCoCa, frames: Array, setups: Sequence[Setup]) -> dict[Setup, Video]:
    """Encode the 16 frames of a clip in several setups. Each frame is encoded once, but for "joint"."""
    pixels = model.preprocess(frames)
    tokens, videos = model.encode_frames(pixels), {}
    for T, adapter in setups:
        indices = sample_indices(len(frames), T)
        if adapter == "joint":
            videos[T, adapter] = model.encode_video(pixels[indices], adapter)
        else:
            videos[T, adapter] = model.pool(tokens[indices], adapter)
    return videos


def synthetic_clips(seed: int, count: int) -> Iterator[tuple[str, Array]]:
    """Yield the form and the frames uint8 `[16, H, W, 3]` of `count` clips."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            kind = list(CLIP_SETS)[i % len(CLIP_SETS)]
            frames = draw_clip(sample_clip(kind, np.random.default_rng([seed, i]), FRAMES))
            form = ("drawn", "mp4", "gif")[i // len(CLIP_SETS) % 3]
            if form == "mp4":
                path = Path(folder) / f"{i}.mp4"
                write_video(path, frames)
                frames = mvc.read_video(path, FRAMES)
            elif form == "gif":
                images = [Image.fromarray(frame).quantize() for frame in frames]
                frames = np.stack([np.asarray(image.convert("RGB")) for image in images])
            yield form, frames


def fit(model: mvc.VideoCoCa, count: int) -> None:
    """Fit the Gaussian to `count` clips and write it; print the distances of half as many other clips."""
    videos = [v for _, x in synthetic_clips(FIT_SEED, count) for v in encode(model, x, FITTED).values()]
    means = np.stack([video.tokens.mean(axis=0) for video in videos]).astype(np.float64)
    mean, covariance = means.mean(axis=0), np.cov(means.T)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv(covariance)
    held_out = [
        distance(video, mean, precision)
        for _, frames in synthetic_clips(LIMIT_SEED, count // 2)
        for video in encode(model, frames, FITTED).values()
    ]
    np.savez(
        embedded_checkpoint() / STATISTICS,
        mean=mean.astype(np.float32),
        precision=precision.astype(np.float32),
        limit=np.float32(LIMIT),
    )
    print(
        "distances of other clips, quantiles:",
        ", ".join(f"{q} {np.quantile(held_out, q):.0f}" for q in (0.5, 0.9, 0.95, 0.99, 1)),
    )


def error_rate(errors: list[list[bool]]) -> str:
    """Return the error rate, given the errors of each source, with its interval by bootstrap over sources."""
    sums, sizes = np.array([sum(source) for source in errors]), np.array([len(source) for source in errors])
    samples = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[samples].sum(axis=1) / sizes[samples].sum(axis=1), (0.025, 0.975))
    return f"{sums.sum() / sizes.sum():.3f} ({low:.3f}-{high:.3f})"


def measure_synthetic(model: mvc.VideoCoCa, count: int, errors: Errors) -> None:
    """Add the errors on `count` synthetic clips: those that `in_world` rejects."""
    for i, (form, frames) in enumerate(synthetic_clips(TEST_SEED, count)):
        videos = encode(model, frames, MEASURED)
        for setup, video in videos.items():
            errors[f"world, {form}"][setup][str(i)].append(not in_world(video))
        video = videos[8, "attentional"]
        errors[f"world, {form}"][CAPTIONED][str(i)].append(not in_world(video, model.caption(video)))


def measure_footage(model: mvc.VideoCoCa, folder: Path, errors: Errors) -> list[str]:
    """Add the errors on real footage: the files that `in_world` accepts. Return these with their captions."""
    accepted = []
    for path in sorted(folder.glob("*/*/*")):
        group, source = path.parts[-3:-1]
        videos = encode(model, mvc.read_video(path, FRAMES), MEASURED)
        for setup, video in videos.items():
            errors[group][setup][source].append(in_world(video))
        video = videos[8, "attentional"]
        caption = model.caption(video)
        errors[group][CAPTIONED][source].append(in_world(video, caption))
        if in_world(video):
            accepted.append(f"{path.relative_to(folder)}: {caption}")
    return accepted


def main() -> None:
    """Print the table, or fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="real footage, FOLDER/GROUP/SOURCE/FILE")
    parser.add_argument("--fit", action="store_true", help="fit the statistics again")
    parser.add_argument("--count", type=int, default=720, help="synthetic clips (default: 720)")
    args = parser.parse_args()
    model = mvc.load()
    if args.fit:
        fit(model, args.count)
        return
    errors: Errors = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    measure_synthetic(model, args.count, errors)
    accepted = measure_footage(model, args.folder, errors) if args.folder else []
    setups = (*MEASURED, CAPTIONED)
    columns = [f"T = {T}, {adapter}" for T, adapter in setups]
    print("| error rates | clips | sources | " + " | ".join(columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for group, by_setup in errors.items():
        sources = by_setup[MEASURED[0]].values()
        cells = [error_rate(list(by_setup[setup].values())) for setup in setups]
        print(f"| {group} | {sum(map(len, sources))} | {len(sources)} | " + " | ".join(cells) + " |")
    print("\nfootage that looks synthetic at T = 8, and its caption:", *accepted, sep="\n  ")


if __name__ == "__main__":
    main()
