"""A manifest says what there is to evaluate: a text file with a JSON object a line.

    {"video": "clips/1.mp4", "captions": ["a man sings", "somebody sings a song"], "label": "singing"}
    {"video": "clips/1.mp4", "question": "what does the man do?", "answer": "sing"}
    {"video": "talk.mp4", "start": 12.5, "end": "00:01:10", "captions": ["a woman draws a graph"]}

`video` is a path, from the manifest's own folder if it is not absolute. All else may be there or not: `captions`, `label` or,
where several are right, `labels`, `question` with its `answer`, and `start` and `end`, which choose a part of the video. Other
names are left alone. Blank captions, labels, questions and answers are reported and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from ..inputs import parse_json, path_name, read_text
from ..media.sampling import seconds
from ..output import atomic_write, json_text, resolve_output
from ..progress import say

HINT = "a manifest has a JSON object a line"
NO_OBJECT = (
    'it is not a JSON object like {"video": "clip.mp4", "captions": ["a dog runs"]}; other annotation files are taken '
    "with --format"
)


@dataclass(frozen=True)
class Entry:
    """A line of a manifest. `video` is a path as it can be opened.

    `start` and `end` choose a part of the video: seconds, or a string as `seconds` reads it, which becomes seconds.
    None stands for the video's own start and end.

    Raises ValueError for a path that no file can have, a text where a tuple of texts is meant, a blank text, an answer
    without its question, and an end that does not come after the start.
    """

    video: Path
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        path_name(self.video, "give the path of a video", '"video"')
        for name in ("captions", "labels"):
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f'"{name}" is {shortened(texts)}: give a list of texts')
        for name, texts in (
            ("caption", self.captions),
            ("label", self.labels),
            ("question", [self.question]),
            ("answer", [self.answer]),
        ):
            for text in texts:
                if text is not None and (not isinstance(text, str) or not text.strip()):
                    raise ValueError(
                        f"the {name} {shortened(text)} is {'blank' if isinstance(text, str) else 'no text'}: "
                        "give a text, or leave it out"
                    )
        if self.answer is not None and self.question is None:
            raise ValueError('an "answer" needs its "question"')
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, seconds(value, f'"{name}"'))
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(
                f'"end" is {self.end:g} and "start" {self.start or 0:g} seconds: give an end after the start'
            )


def read_manifest(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a manifest, in its order. The videos need not be there.

    Blank texts are reported on standard error and left out; their entries stay.

    Raises OSError if `path` is not a file that can be read; ValueError, with the number of the line, for one that is no
    entry, for a file without entries, and for one that does not fit into memory.
    """
    entries: list[Entry] = []
    blanks: list[str] = []
    for number, line in enumerate(read_text(path, HINT).split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            fields = parse_json(line, where, NO_OBJECT)
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: {NO_OBJECT}")
            try:
                entries.append(_entry(fields, Path(path).parent, f"line {number}", blanks))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    if not entries:
        raise ValueError(f"{path}: no entry is in it; {HINT}")
    report_blanks(path, blanks)
    return entries


def _entry(fields: dict[str, Any], folder: Path, where: str, blanks: list[str]) -> Entry:
    """Return what one JSON object says. Raises ValueError."""
    if "caption" in fields and "captions" not in fields:
        raise ValueError('there is a "caption": a manifest says "captions": ["...", "..."]')

    def text(name: str) -> str | None:
        value = fields.get(name)
        if not isinstance(value, str | None):
            raise ValueError(f'"{name}" is {shortened(value)}: give a text')
        return None if value is None or is_blank(value, f'{where}: "{name}"', blanks) else value

    def texts(name: str) -> tuple[str, ...]:
        values = fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f'"{name}" is {shortened(values)}: give a list of texts')
        return tuple(
            value.strip()
            for number, value in enumerate(values, 1)
            if not is_blank(value, f'{where}: text {number} of "{name}"', blanks)
        )

    video = fields.get("video")
    if video is None:
        raise ValueError('"video" is missing: give the path of a video')
    if not isinstance(video, str) or not video.strip():
        raise ValueError(f'"video" is {shortened(video)}: give the path of a video')
    label, labels, question, answer = text("label"), texts("labels"), text("question"), text("answer")
    if label and labels:
        raise ValueError('both "label" and "labels" are there: give one of them')
    if question is None and fields.get("question") is not None:  # it is blank, and its answer goes with it
        answer = None
    return Entry(
        folder / video,
        texts("captions"),
        (label.strip(),) if label else labels,
        question,
        answer,
        fields.get("start"),
        fields.get("end"),
    )


def is_blank(text: str, where: str, blanks: list[str]) -> bool:
    """Tell whether a text is blank. If so, `where` is added to `blanks`, for `report_blanks`."""
    if text.strip():
        return False
    blanks.append(where)
    return True


def report_blanks(path: str | os.PathLike[str], blanks: Sequence[str]) -> None:
    """Say on standard error, in one line, which blank texts of a file are left out; of many, the first three."""
    if blanks:
        more = f"; and {len(blanks) - 3} more" if len(blanks) > 3 else ""
        say(
            f"{path}: {len(blanks)} blank text{'s' * (len(blanks) > 1)} left out: {'; '.join(blanks[:3])}{more}"
        )


def write_manifest(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write a manifest, whole or not at all. Videos below its folder are named from there, so that it can be moved with them.

    Raises as `resolve_output`, ValueError without an entry, and OSError if it cannot be written.
    """
    entries = list(entries)
    place = resolve_output(path, [entry.video for entry in entries])
    if not entries:
        raise ValueError(f"{path}: there is no entry to write")

    def line(entry: Entry) -> str:
        video = Path(entry.video)
        video = video.parent.resolve() / video.name
        video = video.relative_to(place.parent) if video.is_relative_to(place.parent) else video
        one = len(entry.labels) == 1
        fields = {
            "video": video.as_posix(),
            "start": entry.start,
            "end": entry.end,
            "captions": entry.captions,
            "label": entry.labels[0] if one else None,
            "labels": () if one else entry.labels,
            "question": entry.question,
            "answer": entry.answer,
        }
        return json_text({name: value for name, value in fields.items() if value not in (None, ())}) + "\n"

    with atomic_write(place) as partial:
        partial.write_text("".join(map(line, entries)), encoding="utf-8")
