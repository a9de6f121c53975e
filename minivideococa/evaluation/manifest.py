"""Manifests: text files that list videos and their ground truth, one JSON object per line.

    {"video": "clips/1.mp4", "captions": ["a man sings", "somebody sings a song"], "label": "singing"}
    {"video": "clips/1.mp4", "question": "what does the man do?", "answer": "sing"}
    {"video": "talk.mp4", "start": 12.5, "end": "00:01:10", "captions": ["a woman draws a graph"]}

`video` is a path, relative to the manifest's folder unless it is absolute. All other fields are optional:
`captions`, `label` or, if several are correct, `labels`, `question` with its `answer`, and `start` and `end`,
which select a part of the video. Unknown fields are ignored. Blank captions, labels, questions, answers and
choices are left out with a warning.

A question may have more fields:

    {"video": "1.mp4", "question": "why does he run?", "answer": "to win", "choices": ["to win", "for fun"]}
    {"video": "1.mp4", "question": "what does he cut?", "answers": ["bread", "bun", "bread"]}
    {"video": "1.mp4", "question": "is it a cat?", "answer": "yes", "question_type": "free/yes or no"}

`choices`, the answers to choose from, with the right one among them; `answers` in place of `answer`, one for
each annotator; and `question_type`, for the table of results by type, with `/` before a type within a type.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from ..inputs import JSON_GROWTH, parse_json, path_name, read_text
from ..media.sampling import seconds
from ..output import atomic_write, json_text, resolve_output

HINT = "a manifest has one JSON object per line"
LISTS = ("captions", "labels", "choices", "answers")  # fields that hold several texts
NO_OBJECT = (
    'it is not a JSON object like {"video": "clip.mp4", "captions": ["a dog runs"]}; other annotation files '
    "are read with --format"
)


@dataclass(frozen=True)
class Entry:
    """A line of a manifest: a video, or a part of one, with its ground truth.

    `video` is a path that can be opened. `start` and `end` select a part of the video, in seconds;
    strings such as "1:05" are converted as by `media.sampling.seconds`. None is the start or end of the
    video. `answers` are those of several annotators, one each; then `answer` is the most frequent of them.
    `choices` are the answers to choose from, if the question has choices of its own.

    Raises ValueError for an impossible path, a string in place of a tuple of strings, a blank text, answers,
    choices or a type without their question, an answer that is not among the choices, and an end that is not
    after the start.
    """

    video: Path
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    question: str | None = None
    answer: str | None = None
    start: float | None = None
    end: float | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    question_type: str | None = None

    def __post_init__(self) -> None:
        """Check the fields and convert the times to seconds."""
        path_name(self.video, "give the path of a video", '"video"')
        for name in LISTS:
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f'"{name}" is {shortened(texts)}: give a list of texts')
            for text in texts:
                _check_text(name.removesuffix("s"), text)
        for name in ("question", "answer", "question_type"):
            _check_text(name, getattr(self, name))
        self._check_question()
        self._check_part()

    def _check_question(self) -> None:
        """Check what belongs to a question, and set `answer` to the most frequent of `answers`."""
        if self.answers:
            object.__setattr__(self, "answer", Counter(self.answers).most_common(1)[0][0])
        for name in ("answer", "choices", "question_type"):
            if getattr(self, name) and self.question is None:
                raise ValueError(f'"{name}" needs its "question"')
        if self.choices and self.answer is not None and self.answer not in self.choices:
            raise ValueError(f'the answer {shortened(self.answer)} is not among the "choices"')

    def _check_part(self) -> None:
        """Check the start and the end, and convert them to seconds."""
        for name in ("start", "end"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, seconds(value, f'"{name}"'))
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError(
                f'"end" is {self.end:g} and "start" {self.start or 0:g} seconds: give an end after the start'
            )


def _check_text(name: str, text: Any) -> None:
    """Raise ValueError for a blank text, and for anything but a text or None."""
    if text is not None and (not isinstance(text, str) or not text.strip()):
        fault = "blank" if isinstance(text, str) else "no text"
        raise ValueError(f"the {name} {shortened(text)} is {fault}: give a text, or leave it out")


PartKey = tuple[str, float, float | None]


def part_key(entry: Entry) -> PartKey:
    """Return what identifies a video: the path, symbolic links resolved, and the part of it."""
    return os.path.realpath(entry.video), entry.start or 0.0, entry.end


def read_manifest(path: str | os.PathLike[str]) -> list[Entry]:
    """Return the entries of a manifest, in order. The videos need not exist.

    Blank texts are left out with a warning; their entries stay.

    Raises OSError if `path` is not a readable file; ValueError, with the number of the line, for an invalid
    entry, for a file without entries, and for one that does not fit into memory.
    """
    entries: list[Entry] = []
    blanks: list[str] = []
    for number, line in enumerate(read_text(path, HINT, JSON_GROWTH).split("\n"), 1):
        if line.strip():
            where = f"{path}: line {number}"
            fields = parse_json(line, where, NO_OBJECT)
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: {NO_OBJECT}")
            try:
                entries.append(_parse_entry(fields, Path(path).parent, f"line {number}", blanks))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    if not entries:
        raise ValueError(f"{path}: no entry is in it; {HINT}")
    warn_of_blanks(path, blanks)
    return entries


def _parse_entry(fields: dict[str, Any], folder: Path, where: str, blanks: list[str]) -> Entry:
    """Return the entry of one JSON object. Raises ValueError."""
    if "caption" in fields and "captions" not in fields:
        raise ValueError('there is a "caption": a manifest says "captions": ["...", "..."]')
    video = fields.get("video")
    if video is None:
        raise ValueError('"video" is missing: give the path of a video')
    if not isinstance(video, str) or not video.strip():
        raise ValueError(f'"video" is {shortened(video)}: give the path of a video')
    label, question, answer, question_type = (
        _parse_text(fields, name, where, blanks) for name in ("label", "question", "answer", "question_type")
    )
    labels, captions, answers, choices = (
        _parse_texts(fields, name, where, blanks) for name in ("labels", "captions", "answers", "choices")
    )
    for one, several, name in (label, labels, "label"), (answer, answers, "answer"):
        if one and several:
            raise ValueError(f'both "{name}" and "{name}s" are there: give one of them')
    entry = Entry(
        folder / video,
        captions,
        (label.strip(),) if label else labels,
        start=fields.get("start"),
        end=fields.get("end"),
    )
    if question is None and fields.get("question") is not None:  # a blank one
        return entry
    return replace(
        entry,
        question=question,
        answer=answer.strip() if answer else None,
        answers=answers,
        choices=choices,
        question_type=question_type,
    )


def _parse_text(fields: dict[str, Any], name: str, where: str, blanks: list[str]) -> str | None:
    """Return the text of a field; None if it is missing or blank."""
    value = fields.get(name)
    if not isinstance(value, str | None):
        raise ValueError(f'"{name}" is {shortened(value)}: give a text')
    return None if value is None or is_blank(value, f'{where}: "{name}"', blanks) else value


def _parse_texts(fields: dict[str, Any], name: str, where: str, blanks: list[str]) -> tuple[str, ...]:
    """Return the texts of a field without the blank ones."""
    values = fields.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f'"{name}" is {shortened(values)}: give a list of texts')
    return tuple(
        value.strip()
        for number, value in enumerate(values, 1)
        if not is_blank(value, f'{where}: text {number} of "{name}"', blanks)
    )


def is_blank(text: str, where: str, blanks: list[str]) -> bool:
    """Tell whether a text is blank. If it is, append `where` to `blanks`, for `warn_of_blanks`."""
    if text.strip():
        return False
    blanks.append(where)
    return True


def warn_of_blanks(path: str | os.PathLike[str], blanks: Sequence[str]) -> None:
    """Warn of the blank texts of a file that are left out, in one line that names the first three."""
    if blanks:
        more = f"; and {len(blanks) - 3} more" if len(blanks) > 3 else ""
        plural = "s" * (len(blanks) > 1)
        warnings.warn(
            f"{path}: {len(blanks)} blank text{plural} left out: {'; '.join(blanks[:3])}{more}", stacklevel=3
        )


def write_manifest(path: str | os.PathLike[str], entries: Iterable[Entry]) -> None:
    """Write a manifest, as a whole or not at all.

    The paths of videos below its folder are written relative to it, so that the folder can be moved.

    Raises as `resolve_output`, ValueError without an entry, and OSError if it cannot be written.
    """
    entries = list(entries)
    place = resolve_output(path, [entry.video for entry in entries])
    if not entries:
        raise ValueError(f"{path}: there is no entry to write")
    lines = [json_text(_fields(entry, place.parent)) + "\n" for entry in entries]
    with atomic_write(place) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def _fields(entry: Entry, folder: Path) -> dict[str, Any]:
    """Return the JSON object of an entry of a manifest in `folder`."""
    video = Path(entry.video)
    video = video.parent.resolve() / video.name
    video = video.relative_to(folder) if video.is_relative_to(folder) else video
    single = len(entry.labels) == 1
    fields = {
        "video": video.as_posix(),
        "start": entry.start,
        "end": entry.end,
        "captions": entry.captions,
        "label": entry.labels[0] if single else None,
        "labels": () if single else entry.labels,
        "question": entry.question,
        "question_type": entry.question_type,
        "choices": entry.choices,
        "answer": None if entry.answers else entry.answer,
        "answers": entry.answers,
    }
    return {name: value for name, value in fields.items() if value not in (None, ())}
