"""Outputs that are whole or not there: made beside their place, and moved into it at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def place_for(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Where a file of this name goes, links followed; to be asked before the work that will fill it.

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
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)      # a ValueError: JSON has no NaN
    return text if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text) else json.dumps(data)


@contextmanager
def written_whole(place: Path) -> Iterator[Path]:
    """A path beside `place` to make a file or a folder at; it is moved there at the end, or gone if that is not reached."""
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, place)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to fill, beside `folder`, whose place it takes at the end; what is above `folder` is made, too.

    Where `folder` is there, empty, it stays, since it may be a mount point or where somebody works: it is filled at the end.
    Raises ValueError if `folder` holds something, now or at the end; OSError if it cannot be made.
    """
    folder, place = Path(folder), Path(folder).resolve()
    refuse_occupied(folder)
    if place.is_dir():
        with TemporaryDirectory(prefix=".partial-", dir=place) as partial:
            yield Path(partial)
            if len(os.listdir(place)) > 1:
                refuse_occupied(folder)
            for made in list(Path(partial).iterdir()):
                os.replace(made, place / made.name)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as partial:
        partial.mkdir()
        yield partial
        refuse_occupied(folder)


def refuse_occupied(folder: Path) -> None:
    """Raises ValueError unless a folder can be put at `folder`: nothing is there, or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty: give another place, or remove it first")
