"""A learner's function, called with arguments whose result is known, and compared with that result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from ..model.config import Array, describe
from .hints import HINTS
from .learner import Written
from .result import Verdict, Wrong

CLOSE = (
    1e-4  # relative to the largest number expected: float32's rounding is far smaller, a mistake far larger
)
SHOWN = 8  # numbers of a row

Mistakes = dict[str, Callable[[], Any]]  # name in HINTS -> what a function with the mistake returns


@dataclass(frozen=True)
class Case:
    """A call whose result is known.

    says: what is passed, in words. mistakes: the common ones; those that do not fit the shapes may raise
    ValueError or IndexError. failure: the name in HINTS of why a function may fail here, or return a wrong
    shape, that has got the cases before right; or "".
    """

    says: str
    args: tuple[Any, ...]
    expected: Array
    mistakes: Mistakes = field(default_factory=dict)
    failure: str = ""


def first_mistake(written: Written, cases: Sequence[Case]) -> Verdict | None:
    """Call a learner's function with the cases in order; return what is wrong in the first that is, or None.

    Raises Wrong if it fails there, or if its result has the wrong form, so that the model could not go on.
    """
    for case in cases:
        try:
            if verdict := compare(case, called(written, case.args, case.says)):
                return verdict
        except Wrong as wrong:
            raise Wrong(*wrong.lines, hint=HINTS.get(case.failure, wrong.hint)) from None
    return None


def called(written: Written, args: tuple[Any, ...], says: str) -> Any:
    """Call a learner's function with copies of arrays; `says` is what is passed, in words.

    Raises Wrong if it fails, and if it changes one of the arrays.
    """
    own = tuple(x if callable(x) else copy.deepcopy(x) for x in args)
    try:
        result = written(*own)
    except Wrong as wrong:
        raise Wrong(f"Given {says}:", *wrong.lines, hint=wrong.hint) from None
    for before, after in zip(args, own, strict=True):
        if isinstance(before, np.ndarray) and not np.array_equal(before, after):
            raise Wrong(
                f"Given {says}, it changes one of its arguments, which the caller still needs.",
                hint="+=, -=, *= and /= work in place: write x = x - y, or work on a copy",
            )
    return result


def compare(case: Case, result: Any) -> Verdict | None:
    """Return what is wrong with the result of a case, or None. Raises Wrong as `require_form`."""
    x = require_form(case, result)
    if is_close(x, case.expected):
        return None
    hint = recognized(x, case.mistakes)
    if not hint and not np.isfinite(x).all():
        hint = (
            "NaN or infinity: exp overflows unless the largest score of the row is subtracted first, and a "
            "row without any key to attend to has no softmax"
        )
    return Verdict(False, (f"Given {case.says}, the numbers differ.", *rows(x, case.expected)), hint)


def require_form(case: Case, result: Any) -> Array:
    """Return a result as an array of the expected shape. Raises Wrong, with a hint, for anything else."""
    says, expected = case.says, case.expected
    if result is None:
        raise Wrong(f"Given {says}, it returns None.", hint="does it end with a return?")
    try:
        x = np.asarray(result)
    except ValueError:
        x = np.asarray(None)
    if x.dtype.kind not in "biuf":
        raise Wrong(f"Given {says}, it returns {describe(result)}, not an array {list(expected.shape)}.")
    if x.shape != expected.shape:
        raise Wrong(
            f"Given {says}, the result has the wrong shape.",
            f"Expected:  {list(expected.shape)}",
            f"Came:      {list(x.shape)}",
            hint=recognized(x, case.mistakes) or shape_hint(x, expected),
        )
    return x


def is_close(x: Array, expected: Array) -> bool:
    """Return whether all numbers agree, up to rounding. Masks, which are bool, must agree exactly."""
    if expected.dtype == bool:
        return bool(np.array_equal(x, expected))
    largest = np.abs(expected).max(initial=0)
    return bool((np.abs(x - expected) <= CLOSE * largest).all())


def recognized(x: Array, mistakes: Mistakes) -> str:
    """Return the hint of the first mistake that gives exactly this result, or ""."""
    for name, wrong in mistakes.items():
        try:
            with np.errstate(all="ignore"):
                made = np.asarray(wrong())
        except (ValueError, IndexError):
            continue
        if made.shape == x.shape and np.allclose(x, made, CLOSE, CLOSE, equal_nan=True):
            return HINTS[name]
    return ""


def rows(x: Array, expected: Array) -> tuple[str, str]:
    """Return the row with the largest error as it was expected and as it came, each a line."""
    with np.errstate(all="ignore"):
        error = np.abs(x.astype(np.float64) - expected)
    flat = np.argmax(np.where(np.isnan(error), np.inf, error))
    *row, worst = map(int, np.unravel_index(flat, error.shape))
    start = max(0, min(worst - SHOWN // 2, x.shape[-1] - SHOWN))
    part: Any = (*row, slice(start, start + SHOWN))
    index = ", ".join([*map(str, row), ":" if x.shape[-1] <= SHOWN else f"{start}:{start + SHOWN}"])
    return f"Expected:  [{index}] is {numbers(expected[part])}", f"Came:      [{index}] is {numbers(x[part])}"


def numbers(x: Array) -> str:
    """Return a row of numbers, rounded, on one line."""
    text = np.array2string(x.astype(int) if x.dtype == bool else x, precision=3, suppress_small=True)
    return " ".join(text.split())


def shape_hint(x: Array, expected: Array) -> str:
    """Return what may explain an unexpected shape, or ""."""
    came, wanted = ([n for n in shape if n != 1] for shape in (x.shape, expected.shape))
    if x.ndim < expected.ndim and came == wanted:
        return "an axis of length 1 is missing: index with None, or use np.expand_dims"
    if x.size == expected.size:
        if is_close(x.reshape(expected.shape), expected):
            return "the values are right: only a reshape at the end is missing"
        for axes in permutations(range(x.ndim)) if x.ndim <= 5 else ():
            turned = x.transpose(axes)
            if turned.shape == expected.shape and is_close(turned, expected):
                return "the values are right: the axes are in another order, transpose them at the end"
    return ""
