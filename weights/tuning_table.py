"""VideoCoCa's four tunings x four adapters on synthetic videos, beside zero-shot, with NumPy alone.

    python weights/tuning_table.py WORK            go on with the cells that are not finished
    python weights/tuning_table.py WORK --print    print the tables of those that are

A cell is one tuning with one adapter, one seed and one task: "caption" (CoCa's two losses, measured by
captions and retrieval), "qa" (questions, whose answers are generated), or "first" (what comes first?, LiT
alone). All cells of a table have the same steps, batch and clips; a seed draws the order of the clips, their
captions and new layers. The image encoder's tokens of a clip are computed once for all cells in which it is
frozen. Training and test clips differ in their seed and their composition, see `world.clips.SPLITS`.

WORK may be killed at any moment: the same command goes on. A cell is a run of `finetune`, which resumes; its
folder is removed once the cell is in WORK/results.jsonl, with counts of correct items and of all items:

    {"seed": 0, "tune": "lit", "adapter": "mean", "task": "qa", "seconds": 41.2,
     "scores": {"questions": [201, 350], "question only": [88, 350], "colour": [40, 50], ...}}

The zero-shot cells come first, then all cells of seed 0, the cheap ones before the others.

The budget, in seconds of one core (AMD EPYC), of a step on 16 clips of 8 frames:

    caption+contrastive   LiT 0.09-0.11   full 1.3-1.6, joint 2.5
    questions             LiT 0.08-0.11   full 1.3, joint 2.5

With 4 frames it is half of that, so 300 steps of all cells of a seed take some 3100 s, as half of the steps
of frozen-then-full are frozen ones. With 600 s for the tests of a seed and 500 s for clips and tokens, three
seeds take some 11,600 s of an idle core. The cells in tuning-results.jsonl took 25,700 s on a core that other
processes slowed down. WORK needs 3 GB.

The learning rate is one for all tunings. Full tuning with attentional pooling does not diverge at 1e-3: the
validation loss is 1.63 after 40 steps on 8 clips with questions, and 2.17 at 3e-4; on captions it is 0.92
after 60 steps on 16 clips, and 1.01 after 30.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import minivideococa as mvc
from minivideococa.evaluation.manifest import Entry, read_manifest, write_manifest
from minivideococa.evaluation.metrics import ranks
from minivideococa.evaluation.tasks.mean import MeanVideo
from minivideococa.inputs import read_json
from minivideococa.model.config import ADAPTERS, Video
from minivideococa.output import atomic_folder, atomic_write, json_text, locked
from minivideococa.progress import progress_bar
from minivideococa.training.finetune import finetune
from minivideococa.training.parameters import TUNINGS, phases
from minivideococa.training.tokens import ClipStore
from minivideococa.world import LABELS, SPLITS, caption_of, draw_clip, objects_named, sample_clip
from minivideococa.world.questions import ASKED
from minivideococa.world.shapes import MANIFEST, captions_of, write_animation, write_questions

Array = NDArray[Any]
Scores = dict[str, list[int]]  # metric -> correct items, all items

TRAIN_SEED, TEST_SEED = 24576, 24577
CAPTIONED = ("brief", "split", "pair", "split", "pair")  # sets of clips, of five with captions
DIRECTIONS = ("text-to-video", "video-to-text")  # recall at 1
ORDER = ("first",)  # the kind of questions of the second table
ZERO_SHOT = "zero-shot"
POSITIONS = "factorized, positions"
ORDER_ADAPTERS = ("attentional", "mean", "joint", "factorized", POSITIONS)
BY_COST = ("lit", "frozen", "frozen-then-full", "full")
MEAN_CLIPS = 140  # training clips whose mean the question-only baseline has in place of the video
RESULTS, SETTINGS = "results.jsonl", "settings.json"


@dataclass(frozen=True)
class Settings:
    """What all cells of a table have in common."""

    steps: int = 300
    batch: int = 16
    frames: int = 4  # of a clip
    learning_rate: float = 1e-3
    seeds: int = 3
    clips: int = 1600  # of each task, for training
    tested: int = 350  # of each task

    def __post_init__(self) -> None:
        """Raise ValueError for more test clips than there are different ones of a single object."""
        if self.tested > (most := len(LABELS) * len(CAPTIONED)):
            raise ValueError(
                f"tested is {self.tested}: give at most {most}, since no two show the same objects"
            )


@dataclass(frozen=True)
class Cell:
    """One finetuning and its measurement; with the tuning `ZERO_SHOT`, the measurement alone."""

    seed: int
    tune: str
    adapter: str  # one of `ADAPTERS`, or POSITIONS
    task: str  # "caption", "qa" or "first"

    @property
    def adapter_name(self) -> str:
        """The adapter as the library calls it."""
        return "factorized" if self.adapter == POSITIONS else self.adapter

    @property
    def tunes_encoder(self) -> bool:
        """Whether the image encoder is not the checkpoint's."""
        return self.tune != ZERO_SHOT and phases(self.tune)[-1] == "full"


def cells_of(settings: Settings) -> list[Cell]:
    """Return all cells in the order of their computation: what says most, for its cost, first.

    The factorized adapter has no zero-shot cell: its layers are new.
    """
    tasks, old = ("caption", "qa"), [name for name in ADAPTERS if name != "factorized"]
    cells = [Cell(0, ZERO_SHOT, adapter, task) for adapter in old for task in tasks]
    for seed in range(settings.seeds):
        for tune in BY_COST:
            cells += [Cell(seed, tune, adapter, task) for adapter in ADAPTERS for task in tasks]
            if tune == "lit":
                cells += [Cell(seed, tune, adapter, "first") for adapter in ORDER_ADAPTERS]
    return cells


# Clips


def clips(work: Path, settings: Settings, task: str, split: str) -> list[Entry]:
    """Write the clips of a task, unless they are there, and return their entries.

    A test clip with questions has one: that of the kind it was drawn for, in the canonical wording.
    """
    is_test, folder = split == "test", work / f"{task}-{split}"
    count, seed = (settings.tested, TEST_SEED) if is_test else (settings.clips, TRAIN_SEED)
    if not (folder / MANIFEST).is_file():
        if task == "caption":
            write_captions(folder, count, seed, settings.frames, split)
        else:
            kinds, wordings = ORDER if task == "first" else ASKED, "canonical" if is_test else "training"
            options = dict(split=split, wordings=wordings, kinds=kinds, progress=progress_bar)
            write_questions(folder, count, seed, settings.frames, **options)
    entries = read_manifest(folder / MANIFEST)
    return [next(group) for _, group in groupby(entries, lambda entry: entry.video)] if is_test else entries


def write_captions(folder: Path, count: int, seed: int, frames: int, split: str) -> None:
    """Write clips with captions, and their manifest. No two test clips show the same objects."""
    entries, seen = [], set()
    with atomic_folder(folder) as partial, progress_bar(count, "clips") as update:
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            while True:
                clip = sample_clip(CAPTIONED[i % len(CAPTIONED)], rng, frames, SPLITS[split])
                if split == "train" or frozenset(clip.names) not in seen:
                    break
            seen.add(frozenset(clip.names))
            video = partial / f"{i:04}.png"
            write_animation(video, draw_clip(clip))
            captions = captions_of(clip, rng) if split == "train" else (caption_of(clip.first),)
            entries.append(Entry(video, captions))
            update(1)
        write_manifest(partial / MANIFEST, entries)


# A cell


def compute(cell: Cell, settings: Settings, work: Path) -> Scores:
    """Tune the embedded checkpoint, or go on with it, and measure it on the test clips."""
    model = mvc.load()
    if cell.tune != ZERO_SHOT:
        model = finetune(
            model,
            clips(work, settings, cell.task, "train"),
            run_folder(work, cell),
            cache=work / "cache",
            task="caption+contrastive" if cell.task == "caption" else "qa",
            tune=cell.tune,
            adapter=cell.adapter_name,
            positions=cell.adapter == POSITIONS,
            num_frames=settings.frames,
            add_words=True,
            half=cell.tune != "full",
            steps=settings.steps,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=cell.seed,
            keep=1,
            progress=progress_bar,
        )
    entries = clips(work, settings, cell.task, "test")
    videos = encode(model, entries, settings.frames, cell, work)
    if cell.task == "caption":
        return measure_captions(model, entries, videos)
    mean = MeanVideo()
    training = clips(work, settings, cell.task, "train")
    for video in encode(model, training, settings.frames, cell, work, MEAN_CLIPS):
        mean.add(video)
    return measure_answers(model, entries, videos, mean.video(model.dtype))


def run_folder(work: Path, cell: Cell) -> Path:
    """Return the folder of a cell's run of `finetune`."""
    return work / "runs" / "-".join(map(str, asdict(cell).values())).replace(", ", "-")


def encode(
    model: mvc.VideoCoCa,
    entries: Sequence[Entry],
    frames: int,
    cell: Cell,
    work: Path,
    count: int | None = None,
) -> list[Video]:
    """Encode the clips of the entries, or the first `count` of them, each once.

    Tokens of the frozen encoder are those of the cache, which training uses too.
    """
    entries = list({entry.video: entry for entry in entries}.values())[:count]
    adapter, pixels = cell.adapter_name, cell.tunes_encoder
    options = dict(num_frames=frames, adapter=adapter, pixels=pixels, half=not pixels)
    store = ClipStore(model, work / "cache", **options)
    store.prepare(entries, progress_bar)
    run = model.encode_video if pixels else model.pool
    return [run(store.read(entry), adapter) for entry in entries]


def measure_captions(model: mvc.VideoCoCa, entries: Sequence[Entry], videos: Sequence[Video]) -> Scores:
    """Count captions, greedy, that name exactly the objects shown, and recall at 1 in both directions."""
    tokenizer = model.require_tokenizer()
    ids = model.generate(np.stack([video.tokens for video in videos]), beams=1)
    truths = [entry.captions[0] for entry in entries]
    exact = is_exact([tokenizer.decode(row) for row in ids], truths)
    scores = {"captions": counts(exact)}
    for kind in dict.fromkeys(CAPTIONED):
        scores[kind] = counts([x for i, x in enumerate(exact) if CAPTIONED[i % len(CAPTIONED)] == kind])
    return scores | recalls(model.encode_text(truths), np.stack([video.latent for video in videos]))


def is_exact(texts: Sequence[str], truths: Sequence[str]) -> list[bool]:
    """Return whether each text names exactly the objects that the true one names."""
    return [objects_named(a) == objects_named(b) for a, b in zip(texts, truths, strict=True)]


def recalls(texts: Array, videos: Array) -> Scores:
    """Count texts that find their video first, and videos their text; row i is that of row i: [n, E]."""
    cosines, own = texts @ videos.T, np.eye(len(texts), dtype=bool)
    return {
        name: counts(ranks(x, own) == 1) for name, x in zip(DIRECTIONS, (cosines, cosines.T), strict=True)
    }


def measure_answers(
    model: mvc.VideoCoCa, entries: Sequence[Entry], videos: Sequence[Video], mean: Video
) -> Scores:
    """Count correct answers, greedy: in all, by kind, and with the mean in place of the video."""
    blind = {question: answer(model, mean, question) for question in {e.question or "" for e in entries}}
    right, guessed = [], []
    for entry, video in zip(entries, videos, strict=True):
        right.append(answer(model, video, entry.question or "") == entry.answer)
        guessed.append(blind[entry.question or ""] == entry.answer)
    scores = {"questions": counts(right), "question only": counts(guessed)}
    for kind in dict.fromkeys(entry.question_type or "" for entry in entries):
        rows = [entry.question_type == kind for entry in entries]
        scores[kind] = counts([x for x, row in zip(right, rows, strict=True) if row])
    return scores


def answer(model: mvc.VideoCoCa, video: Video, question: str) -> str:
    """Return the greedy answer to a question."""
    return str(mvc.answer(model, video, question, beams=1, max_length=model.config.text.context_length))


def counts(correct: Iterable[Any]) -> list[int]:
    """Return the number of correct items, and of all."""
    values = [bool(x) for x in correct]
    return [sum(values), len(values)]


# Results


def read_results(work: Path) -> dict[Cell, Scores]:
    """Return the scores of the finished cells; none if there is no such file."""
    names = [field.name for field in fields(Cell)]
    lines = read_lines(work)
    return {Cell(**{name: line[name] for name in names}): line["scores"] for line in lines}


def read_lines(work: Path) -> list[dict[str, Any]]:
    """Return the lines of the results, one for each finished cell."""
    path = work / RESULTS
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    )


def append_result(work: Path, cell: Cell, scores: Scores, seconds: float) -> None:
    """Add a finished cell to the results. The file is replaced, so that it is whole at any moment."""
    lines = [*read_lines(work), {**asdict(cell), "seconds": round(seconds, 1), "scores": scores}]
    with atomic_write(work / RESULTS) as partial:
        partial.write_text("".join(json_text(line) + "\n" for line in lines), encoding="utf-8")


def require_same(work: Path, settings: Settings) -> None:
    """Record the settings in a new WORK. Raises ValueError if those of its cells are others."""
    path, ours = work / SETTINGS, asdict(settings)
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(json_text(ours) + "\n", encoding="utf-8")
    if (theirs := read_json(path, "give another folder")) != ours:
        raise ValueError(f"{path}: its cells have {json.dumps(theirs)}: give these, or another folder")


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a rate by Wilson's score (1927, J. Am. Stat. Assoc. 22)."""
    z, rate = 1.96, correct / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate_text(found: Sequence[Sequence[int]]) -> str:
    """Return the mean rate of several seeds with their range; of one, with its 95% interval in brackets."""
    if not found:
        return ""
    rates = [correct / count for correct, count in found]
    if len(rates) == 1:
        low, high = wilson(*found[0])
        return f"{rates[0]:.3f} [{low:.2f}-{high:.2f}]"
    return f"{np.mean(rates):.3f} ({min(rates):.2f}-{max(rates):.2f})"


def table(
    results: Mapping[Cell, Scores],
    task: str,
    tunes: Iterable[str],
    adapters: Sequence[str],
    metrics: Iterable[str],
) -> str:
    """Return a Markdown table of a task: a row for each tuning and adapter that has results."""
    metrics = list(metrics)
    lines = [f"| tuning | adapter | seeds | {' | '.join(metrics)} |", "|---" * (3 + len(metrics)) + "|"]
    for tune in tunes:
        for adapter in adapters:
            row = (tune, adapter, task)
            found = [x for cell, x in results.items() if (cell.tune, cell.adapter, cell.task) == row]
            rates = [rate_text([scores[metric] for scores in found]) for metric in metrics]
            if found:
                lines.append(f"| {tune} | {adapter} | {len(found)} | {' | '.join(rates)} |")
    return "\n".join(lines)


def report(results: Mapping[Cell, Scores], settings: Settings) -> str:
    """Return the tables of the finished cells, with what they have in common."""
    tunes, guessed = (ZERO_SHOT, *TUNINGS), "question only"
    captions = dict.fromkeys(("captions", *CAPTIONED, *DIRECTIONS))
    return "\n\n".join(
        (
            f"{settings.steps} steps of {settings.batch} clips of {settings.frames} frames, learning rate "
            f"{settings.learning_rate:g}; {settings.clips} training clips and {settings.tested} test clips "
            "of each task. Mean of the seeds (their range); of one seed, rate [95% interval, Wilson]. "
            "Factorized has no zero-shot row: its layers are new. Before tuning its latent is that of mean "
            "pooling, and so is its retrieval.",
            table(results, "caption", tunes, list(ADAPTERS), captions),
            table(results, "qa", tunes, list(ADAPTERS), ("questions", guessed, *ASKED)),
            table(results, "first", ["lit"], ORDER_ADAPTERS, ("first", guessed)),
            f"{len(results)} of {len(cells_of(settings))} cells.",
        )
    )


def run(work: Path, settings: Settings, most: int | None = None) -> None:
    """Compute the cells that are not finished, `most` of them at most."""
    require_same(work, settings)
    cells, done = cells_of(settings), read_results(work)
    left = [cell for cell in cells if cell not in done]
    for cell in done:  # killed between the result and the removal
        shutil.rmtree(run_folder(work, cell), ignore_errors=True)
    for i, cell in enumerate(left[:most], len(done) + 1):
        start = time.perf_counter()
        scores = compute(cell, settings, work)
        seconds = time.perf_counter() - start
        append_result(work, cell, scores, seconds)
        shutil.rmtree(run_folder(work, cell), ignore_errors=True)
        name = ", ".join(map(str, asdict(cell).values()))
        print(
            f"{i} of {len(cells)}: {name}: {json_text(scores)}, {seconds:.0f} s", file=sys.stderr, flush=True
        )


def main() -> int:
    """Compute the table, or print what there is of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="a folder for clips, frame tokens, runs and results")
    parser.add_argument("--print", action="store_true", help="print the tables of the finished cells")
    parser.add_argument("--most", type=int, help="stop after this many cells")
    for field in fields(Settings):
        name, kind = "--" + field.name.replace("_", "-"), type(field.default)
        parser.add_argument(name, type=kind, default=field.default, help=f"default: {field.default}")
    args = parser.parse_args()
    try:
        settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
        if args.print:
            if (args.work / SETTINGS).is_file():
                settings = Settings(**read_json(args.work / SETTINGS, "give another folder"))
            print(report(read_results(args.work), settings))
            return 0
        args.work.mkdir(parents=True, exist_ok=True)
        with locked(args.work):
            run(args.work, settings, args.most)
    except (ValueError, OSError) as error:
        print(f"tuning_table.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report(read_results(args.work), settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
