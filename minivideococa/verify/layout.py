"""Tensors with other axes than a trace's: permuted (sequence first), with a batch axis, of another length.

The axes are judged by the shape, and by the values where the shape fits several. `diagnosis` tells whether
the values are right once the axes are.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from ..model.config import Array
from .names import Arrays, axis_letters
from .report import Row, relative_error

FAR = 0.2  # the relative error beyond which another layout is tried
NEAR = 0.1  # the part of that error which it must not exceed
SAME = 0.02  # the relative error up to which the item of a batch is taken for the reference


def arranged(name: str, x: Array, reference: Array, frames: int = 0) -> tuple[Array, str]:
    """Return a tensor with the axes of a trace, and its own axes, e.g. "[N, T, W]"; "" if they were the same.

    Leading axes of length one are dropped. A tensor whose axes are not recognized is returned as it is.
    frames: the number of frames; a pooled tensor with an axis of that length more may hold one item per
    frame.
    """
    x = without_unit_axes(x, reference.shape)
    letters = axis_letters(name, reference.ndim)
    if x.ndim == reference.ndim and sorted(x.shape) == sorted(reference.shape):
        return _permuted(x, reference, letters)
    one_axis_more = x.ndim == reference.ndim + 1
    for axis in range(x.ndim if one_axis_more else 0):  # a batch, or an axis of one
        batch = np.moveaxis(x, axis, 0)
        if batch.shape[1:] == reference.shape and (len(batch) > 1 or axis < reference.ndim):
            item = nearest_item(batch, reference)
            if name.startswith("pool.") and len(batch) == frames and relative_error(item, reference) > SAME:
                return x, ""
            layout = [*letters[:axis], str(len(batch)), *letters[axis:]]
            return item, f"[{', '.join(layout)}]"
    if letters and letters[0].startswith("L"):
        return x, ""  # more positions, which `shape_hint` explains
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


def shape_hint(row: Row, inputs: Arrays) -> str:
    """Return what may explain an unexpected shape, as a sentence; "" without a guess."""
    if row.layout or row.shape == row.expected_shape:
        return ""
    video = next((inputs[name] for name in ("frames", "pixels") if name in inputs), None)
    frames = 0 if video is None else len(video)
    if row.name.startswith("pool.") and frames > 1 and row.shape == (frames, *row.expected_shape):
        return f"The first axis has the {frames} frames: was each frame pooled separately (mean pooling)?"
    if len(row.shape) != len(row.expected_shape):
        return ""
    sizes = zip(axis_letters(row.name, len(row.shape)), row.shape, row.expected_shape, strict=True)
    other = [(axis, size, expected) for axis, size, expected in sizes if size != expected]
    return length_hint(*other[0], frames) if len(other) == 1 else ""


def length_hint(axis: str, size: int, expected: int, frames: int) -> str:
    """Return what may explain one axis of an unexpected length."""
    if axis in ("L", "L+1") and size == 1:
        return (
            "It has one position: recorded during generation with a key-value cache? Record decode (teacher "
            "forcing) instead, or generate with cache=False."
        )
    if axis in ("L", "L+1"):
        class_position = int(axis == "L+1")
        return (
            f"It was computed from {size - class_position} ids; the trace holds {expected - class_position}."
        )
    if axis == "T" or (axis == "TN" and frames and size % (expected // frames) == 0):
        computed = size if axis == "T" else size * frames // expected
        return f"It was computed from {computed} frames; the trace holds {frames or expected}."
    return ""


def without_unit_axes(x: Array, shape: tuple[int, ...]) -> Array:
    """Reshape x [1, ..., *shape] to [*shape]; return any other array as it is."""
    return x.reshape(shape) if x.shape == (1,) * (x.ndim - len(shape)) + shape else x


def squeeze_to(x: Array, axes: int) -> Array:
    """Drop leading axes of length one until x has at most `axes` axes."""
    while x.ndim > axes and len(x) == 1:
        x = x[0]
    return x
