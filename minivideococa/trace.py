"""Every named intermediate of a run, recorded while it runs: what is traced is what ran.

    with minivideococa.trace() as t:
        model.encode_video(pixels)
    t["vision.block.0"]                      # [T, N, W]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:                            # so that importing the package does not import NumPy
    import numpy as np

_tape: ContextVar[dict[str, np.ndarray] | None] = ContextVar("tape", default=None)


@contextmanager
def trace() -> Iterator[dict[str, np.ndarray]]:
    """Collect the intermediates of everything that the model does inside the `with`: name -> array.

    A name that is computed again replaces the one before. A trace inside a trace takes over until it ends.
    """
    tape: dict[str, np.ndarray] = {}
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def record(name: str, x: np.ndarray) -> np.ndarray:
    """Note an intermediate under its name if a trace is on; give it back as it is."""
    tape = _tape.get()
    if tape is not None:
        tape[name] = x.copy()                # what comes after may work in place
    return x


def record_texts(name: str, x: np.ndarray) -> np.ndarray:
    """`record` for [B, ...]: a batch of one is noted without its batch axis."""
    record(name, x[0] if len(x) == 1 else x)
    return x


def apart(function: Callable) -> Callable:
    """x -> (function(x), what it recorded): a piece of a batch, on whatever thread, leaves the tape to its caller."""
    on = _tape.get() is not None

    def run(x):
        if not on:
            return function(x), {}
        with trace() as tape:
            return function(x), tape
    return run
