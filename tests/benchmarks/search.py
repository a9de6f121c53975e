"""An exact search of a library of a million clips, beside a bare read of the same bytes."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from race import Racer, median, race
from report import Section, ratio, seconds

CLIPS, FRAMES, WIDTH = 1_000_000, 8, 512
BYTES = CLIPS * WIDTH * 2  # of the latents, float16


def measure(rounds: int, threads: int) -> Section:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_library(Path(folder))
        names = {"search, the 10 best": "search.searcher", "a bare read": "search.reader"}
        turns = race(
            {
                name: stack.enter_context(Racer(function, folder, threads, threads=threads))
                for name, function in names.items()
            },
            rounds,  # after a warm-up, which leaves the files in the page cache
        )
    search, read = turns.values()
    private = max(turn["private"] for turn in search)
    return Section(
        f"Search: {CLIPS:,} clips, E = {WIDTH}, float16, warm page cache, {threads} threads",
        ["", "seconds", "min - max", "CPU seconds", "times as long"],
        [
            [name, *seconds(turn), f"{median(turn, 'cpu'):.2f}", ratio(turn, read)]
            for name, turn in turns.items()
        ],
        [
            f"A search reads {BYTES / 1e9:.2f} GB of latents in {search[0]['shards']} shards.",
            f"The private memory of the process was {private / 1e6:.0f} MB at most, "
            f"{search[0]['before'] / 1e6:.0f} MB before the search.",
        ],
        turns,
    )


def write_library(folder: Path) -> None:
    """Write a library of random latents. Those of the frames are holes in the files, which take no space."""
    from minivideococa.library import store

    row = (1 + FRAMES) * WIDTH * 2
    count = store.SHARD_BYTES // row
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((count, WIDTH), np.float32)
    latents = (latents / np.linalg.norm(latents, axis=1, keepdims=True)).astype(np.float16)
    facts = {"model": "random", "weights": "random", "adapter": "mean", "sampling": "none"}
    library = store.Library(folder, facts | {"frames": FRAMES, "dtype": "float16", "width": WIDTH})
    for number, first in enumerate(range(0, CLIPS, count)):
        n, shard = min(count, CLIPS - first), f"shard-{number:06d}.safetensors"
        write_shard(folder / shard, first, np.roll(latents, number, axis=1)[:n])
        library.shards[shard] = n
    store.write_library(library)


def write_shard(path: Path, first: int, latents: np.ndarray) -> None:
    n = len(latents)
    names = [f"/videos/{i:09d}.mp4".encode() for i in range(first, first + n)]
    tensors = {
        "times": np.tile(np.arange(FRAMES, dtype=np.float64), (n, 1)),
        "part": np.full((n, 2), np.nan),
        "stamp": np.zeros((n, 2), np.int64),
        "path_end": np.cumsum([len(name) for name in names], dtype=np.int64),
        "latent": latents,
        "key": np.random.default_rng(first).integers(0, 256, (n, 32), np.uint8),
        "path": np.frombuffer(b"".join(names), np.uint8),
    }
    shapes = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    shapes["frames"] = np.dtype("float16"), (n, FRAMES, WIDTH)
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        size = dtype.itemsize * int(np.prod(shape))
        kind = {"f": "F", "i": "I", "u": "U"}[dtype.kind] + str(8 * dtype.itemsize)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)
        file.truncate(8 + len(text) + end)


# What the child processes prepare and run -------------------------------------------------------------------


def searcher(folder: str, threads: int) -> Callable[[], dict[str, Any]]:
    from minivideococa.library import read_library, search_latents

    query = np.random.default_rng(1).standard_normal(WIDTH).astype(np.float32)
    query /= np.linalg.norm(query)
    shards = len(read_library(folder).shards)

    def run() -> dict[str, Any]:
        before = private_memory()
        with watched() as peak:
            assert len(search_latents(folder, query)) == 10
        return {"private": max(peak), "before": before, "shards": shards}

    return run


def reader(folder: str, threads: int) -> Callable[[], None]:
    """Return a function that reads the bytes of all latents, with as many threads, and that is all."""
    from minivideococa.library import read_library

    library = read_library(folder)
    places = []
    for shard in library.shards:
        with open(library.folder / shard, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            begin, end = json.loads(file.read(size))["latent"]["data_offsets"]
        places.append((library.folder / shard, 8 + size + begin, end - begin))

    def read(place: tuple[Path, int, int]) -> None:
        path, begin, size = place
        buffer = memoryview(bytearray(2**20))
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            while size > 0 and (count := file.readinto(buffer[:size])):
                size -= count

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, places))

    return run


@contextmanager
def watched() -> Iterator[list[int]]:
    """Yield a list of measurements of the private memory, every 20 ms."""
    found, done = [private_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found.append(private_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def private_memory() -> int:
    """Return the bytes of this process that it shares with no other, mapped files included (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))
