"""The fields of annotation files: of JSON objects and of CSV files, and errors that name them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from reprlib import repr as shortened
from typing import Any

from .manifest import Entry

Item = tuple[str | None, Entry, list[str]]  # split, entry, and where the blank texts are


def field(record: Any, name: str, kind: type, where: str = "", blank: bool = False) -> Any:
    """Return a field of a JSON object.

    Raises ValueError if it is missing or of another type, or blank unless `blank`.
    """
    value = record.get(name) if isinstance(record, dict) else None
    valid = isinstance(value, kind) and not isinstance(value, bool)
    if not valid or (isinstance(value, str) and not blank and not value.strip()):
        expected = {str: "text", int: "number", list: "list"}[kind]
        raise ValueError(f'{where}"{name}" is missing or no {expected} in {short(record)}')
    return value


def seconds_of(time: str, line: int, video_id: str) -> float:
    """Return a time in a CSV file. Raises ValueError, with the number of the line, if it is no number."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", time):
        raise ValueError(f"line {line}: a time of {shortened(video_id)} is {short(time)}, not in seconds")
    return float(time)


def rows(text: str, columns: list[str], texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row of a CSV file with a header.

    The cells are those in `columns`, then those in the columns `texts`, which may be blank. Raises ValueError
    with the number of a line that lacks a cell.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [*columns, *texts]
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    for row in reader:
        for name in columns:
            if row[name] is None or (name not in texts and not row[name].strip()):
                raise ValueError(f"line {reader.line_num}: {name} is missing")
        yield reader.line_num, [row[name].strip() for name in columns]


def short(value: Any) -> str:
    """Return a JSON value in at most 80 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
