"""What `verify` reports, as dataclasses, and the measure of how far two arrays are apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .mistakes import Mistake


@dataclass(frozen=True)
class Difference:
    """How far an array is from the truth.

    max_abs: the largest difference of two numbers. rel: the largest length of a row's difference (a row runs along the
    last axis), in units of the root mean square length of the truth's rows. cosine: of all the numbers.
    """

    max_abs: float
    rel: float
    cosine: float


@dataclass(frozen=True)
class Row:
    """A tensor of a trace: how far it is from the truth, how far rounding may bring it (`allowed`), and the verdict.

    by_itself, allowed_by_itself: the same, `rel`, of what it should be if the trace's own tensors before it are right.
    status: "ok"; "wrong", where it errs by itself; "inherited", where it errs because of what came before it; "not judged",
    where numbers of that size overflow the dtype, so that rounding in it would explain anything.
    layout: its axes in letters, "[N, T, W]", where they are recognized and are not those of a trace; else "".
    """

    name: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    difference: Difference
    allowed: float
    by_itself: float
    allowed_by_itself: float
    status: str
    layout: str = ""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a port.

    diverges: the first tensor that shows it. computed_from: the tensor of the trace from which that one was computed.
    mistake: the known mistake that explains it, or None. remaining: the tensor's error, `by_itself`, with this mistake
    and those before it in the list allowed for; None without a mistake. also: the other tensors that it explains, or,
    without a mistake, the others of the same kind that err too. worst: where in the tensor the error is largest, by
    the names of its axes ({} if its shape is wrong); found, expected: the two numbers there.
    """

    diverges: Row
    computed_from: str
    mistake: Mistake | None = None
    remaining: float | None = None
    also: tuple[str, ...] = ()
    worst: dict[str, int] = field(default_factory=dict)
    found: float | None = None
    expected: float | None = None


@dataclass(frozen=True)
class Report:
    """What `verify` found, rows in path order.

    dtype: the precision that rounding was judged by. unknown: what the trace holds under names that no trace has;
    nearest: unknown name -> the most similar known one, where there is one. missing: the tensors that the model computes
    from these inputs and that the trace does not hold. faults: what is wrong, in path order. all_found: False if there
    were more faults than are looked for. not_finite: (name, place) of the first NaN or infinity that should be a finite
    number. coarser: the report by a coarser dtype that the numbers seem to have been computed in, if there is one.
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

    @property
    def compared(self) -> list[str]:
        """The computed tensors that were compared and could be judged."""
        return [row.name for row in self.rows if row.status != "not judged"]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong and a tensor of the network, not only pixels, was compared."""
        return not self.faults and any(name != "pixels" for name in self.compared)

    @property
    def diverges(self) -> Row | None:
        """The first tensor that errs by itself."""
        return self.faults[0].diverges if self.faults else None

    @property
    def computed_from(self) -> str | None:
        """The tensor of the trace that `diverges` was computed from."""
        return self.faults[0].computed_from if self.faults else None

    @property
    def mistake(self) -> Mistake | None:
        """The known mistake that explains the first fault."""
        return self.faults[0].mistake if self.faults else None

    @property
    def remaining(self) -> float | None:
        """The error that the first fault's mistake leaves."""
        return self.faults[0].remaining if self.faults else None


def difference(x: np.ndarray, truth: np.ndarray) -> Difference:
    """How far x is from the truth, both [..., n]; infinitely, if the shapes differ or a number is wrongly not finite.

    Where the truth is zero altogether, its rows' length counts as 1.
    """
    if x.shape != truth.shape:
        return Difference(np.inf, np.inf, np.nan)
    with np.errstate(all="ignore"):
        d = np.where((x == truth) | np.isnan(x) & np.isnan(truth), 0, x - truth)
        d[np.isnan(d)] = np.inf
        rows = np.linalg.norm(d, axis=-1).max()
        typical = np.sqrt(np.mean(np.square(np.where(np.isfinite(truth), truth, 0)).sum(axis=-1))) or 1.0
        cosine = np.vdot(x, truth) / (np.linalg.norm(x) * np.linalg.norm(truth))
        return Difference(float(abs(d).max()), float(rows / typical), float(np.clip(cosine, -1, 1)))
