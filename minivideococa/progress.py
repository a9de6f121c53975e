"""How far long work has come: who starts it may ask for a bar, and who does it tells when a part is done.

with progress(8, "frames"):
    model.encode_frames(pixels)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .terminal import tell

_bar: ContextVar[Any] = ContextVar("bar", default=None)


@contextmanager
def progress(total: int, unit: str) -> Iterator[None]:
    """Show a bar on standard error, if that is a terminal, while the `with` runs. It is visible at once, at 0."""
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", leave=False, disable=None, **_size()) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)


def _size() -> dict[str, int]:
    """Return the size of the bar for a terminal that reports 0 x 0, where tqdm would show nothing; {} lets tqdm measure it."""
    try:
        return {} if os.get_terminal_size(sys.stderr.fileno()).columns else {"ncols": 80, "nrows": 24}
    except (AttributeError, OSError):  # no stream, or no terminal
        return {}


def advance(parts: int = 1) -> None:
    """So many parts more are done; nobody need have asked."""
    bar = _bar.get()
    if bar is not None:
        bar.update(parts)


@contextmanager
def uncounted() -> Iterator[None]:
    """What is told inside the `with` does not count: the bar is for something larger, of which this is a piece."""
    token = _bar.set(None)
    try:
        yield
    finally:
        _bar.reset(token)


def say(message: str) -> None:
    """Write "minivideococa: " and a message to standard error, as one line, above the bar if there is one."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        tell(f"minivideococa: {message}")
