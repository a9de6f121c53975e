"""`verify`: compare a trace with what the model computes from the same inputs.

The reference is our float64 run on the trace's inputs. A wrong block makes all after it wrong. So the forward
pass is run a second time, and after each activation it continues from the trace's own tensor (activation
patching, `trace(patch)`). What it computes then is what each block should have made of the input that it
really had: only a tensor that differs from that has an error of its own. Both runs are repeated in the
trace's precision, which shows the errors that rounding explains. `diagnosis` finds the causes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..model.config import Array, Config
from ..model.videococa import VideoCoCa
from ..progress import Progress, Update, no_progress
from ..resources import require_memory
from .diagnosis import evidence_of, find_faults, has_other_weights, plain_fault, suspected
from .layout import arranged, without_unit_axes
from .memory import bytes_needed
from .mistakes import OTHER_WEIGHTS
from .names import (
    Arrays,
    activation_names,
    computed_names,
    describe_index,
    sources_of,
    upstream,
)
from .precision import EPSILON, FACTOR, SAMPLES, coarser_than, coarsest, in_float64, is_exact
from .report import NOT_COMPARABLE, Difference, Evidence, Report, Row, difference, relative_error
from .runs import exact_run, nearby_run, rounding_errors
from .search import MAX_TOGETHER, Search
from .traces import Trace, default_dtype, similar_names, sort, with_pixels

LIKE_ROUNDING = 1 / 16  # of the rounding error: smaller errors come from a finer dtype
MOSTLY = 0.75  # the part of the tensors that must agree with a coarser dtype
STEP = 1e-3  # the relative step along which blocks are taken to be linear, see `nearby_run`
LONG = 10  # rounding to float32 counts as nothing in a step of this many times the allowed rounding
COPIES = ("pixels", "pool.flat", "text.tokens")  # computed without rounding, or in another dtype


Judge = Callable[[str], tuple[Report, Search | None]]  # a dtype -> the report by its rounding


def verify(
    model: VideoCoCa,
    tensors: Mapping[str, Any],
    dtype: DTypeLike | None = None,
    *,
    tolerance: float | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Compare a trace with what the model computes in float64 from the trace's own inputs.

    tensors: name -> array, or a `Recording`. The inputs `frames` uint8 [T, H, W, 3] or `pixels` [T, 3, S, S],
    and `ids` [L] or [B, L], as far as the others depend on them; and any activations, floating point, see
    `minivideococa trace`. Leading axes of length one are ignored.
    dtype: the precision that they were computed in: "float64", "float32", "float16" or "bfloat16". The
    default is the coarsest dtype of the tensors except pixels, and float32 at least where frames come without
    pixels, since our pixels are float32.
    tolerance: the signal-to-quantization-noise ratio in decibels that each tensor must reach, for a quantized
    implementation, in place of what rounding explains; then no mistakes are searched for.
    progress: see `minivideococa.progress`.
    Raises ValueError if there is nothing to compare, or if an input is missing or malformed.
    """
    arrays = {name: np.asarray(x) for name, x in tensors.items()}
    dtypes = {name: str(x.dtype) for name, x in arrays.items()}
    dtypes |= getattr(tensors, "dtypes", {})  # of a `Recording`
    return compare(model, arrays, dtypes, dtype, progress, tolerance)


def compare(
    model: VideoCoCa,
    tensors: Mapping[str, Array],
    dtypes: Mapping[str, str],
    dtype: DTypeLike | None = None,
    progress: Progress = no_progress,
    tolerance: float | None = None,
) -> Report:
    """`verify` for arrays whose stored dtypes are given: NumPy has no bfloat16."""
    if not isinstance(dtype, (str, type(None))):
        dtype = np.dtype(dtype).name
    if dtype is not None and dtype not in EPSILON:
        raise ValueError(f"dtype is {dtype!r}: give {', '.join(EPSILON)}")
    names = activation_names(model.config)
    tested = sort(tensors, dtypes, names)
    require_memory(
        bytes_needed(model.config, tested.inputs, tested.found),
        "comparing this trace",
        "write one with fewer or smaller frames, or fewer texts",
    )
    tested = with_pixels(model, tested)

    def judge(dtype: str) -> tuple[Report, Search | None]:
        return judged(model, tested, dtype, progress)

    if tolerance is not None:
        report = tolerated(model, tested, dtype or default_dtype(tested), tolerance, progress)
    else:
        report, search = judge(dtype or default_dtype(tested))
        if search:
            report = diagnosed(report, search, judge)
            name = report.first_divergence.name if report.first_divergence else ""
            report = replace(report, evidence=evidence_of(search, name) if name in search.rows else None)
    missing = [name for name in computed_names(names, tested.inputs) if name not in tested.found]
    unknown = [name for name in tested.unknown if name not in report.inside]
    return replace(report, unknown=unknown, missing=missing, nearest=similar_names(unknown, missing, names))


# The comparison ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """A trace's tensors and the reference.

    found: the trace's tensors, float64, with axes as in a trace. shapes, layouts: their own shapes, and their
    own axes if these differ. reference: computed from the inputs, where `start` holds the trace's own pixels
    if they are right. differences: of found from the reference.
    """

    found: Arrays
    shapes: dict[str, tuple[int, ...]]
    layouts: dict[str, str]
    start: Arrays
    reference: Arrays
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Runs(Compared):
    """What a trace is judged by.

    patch: the found tensors of the expected shape. noise: the error that rounding causes in the reference, by
    name.
    """

    patch: Arrays
    noise: dict[str, float]


def judged(model: VideoCoCa, tested: Trace, dtype: str, progress: Progress) -> tuple[Report, Search | None]:
    """Return the report by this dtype's rounding, without faults, and the search for them if needed.

    A run in float32 is precise enough for a trace that is right beyond doubt, see `nearby_run`: all errors
    are within half of what rounding explains.
    """
    names = activation_names(model.config)
    sources = {name: sources_of(name, names, model.config) for name in names}
    with progress(2 + 2 * SAMPLES, "runs") as update, np.errstate(all="ignore"):
        runs = first_runs(model, tested, dtype, update)
        stretch = step_length(runs, dtype)
        if stretch:
            local = nearby_run(model, starting_from(tested, runs.start), runs.patch, runs.reference, stretch)
        else:
            local = exact_run(model, tested, runs.patch)
        rows = compared_locally(model, tested, runs, local, sources, dtype, update)
    if stretch and any(row.local_error > row.local_allowed / 2 for row in rows.values()):
        with progress(1 + SAMPLES, "runs") as update, np.errstate(all="ignore"):
            local = exact_run(model, tested, runs.patch)
            rows = compared_locally(model, tested, runs, local, sources, dtype, update)
    not_finite = first_not_finite(runs.found, runs.reference, model.config)
    report = Report(dtype, list(rows.values()), [], not_finite=not_finite)
    if all(row.status != "wrong" for row in rows.values()):
        return report, None
    activations, patched = local | runs.patch, set(runs.patch)
    return report, Search(
        in_float64(model),
        tested.inputs,
        runs.found,
        activations,
        patched,
        rows,
        sources,
        dtype,
        progress,
        tested.stored,
    )


def compared_with_reference(model: VideoCoCa, tested: Trace, dtype: str) -> Compared:
    """Run the reference, and compare a trace with it."""
    start = matching_pixels(tested, dtype_of_pixels(tested, dtype))
    reference = exact_run(model, starting_from(tested, start))
    if tested.pixels is not None:
        reference["pixels"] = tested.pixels
    written = {name: tested.found[name] for name in reference if name in tested.found}
    frames = 0 if tested.pixels is None else len(tested.pixels)
    pairs = {name: arranged(name, x, reference[name], frames) for name, x in written.items()}
    found = {name: x.astype(np.float64) for name, (x, _) in pairs.items()}
    differences = {name: difference(x, reference[name]) for name, x in found.items()}
    shapes = {name: without_unit_axes(x, reference[name].shape).shape for name, x in written.items()}
    layouts = {name: layout for name, (_, layout) in pairs.items()}
    return Compared(found, shapes, layouts, start, reference, differences)


def first_runs(model: VideoCoCa, tested: Trace, dtype: str, update: Update) -> Runs:
    """Compare a trace with the reference run, and measure the error that rounding causes in it."""
    first = compared_with_reference(model, tested, dtype)
    update(1)
    noise = rounding_errors(model, dtype, tested, first.start, first.reference, update)
    if "pixels" in first.found:
        noise["pixels"] = max(noise["pixels"], EPSILON[dtype_of_pixels(tested, dtype)])
    patch = {name: x for name, x in first.found.items() if x.shape == first.reference[name].shape}
    return Runs(**vars(first), patch=patch, noise=noise)


def tolerated(model: VideoCoCa, tested: Trace, dtype: str, tolerance: float, progress: Progress) -> Report:
    """Return the report on a quantized trace: every tensor must reach this SQNR, in decibels."""
    with progress(1, "runs") as update, np.errstate(all="ignore"):
        runs = compared_with_reference(model, tested, dtype)
        update(1)
    rows = []
    for name, layout in runs.layouts.items():
        found = NOT_COMPARABLE if layout else runs.differences[name]
        status = "ok" if found.sqnr >= tolerance else "below"
        shapes = runs.shapes[name], runs.reference[name].shape
        rows.append(Row(name, *shapes, found, np.nan, np.nan, np.nan, status, layout))
    report = Report(dtype, rows, [], tolerance=tolerance)
    first = report.below[0].name if report.below else ""
    evidence = Evidence(first, runs.found[first], runs.reference[first]) if first in runs.found else None
    if evidence and evidence.found.shape != evidence.expected.shape:
        evidence = None
    not_finite = first_not_finite(runs.found, runs.reference, model.config)
    return replace(report, not_finite=not_finite, evidence=evidence)


def step_length(runs: Runs, dtype: str) -> float | None:
    """Return the step of `nearby_run`; None for a trace that may be wrong, or is far from the reference."""
    largest = max(error for name, error in runs.noise.items() if name != "pixels")
    length = max(1.0, STEP / largest)
    precise = length * EPSILON[dtype] >= LONG * EPSILON["float32"]
    near = all(found.rel <= FACTOR / 2 * runs.noise[name] for name, found in runs.differences.items())
    return length if precise and near and np.isfinite(largest) and not any(runs.layouts.values()) else None


def dtype_of_pixels(tested: Trace, dtype: str) -> str:
    """Return the dtype whose rounding is allowed in pixels."""
    stored = tested.dtypes["pixels"] if "pixels" in tested.found else "float32"
    return coarsest([dtype, "float32", stored])


def starting_from(tested: Trace, start: Arrays) -> Trace:
    """Return the trace with the runs' pixels replaced by those of `start`, if it has any."""
    return replace(tested, pixels=start.get("pixels", tested.pixels))


def matching_pixels(tested: Trace, dtype: str) -> Arrays:
    """Return the trace's own pixels if they are right; the reference then continues from them.

    Right pixels need not equal ours in every bit.
    """
    ours = tested.pixels
    if "pixels" not in tested.found or ours is None:
        return {}
    theirs = arranged("pixels", tested.found["pixels"], ours)[0].astype(np.float64)
    return {"pixels": theirs} if relative_error(theirs, ours) <= FACTOR * EPSILON[dtype] else {}


def compared_locally(
    model: VideoCoCa,
    tested: Trace,
    runs: Runs,
    local: Arrays,
    sources: Mapping[str, list[str]],
    dtype: str,
    update: Update,
) -> dict[str, Row]:
    """Return the rows in path order. local: what is computed from the trace's own tensors."""
    update(1)
    errors = {name: relative_error(x, local[name]) for name, x in runs.found.items()}
    noise = rounding_errors(model, dtype, tested, runs.patch, local, update)
    if "pixels" in runs.found:
        noise["pixels"] = max(noise["pixels"], EPSILON[dtype_of_pixels(tested, dtype)])
    known = runs.patch.keys() | tested.inputs.keys()
    return judged_rows(runs, errors, noise, sources, known, EPSILON[dtype])


def judged_rows(
    runs: Runs,
    errors: Mapping[str, float],
    noise: Mapping[str, float],
    sources: Mapping[str, list[str]],
    known: set[str],
    epsilon: float,
) -> dict[str, Row]:
    """Return the rows in path order.

    errors, noise: against the local run. known: what it continued from, and the inputs.
    """
    rows: dict[str, Row] = {}
    for name in runs.found:
        row = Row(
            name,
            runs.shapes[name],
            runs.reference[name].shape,
            runs.differences[name],
            FACTOR * runs.noise[name],
            errors[name],
            FACTOR * noise[name],
            "ok",
            runs.layouts[name],
        )
        if row.layout:
            row = replace(row, difference=NOT_COMPARABLE, local_error=np.inf, status="wrong")
        else:
            unreachable = any(source in rows for source in upstream(name, sources, known))
            caused = any(
                rows[source].status == "wrong" for source in upstream(name, sources, set()) & rows.keys()
            )
            row = replace(row, status=status_of(row, unreachable, caused, epsilon))
        rows[name] = row
    return rows


def status_of(row: Row, unreachable: bool, caused: bool, epsilon: float) -> str:
    """Return the verdict on a tensor.

    unreachable: whether it depends on one that the local run could not continue from. caused: whether on a
    wrong one.
    """
    if row.local_error > row.local_allowed:
        return "inherited" if unreachable else "wrong"
    if not np.isfinite(row.local_allowed) and row.local_error > FACTOR * epsilon:
        return "not judged"
    if row.difference.rel > row.allowed and caused:
        return "inherited"
    return "ok"


def first_not_finite(found: Arrays, reference: Arrays, config: Config) -> tuple[str, dict[str, int]] | None:
    """Return the name and index of the first NaN or infinity where a finite number is expected."""
    for name, x in found.items():
        if x.shape == reference[name].shape:
            wrong = np.argwhere(~np.isfinite(x) & np.isfinite(reference[name]))
            if wrong.size:
                return name, describe_index(name, tuple(wrong[0]), config)
    return None


# The diagnosis ----------------------------------------------------------------------------------------------


def diagnosed(report: Report, search: Search, judge: Judge, try_coarser: bool = True) -> Report:
    """Return the report with its faults, and with the report by a coarser dtype if one fits."""
    first = suspected(search)[0]
    fault = plain_fault(search, first)

    def with_coarser(coarser: Report) -> Report:
        return replace(report, faults=coarser.faults or [fault], all_found=coarser.all_found, coarser=coarser)

    if try_coarser and (coarser := stored_in_coarser(report, search, judge)):
        return with_coarser(coarser)
    if not search.rows[first].layout and search.search(first, MAX_TOGETHER) is None:
        if try_coarser and (coarser := rounded_like_coarser(report, judge)):
            return with_coarser(coarser)
        if has_other_weights(search):
            return replace(report, faults=[replace(fault, mistake=OTHER_WEIGHTS)])
    faults, all_found = find_faults(search)
    return replace(report, faults=faults, all_found=all_found)


def stored_in_coarser(report: Report, search: Search, judge: Judge) -> Report | None:
    """Return the report by the coarsest dtype that holds every number of the trace exactly, if one does."""
    computed = [x for name, x in search.found.items() if name != "pixels"]
    dtypes = [
        dtype
        for dtype in coarser_than(report.dtype)
        if computed and all(is_exact(x, dtype) for x in computed)
    ]
    return with_faults(*judge(dtypes[-1]), judge) if dtypes else None


def rounded_like_coarser(report: Report, judge: Judge) -> Report | None:
    """Return the report by a coarser dtype if most errors are about as large as its rounding.

    Of several such dtypes, the finest by which nothing is wrong, or else the finest.
    """
    alike = []
    for dtype in coarser_than(report.dtype):
        if not may_be_rounded_in(dtype, report):
            continue
        coarser, search = judge(dtype)
        errors = np.array(
            [row.local_error / row.local_allowed for row in coarser.rows if row.name not in COPIES]
        )
        if errors.size and np.mean((errors > LIKE_ROUNDING / FACTOR) & (errors <= 1)) >= MOSTLY:
            if search is None:
                return coarser
            alike.append((coarser, search))
    return with_faults(*alike[0], judge) if alike else None


def may_be_rounded_in(dtype: str, report: Report) -> bool:
    """Return whether most errors are roughly as large as rounding in a coarser dtype."""
    ratio = EPSILON[dtype] / EPSILON[report.dtype]
    allowed = np.array([row.local_allowed for row in report.rows]) * ratio  # to about a factor of 4
    errors = np.array([row.local_error for row in report.rows])
    computed = np.array([row.name not in COPIES for row in report.rows])
    large = (errors > allowed * LIKE_ROUNDING / FACTOR / 100) | ~np.isfinite(allowed)
    return bool(
        np.mean(errors <= 4 * allowed) >= MOSTLY and computed.any() and np.mean(large[computed]) >= MOSTLY
    )


def with_faults(report: Report, search: Search | None, judge: Judge) -> Report:
    """Return a report by a coarser dtype with the faults that its rounding does not explain."""
    return diagnosed(report, search, judge, try_coarser=False) if search else report
