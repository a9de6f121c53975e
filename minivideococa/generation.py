"""Decoding: from a function that gives the next token's logits to a sequence of ids. No network in here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NextLogits = Callable[[np.ndarray], np.ndarray]      # ids int64 [L] -> logits [V] of the token after them


def greedy(next_logits: NextLogits, prompt: np.ndarray, end_id: int, min_length: int, max_length: int) -> np.ndarray:
    """Always the likeliest token: prompt int64 [L0] -> int64 [L], until `end_id` or `max_length` ids.

    `max_length` counts all ids, start and end token included. `end_id` is not taken while there are fewer than
    `min_length` ids before it, the start token included, as in open_clip's `generate`.
    """
    ids = prompt
    while len(ids) < max_length:
        logits = next_logits(ids)
        if len(ids) < min_length:
            logits = np.where(np.arange(len(logits)) == end_id, -np.inf, logits)
        ids = np.append(ids, logits.argmax())
        if ids[-1] == end_id:
            break
    return ids
