"""The memory that a process needs to caption 8 and 64 frames, and the growth of the encoder's time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from generate import leaves
from models import load_minivideococa
from race import Racer, median, race
from report import Section, seconds

FRAMES = 8, 64


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        racers = {
            f"{n} frames": stack.enter_context(Racer("memory.caption", str(folder), n, threads=threads))
            for n in FRAMES
        }
        turns = race(racers, rounds, warm_up=False)  # 64 frames take a minute
    few, many = turns.values()
    weights, growth = few[0]["weights"], median(many, "encoding") / median(few, "encoding")
    rows = []
    for name, mine in turns.items():
        highest = max(turn["peak"] for turn in mine)
        rows.append([name, megabytes(highest), megabytes(highest - weights), *seconds(mine, "encoding")])
    return Section(
        f"Memory: CoCa ViT-{model} float32, a caption from frames to text in a process of its own",
        ["", "peak", "beyond the weights", "encoder, seconds", "min - max"],
        rows,
        [
            f"The weights are {megabytes(weights)}; those that a caption does not use need not be in memory.",
            f"In the encoder {FRAMES[1]} frames take {growth:.2f} times as long as {FRAMES[0]}.",
        ],
        turns,
    )


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def caption(folder: str, frames: int) -> Callable[[], dict[str, float]]:
    """Return a function that captions and returns the process's peak and the weights' size, in bytes."""
    mvc = load_minivideococa(folder)
    weights = sum(w.nbytes for w in leaves(mvc.params))
    video = np.random.default_rng(0).integers(0, 256, (frames, 240, 320, 3), np.uint8)
    mvc.encode_frames(mvc.preprocess(video[:1]))  # to warm up

    def run() -> dict[str, float]:
        pixels = mvc.preprocess(video)
        start = time.perf_counter()
        tokens = mvc.encode_frames(pixels)
        encoding = time.perf_counter() - start
        del pixels
        mvc.caption(mvc.pool(tokens))
        return {"encoding": encoding, "peak": peak(), "weights": weights}

    return run


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
