"""A caption for each ten seconds of a film: the memory that two hours need beyond two minutes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from memory import megabytes, peak
from race import Racer, race
from report import Section, seconds

MINUTES = 2, 120


def measure(rounds: int, threads: int) -> Section:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        racers = {
            f"{n} minutes": stack.enter_context(Racer("film.caption", str(film(folder, n)), threads=threads))
            for n in MINUTES
        }
        turns = race(racers, rounds, warm_up=False)
    highest = {name: max(turn["peak"] for turn in mine) for name, mine in turns.items()}
    short, long = highest.values()
    rows = [[name, megabytes(highest[name]), *seconds(mine)] for name, mine in turns.items()]
    return Section(
        "A long video: a caption for each 10 s with the embedded checkpoint, greedy, 25 frames a second",
        ["", "peak", "seconds", "min - max"],
        rows,
        [f"{MINUTES[1]} minutes need {long / short:.2f} times the memory of {MINUTES[0]} minutes."],
        turns,
    )


def film(folder: Path, minutes: int) -> Path:
    """Make a film of one minute that repeats."""
    from minivideococa.media.ffmpeg import ffmpeg_path

    minute, path = folder / "minute.mp4", folder / f"{minutes}.mp4"
    command = [ffmpeg_path(), "-nostdin", "-loglevel", "error", "-y"]
    encoding = ["-c:v", "libx264", "-preset", "ultrafast", minute]
    if not minute.exists():
        subprocess.run([*command, "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=60", *encoding], check=True)
    repeat = ["-stream_loop", str(minutes - 1), "-i", minute, "-c", "copy", path]
    subprocess.run([*command, *repeat], check=True)
    return path


def caption(path: str) -> Callable[[], dict[str, float]]:
    """Return a function that captions a film and returns the process's peak of memory, in bytes."""
    import minivideococa

    model = minivideococa.load()

    def run() -> dict[str, float]:
        count = sum(1 for _ in minivideococa.caption_stretches(model, path, 10.0, beams=1))
        return {"captions": count, "peak": peak()}

    return run
