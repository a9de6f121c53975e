"""The result of `verify` as dataclasses, and the measure of how far two arrays differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..model.config import Array
from .mistakes import Mistake

PART = 2**17  # elements that are compared at a time


@dataclass(frozen=True)
class Difference:
    """How far an array is from the reference.

    max_abs: the largest absolute difference of two elements.
    rel: the largest L2 norm of a row of the difference (rows run along the last axis), relative to the root
    mean square L2 norm of the reference's rows.
    cosine: the cosine similarity of the flattened arrays. sqnr: the signal-to-quantization-noise ratio in
    decibels, 10 log10 of the sum of squares of the reference by that of the difference; infinite if it is 0.
    """

    max_abs: float
    rel: float
    cosine: float
    sqnr: float


@dataclass(frozen=True)
class Row:
    """A tensor of a trace: its errors, the errors that rounding explains, and the verdict.

    difference: from the reference, computed from the inputs. allowed: the largest `rel` that rounding
    explains.
    local_error, local_allowed: the same, from what the model computes from the trace's own tensors before
    this one.
    allowed and the local errors are NaN where a tolerance decides, see `Report`.
    status: "ok"; "wrong", the local error is too large; "inherited", the error comes from an earlier tensor;
    "not judged", numbers of this size overflow the dtype, so that rounding could explain any error; "below",
    the SQNR is below the tolerance.
    layout: the tensor's axes, e.g. "[N, T, W]", if they are recognized and are not those of a trace; else "".
    """

    name: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    difference: Difference
    allowed: float
    local_error: float
    local_allowed: float
    status: str
    layout: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the tensor agrees with the reference within rounding, or within the tolerance."""
        return self.status == "ok" if np.isnan(self.allowed) else bool(self.difference.rel <= self.allowed)


@dataclass(frozen=True)
class Fault:
    """One fault of an implementation.

    row: the first tensor that shows it. computed_from: the tensor of the trace that it was recomputed from.
    mistake: the known mistake that explains it, or None. remaining: the local error of `row` that is left
    when our forward pass makes this mistake and those before it in the list; None without a mistake. also:
    the other tensors that the mistake explains or, without one, the other wrong tensors of the same kind.
    worst: the index of the largest error by axis names ({} if the shape is wrong); found, expected: the two
    numbers at that index. only_at: axis name -> the wrong indices along it and its length, if they are a part
    of it and all else is clearly right. hint: what may explain an unexpected shape, a sentence or "".
    inside: the finer tensors of the trace inside the block, in path order; their differences are from what
    the model computes from the block's input. narrowed: the first wrong one, or the block itself if only its
    last sum is wrong, or ""; operation: what computes it. wanted: the names that would narrow it further.
    """

    row: Row
    computed_from: str
    mistake: Mistake | None = None
    remaining: float | None = None
    also: tuple[str, ...] = ()
    worst: dict[str, int] = field(default_factory=dict)
    found: float | None = None
    expected: float | None = None
    only_at: dict[str, tuple[list[int], int]] = field(default_factory=dict)
    hint: str = ""
    inside: tuple[Row, ...] = ()
    narrowed: str = ""
    operation: str = ""
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """The accused tensor: the trace's, and what the model computes in its place, of the same shape."""

    name: str
    found: Array
    expected: Array


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `verify`, rows in path order. `str(report)` is the text that the command prints.

    dtype: the precision whose rounding is allowed. unknown: names in the trace that are not compared;
    nearest: unknown name -> the most similar name of a trace, if there is one. missing: the tensors that the
    model computes from the inputs and that the trace does not hold. faults: in path order. all_found: False
    if the search stopped at the largest number of faults. not_finite: (name, index) of the first NaN or
    infinity where a finite number is expected. coarser: the report by the coarser dtype that the numbers seem
    to have been computed in, if there is one. tolerance: the SQNR in decibels that every tensor must reach;
    None if rounding decides. evidence: of `first_divergence`, unless its shape is unexpected.
    """

    dtype: str
    rows: list[Row]
    unknown: list[str]
    nearest: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    all_found: bool = True
    not_finite: tuple[str, dict[str, int]] | None = None
    coarser: Report | None = None
    tolerance: float | None = None
    evidence: Evidence | None = field(default=None, compare=False, repr=False)

    @property
    def below(self) -> list[Row]:
        """The tensors whose SQNR is below the tolerance."""
        return [row for row in self.rows if row.status == "below"]

    @property
    def compared(self) -> list[str]:
        """The computed tensors that were compared and could be judged."""
        return [row.name for row in self.rows if row.status != "not judged"]

    @property
    def inconsistent(self) -> list[str]:
        """The tensors that agree with the reference, but not with the trace's own tensors before them.

        They were not computed from these, so they are no fault.
        """
        faulty = {name for fault in self.faults for name in (fault.row.name, *fault.also)}
        return [
            row.name for row in self.rows if row.status == "wrong" and row.agrees and row.name not in faulty
        ]

    def __str__(self) -> str:
        from .formatting import text

        return text(self)

    def __repr__(self) -> str:
        """Return the outcome in less than 240 characters, which is what pytest shows of an object."""
        from .formatting import summary

        return f"<Report: {summary(self)}>"

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and a tensor of the network, not pixels alone, was compared and judged.

        Tensors that the trace lacks do not change it: see `missing`.
        """
        return not self.faults and not self.below and any(name != "pixels" for name in self.compared)

    @property
    def inside(self) -> list[str]:
        """The tensors inside blocks that were compared."""
        return [row.name for fault in self.faults for row in fault.inside]

    @property
    def first_divergence(self) -> Row | None:
        """The first tensor with an error of its own, or below the tolerance."""
        rows = [*(fault.row for fault in self.faults), *self.below]
        return rows[0] if rows else None

    @property
    def computed_from(self) -> str | None:
        """The tensor of the trace that `first_divergence` was recomputed from."""
        return self.faults[0].computed_from if self.faults else None

    @property
    def mistake(self) -> Mistake | None:
        """The known mistake that explains the first fault."""
        return self.faults[0].mistake if self.faults else None

    @property
    def remaining(self) -> float | None:
        """The error that the first fault's mistake leaves unexplained."""
        return self.faults[0].remaining if self.faults else None


NOT_COMPARABLE = Difference(np.inf, np.inf, np.nan, np.nan)  # the shapes differ


def difference(x: Array, reference: Array) -> Difference:
    """Return how far x is from the reference, both [..., n].

    The errors are infinite if the shapes differ or x is not finite where the reference is. Where the
    reference is zero everywhere, errors are absolute.
    """
    if x.shape != reference.shape:
        return NOT_COMPARABLE
    with np.errstate(all="ignore"):
        cosine = np.vdot(x, reference) / (np.linalg.norm(x) * np.linalg.norm(reference))
        parts = [(float(np.abs(d).max()), float(np.vdot(d, d))) for d in _differences(x, reference)]
        noise = sum(part for _, part in parts)
        sqnr = 10 * np.log10(np.vdot(reference, reference) / noise) if noise else np.inf
    return Difference(
        max(largest for largest, _ in parts),
        relative_error(x, reference),
        float(np.clip(cosine, -1, 1)),
        float(sqnr),
    )


def relative_error(x: Array, reference: Array) -> float:
    """Return `Difference.rel` alone."""
    return largest_row(x, reference) / typical_row(reference) if x.shape == reference.shape else np.inf


def row_errors(x: Array, reference: Array) -> Array:
    """Return the errors of all rows, [...] of [..., n]; the largest one is `relative_error`."""
    with np.errstate(all="ignore"):
        squares = np.concatenate([_squares(d) for d in _differences(x, reference)])
    errors: Array = squares.reshape(x.shape[:-1]) ** 0.5 / typical_row(reference)
    return errors


def largest_row(x: Array, reference: Array) -> float:
    """Return the largest L2 norm of a row of the difference."""
    with np.errstate(all="ignore"):
        return max(float(_squares(d).max()) for d in _differences(x, reference)) ** 0.5


def typical_row(reference: Array) -> float:
    """Return the root mean square L2 norm of a row; 1 if all are zero."""
    with np.errstate(all="ignore"):
        rows = np.where(np.isfinite(reference), reference, 0).reshape(-1, reference.shape[-1])
        return float(np.sqrt(np.mean(_squares(rows)))) or 1.0


def _squares(rows: Array) -> Array:
    """Return the sum of squares of each row [..., n]."""
    sums: Array = np.einsum("...i,...i", rows, rows)
    return sums


def _differences(x: Array, reference: Array) -> Iterator[Array]:
    """Yield x - reference, as many rows at a time as fit the cache."""
    x, reference = (array.reshape(-1, array.shape[-1]) for array in (x, reference))
    step = max(1, PART // x.shape[-1])
    for i in range(0, len(x), step):
        yield _subtract(x[i : i + step], reference[i : i + step])


def _subtract(x: Array, reference: Array) -> Array:
    """Return x - reference: 0 where both are the same infinity or NaN, infinity where only one is NaN."""
    d: Array = x - reference
    if np.isfinite(d).all():
        return d
    d = np.where((x == reference) | (np.isnan(x) & np.isnan(reference)), 0, d)
    d[np.isnan(d)] = np.inf
    return d
