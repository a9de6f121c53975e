"""Compares the speed of the working tree with that of another commit, side by side on this machine.

    python tests/benchmarks/compare.py COMMIT [--model L14|B32] [--rounds 5] [--threads N] [--no-wait]

Times `import minivideococa`, the image encoder on 8 frames, and captions of 20 ids, greedy and by beam
search. Each side runs in processes of its own, in turns; the table gives medians and ratios. Only the public
interface is used, so COMMIT may have any layout. The weights are random, float32, in the released shapes;
they are written once to a cache folder.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import models
import race
from machine import conditions
from race import ROOT, Racer, Turn, whole_process
from report import ratio, seconds

FRAMES = 8
LENGTHS = {"min_length": 19, "max_length": 20}
TASKS = {
    f"encode {FRAMES} frames": ("encode", {}),
    "greedy, 20 ids": ("generate", {"beams": 1, **LENGTHS}),
    "beam search (6 beams, 3 groups), 20 ids": ("generate", {"beams": 6, "beam_groups": 3, **LENGTHS}),
}
IMPORT = "import minivideococa"
IMPORTS = 4  # factor of rounds for the import, which is short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commit", help="what to compare with: anything that git understands")
    parser.add_argument("--model", choices=("L14", "B32"), help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one per core")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the machine is idle")
    parser.add_argument(
        "--untuned",
        action="store_true",
        help="do not tune the memory allocator of the working tree's processes",
    )
    parser.add_argument("--cache", type=Path, default=default_cache(), help="for checkpoints (%(default)s)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the stopped child processes
    if args.no_wait:
        race.PATIENCE, race.ATTEMPTS = 0, 1

    known = conditions(args.threads)
    print("\n".join(f"- {name}: {value}" for name, value in known.items()), "\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        sides = {"working tree": ROOT, args.commit: extract(args.commit, Path(scratch))}
        imports = {
            key(IMPORT, side): partial(whole_process, "-P", "-c", IMPORT, threads=args.threads, root=root)
            for side, root in sides.items()
        }
        turns = race.race(imports, IMPORTS * args.rounds)
        print(table("Import", [IMPORT], sides, turns), flush=True)
        for model in (args.model,) if args.model else ("L14", "B32"):
            checkpoint = models.cached_checkpoint(args.cache, f"{model[0]}-{model[1:]}")
            print(compare(model, checkpoint, sides, args), flush=True)


def default_cache() -> Path:
    """Return the folder for this script's checkpoints, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minivideococa-benchmarks"


def extract(commit: str, folder: Path) -> Path:
    """Write the package as of `commit` into `folder`, and return the folder."""
    command = ["git", "-C", str(ROOT), "archive", commit, "minivideococa"]
    result = subprocess.run(command, capture_output=True)
    if result.returncode:
        sys.exit(f"compare: git archive {commit}: {result.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def compare(model: str, checkpoint: Path, sides: dict[str, Path], args: argparse.Namespace) -> str:
    """Return the table of one model. Exits if the two sides generate different ids."""
    with ExitStack() as stack:
        racers = {
            side: stack.enter_context(
                Racer(
                    "compare.prepare",
                    str(checkpoint),
                    str(root),
                    root != ROOT or not args.untuned,
                    threads=args.threads,
                    root=root,
                )
            )
            for side, root in sides.items()
        }
        turns = race.race(
            {
                key(task, side): partial(racer, *call)
                for task, call in TASKS.items()
                for side, racer in racers.items()
            },
            args.rounds,
        )
    here, there = sides
    for task in TASKS:
        ours, theirs = (turns[key(task, side)][-1].get("ids") for side in (here, there))
        if ours != theirs:
            sys.exit(f"compare: {task}: {here} generates {ours}, {there} {theirs}")
    return table(f"CoCa ViT-{model}", TASKS, sides, turns)


def key(task: str, side: str) -> str:
    """Return the name of a competitor in the race."""
    return f"{task} ({side})"


def table(title: str, tasks: Iterable[str], sides: Iterable[str], turns: dict[str, list[Turn]]) -> str:
    """Return a Markdown table of both sides' turns at each task."""
    here, there = sides
    rows = [["", f"{here}, s", "min - max", f"{there}, s", "min - max", f"{here} / {there}"], ["---"] * 6]
    for task in tasks:
        ours, theirs = turns[key(task, here)], turns[key(task, there)]
        rows.append([task, *seconds(ours), *seconds(theirs), ratio(ours, theirs)])
    others = max(turn["others"] for one in turns.values() for turn in one)
    return "\n".join(
        [
            f"### {title}",
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Ratio of medians (of single rounds); other processes took at most {others:.0%} of the machine.",
            "",
        ]
    )


# In the child processes ------------------------------------------------------------------------------------


def prepare(checkpoint: str, root: str, tuned: bool) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Load the model of the package in `root`, and return a function that runs one task with it."""
    from common import random_pixels

    import minivideococa as mvc

    assert Path(mvc.__file__).is_relative_to(root), f"{mvc.__file__} is not in {root}"
    if tuned:
        models.tune()
    config = json.loads((Path(checkpoint) / "config.json").read_text())["model_cfg"]
    model = mvc.load(checkpoint)
    pixels = random_pixels(FRAMES, config["vision_cfg"]["image_size"], seed=0)
    video = model.encode_video(pixels)

    def run(task: str, options: dict[str, Any]) -> dict[str, Any]:
        if task == "encode":
            model.encode_frames(pixels)
            return {}
        return {"ids": model.generate(video.tokens, **options).tolist()}

    return run


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:  # a child process failed
        sys.exit(f"compare: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
