"""Measure how well `minivideococa.world.in_world` tells the world's clips from real footage.

    python weights/measure_in_world.py FOLDER      print the rates of wrong judgements
    python weights/measure_in_world.py --fit       fit the statistics anew: tiny/in_world.npz

FOLDER holds real footage: FOLDER/GROUP/SOURCE/FILE, where a source is what counts once, such as a video that was cut into
files. World clips are of all CLIP_SETS, 16 frames each, from seeds that training never used: the frames as drawn, as the
mp4 that `shapes` writes, and as a GIF, by turns. Intervals are 95%, by bootstrap: over clips, and for footage over sources.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import minivideococa as mvc
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.media.video import sample_indices
from minivideococa.model.pooling import mean_pool
from minivideococa.model.config import Video
from minivideococa.world import CLIP_SETS, draw_clip, in_world, sample_clip
from minivideococa.world.judgement import STATISTICS, distance
from minivideococa.world.shapes import write_video

FRAMES = 16
FIT_SEED, LIMIT_SEED, TEST_SEED = 8192, 8193, 8194
FITTED = [(1, "attentional"), (8, "attentional"), (16, "attentional"), (8, "mean")]  # T and adapter
MEASURED = [*FITTED, (4, "attentional"), (8, "joint")]
CAPTIONED = (8, "attentional, with the caption")
LIMIT = 350  # of the distance: see README.md
RIDGE = 1e-3  # of the mean variance, added to each


def ways(
    model: mvc.VideoCoCa, frames: np.ndarray, which: list[tuple[int, str]]
) -> dict[tuple[int, str], Video]:
    """A clip's 16 frames -> the video by each T and adapter. Frames are encoded once, except for the joint encoder."""
    pixels, visual, config = model.preprocess(frames), model.params["visual"], model.config.vision
    tokens, videos = model.encode_frames(pixels), {}
    for T, adapter in which:
        some = sample_indices(len(frames), T)
        if adapter == "attentional":
            videos[T, adapter] = model.pool(tokens[some])
        elif adapter == "mean":
            videos[T, adapter] = Video(*mean_pool(tokens[some], visual, config))
        else:
            videos[T, adapter] = model.encode_video(pixels[some], adapter)
    return videos


def world_clips(seed: int, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """`count` clips: (how it was stored, frames uint8 [16, H, W, 3])."""
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
                pictures = [Image.fromarray(frame).quantize() for frame in frames]
                frames = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
            yield form, frames


def fit(model: mvc.VideoCoCa, count: int) -> None:
    """Fit the Gaussian to `count` clips and write it with the limit; print the distances of half as many others."""
    videos = [v for _, frames in world_clips(FIT_SEED, count) for v in ways(model, frames, FITTED).values()]
    means = np.stack([video.tokens.mean(axis=0) for video in videos]).astype(np.float64)
    mean, covariance = means.mean(axis=0), np.cov(means.T)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    precision = np.linalg.inv(covariance)
    others = [
        distance(v, mean, precision)
        for _, frames in world_clips(LIMIT_SEED, count // 2)
        for v in ways(model, frames, FITTED).values()
    ]
    np.savez(
        embedded_checkpoint() / STATISTICS,
        mean=mean.astype(np.float32),
        precision=precision.astype(np.float32),
        limit=np.float32(LIMIT),
    )
    print(
        "distances of other clips, quantiles:",
        ", ".join(f"{q} {np.quantile(others, q):.0f}" for q in (0.5, 0.9, 0.95, 0.99, 1)),
    )


def rate(wrong: list[list[bool]]) -> str:
    """The share of wrong judgements, by source, with its interval: sources drawn again with replacement."""
    sums, sizes = np.array([sum(source) for source in wrong]), np.array([len(source) for source in wrong])
    drawn = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (0.025, 0.975))
    return f"{sums.sum() / sizes.sum():.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Print the table, or fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="real footage, FOLDER/GROUP/SOURCE/FILE")
    parser.add_argument("--fit", action="store_true", help="fit the statistics anew")
    parser.add_argument("--count", type=int, default=720, help="clips of the world (default: 720)")
    args = parser.parse_args()
    model = mvc.load()
    if args.fit:
        fit(model, args.count)
        return
    wrong: dict[str, dict[tuple[int, str], dict[str, list[bool]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )  # group -> way -> source -> judgements
    for i, (form, frames) in enumerate(world_clips(TEST_SEED, args.count)):
        videos = ways(model, frames, MEASURED)
        for way, video in videos.items():
            wrong[f"world, {form}"][way][str(i)].append(not in_world(video))
        video = videos[8, "attentional"]
        wrong[f"world, {form}"][CAPTIONED][str(i)].append(not in_world(video, model.caption(video)))
    named = []
    for path in sorted(args.folder.glob("*/*/*")) if args.folder else []:
        videos = ways(model, mvc.read_video(path, FRAMES), MEASURED)
        for way, video in videos.items():
            wrong[path.parts[-3]][way][path.parts[-2]].append(in_world(video))
        video = videos[8, "attentional"]
        caption = model.caption(video)
        wrong[path.parts[-3]][CAPTIONED][path.parts[-2]].append(in_world(video, caption))
        if in_world(video):
            named.append(f"{path.relative_to(args.folder)}: {caption}")
    print(
        "| judged wrong | clips | sources | "
        + " | ".join(f"T = {T}, {adapter}" for T, adapter in (*MEASURED, CAPTIONED))
        + " |"
    )
    print("|---" * (4 + len(MEASURED)) + "|")
    for group, by_way in wrong.items():
        sources = by_way[MEASURED[0]].values()
        cells = [rate(list(by_way[way].values())) for way in (*MEASURED, CAPTIONED)]
        print(f"| {group} | {sum(map(len, sources))} | {len(sources)} | " + " | ".join(cells) + " |")
    print("\nfootage that is taken for the world's at T = 8, and its caption:", *named, sep="\n  ")


if __name__ == "__main__":
    main()
