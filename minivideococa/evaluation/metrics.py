"""Metrics: functions of arrays and texts, independent of any model.

Ties count as errors: a wrong candidate with the score of the correct one, or with a NaN, is ranked before it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..answers import normalize_answer
from ..model.config import Array


def ranks(scores: Array, correct: Array) -> NDArray[np.int64]:
    """Return the rank, from 1, of the best-ranked correct candidate of each row: int64 `[n]`.

    `scores` `[n, C]`, higher is better; `correct` bool `[n, C]`. For classification the rows are videos and
    the candidates labels; for text-to-video retrieval they are captions and videos; for video-to-text
    retrieval videos and captions.

    Raises ValueError if a row has no correct candidate.
    """
    scores, correct = np.asarray(scores), np.asarray(correct, bool)
    if not correct.any(axis=1).all():
        raise ValueError(f"row {correct.any(axis=1).argmin()} has no correct candidate, so no rank")
    best = np.where(correct, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(1 + (~correct & ~(scores < best)).sum(axis=1))


def recall(ranks: Array, k: int) -> float:
    """Return recall at k, or the top-k accuracy of a classifier: the share of ranks `[n]` that are at most k.

    Raises ValueError without ranks.
    """
    if not len(ranks):
        raise ValueError("there are no ranks to average")
    return float(np.mean(ranks <= k))


def average_precision(scores: Array, relevant: Array) -> float:
    """Return the mean, over the relevant items, of the precision among all items that score at least as high.

    `scores` `[n]`, higher is better; `relevant` bool `[n]`. As scikit-learn's `average_precision_score`: no
    interpolation, and items with the same score enter the ranking together. Raises ValueError if no item is
    relevant.
    """
    if not np.any(relevant):
        raise ValueError("no item is relevant, so there is no precision to average")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores)
    scores, hits = scores[order], np.cumsum(np.asarray(relevant, bool)[order])
    last = np.append(scores[1:] != scores[:-1], True)  # the last item of each run of equal scores
    precision = hits[last] / (1 + np.flatnonzero(last))
    return float(np.diff(hits[last], prepend=0) @ precision / hits[-1])


def mean_average_precision(scores: Array, relevant: Array) -> float:
    """Return the average precision of each label over the videos, averaged over the labels that occur (mAP).

    `scores` `[n, C]`, `relevant` bool `[n, C]`: a video may have several labels. Every label has the same
    weight, however rare. Raises ValueError if no video has a label.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant, bool)
    occurring = np.flatnonzero(relevant.any(axis=0))
    if not len(occurring):
        raise ValueError("no video has a label")
    return float(np.mean([average_precision(scores[:, c], relevant[:, c]) for c in occurring]))


# Captions

PUNCTUATION = re.escape(string.punctuation + "‘’“”–—…¿¡")
WORD = re.compile(rf"[^\s{PUNCTUATION}]+(?:['’-][^\s{PUNCTUATION}]+)*")
Tokenizer = Callable[[Sequence[str]], list[str]]  # texts -> their tokens, joined by single spaces


def words(texts: Sequence[str]) -> list[str]:
    """Return texts in lower case without punctuation; apostrophes and hyphens inside a word stay."""
    return [" ".join(WORD.findall(text.lower())) for text in texts]


def ptb(texts: Sequence[str]) -> list[str]:
    """Tokenize texts with pycocoevalcap's Penn Treebank tokenizer, as for published figures. It runs Java.

    Raises ValueError if Java is missing or returns nothing, OSError if the library's own folder, where it
    writes a file, is read-only.
    """
    from shutil import which

    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    if not which("java"):
        raise ValueError(
            "--tokenizer ptb runs Java, and there is no java here: install it, or use --tokenizer words"
        )
    # Java reads one text per line, so a text must not hold a line break or be empty
    lines = [{"caption": " ".join(text.split()) or "."} for text in texts]
    try:
        tokens: list[str] = PTBTokenizer().tokenize({0: lines}).get(0, [])
    except OSError as error:
        raise OSError(f"--tokenizer ptb failed ({error}): use --tokenizer words") from None
    if len(tokens) != len(texts):
        raise ValueError(
            "--tokenizer ptb: Java returns no tokens: check whether `java -version` works, or use "
            "--tokenizer words"
        )
    return tokens


TOKENIZERS: dict[str, Tokenizer] = {"words": words, "ptb": ptb}


def tokenizer_for(name: str) -> Tokenizer:
    """Return a tokenizer by name, after a trial run, so that a missing requirement is found before the work.

    Raises ValueError for a name that is not in `TOKENIZERS`, and if pycocoevalcap or what the tokenizer runs
    is missing.
    """
    _scorers()
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer is {name!r}: give {' or '.join(TOKENIZERS)}")
    TOKENIZERS[name](["two", "texts"])
    return TOKENIZERS[name]


def caption_scores(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Tokenizer = words,
) -> dict[str, float]:
    """Return pycocoevalcap's metrics of n captions, each with one or more references: metric -> value.

    - "BLEU-4", of the whole corpus, from 0 to 1 (Papineni et al., 2002).
    - "ROUGE-L", the mean over the captions of an F-measure of the longest common subsequence, from 0 to 1
      (Lin, 2004).
    - "CIDEr", the mean of CIDEr-D, from 0 to 10 (arXiv 1411.5726). Document frequencies are counted over
      these references, so it is 0 for a single video and means little for a few.

    Raises ValueError if no reference has a word, or pycocoevalcap is not installed.
    """
    bleu, rouge, cider = _scorers()
    tokens = iter(tokenize([*captions, *(text for texts in references for text in texts)]))
    hypotheses = {i: [next(tokens)] for i in range(len(captions))}
    targets = {i: [next(tokens) for _ in texts] for i, texts in enumerate(references)}
    if not any(text for texts in targets.values() for text in texts):
        raise ValueError("none of the reference captions has a word in it")
    return {
        "BLEU-4": float(bleu.compute_score(targets, hypotheses, verbose=0)[0][3]),
        "ROUGE-L": float(rouge.compute_score(targets, hypotheses)[0]),
        "CIDEr": float(cider.compute_score(targets, hypotheses)[0]),
    }


def has_caption_metrics() -> bool:
    """Tell whether the package of the caption metrics is installed."""
    try:
        _scorers()
    except ValueError:
        return False
    return True


def _scorers() -> tuple[Any, Any, Any]:
    """Return pycocoevalcap's BLEU-1 to 4, ROUGE-L and CIDEr.

    Raises ValueError, one line, if it is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        raise ValueError(
            'caption metrics need pycocoevalcap: pip install "minivideococa[eval]", or choose other tasks '
            "with --tasks"
        ) from None
    return Bleu(4), Rouge(), Cider()


# Answers

Equal = Callable[[str, str], bool]  # whether a predicted answer and a correct one are the same


def same_answer(answer: str, truth: str) -> bool:
    """Tell whether two answers are equal after `normalize_answer`. An empty answer equals none."""
    return normalize_answer(answer) == normalize_answer(truth) != ""


def equal_texts(answer: str, truth: str) -> bool:
    """Tell whether two answers are equal but for case and white space at the ends.

    The published evaluations of MSRVTT-QA, MSVD-QA, ActivityNet-QA and iVQA compare texts as they are, and
    these data sets are in lower case.
    """
    return answer.strip().lower() == truth.strip().lower() != ""


def soft_score(answer: str, truths: Sequence[str], equal: Equal = same_answer) -> float:
    """Return iVQA's score of an answer against those of several annotators: min(annotators / 2, 1).

    It is 1 if at least two of them gave this answer and 1/2 if one did (Just Ask, arXiv 2012.00451, section
    5).
    """
    return min(sum(equal(answer, truth) for truth in truths) / 2, 1.0)
