"""The faults of a trace: known mistakes, each accounted for before the next is searched."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .inside import inside_of
from .layout import shape_hint
from .mistakes import AXES_TRANSPOSED, BATCH_AXIS, Mistake
from .names import describe_index, nearest_known, upstream
from .precision import EPSILON
from .report import Evidence, Fault, Row, row_errors
from .search import MAX_TOGETHER, Causes, Search, mistake_of

MAX_FAULTS = 8
WITH_PARAMETERS = (
    "vision.",
    "pool.attended",
    "pool.latent",
    "factorized.block",
    "text.embed",
    "text.block",
    "text.latent",
    "decoder.",
    "logits",
)


@dataclass
class Unexplained:
    """The tensors that no known mistakes explain: the first of each kind -> the others of this kind."""

    groups: dict[str, list[str]] = field(default_factory=dict)

    def names(self) -> set[str]:
        """Return all of them."""
        return {*self.groups, *(name for names in self.groups.values() for name in names)}

    def first_like(self, name: str) -> str | None:
        """Return the first unexplained tensor of the same kind."""
        return next((other for other in self.groups if kind(other) == kind(name)), None)


def find_faults(search: Search) -> tuple[list[Fault], bool]:
    """Return the faults in path order, and whether these are all: the search stops at `MAX_FAULTS`."""
    suspects = suspected(search)
    unexplained = Unexplained()
    failed: set[tuple[str, int]] = set()
    while True:
        explain_by_known(search, suspects)
        closed = search.explained.keys() | unexplained.names()
        open_names = [name for name in suspects if name not in closed and not search.unreachable(name)]
        mistakes = {mistake_of(cause).name for cause in search.known_causes()}
        if not open_names or len(mistakes) + len(unexplained.groups) >= MAX_FAULTS:
            return listed(search, suspects, unexplained), not open_names
        if found := explained_next(search, open_names, unexplained, failed):
            name, causes = found
            search.explained[name] = causes
            search.continue_from(name)
            unexplained = Unexplained()  # with these mistakes known the others may be explained
        elif first := unexplained.first_like(open_names[0]):  # two of a kind: the others are not searched
            same = [name for name in open_names if kind(name) == kind(first)]
            unexplained.groups[first] += same
        else:
            unexplained.groups[open_names[0]] = []


def explain_by_known(search: Search, suspects: Iterable[str]) -> None:
    """Explain tensors by the mistakes found so far, in path order."""
    for name in suspects:
        if name not in search.explained and not search.unreachable(name):
            causes = search.explain_by_known(name)
            if causes is not None:
                search.explained[name] = causes
                search.continue_from(name)


def explained_next(
    search: Search, open_names: list[str], unexplained: Unexplained, failed: set[tuple[str, int]]
) -> tuple[str, Causes] | None:
    """Return a tensor with the further mistakes that explain it: one mistake, or several in the first tensor.

    failed: searches for one mistake that found none, as (name, number of known mistakes).
    """
    for name in first_of_each_kind(open_names):
        attempt = name, len(search.known_causes())
        if attempt not in failed:
            if causes := search.search(name, 1):
                return name, causes
            failed.add(attempt)
    name = open_names[0]
    if unexplained.first_like(name) is None and (causes := search.search(name, MAX_TOGETHER)):
        return name, causes
    return None


def suspected(search: Search) -> list[str]:
    """Return the tensors with an error of their own, in path order.

    One that agrees with the reference although a tensor before it is wrong is not suspected: the
    implementation did not compute it from that tensor.
    """
    wrong = {name for name, row in search.rows.items() if row.status == "wrong"}

    def is_off(name: str, row: Row) -> bool:
        return not row.agrees or not upstream(name, search.sources, set()) & wrong

    return [
        name
        for name, row in search.rows.items()
        if row.local_error > row.local_allowed
        and row.status != "not judged"
        and (row.layout or is_off(name, row))
    ]


def first_of_each_kind(names: list[str]) -> list[str]:
    """Return the first name of each kind."""
    return list({kind(name): name for name in reversed(names)}.values())[::-1]


def kind(name: str) -> str:
    """Return a name without its block number: blocks of a stack are of one kind."""
    return re.sub(r"\d+", "*", name)


def listed(search: Search, suspects: list[str], unexplained: Unexplained) -> list[Fault]:
    """Return the faults, each at the first tensor that shows it; in one tensor the largest comes first."""
    faults: list[Fault] = []
    for name in suspects:
        fault = plain_fault(search, name)
        causes = causes_of(search, name, {other.mistake.name for other in faults if other.mistake})
        for mistake, remaining in causes:
            i = next((i for i, other in enumerate(faults) if other.mistake is mistake), None)
            if i is None:
                faults.append(replace(fault, mistake=mistake, remaining=remaining))
            else:
                faults[i] = replace(faults[i], also=(*faults[i].also, name))
        if name in unexplained.groups or (name == suspects[0] and not causes):
            faults.append(replace(fault, also=tuple(unexplained.groups.get(name, ()))))
    return faults


def causes_of(search: Search, name: str, listed_before: set[str]) -> list[tuple[Mistake, float]]:
    """Return the mistakes that explain a tensor, each with the error that it and those before it leave.

    First the layout, then the mistakes listed before, then the others in the order in which they lower the
    error.
    """
    row, causes = search.rows[name], []
    if row.layout:
        larger = np.prod(row.shape) > np.prod(row.expected_shape)
        causes.append((BATCH_AXIS if larger else AXES_TRANSPOSED, search.error(name, ())))
    rest = list(search.explained.get(name, ()))
    applied: Causes = tuple(cause for cause in rest if mistake_of(cause).name in listed_before)
    causes += [(mistake_of(cause), search.error(name, applied)) for cause in applied]
    rest = [cause for cause in rest if cause not in applied]
    while rest:
        errors = [search.error(name, tuple(sorted((*applied, cause)))) for cause in rest]
        cause = rest.pop(int(np.argmin(errors)))
        applied = tuple(sorted((*applied, cause)))
        causes.append((mistake_of(cause), min(errors)))
    return causes


def plain_fault(search: Search, name: str) -> Fault:
    """Return a fault without a cause: where it is, and its largest error."""
    source = nearest_known(name, search.sources, search.known)
    row = search.rows[name]
    fields = largest_error(search, name) | inside_of(search, name)
    return Fault(row, source, hint=shape_hint(row, search.inputs), **fields)


def evidence_of(search: Search, name: str) -> Evidence | None:
    """Return a tensor and what it should have been; None if a shape is unexpected."""
    x = search.found[name]
    try:
        expected = search.computed(name)
    except (ValueError, IndexError):  # the tensor before it has another shape
        return None
    return Evidence(name, x, expected) if x.shape == expected.shape else None


def largest_error(search: Search, name: str) -> dict[str, Any]:
    """Return the largest local error of a tensor as fields of a `Fault`; {} if a shape is unexpected."""
    evidence = evidence_of(search, name)
    if evidence is None or search.rows[name].layout:
        return {}
    x, expected = evidence.found, evidence.expected
    with np.errstate(all="ignore"):
        error = np.abs(np.where(x == expected, 0, x - expected))
    index = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
    return {
        "worst": describe_index(name, tuple(map(int, index)), search.model.config),
        "found": float(x[index]),
        "expected": float(expected[index]),
        "only_at": wrong_part(search, evidence),
    }


def wrong_part(search: Search, evidence: Evidence) -> dict[str, tuple[list[int], int]]:
    """Return `Fault.only_at`: {} unless each row's error is above twice or below half the allowed one."""
    errors = row_errors(evidence.found, evidence.expected) / search.rows[evidence.name].local_allowed
    if np.all(errors < 2) or np.any((errors > 0.5) & (errors < 2)):
        return {}

    def axes_of(row: Any) -> dict[str, int]:
        *axes, _ = describe_index(evidence.name, (*row, 0), search.model.config).items()
        return dict(axes)

    wrong = [axes_of(row) for row in np.argwhere(errors > 1)]
    lengths = {axis: last + 1 for axis, last in axes_of(n - 1 for n in errors.shape).items()}
    part = {axis: sorted({row[axis] for row in wrong}) for axis in lengths}
    return {axis: (part[axis], length) for axis, length in lengths.items() if len(part[axis]) < length}


def has_other_weights(search: Search) -> bool:
    """Return whether the trace seems to be computed with other weights, so that no block is to blame.

    Every tensor that is computed with parameters has an error of its own, and these are of three kinds at
    least. And the text embedding, a sum of looked-up rows, is wrong; or most errors are as large as unrelated
    weights cause.
    """
    rows = [
        row
        for name, row in search.rows.items()
        if name.startswith(WITH_PARAMETERS) and row.status != "not judged"
    ]
    if len({kind(row.name) for row in rows}) < 3 or any(row.status != "wrong" or row.layout for row in rows):
        return False
    for row in rows:
        if row.name == "text.embed":
            return row.local_error > EPSILON["bfloat16"] and search.search("text.embed", 1) is None
    effects = [relative_effect(search, row.name) for row in rows]
    return bool(np.min(effects) > 0.3 and np.median(effects) > 0.7)


def relative_effect(search: Search, name: str) -> float:
    """Return a tensor's error relative to what its parameters add to the residual stream."""
    x, ours = search.found[name], search.computed(name)
    before = search.activations.get(nearest_known(name, search.sources, search.known))
    added = ours - before if before is not None and before.shape == ours.shape else ours
    return float(np.linalg.norm(x - ours) / (np.linalg.norm(added) or 1))
