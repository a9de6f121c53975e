"""Reports as text and as JSON."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

from ..terminal import printable
from .diagnosis import MAX_FAULTS
from .inside import described
from .mistakes import AXES_TRANSPOSED, BATCH_AXIS, MISTAKES, OTHER_WEIGHTS
from .names import DETAIL
from .report import Fault, Report, Row

HEADER = ("name", "shape", "max abs error", "rel error", "cosine", "SQNR", "tolerance", "verdict")
SHOWN = 3  # names, or ranges of numbers, of a long list

# Prefix of a name -> where the package computes it
PLACES = {
    "pixels": "VideoCoCa.preprocess (model/videococa.py)",
    "vision.embed": "embed (model/vision.py)",
    "vision.block": "residual_block (model/transformer.py)",
    "pool.flat": "flatten (model/pooling.py)",
    "pool.attended": "attentional_pooler (model/pooling.py)",
    "pool.": "pool_tokens (model/pooling.py)",
    "factorized.embed": "embed_frames (model/pooling.py)",
    "factorized.block": "residual_block (model/transformer.py)",
    "text.embed": "embed (model/text.py)",
    "text.block": "residual_block (model/transformer.py) and attention_mask (model/text.py)",
    "text.": "encode_text (model/text.py)",
    "decoder.": "decode (model/decoder.py) and residual_block (model/transformer.py)",
    "logits": "decode (model/decoder.py)",
}


def text(report: Report) -> str:
    """Return the table in path order, then what was compared, where it diverges and the likely causes."""
    lines = [HEADER, *(cells(row, report.tolerance) for row in report.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    table = [
        "  ".join(
            cell.ljust(width) if column in ("name", "shape", "verdict") else cell.rjust(width)
            for column, cell, width in zip(HEADER, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([*table, "", *sentences(report)])


def summary(report: Report) -> str:
    """Return the outcome as one short sentence."""
    compared = f"{len(report.compared)} of {len(report.rows) + len(report.missing)} tensors compared"
    if row := report.first_divergence:
        if row.status == "below":
            return (
                f"{compared}; first below the tolerance: {row.name}, {row.difference.sqnr:.1f} dB; print it"
            )
        cause = f", {report.mistake.name}" if report.mistake else ""
        return f"{compared}; first divergence: {row.name}, off by {row.local_error:.1e}{cause}; print it"
    return f"{compared}; {'none diverges' if report.ok else 'none of the network'}"


def sentences(report: Report) -> list[str]:
    """Return what was compared, then the verdict."""
    return [*_coverage(report), *_verdict(report)]


def _coverage(report: Report) -> list[str]:
    """Say what was compared, and what was not."""
    missing = f"; missing: {', '.join(report.missing)}." if report.missing else "."
    lines = [
        f"{len(report.compared)} of {len(report.rows) + len(report.missing)} computed tensors "
        f"compared{missing}"
    ]
    if names := [name for name in report.unknown if not DETAIL.fullmatch(name)]:
        suggestions = [
            printable(name) + (f" ({report.nearest[name]}?)" if name in report.nearest else "")
            for name in names
        ]
        lines.append(f"Not compared, no such name in a trace of this model: {', '.join(suggestions)}.")
    if names := [name for name in report.unknown if DETAIL.fullmatch(name)]:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"Not compared, inside a block: {', '.join(names[:SHOWN])}{more}.")
    if names := [row.name for row in report.rows if row.status == "not judged"]:
        lines.append(f"Not judged, our own run overflows {report.dtype}: {', '.join(names)}.")
    if report.not_finite:
        name, index = report.not_finite
        lines.append(f"First number that is not finite (NaN or infinity): {name}, at {_index(index)}.")
    return lines


def _verdict(report: Report) -> list[str]:
    """Say whether the trace is right and, if not, what is wrong."""
    if report.coarser:
        dtype = report.coarser.dtype
        hint = f"was it computed in {_computed_in(dtype)}? Try --dtype {dtype}."
        if report.coarser.faults:
            return [
                f"Most of it agrees to {dtype} rounding: {hint} Judged by {dtype}:",
                *_faults(report.coarser),
            ]
        return [f"The errors are too large for {report.dtype}, but it agrees to {dtype} rounding: {hint}"]
    if report.faults:
        return _faults(report)
    if report.tolerance is not None and report.compared:
        return [_within_tolerance(report)]
    if report.ok:
        return [
            f"All {len(report.compared)} tensors agree: no error is larger than {report.dtype} rounding "
            "explains."
        ]
    return [
        "No tensor of the network was compared, so this does not show that it is right: write the tensors "
        "under the names that minivideococa trace uses."
    ]


def _within_tolerance(report: Report) -> str:
    """Say which tensors are below the tolerance."""
    tolerance = f"{report.tolerance:g} dB"
    if report.below:
        first, others = report.below[0], len(report.below) - 1
        more = f" {others} more {'is' if others == 1 else 'are'} below it." if others else ""
        return f"First tensor below {tolerance}: {first.name}, {first.difference.sqnr:.1f} dB.{more}"
    lowest = min(report.rows, key=lambda row: row.difference.sqnr)
    return f"No tensor is below {tolerance}; the lowest is {lowest.name}, {lowest.difference.sqnr:.1f} dB."


def _faults(report: Report) -> list[str]:
    """Describe the faults in order, then how complete the list is."""
    lines: list[str] = []
    for i in range(len(report.faults)):
        lines += _fault(report, i)
    if report.inconsistent:
        lines.append(
            "In agreement with the reference, but not computed from the trace's own previous tensor: "
            f"{', '.join(report.inconsistent)}."
        )
    if sum(fault.mistake is None for fault in report.faults) > 2:
        lines.append(
            "With so many errors the weights may be another model's: if so, pass the checkpoint that was run "
            "with --weights."
        )
    if not report.all_found:
        lines.append(f"There are more: the search stops at {MAX_FAULTS} faults.")
    elif len(report.faults) > 1:
        explained = all(
            fault.mistake and fault.row.shape == fault.row.expected_shape for fault in report.faults
        )
        all_judged = len(report.compared) == len(report.rows)
        rest = "; with them accounted for, the rest is right" if explained and all_judged else ""
        lines.append(f"{len(report.faults)} faults in all{rest}.")
    return lines


def _fault(report: Report, i: int) -> list[str]:
    """Describe fault i: where it shows, the largest error there, the likely cause."""
    fault, row = report.faults[i], report.faults[i].row
    same_tensor = i > 0 and report.faults[i - 1].row is row
    error = _error(fault, report.dtype)
    if i == 0:
        lines = [f"First divergence: {row.name}. {error}"]
    elif same_tensor:
        lines = [f"With that accounted for, {row.name} still diverges."]
    elif report.faults[i - 1].mistake:
        lines = [f"With that accounted for, the next divergence is {row.name}. {error}"]
    else:
        lines = [f"The next divergence is {row.name}. {error}"]
    if fault.worst and not same_tensor and fault.found is not None and not math.isnan(fault.found):
        lines.append(
            f"Largest error at {_index(fault.worst)}: {fault.found:.6g} instead of {fault.expected:.6g}."
        )
    if not same_tensor:
        lines += _only_at(fault)
    last = all(other.row is not row for other in report.faults[i + 1 :])
    return [*lines, _cause(fault, last), *(described(fault, report.dtype) if last else [])]


def _only_at(fault: Fault) -> list[str]:
    """Say where a tensor is wrong, if that is a part of it that few words tell."""
    parts = []
    for axis, (indices, length) in fault.only_at.items():
        if ranges := _ranges(indices):
            words = {"query": "queries"}.get(axis, f"{axis}s") if len(indices) > 1 else axis
            parts.append(f"{words} {ranges} of {length}")
    return [f"Wrong only at {', '.join(parts)}."] if parts else []


def _ranges(indices: list[int]) -> str:
    """Return sorted indices as text, three or more in a row as a range: "0 and 4 to 6"; "" if it is long."""
    ranges: list[str] = []
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        first, *others = [i for _, i in run]
        ranges += [f"{first} to {others[-1]}"] if len(others) > 1 else map(str, (first, *others))
    *before, last = ranges
    if len(ranges) > SHOWN:
        return ""
    return f"{', '.join(before)} and {last}" if before else last


def _error(fault: Fault, dtype: str) -> str:
    """Say how a tensor differs from what the model computes from the tensor before it."""
    row = fault.row
    if row.layout:
        return f"Its axes are {row.layout} ({_shape(row.shape)}), not those of {_shape(row.expected_shape)}."
    if row.shape != row.expected_shape:
        return f"Its shape is {_shape(row.shape)}, not {_shape(row.expected_shape)}."
    recomputed = f"Recomputed from your {fault.computed_from},"
    if fault.found is not None and not math.isfinite(fault.found):
        holds = "NaN" if math.isnan(fault.found) else "infinity"
        return f"{recomputed} it should be finite; it holds {holds} at {_index(fault.worst)}."
    return (
        f"{recomputed} it is off by {row.local_error:.1e}; {dtype} rounding explains {row.local_allowed:.1e}."
    )


def _cause(fault: Fault, last: bool) -> str:
    """Say what explains a fault, and where else. last: whether no other fault of the same tensor follows."""
    row, also = fault.row, ", ".join(fault.also)
    if fault.mistake is None:
        return _unexplained(fault) + (f" Also wrong: {also}." if also else "")
    cause = f"Likely cause: {fault.mistake.description}."
    if fault.mistake is OTHER_WEIGHTS:
        return f"{cause} Every tensor that is computed with weights is wrong."
    if fault.mistake is BATCH_AXIS and row.name.startswith(("pixels", "vision.", "pool.flat", "factorized.")):
        cause += " Or was it computed from more frames than the trace holds? Then write all of them."
    if fault.mistake in (AXES_TRANSPOSED, BATCH_AXIS) and fault.remaining is not None:
        cause += _values(fault, fault.remaining)
    elif last and fault.remaining is not None:
        cause += f" With the same mistake in the reference, the error drops to {fault.remaining:.1e}."
    return cause + (f" It also explains {also}." if also else "")


def _values(fault: Fault, error: float) -> str:
    """Say whether the values are right once the axes are."""
    arranged = "Transposed back" if fault.mistake is AXES_TRANSPOSED else "For one item of the batch"
    if error <= fault.row.local_allowed:
        return f" {arranged}, the error is {error:.1e}: the values are right."
    explained = f"rounding explains {fault.row.local_allowed:.1e}"
    return f" {arranged}, the values are still wrong: the error is {error:.1e}, {explained}."


def _unexplained(fault: Fault) -> str:
    """Say where to look for a fault that no known mistake explains."""
    if fault.hint:
        return fault.hint
    name = fault.row.name
    place = next(place for prefix, place in PLACES.items() if name.startswith(prefix))
    cause = (
        f"No known cause: none of {KNOWN} known mistakes explains it, nor several of them together. Compare "
        f"your code with {place}"
    )
    if fault.row.shape != fault.row.expected_shape and not fault.row.layout:
        cause += ". Or is it another model's? Then pass its checkpoint with --weights"
    return f"{cause}."


KNOWN = len([mistake for mistake in MISTAKES if mistake not in (AXES_TRANSPOSED, BATCH_AXIS, OTHER_WEIGHTS)])


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for `json.dumps`; a number that is not finite is None."""
    judged = report.coarser if report.coarser and report.coarser.faults else report
    return {
        "first_divergence": report.first_divergence.name if report.first_divergence else None,
        "diagnosis": report.mistake.description if report.mistake else None,
        "inconsistent": judged.inconsistent,
        "tensors": [_row_as_json(row) for row in report.rows],
        "unknown": report.unknown,
        "nearest": report.nearest,
        "dtype": report.dtype,
        "right": report.ok,
        "compared": len(report.compared),
        "computed": len(report.rows) + len(report.missing),
        "missing": report.missing,
        "tolerance": report.tolerance,
        "agrees_to": report.coarser.dtype if report.coarser else None,
        "not_finite": {"name": report.not_finite[0], "at": report.not_finite[1]}
        if report.not_finite
        else None,
        "faults": [_fault_as_json(fault) for fault in judged.faults],
        "all_found": judged.all_found,
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "shape": list(row.shape),
        "expected_shape": list(row.expected_shape),
        "axes": row.layout or None,
        "max_abs": _finite(row.difference.max_abs),
        "rel": _finite(row.difference.rel),
        "cosine": _finite(row.difference.cosine),
        "sqnr": _finite(row.difference.sqnr),
        "allowed": _finite(row.allowed),
        "local_error": _finite(row.local_error),
        "local_allowed": _finite(row.local_allowed),
        "agrees": row.agrees,
        "status": row.status,
    }


def _fault_as_json(fault: Fault) -> dict[str, Any]:
    return {
        "name": fault.row.name,
        "computed_from": fault.computed_from,
        "mistake": fault.mistake.name if fault.mistake else None,
        "diagnosis": fault.mistake.description if fault.mistake else None,
        "error": _finite(fault.row.local_error),
        "allowed": _finite(fault.row.local_allowed),
        "remaining": _finite(fault.remaining),
        "axes": fault.row.layout or None,
        "worst": fault.worst or None,
        "found": _finite(fault.found),
        "expected": _finite(fault.expected),
        "only_at": {axis: indices for axis, (indices, _) in fault.only_at.items()} or None,
        "also": list(fault.also),
        "hint": fault.hint or None,
        "inside": [_row_as_json(row) for row in fault.inside],
        "narrowed": fault.narrowed or None,
        "wanted": list(fault.wanted),
    }


def cells(row: Row, tolerance: float | None = None) -> tuple[str, ...]:
    """Return a row of the table as text, see HEADER."""
    verdict = row.status
    if row.layout:
        verdict += f": the axes are {row.layout}, the shape should be {_shape(row.expected_shape)}"
    elif row.shape != row.expected_shape:
        verdict += f": the shape should be {_shape(row.expected_shape)}"
    elif row.status == "wrong":
        verdict += f": local error {row.local_error:.1e}, tolerance {row.local_allowed:.1e}"
    return (
        row.name,
        _shape(row.shape),
        f"{row.difference.max_abs:.1e}",
        f"{row.difference.rel:.1e}",
        f"{row.difference.cosine:.6f}",
        f"{row.difference.sqnr:.1f} dB",
        f"{row.allowed:.1e}" if tolerance is None else f"{tolerance:g} dB",
        verdict,
    )


def _computed_in(dtype: str) -> str:
    return "float16, or with TensorFloat-32 products" if dtype == "float16" else dtype


def _index(index: dict[str, int]) -> str:
    return ", ".join(f"{axis} {i}" for axis, i in index.items())


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None
