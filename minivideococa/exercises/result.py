"""The result of checking an exercise, as a dataclass, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

RIGHT, WRONG, NOT_WRITTEN = "right", "wrong", "not written yet"


@dataclass(frozen=True)
class Result:
    """What became of one exercise.

    status: "right", "wrong" or "not written yet". lines: what was expected and what came, a sentence or an
    array each. hint: what may be the mistake, a sentence or "". caption: the one that the model writes with
    the learner's function, None where it writes none. tensor: the first wrong tensor of the model, or None.
    """

    number: int
    name: str
    status: str
    lines: tuple[str, ...] = ()
    hint: str = ""
    caption: str | None = None
    tensor: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a check found: the fields of `Result` from `lines` on, and whether the function is right."""

    right: bool
    lines: tuple[str, ...]
    hint: str = ""
    caption: str | None = None
    tensor: str | None = None


class Wrong(Exception):
    """The learner's function cannot be checked further: it fails, or its result has the wrong form."""

    def __init__(self, *lines: str, hint: str = "") -> None:
        super().__init__(" ".join(lines))
        self.lines, self.hint = lines, hint


class NotWritten(Exception):
    """The learner's function, or one that it calls, has no body yet."""


def text(results: Sequence[Result]) -> str:
    """Return the results as lines of text, then how many are right."""
    lines = [line for result in results for line in _lines(result)]
    return "\n".join([*lines, "", _summary(results)])


def _lines(result: Result) -> list[str]:
    head = f"{result.number} {result.name}: {result.status}"
    hint = [f"Hint: {result.hint}"] if result.hint else []
    return [head, *(f"  {line}" for line in (*result.lines, *hint))]


def _summary(results: Sequence[Result]) -> str:
    counts = {status: sum(r.status == status for r in results) for status in (RIGHT, WRONG, NOT_WRITTEN)}
    if counts[NOT_WRITTEN] == len(results):
        if results[0].lines:  # it calls another exercise
            return "Nothing can be checked yet."
        return f"Nothing is written yet: begin with {results[0].name}."
    counted = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    if counts[WRONG]:
        return f"{counted}."
    if nearest := next((r.name for r in results if r.status == NOT_WRITTEN), None):
        return f"{counted}. Next: {nearest}."
    return f"{counted}." if len(results) == 1 else f"All {counted}."


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return the results for `json.dumps`."""
    return {
        "right": not any(result.status == WRONG for result in results),
        "exercises": [asdict(result) for result in results],
    }
