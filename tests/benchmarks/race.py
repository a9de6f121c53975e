"""Interleaved measurements: every competitor takes one turn per round, in rotating order.

Competitors that need preparation (loading a model, compiling a graph) run in processes of their own, so that
their threads and memory do not interfere. Between turns a signal stops them, because the threads of torch and
onnxruntime keep spinning for a while after their work is done.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUIET = 0.05  # the share of the machine that other processes may take during a turn
ATTEMPTS = 3  # per turn; if all are disturbed, the least disturbed counts
PATIENCE = 20  # seconds to wait for an idle machine before a turn

Turn = dict[str, Any]  # `seconds`, `cpu` seconds, and the competitor's own figures


def environment(threads: int, root: Path = ROOT) -> dict[str, str]:
    """Return the environment of child processes, which import the package in `root`.

    Every library gets `threads` threads, and OpenBLAS is free to choose its kernel.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    oracle = HERE.parent / "oracle"  # for its modules `common` and `reference`
    return kept | counts | {"PYTHONPATH": os.pathsep.join([str(root), str(oracle)])}


class Racer:
    """A process that has prepared a function (see child.py) and is stopped between its turns.

    `function` is "module.function"; `arguments` and those of a turn are JSON values. Raises RuntimeError if
    the process fails.
    """

    def __init__(self, function: str, *arguments: Any, threads: int, root: Path = ROOT) -> None:
        say(f"preparing {function}")
        self.function = function
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), function, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads, root),
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        self.process.send_signal(signal.SIGSTOP)

    def __call__(self, *arguments: Any) -> Turn:
        self.process.send_signal(signal.SIGCONT)
        try:
            print(json.dumps(arguments), file=self.process.stdin, flush=True)
            return self._answer()
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Turn:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.function} failed with status {self.process.wait()}; see above")
        return json.loads(line)


def whole_process(*arguments: str, threads: int, root: Path = ROOT) -> Turn:
    """Take a turn that is a whole Python process. Raises RuntimeError if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.run(
        [sys.executable, *arguments], env=environment(threads, root), capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(arguments)}: {process.stderr}")
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def race(
    competitors: dict[str, Callable[[], Turn]],
    rounds: int,
    warm_up: bool = True,
) -> dict[str, list[Turn]]:
    """Return the turns of each competitor, one per round; each round begins with the next competitor.

    The figure `others` of a turn is the share of the machine that other processes took.
    """
    names = list(competitors)
    for name in names if warm_up else ():
        say(f"warming up: {name}")
        competitors[name]()
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(quiet_turn(competitors[name]))
            say(f"round {i + 1} of {rounds}: {name}: {turns[name][-1]['seconds']:.3f} s")
    return turns


def quiet_turn(competitor: Callable[[], Turn]) -> Turn:
    """Return a turn that other processes hardly disturbed, or the least disturbed of ATTEMPTS."""
    attempts: list[Turn] = []
    while len(attempts) < ATTEMPTS:
        wait_for_quiet()
        before = busy_seconds()
        turn = competitor()
        others = busy_seconds() - before - turn["cpu"] - 0.02  # the system counts in hundredths of seconds
        turn["others"] = max(0.0, others) / (turn["seconds"] * os.cpu_count())
        attempts.append(turn)
        if turn["others"] <= QUIET:
            break
        say(f"disturbed: other processes took {turn['others']:.0%} of the machine")
    return min(attempts, key=lambda turn: turn["others"])


def wait_for_quiet() -> None:
    """Wait until the machine has been idle for half a second, for PATIENCE seconds at most."""
    for _ in range(2 * PATIENCE):
        before = busy_seconds()
        time.sleep(0.5)
        if busy_seconds() - before <= 0.02 + QUIET * 0.5 * os.cpu_count():
            return


def busy_seconds() -> float:
    """Return the CPU seconds that all processes have used so far (Linux), else 0."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def median(turns: list[Turn], figure: str = "seconds") -> float:
    """Return the median of a figure over turns."""
    return statistics.median(turn[figure] for turn in turns)


def say(message: str) -> None:
    """Report progress on standard error."""
    print(message, file=sys.stderr, flush=True)
