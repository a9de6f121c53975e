"""How the optimizer is made fast. There are no formulas here: skip this file to learn how to tune a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from ..model.config import Array
from ..model.kernels import frame_threads

Result = TypeVar("Result")

BLOCK = 2**17  # elements per block: those of the few vectors of an update fit in the cache


def each_block(function: Callable[[slice, Array], Result], bounds: Sequence[int], dtype: Any) -> list[Result]:
    """Call function(block, scratch) for every block of a flat vector; return the results in order.

    On whole vectors each operation of a formula would travel to main memory and back. The blocks are spread
    over the threads of BLAS, as `map_frames` does with frames; each block is computed by itself, so the
    number of threads changes no bit. No block reaches over one of the `bounds`, which start with 0 and end
    with the length. scratch: an array of the block's length in `dtype`, with any content: a new array for
    each operation would not be in the cache.
    """
    blocks = [
        slice(i, min(i + BLOCK, end)) for start, end in pairwise(bounds) for i in range(start, end, BLOCK)
    ]
    results: dict[int, Result] = {}

    def compute(indices: range) -> None:
        scratch = np.empty(BLOCK, dtype)
        for i in indices:
            results[i] = function(blocks[i], scratch[: blocks[i].stop - blocks[i].start])

    with frame_threads(len(blocks)) as threads, ThreadPoolExecutor(threads) as executor:
        parts = [range(i, len(blocks), threads) for i in range(threads)]
        for _ in executor.map(compute, parts) if threads > 1 else map(compute, parts):
            pass
    return [results[i] for i in range(len(blocks))]
