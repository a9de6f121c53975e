"""Kill `index` at random moments, look at the library, and repeat the command to its end.

    python tests/library/kill9_index.py --moments 100

Each moment is a new run that saves after every clip: the process is killed by SIGKILL a random time after it
has made the folder. What it leaves has to be no library yet, or one that loads, in which nothing is twice and
every row is, to the bit, that of an uninterrupted run. After the next run, nothing is missing either.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from library_contents import contents
from PIL import Image

import minivideococa
from minivideococa.library.store import is_library

CLIPS = 24
SAVING = """
import sys
from minivideococa import cli, library
from minivideococa.library import build, store
build.SAVE_AFTER = 0
store.SHARD_BYTES = 5_000
sys.exit(cli.main(sys.argv[1:]))
"""


def start(folder: Path, library: Path) -> subprocess.Popen:
    """Start a run."""
    command = ["index", str(folder), "-o", str(library), "--frames", "1", "--quiet"]
    variables = {"PYTHONPATH": str(Path(minivideococa.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", SAVING, *command], env=os.environ | variables, stdout=subprocess.DEVNULL
    )


def wait_for(folder: Path, process: subprocess.Popen) -> float:
    """Wait until a run has made the folder of its library. Return the time."""
    while not folder.exists():
        assert process.poll() is None, f"exit status {process.returncode}"
        time.sleep(0.001)
    return time.perf_counter()


def finish(folder: Path, library: Path) -> float:
    """Run to the end. Return the seconds from the moment when the library's folder was there."""
    process = start(folder, library)
    begin = wait_for(library, process)
    assert process.wait() == 0, f"exit status {process.returncode}"
    return time.perf_counter() - begin


def make_clips(folder: Path) -> None:
    """Write folders of one random picture each, which are clips."""
    for i in range(CLIPS):
        (folder / str(i)).mkdir(parents=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / str(i) / "1.png")


def check(library: Path, expected: dict) -> int:
    """Compare a library with the uninterrupted one. Return its number of clips."""
    found = contents(library)
    for clip, arrays in found.items():
        for array, other in zip(arrays, expected[clip], strict=True):
            assert np.array_equal(array, other, equal_nan=True), f"{clip.path} differs"
    return len(found)


def kill_and_resume(moments: int, seed: int, work: Path) -> list[str]:
    """Return a line for each moment. Raises AssertionError if a library is not as it has to be."""
    make_clips(work / "clips")
    seconds = finish(work / "clips", work / "whole")
    expected, rng, lines = contents(work / "whole"), random.Random(seed), []
    assert len(expected) == CLIPS
    for number in range(1, moments + 1):
        library, moment = work / str(number), rng.uniform(0, 1) * seconds
        process = start(work / "clips", library)
        wait_for(library, process)
        time.sleep(moment)
        process.kill()
        process.wait()
        left = check(library, expected) if is_library(library) else 0
        finish(work / "clips", library)
        assert check(library, expected) == CLIPS, f"killed after {moment:.3f} s: clips are lost"
        lines.append(f"{number}: killed after {moment:.2f} of {seconds:.2f} s, with {left} clips")
        shutil.rmtree(library)
    return lines


def main() -> None:
    """Print a line for each moment."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        lines = kill_and_resume(args.moments, args.seed, Path(work))
    print("\n".join(lines))
    print(f"{len(lines)} of {args.moments} libraries were sound, and complete after the next run")


if __name__ == "__main__":
    main()
