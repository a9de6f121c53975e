"""`verify` of a right trace, its time beside that of encoding the trace's frames, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from memory import megabytes, peak
from models import CHECKPOINT, load_minivideococa, tune
from race import Racer, race
from report import Section, ratio, seconds

FRAMES = 8
TEXT = "a man is playing the guitar beside a river"
TRACE = "trace.safetensors"  # beside the checkpoint


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with Racer("verify_trace.write", str(folder), threads=threads) as write:
        write()
    with ExitStack() as stack:
        racers = {
            name: stack.enter_context(Racer(f"verify_trace.{name}", str(folder), threads=threads))
            for name in ("encode", "verify")
        }
        turns = race(racers, rounds)
    encode, verify = turns.values()
    highest = max(turn["peak"] for turn in verify)
    return Section(
        f"Verify: CoCa ViT-{model}, a right float32 trace of {FRAMES} frames and a text",
        ["", "seconds", "min - max", "times as long", "in processor time"],
        [
            [name, *seconds(mine), ratio(mine, encode), ratio(mine, encode, "cpu")]
            for name, mine in turns.items()
        ],
        [
            "`verify` also loads the checkpoint and reads the trace; `encode` only encodes its frames.",
            f"The peak of the process that verifies is {megabytes(highest)}.",
            f"It compares {verify[0]['compared']} tensors.",
        ],
        turns,
    )


# What the child processes prepare and run -------------------------------------------------------------------


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, 240, 320, 3), np.uint8)


def write(folder: str) -> Callable[[], None]:
    """Return a function that writes the trace of our own model."""
    from minivideococa import trace
    from minivideococa.verify import write_trace

    model = load_minivideococa(folder)
    ids = model.tokenize([TEXT])

    def run() -> None:
        with trace() as activations:
            video = model.encode_video(model.preprocess(frames()))
            model.decode(video.tokens, ids)
        write_trace(Path(folder) / TRACE, activations, model)

    return run


def encode(folder: str) -> Callable[[], None]:
    model = load_minivideococa(folder)
    pixels = model.preprocess(frames())

    def run() -> None:
        model.encode_frames(pixels)

    return run


def verify(folder: str) -> Callable[[], dict[str, float]]:
    """Return a function that verifies the trace, and returns the process's peak in bytes.

    Raises RuntimeError if the trace is judged wrong.
    """
    from minivideococa.verify import text, verify_file

    tune()

    def run() -> dict[str, float]:
        report = verify_file(Path(folder) / TRACE, Path(folder) / CHECKPOINT)
        if not report.ok:
            raise RuntimeError(text(report))
        return {"peak": peak(), "compared": len(report.compared)}

    return run
