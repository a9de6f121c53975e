"""Kill a command by SIGKILL at random moments, look at what it leaves, and repeat it to its end.

    python tests/robustness/kill9.py                      # all of them
    python tests/robustness/kill9.py index --moments 100

Each moment is a new run in a process that is forked from this one, so that it falls into the work and not
into the imports. It is drawn from the whole run. For every second one, the next unfinished file is waited
for, and the moment is drawn from the time for which such a file is there. A run that ends before its moment
is repeated with another one. What a killed run leaves has to be whole: each file, each clip of a library and
each line of a log is, byte for byte, that of a run that was not interrupted, or it is missing. The repeated
command has to complete to the same, and to remove unfinished work. (Where it writes nothing, since all is
there, an empty lock file may stay, which the next run that writes removes.)
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Before NumPy is loaded. A process in which BLAS or the tokenizer has threads should not be forked.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.append(str(Path(__file__).parents[1] / "library"))

import children
import numpy as np
from library_contents import contents as clips_in
from PIL import Image

from minivideococa import cli
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, write_manifest
from minivideococa.library import build, store

PICTURES = 24
STEPS = 12
POLL = 0.0002  # seconds

Contents = dict[object, object]  # of the output of a run: what has to be whole


class Command(NamedTuple):
    """How a command is run, given the folder of its inputs and that of its output, and what it leaves."""

    arguments: Callable[[Path, Path], list[str]]
    contents: Callable[[Path], Contents]


def files(folder: Path) -> Contents:
    """Return the files of a folder and below it by their paths, without unfinished work."""
    hidden = set(unfinished(folder))
    paths = [path for path in folder.rglob("*") if path.is_file() and path not in hidden]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def unfinished(folder: Path) -> list[Path]:
    """Return the hidden files of a folder and below it, and those in hidden folders."""
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    return [path for path in found if any(part[0] == "." for part in path.relative_to(folder).parts)]


def whole_folder(folder: Path) -> Contents:
    """Return the files of a folder as one thing, which is there or not."""
    found = files(folder)
    return {"folder": tuple(sorted(found.items()))} if found else {}


def library(folder: Path) -> Contents:
    """Return the clips of a library, each with its latents."""
    if not store.is_library(folder / "library"):
        return {}
    found = clips_in(folder / "library")
    return {clip: tuple(array.tobytes() for array in arrays) for clip, arrays in found.items()}


def run_of_finetune(folder: Path) -> Contents:
    """Return the files of a run and its cache; of its log, the steps without their times."""
    found = files(folder)
    found.pop("run/summary.json", None)  # has a time
    log = found.pop("run/log.jsonl", b"").decode().split("\n")[:-1]  # the last line may be cut short
    for line in map(json.loads, log):
        step = {name: x for name, x in line.items() if name not in ("seconds", "clips_per_second")}
        found["log", line["step"], "validation" in line] = json.dumps(step)
    return found


def convert(inputs: Path, folder: Path) -> list[str]:
    """Return the arguments of `convert`."""
    return ["convert", str(embedded_checkpoint()), str(folder / "checkpoint")]


def index(inputs: Path, folder: Path) -> list[str]:
    """Return the arguments of `index`. It saves after each clip."""
    return ["index", str(inputs / "pictures"), "-o", str(folder / "library"), "--frames", "1"]


def evaluate(inputs: Path, folder: Path) -> list[str]:
    """Return the arguments of `evaluate`, with a cache of its own."""
    places = ["-o", str(folder / "predictions.jsonl"), "--cache", str(folder / "cache")]
    return ["evaluate", str(inputs / "manifest.jsonl"), *places, "--frames", "2"]


def finetune(inputs: Path, folder: Path) -> list[str]:
    """Return the arguments of `finetune`, with a cache of its own: some moments fall into the encoding."""
    manifest, schedule = str(inputs / "manifest.jsonl"), ["--save-every", "2", "--validate-every", "3"]
    return [
        *("finetune", manifest, "--validate", manifest),
        *("-o", str(folder / "run"), "--cache", str(folder / "cache"), "--keep", "99"),
        *("--frames", "2", "--batch", "2", "--steps", str(STEPS), "--learning-rate", "1e-3", *schedule),
        *("--tune", "frozen-then-full"),
    ]


def trace(inputs: Path, folder: Path) -> list[str]:
    """Return the arguments of `trace`."""
    text = ["--text", "a red ring", "--frames", "4", "--dtype", "float64"]
    return ["trace", str(CLIPS / "pair.gif"), *text, "-o", str(folder / "trace.safetensors")]


COMMANDS = {
    "convert": Command(convert, whole_folder),
    "index": Command(index, library),
    "evaluate": Command(evaluate, files),
    "finetune": Command(finetune, run_of_finetune),
    "trace": Command(trace, files),
}


def make_inputs(folder: Path) -> None:
    """Write folders of one random picture each, which are clips, and a manifest of the package's clips."""
    for i in range(PICTURES):
        (folder / "pictures" / str(i)).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / str(i) / "1.png")
    clips = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
    entries = [
        Entry(CLIPS / clip["clip"], (clip["text"],), (clip["text"],), "there is", clip["text"])
        for clip in clips
    ]
    write_manifest(folder / "manifest.jsonl", entries)


def wait_while(condition: Callable[[], bool], child: int) -> None:
    """Wait while a condition holds and a run has not ended."""
    while condition() and not children.has_ended(child):
        time.sleep(POLL)


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Run to the end. Return the seconds it took, and those for which its first unfinished file was there."""
    begin = time.perf_counter()
    child = children.start(arguments)
    wait_while(lambda: not unfinished(folder), child)
    writing = time.perf_counter()
    wait_while(lambda: bool(unfinished(folder)), child)
    written = time.perf_counter()
    assert children.wait(child) == 0
    return time.perf_counter() - begin, written - writing


def is_killed(arguments: list[str], folder: Path, seconds: float, writing: float | None) -> bool:
    """Kill a run after these seconds. Tell whether it had not ended before.

    With `writing`, wait for its next unfinished file then, and for these seconds.
    """
    child = children.start(arguments)
    time.sleep(seconds)
    if writing is not None:
        wait_while(lambda: not unfinished(folder), child)
        time.sleep(writing)
    os.kill(child, signal.SIGKILL)
    return children.wait(child) == -signal.SIGKILL


def kill_and_repeat(name: str, moments: int, seed: int, work: Path) -> int:
    """Kill a command at this many moments. Return how many fell into the writing of a file.

    Raises AssertionError if what is left is not as it has to be.
    """
    command, inputs, rng = COMMANDS[name], work / "inputs", random.Random(seed)
    make_inputs(inputs)
    folder = work / "output"  # always the same, as some files name it
    arguments = [*command.arguments(inputs, folder), "--quiet"]

    def clear() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    clear()
    assert children.wait(children.start(arguments)) == 0  # reads every file of the inputs once
    expected = command.contents(folder)
    clear()
    (whole, one_file), writing = measure(arguments, folder), 0
    assert command.contents(folder) == expected, "two runs that were not interrupted differ"
    for number in range(moments):
        killed = False
        while not killed:
            clear()
            seconds, into_file = rng.uniform(0, whole), rng.uniform(0, one_file) if number % 2 else None
            killed = is_killed(arguments, folder, seconds, into_file)
        moment = f"moment {number}, after {seconds:.4f} s and {into_file} s of a file"
        writing += bool(unfinished(folder))
        left = command.contents(folder)
        assert left.items() <= expected.items(), f"{moment}: {differing(left, expected)} are not whole"
        if name == "convert" and left == expected:  # it does not write over a checkpoint
            continue
        assert children.wait(children.start(arguments)) == 0, f"{moment}: the repeated command fails"
        again = command.contents(folder)
        assert again == expected, f"{moment}: {differing(again, expected)} differ after the repeated command"
        stay = [path for path in unfinished(folder) if path.stat().st_size]
        assert not stay, f"{moment}: {stay} stay"
    return writing


def differing(found: Contents, expected: Contents) -> list[object]:
    """Return the names of what differs."""
    return [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]


def warm_up(names: list[str]) -> None:
    """Run each command once in this process, which then has all modules."""
    with tempfile.TemporaryDirectory() as work:
        make_inputs(Path(work))
        for name in names:
            output = Path(work, name)
            output.mkdir()
            assert cli.main([*COMMANDS[name].arguments(Path(work), output), "--quiet"]) == 0


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := set(args.commands) - set(COMMANDS):
        parser.error(f"no such command: {', '.join(sorted(unknown))}")
    build.SAVE_AFTER, store.SHARD_BYTES = 0, 5_000  # `index` saves after each clip
    names = args.commands or list(COMMANDS)
    screen = os.dup(1)  # for these lines alone, not for what the commands print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warm_up(names)
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            writing = kill_and_repeat(name, args.moments, args.seed, Path(work))
        line = f"{name}: {args.moments} of {args.moments} killed runs left what is whole, and were completed"
        os.write(screen, f"{line}; {writing} were killed while they wrote a file\n".encode())


if __name__ == "__main__":
    main()
