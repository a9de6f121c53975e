"""What is wrong in a port: known mistakes, one after another, each allowed for before the next is looked for.

A tensor is computed again, from the port's own tensors before it, with one operation or parameter of our forward pass
replaced. A mistake explains the tensor if no more than rounding remains. What is found is allowed for in all that
follows, where it helps. Where one mistake does not do, up to three together are tried, by a beam search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from ..model.hooks import trace
from ..model.videococa import VideoCoCa
from ..progress import advance, progress
from .mistakes import AXES_TRANSPOSED, BATCH_AXIS, MISTAKES, Change
from .path import behind, nearest_known, place
from .precision import EPSILON, FACTOR, SAMPLES, cast, rounding
from .rows import Fault, Row, difference
from .substitution import substituted

Arrays = dict[str, np.ndarray]

MOST = 8  # faults that are looked for
TOGETHER = 3  # mistakes in one tensor
BEAM = 6  # combinations that the search goes on from
HELPS, FEW = 0.95, 20  # one of several mistakes lowers the error to this part, or few are possible
NEAR = 20  # times what rounding explains: then the rounding with a mistake is computed
STEPS = 4  # tensors from one in the trace to the next, where combinations are tried
PARAMETERS = (
    "vision.",
    "pool.attended",
    "pool.latent",
    "text.embed",
    "text.block",
    "text.latent",
    "decoder.",
    "logits",
)


CATALOGUE = [(mistake, change) for mistake in MISTAKES for change in mistake.changes]
Causes = tuple[int, ...]  # some of them at once, by their places in the catalogue


@dataclass
class Search:
    """The port's tensors, and what the model computes from them with some of the known mistakes in it.

    tensors: all of a run that went on from the port's own; those of `given` are the port's. found: the port's tensors.
    rows, sources: by name. dtype: that rounding is judged by. explained: what is found so far, name -> the mistakes that
    explain it.
    """

    exact: VideoCoCa
    inputs: Arrays
    tensors: Arrays
    given: set[str]
    found: Arrays
    rows: dict[str, Row]
    sources: dict[str, list[str]]
    dtype: str
    explained: dict[str, Causes] = field(default_factory=dict)
    errors: dict[tuple[str, Causes], float] = field(default_factory=dict)  # that were computed before

    def error(self, name: str, causes: Causes) -> float:
        """How far the port's tensor is from ours with these mistakes; infinitely, where shapes do not let them happen."""
        if (name, causes) not in self.errors:
            try:
                self.errors[name, causes] = difference(self.found[name], self.computed(name, causes)).rel
            except (ValueError, IndexError):
                self.errors[name, causes] = np.inf
        return self.errors[name, causes]

    def explains(self, name: str, causes: Causes, before: float) -> bool:
        """Whether no more than rounding remains of a tensor's error `before`.

        What a mistake makes of the numbers may round more than the right ones; where it leaves next to nothing, that counts.
        """
        row, error = self.rows[name], self.error(name, causes)
        near = causes and error <= min(NEAR * row.allowed_by_itself, before / 20)
        return (
            error <= row.allowed_by_itself
            or bool(near)
            and error <= FACTOR * self.rounding_error(name, causes)
        )

    def rounding_error(self, name: str, causes: Causes) -> float:
        """How far rounding moves a tensor if it is computed with these mistakes."""
        run_in = "float32" if self.dtype == "float64" else self.dtype
        rough, ours, errors = cast(self.exact, run_in), self.computed(name, causes), [0.0]
        tensors = {key: x.astype(np.float32) if x.dtype.kind == "f" else x for key, x in self.tensors.items()}
        for sample in range(SAMPLES):
            with rounding(run_in, sample):
                errors.append(
                    difference(self.computed(name, causes, rough, tensors).astype(np.float64), ours).rel
                )
        return max(errors) * EPSILON[self.dtype] / EPSILON[run_in] if max(errors) < np.inf else 0.0

    def steps(self, name: str) -> int:
        """How many tensors are computed from the port's own to get to this one, itself included."""
        return len(behind(name, self.sources, self.given | self.inputs.keys())) + 1

    def computed(
        self, name: str, causes: Causes, model: VideoCoCa | None = None, tensors: Arrays | None = None
    ) -> np.ndarray:
        """A tensor as the model computes it from the port's last tensors before it, with these mistakes."""
        needed = behind(name, self.sources, self.given | self.inputs.keys()) | {name}
        return rerun(
            model or self.exact,
            [CATALOGUE[cause][1] for cause in causes],
            self.inputs,
            tensors or self.tensors,
            needed,
            name,
        )

    def lost(self, name: str) -> bool:
        """Whether a tensor that this one is computed from is in the trace, but cannot be gone on from."""
        return bool(behind(name, self.sources, self.given | self.inputs.keys()) & self.rows.keys())

    def known(self) -> list[int]:
        """The mistakes found so far."""
        return sorted({cause for causes in self.explained.values() for cause in causes})

    def with_known(self, name: str) -> Iterator[Causes]:
        """All combinations of the known mistakes that change a tensor, small ones first."""
        plain = self.error(name, ())
        known = [cause for cause in self.known() if self.error(name, (cause,)) != plain]
        return (causes for n in range(len(known) + 1) for causes in combinations(known, n))

    def settle(self, name: str) -> Causes | None:
        """The fewest known mistakes that explain a tensor; None if they do not."""
        before = self.error(name, ())
        return next((causes for causes in self.with_known(name) if self.explains(name, causes, before)), None)

    def search(self, name: str, most: int) -> Causes | None:
        """Up to `most` further mistakes that explain a tensor, with those known ones that help, or with all; else None."""
        *_, whole = combinations_of_known = list(self.with_known(name))
        base = min(combinations_of_known, key=lambda causes: self.error(name, causes))
        before = self.error(name, base)
        beam, candidates = list({(), base, whole}), list(range(len(CATALOGUE)))
        for added in range(1, most + 1):
            errors: dict[Causes, float] = {}
            with progress(len(beam) * len(candidates), "known mistakes"):
                for causes in beam:
                    for cause in candidates:
                        advance()
                        combined = tuple(sorted((*causes, cause)))
                        if combined not in errors and all(
                            CATALOGUE[other][0] is not CATALOGUE[cause][0] for other in causes
                        ):
                            errors[combined] = self.error(name, combined)
            if not errors:
                return None
            best = min(errors, key=errors.__getitem__)
            if errors[best] <= before / 2**added and self.explains(name, best, before):
                return best
            if added == 1 and before < np.inf:  # what changes nothing now will not help later
                candidates = [
                    cause
                    for cause in candidates
                    if errors.get(tuple(sorted((*whole, cause)))) not in (None, self.error(name, whole))
                ]
                errors = {
                    causes: error
                    for causes, error in errors.items()
                    if not set(causes).isdisjoint(candidates)
                }
            if (
                not errors
                or self.steps(name) > STEPS
                or min(errors.values()) > HELPS * before
                and len(candidates) > FEW
            ):
                return None
            width = FEW if len(candidates) <= FEW else BEAM
            beam = [
                causes for causes in sorted(errors, key=errors.__getitem__)[:width] if errors[causes] < np.inf
            ]
        return None

    def go_on_from(self, name: str) -> None:
        """Compute what follows from the port's tensor, which is explained now, also if its shape is another one."""
        if name not in self.given:
            self.given.add(name)
            self.tensors[name] = self.found[name]
            self.errors.clear()


def find_faults(search: Search) -> tuple[list[Fault], bool]:
    """The faults in path order, and whether these are all: no more than `MOST` are looked for."""
    suspects = suspected(search)
    unexplained: list[str] = []
    like: dict[str, list[str]] = {}  # unexplained name -> others of its kind, unexplained too
    failed: set[tuple[str, int]] = set()

    def faults_so_far() -> int:
        return len({CATALOGUE[cause][0].name for cause in search.known()}) + len(unexplained)

    while True:
        for name in suspects:
            if (
                name not in search.explained
                and not search.lost(name)
                and (causes := search.settle(name)) is not None
            ):
                search.explained[name] = causes
                search.go_on_from(name)
        settled = {*search.explained, *unexplained, *(name for names in like.values() for name in names)}
        open_names = [name for name in suspects if name not in settled and not search.lost(name)]
        if not open_names or faults_so_far() >= MOST:
            break
        causes, name = None, open_names[0]
        for name in first_of_each_kind(open_names):
            if (name, len(search.known())) not in failed:
                causes = search.search(name, 1)
                if causes:
                    break
                failed.add((name, len(search.known())))
        if not causes:
            name = open_names[0]
            causes = search.search(name, TOGETHER) if kind(name) not in map(kind, unexplained) else None
        if causes:
            search.explained[name] = causes
            search.go_on_from(name)
            unexplained, like = [], {}  # with this one known the others may be explained
            continue
        first = next((other for other in unexplained if kind(other) == kind(name)), None)
        if first is None:
            unexplained.append(name)
            like[name] = []
        else:  # two of a kind, unexplained: the rest is not searched for
            like[first] += [other for other in open_names if kind(other) == kind(name)]
    return listed(search, suspects, unexplained, like), not open_names


def suspected(search: Search) -> list[str]:
    """The tensors that err by themselves, in path order.

    Not one that agrees with the truth although a tensor before it is wrong: then that one is not what it was computed from.
    """
    wrong = {name for name, row in search.rows.items() if row.status == "wrong"}

    def off(name: str, row: Row) -> bool:
        return row.difference.rel > row.allowed or not behind(name, search.sources, set()) & wrong

    return [
        name
        for name, row in search.rows.items()
        if row.by_itself > row.allowed_by_itself
        and row.status != "not judged"
        and (row.layout or off(name, row))
    ]


def first_of_each_kind(names: list[str]) -> list[str]:
    """Of blocks of the same kind only the first."""
    return list({kind(name): name for name in reversed(names)}.values())[::-1]


def kind(name: str) -> str:
    """A name without its block's number."""
    return re.sub(r"\d+", "*", name)


def listed(
    search: Search, suspects: list[str], unexplained: list[str], like: dict[str, list[str]]
) -> list[Fault]:
    """Return the faults, each where it first shows; several new ones in one tensor follow each other, the largest first."""
    faults: list[Fault] = []
    for name in suspects:
        row = search.rows[name]
        source = nearest_known(name, search.sources, search.given | search.inputs.keys())
        if row.layout:
            mistake = BATCH_AXIS if np.prod(row.shape) > np.prod(row.expected_shape) else AXES_TRANSPOSED
            causes = [(mistake, search.error(name, ()))]
        else:
            causes = []
        before = {fault.mistake.name for fault in faults if fault.mistake}
        rest = list(search.explained.get(name, ()))
        allowed_for: Causes = tuple(cause for cause in rest if CATALOGUE[cause][0].name in before)
        causes += [(CATALOGUE[cause][0], search.error(name, allowed_for)) for cause in allowed_for]
        rest = [cause for cause in rest if cause not in allowed_for]
        while rest:
            errors = [search.error(name, tuple(sorted((*allowed_for, cause)))) for cause in rest]
            cause = rest.pop(int(np.argmin(errors)))
            allowed_for = tuple(sorted((*allowed_for, cause)))
            causes.append((CATALOGUE[cause][0], min(errors)))
        for mistake, remaining in causes:
            i = next((i for i, fault in enumerate(faults) if fault.mistake is mistake), None)
            if i is None:
                faults.append(Fault(row, source, mistake, remaining, **worst(search, name)))
            else:
                faults[i] = replace(faults[i], also=(*faults[i].also, name))
        if name in unexplained or name == suspects[0] and not causes:
            faults.append(Fault(row, source, also=tuple(like.get(name, ())), **worst(search, name)))
    return faults


def worst(search: Search, name: str) -> dict[str, Any]:
    """Where a tensor is furthest from what it should be, as fields of a `Fault`; nothing if its shape is another one."""
    x, expected = search.found[name], search.computed(name, ())
    if x.shape != expected.shape or search.rows[name].layout:
        return {}
    d = np.abs(np.where(x == expected, 0, x - expected))
    index = np.unravel_index(np.argmax(np.where(np.isnan(d), np.inf, d)), d.shape)
    return {
        "worst": place(name, index, search.exact.config),
        "found": float(x[index]),
        "expected": float(expected[index]),
    }


def of_other_weights(search: Search) -> bool:
    """Whether the port's weights seem to be other ones, so that no block is to blame.

    Every tensor with parameters of its own errs by itself, three kinds of them at least; and either the text's embedding
    does, which is a sum of looked-up rows, or most are as far off as unrelated weights bring them.
    """
    rows = [
        row for name, row in search.rows.items() if name.startswith(PARAMETERS) and row.status != "not judged"
    ]
    if len({kind(row.name) for row in rows}) < 3 or any(row.status != "wrong" or row.layout for row in rows):
        return False
    for row in rows:
        if row.name == "text.embed":
            return row.by_itself > EPSILON["bfloat16"] and search.search("text.embed", 1) is None
    effects = [effect(search, row.name) for row in rows]
    return bool(np.min(effects) > 0.3 and np.median(effects) > 0.7)


def effect(search: Search, name: str) -> float:
    """A tensor's error in units of what its parameters add to the tensor that it is computed from."""
    x, ours = search.found[name], search.computed(name, ())
    before = search.tensors.get(nearest_known(name, search.sources, search.given | search.inputs.keys()))
    added = ours - before if before is not None and before.shape == ours.shape else ours
    return float(np.linalg.norm(x - ours) / (np.linalg.norm(added) or 1))


class _Reached(Exception):
    """The tensor that is asked for has been computed."""


def rerun(
    model: VideoCoCa, changes: list[Change], inputs: Arrays, known: Arrays, needed: set[str], last: str
) -> np.ndarray:
    """The tensor `last`, computed with changes in the forward pass from those tensors that are not `needed` in between.

    known: the tensors to go on from, and, where something is computed that nobody needs, any tensor of that name.
    """
    for change in changes:
        model = change.of(model)
    stages = {name.partition(".")[0] for name in needed}
    own = {id(p) for name, p in blocks(model).items() if name in needed}
    pinned = {name: x for name, x in known.items() if name not in needed}

    def only_needed(block):
        return lambda x, p, *rest, **more: block(x, p, *rest, **more) if id(p) in own else x

    def only_looked_at(look_at):
        return lambda context, p, heads: look_at(context, p, heads) if id(p) in own else (context, context)

    def until_last(record):
        def recorded(name, x):
            x = record(name, x)
            if name == last:
                raise _Reached
            return x

        return recorded

    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(substituted(change.operations))
        stack.enter_context(
            substituted(
                {"residual_block": only_needed, "decoder.look_at": only_looked_at, "record": until_last}
            )
        )
        tape = stack.enter_context(trace(pinned))
        try:
            tokens = known.get(f"vision.block.{model.config.vision.layers - 1}")
            if stages & {"pixels", "vision"}:
                tokens = model.encode_frames(
                    model.preprocess(inputs["frames"]) if "pixels" in needed else known["pixels"]
                )
            caption_tokens = known.get("pool.tokens", np.zeros((1, model.config.embed_dim)))
            if "pool" in stages:
                caption_tokens = model.pool(tokens).tokens
            if "text" in stages:
                model.encode_text(np.atleast_2d(inputs["ids"]))
            if stages & {"decoder", "logits"}:
                model.decode(caption_tokens, np.atleast_2d(inputs["ids"]))
        except _Reached:
            pass
    return tape[last]


def blocks(model: VideoCoCa) -> Arrays:
    """The parameters of each residual block under the name of what it makes."""
    vision, text, decoder = model.params["visual"], model.params["text"], model.params["text_decoder"]
    return (
        {f"vision.block.{i}": p for i, p in enumerate(vision["transformer"]["resblocks"])}
        | {f"text.block.{i}": p for i, p in enumerate(text["transformer"]["resblocks"])}
        | {f"decoder.block.{i}.self": p for i, p in enumerate(decoder["resblocks"])}
        | {f"decoder.block.{i}.cross": p for i, p in enumerate(decoder["cross_attn"])}
    )
