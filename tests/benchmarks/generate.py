"""A caption of one image, 20 ids, from pixels: ours, open_clip's `generate`, and the lower bound.

A step with a key-value cache reads all weights of both text decoders once: memory bandwidth is the bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
from models import load_minivideococa, load_open_clip, pixels
from race import Racer, Turn, median, race
from report import Section, ratio, seconds

LENGTH = 20  # ids, including the start token
STEPS = LENGTH - 1
LENGTHS = {
    "ours": {"min_length": LENGTH - 1, "max_length": LENGTH},
    "open_clip": {"min_seq_len": LENGTH - 1, "seq_len": LENGTH},
}
BEAM = {"ours": {"beams": 6, "beam_groups": 3}, "open_clip": {"num_beams": 6, "num_beam_groups": 3}}
# any penalty makes all groups be computed; this one is too small to change a score
ALL_ROWS = {"ours": BEAM["ours"] | {"diversity_penalty": 1e-9}}
GREEDY = {"ours": {"top_k": 1}, "open_clip": {"generation_type": "top_k", "top_k": 1}}


def measure(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        ours = stack.enter_context(Racer("generate.ours", str(folder), threads=threads))
        theirs = stack.enter_context(Racer("generate.open_clip", str(folder), model, threads=threads))
        bound = stack.enter_context(Racer("generate.lower_bound", str(folder), threads=threads))
        turns = race(
            {
                "minivideococa, beam 6 in 3 groups": partial(ours, BEAM["ours"]),
                "the same with all six rows computed": partial(ours, ALL_ROWS["ours"]),
                "open_clip, beam 6 in 3 groups": partial(theirs, BEAM["open_clip"]),
                "minivideococa, greedy": partial(ours, GREEDY["ours"]),
                "open_clip, greedy": partial(theirs, GREEDY["open_clip"]),
                f"the weights of {STEPS} steps, read": partial(bound, "read"),
                f"the weights of {STEPS} steps, times a vector": partial(bound, "multiply"),
            },
            rounds,
        )
    beam, all_rows, beam_theirs, greedy, greedy_theirs, read, multiply = turns.values()
    pairs = {
        "with beam search": (beam, beam_theirs),
        "with all rows": (all_rows, beam_theirs),
        "when greedy": (greedy, greedy_theirs),
    }

    rows = []
    for name, mine in turns.items():
        faster = [ratio(theirs, its) for its, theirs in pairs.values() if its is mine]
        milliseconds = f"{1000 * step(mine):.0f}" if "decoding" in mine[0] else ""
        rows.append([name, *seconds(mine), milliseconds, *(faster or [""])])
    gigabytes = read[0]["bytes"] / 1e9
    times = ", ".join(f"{step(mine) / step(read):.2f} times {mode}" for mode, (mine, _) in pairs.items())
    same = ", ".join(f"{mode} {agreement(mine, theirs)}" for mode, (mine, theirs) in pairs.items())
    return Section(
        f"Captions: CoCa ViT-{model}, one image, {LENGTH} ids, the image encoder included",
        ["", "seconds", "min - max", "ms a step", "times faster than open_clip"],
        rows,
        [
            f"The image encoder and the pooler take {median(greedy, 'encoding'):.2f} s of ours; a step is "
            f"the rest, divided by the {STEPS} generated ids.",
            f"A step must read {gigabytes:.2f} GB of weights: {1000 * step(read):.0f} ms at the "
            f"{gigabytes / step(read):.0f} GB/s of a plain read, {1000 * step(multiply):.0f} ms as products "
            f"with one vector. A step of ours takes {times} as long as the plain read.",
            f"The ids and open_clip's: {same}.",
        ],
        turns,
    )


def step(turns: list[Turn]) -> float:
    return median(turns, "decoding") / STEPS


def agreement(ours: list[Turn], theirs: list[Turn]) -> str:
    """Raises RuntimeError if there are fewer ids than the figures are for."""
    if any(len(turn["ids"]) != LENGTH for turn in ours + theirs):
        raise RuntimeError(f"a caption ended before {LENGTH} ids: give the weights another seed")
    return "the same" if ours[0]["ids"] == theirs[0]["ids"] else "not all the same"


# What the child processes prepare and run -------------------------------------------------------------------


def ours(folder: str) -> Callable[[dict], dict[str, Any]]:
    mvc, image = load_minivideococa(folder), pixels(folder, frames=1)

    def run(options: dict) -> dict[str, Any]:
        start = time.perf_counter()
        video = mvc.encode_video(image)
        encoded = time.perf_counter()
        ids = mvc.generate(video.tokens, **LENGTHS["ours"], **options)
        return {"encoding": encoded - start, "decoding": time.perf_counter() - encoded, "ids": ids.tolist()}

    return run


def open_clip(folder: str, model: str) -> Callable[[dict], dict[str, Any]]:
    import torch

    coca, image = load_open_clip(folder, model), torch.from_numpy(pixels(folder, frames=1))

    def run(options: dict) -> dict[str, Any]:
        with torch.inference_mode():
            ids = coca.generate(image, **LENGTHS["open_clip"], **options)
        return {"ids": ids[0].tolist()}

    return run


def lower_bound(folder: str) -> Callable[[str], dict[str, float]]:
    """Return a function that reads the weights of all steps, or multiplies each by a vector."""
    weights, threads = step_weights(load_minivideococa(folder).params), models.threads()
    vectors = {n: np.ones(n, np.float32) for n in {w.shape[-1] for w in weights}}
    executor = ThreadPoolExecutor(threads)

    def read(first: int) -> None:
        for w in weights[first::threads]:
            w.max()  # faster than a sum, whose additions depend on each other

    def multiply() -> None:
        for w in weights:  # BLAS uses all threads
            w @ vectors[w.shape[-1]]

    def run(mode: str) -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(STEPS):
            multiply() if mode == "multiply" else list(executor.map(read, range(threads)))
        return {"decoding": time.perf_counter() - start, "bytes": sum(w.nbytes for w in weights)}

    return run


def step_weights(params: dict[str, Any]) -> list[np.ndarray]:
    """Return the weights that a step reads: both text decoders and the projection to the vocabulary.

    Without the embeddings, of which a step reads a few rows, and without the keys and values of the caption
    tokens, which are computed once per video.
    """
    text, decoder = params["text"], params["text_decoder"]
    cross = []
    for block in decoder["cross_attn"]:
        queries, _, _ = np.split(block["attn"]["in_proj_weight"], 3)
        cross.append(block | {"attn": block["attn"] | {"in_proj_weight": queries}, "ln_1_kv": {}})
    return leaves(
        [
            text["transformer"]["resblocks"],
            decoder["resblocks"],
            cross,
            decoder["ln_final"],
            decoder["text_projection"],
        ]
    )


def leaves(tree: Any) -> list[np.ndarray]:
    """Return all arrays of a parameter tree."""
    if isinstance(tree, np.ndarray):
        return [tree]
    branches = tree.values() if isinstance(tree, dict) else tree
    return [array for branch in branches for array in leaves(branch)]
