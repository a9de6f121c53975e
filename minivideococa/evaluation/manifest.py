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

from ..output import place_for, written_whole


@dataclass(frozen=True)
class Entry:
    """A line of a manifest. `video` is a path as it can be opened."""

    video: Path
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None


def read_manifest(path: str | os.PathLike[str]) -> list[Entry]:
    """The entries of a manifest, in its order. The videos need not be there.

    Raises FileNotFoundError if there is no such file; ValueError, with the number of the line, for one that is no entry, and
    if there is none at all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; a manifest has a JSON object a line")
    entries = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                try:
                    entries.append(_entry(json.loads(line), path.parent))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
        if not entries:
            raise ValueError("no entry is in it: a manifest has a JSON object a line")
    except ValueError as error:              # no UTF-8, too
        raise ValueError(f"{path}: {error}") from None
    return entries


def _entry(fields: Any, folder: Path) -> Entry:
    """What one JSON object says. Raises ValueError."""
    if not isinstance(fields, dict):
        raise ValueError('not a JSON object like {"video": "clip.mp4", "captions": ["a dog runs"]}')

    def text(name: str) -> str | None:
        if not isinstance(value := fields.get(name), (str, type(None))) or value == "":
            raise ValueError(f'"{name}" is {value!r}: give a text')
        return value

    def texts(name: str) -> tuple[str, ...]:
        values = fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise ValueError(f'"{name}" is {values!r}: give a list of texts')
        return tuple(values)

    video, label, labels = text("video"), text("label"), texts("labels")
    if not video:
        raise ValueError('"video" is missing: give the path of a video')
    if label and labels:
        raise ValueError('both "label" and "labels" are there: give one of them')
    question, answer = text("question"), text("answer")
    if answer and not question:
        raise ValueError('an "answer" needs its "question"')
    return Entry(folder / video, texts("captions"), (label,) if label else labels, question, answer)


def write_manifest(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write a manifest, whole or not at all. Videos below its folder are named from there, so that it can be moved with them.

    Raises as `place_for`, and OSError if it cannot be written.
    """
    place = place_for(path)

    def line(entry: Entry) -> str:
        video = entry.video.absolute()
        video = video.relative_to(place.parent) if video.is_relative_to(place.parent) else video
        one = len(entry.labels) == 1
        fields = {"video": video.as_posix(), "captions": entry.captions, "label": entry.labels[0] if one else None,
                  "labels": () if one else entry.labels, "question": entry.question, "answer": entry.answer}
        return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False) + "\n"

    with written_whole(place) as partial:
        partial.write_text("".join(map(line, entries)), encoding="utf-8")
