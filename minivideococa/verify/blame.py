"""Which tensor of another implementation is wrong first, and why.

The truth is our float64 run on the very inputs. A wrong block makes all after it wrong, so the forward pass is run a
second time, and after each name it goes on from the other implementation's own tensor (`trace(given)`): what it then
computes is what each block should have made of the input that it really had. A block is accused only if it differs from
that. Both runs are made in the other implementation's precision too, to see what rounding can explain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..model import VideoCoCa
from ..progress import advance, progress
from ..trace import trace
from .mistakes import MISTAKES, Change, Mistake
from .precision import EPSILON, cast, coarsest, rounding
from .substitution import substituted

Arrays = dict[str, np.ndarray]

NAMES = re.compile(r"frames|pixels|vision\.embed|vision\.block\.\d+|pool\.(flat|attended|tokens|latent)|ids|"
                   r"text\.(embed|block\.\d+|tokens|latent)|decoder\.block\.\d+\.(self|cross)|logits")
SAMPLES = 3                                  # so often is the forward pass run to see what rounding does
FACTOR = 8                                   # up to so many times as much is called rounding


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
    status: "ok"; "wrong", where it errs by itself; "inherited", where it errs because of what came before it.
    """

    name: str
    shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    difference: Difference
    allowed: float
    by_itself: float
    allowed_by_itself: float
    status: str


@dataclass(frozen=True)
class Report:
    """What `verify` found, rows in path order."""

    dtype: str                               # the precision that rounding was judged by
    rows: list[Row]
    unknown: list[str]                       # what the trace holds under names that no trace has
    diverges: Row | None = None              # the first that errs by itself
    computed_from: str | None = None         # the name in the trace from which it was computed
    mistake: Mistake | None = None           # the known mistake that explains it
    remaining: float | None = None           # its error, `by_itself`, with that mistake


def verify(model: VideoCoCa, tensors: Mapping[str, np.ndarray], dtype: str | None = None) -> Report:
    """Compare a trace, name -> array, with what the model computes in float64 from the trace's own inputs.

    tensors: the inputs `frames` uint8 [T, H, W, 3] or `pixels` [T, 3, S, S], and `ids` [L] or [B, L], as far as the others
    depend on them, and any of the names of a trace, floating point; [1, ...] counts as [...]. dtype: what they were
    computed in ("float64", "float32", "float16", "bfloat16"); if not given, the coarsest of theirs.
    Nothing else may use a model in this process meanwhile. Raises ValueError if there is nothing to compare, or if an
    input is not there or not what it should be.
    """
    inputs, found, unknown = sort(tensors)
    if dtype not in (None, *EPSILON):
        raise ValueError(f"dtype is {dtype!r}: give {', '.join(EPSILON)}")
    dtype = coarsest([dtype or coarsest(str(x.dtype) for x in found.values()),
                      "float32" if "frames" in inputs and "pixels" not in found else "float64"])     # as pixels are
    exact = cast(model, "float64")
    with progress(2 + 2 * SAMPLES, "runs"), np.errstate(all="ignore"):
        start = right_pixels(exact, inputs, found, dtype)
        truth = run(exact, inputs, start)
        unknown += [name for name in found if name not in truth]
        found = {name: without_axes_of_one(found[name], x.shape).astype(np.float64)
                 for name, x in truth.items() if name in found}
        given = {name: x for name, x in found.items() if x.shape == truth[name].shape}
        local = run(exact, inputs, given)
        noise = rounding_errors(model, dtype, inputs, start, truth)
        local_noise = rounding_errors(model, dtype, inputs, given, local)
    rows: list[Row] = []
    for name, x in found.items():
        rows.append(judge(name, x, truth[name], noise[name], local[name], local_noise[name], rows))
    accused = next((row for row in rows if row.status == "wrong"), None)
    if accused is None:
        return Report(dtype, rows, unknown)
    way = way_to(accused.name, list(local), given.keys() | inputs.keys())
    mistake, remaining = diagnose(exact, inputs, local | given, way, found[accused.name], accused)
    return Report(dtype, rows, unknown, accused, way[0], mistake, remaining)


def sort(tensors: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays, list[str]]:
    """The inputs of a trace; what is to be compared, pixels too where there are frames; and other names.

    Raises ValueError if there is nothing to compare, or no input for it, or if it is not floating point.
    """
    unknown = [name for name in tensors if not NAMES.fullmatch(name)]
    inputs = {name: tensors[name] for name in ("frames", "pixels", "ids") if name in tensors}
    if "frames" in inputs:
        inputs.pop("pixels", None)
    found = {name: x for name, x in tensors.items() if name not in inputs and name not in unknown}
    if not found:
        raise ValueError(f"nothing to compare among {', '.join(map(str, list(tensors)[:8])) or 'no tensors'}: "
                         "give tensors under the names that minivideococa trace writes")
    for name, x in found.items():
        if str(x.dtype) not in EPSILON:
            raise ValueError(f"{name} is {x.dtype}: give float64, float32, float16 or bfloat16")
        if not name.startswith("text.") and not inputs.keys() & {"frames", "pixels"}:
            raise ValueError(f"{name} depends on the video: put the frames or pixels beside it that it was computed from")
        if name.startswith(("text.", "decoder.", "logits")) and "ids" not in inputs:
            raise ValueError(f"{name} depends on the text: put the ids beside it that it was computed from")
    return inputs, found, unknown


def run(model: VideoCoCa, inputs: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> Arrays:
    """Every intermediate that the model makes of these inputs, going on from the tensors given.

    All frames are computed in one piece, so that nothing that is found depends on the number of threads.
    """
    with trace(given) as tape, substituted({"spread": lambda spread: lambda function, x, piece: function(x)}):
        pixels = model.preprocess(inputs["frames"]) if "frames" in inputs else inputs.get("pixels")
        video = None if pixels is None else model.encode_video(pixels)
        if "ids" in inputs:
            ids = np.atleast_2d(inputs["ids"])
            model.decode(video.tokens, ids) if video else model.encode_text(ids)
    advance()
    return tape


def right_pixels(exact: VideoCoCa, inputs: Arrays, found: Arrays, dtype: str) -> Arrays:
    """The trace's own pixels, if they are right: they need not be ours to the bit, so the truth follows from them."""
    if "pixels" not in found:
        return {}
    ours = exact.preprocess(inputs["frames"])
    theirs = without_axes_of_one(found["pixels"], ours.shape)
    allowed = FACTOR * EPSILON[coarsest([dtype, "float32"])]
    theirs = theirs.astype(np.float64)
    return {"pixels": theirs} if difference(theirs, ours).rel <= allowed else {}


def rounding_errors(model: VideoCoCa, dtype: str, inputs: Arrays, given: Arrays, exact: Arrays) -> dict[str, float]:
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


def judge(name: str, x: np.ndarray, truth: np.ndarray, noise: float, local: np.ndarray, local_noise: float,
          before: list[Row]) -> Row:
    """The row of a tensor. truth, local: what follows from the inputs, and from the trace's own tensors."""
    if name == "pixels":                     # ours are float32 in every precision
        noise = local_noise = max(noise, EPSILON["float32"])
    found, by_itself, status = difference(x, truth), difference(x, local).rel, "ok"
    causes = [row for row in before if row.status == "wrong" and
              not (name.startswith("text.") and row.name.startswith(("pixels", "vision.", "pool.")))]
    if by_itself > FACTOR * local_noise:     # what had a wrong shape could not be gone on from
        status = "inherited" if any(row.shape != row.expected_shape for row in causes) else "wrong"
    elif found.rel > FACTOR * noise and causes:
        status = "inherited"
    return Row(name, x.shape, truth.shape, found, FACTOR * noise, by_itself, FACTOR * local_noise, status)


def difference(x: np.ndarray, truth: np.ndarray) -> Difference:
    """How far x is from the truth, both [..., n]; infinitely, if the shapes differ or a number is wrongly not finite."""
    if x.shape != truth.shape:
        return Difference(np.inf, np.inf, np.nan)
    with np.errstate(all="ignore"):
        d = np.where((x == truth) | np.isnan(x) & np.isnan(truth), 0, x - truth)
        d[np.isnan(d)] = np.inf
        rows = np.linalg.norm(d, axis=-1).max()
        typical = np.sqrt(np.mean(np.square(np.where(np.isfinite(truth), truth, 0)).sum(axis=-1)))
        cosine = np.vdot(x, truth) / (np.linalg.norm(x) * np.linalg.norm(truth))
    return Difference(float(abs(d).max()), float(rows / typical) if rows else 0.0, float(cosine))


def without_axes_of_one(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x [1, ..., *shape] as x [*shape]; anything else as it is."""
    return x.reshape(shape) if x.shape == (1,) * (x.ndim - len(shape)) + shape else x


def way_to(name: str, order: list[str], known: Iterable[str]) -> list[str]:
    """From the last known name that this one is computed from to itself: its error may come from all but the first.

    A name is computed from the one before it; but nothing follows from a latent, and nothing but logits from tokens.
    """
    at = order.index(name)
    aside = {"pool.latent", "text.latent", *({"pool.tokens", "text.tokens"} if name.endswith(".latent") else ())}
    start = max(i for i in range(at) if order[i] in known and order[i] not in aside)
    return order[start:at + 1]


def diagnose(exact: VideoCoCa, inputs: Arrays, known: Arrays, way: list[str], x: np.ndarray,
             accused: Row) -> tuple[Mistake | None, float | None]:
    """The known mistake with which the model computes x [...], and the error that remains; None if there is none."""
    best, least = None, min(accused.allowed_by_itself, accused.by_itself / 2)
    with progress(len(MISTAKES), "known mistakes"), np.errstate(all="ignore"):
        for mistake in MISTAKES:
            for change in mistake.changes:
                try:
                    remaining = difference(x, rerun(exact, change, inputs, known, way)).rel
                except (ValueError, IndexError):         # a mistake that shapes do not let happen here
                    continue
                if remaining <= least:
                    best, least = mistake, remaining
            advance()
    return best, least if best else None


def rerun(model: VideoCoCa, change: Change, inputs: Arrays, known: Arrays, way: list[str]) -> np.ndarray:
    """The last tensor on a way, computed from the first with a mistake in the forward pass; all others are `known`."""
    model = change.of(model)
    stages = {name.partition(".")[0] for name in way[1:]}
    needed = {id(p) for name, p in blocks(model).items() if name in way[1:]}

    def only_needed(block):
        return lambda x, p, *rest, **more: block(x, p, *rest, **more) if id(p) in needed else x

    pinned = {name: x for name, x in known.items() if name not in way[1:]}
    with substituted(change.operations), substituted({"residual_block": only_needed}), trace(pinned) as tape:
        tokens = known.get(f"vision.block.{model.config.vision.layers - 1}")
        if stages & {"pixels", "vision"}:
            tokens = model.encode_frames(model.preprocess(inputs["frames"]) if "frames" in inputs else inputs["pixels"])
        if "pool" in stages:
            model.pool(tokens)
        if "text" in stages:
            model.encode_text(np.atleast_2d(inputs["ids"]))
        if stages & {"decoder", "logits"}:
            model.decode(known["pool.tokens"], np.atleast_2d(inputs["ids"]))
    return tape[way[-1]]


def blocks(model: VideoCoCa) -> Arrays:
    """The parameters of each residual block under the name of what it makes."""
    vision, text, decoder = model.params["visual"], model.params["text"], model.params["text_decoder"]
    return ({f"vision.block.{i}": p for i, p in enumerate(vision["transformer"]["resblocks"])}
            | {f"text.block.{i}": p for i, p in enumerate(text["transformer"]["resblocks"])}
            | {f"decoder.block.{i}.self": p for i, p in enumerate(decoder["resblocks"])}
            | {f"decoder.block.{i}.cross": p for i, p in enumerate(decoder["cross_attn"])})
