"""Tensors that are right but for their axes: in another order (sequence first, batch first), or a batch of more than one."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from .path import letters
from .rows import difference

FAR, NEAR = 0.2, 0.1  # so far off as it is, and by this part of that in another order of axes


def arranged(name: str, x: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, str]:
    """A tensor as a trace has it, and its axes in letters ("[N, T, W]") where they had to be changed for that, else "".

    Leading axes of one do not count. A tensor whose axes are not recognized comes back as it is.
    """
    x = without_axes_of_one(x, truth.shape)
    ours = letters(name, truth.ndim)
    if x.ndim == truth.ndim and sorted(x.shape) == sorted(truth.shape):
        if x.shape == truth.shape and not difference(x, truth).rel > FAR:
            return x, ""
        orders = [order for order in permutations(range(x.ndim)) if x.transpose(order).shape == truth.shape]
        best = min(orders, key=lambda order: difference(x.transpose(order), truth).rel)
        if (
            x.shape == truth.shape
            and not difference(x.transpose(best), truth).rel < NEAR * difference(x, truth).rel
        ):
            return x, ""
        return np.ascontiguousarray(x.transpose(best)), f"[{', '.join(ours[i] for i in np.argsort(best))}]"
    for axis in range(x.ndim if x.ndim == truth.ndim + 1 else 0):  # one axis more: a batch, or an axis of one
        batch = np.moveaxis(x, axis, 0)
        if batch.shape[1:] == truth.shape and (len(batch) > 1 or axis < truth.ndim):
            return best_of(batch, truth), f"[{', '.join([*ours[:axis], str(len(batch)), *ours[axis:]])}]"
    if (
        x.shape[1:] == truth.shape[1:]
        and x.ndim == truth.ndim > 0 < truth.size
        and len(x) % len(truth) == 0 < len(x)
    ):
        best = best_of(x.reshape(-1, *truth.shape), truth)  # a batch in the same axis, [B T, N, W]
        if difference(best, truth).rel < FAR:
            return best, f"[{len(x) // len(truth)} {', '.join(ours)}]"
    return x, ""


def best_of(batch: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The one of a batch that is nearest to the truth."""
    return np.ascontiguousarray(min(batch, key=lambda one: difference(one, truth).rel))


def without_axes_of_one(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """x [1, ..., *shape] as x [*shape]; anything else as it is."""
    return x.reshape(shape) if x.shape == (1,) * (x.ndim - len(shape)) + shape else x


def without_first_axes(x: np.ndarray, axes: int) -> np.ndarray:
    """x [1, ...] without those first axes of one that are more than `axes` in all."""
    while x.ndim > axes and len(x) == 1:
        x = x[0]
    return x
