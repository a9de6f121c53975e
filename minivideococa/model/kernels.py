"""Fast NumPy kernels. There are no formulas of the model here: skip this file to learn the architecture.

matmul           matrix products, by the number of rows
blockwise        row-wise formulas, a few rows at a time
erf              the error function, which NumPy lacks
attended         the positions of texts that a latent depends on
batch_order      the order in which batches of texts have the least to compute
map_texts        texts, spread over the cores
share_beginning  what texts begin with, computed once
map_frames       frames, spread over the cores
map_distinct     the same, equal frames once
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache, partial, wraps
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from .config import Array, Callback
from .hooks import record, traced, tracing, whole_batch

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Matrix products

CACHED = 2**20  # elements of a weight that are read at a time; they stay in the L2 cache
FEW = 8  # rows: up to here a product is memory-bound, and each weight should be read once
MANY = 128  # rows: from here on a product is compute-bound, and BLAS is at its best
PART = 512  # terms that `_in_parts` sums at a time


def matmul(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x W^T + b: [..., n_in] -> [..., n_out], for a weight [n_out, n_in]."""
    # one product: NumPy would multiply [..., L, n_in] one [L, n_in] at a time
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= FEW:
        y = _row_by_row(rows, weight)
    elif len(rows) < MANY:
        y = _in_parts(rows, weight)
    else:
        y = rows @ weight.T
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], -1)


def _row_by_row(rows: Array, weight: Array) -> Array:
    """Multiply a few rows [R, n_in] -> [R, n_out]. BLAS would copy the weight first; here it is read once."""
    y = np.empty((len(rows), len(weight)), rows.dtype)
    # a multiple of 64: OpenBLAS then rounds on 2 or 4 threads as on the one that `map_frames` limits it to
    step = max(64, CACHED // weight.shape[1] // 64 * 64)
    for i in range(0, len(weight), step):
        np.matmul(rows[:, None], weight[i : i + step].T, out=y[:, None, i : i + step])
    return y


def _in_parts(rows: Array, weight: Array) -> Array:
    """Multiply the rows of a text [R, n_in] -> [R, n_out], each sum in parts: shorter sums round less.

    In the text stacks of L/14 this gives 1.1 times PyTorch's float32 error, and one part 1.3 to 1.4 times.
    Frames have 1.2 times in one part; parts would cost them 5 to 10% of their time.
    """
    y = rows[:, :PART] @ weight[:, :PART].T
    for i in range(PART, rows.shape[1], PART):
        y += rows[:, i : i + PART] @ weight[:, i : i + PART].T
    return y


# Row-wise formulas

BLOCK = 2**19  # elements per block: the few arrays of that size that a formula makes fit in the cache


def blockwise(formula: Callable[..., Array]) -> Callable[..., Array]:
    """Decorate a formula over the rows of x [..., n] to be evaluated for a block of rows at a time.

    On whole arrays the formula's temporaries would travel to main memory and back, one operation after
    another.
    """

    @wraps(formula)
    def evaluate(x: Array, *args: Any, **kwargs: Any) -> Array:
        if x.size <= 2 * BLOCK:
            return formula(x, *args, **kwargs)
        rows = x.reshape(-1, x.shape[-1])
        y = np.empty(rows.shape, rows.dtype)
        step = max(1, BLOCK // rows.shape[1])
        for i in range(0, len(rows), step):
            y[i : i + step] = formula(rows[i : i + step], *args, **kwargs)
        return y.reshape(x.shape)

    return evaluate


# erf(x) = x P(x^2) / Q(x^2) up to the |x| where erf rounds to 1: coefficients of P and Q, highest power
# first. A minimax fit, made by tests/oracle/fit_erf.py; all coefficients are positive, so that no sum
# cancels.
ERF = {
    np.dtype("float32"): (
        3.95,
        (
            2.02774500669558e-06,
            2.8438601031534826e-04,
            3.79566376604763e-03,
            5.283631067479817e-02,
            1.9126152709473382e-01,
            1.1283791465862476,
        ),
        (
            3.783532534250401e-05,
            1.167668697477656e-03,
            1.5029895979861357e-02,
            1.1443942880976286e-01,
            5.028338458215028e-01,
            1.0,
        ),
    ),
    np.dtype("float64"): (
        5.9,
        (
            1.599839050438136e-17,
            2.2521957854215244e-14,
            3.3441903312218364e-12,
            1.7111979766837512e-10,
            6.731689452394401e-09,
            1.6843029011213086e-07,
            3.884278363973259e-06,
            5.663555771528774e-05,
            8.53207993903697e-04,
            6.861877014267516e-03,
            6.603220670888005e-02,
            2.1966024186350439e-01,
            1.1283791670955126,
        ),
        (
            8.983479135565623e-16,
            3.3429719461527686e-13,
            2.5431311695224506e-11,
            1.1193881724995962e-09,
            3.4970465175192355e-08,
            8.307027286636202e-07,
            1.5425333326250945e-05,
            2.2516986051628502e-04,
            2.5561516231771405e-03,
            2.1930567757448248e-02,
            1.3452023757391043e-01,
            5.28002154124234e-01,
            1.0,
        ),
    ),
}


def erf(x: Array) -> Array:
    """Return the error function of x, within 6 units of rounding of its dtype (float32 or float64)."""
    limit, p, q = ERF[x.dtype]
    x = np.clip(x, -limit, limit)
    u = x * x
    x *= _polynomial(u, p)
    x /= _polynomial(u, q)
    return np.clip(x, -1, 1, out=x)  # so that gelu is 0, and not a rounding error, far below 0


def _polynomial(u: Array, coefficients: tuple[float, ...]) -> Array:
    """Evaluate a polynomial by Horner's rule, highest power first."""
    y = u * coefficients[0]
    for c in coefficients[1:-1]:
        y += c
        y *= u
    y += coefficients[-1]
    return y


# Texts

BATCH_TEXTS = 64  # texts at a time: enough rows for a matrix product to be compute-bound


def attended(mask: Array) -> Array:
    """Return the positions that the last one depends on, itself included: mask [B, 1, L, L] -> int64 [K].

    What no text of the batch attends to, directly or through other positions, need not be computed.
    """
    kept = np.arange(mask.shape[-1]) == mask.shape[-1] - 1
    while True:
        more = kept | mask[..., kept, :].any(axis=(0, 1, 2))
        if (more == kept).all():
            return np.flatnonzero(kept)
        kept = more


def batch_order(ids: Array, lengths: Array) -> Array:
    """Return the order of texts ids [B, L] that leaves the fewest positions to compute: int64 [B].

    A batch takes as long as its longest text, less what its texts begin with: by length, or by beginning.
    """

    def positions(order: Array) -> int:
        parts = np.split(order, range(BATCH_TEXTS, len(order), BATCH_TEXTS))
        alike = [int((ids[part] == ids[part[0]]).all(axis=0).argmin()) for part in parts]
        return sum(len(part) * (lengths[part].max() - n) for part, n in zip(parts, alike, strict=True))

    # the first four ids, which the labels of a template share, and then the length
    orders = np.argsort(lengths, kind="stable"), np.lexsort((lengths, *ids[:, 3::-1].T))
    return min(orders, key=positions)


def map_texts(
    function: Callable[[Array], Array], ids: Array, order: Array, progress: Callback = None
) -> Array:
    """Apply a function of independent texts to ids [B, L] in this order, at most BATCH_TEXTS at a time."""
    results = map_frames(function, ids[order], BATCH_TEXTS, progress)
    return results[np.argsort(order)]


def share_beginning(
    stack: Callable[[Array, Array, list[dict[str, Array]] | None], Array],
    x: Array,
    mask: Array,
    ids: Array,
    blocks: int,
) -> Array:
    """Apply a causal stack of blocks to texts x [B, K, E]; return the outputs of the last ones [B, ..., E].

    What all texts begin with is computed once: positions before the last one whose ids [B, K - 1] and
    mask [B, 1, K, K] are the same. Its keys and values are the cache that each text continues. Fewer than
    MANY positions are not worth a product of their own.
    """
    same = (ids == ids[0]).all(axis=0) & (mask[:, 0, :-1] == mask[0, 0, :-1]).all(axis=(0, 2))
    shared = int(np.argmin([*same, False]))
    if shared * (len(ids) - 1) < MANY:
        return stack(x, mask, None)
    caches: list[dict[str, Array]] = [{} for _ in range(blocks)]
    stack(x[:1, :shared], mask[:1, :, :shared, :shared], caches)
    for kept in caches:
        kept.update((name, np.repeat(kv, len(ids), axis=0)) for name, kv in kept.items())
    return stack(x[:, shared:], mask[:, :, shared:], caches)


# Threads. A matrix product that BLAS spreads over its threads makes them wait for each other, and leaves all
# cores but one idle during the element-wise work between two products. Frames are independent: each thread
# takes frames of its own, and BLAS computes every product on one thread. BLAS's own number of threads is the
# number of threads, so OMP_NUM_THREADS and the like are respected. With fewer frames than threads, the frames
# are computed one part after another, and BLAS uses its threads. Callers that encode at the same time take
# turns, since each uses all cores, so an encoded video does not depend on other callers.
#
# A process may be forked while one of its threads encodes so. It must not be while OpenBLAS uses its own
# threads, as in `generate` or for fewer frames than threads: OpenBLAS can then hang, in the parent or in the
# child.

# BLAS's number of threads belongs to the whole process: one thread at a time may change it. If another thread
# held the lock during a fork, the child's copy would never be released, so each process has its own, under
# its id.
_locks: dict[int, Lock] = {}
_threads_before = 0  # BLAS's number of threads while it is limited, else 0


def map_frames(function: Callable[[Array], Array], x: Array, batch: int, progress: Callback = None) -> Array:
    """Apply a function of independent frames to x [T, ...], in batches of at most `batch` frames.

    Recorded activations are concatenated in the same way. A trace that patches activations patches all T at
    once.
    """
    if whole_batch():
        return function(x)
    with frame_threads(len(x)) as threads, ThreadPoolExecutor(threads) as executor:
        # rounded up, so that in each round all threads have about the same amount of work
        rounds = -(-len(x) // (threads * batch))
        batches = np.array_split(x, min(len(x), threads * rounds))
        contexts = [copy_context() for _ in batches]  # each can be entered by one thread at a time
        run = traced(function)
        map_batches: Any = executor.map if threads > 1 else map
        results = []
        for result in map_batches(lambda context, part: context.run(run, part), contexts, batches):
            results.append(result)
            if progress:
                progress(len(batches[len(results) - 1]))
    arrays, activations = zip(*results, strict=True)
    for name in activations[0]:
        record(name, np.concatenate([part[name] for part in activations]))
    return np.concatenate(arrays)


def map_distinct(
    function: Callable[[Array], Array], x: Array, batch: int, progress: Callback = None
) -> Array:
    """Apply a function as `map_frames` does, once to frames that are equal, as in a still or a paused screen.

    A trace computes all frames. Where the number of frames at a time makes `matmul` or BLAS sum in another
    order, the results differ in rounding, as between numbers of threads.
    """
    first, which = np.unique(range(len(x)) if tracing() else first_equal(x), return_inverse=True)
    if len(first) == len(x):
        return map_frames(function, x, batch, progress)
    results = map_frames(function, x[first], batch, progress)
    if progress:
        progress(len(x) - len(first))
    return results[which]


def first_equal(x: Array) -> Array:
    """Return for each of x [T, ...] the index of the first with the same bytes: int64 [T]."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(frame.tobytes(), i) for i, frame in enumerate(x)])


@contextmanager
def frame_threads(frames: int) -> Iterator[int]:
    """Yield the number of threads for the frames. If several, BLAS is limited to one thread meanwhile."""
    global _threads_before
    with _locks.setdefault(os.getpid(), Lock()):
        blas = _blas_libraries()
        if _threads_before:  # inherited by a fork, together with the limit
            # threadpoolctl 3.8 ignores all threads but the one that set a limit while it lives: use one that
            # ends at once
            thread = Thread(target=partial(blas.limit, limits=_threads_before))
            thread.start()
            thread.join()
            _threads_before = 0
        threads = max((library.num_threads for library in blas.lib_controllers), default=1)
        if threads > 1:
            if frames < threads:
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


def threads_of_frames(pool: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a pooler of frame tokens [T, N, W] to use the threads of BLAS as `map_frames` does."""

    @wraps(pool)
    def run(tokens: Array, *args: Any, **kwargs: Any) -> Any:
        with frame_threads(len(tokens)):
            return pool(tokens, *args, **kwargs)

    return run


@cache
def _blas_libraries() -> ThreadpoolController:
    """Return the handle on the BLAS that NumPy uses, found once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


# The process


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep up to 256 MB of freed memory for the next arrays. Other C libraries are left alone.

    Nothing in this package calls it but the command line and the benchmarks, since it changes the whole
    process. Otherwise glibc returns each large array to the system, which clears it and hands it out again
    page by page; README.md says what that costs. glibc itself raises these two limits as a program runs, but
    not far enough, and not in threads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, its highest value
    mallopt(-1, 256 * 2**20)  # M_TRIM_THRESHOLD
