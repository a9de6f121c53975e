"""Every named intermediate of a run, recorded while it runs: what is traced is what ran.

with minivideococa.trace() as t:
    model.encode_video(pixels)
t["vision.block.0"]                      # [T, N, W]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

TYPE_CHECKING = False  # as in typing, whose import takes as long as that of all else here
if TYPE_CHECKING:  # so that importing the package does not import NumPy
    import numpy as np

Tape = dict[str, "np.ndarray"]  # name -> array, in the order in which they came about

_tape: ContextVar[Tape | None] = ContextVar("tape", default=None)
_given: ContextVar[Mapping[str, np.ndarray] | None] = ContextVar("given", default=None)


@contextmanager
def trace(given: Mapping[str, np.ndarray] | None = None) -> Iterator[Tape]:
    """Collect the intermediates of everything that the model does inside the `with`: name -> array.

    A name that is computed again replaces the one before. A trace inside a trace takes over until it ends.
    given: arrays of the shapes that are traced; after each of these names the model goes on from the array given and
    not from its own, which is collected all the same. So each block can be run from somebody else's input.
    """
    tape: Tape = {}
    tokens = _tape.set(tape), _given.set(given)
    try:
        yield tape
    finally:
        _tape.reset(tokens[0])
        _given.reset(tokens[1])


def record(name: str, x: np.ndarray) -> np.ndarray:
    """Note an intermediate under its name if a trace is on; return what to go on from: x itself, unless one is given."""
    tape = _tape.get()
    if tape is None:
        return x
    tape[name] = x.copy()  # what comes after may work in place
    return (_given.get() or {}).get(name, x)


def record_texts(name: str, x: np.ndarray) -> np.ndarray:
    """`record` for [B, ...]: a batch of one is noted, and given, without its batch axis."""
    return record(name, x[0] if len(x) == 1 else x).reshape(x.shape)


def given() -> bool:
    """Whether the trace that is on gives arrays to go on from, if only none this time: then nothing is cut in pieces."""
    return _given.get() is not None


def apart(function: Callable) -> Callable:
    """x -> (function(x), what it recorded): a piece of a batch, on whatever thread, leaves the tape to its caller."""
    on = _tape.get() is not None

    def run(x):
        if not on:
            return function(x), {}
        with trace() as tape:
            return function(x), tape

    return run
