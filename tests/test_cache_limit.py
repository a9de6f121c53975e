"""The size of the cache: its limit, which files go first, and processes that share a folder."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from platforms import posix

import minivideococa
from minivideococa import cache, eviction
from minivideococa.cache import file_of, get, put, size_limit

LIMIT = 100_000
SIZE = 9_000  # of an entry, with its header


def size_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def store(folder, name, kind="video"):
    """Store an entry of about SIZE bytes, last used long ago, at the time `name`."""
    put(folder, [kind, name], {"x": np.full(SIZE, name % 256, np.uint8)})
    path = file_of(folder, [kind, name])
    if path.exists():
        os.utime(path, (name, name))


def stored(folder, names, kind="video"):
    return [name for name in names if file_of(folder, [kind, name]).exists()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache that may take LIMIT bytes, which no process has written to."""
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", str(LIMIT))
    return tmp_path / "cache"


# The limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 10**10),
        ("5000", 5000),
        ("20GB", 20 * 10**9),
        ("1.5 gb", 1_500_000_000),
        ("2k", 2000),
        ("3MiB", 3 * 2**20),
        ("1T", 10**12),
        ("0", None),
    ],
)
def test_the_limit_is_a_size(monkeypatch, text, limit):
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", text)
    assert size_limit() == limit


@pytest.mark.parametrize("text", ["lots", "-1", "10XB", "1e9", "5iB", "GB", "1,5GB"])
def test_anything_else_is_one_line_before_the_work(monkeypatch, tmp_path, text):
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", text)
    with pytest.raises(ValueError, match=r"^MINIVIDEOCOCA_CACHE_LIMIT is '[^\n]*give a size, such as 20GB"):
        cache.folder_for(tmp_path)


def test_the_limit_is_never_exceeded(folder):
    for name in range(60):
        store(folder, name)
        assert size_of(folder) <= LIMIT
    assert size_of(folder) > LIMIT / 2


def test_no_limit(folder, monkeypatch):
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", "0")
    for name in range(30):
        store(folder, name)
    assert len(stored(folder, range(30))) == 30


def test_an_entry_above_the_limit_is_not_kept(folder):
    put(folder, ["video"], {"x": np.zeros(2 * LIMIT, np.uint8)})
    assert size_of(folder) == 0


def test_the_folder_is_listed_now_and_then(tmp_path, monkeypatch):
    """After the first entry, and each time that 1/20 of the limit has been written."""
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", str(60 * SIZE))
    listed, list_files = [], eviction.list_files
    monkeypatch.setattr(eviction, "list_files", lambda folder: listed.append(folder) or list_files(folder))
    for name in range(40):
        store(tmp_path / "cache", name)
    assert 10 <= len(listed) <= 40 / 3 + 2


# Which files go


def test_the_least_recently_used_goes_first(folder):
    for name in range(9):
        store(folder, name)
    assert len(stored(folder, range(9))) == 9
    for name in (0, 3):
        assert get(folder, ["video", name]) is not None
    for name in range(9, 12):
        store(folder, name)
    left = stored(folder, range(12))
    assert {0, 3, 11} <= {*left} and 1 not in left and 2 not in left


def test_an_entry_of_an_earlier_version_goes_too_and_no_file_of_others(folder):
    folder.mkdir()
    others = ["notes.txt", "model.safetensors", f"{'0' * 63}.safetensors", "video-1.safetensors"]
    for name in [*others, f"{'0' * 64}.safetensors"]:
        (folder / name).write_bytes(bytes(LIMIT))
        os.utime(folder / name, (1, 1))
    (folder / f"video-{'0' * 64}.safetensors").mkdir()
    store(folder, 5)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        *others,
        file_of(folder, ["video", 5]).name,
    }


def test_a_file_that_another_process_has_removed_counts_as_gone(folder, monkeypatch):
    for name in range(9):
        store(folder, name)
    files = eviction.list_files(folder)
    for file in files[:5]:
        file.path.unlink()
    monkeypatch.setattr(eviction, "list_files", lambda folder: files)
    eviction.evict(folder, LIMIT // 2)
    assert stored(folder, range(9))


# Several processes


@pytest.mark.slow
@posix
@pytest.mark.parametrize("kind", eviction.FRAMES)
def test_frames_that_finetuning_reads_are_kept_as_long_as_it_runs(folder, kind):
    class Run:
        pass

    store(folder, 1, kind)
    run = Run()
    eviction.keep_frames(folder, run)
    for name in range(2, 40):
        store(folder, name)
    assert stored(folder, [1], kind) and 2 not in stored(folder, range(40))
    del run
    gc.collect()
    for name in range(40, 60):
        store(folder, name)
    assert not stored(folder, [1], kind)


def test_where_folders_cannot_be_locked_only_the_user_removes_frames(folder, monkeypatch):
    monkeypatch.setattr(eviction, "acquire_lock", lambda *_, **__: None)
    store(folder, 1, "tokens")
    eviction.evict(folder, 1)
    with eviction.removable_files(folder, by_user=True) as files:
        assert [file.kind for file in files] == ["tokens"]


WRITER = """
import sys, numpy as np
from pathlib import Path
from minivideococa.cache import get, put
folder, first = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True); sys.stdin.readline()
for name in range(first, first + 150):
    put(folder, ["video", name], {"x": np.full(9000, name % 256, np.uint8)})
    for back in range(5):
        found = get(folder, ["video", name - back])
        assert found is None or (found["x"] == (name - back) % 256).all()
"""


@pytest.mark.slow
def test_processes_that_fill_one_folder(folder):
    command = [sys.executable, "-W", "error", "-c", WRITER, str(folder)]
    variables = {"PYTHONPATH": str(Path(minivideococa.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [*command, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )
        for first in (1000, 1050, 5000)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ended = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], ended
    assert 0 < size_of(folder) <= LIMIT + 3 * SIZE
    assert all(eviction.NAME.fullmatch(path.name) for path in folder.iterdir())
