"""The files of a cache: their names, their sizes, and removing those that were used least recently.

A file is named KIND-HASH.safetensors; those of earlier versions have no kind. Nothing else in the folder is
touched. The modification time of a file is the time of its last use: `mark_used` sets it.

A finetuning run reads its frames in every epoch. While it lasts it holds a shared lock on the folder, and no
process removes files of the kinds `FRAMES`. Where folders cannot be locked, only a user removes these.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .output import acquire_lock, release_lock

NAME = re.compile(r"(?:([a-z-]+)-)?[0-9a-f]{64}\.safetensors")
FRAMES = ("tokens", "joint-tokens", "squares")  # what finetuning reads
STEPS = 20  # the folder is listed each time that this part of the limit has been written


class CacheFile(NamedTuple):
    """A file of a cache. `kind` is "" for one of an earlier version, `used` a time as of `time.time()`."""

    path: Path
    kind: str
    bytes: int
    used: float


def list_files(folder: Path) -> list[CacheFile]:
    """Return the files of a cache; none if the folder does not exist. Raises OSError if it cannot be read."""
    if not folder.is_dir():
        return []
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if (match := NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # another process has removed it
                    continue
                files.append(CacheFile(Path(entry.path), match[1] or "", stat.st_size, stat.st_mtime))
    return files


def mark_used(path: Path) -> None:
    """Make now the time of a file's last use, unless the folder is read-only."""
    with suppress(OSError):
        os.utime(path)


def keep_frames(folder: Path, user: object) -> None:
    """Keep all processes from removing the frames in a cache as long as `user`, an object, exists."""
    weakref.finalize(user, release_lock, acquire_lock(folder, shared=True))


@contextmanager
def removable_files(folder: Path, by_user: bool = False) -> Iterator[list[CacheFile]]:
    """Yield the files of a cache that no finetuning run needs while the `with` block lasts.

    Where folders cannot be locked, the frames are among them only if the user removes them.
    """
    try:
        held = acquire_lock(folder, wait=False)
        frames = held is not None or by_user
    except BlockingIOError:
        held, frames = None, False
    try:
        yield [file for file in list_files(folder) if frames or file.kind not in FRAMES]
    finally:
        release_lock(held)


def remove(files: Iterable[CacheFile]) -> list[CacheFile]:
    """Remove files, and return those that are gone."""
    gone = []
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
            gone.append(file)
        except OSError:  # not ours, or open on Windows
            pass
    return gone


def evict(folder: Path, limit: int) -> None:
    """Bring a cache that is nearly as large as its limit below it: the least recently used files go first.

    There is room for 1/STEPS of the limit before, and for twice as much after, so that neither each new file
    nor each listing removes some.
    """
    with removable_files(folder) as files:
        total = sum(file.bytes for file in files)
        if total <= limit - limit // STEPS:
            return
        excess = total - (limit - 2 * limit // STEPS)
        for file in sorted(files, key=lambda file: file.used):
            if excess <= 0:
                break
            excess -= sum(gone.bytes for gone in remove([file]))
