"""When two answers are the same: one rule for the classes of a classifier and for what counts as correct."""

from __future__ import annotations

import string

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(answer: str) -> str:
    """Return an answer in lower case without punctuation and articles, unless nothing else is left.

    Answers with the same result are one class, and one answer for `evaluation.metrics.same_answer`.
    """
    answer = answer.lower()
    words = answer.translate(NO_PUNCTUATION).split()
    return " ".join([word for word in words if word not in ("a", "an", "the")] or words or answer.split())
