"""Fuzz the readers of files from elsewhere with atheris.

    python tests/fuzz/fuzz.py --seconds 300 [TARGET...]

Each target of `targets.py` has a process of its own and the same share of the time, as a number of inputs, so
that the same seed and seconds give the same inputs. atheris keeps what reaches new code of the package, and
mutates it further, by `mutate.py` or byte by byte. An input that breaks a promise ends its target: it is left
in the corpus folder, and `--replay FILE` checks it again. Exit status 1: something was found; 2: atheris is
missing.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(place) for place in (HERE, TESTS, TESTS / "evaluation", TESTS.parent)]
TIMEOUT = 30  # seconds for one input
SLACK = 120  # seconds more than twice its share that a target may take
RESIDENT = 1500  # MB for a process, with what the libraries take
RATES = {  # inputs a second, about: a share of the time is a number of inputs, so that it can be repeated
    "unpickler": 370,
    "safetensors": 500,
    "tuned": 1500,
    "configuration": 480,
    "tokenizer": 670,
    "manifest": 800,
    "annotations": 500,
    "trace": 30,
    "vectors": 1500,
    "image": 390,
    "ffmpeg": 360,
}
NAMES = tuple(RATES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"any of {', '.join(NAMES)} (default: all)"
    )
    parser.add_argument(
        "--seconds", type=int, default=300, help="for all targets together, about (default: 300)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the changes; another one finds other inputs (default: 1)"
    )
    parser.add_argument("--corpus", type=Path, help="a folder for what was found, to go on from another time")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="check this input of one TARGET, without atheris"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.targets or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"there is no target {', '.join(unknown)}: give any of {', '.join(NAMES)}")
    if args.replay:
        return replay(names[0], args.replay)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install -e '.[fuzz]' (wheels: Python 3.11 to 3.13 on Linux)")
        return 2
    corpus = args.corpus or Path(tempfile.mkdtemp(prefix="corpus-"))
    if args.child:
        fuzz(names[0], args.seconds, args.seed, corpus / names[0])
    share = max(1, args.seconds * args.jobs // len(names))
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda name: run_child(name, share, args.seed, corpus), names))
    return int(any(found))


def run_child(name: str, seconds: int, seed: int, corpus: Path) -> bool:
    """Fuzz one target in a process of its own, print what came out, and return whether it has failed."""
    begun, log = time.monotonic(), corpus / f"{name}.log"
    (corpus / name).mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(Path(__file__)),
        name,
        "--child",
        "--corpus",
        str(corpus),
        "--seconds",
        str(seconds),
        "--seed",
        str(seed),
    ]
    status: int | str
    with open(log, "wb") as file:
        try:
            settled = os.environ | {"PYTHONHASHSEED": "0"}
            done = subprocess.run(command, stdout=file, stderr=file, env=settled, timeout=2 * seconds + SLACK)
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = "no end"
    text = log.read_text(errors="replace")
    runs = re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    place, _, kept = coverage[-1] if coverage else ("?", "?", "?")
    print(
        f"{name:14} {int(runs[-1]) if runs else 0:>9,} runs in {time.monotonic() - begun:4.0f} s, "
        f"{place} places of the code, {kept} inputs kept: {f'FOUND, see {log}' if status else 'ok'}",
        flush=True,
    )
    return bool(status)


def fuzz(name: str, seconds: int, seed: int, corpus: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris
    from mutate import LONGEST, several

    with atheris.instrument_imports(include=["minivideococa"], enable_loader_override=False):
        from targets import TARGETS, check, warm_up

        target, folder = TARGETS[name], Path(tempfile.mkdtemp(prefix="fuzz-"))
        warm_up(target, folder)  # some modules are imported by functions
    for i, valid in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(valid)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.2:
            return atheris.Mutate(data, most)
        return several(target.mutate, data, random)[:most]

    options = dict(
        seed=seed, runs=seconds * RATES[name], timeout=TIMEOUT, rss_limit_mb=RESIDENT, max_len=LONGEST
    )
    flags = [f"-{option}={value}" for option, value in options.items()]
    arguments = [
        sys.argv[0],
        *flags,
        f"-artifact_prefix={corpus}.found-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, lambda data: check(target, data, folder), custom_mutator=mutated)
    atheris.Fuzz()


def replay(name: str, file: Path) -> int:
    """Check one input without atheris. It raises what a promise was broken by."""
    from targets import TARGETS, check, warm_up

    with tempfile.TemporaryDirectory() as folder:
        warm_up(TARGETS[name], Path(folder))
        message = check(TARGETS[name], file.read_bytes(), Path(folder))
    print(message or "accepted")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
