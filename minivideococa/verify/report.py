"""What `verify` found: a table and two sentences for people, JSON for programs."""

from __future__ import annotations

import math
from typing import Any

from .blame import Report, Row, printable
from .mistakes import MISTAKES

HEAD = ("name", "shape", "max error", "relative", "cosine", "rounding", "verdict")


def text(report: Report) -> str:
    """The table in path order, then where it breaks and what it looks like."""
    lines = [HEAD, *(_cells(row) for row in report.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    table = ["  ".join(cell.ljust(width) if i in (0, 1, 6) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines]
    return "\n".join([*table, "", *sentences(report)])


def sentences(report: Report) -> list[str]:
    """Where it breaks, and what it looks like; one sentence if nothing breaks."""
    said, row = [], report.diverges
    if row is None:
        said.append(f"No tensor of {len(report.rows)} differs by more than rounding in {report.dtype} explains.")
    else:
        off = f"it is off by {row.by_itself:.1e}, where rounding in {report.dtype} explains {row.allowed_by_itself:.1e}"
        if row.shape != row.expected_shape:
            off = f"its shape is {_shape(row.shape)}, not {_shape(row.expected_shape)}"
        said.append(f"It breaks at {row.name}: from your own {report.computed_from}, {off}.")
        said.append(f"It looks like this: {report.mistake.words}. So computed, ours is yours to {report.remaining:.1e}."
                    if report.mistake else
                    f"It looks like none of the {len(MISTAKES)} mistakes that are known here: compare it step by step."
                    + " Or is it another model's? Then give --weights." * (row.shape != row.expected_shape))
    if overflowed := [row.name for row in report.rows if row.status == "not judged"]:
        said.append(f"Not judged, since our own numbers overflow {report.dtype} on the way there: {', '.join(overflowed)}.")
    if report.unknown:
        said.append(f"Not compared, since no trace has such a name for this model: {', '.join(map(printable, report.unknown))}.")
    return said


def as_json(report: Report) -> dict[str, Any]:
    """The same for `json.dumps`; a number that is not finite is null."""
    return {
        "first_divergence": report.diverges.name if report.diverges else None,
        "diagnosis": report.mistake.words if report.mistake else None,
        "tensors": [{"name": row.name, "shape": list(row.shape), "max_abs": _finite(row.difference.max_abs),
                     "rel": _finite(row.difference.rel), "cosine": _finite(row.difference.cosine),
                     "allowed": _finite(row.allowed), "status": row.status} for row in report.rows],
        "unknown": report.unknown}


def _cells(row: Row) -> tuple[str, ...]:
    found = row.difference
    verdict = row.status
    if row.shape != row.expected_shape:
        verdict += f": the shape should be {_shape(row.expected_shape)}"
    elif row.status == "wrong":
        verdict += f" by itself: {row.by_itself:.1e}, rounding {row.allowed_by_itself:.1e}"
    return (row.name, _shape(row.shape), f"{found.max_abs:.1e}", f"{found.rel:.1e}", f"{found.cosine:.6f}",
            f"{row.allowed:.1e}", verdict)


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
