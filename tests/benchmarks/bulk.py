"""Many texts and many captions at once: labels with templates, answers to choose from, captions of videos."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from models import load_minivideococa, load_open_clip
from race import Racer, median, race
from report import Section, ratio, seconds

LABELS, BATCH = 400, 64  # open_clip's texts at a time, as in its zero-shot classifier
THINGS = ("dog", "guitar", "bicycle", "horse", "river", "pancake", "violin", "kite", "tree", "puppet")
ACTIONS = ("running", "playing the guitar", "riding a bicycle", "cutting a tree", "washing the dishes")
QUESTION = "what does the person in this video look at?"
WHICH = (
    *("small", "large", "red", "blue", "green", "black", "white", "brown", "yellow", "old"),
    *("young", "wet", "wooden", "striped", "loud", "fast", "slow", "new", "broken"),
)
ANSWERS = [*THINGS, *(f"{which} {thing}" for which in WHICH for thing in THINGS)]  # of one or two words
WIDTHS = (1, 4, 16)  # captions that are decoded together
CAPTIONS = 16
LENGTH = 20  # ids of each
OPTIONS = {
    "greedy": {"beams": 1, "min_length": LENGTH - 1, "max_length": LENGTH},
    "beam 6": {"beams": 6, "min_length": LENGTH - 1, "max_length": LENGTH},
}


def measure_labels(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        ours = stack.enter_context(Racer("bulk.labels", str(folder), threads=threads))
        theirs = stack.enter_context(Racer("bulk.open_clip_labels", str(folder), model, threads=threads))
        turns = race({"minivideococa": ours, "open_clip": theirs}, rounds)
    mine, other = turns.values()
    off = np.abs(np.array(mine[0]["latents"]) - np.array(other[0]["latents"])).max()
    if off > 1e-4:
        raise RuntimeError(f"the latents of open_clip differ by {off:.1e}")
    return Section(
        f"Labels: CoCa ViT-{model}, {LABELS} labels x 8 templates",
        ["", "seconds", "min - max", "times as long"],
        [[name, *seconds(turn), ratio(turn, mine)] for name, turn in turns.items()],
        [f"The latents of the labels differ by {off:.1e} at most."],
        turns,
    )


def measure_answers(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        ours = stack.enter_context(Racer("bulk.answers", str(folder), threads=threads))
        turns = race({"question once": partial(ours, True), "with each answer": partial(ours, False)}, rounds)
    once, each = turns.values()
    off = np.abs(np.array(once[0]["scores"]) - np.array(each[0]["scores"])).max()
    if off > 1e-3:
        raise RuntimeError(f"the log-probabilities differ by {off:.1e}")
    return Section(
        f"Answers: CoCa ViT-{model}, {len(ANSWERS)} answers to one question, scored by the decoder",
        ["", "seconds", "min - max", "times as long"],
        [[name, *seconds(turn), ratio(turn, once)] for name, turn in turns.items()],
        [f"The log-probabilities differ by {off:.1e} at most."],
        turns,
    )


def measure_captions(folder: Path, model: str, rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        ours = stack.enter_context(Racer("bulk.captions", str(folder), threads=threads))
        turns = race(
            {f"{name}, {B} at a time": partial(ours, name, B) for name in OPTIONS for B in WIDTHS}, rounds
        )
    rows = []
    for name, turn in turns.items():
        one = turns[f"{name.partition(',')[0]}, 1 at a time"]
        if turn[0]["ids"] != one[0]["ids"]:
            raise RuntimeError(f"{name}: the ids are not those of one by one")
        rate = CAPTIONS / median(turn, "seconds")
        rows.append([name, *seconds(turn), f"{rate:.2f}", ratio(one, turn)])
    return Section(
        f"Captions in bulk: CoCa ViT-{model}, {CAPTIONS} captions of {LENGTH} ids, decoding alone",
        ["", "seconds", "min - max", "captions a second", "times as fast as one by one"],
        rows,
        ["The ids are the same for all numbers of captions at a time."],
        turns,
    )


def names() -> list[str]:
    """Return different labels of one to seven words."""
    found = [f"{a} {b}" for a in ACTIONS for b in THINGS] + [
        f"a {b} and a {c}" for b in THINGS for c in THINGS
    ]
    more = [f"{a} beside a {b} and a {c}" for a in ACTIONS for b in THINGS for c in THINGS]
    return (found + more)[:LABELS]


# What the child processes prepare and run -------------------------------------------------------------------


def labels(folder: str) -> Callable[[], dict[str, Any]]:
    from minivideococa.tasks import ENSEMBLE, label_latents

    model = load_minivideococa(folder)
    return lambda: {"latents": label_latents(model, names(), ENSEMBLE).tolist()}


def open_clip_labels(folder: str, model: str) -> Callable[[], dict[str, Any]]:
    import torch

    from minivideococa.tasks import ENSEMBLE, label_sentences

    coca, tokenizer = load_open_clip(folder, model), load_minivideococa(folder).tokenizer

    def run() -> dict[str, Any]:
        texts = [text for sentences in label_sentences(names(), ENSEMBLE) for text in sentences]
        ids = torch.from_numpy(tokenizer.encode(texts))
        with torch.inference_mode():
            parts = [coca.encode_text(part, normalize=True) for part in ids.split(BATCH)]
            mean = torch.cat(parts).reshape(len(names()), len(ENSEMBLE), -1).mean(dim=1)
            return {"latents": torch.nn.functional.normalize(mean, dim=-1).tolist()}

    return run


def answers(folder: str) -> Callable[[bool], dict[str, Any]]:
    """Score answers by `tasks.score`, or as it does without a shared beginning: 16 whole texts at a time."""
    from minivideococa import Video, score
    from minivideococa.model.ops import log_softmax
    from minivideococa.tasks import batches, prompt_length, text_lengths

    model = load_minivideococa(folder)
    c, random = model.config, np.random.default_rng(0)
    tokens = random.standard_normal((c.vision.queries - 1, c.embed_dim), np.float32)
    video = Video(np.full(c.embed_dim, c.embed_dim**-0.5, np.float32), tokens)

    def whole() -> np.ndarray:
        ids, begin = (
            model.tokenize([f"{QUESTION} {x}" for x in ANSWERS]),
            prompt_length(model, QUESTION),
        )
        scores = []
        for rows in batches(len(ids), 16):
            lengths = text_lengths(model, ids[rows])[:, None]
            inputs, targets = ids[rows, : lengths.max() - 1], ids[rows, 1 : lengths.max(), None]
            found = np.take_along_axis(log_softmax(model.decode(tokens, inputs)), targets, axis=-1)[..., 0]
            positions = np.arange(1, lengths.max())
            scores.append(np.where((begin <= positions) & (positions < lengths), found, 0).sum(axis=1))
        return np.concatenate(scores)

    def run(once: bool) -> dict[str, Any]:
        scores = score(model, video, ANSWERS, QUESTION) if once else whole()
        return {"scores": scores.tolist()}

    return run


def captions(folder: str) -> Callable[[str, int], dict[str, Any]]:
    model = load_minivideococa(folder)
    c = model.config
    tokens = np.random.default_rng(0).standard_normal(
        (CAPTIONS, c.vision.queries - 1, c.embed_dim), np.float32
    )

    def run(name: str, together: int) -> dict[str, Any]:
        ids: list[Any] = []
        start = time.perf_counter()
        for i in range(0, CAPTIONS, together):
            ids += [x.tolist() for x in model.generate(tokens[i : i + together], **OPTIONS[name])]
        return {"decoding": time.perf_counter() - start, "ids": ids}

    return run
