"""A manifest says what there is to evaluate: a text file with a JSON object a line.

    {"video": "clips/1.mp4", "captions": ["a man sings", "somebody sings a song"], "label": "singing"}
    {"video": "clips/1.mp4", "question": "what does the man do?", "answer": "sing"}

`video` is a path, from the manifest's own folder if it is not absolute. All else may be there or not: `captions`, `label` or,
where several are right, `labels`, and `question` with its `answer`. Other names are left alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..output import json_text, place_for, written_whole


@dataclass(frozen=True)
class Entry:
    """A line of a manifest. `video` is a path as it can be opened.

    Raises ValueError for a text where a tuple of texts is meant, and for an answer without its question.
    """

    video: Path
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("captions", "labels"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f'"{name}" is {getattr(self, name)!r}: give a list of texts')
        if self.answer and not self.question:
            raise ValueError('an "answer" needs its "question"')


def read_manifest(path: str | os.PathLike[str]) -> list[Entry]:
    """The entries of a manifest, in its order. The videos need not be there.

    Raises FileNotFoundError if there is no such file; ValueError, with the number of the line, for one that is no entry, and
    if there is none at all.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        what = "a folder" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"{path}: {what}; a manifest is a file with a JSON object a line")
    entries = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
            if line.strip():
                try:
                    entries.append(_entry(_object(line), path.parent))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
        if not entries:
            raise ValueError("no entry is in it: a manifest has a JSON object a line")
    except ValueError as error:              # no UTF-8, too
        raise ValueError(f"{path}: {error}") from None
    return entries


def _object(line: str) -> dict[str, Any]:
    """The JSON object in a line. Raises ValueError."""
    try:
        if isinstance(fields := json.loads(line), dict):
            return fields
    except (ValueError, RecursionError):
        pass
    raise ValueError('not a JSON object like {"video": "clip.mp4", "captions": ["a dog runs"]}; other annotation files are '
                     "taken with --format")


def _entry(fields: dict[str, Any], folder: Path) -> Entry:
    """What one JSON object says. Raises ValueError."""
    if "caption" in fields and "captions" not in fields:
        raise ValueError('there is a "caption": a manifest says "captions": ["...", "..."]')

    def text(name: str) -> str | None:
        if not isinstance(value := fields.get(name), (str, type(None))) or value is not None and not value.strip():
            raise ValueError(f'"{name}" is {value!r}: give a text')
        return value

    def texts(name: str) -> tuple[str, ...]:
        values = fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise ValueError(f'"{name}" is {values!r}: give a list of texts')
        return tuple(value.strip() for value in values)

    video, label, labels = text("video"), text("label"), texts("labels")
    if not video or "\0" in video:
        raise ValueError(f'"video" is {video!r}: give the path of a video' if video else
                         '"video" is missing: give the path of a video')
    if label and labels:
        raise ValueError('both "label" and "labels" are there: give one of them')
    return Entry(folder / video, texts("captions"), (label.strip(),) if label else labels, text("question"), text("answer"))


def write_manifest(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write a manifest, whole or not at all. Videos below its folder are named from there, so that it can be moved with them.

    Raises as `place_for`, ValueError without an entry, and OSError if it cannot be written.
    """
    entries = list(entries)
    place = place_for(path, [entry.video for entry in entries])
    if not entries:
        raise ValueError(f"{path}: there is no entry to write")

    def line(entry: Entry) -> str:
        video = Path(entry.video)
        video = video.parent.resolve() / video.name
        video = video.relative_to(place.parent) if video.is_relative_to(place.parent) else video
        one = len(entry.labels) == 1
        fields = {"video": video.as_posix(), "captions": entry.captions, "label": entry.labels[0] if one else None,
                  "labels": () if one else entry.labels, "question": entry.question, "answer": entry.answer}
        return json_text({name: value for name, value in fields.items() if value}) + "\n"

    with written_whole(place) as partial:
        partial.write_text("".join(map(line, entries)), encoding="utf-8")
