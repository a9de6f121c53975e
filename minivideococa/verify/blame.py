"""Which tensor of another implementation is wrong first.

The truth is our float64 run on the very inputs. A wrong block makes all after it wrong, so the forward pass is run a
second time, and after each name it goes on from the other implementation's own tensor (`trace(given)`): what it then
computes is what each block should have made of the input that it really had. A block is accused only if it differs from
that. Both runs are made in the other implementation's precision too, to see what rounding can explain. What the
mistakes are is found in diagnosis.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from ..model.config import Config
from ..model.hooks import trace
from ..model.videococa import VideoCoCa
from ..progress import advance, progress
from ..resources import require_memory
from ..terminal import printable
from .diagnosis import TOGETHER, Search, find_faults, of_other_weights, suspected, worst
from .layout import arranged, without_axes_of_one, without_first_axes
from .memory import bytes_needed
from .mistakes import OTHER_WEIGHTS
from .path import behind, computed_from_inputs, names_of, nearest_known, place, sources_of
from .precision import EPSILON, FACTOR, SAMPLES, cast, coarser_than, coarsest, is_held, rounding
from .rows import Difference, Fault, Report, Row, difference

Arrays = dict[str, np.ndarray]

INPUTS = {"frames": 4, "pixels": 4, "ids": 2}  # and how many axes they have
LIKE_ROUNDING = 1 / 16  # of what rounding does: what errs less was computed more exactly
MOSTLY = 0.75  # so many of the tensors
COPIES = (
    "pixels",
    "pool.flat",
    "text.tokens",
)  # nothing is rounded in making them, or it is in another dtype
NOT_COMPARABLE = Difference(np.inf, np.inf, np.nan)


def verify(
    model: VideoCoCa, tensors: Mapping[str, np.ndarray], dtype: str | np.dtype | type | None = None
) -> Report:
    """Compare a trace, name -> array, with what the model computes in float64 from the trace's own inputs.

    tensors: the inputs `frames` uint8 [T, H, W, 3] or `pixels` [T, 3, S, S], and `ids` [L] or [B, L], as far as the others
    depend on them, and any of the names of a trace, floating point; [1, ...] counts as [...]. dtype: what they were
    computed in ("float64", "float32", "float16", "bfloat16"); if not given, the coarsest of theirs, pixels aside, and no
    finer than float32, as our pixels are, where there are frames without pixels.
    Nothing else may use a model in this process meanwhile. Raises ValueError if there is nothing to compare, or if an
    input is not there or not what it should be.
    """
    tensors = {name: np.asarray(x) for name, x in tensors.items()}
    return compare(model, tensors, {name: str(x.dtype) for name, x in tensors.items()}, dtype)


def compare(
    model: VideoCoCa,
    tensors: Mapping[str, np.ndarray],
    stored: Mapping[str, str],
    dtype: str | np.dtype | type | None = None,
) -> Report:
    """`verify` for arrays that were read from dtypes, `stored`, which need not be theirs: NumPy has no bfloat16."""
    if not isinstance(dtype, (str, type(None))):
        dtype = np.dtype(dtype).name
    if dtype not in (None, *EPSILON):
        raise ValueError(f"dtype is {dtype!r}: give {', '.join(EPSILON)}")
    names = names_of(model.config)
    inputs, found, unknown = sort(tensors, stored, names)
    require_memory(
        bytes_needed(model.config, inputs, found),
        "comparing this trace",
        "write one of fewer or smaller frames, or of fewer texts",
    )
    if dtype is None:
        at_least = "float32" if "frames" in inputs and "pixels" not in found else "float64"
        dtype = coarsest(
            [at_least, *([stored[name] for name in found if name != "pixels"] or [stored["pixels"]])]
        )
    report, search = judged(model, inputs, found, stored, dtype)
    if search:
        report = diagnosed(report, search, lambda coarser: judged(model, inputs, found, stored, coarser))
    missing = [name for name in computed_from_inputs(names, inputs) if name not in found]
    return replace(report, unknown=unknown, missing=missing, nearest=nearest_names(unknown, missing, names))


def judged(
    model: VideoCoCa, inputs: Arrays, found: Arrays, stored: Mapping[str, str], dtype: str
) -> tuple[Report, Search | None]:
    """Every row of the report by this dtype; and what to look for the faults with, where something is wrong."""
    names = names_of(model.config)
    pixels_dtype = coarsest([dtype, "float32", stored["pixels"] if "pixels" in found else "float32"])
    exact = cast(model, "float64")
    with progress(2 + 2 * SAMPLES, "runs"), np.errstate(all="ignore"):
        start = right_pixels(exact, inputs, found, pixels_dtype)
        truth = run(exact, inputs, start)
        shapes = {
            name: without_axes_of_one(found[name], truth[name].shape).shape for name in truth if name in found
        }
        found, layouts = arrange({name: found[name] for name in shapes}, truth)
        given = {name: x for name, x in found.items() if x.shape == truth[name].shape}
        local = run(exact, inputs, given)
        noise = rounding_errors(model, dtype, inputs, start, truth)
        local_noise = rounding_errors(model, dtype, inputs, given, local)
    if "pixels" in found:
        noise["pixels"] = local_noise["pixels"] = max(noise["pixels"], EPSILON[pixels_dtype])
    sources = {name: sources_of(name, names, model.config) for name in names}
    known = given.keys() | inputs.keys()
    rows: dict[str, Row] = {}
    for name, x in found.items():
        lost = any(
            source in rows for source in behind(name, sources, known)
        )  # that are there, but of another shape
        caused = any(rows[source].status == "wrong" for source in behind(name, sources, set()) & rows.keys())
        if layouts[name]:
            rows[name] = Row(
                name,
                shapes[name],
                truth[name].shape,
                NOT_COMPARABLE,
                FACTOR * noise[name],
                np.inf,
                FACTOR * local_noise[name],
                "wrong",
                layouts[name],
            )
        else:
            rows[name] = judge(
                name,
                x,
                truth[name],
                noise[name],
                local[name],
                local_noise[name],
                EPSILON[dtype],
                lost,
                caused,
            )
    report = Report(dtype, list(rows.values()), [], not_finite=first_not_finite(found, truth, model.config))
    if all(row.status != "wrong" for row in rows.values()):
        return report, None
    return report, Search(exact, inputs, local | given, set(given), found, rows, sources, dtype)


def diagnosed(
    report: Report,
    search: Search,
    judged_by: Callable[[str], tuple[Report, Search | None]],
    by_coarser: bool = True,
) -> Report:
    """The report with its faults; or, where the numbers are those of a coarser dtype, with the report by that one."""
    first = suspected(search)[0]
    row = search.rows[first]
    plain = [
        Fault(
            row,
            nearest_known(first, search.sources, search.given | search.inputs.keys()),
            **worst(search, first),
        )
    ]
    if by_coarser and (coarser := held_by_coarser(report, search, judged_by)):
        return replace(report, faults=coarser.faults or plain, all_found=coarser.all_found, coarser=coarser)
    if not row.layout and search.search(first, TOGETHER) is None:
        if by_coarser and (coarser := like_rounding_in_coarser(report, judged_by)):
            return replace(
                report, faults=coarser.faults or plain, all_found=coarser.all_found, coarser=coarser
            )
        if of_other_weights(search):
            return replace(report, faults=[replace(plain[0], mistake=OTHER_WEIGHTS)])
    faults, all_found = find_faults(search)
    return replace(report, faults=faults, all_found=all_found)


def held_by_coarser(
    report: Report, search: Search, judged_by: Callable[[str], tuple[Report, Search | None]]
) -> Report | None:
    """The report by the coarsest dtype in which every number of the trace can be held: then it was computed in that one."""
    computed = [x for name, x in search.found.items() if name != "pixels"]
    held = [
        dtype for dtype in coarser_than(report.dtype) if computed and all(is_held(x, dtype) for x in computed)
    ]
    return with_faults(*judged_by(held[-1]), judged_by) if held else None


def with_faults(
    report: Report, search: Search | None, judged_by: Callable[[str], tuple[Report, Search | None]]
) -> Report:
    """A report by a coarser dtype with the faults that this one does not explain."""
    return diagnosed(report, search, judged_by, by_coarser=False) if search else report


def like_rounding_in_coarser(
    report: Report, judged_by: Callable[[str], tuple[Report, Search | None]]
) -> Report | None:
    """The report by a coarser dtype, if nearly all errors are as large as rounding in it makes them, neither more nor less.

    Of several such dtypes, the finest by which nothing is wrong, or else the finest, with its faults.
    """
    alike = []
    for dtype in coarser_than(report.dtype):
        ratio = 4 * EPSILON[dtype] / EPSILON[report.dtype]
        if np.mean([row.by_itself <= ratio * row.allowed_by_itself for row in report.rows]) >= MOSTLY:
            coarser, search = judged_by(dtype)
            errors = np.array(
                [row.by_itself / row.allowed_by_itself for row in coarser.rows if row.name not in COPIES]
            )
            if errors.size and np.mean((errors > LIKE_ROUNDING / FACTOR) & (errors <= 1)) >= MOSTLY:
                if search is None:
                    return coarser
                alike.append((coarser, search))
    return with_faults(*alike[0], judged_by) if alike else None


def arrange(found: Arrays, truth: Arrays) -> tuple[Arrays, dict[str, str]]:
    """The tensors in float64, with their axes as in a trace; and their own axes where these are others."""
    pairs = {name: arranged(name, x, truth[name]) for name, x in found.items()}
    return (
        {name: x.astype(np.float64) for name, (x, _) in pairs.items()},
        {name: layout for name, (_, layout) in pairs.items()},
    )


def first_not_finite(found: Arrays, truth: Arrays, config: Config) -> tuple[str, dict[str, int]] | None:
    """The name and the place of the first NaN or infinity where a finite number belongs."""
    for name, x in found.items():
        if (
            x.shape == truth[name].shape
            and (wrong := np.argwhere(~np.isfinite(x) & np.isfinite(truth[name]))).size
        ):
            return name, place(name, tuple(wrong[0]), config)
    return None


def nearest_names(unknown: list[str], missing: list[str], names: list[str]) -> dict[str, str]:
    """Unknown name -> the most similar name of a trace, where there is a similar one; first among those that are missing."""
    similar = {
        name: (get_close_matches(name, missing, 1) or get_close_matches(name, names, 1)) for name in unknown
    }
    return {name: matches[0] for name, matches in similar.items() if matches}


def sort(
    tensors: Mapping[str, np.ndarray], stored: Mapping[str, str], names: list[str]
) -> tuple[Arrays, Arrays, list[str]]:
    """The inputs of a trace; what is to be compared, pixels too where there are frames; and other names.

    Raises ValueError if there is nothing to compare, or no input for it, or if it is not floating point.
    """
    unknown = [name for name in stored if name not in names]
    inputs = {
        name: without_first_axes(tensors[name], axes) for name, axes in INPUTS.items() if name in tensors
    }
    if "frames" in inputs:
        inputs.pop("pixels", None)
    found = {name: x for name, x in tensors.items() if name not in inputs and name not in unknown}
    if not found:
        nearest = nearest_names(unknown, [], names)
        there = ", ".join(
            printable(name) + (f" ({nearest[name]}?)" if name in nearest else "") for name in list(stored)[:8]
        )
        raise ValueError(
            f"nothing to compare {f'among {there}' if there else 'in it'}: give the inputs, and tensors under "
            "the names that minivideococa trace writes"
        )
    for name in found.keys() | inputs.keys() & {"pixels"}:
        if stored[name] not in EPSILON:
            raise ValueError(
                f"{name} is {stored[name]}: give floating point: float64, float32, float16 or bfloat16"
            )
    if "pixels" in inputs and not np.isfinite(inputs["pixels"]).all():
        raise ValueError("pixels, which all else is computed from, are not finite: look at what makes them")
    for name in found:
        if not name.startswith(("text.", "decoder.block.0.self")) and not inputs.keys() & {
            "frames",
            "pixels",
        }:
            raise ValueError(
                f"{name} depends on the video: put the frames or pixels beside it that it was computed from"
            )
        if name.startswith(("text.", "decoder.", "logits")) and "ids" not in inputs:
            raise ValueError(f"{name} depends on the text: put the ids beside it that it was computed from")
    check_axes_of_inputs(inputs, found)
    return inputs, found, unknown


def check_axes_of_inputs(inputs: Arrays, found: Arrays) -> None:
    """Raise ValueError, which names what is unusual, for inputs of another layout than a trace's."""
    for name in inputs.keys() & {"frames", "pixels"}:
        x = inputs[name]
        if x.ndim == 5:
            raise ValueError(
                f"{name} are {list(x.shape)}: a batch axis of {len(x)}; a trace is of one video: write one of them"
            )
        if name == "pixels" and x.ndim == 4 and x.shape[1] != 3 and 3 in x.shape:
            order = (
                "channels last"
                if x.shape[3] == 3
                else "channels first"
                if x.shape[0] == 3
                else "channels in the middle"
            )
            raise ValueError(f"pixels are {list(x.shape)}: {order}; transpose them to [T, 3, S, S]")
    if "ids" in inputs:
        ids = inputs["ids"]
        if ids.dtype.kind == "f" and np.array_equal(ids, np.round(ids)):
            raise ValueError(f"ids are {ids.dtype}, though whole numbers: write them as int64")
        texts = [x for name, x in found.items() if name.startswith("text.")]
        if (
            ids.ndim == 2
            and ids.shape[1] == 1 < len(ids)
            and any(x.shape[:1] != ids.shape[:1] for x in texts)
        ):
            raise ValueError(
                f"ids are {list(ids.shape)}: sequence first; write one text as [L], several as [B, L]"
            )


def run(model: VideoCoCa, inputs: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> Arrays:
    """Every intermediate that the model makes of these inputs, going on from the tensors given.

    A trace that gives has all frames computed in one piece, so that nothing that is found depends on the number of threads.
    """
    with trace(given) as tape:
        pixels = model.preprocess(inputs["frames"]) if "frames" in inputs else inputs.get("pixels")
        caption_tokens = no_video(model) if pixels is None else model.encode_video(pixels).tokens
        if "ids" in inputs:
            model.decode(caption_tokens, np.atleast_2d(inputs["ids"]))
    advance()
    return tape


def no_video(model: VideoCoCa) -> np.ndarray:
    """Caption tokens [1, E] for a trace without a video, where nothing that depends on it is asked for."""
    return np.zeros((1, model.config.embed_dim))


def right_pixels(exact: VideoCoCa, inputs: Arrays, found: Arrays, dtype: str) -> Arrays:
    """The trace's own pixels, if they are right: they need not be ours to the bit, so the truth follows from them."""
    if "pixels" not in found:
        return {}
    with trace():  # whose tape is nobody's
        ours = exact.preprocess(inputs["frames"])
    theirs = arranged("pixels", found["pixels"], ours)[0].astype(np.float64)
    return {"pixels": theirs} if difference(theirs, ours).rel <= FACTOR * EPSILON[dtype] else {}


def rounding_errors(
    model: VideoCoCa, dtype: str, inputs: Arrays, given: Arrays, exact: Arrays
) -> dict[str, float]:
    """How far rounding to this dtype moves each tensor: the largest `Difference.rel` from the exact run in some samples.

    float64's errors are float32's, made smaller by the ratio of the two: our own float64 is the truth.
    """
    run_in = "float32" if dtype == "float64" else dtype
    rough, scale = cast(model, run_in), EPSILON[dtype] / EPSILON[run_in]
    errors = {name: EPSILON[dtype] for name in exact if name not in ("frames", "ids")}
    for sample in range(SAMPLES):
        with rounding(run_in, sample):
            tape = run(rough, inputs, {name: x.astype(np.float32) for name, x in given.items()})
        for name in errors:
            errors[name] = max(errors[name], scale * difference(tape[name], exact[name]).rel)
    return errors


def judge(
    name: str,
    x: np.ndarray,
    truth: np.ndarray,
    noise: float,
    local: np.ndarray,
    local_noise: float,
    epsilon: float,
    lost: bool,
    caused: bool,
) -> Row:
    """The row of a tensor. truth, local: what follows from the inputs, and from the trace's own tensors.

    lost: whether one of those could not be gone on from. caused: whether something that it depends on is wrong.
    """
    found, by_itself = difference(x, truth), difference(x, local).rel
    if by_itself > FACTOR * local_noise:
        status = "inherited" if lost else "wrong"
    elif not np.isfinite(local_noise) and by_itself > FACTOR * epsilon:
        status = "not judged"
    elif found.rel > FACTOR * noise and caused:
        status = "inherited"
    else:
        status = "ok"
    return Row(name, x.shape, truth.shape, found, FACTOR * noise, by_itself, FACTOR * local_noise, status)
