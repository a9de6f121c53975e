"""Tensors with the right values and other axes: permuted (sequence first), or with a batch axis."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from ..model.config import Array
from .names import axis_letters
from .report import relative_error

FAR = 0.2  # the relative error beyond which another layout is tried
NEAR = 0.1  # the part of that error which it must not exceed


def arranged(name: str, x: Array, reference: Array) -> tuple[Array, str]:
    """Return a tensor with the axes of a trace, and its own axes, e.g. "[N, T, W]"; "" if they were the same.

    Leading axes of length one are dropped. A tensor whose axes are not recognized is returned as it is.
    """
    x = without_unit_axes(x, reference.shape)
    letters = axis_letters(name, reference.ndim)
    if x.ndim == reference.ndim and sorted(x.shape) == sorted(reference.shape):
        return _permuted(x, reference, letters)
    for axis in range(
        x.ndim if x.ndim == reference.ndim + 1 else 0
    ):  # one axis more: a batch, or an axis of one
        batch = np.moveaxis(x, axis, 0)
        if batch.shape[1:] == reference.shape and (len(batch) > 1 or axis < reference.ndim):
            layout = [*letters[:axis], str(len(batch)), *letters[axis:]]
            return nearest_item(batch, reference), f"[{', '.join(layout)}]"
    same_rows = x.shape[1:] == reference.shape[1:] and x.ndim == reference.ndim > 0 < reference.size
    if same_rows and len(x) % len(reference) == 0 < len(x):  # a batch in the first axis, [B T, N, W]
        item = nearest_item(x.reshape(-1, *reference.shape), reference)
        if relative_error(item, reference) < FAR:
            return item, f"[{len(x) // len(reference)} {', '.join(letters)}]"
    return x, ""


def _permuted(x: Array, reference: Array, letters: list[str]) -> tuple[Array, str]:
    """`arranged` for a tensor whose shape is a permutation of the reference's."""
    same_shape, error = x.shape == reference.shape, relative_error(x, reference)
    if same_shape and not error > FAR:
        return x, ""
    orders = [order for order in permutations(range(x.ndim)) if x.transpose(order).shape == reference.shape]
    errors = [relative_error(x.transpose(order), reference) for order in orders]
    best = orders[int(np.argmin(errors))]
    if same_shape and not min(errors) < NEAR * error:
        return x, ""
    return np.ascontiguousarray(x.transpose(best)), f"[{', '.join(letters[i] for i in np.argsort(best))}]"


def nearest_item(batch: Array, reference: Array) -> Array:
    """Return the item of a batch with the smallest error."""
    return np.ascontiguousarray(min(batch, key=lambda item: relative_error(item, reference)))


def without_unit_axes(x: Array, shape: tuple[int, ...]) -> Array:
    """Reshape x [1, ..., *shape] to [*shape]; return any other array as it is."""
    return x.reshape(shape) if x.shape == (1,) * (x.ndim - len(shape)) + shape else x


def squeeze_to(x: Array, axes: int) -> Array:
    """Drop leading axes of length one until x has at most `axes` axes."""
    while x.ndim > axes and len(x) == 1:
        x = x[0]
    return x
