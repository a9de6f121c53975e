"""Kill `finetune` at random moments, repeat its command, and compare with a run that was not interrupted.

    python tests/training/kill9.py --moments 20

Each moment is a new run: the process is killed by SIGKILL a random time after its start, and the same command
is run again to its end. Then tuned.safetensors and the last state have to be those of the uninterrupted run,
byte for byte, and the log has to have the same steps. Each run has a cache of its own, so that some moments
fall into the encoding of the clips.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import minivideococa
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, write_manifest

STEPS = 12


def command(manifest: Path, folder: Path) -> list[str]:
    """The command of a run in `folder`."""
    return [
        *(sys.executable, "-m", "minivideococa", "finetune", str(manifest), "-o", str(folder / "run")),
        *("--validate", str(manifest), "--cache", str(folder / "cache"), "--json", "--quiet"),
        *("--frames", "2", "--batch", "2", "--steps", str(STEPS), "--learning-rate", "1e-3"),
        *("--save-every", "2", "--validate-every", "3", "--tune", "frozen-then-full"),
    ]


def start(arguments: list[str]) -> subprocess.Popen:
    """Start a run."""
    variables = {"PYTHONPATH": str(Path(minivideococa.__file__).parents[1])}
    return subprocess.Popen(arguments, env=os.environ | variables, stdout=subprocess.PIPE)


def finish(arguments: list[str]) -> float:
    """Run to the end. Return the seconds it took."""
    begin = time.perf_counter()
    process = start(arguments)
    process.communicate()
    assert process.returncode == 0, f"exit status {process.returncode}: {' '.join(arguments)}"
    return time.perf_counter() - begin


def results(folder: Path) -> dict[str, bytes]:
    """What has to be the same: the tuned part, the last state, and the steps of the log."""
    run = folder / "run"
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    times = ("seconds", "clips_per_second")
    lines = [{name: value for name, value in line.items() if name not in times} for line in log]
    return {
        "log.jsonl": json.dumps(lines).encode(),
        **{name: (run / name).read_bytes() for name in ("tuned.safetensors", f"state-{STEPS}.safetensors")},
    }


def kill_and_resume(moments: int, seed: int, work: Path) -> list[str]:
    """Return a line for each moment. Raises AssertionError if a run does not resume to the same bits."""
    manifest = work / "manifest.jsonl"
    entries = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().splitlines()]
    write_manifest(manifest, [Entry(CLIPS / entry["clip"], (entry["text"],)) for entry in entries])
    seconds = finish(command(manifest, work / "whole"))
    expected, rng, lines = results(work / "whole"), random.Random(seed), []
    for number in range(1, moments + 1):
        folder, moment = work / str(number), rng.uniform(0.1, 1.0) * seconds
        process = start(command(manifest, folder))
        time.sleep(moment)
        process.kill()
        process.communicate()
        saved = sorted(path.name for path in folder.glob("run/*"))
        finish(command(manifest, folder))
        for name, content in results(folder).items():
            assert content == expected[name], f"killed after {moment:.3f} s: {name} differs"
        left = [path.name for path in folder.glob("run/.*")]
        assert not left, f"killed after {moment:.3f} s: {left} are left"
        lines.append(
            f"{number}: killed after {moment:.2f} of {seconds:.2f} s, with {', '.join(saved) or 'nothing'}"
        )
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
    print(f"{len(lines)} of {args.moments} runs resumed to the same bits")


if __name__ == "__main__":
    main()
