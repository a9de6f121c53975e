"""Concurrent and killed processes: two that write the same output succeed, and abandoned work is removed."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from platforms import posix

from minivideococa import cache
from minivideococa.checkpoint import hub
from minivideococa.checkpoint.convert import convert
from minivideococa.checkpoint.folder import embedded_checkpoint, read_checkpoint
from minivideococa.output import atomic_folder, atomic_write

PACKAGE = Path(hub.__file__).parents[2]
CASES = Path(__file__).parent / "cases"
SAME_PID = "import os, sys; os.getpid = lambda: 4242"  # as in two containers


def start(code: str, *arguments: str | Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)} | environment,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run_together(code: str, *arguments: str | Path, **environment: str) -> list[str]:
    """Run code in two processes, which wait for each other in `ready()`. Return their output."""
    ready = "def ready():\n    print('ready', flush=True)\n    sys.stdin.readline()\n"
    both = [start(SAME_PID + "\n" + ready + code, *arguments, **environment) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=60)[0].strip() for process in both]


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_two_processes_fetch_the_same_checkpoint(tmp_path: Path, attempt: int) -> None:
    code = (CASES / "fetch_race.py").read_text()
    printed = run_together(code, MINIVIDEOCOCA_CACHE=str(tmp_path))
    assert printed == [str(tmp_path / "a--b")] * 2
    assert names(tmp_path) == {"a--b"}
    assert names(tmp_path / "a--b") == {"config.json", "model.safetensors", "tokenizer.json"}
    ours, theirs = read_checkpoint(tmp_path / "a--b")[1], read_checkpoint(embedded_checkpoint())[1]
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("empty", [False, True])
def test_two_processes_convert_into_one_folder(tmp_path: Path, empty: bool) -> None:
    dest = tmp_path / "dest"
    if empty:
        dest.mkdir()
    code = """
from contextlib import contextmanager
from minivideococa.checkpoint.convert import convert
@contextmanager
def progress(total, unit):
    ready()  # both have found the folder to be free
    yield lambda count: None
print(convert(sys.argv[1], sys.argv[2], progress=progress))
"""
    printed = run_together(code, embedded_checkpoint(), dest)
    assert printed == [str(dest)] * 2
    assert names(tmp_path) == {"dest"} and names(dest) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    with pytest.raises(ValueError, match="exists and is not empty"):  # afterwards it is not free
        convert(embedded_checkpoint(), dest)


@pytest.mark.slow
def test_two_processes_cache_the_same_arrays(tmp_path: Path) -> None:
    code = """
import numpy as np
from pathlib import Path
from minivideococa import cache
ready()
for i in range(100):
    cache.put(Path(sys.argv[1]), ["facts", i % 3], {"array": np.full(1000, i % 3)})
print("ok")
"""
    assert run_together(code, tmp_path) == ["ok"] * 2
    assert len(names(tmp_path)) == 3
    assert all((cache.get(tmp_path, ["facts", i])["array"] == i).all() for i in range(3))


UNFINISHED = """if True:
    import os, signal, sys
    from pathlib import Path
    from minivideococa.output import atomic_folder, atomic_write
    with (atomic_folder if sys.argv[2] == "folder" else atomic_write)(Path(sys.argv[1])) as partial:
        (partial / "half" if sys.argv[2] == "folder" else partial).write_text("half")
        print("begun", flush=True)
        sys.stdin.read() if sys.argv[3] == "waits" else os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
@pytest.mark.parametrize("kind", ["file", "folder", "empty folder"])
def test_work_of_a_killed_process_is_removed(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "empty folder":
        place.mkdir()
    killed = start(UNFINISHED, place, kind.split()[-1], "is killed")
    assert killed.communicate(timeout=60)[0] == "begun\n" and killed.returncode == -signal.SIGKILL
    assert (
        len(names(place if kind == "empty folder" else tmp_path)) == 2
    )  # the unfinished work and its lock file
    with (atomic_write if kind == "file" else atomic_folder)(place) as partial:
        (partial if kind == "file" else partial / "whole").write_text("whole")
    assert names(tmp_path) == {"place"} and (kind == "file" or names(place) == {"whole"})


def test_conversion_after_an_interrupted_one(tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    start(UNFINISHED, tmp_path / "dest", "folder", "is killed").communicate(timeout=60)
    assert names(convert(embedded_checkpoint(), tmp_path / "dest")) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_work_of_a_running_process_stays(tmp_path: Path, kind: str) -> None:
    living = start(UNFINISHED, tmp_path / "theirs", kind, "waits")
    assert living.stdout.readline() == "begun\n"
    os.utime(next(path for path in tmp_path.iterdir() if path.suffix != ".work"), (0, 0))  # however old it is
    with atomic_write(tmp_path / "ours") as partial:
        partial.write_text("ours")
    living.communicate("", timeout=60)
    assert living.returncode == 0 and names(tmp_path) == {"ours", "theirs"}


@posix
def test_without_locks_old_work_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def fail(*arguments: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    for name in (".partial-aaaaaaaa", ".partial-bbbbbbbb", ".partial-mine"):
        (tmp_path / name).touch()
        (tmp_path / f"{name}.work").mkdir()
    os.utime(tmp_path / ".partial-aaaaaaaa", (0, 0))
    with atomic_write(tmp_path / "ours") as partial:
        partial.touch()
    kept = {".partial-bbbbbbbb", ".partial-mine"}
    assert names(tmp_path) == {"ours", *kept, *(f"{name}.work" for name in kept)}


@pytest.mark.parametrize(
    "error",
    [
        lambda partial: OSError(errno.ENOSPC, "No space left on device"),
        lambda partial: OSError(errno.ENOSPC, "No space left on device", str(partial)),
        lambda partial: OSError(f"{partial}: cannot be written: No space left on device"),
    ],
)
@pytest.mark.parametrize("write", [atomic_write, atomic_folder])
def test_full_disk_names_the_destination(tmp_path: Path, write, error) -> None:
    with (
        pytest.raises(OSError, match="No space left on device") as caught,
        write(tmp_path / "wanted") as partial,
    ):
        raise error(partial)
    assert str(tmp_path / "wanted") in str(caught.value) and ".partial" not in str(caught.value)
    assert names(tmp_path) == set()


def test_unwritable_cache_names_both_options(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    content = tmp_path / "file" / "cache", ["facts"], {"array": np.zeros(1)}
    with pytest.warns(UserWarning, match="--cache or MINIVIDEOCOCA_CACHE, or --no-cache"):
        cache.put(*content)
    with pytest.raises(OSError, match="--cache or MINIVIDEOCOCA_CACHE$"):
        cache.write(*content)


@posix
def test_fifo_in_the_cache_is_not_opened(tmp_path: Path) -> None:
    cache.put(tmp_path, ["facts"], {"array": np.ones(1)})
    file = next(tmp_path.iterdir())
    file.unlink()
    os.mkfifo(file)
    assert cache.get(tmp_path, ["facts"]) is None
    cache.put(tmp_path, ["facts"], {"array": np.ones(1)})
    assert cache.get(tmp_path, ["facts"])["array"] == 1
