"""How training is made fast: skip this file to learn how to tune a model.

each_block          vectors of parameters, a block at a time
frozen_projections  the gradients of projections of a frozen context
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from ..model.config import Array, Params
from ..model.kernels import frame_threads
from .gradients import rows, standardize

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


def frozen_projections(
    projections: Sequence[tuple[Array, Array, Params]],
    norm: Params,
    x: Array,
    weight: Array,
    bias: Array,
    eps: float,
) -> None:
    """Add the gradients of y = W (w z + b), projections of a layer norm of a frozen x [..., n_in].

    Without the gradient of x, that of the norm needs no product as large as x. With G = dy^T z and g = sum of
    dy over the R rows, dW = G w + g b^T. Since (dy W)_ri = sum_o dy_ro W_oi, the gradient of w,
    dw_i = sum_r z_ri (dy W)_ri, is sum_o W_oi G_oi, and db = g W. This saves half of the matrix products.

    projections: of each one dy [R, n_out], W [n_out, n_in] and the branch of its gradients. norm: the branch
    of the norm. The other arguments are the norm's.
    """
    z = rows(standardize(x, eps)[0])  # [R, n_in]
    for dy, W, grads in projections:
        G, g = dy.T @ z, dy.sum(axis=0)  # [n_out, n_in], [n_out]
        grads["weight"] += G * weight + np.outer(g, bias)
        grads["bias"] += g
        norm["weight"] += (W * G).sum(axis=0)
        norm["bias"] += g @ W
