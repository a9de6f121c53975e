"""Outputs that are whole or not there: made beside their place, and moved into it at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def place_for(path: str | os.PathLike[str]) -> Path:
    """Where a file of this name goes, links followed; to be asked before the work that will fill it.

    Raises FileNotFoundError if its folder is not there, ValueError if something is there that is no regular file.
    """
    place = Path(path).resolve()
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {place.parent}: make it first")
    if place.exists() and not place.is_file():
        raise ValueError(f"{path}: is there already and no regular file: give another name")
    return place


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

    Raises ValueError if `folder` holds something, now or at the end; OSError if it cannot be made.
    """
    folder, place = Path(folder), Path(folder).resolve()
    refuse_occupied(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(place) as partial:
        partial.mkdir()
        yield partial
        refuse_occupied(folder)


def refuse_occupied(folder: Path) -> None:
    """Raises ValueError unless a folder can be put at `folder`: nothing is there, or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty: give another place, or remove it first")
