"""Atomic output: a file or folder is written beside its destination and moved there when it is complete.

Unfinished work is a folder `.partial-XXXXXXXX.work` beside a lock file `.partial-XXXXXXXX`. The process that
writes it holds a lock on the lock file, which the system releases when the process ends. Whoever writes in
the same folder later removes unfinished work without a lock.
"""

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

LOCK_FILE = re.compile(r"\.partial-[a-z0-9_]{8}")  # the names that tempfile.mkstemp gives
UNFINISHED = re.compile(rf"{LOCK_FILE.pattern}(\.work)?")
ABANDONED_AFTER = 24 * 3600  # seconds, where files cannot be locked


def resolve_output(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Return the destination of an output file, with links resolved. Call it before the work starts.

    Raises FileNotFoundError if the folder does not exist, PermissionError if nothing can be written there,
    and ValueError if the destination is something other than a regular file, is one of `inputs`, or lies in a
    folder that is one of `inputs`.
    """
    destination = Path(path).resolve()
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {destination.parent}: make it first")
    if destination.exists() and not destination.is_file():
        raise ValueError(f"{path}: exists and is not a regular file: give another name")
    require_writable(destination.parent, path)
    for source in filter(os.path.exists, inputs):
        if Path(source).resolve() in (destination, *(destination.parents if os.path.isdir(source) else ())):
            raise ValueError(f"{path}: would overwrite an input: give another name")
    return destination


def json_text(data: Any) -> str:
    """Return JSON on one line, as text that UTF-8 can encode. Raises ValueError for NaN and infinity.

    Non-ASCII letters are kept, unless a string has surrogates (half a pair, or a byte of an undecodable file
    name).
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(data)


@contextmanager
def atomic_write(destination: Path) -> Iterator[Path]:
    """Yield a path for a new file or folder, and move it to `destination` when the `with` block ends.

    If the block raises, what it made is removed and `destination` is unchanged. Raises OSError if nothing can
    be written beside `destination`.
    """
    with _unfinished(destination.parent) as work, _errors_name(work, destination.parent, destination):
        work.mkdir()  # also for a file: what a library writes beside it is removed with it
        yield work / destination.name
        os.replace(work / destination.name, destination)


@contextmanager
def atomic_folder(
    folder: str | os.PathLike[str], is_same: Callable[[Path, Path], bool] | None = None
) -> Iterator[Path]:
    """Yield an empty folder to fill, and move it to `folder` when the `with` block ends. Make its parents.

    An existing empty `folder` is not replaced but filled at the end: it may be a mount point or a working
    directory. Raises ValueError if `folder` is not empty, at the start or at the end, and OSError if it
    cannot be written. With `is_same`, a folder that another process has put there in the meantime is accepted
    if `is_same(theirs, ours)`.
    """
    folder, destination = Path(folder), Path(folder).resolve()
    if not is_same:
        require_empty(folder)
    fill = destination.is_dir()
    if not fill:
        make_folder(destination.parent)
    place = destination if fill else destination.parent
    with _unfinished(place) as partial, _errors_name(partial, folder, folder):
        partial.mkdir()
        yield partial
        try:
            _move_folder(partial, destination, fill)
        except (ValueError, OSError):
            if not (is_same and destination.is_dir() and is_same(destination, partial)):
                require_empty(folder)
                raise


def _move_folder(partial: Path, destination: Path, fill: bool) -> None:
    """Move a folder, or with `fill` its entries. Raises ValueError if `destination` is not empty."""
    lock = acquire_lock(destination) if fill else None  # otherwise two processes could mix their files
    try:
        require_empty(destination)
        if fill:
            for entry in list(partial.iterdir()):
                os.replace(entry, destination / entry.name)
        else:
            os.replace(partial, destination)
    finally:
        release_lock(lock)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, unless it exists. Raises OSError, which names it, if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{folder}: cannot be made: {error.strerror}; give another place") from None


def require_empty(folder: Path) -> None:
    """Raise ValueError unless `folder` does not exist or is empty. Unfinished work does not count."""
    if folder.is_file():
        raise ValueError(f"{folder}: exists and is a file: give another name, or remove it first")
    if folder.exists() and not (folder.is_dir() and all(map(UNFINISHED.fullmatch, os.listdir(folder)))):
        raise ValueError(f"{folder}: exists and is not empty: give another name, or remove it first")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder while the `with` block lasts; the system releases it if the process ends.

    Raises ValueError if another process holds it. Where folders cannot be locked, there is no lock.
    """
    try:
        lock = acquire_lock(folder, wait=False)
    except BlockingIOError:
        raise ValueError(
            f"{folder}: another process is writing there: wait until it ends, or give another folder"
        ) from None
    try:
        yield
    finally:
        release_lock(lock)


def is_writable(folder: Path) -> bool:
    """Return whether files can be made in `folder`, or if it does not exist, in its nearest parent."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def require_writable(folder: Path, name: str | os.PathLike[str]) -> None:
    """Raise PermissionError, which calls the output `name`, unless files can be made in `folder`."""
    if not is_writable(folder):
        raise PermissionError(f"{os.fspath(name)}: cannot be written; give another place")


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """Yield a path in `folder` for unfinished work, removed at the end. Remove abandoned work first."""
    try:
        remove_abandoned(folder)
        lock_file, lock = _make_lock_file(folder)
    except OSError as error:
        raise type(error)(f"{folder}: cannot be written: {error.strerror}; give another place") from None
    try:
        yield Path(f"{lock_file}.work")
    finally:
        _remove(lock_file)
        release_lock(lock)


def _make_lock_file(folder: Path) -> tuple[Path, int | None]:
    """Make a lock file and lock it. Return its path and the lock."""
    while True:
        descriptor, name = mkstemp(prefix=".partial-", dir=folder)
        os.close(descriptor)
        lock = acquire_lock(name)
        if os.path.exists(name):
            return Path(name), lock
        release_lock(lock)  # another process has removed it, before it was locked, as abandoned


@contextmanager
def _errors_name(work: Path, place: Path, destination: Path) -> Iterator[None]:
    """Replace the folder of unfinished work in the message of an OSError by `place`, which it will be.

    An error of the system names `destination`.
    """
    try:
        yield
    except OSError as error:
        temporary, name = str(work), str(destination)
        message = str(error) if error.errno is None else os.fsdecode(error.filename or temporary)
        if temporary not in message:  # an error of another file
            raise
        if error.errno is None:  # an error of this package
            raise OSError(message.replace(temporary, str(place))) from None
        raise OSError(f"{name}: cannot be written: {error.strerror}") from None


def remove_abandoned(folder: Path) -> None:
    """Remove unfinished work in a folder that no process is writing. Raises OSError if it cannot be read."""
    for name in os.listdir(folder):
        if LOCK_FILE.fullmatch(name):
            _remove_abandoned(folder / name)


def _remove_abandoned(lock_file: Path) -> None:
    """Remove unfinished work without a lock; where files cannot be locked, work that is a day old."""
    try:
        lock = acquire_lock(lock_file, wait=False)
        if lock is not None or time.time() - lock_file.stat().st_mtime > ABANDONED_AFTER:
            _remove(lock_file)
        release_lock(lock)
    except OSError:  # locked, already removed, or not ours to remove
        pass


def _remove(lock_file: Path) -> None:
    """Remove unfinished work, then its lock file."""
    work = Path(f"{lock_file}.work")
    if work.is_dir() and not work.is_symlink():
        shutil.rmtree(work, ignore_errors=True)
    else:
        work.unlink(missing_ok=True)
    lock_file.unlink(missing_ok=True)


def acquire_lock(path: str | Path, wait: bool = True, shared: bool = False) -> int | None:
    """Lock a file or folder. Return the descriptor that holds the lock, None where it cannot be locked.

    Several processes can hold a `shared` lock, and then none another. Raises BlockingIOError if another
    process holds the lock and `wait` is False.
    """
    try:
        import fcntl  # not on Windows

        descriptor = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    except (ImportError, OSError):
        return None
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def release_lock(lock: int | None) -> None:
    """Release what `acquire_lock` returned."""
    if lock is not None:
        os.close(lock)
