"""Caption many files in one process, and look whether anything grows.

    python tests/robustness/soak.py --captions 2000

Most captions come from Python's interface and one in ten from the command line, with its cache. The files are
GIFs, images, videos that ffmpeg decodes, and some that cannot be read. A quarter of the captions is for
warming up. From there on, what the process holds is measured 20 times. Child processes, file descriptors,
threads and temporary files may not become more. Resident memory, by the line that fits the measurements best,
may grow by NOISE, which the allocator needs, and by LEAK a caption. That is less than what is kept of a clip
by mistake: its 8 frames of 64 x 64 pixels take 98 kB, the tokens that the decoder sees 16 kB.
"""

import argparse
import ctypes
import gc
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import cycle, islice
from pathlib import Path

import numpy as np

import minivideococa as mvc
from minivideococa import cli
from minivideococa.demo import CLIPS
from minivideococa.world.shapes import write_shapes

NOISE = 1_000_000  # bytes
LEAK = 4_000  # bytes a caption
MEASUREMENTS = 20
CASES = Path(__file__).parents[1] / "cases"
IMAGES = ("grey16.png", "photo_plain.jpg", "photo_stereo.jpg", "fold_upright", "fold_mixed")
COUNTED = ("child processes", "file descriptors", "threads", "temporary files")


def make_files(folder: Path) -> list[Path]:
    """Return what is captioned; files that come with nothing are written to a folder."""
    write_shapes(folder / "shapes", 3)
    clips = sorted((folder / "shapes").glob("*.mp4"))
    (folder / "cut.mp4").write_bytes(clips[0].read_bytes()[:3000])
    (folder / "text.mp4").write_text("no video")
    images = [CASES / "img" / name for name in IMAGES]
    broken = [CASES / "broken.mp4", folder / "cut.mp4", folder / "text.mp4", folder / "missing.gif"]
    return [*sorted(CLIPS.glob("*.gif")), *clips, CASES / "two.mp4", CASES / "two.ts", *images, *broken]


def caption(model: mvc.VideoCoCa, path: Path) -> str:
    """Return the caption of a file, or why it has none."""
    try:
        return model.caption(path)
    except (OSError, ValueError) as error:
        return str(error)


def caption_by_command(path: Path) -> str:
    """Return what the command prints, without its messages, and its exit status."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        status = cli.main(["caption", str(path)])
    return f"{out.getvalue()}{status}"


def measure(temporary: Path) -> dict[str, int]:
    """Return what this process holds: bytes of resident memory, and numbers of other things. Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "child processes": sum(parent == os.getpid() for parent in parents()),
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "temporary files": len(list(temporary.rglob("*"))),
    }


def parents() -> Iterator[int]:
    """Yield the parent of each process, of ended ones too that nobody has waited for."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue


@contextmanager
def own_folders(work: Path) -> Iterator[Path]:
    """Give temporary files and the cache folders of their own. Yield that of temporary files."""
    before = os.environ.copy()
    os.environ |= {"TMPDIR": str(work / "temporary"), "MINIVIDEOCOCA_CACHE": str(work / "cache")}
    (work / "temporary").mkdir()
    tempfile.tempdir = None  # read again from the environment
    try:
        yield work / "temporary"
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None


def soak(captions: int, work: Path, also: Callable[[], object] = int) -> list[dict[str, int]]:
    """Caption files again and again, and return the measurements, each with the number of captions.

    `also` is called after each caption. Raises AssertionError if a file gets another caption than before.
    """
    files, model, known, found = make_files(work), mvc.load(), {}, []
    warming = captions // 4
    at = set(np.linspace(warming, captions, MEASUREMENTS).astype(int))
    with own_folders(work) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, path in enumerate(islice(cycle(files), captions), 1):
            by_command = number % 10 == 0
            text = caption_by_command(path) if by_command else caption(model, path)
            assert known.setdefault((path, by_command), text) == text, f"{path}: another caption than before"
            also()
            if number in at:
                found.append({"captions": number, **measure(temporary)})
    return found


def growth(found: list[dict[str, int]]) -> list[str]:
    """Return what has grown, in words."""
    first, last = found[0], found[-1]
    grown = [f"{name}: {first[name]} -> {last[name]}" for name in COUNTED if last[name] > first[name]]
    captions = np.array([row["captions"] for row in found])
    slope = np.polyfit(captions, [row["memory"] for row in found], 1)[0]
    count = captions[-1] - captions[0]
    if slope * count > NOISE + LEAK * count:
        grown.append(f"memory: {slope / 1000:.1f} kB a caption")
    return grown


def main() -> None:
    """Print the measurements. The exit status is 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = soak(args.captions, Path(work))
    print(*found[0], sep="\t")
    for row in found:
        print(*row.values(), sep="\t")
    grown = growth(found)
    print("grown: " + "; ".join(grown) if grown else "nothing has grown")
    raise SystemExit(bool(grown))


if __name__ == "__main__":
    main()
