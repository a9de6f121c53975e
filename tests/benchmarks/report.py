"""A section of the results, as a Markdown table and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from race import Turn, median


@dataclass
class Section:
    """A table, the notes below it, and all turns by competitor."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)

    def markdown(self) -> str:
        table = [self.header, ["---"] * len(self.header), *self.rows]
        others = max((turn["others"] for turns in self.turns.values() for turn in turns), default=0)
        notes = [*self.notes, f"During its turn other processes took at most {others:.0%} of the machine."]
        return "\n".join(
            [
                f"### {self.title}",
                "",
                *(f"| {' | '.join(row)} |" for row in table),
                "",
                *(f"- {note}" for note in notes),
                "",
            ]
        )

    def as_json(self) -> dict[str, Any]:
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes, "turns": self.turns}


def seconds(turns: list[Turn], figure: str = "seconds") -> list[str]:
    """Return two cells: the median and the range."""
    values = [turn[figure] for turn in turns]
    return [f"{statistics.median(values):.3f}", f"{min(values):.3f} - {max(values):.3f}"]


def ratio(turns: list[Turn], ours: list[Turn], figure: str = "seconds") -> str:
    """Return the ratio of the medians, turns / ours, and the range of the ratios of single rounds."""
    rounds = [turn[figure] / mine[figure] for turn, mine in zip(turns, ours, strict=True)]
    return f"{median(turns, figure) / median(ours, figure):.2f} ({min(rounds):.2f} - {max(rounds):.2f})"
