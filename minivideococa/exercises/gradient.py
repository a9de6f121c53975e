"""Exercise 8: the gradient of the pooler's attention, judged by differences."""

from __future__ import annotations

from functools import partial
from itertools import permutations
from math import sqrt

import numpy as np

from ..model.config import Array, describe
from ..model.hooks import trace
from ..model.ops import merge_heads, softmax, split_heads
from .comparison import Case, Mistakes, called, compare, is_close, require_form
from .forward import attend
from .hints import HINTS
from .learner import Written
from .result import Verdict, Wrong
from .running import RunningModel

NAMES = ("queries", "keys", "values")
STEP = 1e-5  # of the central differences: their error is about its square, 1e-10
Gradients = tuple[Array, ...]  # of queries [H, Q, D], keys [H, M, D] and values [H, M, D]


def pooler_gradient(written: Written, running: RunningModel) -> Verdict:
    """Check `pooler_gradient`: every number in a small case, then along directions in the model's pooler."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, n, 4)) for n in (3, 5, 5)]
    dpooled = rng.standard_normal((2, 3, 4))
    says = "2 heads, 3 queries and 5 keys of width 4"
    result = gradients_of(says, written, dpooled, arrays)
    measured = differences(dpooled, arrays)
    if verdict := first_difference(says, result, measured, gradient_mistakes(dpooled, arrays, measured)):
        return verdict
    return in_the_pooler(written, running)


def gradients_of(says: str, written: Written, dpooled: Array, arrays: list[Array]) -> Gradients:
    """Return a learner's gradients of queries, keys and values. Raises Wrong unless there are three."""
    result = called(written, (dpooled, *arrays), says)
    if result is None:
        raise Wrong(f"Given {says}, it returns None.", hint="does it end with a return?")
    if not isinstance(result, tuple | list) or len(result) != len(NAMES):
        raise Wrong(
            f"It returns {describe(result)}: return three arrays, the gradients of queries, keys and values."
        )
    return tuple(result)


def pool(queries: Array, keys: Array, values: Array) -> Array:
    """Return the package's softmax(queries keys^T / sqrt D) values, [H, Q, D]."""
    merged = attend(merge_heads(queries), merge_heads(keys), merge_heads(values), len(queries))
    return split_heads(merged, len(queries))


def differences(dpooled: Array, arrays: list[Array]) -> Gradients:
    """Measure the gradient of sum(dpooled * pooled): move each number up and down by `STEP`."""
    measured = tuple(np.zeros_like(x) for x in arrays)
    for x, gradient in zip(arrays, measured, strict=True):
        for index in np.ndindex(x.shape):
            for step in (STEP, -STEP):
                x[index] += step
                gradient[index] += (dpooled * pool(*arrays)).sum() / (2 * step)
                x[index] -= step
    return measured


def first_difference(
    says: str, result: Gradients, measured: Gradients, mistakes: list[Mistakes]
) -> Verdict | None:
    """Return what is wrong with the first gradient that is, or None. Raises Wrong as `require_form`."""
    for order in permutations(range(len(NAMES))):
        shuffled = [np.asarray(result[i]) for i in order]
        same = (
            x.shape == y.shape and x.dtype.kind == "f" and is_close(x, y)
            for x, y in zip(shuffled, measured, strict=True)
        )
        if order != (0, 1, 2) and all(same):
            came = ", ".join(NAMES[i] for i in np.argsort(order))
            return Verdict(
                False, (f"Given {says}, these are the gradients of {came}.",), HINTS["other_order"]
            )
    for name, x, expected, made in zip(NAMES, result, measured, mistakes, strict=True):
        if verdict := compare(Case(f"{says}, the gradient of the {name}", (), expected, made), x):
            return verdict
    return None


def gradient_mistakes(dpooled: Array, arrays: list[Array], right: Gradients) -> list[Mistakes]:
    """Return the common mistakes in the gradient of each of queries, keys and values."""
    queries, keys, values = arrays
    scale = 1 / sqrt(queries.shape[-1])
    weights = softmax(queries @ keys.swapaxes(-1, -2) * scale)  # [H, Q, M]
    dweights = dpooled @ values.swapaxes(-1, -2)

    def through(dscores: Array) -> Gradients:
        return dscores @ keys * scale, dscores.swapaxes(-1, -2) @ queries * scale, right[2]

    made = {
        "gradient_not_scaled": tuple(x / scale for x in right),
        "gradient_scaled_twice": tuple(x * scale for x in right),
        "negative": tuple(-x for x in right),
        "no_mean": through(weights * dweights),
        "mean_over_queries": through(weights * (dweights - (dweights * weights).sum(axis=-2, keepdims=True))),
    }
    return [{name: partial(np.copy, x[i]) for name, x in made.items()} for i in range(len(NAMES))]


def in_the_pooler(written: Written, running: RunningModel) -> Verdict:
    """Check the gradient in the model's own pooler, by differences along a random direction of each array."""
    with trace(weights=True) as inside:
        running.exact.encode_video(running.pixels)
    arrays = [inside[f"pool.{name}"] for name in "qkv"]
    rng = np.random.default_rng(0)
    dpooled = rng.standard_normal(arrays[0].shape)
    says = f"the queries, keys and values of the model's pooler, {arrays[1].shape[-2]} keys"
    result = gradients_of(says, written, dpooled, arrays)
    for i, (name, x) in enumerate(zip(NAMES, arrays, strict=True)):
        case = Case(f"{says}, the gradient of the {name}", (), np.zeros_like(x))
        gradient, direction = require_form(case, result[i]), rng.standard_normal(x.shape)
        ends = [[*arrays[:i], x + step * direction, *arrays[i + 1 :]] for step in (STEP, -STEP)]
        up, down = ((dpooled * pool(*moved)).sum() for moved in ends)
        measured, own = (up - down) / (2 * STEP), (gradient * direction).sum()
        if abs(own - measured) > 1e-4 * abs(measured):
            lines = (
                f"Given {says}, a step of the {name} changes the loss otherwise than their gradient says.",
                f"Expected:  {measured:.6g}",
                f"Came:      {own:.6g}",
            )
            return Verdict(False, lines)
    return Verdict(
        True, (f"It agrees with differences, in the model's pooler too, with {arrays[1].shape[-2]} keys.",)
    )
