"""Which tensor of another implementation is wrong first, and why.

The truth is our float64 run on the very inputs. A wrong block makes all after it wrong, so the forward pass is run a
second time, and after each name it goes on from the other implementation's own tensor (`trace(given)`): what it then
computes is what each block should have made of the input that it really had. A block is accused only if it differs from
that. Both runs are made in the other implementation's precision too, to see what rounding can explain.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from ..checkpoint.config import Config
from ..model import VideoCoCa
from ..progress import advance, progress
from ..trace import trace
from .mistakes import MISTAKES, Change, Mistake
from .precision import EPSILON, cast, coarsest, rounding
from .substitution import substituted

Arrays = dict[str, np.ndarray]

AXES = {"frames": 4, "pixels": 4, "ids": 2}  # of the inputs
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
    status: "ok"; "wrong", where it errs by itself; "inherited", where it errs because of what came before it; "not judged",
    where numbers of that size overflow the dtype, so that rounding in it would explain anything.
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


def verify(model: VideoCoCa, tensors: Mapping[str, np.ndarray], dtype: str | np.dtype | type | None = None) -> Report:
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


def compare(model: VideoCoCa, tensors: Mapping[str, np.ndarray], stored: Mapping[str, str],
            dtype: str | np.dtype | type | None = None) -> Report:
    """`verify` for arrays that were read from dtypes, `stored`, which need not be theirs: NumPy has no bfloat16."""
    if not isinstance(dtype, (str, type(None))):
        dtype = np.dtype(dtype).name
    if dtype not in (None, *EPSILON):
        raise ValueError(f"dtype is {dtype!r}: give {', '.join(EPSILON)}")
    names = names_of(model.config)
    inputs, found, unknown = sort(tensors, stored, names)
    if dtype is None:
        at_least = "float32" if "frames" in inputs and "pixels" not in found else "float64"
        dtype = coarsest([at_least, *([stored[name] for name in found if name != "pixels"] or [stored["pixels"]])])
    pixels_dtype = coarsest([dtype, "float32", stored["pixels"] if "pixels" in found else "float32"])
    exact = cast(model, "float64")
    with progress(2 + 2 * SAMPLES, "runs"), np.errstate(all="ignore"):
        start = right_pixels(exact, inputs, found, pixels_dtype)
        truth = run(exact, inputs, start)
        found = {name: without_axes_of_one(found[name], x.shape).astype(np.float64)
                 for name, x in truth.items() if name in found}
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
        lost = any(source in rows for source in behind(name, sources, known))    # that are there, but of another shape
        caused = any(rows[source].status == "wrong" for source in behind(name, sources, set()) & rows.keys())
        rows[name] = judge(name, x, truth[name], noise[name], local[name], local_noise[name], EPSILON[dtype], lost, caused)
    accused = next((row for row in rows.values() if row.status == "wrong"), None)
    if accused is None:
        return Report(dtype, list(rows.values()), unknown)
    way = way_to(accused.name, sources, known)
    mistake, remaining = diagnose(exact, inputs, local | given, way, found[accused.name], accused)
    return Report(dtype, list(rows.values()), unknown, accused, way[0], mistake, remaining)


def names_of(config: Config) -> list[str]:
    """The names that a trace of a model has, in path order."""
    return ["frames", "pixels", "vision.embed", *(f"vision.block.{i}" for i in range(config.vision.layers)),
            "pool.flat", "pool.attended", "pool.tokens", "pool.latent",
            "ids", "text.embed", *(f"text.block.{i}" for i in range(config.text.layers)), "text.tokens", "text.latent",
            *(f"decoder.block.{i}.{block}" for i in range(config.decoder.layers) for block in ("self", "cross")), "logits"]


def sort(tensors: Mapping[str, np.ndarray], stored: Mapping[str, str], names: Container[str]
         ) -> tuple[Arrays, Arrays, list[str]]:
    """The inputs of a trace; what is to be compared, pixels too where there are frames; and other names.

    Raises ValueError if there is nothing to compare, or no input for it, or if it is not floating point.
    """
    unknown = [name for name in stored if name not in names]
    inputs = {name: without_first_axes(tensors[name], axes) for name, axes in AXES.items() if name in tensors}
    if "frames" in inputs:
        inputs.pop("pixels", None)
    found = {name: x for name, x in tensors.items() if name not in inputs and name not in unknown}
    if not found:
        there = ", ".join(map(printable, list(stored)[:8]))
        raise ValueError(f"nothing to compare {f'among {there}' if there else 'in it'}: give the inputs, and tensors under "
                         "the names that minivideococa trace writes")
    for name in found.keys() | inputs.keys() & {"pixels"}:
        if stored[name] not in EPSILON:
            raise ValueError(f"{name} is {stored[name]}: give floating point: float64, float32, float16 or bfloat16")
    if "pixels" in inputs and not np.isfinite(inputs["pixels"]).all():
        raise ValueError("pixels, which all else is computed from, are not finite: look at what makes them")
    for name in found:
        if not name.startswith(("text.", "decoder.block.0.self")) and not inputs.keys() & {"frames", "pixels"}:
            raise ValueError(f"{name} depends on the video: put the frames or pixels beside it that it was computed from")
        if name.startswith(("text.", "decoder.", "logits")) and "ids" not in inputs:
            raise ValueError(f"{name} depends on the text: put the ids beside it that it was computed from")
    return inputs, found, unknown


def printable(name: str) -> str:
    """A name that somebody's file holds, in one line and without control characters."""
    return repr(name)[1:-1]


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
    with trace():                            # whose tape is nobody's
        ours = exact.preprocess(inputs["frames"])
    theirs = without_axes_of_one(found["pixels"], ours.shape).astype(np.float64)
    return {"pixels": theirs} if difference(theirs, ours).rel <= FACTOR * EPSILON[dtype] else {}


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


def judge(name: str, x: np.ndarray, truth: np.ndarray, noise: float, local: np.ndarray, local_noise: float, epsilon: float,
          lost: bool, caused: bool) -> Row:
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


def without_axes_of_one(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x [1, ..., *shape] as x [*shape]; anything else as it is."""
    return x.reshape(shape) if x.shape == (1,) * (x.ndim - len(shape)) + shape else x


def without_first_axes(x: np.ndarray, axes: int) -> np.ndarray:
    """x [1, ...] without those first axes of one that are more than `axes` in all."""
    while x.ndim > axes and len(x) == 1:
        x = x[0]
    return x


def sources_of(name: str, names: list[str], config: Config) -> list[str]:
    """What a tensor is computed from, by name: the one before it in path order, but for these. The first is the main one."""
    latent_from = "pool.flat" if config.vision.attentional_pool == "parallel" else "pool.attended"
    special = {"frames": [], "ids": [], "pool.latent": [latent_from], "text.embed": ["ids"],
               "text.latent": [f"text.block.{config.text.layers - 1}"], "decoder.block.0.self": ["text.tokens"]}
    if name in special:
        return special[name]
    before = names[names.index(name) - 1]
    return [before, "pool.tokens"] if name.endswith(".cross") else [before]


def behind(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> set[str]:
    """All that a tensor depends on; what stands behind a known one does not count, nor does that one."""
    found: set[str] = set()
    for source in sources[name]:
        if source not in known:
            found |= {source} | behind(source, sources, known)
    return found


def way_to(name: str, sources: Mapping[str, list[str]], known: Container[str]) -> list[str]:
    """From the last known name that this one is computed from to itself: its error may come from all but the first."""
    way = [sources[name][0], name]
    while way[0] not in known:
        way.insert(0, sources[way[0]][0])
    return way


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
            model.decode(known.get("pool.tokens", no_video(model)), np.atleast_2d(inputs["ids"]))
    return tape[way[-1]]


def blocks(model: VideoCoCa) -> Arrays:
    """The parameters of each residual block under the name of what it makes."""
    vision, text, decoder = model.params["visual"], model.params["text"], model.params["text_decoder"]
    return ({f"vision.block.{i}": p for i, p in enumerate(vision["transformer"]["resblocks"])}
            | {f"text.block.{i}": p for i, p in enumerate(text["transformer"]["resblocks"])}
            | {f"decoder.block.{i}.self": p for i, p in enumerate(decoder["resblocks"])}
            | {f"decoder.block.{i}.cross": p for i, p in enumerate(decoder["cross_attn"])})
