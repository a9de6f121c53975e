"""Progress of long work: the library calls a function that the caller passes.

Work of one kind takes `progress: Update | None`, a function called with the number of parts just finished:

    with tqdm(total=8) as bar:
        model.encode_frames(pixels, progress=bar.update)

Work in several stages takes `progress: Progress`, which is called once per stage and opens a bar for it:

    with progress(len(clips), "videos") as update:
        for clip in clips:
            ...
            update(1)

The function of a stage also takes a note, which stands beside the bar: `update(1, "loss 1.23")`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Update = Callable[[int], object]  # called with the number of parts just finished


class StageUpdate(Protocol):
    """An `Update` that also takes a note for the bar."""

    def __call__(self, count: int, note: str = "", /) -> object:
        """Report the number of parts just finished."""


Progress = Callable[[int, str], AbstractContextManager[StageUpdate]]  # (total, unit) -> a stage of the work


@contextmanager
def no_progress(total: int, unit: str) -> Iterator[StageUpdate]:
    """Yield a function that does nothing. The default of functions that take a `Progress`."""
    yield lambda count, note="": None


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[StageUpdate]:
    """Yield the update function of a tqdm bar on standard error. Nothing is drawn unless that is a terminal.

    The bar is visible at once, at 0, and is removed at the end.
    """
    from tqdm import tqdm

    with tqdm(total=total, unit=f" {unit}", leave=False, disable=None, **_size()) as bar:

        def update(count: int, note: str = "") -> None:
            if note:
                bar.set_postfix_str(note, refresh=False)
            bar.update(count)

        yield update


def _size() -> dict[str, int]:
    """Return a size for a terminal that reports 0 columns, where tqdm draws nothing; {} lets tqdm measure."""
    try:
        return {} if os.get_terminal_size(sys.stderr.fileno()).columns else {"ncols": 80, "nrows": 24}
    except (AttributeError, OSError):  # no stream, or no terminal
        return {}
