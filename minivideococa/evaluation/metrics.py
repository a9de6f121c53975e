"""What predictions are worth: functions of arrays and texts, which know of no model.

A tie is no success: a wrong candidate that scores as much as the right one counts as ranked before it, and so does one
that scores NaN.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank of the best-ranked right candidate of each row, 1 the first: int64 [n].

    scores [n, C], higher is better; right bool [n, C]. For a classifier the rows are videos and the candidates labels, for
    text-to-video retrieval they are captions and videos, for video-to-text retrieval the reverse.
    Raises ValueError if a row has nothing right.
    """
    scores, right = np.asarray(scores), np.asarray(right, bool)
    if not right.any(axis=1).all():
        raise ValueError(f"row {right.any(axis=1).argmin()} has no right candidate, so no rank")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + (~right & ~(scores < best)).sum(axis=1)


def recall(ranks: np.ndarray, k: int) -> float:
    """Return R@k of a retrieval, or a classifier's top-k accuracy: the share of the ranks [n] that are at most k.

    Raises ValueError if there are no ranks.
    """
    if not len(ranks):
        raise ValueError("there are no ranks to average")
    return float(np.mean(ranks <= k))


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """The mean, over the right items, of the precision among all that score at least as much as the item.

    scores [n], higher is better; right bool [n], True somewhere. This is scikit-learn's `average_precision_score`: no
    interpolation, and what scores the same enters the ranking together. Raises ValueError if nothing is right.
    """
    if not np.any(right):
        raise ValueError("no item is right, so there is no precision to average")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores)
    scores, found = scores[order], np.cumsum(np.asarray(right, bool)[order])
    last = np.append(scores[1:] != scores[:-1], True)  # of those that score the same
    precision = found[last] / (1 + np.flatnonzero(last))
    return float(np.diff(found[last], prepend=0) @ precision / found[-1])


def mean_average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """mAP: each label's average precision over the videos, averaged over the labels that any video has.

    scores [n, C], right bool [n, C]: a video may have several labels. Every label counts the same, however rare.
    Raises ValueError if no video has a label.
    """
    scores, right = np.asarray(scores), np.asarray(right, bool)
    occurring = np.flatnonzero(right.any(axis=0))
    if not len(occurring):
        raise ValueError("no video has a label")
    return float(np.mean([average_precision(scores[:, c], right[:, c]) for c in occurring]))


# Captions

PUNCTUATION = re.escape(string.punctuation + "‘’“”–—…¿¡")
WORD = re.compile(rf"[^\s{PUNCTUATION}]+(?:['’-][^\s{PUNCTUATION}]+)*")
Tokenizer = Callable[[Sequence[str]], list[str]]  # texts -> the same with single spaces between the tokens


def words(texts: Sequence[str]) -> list[str]:
    """Texts in lower case, without punctuation; an apostrophe or a hyphen inside a word stays."""
    return [" ".join(WORD.findall(text.lower())) for text in texts]


def ptb(texts: Sequence[str]) -> list[str]:
    """Texts as pycocoevalcap's Penn Treebank tokenizer has them, the one of published figures. It runs Java.

    Raises ValueError if Java is not there or gives nothing, OSError if the library's own folder, where it puts a file, is
    read-only.
    """
    from shutil import which

    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    if not which("java"):
        raise ValueError(
            "--tokenizer ptb runs Java, and there is no java here: install it, or use --tokenizer words"
        )
    # A line for each text, so none in a text; and no empty line, which the end of the output could lose.
    lines = [{"caption": " ".join(text.split()) or "."} for text in texts]
    try:
        tokens = PTBTokenizer().tokenize({0: lines}).get(0, [])
    except OSError as error:
        raise OSError(f"--tokenizer ptb cannot do its work ({error}): use --tokenizer words") from None
    if len(tokens) != len(texts):
        raise ValueError(
            "--tokenizer ptb: Java gives no tokens: see whether `java -version` works, or use --tokenizer words"
        )
    return tokens


def tokenizer_for(name: str) -> Tokenizer:
    """`words` or `ptb`, by its name, tried out. Raises ValueError for another name, and where what caption metrics need is
    missing: to be asked before the work, not after it."""
    _scorers()
    if name not in ("words", "ptb"):
        raise ValueError(f"tokenizer is {name!r}: give words or ptb")
    tokenize = {"words": words, "ptb": ptb}[name]
    tokenize(["two", "texts"])
    return tokenize


def caption_scores(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Tokenizer = words,
) -> dict[str, float]:
    """What pycocoevalcap makes of n captions, each with one or more references: metric -> value.

    "BLEU-4" of all together, from 0 to 1 (Papineni et al., 2002). "ROUGE-L", from 0 to 1, the mean over the captions of an
    F-measure of the longest common subsequence (Lin, 2004). "CIDEr", from 0 to 10, the mean of CIDEr-D (arXiv 1411.5726): how
    rare an n-gram is, is counted over these references, so of a single video it is 0, and of a few it means little.
    Raises ValueError if no reference has a word, or pycocoevalcap is not installed.
    """
    bleu, rouge, cider = _scorers()
    tokens = iter(tokenize([*captions, *(text for texts in references for text in texts)]))
    said = {i: [next(tokens)] for i in range(len(captions))}
    true = {i: [next(tokens) for _ in texts] for i, texts in enumerate(references)}
    if not any(text for texts in true.values() for text in texts):
        raise ValueError("none of the captions to compare with has a word in it")
    return {
        "BLEU-4": float(bleu.compute_score(true, said, verbose=0)[0][3]),
        "ROUGE-L": float(rouge.compute_score(true, said)[0]),
        "CIDEr": float(cider.compute_score(true, said)[0]),
    }


def _scorers() -> tuple[Any, Any, Any]:
    """pycocoevalcap's BLEU-1 to 4, ROUGE-L and CIDEr. Raises ValueError, one line, where it is not installed."""
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        raise ValueError(
            "caption metrics need pycocoevalcap: pip install pycocoevalcap, "
            "or choose other tasks with --tasks"
        ) from None
    return Bleu(4), Rouge(), Cider()


# Answers

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_answer(answer: str) -> str:
    """An answer as it is compared: lower case, without punctuation and, unless nothing else is there, articles (a, an, the)."""
    tokens = answer.lower().translate(NO_PUNCTUATION).split()
    return " ".join([token for token in tokens if token not in ("a", "an", "the")] or tokens)


def same_answer(answer: str, truth: str) -> bool:
    """Whether two answers are the same, word for word, once `normal_answer` is done with them. Nothing is no answer."""
    return normal_answer(answer) == normal_answer(truth) != ""
