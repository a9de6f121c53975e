"""How work is spread over the cores: one rule, for frames, which do not know of each other.

A matrix product that BLAS spreads over its threads makes them wait for each other, and leaves all cores but one idle in
the element-wise work between two products. So each thread takes frames of its own and computes every product by itself.

The rule: BLAS's own number of threads is the number of threads (so OMP_NUM_THREADS and its kin are respected), if there
are frames for all of them. If there are not, the frames are computed one piece after another, and BLAS threads its
products as it likes. Callers that encode at the same time take turns, since each uses all cores; so an encoded video does not
depend on who else computes.

A process may be forked while one of its threads encodes so. It must not be while OpenBLAS threads a product itself, as
in `generate` or for fewer frames than threads: OpenBLAS can then hang, in the fork or in the child.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from threading import Lock, Thread
from typing import TYPE_CHECKING

import numpy as np

from ..progress import advance
from .hooks import apart, given, record

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# BLAS's number of threads belongs to the whole process: one thread at a time may change it. If another thread held the
# lock during a fork, the child's copy would never be released. So each process has its own, under its id.
_locks: dict[int, Lock] = {}
_threads_before = 0  # BLAS's number of threads while it is limited, else 0


def spread(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, piece: int) -> np.ndarray:
    """`function` of x [T, ...], which treats each of the T by itself: `piece` of them at a time, or fewer.

    What it records in a trace is stacked in the same way. A trace that gives arrays gives them for all T at once.
    """
    if given():
        return function(x)
    keep_freed_memory()
    with threads_for(len(x)) as threads, ThreadPoolExecutor(threads) as executor:
        rounds = -(-len(x) // (threads * piece))  # rounded up; in each, all threads have as much to do
        pieces = np.array_split(x, min(len(x), threads * rounds))
        outcomes, in_turn = [], executor.map if threads > 1 else map
        for part, outcome in zip(pieces, in_turn(apart(function), pieces), strict=True):
            outcomes.append(outcome)
            advance(len(part))
    results, tapes = zip(*outcomes, strict=True)
    for name in tapes[0]:
        record(name, np.concatenate([tape[name] for tape in tapes]))
    return np.concatenate(results)


@contextmanager
def threads_for(count: int) -> Iterator[int]:
    """Yield how many threads to use for `count` frames. If several, BLAS is limited to one thread meanwhile."""
    global _threads_before
    with _locks.setdefault(os.getpid(), Lock()):
        blas = blas_libraries()
        if _threads_before:  # inherited by a fork, together with the limit
            # threadpoolctl 3.8 ignores all threads but the one that set a limit while it lives: use one that ends at once
            thread = Thread(target=partial(blas.limit, limits=_threads_before))
            thread.start()
            thread.join()
            _threads_before = 0
        threads = max((library.num_threads for library in blas.lib_controllers), default=1)
        if threads > 1:
            if count < threads:
                yield 1
                return
            _threads_before = threads
            try:
                with blas.limit(limits=1):
                    yield threads
            finally:
                _threads_before = 0
            return
    yield 1  # BLAS has one thread: nothing to limit, so callers do not wait


@cache
def blas_libraries() -> ThreadpoolController:
    """Return the handle on the BLAS that NumPy uses, found once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def keep_freed_memory() -> None:
    """Let the C library (glibc; others are left alone) keep up to 256 MB of freed memory for the next arrays.

    It would give each large array back to the system, which clears it and hands it out again page by page: a fifth of
    ViT-B/32's time. glibc itself raises these two limits as a program goes on, but not far enough, and not in threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, its highest value
    mallopt(-1, 256 * 2**20)  # M_TRIM_THRESHOLD
