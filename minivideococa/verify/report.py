"""What `verify` found: a table and some sentences for people, JSON for programs."""

from __future__ import annotations

import math
from typing import Any

from ..terminal import printable
from .diagnosis import MOST
from .mistakes import AXES_TRANSPOSED, BATCH_AXIS, MISTAKES, OTHER_WEIGHTS
from .rows import Fault, Report, Row

HEAD = ("name", "shape", "max error", "relative", "cosine", "rounding", "verdict")


def text(report: Report) -> str:
    """The table in path order, then what was compared, where it breaks and what it looks like."""
    lines = [HEAD, *(_cells(row) for row in report.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    table = [
        "  ".join(
            cell.ljust(width) if i in (0, 1, 6) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*table, "", *sentences(report)])


def sentences(report: Report) -> list[str]:
    """What was compared, where it breaks, and what it looks like."""
    said = [
        f"{len(report.compared)} of {len(report.rows) + len(report.missing)} computed tensors compared"
        + (f"; missing: {', '.join(report.missing)}." if report.missing else ".")
    ]
    if report.unknown:
        names = [
            printable(name) + (f" ({report.nearest[name]}?)" if name in report.nearest else "")
            for name in report.unknown
        ]
        said.append(f"Not compared, since no trace has such a name for this model: {', '.join(names)}.")
    if overflowed := [row.name for row in report.rows if row.status == "not judged"]:
        said.append(
            f"Not judged, since our own numbers overflow {report.dtype} on the way there: {', '.join(overflowed)}."
        )
    if report.not_finite:
        name, place = report.not_finite
        said.append(
            f"The first number that is not finite (NaN or infinity) is in {name}, at {_place(place)}."
        )
    if report.coarser and not report.coarser.faults:
        said.append(
            f"It differs by more than {report.dtype} explains, but agrees to {report.coarser.dtype} rounding: was it "
            f"computed in {_computed_in(report.coarser.dtype)}? Try --dtype {report.coarser.dtype}."
        )
    elif report.coarser:
        said.append(
            f"Most of it agrees to {report.coarser.dtype} rounding: was it computed in "
            f"{_computed_in(report.coarser.dtype)}? Try --dtype {report.coarser.dtype}. By that:"
        )
        said += _faults(report.coarser)
    elif report.faults:
        said += _faults(report)
    elif report.right:
        said.append(
            f"No tensor of {len(report.compared)} differs by more than rounding in {report.dtype} explains."
        )
    else:
        said.append(
            "No tensor of the network was compared, so this does not show that it is right: write the tensors under "
            "the names that minivideococa trace writes."
        )
    return said


def _faults(report: Report) -> list[str]:
    """The sentences about the faults, in their order."""
    said = []
    for i, fault in enumerate(report.faults):
        row, again = fault.diverges, i and report.faults[i - 1].diverges is fault.diverges
        off = f"it is off by {row.by_itself:.1e}, where rounding in {report.dtype} explains {row.allowed_by_itself:.1e}"
        if row.layout:
            off = (
                f"its axes are {row.layout} ({_shape(row.shape)}), not those of {_shape(row.expected_shape)}"
            )
        elif row.shape != row.expected_shape:
            off = f"its shape is {_shape(row.shape)}, not {_shape(row.expected_shape)}"
        if not i:
            said.append(f"It breaks at {row.name}: from your own {fault.computed_from}, {off}.")
        elif again:
            said.append(f"With that allowed for, {row.name} still is wrong.")
        else:
            after = "With that allowed for" if report.faults[i - 1].mistake else "From your own tensors on"
            said.append(f"{after}, {row.name} is the next: from your own {fault.computed_from}, {off}.")
        if fault.worst and not again:
            said.append(
                f"It is worst at {_place(fault.worst)}: {fault.found:.6g}, where {fault.expected:.6g} belongs."
            )
        said.append(
            _looks_like(fault, last=all(other.diverges is not row for other in report.faults[i + 1 :]))
        )
    if sum(fault.mistake is None for fault in report.faults) > 2:
        said.append(
            "So much is off that it may be the weights: are they another model's? Then give those that were run with "
            "--weights."
        )
    if not report.all_found:
        said.append(f"There is more: no more than {MOST} faults are looked for at once.")
    elif len(report.faults) > 1:
        known = all(
            fault.mistake and fault.diverges.shape == fault.diverges.expected_shape for fault in report.faults
        )
        rest = (
            "; with them allowed for, the rest is right"
            if known and len(report.compared) == len(report.rows)
            else ""
        )
        said.append(f"These are {len(report.faults)} faults{rest}.")
    return said


def _looks_like(fault: Fault, last: bool) -> str:
    """What a fault looks like, and where else it is. last: whether no other one in the same tensor follows."""
    row, also = fault.diverges, ", ".join(fault.also)
    if fault.mistake is OTHER_WEIGHTS:
        return f"It looks like this: {fault.mistake.words}. Every tensor that has weights of its own is off."
    if fault.mistake:
        remaining = (
            f" Computed this way, ours agrees with yours to {fault.remaining:.1e}."
            if last and fault.remaining is not None
            else ""
        )
        return f"It looks like this: {fault.mistake.words}.{remaining}" + (
            f" It explains also {also}." if also else ""
        )
    known = len(
        [mistake for mistake in MISTAKES if mistake not in (AXES_TRANSPOSED, BATCH_AXIS, OTHER_WEIGHTS)]
    )
    return (
        f"It looks like none of the {known} mistakes that are known here, nor like some of them together: compare it "
        "step by step."
        + " Or is it another model's? Then give --weights." * (row.shape != row.expected_shape)
        + (f" So are {also}." if also else "")
    )


def as_json(report: Report) -> dict[str, Any]:
    """The same for `json.dumps`; a number that is not finite is null."""
    judged = report.coarser if report.coarser and report.coarser.faults else report
    return {
        "first_divergence": report.diverges.name if report.diverges else None,
        "diagnosis": report.mistake.words if report.mistake else None,
        "tensors": [
            {
                "name": row.name,
                "shape": list(row.shape),
                "max_abs": _finite(row.difference.max_abs),
                "rel": _finite(row.difference.rel),
                "cosine": _finite(row.difference.cosine),
                "allowed": _finite(row.allowed),
                "status": row.status,
            }
            for row in report.rows
        ],
        "unknown": report.unknown,
        "nearest": report.nearest,
        "dtype": report.dtype,
        "right": report.right,
        "compared": len(report.compared),
        "computed": len(report.rows) + len(report.missing),
        "missing": report.missing,
        "agrees_to": report.coarser.dtype if report.coarser else None,
        "not_finite": {"name": report.not_finite[0], "at": report.not_finite[1]}
        if report.not_finite
        else None,
        "faults": [
            {
                "name": fault.diverges.name,
                "computed_from": fault.computed_from,
                "mistake": fault.mistake.name if fault.mistake else None,
                "diagnosis": fault.mistake.words if fault.mistake else None,
                "error": _finite(fault.diverges.by_itself),
                "allowed": _finite(fault.diverges.allowed_by_itself),
                "remaining": _finite(fault.remaining),
                "axes": fault.diverges.layout or None,
                "worst": fault.worst or None,
                "found": _finite(fault.found),
                "expected": _finite(fault.expected),
                "also": list(fault.also),
            }
            for fault in judged.faults
        ],
        "all_found": judged.all_found,
    }


def _cells(row: Row) -> tuple[str, ...]:
    found = row.difference
    verdict = row.status
    if row.layout:
        verdict += f": the axes are {row.layout}, the shape should be {_shape(row.expected_shape)}"
    elif row.shape != row.expected_shape:
        verdict += f": the shape should be {_shape(row.expected_shape)}"
    elif row.status == "wrong":
        verdict += f" by itself: {row.by_itself:.1e}, rounding {row.allowed_by_itself:.1e}"
    return (
        row.name,
        _shape(row.shape),
        f"{found.max_abs:.1e}",
        f"{found.rel:.1e}",
        f"{found.cosine:.6f}",
        f"{row.allowed:.1e}",
        verdict,
    )


def _computed_in(dtype: str) -> str:
    return "float16, or with TensorFloat-32 products," if dtype == "float16" else dtype


def _place(place: dict[str, int]) -> str:
    return ", ".join(f"{axis} {i}" for axis, i in place.items())


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None
