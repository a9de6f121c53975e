"""Checks of what a caller passes. Each returns the value, or raises ValueError, one line that names the argument."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number from `least` to `most` (None: no limit). Floats and bools are refused."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {shown(value)}: give a whole number{limits(least, most)}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name} is {shown(number)}: give a whole number{limits(least, most)}")
    return number


def number(name: str, value: Any, least: float, most: float) -> float:
    """Return a real number from `least` to `most`. NaN and bools are refused."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}: give a number{limits(least, most)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {shown(value)}: give True or False")
    return bool(value)


def text(name: str, value: Any, blank: bool = True) -> str:
    """Return a text. Unless `blank`, it must hold more than white space."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: a text must be a str, not {what(value)}")
    if not blank and not value.strip():
        raise ValueError(f"{name} is blank: give a text")
    return str(value)


def texts(name: str, values: Any, blank: bool = True) -> list[str]:
    """Return the texts of a list, a tuple or a 1-D array of at least one. Unless `blank`, none may be blank."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) == 0:
        raise ValueError(f"{name} must be a list of at least one text, not {what(values)}")
    return [text(f"{name}[{i}]", value, blank) for i, value in enumerate(values)]


def array(name: str, values: Any) -> np.ndarray:
    """Return the values as an array."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError):  # lists of different lengths, or what cannot be an array
        raise ValueError(f"{name} must be an array, not {what(values)}") from None


def floats(name: str, values: Any, shape: tuple[int | str, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of floats of this shape, in `dtype`. A letter in the shape stands for 1 or more.

    Raises ValueError for another shape, an empty axis, or a dtype that is not floating point. Values beyond `dtype`
    become infinite.
    """
    x = array(name, values)
    fits = x.ndim == len(shape) and all(
        n == m if isinstance(m, int) else n > 0 for n, m in zip(x.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name} have shape {list(x.shape)}, not [{', '.join(map(str, shape))}]"
            + " with no axis empty" * (x.size == 0)
        )
    if x.dtype.kind != "f":
        raise ValueError(f"{name} are {x.dtype}: give floats")
    with np.errstate(over="ignore"):  # becomes infinite, and is found where finite numbers are asked for
        return x.astype(dtype, copy=False)


def finite(message: str, x: np.ndarray) -> np.ndarray:
    """Return x. Raises ValueError with the message if a number is NaN or infinite."""
    if not np.isfinite(x).all():
        raise ValueError(message)
    return x


def limits(least: float | None, most: float | None) -> str:
    """Return the end of a message: " from 1 to 10", " of 1 or more" or nothing."""
    if least is None:
        return ""
    return f" of {least} or more" if most is None else f" from {least} to {most}"


def what(value: Any) -> str:
    """Return the type of a value and the value, for a message."""
    return f"{type(value).__name__} {shown(value)}"


def shown(value: Any) -> str:
    """Return a value in one line of at most 40 characters."""
    if isinstance(value, np.ndarray):
        return f"of shape {list(value.shape)}"
    try:
        line = " ".join(repr(value).split())
    except ValueError:  # an int of more digits than Python prints
        line = "a number of thousands of digits"
    return line if len(line) <= 40 else line[:37] + "..."
