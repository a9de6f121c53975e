"""Progress of long work, reported through arguments: the library calls a function, the caller draws.

Work of one kind takes `progress: Update | None`, a function called with the number of parts just finished:

    with tqdm(total=8) as bar:
        model.encode_frames(pixels, progress=bar.update)

Work in several stages takes `progress: Progress`, which is called once per stage and opens a bar for it:

    with progress(len(clips), "videos") as update:
        for clip in clips:
            ...
            update(1)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from .terminal import tell

Update = Callable[[int], object]  # called with the number of parts just finished
Progress = Callable[[int, str], AbstractContextManager[Update]]  # (total, unit) -> a stage of the work


@contextmanager
def no_progress(total: int, unit: str) -> Iterator[Update]:
    """Yield a function that does nothing. The default of functions that take a `Progress`."""
    yield lambda count: None


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Update]:
    """Yield the update function of a tqdm bar on standard error. Nothing is drawn unless that is a terminal.

    The bar is visible at once, at 0, and is removed at the end.
    """
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", leave=False, disable=None, **_size()) as bar:
        yield bar.update


def _size() -> dict[str, int]:
    """Return a size for a terminal that reports 0 columns, where tqdm draws nothing; {} lets tqdm measure."""
    try:
        return {} if os.get_terminal_size(sys.stderr.fileno()).columns else {"ncols": 80, "nrows": 24}
    except (AttributeError, OSError):  # no stream, or no terminal
        return {}


# To be removed when the last caller takes progress as an argument: progress, advance, uncounted, say.

_bar: ContextVar[Any] = ContextVar("bar", default=None)


@contextmanager
def progress(total: int, unit: str) -> Iterator[None]:
    """Draw a bar while the `with` block runs; `advance` updates it."""
    with progress_bar(total, unit) as update:
        token = _bar.set(update)
        try:
            yield
        finally:
            _bar.reset(token)


def advance(parts: int = 1) -> None:
    """Report finished parts to the current bar, if there is one."""
    if (update := _bar.get()) is not None:
        update(parts)


@contextmanager
def uncounted() -> Iterator[None]:
    """Ignore calls of `advance` inside the `with` block."""
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
