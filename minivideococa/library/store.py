"""The format of a library: safetensors shards, and library.json, which says what they are and names them.

A change writes new shards, then replaces library.json, then removes the shards that it no longer names. At
every moment the folder holds the library from before the change or the one after it; other files are not part
of it.

A shard holds rows, one for each clip. Its tensors, for n rows, width E and T frames:

    latent    [n, E]      the clip's latent, of unit length, float16 or float32
    frames    [n, T, E]   the latent of each frame alone
    times     [n, T]      when each frame was sampled, in seconds; NaN for a still
    key       [n, 32]     SHA-256 of the clip's content and part
    part      [n, 2]      its start and end in seconds; NaN where none is given
    stamp     [n, 2]      size of its files when they were read, and a hash of their inodes and times; -1 if
                          it was imported
    path      [bytes]     the absolute paths, one after the other
    path_end  [n]         where each path ends

Imported rows have no `frames` and no `times`. In memory `path` is an array of n bytes objects.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint.folder import open_safetensors, save_tensors
from ..inputs import path_name, read_json
from ..model.config import Array, check_finite
from ..output import atomic_write, locked, make_folder, require_empty, require_writable

FORMAT = 1
LIBRARY = "library.json"
DTYPES = ("float16", "float32")
SHARD_BYTES = 32 * 10**6  # of latents: what a search maps at a time, and a change of one row writes again
SHARD = re.compile(r"shard-\d{6,}\.safetensors")
FACTS = {  # how the latents were made
    "model": str,  # the hash of what the latents of videos depend on
    "weights": str,  # their name, for messages
    "adapter": str,
    "frames": int,
    "dtype": str,
    "width": int,
    "sampling": str,
}
HINT = "give a library that minivideococa index made"

Rows = dict[str, Array]


class Clip(NamedTuple):
    """A video, or the part of it from `start` to `end`, in seconds."""

    path: str
    start: float | None = None
    end: float | None = None


@dataclass
class Library:
    """What library.json says: how the latents were made, and the number of clips in each shard, in order."""

    folder: Path
    facts: dict[str, Any]  # see FACTS
    shards: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of clips."""
        return sum(self.shards.values())

    def tensors(self, shard: str) -> Rows:
        """Return the tensors of a shard, memory-mapped: the contents are read when they are used.

        Raises OSError if it is missing, and ValueError if it is damaged.
        """
        stored = open_safetensors(self.folder / shard)
        n, E, T, dtype = self.shards[shard], *(self.facts[name] for name in ("width", "frames", "dtype"))
        expected = {
            "latent": ((n, E), dtype),
            "key": ((n, 32), "uint8"),
            "part": ((n, 2), "float64"),
            "stamp": ((n, 2), "int64"),
            "path": (stored["path"].shape if "path" in stored else None, "uint8"),
            "path_end": ((n,), "int64"),
        }
        if "frames" in stored:
            expected |= {"frames": ((n, T, E), dtype), "times": ((n, T), "float64")}
        if {name: (tensor.shape, tensor.dtype) for name, tensor in stored.items()} != expected:
            raise ValueError(
                f"{self.folder / shard}: does not fit {LIBRARY}: the library is damaged, make it again"
            )
        return {name: tensor.read() for name, tensor in stored.items()}

    def rows(self, shard: str) -> Rows:
        """Return the rows of a shard: its tensors, and the paths as objects. Raises as `tensors`."""
        rows = self.tensors(shard)
        blob, ends = rows["path"].tobytes(), rows.pop("path_end").tolist()
        return rows | {"path": as_objects([blob[a:b] for a, b in zip([0, *ends], ends, strict=False)])}

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError, which names what differs, if latents made in this way do not belong here."""
        for name, value in facts.items():
            if value != self.facts[name] and name != "weights":
                raise ValueError(
                    f"{self.folder}: this library was made with {self._described(name, facts)}; give the "
                    "same, or another library"
                )

    def _described(self, name: str, facts: Mapping[str, Any]) -> str:
        ours, theirs = self.facts[name], facts[name]
        if name == "model":
            return f"other weights ({self.facts['weights']})"
        what = {"frames": "frames a clip", "sampling": "the sampling rule"}.get(name, name)
        return f"{ours} {what}, not {theirs}" if name == "frames" else f"{what} {ours}, not {theirs}"


def is_library(folder: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is a library."""
    return os.path.isfile(os.path.join(path_name(folder, HINT), LIBRARY))


def read_library(folder: str | os.PathLike[str]) -> Library:
    """Return a library. Raises OSError if there is none or it cannot be read, ValueError if it is damaged."""
    if not is_library(folder):
        raise FileNotFoundError(f"{folder}: there is no library here: {HINT}")
    place = Path(folder) / LIBRARY
    content = read_json(place, HINT)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{place}: not a {LIBRARY} that this version of minivideococa reads; {HINT}")
    facts, shards = content.get("made_with"), content.get("shards")
    if (
        not isinstance(facts, dict)
        or facts.get("dtype") not in DTYPES
        or not isinstance(shards, dict)
        or {name: type(value) for name, value in facts.items()} != FACTS
        or not all(SHARD.fullmatch(name) and type(count) is int for name, count in shards.items())
    ):
        raise ValueError(f"{place}: damaged: make the library again")
    return Library(place.parent, facts, shards)


class Writer:
    """What changes a library. Nothing is changed on disk before `commit`."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._added: list[Rows] = []
        self._changed: dict[bytes, Rows | None] = {}
        self.is_committing = False  # also if a commit has failed or was interrupted

    def add(self, rows: Rows) -> None:
        """Add rows at the end. Raises ValueError if a latent is not finite."""
        dtype = self.library.facts["dtype"]
        for name in {"latent", "frames"} & rows.keys():
            rows[name] = check_finite("the latent is", rows[name].astype(dtype, copy=False))
        self._added.append(rows)

    def change(self, key: bytes, row: Rows | None) -> None:
        """Change the path, the stamp or both of a row that is on disk; None removes it."""
        self._changed[key] = row

    def commit(self) -> None:
        """Write what has been added and changed, all of it or nothing."""
        self.is_committing = True
        shards: dict[str, int] = {}
        number = 1 + max(map(_number, self.library.shards), default=-1)
        for shard, count in self.library.shards.items():
            rows = self._with_changes(shard) if self._changed else None
            if rows is None:
                shards[shard] = count
            elif len(rows["latent"]):
                number = self._write(shards, rows, number)
        if self._added:
            rows = concatenate(self._added)
            if (last := next(reversed(shards), None)) and shards[last] < self._capacity(rows):
                before = Library(self.library.folder, self.library.facts, shards).rows(last)
                if before.keys() == rows.keys():
                    rows = concatenate([before, rows])
                    del shards[last]
            self._write(shards, rows, number)
        if shards != self.library.shards:
            self.library.shards = shards
            write_library(self.library)
            remove_unnamed(self.library)
        self._added, self._changed, self.is_committing = [], {}, False

    def _with_changes(self, shard: str) -> Rows | None:
        """Return the rows of a shard with the changes; None if there are none in it."""
        rows = self.library.rows(shard)
        keys = keys_of(rows)
        places = [i for i, key in enumerate(keys) if key in self._changed]
        if not places:
            return None
        rows = {name: array.copy() for name, array in rows.items()}
        for i in places:
            for name, value in (self._changed[keys[i]] or {}).items():
                rows[name][i] = value[0]
        kept = [i for i, key in enumerate(keys) if self._changed.get(key, rows) is not None]
        return {name: array[kept] for name, array in rows.items()}

    def _write(self, shards: dict[str, int], rows: Rows, number: int) -> int:
        """Write rows as shards, add these to `shards`, and return the next free number."""
        count, capacity = len(rows["latent"]), self._capacity(rows)
        for first in range(0, count, capacity):
            part = {name: array[first : first + capacity] for name, array in rows.items()}
            shard = f"shard-{number:06d}.safetensors"
            write_rows(self.library.folder / shard, part)
            shards[shard] = len(part["latent"])
            number += 1
        return number

    def _capacity(self, rows: Rows) -> int:
        """Return the number of rows in a full shard."""
        row = sum(rows[name][:1].nbytes for name in {"latent", "frames"} & rows.keys())
        return max(1, SHARD_BYTES // row)


@contextmanager
def writing(folder: str | os.PathLike[str], facts: Mapping[str, Any]) -> Iterator[Writer]:
    """Yield the writer of a library, which is made if there is none, and commit at the end.

    What was added is committed also if the block raises or is interrupted, unless in a commit. Raises
    ValueError if the folder holds something else, a library that was made in another way, or one that another
    process is writing to.
    """
    place = Path(path_name(folder, HINT))
    require_place(place)
    make_folder(place)
    with locked(place):
        if not is_library(place):
            write_library(Library(place, dict(facts)))
        library = read_library(place)
        library.check(facts)
        remove_unnamed(library)
        writer = Writer(library)
        try:
            yield writer
        finally:
            if not writer.is_committing:
                writer.commit()


def require_place(folder: str | os.PathLike[str]) -> None:
    """Raise ValueError or OSError unless a folder is a library or can become one."""
    place = Path(path_name(folder, HINT))
    if not is_library(place):
        require_empty(place)
    require_writable(place, folder)


def write_library(library: Library) -> None:
    """Replace library.json. Raises OSError if it cannot be written."""
    content = {"format": FORMAT, "made_with": library.facts, "shards": library.shards}
    with atomic_write(library.folder / LIBRARY) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Rows) -> None:
    """Write a shard. Raises OSError if it cannot be written."""
    paths: list[bytes] = rows["path"].tolist()
    encoded: Rows = {
        "path": np.frombuffer(b"".join(paths), np.uint8),
        "path_end": np.cumsum([len(name) for name in paths], dtype=np.int64),
    }
    with atomic_write(path) as partial:
        save_tensors(partial, rows | encoded)


def remove_unnamed(library: Library) -> None:
    """Remove the shards that library.json does not name: of a killed run, or replaced by newer ones."""
    for path in library.folder.glob("shard-*.safetensors"):
        if path.name not in library.shards:
            with suppress(OSError):  # Windows removes no file that is mapped: the next run does
                path.unlink()


# Rows


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def as_objects(values: Sequence[bytes]) -> Array:
    """Return an array of bytes objects; NumPy's own strings lose zeros at the end."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


def identity(key: bytes, clip: Clip, stamp: tuple[int, int]) -> Rows:
    """Return one row without its latents: which clip it is."""
    part = [np.nan if time is None else time for time in (clip.start, clip.end)]
    return {
        "key": np.frombuffer(key, np.uint8)[None],
        "part": np.array([part], np.float64),
        "stamp": np.array([stamp], np.int64),
        "path": as_objects([os.fsencode(clip.path)]),
    }


def keys_of(rows: Rows) -> list[bytes]:
    """Return the keys of rows."""
    blob = rows["key"].tobytes()
    return [blob[i : i + 32] for i in range(0, len(blob), 32)]


def clips_of(rows: Rows) -> list[Clip]:
    """Return the clips of rows."""
    times = [[None if time != time else time for time in part] for part in rows["part"].tolist()]
    return [Clip(os.fsdecode(path), *part) for path, part in zip(rows["path"], times, strict=True)]


def _number(shard: str) -> int:
    return int(shard.removeprefix("shard-").removesuffix(".safetensors"))
