"""Measures the speed and memory of minivideococa beside torch and onnxruntime: Markdown tables and JSON.

    python tests/benchmarks/run.py [encoder|generate|memory|startup|all] [--model L-14|B-32] [--rounds 5]
                                   [--threads N] [--json FILE] [--keep FOLDER]

Needs the extra `bench`, an idle machine, 12 GB of memory and 5 GB of disk. Nothing is downloaded: the weights
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

import encoder
import generate
import memory
import models
import startup
from machine import conditions
from report import Section

SECTIONS = ("encoder", "generate", "memory", "startup")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("section", nargs="?", choices=(*SECTIONS, "all"), default="all")
    parser.add_argument("--model", choices=("L-14", "B-32"), help="default: L-14; encoder: both")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each competitor (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: one per core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every turn there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the models there for another run")
    args = parser.parse_args()
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
        if name == "startup":
            yield startup.measure(args.rounds, args.threads)
            continue
        measure = {"encoder": encoder, "generate": generate, "memory": memory}[name].measure
        for model in (args.model,) if args.model else ("L-14", "B-32") if name == "encoder" else ("L-14",):
            models.cached_checkpoint(folder, model)
            yield measure(folder / model, model, args.rounds, args.threads)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:  # a competitor failed or computes something else
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
