"""A learner's file: read, run and called, with its errors told as its own."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from ..inputs import read_text
from ..model.config import shorten
from .result import NotWritten, Wrong

LONGEST = 300  # characters of an error's message


def functions_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Run a learner's file, and return its names with their values. Nothing else is run.

    Raises OSError and ValueError as `inputs.read_text`, and ValueError, which names file and line, if the
    file is not Python or fails while it is run.
    """
    source = read_text(path, "write the file with the exercises: minivideococa check --new exercises.py")
    names = {"__name__": Path(path).stem, "__file__": os.fspath(path)}
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(source, os.fspath(path), "exec", dont_inherit=True), names)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{os.fspath(path)}{line}: {type(error).__name__}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(describe(error, os.fspath(path))) from None
    return names


class Written:
    """A learner's function. What it prints goes to standard error, so that results stay readable."""

    def __init__(self, name: str, function: Any) -> None:
        if not callable(function):
            raise Wrong(f"{name} is not a function: it is {shorten(function)}.")
        self.name, self.function = name, function
        self.file = getattr(getattr(function, "__code__", None), "co_filename", "")

    def __call__(self, *args: Any) -> Any:
        """Call the function. Raises NotWritten, and Wrong, which tells the learner's line, if it fails."""
        try:
            with redirect_stdout(sys.stderr), np.errstate(all="ignore"):  # what overflows gets a hint
                return self.function(*args)
        except NotImplementedError as error:
            raise NotWritten(self._unwritten(error)) from None
        except (Exception, SystemExit) as error:
            called = f"Called with {self.arguments(args)}, it fails:"
            raise Wrong(called, describe(error, self.file), hint=error_hint(error)) from None

    def arguments(self, args: tuple[Any, ...]) -> str:
        """Return the arguments of a call in words: the shapes of arrays, other values as they are."""
        try:
            names = list(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):  # a function of C
            names = []
        named = names if len(names) == len(args) else [""] * len(args)
        return ", ".join(f"{name} {_argument(x)}".strip() for name, x in zip(named, args, strict=True))

    def _unwritten(self, error: BaseException) -> str:
        """Return which other function is not written, where it is not this one; else ""."""
        last = traceback.extract_tb(error.__traceback__)[-1].name
        return "" if last == self.name else f"It calls {last}, which is not written yet."


def find(functions: Mapping[str, Any], name: str) -> Written:
    """Return a function by its name. Raises NotWritten if there is none."""
    if name not in functions:
        raise NotWritten(f"There is no function {name}.")
    return Written(name, functions[name])


def describe(error: BaseException, file: str) -> str:
    """Return an error in one line: the last line of the learner's file that it passed, and the message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    said = " ".join(str(error).split())[:LONGEST]
    message = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if not own:
        return message
    place = f"{os.path.basename(file)}, line {own[-1].lineno}"
    inside = f", in {own[-1].name}" if own[-1].name != "<module>" else ""
    return f"{place}{inside}: {own[-1].line or ''}".rstrip(": ") + f"  ->  {message}"


def error_hint(error: BaseException) -> str:
    """Return a hint that fits an error of NumPy or Python, or ""."""
    message = str(error)
    if "cannot reshape" in message:
        return (
            "a reshape keeps the number of elements: write the shape of the array on each line, as a comment"
        )
    if "matmul" in message or "not aligned" in message:
        return "in x @ y the last axis of x meets the second last of y: must one of them be transposed?"
    if "broadcast" in message:
        return "axes are aligned from the last one: write both shapes below each other, flush right"
    if isinstance(error, KeyError) and len(message) < 40:
        return f"there is no {message} in that dict: is it empty at the first call, or has it another name?"
    if isinstance(error, TypeError) and ("positional argument" in message or "keyword" in message):
        return "keep the arguments of the template, in their order"
    return ""


def _argument(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(value) or 'nothing'}"
    return getattr(value, "__name__", "a function") if isinstance(value, Callable) else shorten(value)  # type: ignore[arg-type]
