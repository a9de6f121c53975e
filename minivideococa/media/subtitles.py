"""Captions with time stamps as text: SRT, WebVTT, JSON, and lines as Whisper prints them."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..output import atomic_write, json_text

ENDINGS = (".srt", ".vtt", ".json", ".txt")
AROUND = {".srt": ("", ""), ".vtt": ("WEBVTT\n\n", ""), ".json": ("[\n", "\n]\n"), ".txt": ("", "")}


@contextmanager
def caption_file(destination: Path) -> Iterator[Callable[[float, float, str], None]]:
    """Yield a function of start, end and caption that writes an entry of a file, of a kind by its ending.

    The file is written beside its destination, and moved there when the `with` block ends.
    """
    kind, number = destination.suffix.lower(), 0
    with atomic_write(destination) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:

        def write(start: float, end: float, caption: str) -> None:
            nonlocal number
            number += 1
            file.write(_entry(kind, number, start, end, caption))

        file.write(AROUND[kind][0])
        yield write
        file.write(AROUND[kind][1])


def line(start: float, end: float, caption: str) -> str:
    """Return a line as Whisper prints it: [00:00.000 --> 00:10.000]  caption."""
    return f"[{_clock(start, hours=False)} --> {_clock(end, hours=False)}]  {_one_line(caption)}"


def _entry(kind: str, number: int, start: float, end: float, caption: str) -> str:
    """Return the text of an entry; `number` counts from 1."""
    if kind == ".json":
        entry = json_text({"start": start, "end": end, "caption": caption})
        return entry if number == 1 else f",\n{entry}"
    if kind == ".txt":
        return f"{line(start, end, caption)}\n"
    text = _one_line(caption)
    if kind == ".vtt":
        return f"{_clock(start)} --> {_clock(end)}\n{html.escape(text, quote=False)}\n\n"
    text = text.replace("-->", "->")
    return f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n"


def _clock(seconds: float, point: str = ".", hours: bool = True) -> str:
    """Return hh:mm:ss.mmm; without `hours`, mm:ss.mmm within the first hour. `point` stands before the ms."""
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    whole, minutes = divmod(minutes, 60)
    head = f"{whole:02d}:" if hours or whole else ""
    return f"{head}{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _one_line(caption: str) -> str:
    """Return a caption without line breaks: a blank line would end the entry."""
    return " ".join(caption.split())
