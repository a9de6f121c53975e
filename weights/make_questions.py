"""Tune the embedded checkpoint for questions about its clips, with NumPy alone: tiny/questions.safetensors.

    python weights/make_questions.py WORK             tune, write the tuned part, and measure it
    python weights/make_questions.py WORK --measure   only measure the part that is there
    python weights/make_questions.py WORK --head classifier   train a classifier of answers from there,
                                                      measure it, and leave it in WORK

WORK is a folder for the clips, their frame tokens and the state of the run: an interrupted run goes on with
the same command. Everything is drawn from seeds.

LiT: the image encoder is frozen, the pooler and both text decoders are tuned, and the question is the prompt
of a generated answer. First `positions.py` writes the positions of patches into the positional embedding, and
a way to read them into the pooler. Stills then teach where objects are, and clips all kinds of questions.

The test clips differ from the training clips in their seed and in their composition, see
`world.clips.SPLITS`: a fifth of the pairs of a colour and a shape, medium sizes, cloudy backgrounds and
faster objects are only in the test. Beside each accuracy stands that of the question-only baseline, which has
the mean of training clips in place of the video. The exit status is 1 if a kind of questions
misses TARGET.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from positions import with_positions

import minivideococa as mvc
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.tuned import write_tuned
from minivideococa.checkpoint.vocabulary import add_words
from minivideococa.evaluation.manifest import Entry, read_manifest
from minivideococa.evaluation.run import evaluate
from minivideococa.progress import progress_bar
from minivideococa.training.data import with_answer_among
from minivideococa.training.finetune import finetune
from minivideococa.training.options import HEADS
from minivideococa.world import COLOURS, SHAPES
from minivideococa.world.clips import HELD_OUT
from minivideococa.world.questions import ASKED, QUESTION_WORDS, words_of
from minivideococa.world.shapes import MANIFEST, write_questions

PART = embedded_checkpoint() / "questions.safetensors"
TRAIN_SEED, STILLS_SEED, TEST_SEED = 16384, 16385, 16387
CLIPS, STILLS, TEST_CLIPS = 6000, 24000, 1400
# Of twelve clips of training. A clip for "moment" has one entry, others also have questions about colour,
# shape, existence and the largest.
KINDS = (
    *("moment", "count", "where", "moment", "count", "moment"),
    *("where", "largest", "moment", "count", "where", "exists"),
)
COMMON = ("colour", "shape", "exists")  # kinds of which every second question is left out
POSITIONS = ("place", "where", "where")  # of three stills
OPTIONS: dict[str, Any] = dict(
    task="qa", tune="lit", batch=64, learning_rate=1e-3, warmup=100, seed=TRAIN_SEED, half=True
)
TARGET = 0.90


def clips(work: Path, name: str, count: int, seed: int, **options: Any) -> list[Entry]:
    """Write clips with questions, unless they are there, and return their entries."""
    manifest = work / name / MANIFEST
    if not manifest.is_file():
        write_questions(work / name, count, seed, progress=progress_bar, **options)
    return read_manifest(manifest)


def training_clips(work: Path) -> list[Entry]:
    """Return the entries of the training clips."""
    entries = clips(work, "train", CLIPS, TRAIN_SEED, kinds=KINDS)
    asked = [e for e in entries if e.question_type in ASKED]
    return [e for i, e in enumerate(asked) if e.question_type not in COMMON or i % 2 == 0]


def tune(work: Path, head: str) -> mvc.VideoCoCa:
    """Tune the embedded checkpoint."""
    model = with_positions(add_words(mvc.load(), QUESTION_WORDS), STILLS_SEED)
    options = dict(cache=work / "tokens", progress=progress_bar, **OPTIONS)
    stills = clips(work, "stills", STILLS, STILLS_SEED, frames=3, kinds=POSITIONS)
    stills = [entry for entry in stills if entry.question_type in POSITIONS]
    model = finetune(model, stills, work / "run-stills", num_frames=1, steps=1500, **options)
    asked = training_clips(work)
    model = finetune(model, asked, work / "run-generate", steps=1500, **options)
    if head == "classifier":
        model = finetune(model, asked, work / "run-classifier", head=head, steps=1000, **options)
    return model


def measure(model: mvc.VideoCoCa, work: Path, wordings: str) -> dict[str, tuple[float, float, int]]:
    """Return the accuracy of each kind on the test clips, that of the baseline, and the questions.

    A classifier is asked the questions that one of its answers is right for: pairs that training does not
    show are none.
    """
    entries = clips(work, f"test-{wordings}", TEST_CLIPS, TEST_SEED, split="test", wordings=wordings)
    entries = [entry for entry in entries if entry.question_type in ASKED]
    if model.config.answers:
        entries = with_answer_among(entries, model.config.answers)
    cache = work / "evaluated"
    training = training_clips(work)[:TEST_CLIPS]
    result = evaluate(model, entries, ["qa"], train=training, cache=cache, beams=1, progress=progress_bar)
    rates = {
        kind: (rate["accuracy"]["value"], rate["question only"]["value"], rate["accuracy"]["items"])
        for kind, rate in result["details"]["qa"]["by_type"].items()
    }
    held_out = [
        answered["answer"] == entry.answer
        for entry, answered in zip(entries, result["predictions"], strict=True)
        if pair_of(entry) in HELD_OUT
    ]
    return rates | {"(with a held-out pair)": (sum(held_out) / len(held_out), float("nan"), len(held_out))}


def pair_of(entry: Entry) -> tuple[str, ...]:
    """Return the colour and the shape in a question and its answer, if both are there."""
    words = words_of(f"{entry.question} {entry.answer}")
    return tuple(word for known in (COLOURS, SHAPES) for word in words if word in known)


def main() -> int:
    """Tune and measure. Return 0 if all kinds reach the target in their canonical wording."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="a folder for clips, frame tokens and the state of the run")
    parser.add_argument("--measure", action="store_true", help="do not tune")
    parser.add_argument("--head", choices=HEADS, default="generate", help="how the answers are given")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    part = PART if args.head == "generate" else args.work / f"{args.head}.safetensors"
    if not args.measure:
        write_tuned(part, tune(args.work, args.head), "float16", OPTIONS)
    model, missed = mvc.load(tuned=part), False
    print("| wordings | kind | questions | accuracy | question only |\n|---|---|---|---|---|")
    for wordings in ("canonical", "held-out"):
        for kind, (accuracy, blind, count) in measure(model, args.work, wordings).items():
            print(f"| {wordings} | {kind} | {count} | {accuracy:.3f} | {blind:.3f} |", flush=True)
            missed |= wordings == "canonical" and accuracy < TARGET
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
