"""What predictions are worth: pure functions of arrays and strings, which know of no model.

A tie is no success: a wrong candidate that scores as much as the right one counts as ahead of it, and so does one
that scores NaN.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np


def ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank of the best right candidate of each row, 1 the first: int64 [n].

    scores [n, C], higher is better; right bool [n, C]. A classifier's rows are items and its candidates classes; in
    text-to-video retrieval they are captions and videos, in video-to-text retrieval the reverse. The rank is 1 and
    one more for every wrong candidate that does not score less. Raises ValueError if a row has nothing right.
    """
    scores, right = np.asarray(scores), np.asarray(right, bool)
    if not right.any(axis=1).all():
        raise ValueError(f"row {right.any(axis=1).argmin()} has no right candidate, so no rank")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + (~right & ~(scores < best)).sum(axis=1)


def recall(ranks: np.ndarray, k: int) -> float:
    """R@k of a search, which for a classifier is top-k accuracy: the share of the ranks [n] that are at most k."""
    return float(np.mean(ranks <= k))


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The mean, over the relevant items, of the precision of all that score at least as much as the item.

    scores [n], higher is better; relevant bool [n], True somewhere. This is scikit-learn's `average_precision_score`,
    with no interpolation; items that score the same enter the list together, so their order does not matter.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores)
    scores, found = scores[order], np.cumsum(np.asarray(relevant, bool)[order])
    last = np.append(scores[1:] != scores[:-1], True)        # of those that score the same
    precision = found[last] / (1 + np.flatnonzero(last))
    return float(np.diff(found[last], prepend=0) @ precision / found[-1])


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """mAP: the average precision of each class, averaged over the classes that occur, as Charades does it.

    scores [n, C], relevant bool [n, C]: an item may have several labels. Every class counts the same, however rare
    (scikit-learn's "macro"). Raises ValueError if no item has a label.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant, bool)
    occurring = np.flatnonzero(relevant.any(axis=0))
    if not len(occurring):
        raise ValueError("no item has a label")
    return float(np.mean([average_precision(scores[:, c], relevant[:, c]) for c in occurring]))


# Captions

STRAIGHT = str.maketrans("‘’“”", "''\"\"")
CLITIC = r"(?:n't|'(?:s|m|d|re|ve|ll))\b"
CUT = re.compile(rf"(?<=\w)(?={CLITIC})|(?<=\bcan)(?=not\b)|(?<=\bgon)(?=na\b)|(?<=\bwan)(?=na\b)|(?<=\bgot)(?=ta\b)")
TOKEN = re.compile(rf"{CLITIC}|[#@]?\w+(?:[-.'/&]\w+|[,:]\d+)*|[^\w\s]")
DROPPED = frozenset("'\"`.?!,:;-–—")


def tokens(caption: str) -> list[str]:
    """The words of a caption as the caption metrics count them: in lower case, punctuation dropped, "don't" as do n't."""
    return [t for t in TOKEN.findall(CUT.sub(" ", caption.lower().translate(STRAIGHT))) if t not in DROPPED]
