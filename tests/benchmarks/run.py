"""Measures the speed and memory of minivideococa beside torch and onnxruntime: Markdown tables and JSON.

    python tests/benchmarks/run.py [SECTION] [--model L-14|B-32|tiny] [--rounds 5] [--threads N]
                                   [--no-wait] [--json FILE] [--keep FOLDER]

SECTION is a key of `SECTIONS`, such as encoder, or all.

Needs the extra `bench`, an idle machine, 16 GB of memory and 5 GB of disk. Nothing is downloaded: the weights
are random, in the released shapes, float32, and the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout, installed or not

import again
import bulk
import encoder
import film
import generate
import memory
import models
import race
import search
import startup
import train_step
import verify_trace
from machine import conditions
from report import Section

SECTIONS = {  # the models that are measured unless --model names one, and the function
    "encoder": (("L-14", "B-32"), encoder.measure),
    "generate": (("L-14",), generate.measure),
    "labels": (("L-14",), bulk.measure_labels),
    "answers": (("L-14",), bulk.measure_answers),
    "captions": (("L-14",), bulk.measure_captions),
    "again": (("L-14",), again.measure),
    "verify": (("L-14",), verify_trace.measure),
    "memory": (("L-14",), memory.measure),
    "film": ((), film.measure),
    "startup": ((), startup.measure),
    "search": ((), search.measure),
    "train": (("tiny", "B-32"), train_step.measure),
    "train-memory": (("B-32", "L-14"), train_step.measure_memory),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("section", nargs="?", choices=(*SECTIONS, "all"), default="all")
    parser.add_argument(
        "--model", choices=("L-14", "B-32", "tiny"), help="default: by section; tiny: of train alone"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each competitor (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one per core")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until the machine is idle")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every turn there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the models there for another run")
    args = parser.parse_args()
    if args.model == "tiny" and not args.section.startswith("train"):
        parser.error("--model tiny is of the sections train and train-memory alone")
    if args.no_wait:
        race.PATIENCE, race.ATTEMPTS = 0, 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the stopped child processes

    known = conditions(args.threads)
    print("\n".join(f"- {name}: {value}" for name, value in known.items()), "\n", flush=True)
    results = []
    with nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as folder:
        for section in sections(args, Path(folder)):
            print(section.markdown(), flush=True)
            results.append(section.as_json())
    if args.json:
        args.json.write_text(json.dumps({"conditions": known, "sections": results}, indent=1) + "\n")
    return 0


def sections(args: argparse.Namespace, folder: Path) -> Iterator[Section]:
    for name in SECTIONS if args.section == "all" else (args.section,):
        names, measure = SECTIONS[name]
        if not names:
            yield measure(args.rounds, args.threads)
            continue
        for model in (args.model,) if args.model else names:
            if model != "tiny":
                models.cached_checkpoint(folder, model)
            yield measure(folder / model, model, args.rounds, args.threads)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:  # a competitor failed or computes something else
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
