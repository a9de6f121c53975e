"""Outputs that are whole or not there: made beside their place, and moved into it at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Any


def place_for(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Return where a file of this name goes, links followed. Call it before the work that will fill the file.

    Raises FileNotFoundError if its folder is not there, ValueError if something is there that is no regular file, or is one of
    the files, or in one of the folders, that the work reads.
    """
    place = Path(path).resolve()
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {place.parent}: make it first")
    if place.exists() and not place.is_file():
        raise ValueError(f"{path}: is there already and no regular file: give another name")
    for read in filter(os.path.exists, inputs):
        if Path(read).resolve() in (place, *(place.parents if os.path.isdir(read) else ())):
            raise ValueError(f"{path}: would replace what is read: give another name")
    return place


def json_text(data: Any) -> str:
    """A line of JSON. Letters stay letters, unless one is half of a pair or a byte of a file's name, which UTF-8 does not have."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)  # a ValueError: JSON has no NaN
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(data)


# A lock file, as tempfile.mkstemp names it, and beside it the unfinished file or folder.
LEFTOVER = re.compile(r"\.partial-[a-z0-9_]{8}(\.work)?")


@contextmanager
def written_whole(place: Path) -> Iterator[Path]:
    """Yield a path beside `place` to make a file or a folder at, which is moved to `place` at the end.

    If the work fails, nothing of it remains. Raises OSError if nothing can be written there.
    """
    with _unfinished(place.parent) as partial, _named(partial, place):
        yield partial
        os.replace(partial, place)


@contextmanager
def folder_written_whole(
    folder: str | os.PathLike[str],
    same: Callable[[Path, Path], bool] | None = None,
) -> Iterator[Path]:
    """Yield an empty folder to fill. It takes the place of `folder` at the end; missing folders above `folder` are made.

    An empty `folder` stays and is filled at the end, since it may be a mount point or somebody's working directory.
    Raises ValueError if `folder` holds something, now or at the end, and OSError if it cannot be made. With `same`,
    a folder that another process has written meanwhile is kept if `same(theirs, ours)` is true.
    """
    folder, place = Path(folder), Path(folder).resolve()
    if not same:
        refuse_occupied(folder)
    inside = place.is_dir()
    if not inside:
        place.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(place if inside else place.parent) as partial, _named(partial, folder):
        partial.mkdir()
        yield partial
        lock = _lock(place) if inside else None  # two processes must not move their files by turns
        try:
            refuse_occupied(folder)
            for made in list(partial.iterdir()) if inside else []:
                os.replace(made, place / made.name)
            if not inside:
                os.replace(partial, place)
        except (ValueError, OSError):
            if not (same and place.is_dir() and same(place, partial)):
                refuse_occupied(folder)
                raise
        finally:
            _unlock(lock)


def refuse_occupied(folder: Path) -> None:
    """Raise ValueError unless a folder can be put at `folder`: nothing is there, or an empty folder.

    The unfinished work of another process, or of a killed one, does not count.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: is there already and is a file: give another place, or remove it first")
    if folder.exists() and not (folder.is_dir() and all(map(LEFTOVER.fullmatch, os.listdir(folder)))):
        raise ValueError(f"{folder}: is there already and not empty: give another place, or remove it first")


def writable(folder: Path) -> bool:
    """Whether something can be written in `folder`, or in the nearest folder above it that is there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A path in `folder` for unfinished work, which is removed at the end, as is work that killed processes left.

    A process holds a lock on a file beside its work; the system releases it when the process ends, however it ends.
    """
    try:
        for name in os.listdir(folder):
            if LEFTOVER.fullmatch(name) and not name.endswith(".work"):
                _remove_abandoned(folder / name)
        while True:
            descriptor, name = mkstemp(prefix=".partial-", dir=folder)
            os.close(descriptor)
            lock = _lock(name)
            if os.path.exists(name):  # else another process took it for abandoned before it was locked
                break
            _unlock(lock)
    except OSError as error:
        raise type(error)(
            f"{folder}: nothing can be written there: {error.strerror}; give another place"
        ) from None
    try:
        yield Path(name + ".work")
    finally:
        _remove(name)
        _unlock(lock)


@contextmanager
def _named(partial: Path, place: Path) -> Iterator[None]:
    """Name `place` instead of the temporary `partial` in the message of an OSError."""
    try:
        yield
    except OSError as error:
        temporary, name = str(partial), str(place)
        named = str(error) if error.errno is None else os.fsdecode(error.filename or temporary)
        if temporary not in named:  # about another file
            raise
        if error.errno is None:  # a message of this package
            raise OSError(named.replace(temporary, name)) from None
        raise OSError(f"{name}: cannot be written: {error.strerror}") from None


def _remove_abandoned(marker: Path) -> None:
    """Remove unfinished work if no process holds its lock; where files cannot be locked, if it is older than a day."""
    try:
        lock = _lock(marker, wait=False)
        if lock is not None or time.time() - marker.stat().st_mtime > 24 * 3600:
            _remove(str(marker))
        _unlock(lock)
    except OSError:  # held, or gone, or somebody else's
        pass


def _remove(marker: str) -> None:
    """Remove unfinished work, then the lock file beside it."""
    work = Path(marker + ".work")
    if work.is_dir() and not work.is_symlink():
        shutil.rmtree(work, ignore_errors=True)
    else:
        work.unlink(missing_ok=True)
    Path(marker).unlink(missing_ok=True)


def _lock(path: str | Path, wait: bool = True) -> int | None:
    """Lock a file or a folder and return the descriptor that holds the lock; None where it cannot be locked.

    Raises BlockingIOError, without `wait`, if another process holds it.
    """
    try:
        import fcntl  # Windows has none

        descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
