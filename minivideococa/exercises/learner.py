"""A learner's file: read, run and called, with its errors told as its own."""

from __future__ import annotations

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
        raise ValueError(
            f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
        ) from None
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
            with redirect_stdout(sys.stderr):
                return self.function(*args)
        except NotImplementedError as error:
            raise NotWritten(self._unwritten(error)) from None
        except (Wrong, NotWritten):  # of a function that the package passed in
            raise
        except (Exception, SystemExit) as error:
            called = f"Called with {signature(args)}, it fails:"
            raise Wrong(called, describe(error, self.file), hint=error_hint(error)) from None

    def _unwritten(self, error: BaseException) -> str:
        """Return which other function is not written, where it is not this one; else ""."""
        frames = traceback.extract_tb(error.__traceback__)
        return (
            "" if frames[-1].name == self.name else f"It calls {frames[-1].name}, which is not written yet."
        )


def find(functions: Mapping[str, Any], name: str) -> Written:
    """Return a function by its name. Raises NotWritten if there is none."""
    if name not in functions:
        raise NotWritten(f"There is no function {name}.")
    return Written(name, functions[name])


def describe(error: BaseException, file: str) -> str:
    """Return an error in one line: the last line of the learner's file that it passed, and the message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    message = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST].removesuffix(": ")
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
        return "the last axis of the left array must be the second last of the right one: is one of them transposed?"
    if "broadcast" in message:
        return "axes are aligned from the last one: write both shapes below each other, flush right"
    if isinstance(error, KeyError) and len(message) < 40:
        return f"there is no {message} in that dict: is it empty at the first call, or has it another name?"
    if isinstance(error, TypeError) and ("positional argument" in message or "keyword" in message):
        return "keep the arguments of the template, in their order"
    return ""


def signature(args: tuple[Any, ...]) -> str:
    """Return the arguments of a call in words: the shapes of arrays, other values as they are."""
    return ", ".join(_argument(value) for value in args) or "nothing"


def _argument(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {', '.join(value) or 'nothing'}"
    return getattr(value, "__name__", "a function") if isinstance(value, Callable) else shorten(value)  # type: ignore[arg-type]
