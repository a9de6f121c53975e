"""The search for the known mistakes that explain a tensor.

A tensor is recomputed from the trace's own tensors before it, with one or several known mistakes in our
forward pass. They explain the tensor if no more than rounding is left of its error. Combinations of up to
three are tried, by beam search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ..model.config import Array
from ..model.videococa import VideoCoCa
from ..progress import Progress
from .mistakes import MISTAKES, Mistake
from .names import Arrays, upstream
from .precision import EPSILON, FACTOR, SAMPLES, cast, narrow, perturbed, rounded_in, rounding
from .recompute import affects, parameter_names, recompute
from .report import Row, relative_error

MAX_TOGETHER = 3  # mistakes in one tensor
BEAM_WIDTH = 6  # combinations that the next step extends
FEW = 20  # candidates: of up to this many, combinations are always tried, and the beam is as wide
HELPS = 0.95  # with more candidates, the best one must lower the error to this part of it
MAX_STEPS = 4  # activations from one tensor of the trace to the next: beyond, combinations are not tried
NEAR_ROUNDING = 20  # times the allowed error: up to there, the rounding error is measured with the mistakes

CATALOGUE = [(mistake, change) for mistake in MISTAKES for change in mistake.changes]
Causes = tuple[int, ...]  # a combination of mistakes, as indices into the catalogue


def mistake_of(cause: int) -> Mistake:
    """Return the mistake that a change of the catalogue belongs to."""
    return CATALOGUE[cause][0]


@dataclass
class Search:
    """A trace, and what the model computes from its tensors with some of the known mistakes.

    model: in float64. found: the trace's tensors. activations: all those of a run that continued from the
    trace's tensors; the names in `patched` are the trace's own. rows, sources: by name. dtype: whose rounding
    is allowed.
    stored: the whole trace, which may also hold what is inside a block.
    explained: the results so far, name -> the mistakes that explain it.
    """

    model: VideoCoCa
    inputs: Arrays
    found: Arrays
    activations: Arrays
    patched: set[str]
    rows: dict[str, Row]
    sources: dict[str, list[str]]
    dtype: str
    progress: Progress
    stored: Mapping[str, Array] = field(default_factory=dict)
    explained: dict[str, Causes] = field(default_factory=dict)
    _errors: dict[tuple[str, Causes], float] = field(default_factory=dict)
    _relevant: dict[str, tuple[list[str], set[int]]] = field(default_factory=dict)
    _rough: VideoCoCa | None = None

    @property
    def rough(self) -> VideoCoCa:
        """The model in the trace's precision."""
        self._rough = self._rough or cast(self.model, rounded_in(self.dtype))
        return self._rough

    @property
    def known(self) -> set[str]:
        """The names of the trace's tensors that the forward pass continues from, inputs included."""
        return self.patched | self.inputs.keys()

    def upstream(self, name: str) -> set[str]:
        """Return what is computed on the way from the trace's tensors to this one."""
        return upstream(name, self.sources, self.known)

    def unreachable(self, name: str) -> bool:
        """Return whether the tensor depends on one that the forward pass cannot continue from."""
        return bool(self.upstream(name) & self.rows.keys())

    def relevant(self, name: str) -> tuple[list[str], set[int]]:
        """Return the parameters that a tensor is computed with, and the changes that may affect it."""
        if name not in self._relevant:
            needed = self.upstream(name) | {name}
            parameters = parameter_names(self.model, needed)
            causes = {
                cause
                for cause, (_, change) in enumerate(CATALOGUE)
                if affects(change, self.model, needed, parameters)
            }
            self._relevant[name] = parameters, causes
        return self._relevant[name]

    def error(self, name: str, causes: Causes) -> float:
        """Return the local error with these mistakes in the reference; infinity if shapes forbid them."""
        causes = tuple(cause for cause in causes if cause in self.relevant(name)[1])
        if (name, causes) not in self._errors:
            try:
                error = relative_error(self.found[name], self.computed(name, causes))
            except (ValueError, IndexError):
                error = np.inf
            self._errors[name, causes] = error
        return self._errors[name, causes]

    def computed(self, name: str, causes: Causes = ()) -> Array:
        """Return the tensor as computed from the trace's tensors before it, with these mistakes."""
        return self._recompute(self.model, name, causes)

    def _recompute(self, model: VideoCoCa, name: str, causes: Causes, sample: int | None = None) -> Array:
        """Return the tensor by this model; with a `sample`, in single precision and perturbed by rounding."""
        needed, known, patch = self.upstream(name) | {name}, self.activations, None
        if name != "pixels" and self.relevant("pixels")[1].isdisjoint(causes):
            needed.discard("pixels")  # need not be computed from the frames again
        changes = [CATALOGUE[cause][1] for cause in causes]
        for change in changes:
            model = change.apply(model, self.relevant(name)[0])
        if sample is not None:
            dtype = rounded_in(self.dtype)
            known = {key: x.astype(np.float32) if x.dtype.kind == "f" else x for key, x in known.items()}
            patched = {key: x for key, x in known.items() if key not in needed}
            patch = perturbed(self.sources, patched, dtype, sample)
        ids, pad_id = self.inputs.get("ids"), model.config.text.pad_id
        operations = [change.replacements(ids, pad_id) for change in changes]
        adapter = next((change.adapter for change in changes if change.adapter), None)
        with np.errstate(all="ignore"):  # a wrong operation may overflow
            x = recompute(model, operations, self.inputs, known, needed, name, patch, adapter)
            for change in changes:
                if name in change.outputs:
                    x = change.outputs[name](x)
        return x

    def rounding_error(self, name: str, causes: Causes) -> float:
        """Return the error that rounding causes in a tensor that is computed with these mistakes."""
        dtype = rounded_in(self.dtype)
        reference, errors = self.computed(name, causes), [0.0]
        for sample in range(SAMPLES):
            with rounding(dtype):
                x = narrow(self._recompute(self.rough, name, causes, sample), dtype)
            errors.append(relative_error(x.astype(np.float64), reference))
        return max(errors) * EPSILON[self.dtype] / EPSILON[dtype] if max(errors) < np.inf else 0.0

    def explains(self, name: str, causes: Causes, before: float) -> bool:
        """Return whether these mistakes leave no more than rounding of a tensor's error `before`.

        The wrong numbers may round more than the right ones. So where little is left, their own rounding
        error counts.
        """
        allowed, error = self.rows[name].local_allowed, self.error(name, causes)
        if error <= allowed:
            return True
        little_left = error <= min(NEAR_ROUNDING * allowed, before / 20)
        return bool(causes) and little_left and error <= FACTOR * self.rounding_error(name, causes)

    def known_causes(self) -> list[int]:
        """Return the mistakes found so far."""
        return sorted({cause for causes in self.explained.values() for cause in causes})

    def with_known(self, name: str) -> Iterator[Causes]:
        """Yield all combinations of those mistakes found so far that change a tensor, small ones first."""
        plain = self.error(name, ())
        known = [cause for cause in self.known_causes() if self.error(name, (cause,)) != plain]
        return (causes for n in range(len(known) + 1) for causes in combinations(known, n))

    def explain_by_known(self, name: str) -> Causes | None:
        """Return the fewest mistakes found so far that explain a tensor, or None."""
        before = self.error(name, ())
        return next((causes for causes in self.with_known(name) if self.explains(name, causes, before)), None)

    def search(self, name: str, most: int) -> Causes | None:
        """Return up to `most` further mistakes that, with those found so far, explain a tensor."""
        *_, all_known = known = list(self.with_known(name))
        base = min(known, key=lambda causes: self.error(name, causes))
        before = self.error(name, base)
        beam, candidates = list({(), base, all_known}), sorted(self.relevant(name)[1])
        for added in range(1, most + 1):
            errors = self._extended(name, beam, candidates)
            best = min(errors, key=errors.__getitem__, default=None)
            if best is None:
                return None
            enough = before / 2**added
            if errors[best] <= enough and self.explains(name, best, before):
                enough = max(errors[best], min(enough, self.rows[name].local_allowed))
                fitting = [causes for causes, error in errors.items() if error <= enough]
                return self._most_explained(name, fitting)
            if added == 1 and before < np.inf:
                candidates = self._effective(name, all_known, candidates, errors)
                errors = {causes: e for causes, e in errors.items() if not set(causes).isdisjoint(candidates)}
            few = len(candidates) <= FEW
            hopeless = not errors or (not few and min(errors.values()) > HELPS * before)
            if hopeless or len(self.upstream(name)) >= MAX_STEPS:
                return None
            ranked = sorted(errors, key=errors.__getitem__)[: FEW if few else BEAM_WIDTH]
            beam = [causes for causes in ranked if errors[causes] < np.inf]
        return None

    def _most_explained(self, name: str, fitting: list[Causes]) -> Causes:
        """Return the mistakes that explain most other tensors, of those that fit this one within rounding."""
        if len(fitting) == 1:
            return fitting[0]
        wrong = {other: row for other, row in self.rows.items() if row.status == "wrong"}

        def key(causes: Causes) -> tuple[int, float]:
            explained = sum(self.error(other, causes) <= row.local_allowed for other, row in wrong.items())
            return -explained, self.error(name, causes)

        return min(fitting, key=key)

    def _extended(self, name: str, beam: list[Causes], candidates: list[int]) -> dict[Causes, float]:
        """Return the errors of all combinations of the beam with one more mistake."""
        errors: dict[Causes, float] = {}
        with self.progress(len(beam) * len(candidates), "known mistakes") as update:
            for causes in beam:
                for cause in candidates:
                    update(1)
                    extended = tuple(sorted((*causes, cause)))
                    is_new = all(mistake_of(other) is not mistake_of(cause) for other in causes)
                    if is_new and extended not in errors:
                        errors[extended] = self.error(name, extended)
        return errors

    def _effective(
        self, name: str, known: Causes, candidates: Iterable[int], errors: dict[Causes, float]
    ) -> list[int]:
        """Return the candidates that change the error: the others will not help in a combination either."""
        unchanged = (None, self.error(name, known))
        return [cause for cause in candidates if errors.get(tuple(sorted((*known, cause)))) not in unchanged]

    def continue_from(self, name: str) -> None:
        """Continue from the trace's tensor, which is explained now, even if its shape is unexpected."""
        if name not in self.patched:
            self.patched.add(name)
            self.activations[name] = self.found[name]
            self._errors.clear()
            self._relevant.clear()
