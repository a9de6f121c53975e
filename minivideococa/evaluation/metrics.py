"""What predictions are worth: pure functions of arrays and strings, which know of no model.

A tie is no success: a wrong candidate that scores as much as the right one counts as ahead of it, and so does one
that scores NaN.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

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


def bootstrap(
    per_item: np.ndarray, statistic: Callable[[np.ndarray], float] = np.mean, level: float = 0.95, seed: int = 0,
    rounds: int = 1000, groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """The interval (low, high) that the statistic stays in when the items are drawn anew: per_item [n, ...].

    n items are drawn from the n with replacement, `rounds` times; the interval holds the middle `level` of the
    statistics (Efron's percentile method). groups int [n]: items of one group, as the captions of one video, depend on
    each other and are drawn together. It says how far the choice of items matters, not the model or the candidates;
    where all items agree it has no width. Raises ValueError without items.
    """
    per_item = np.asarray(per_item)
    if not len(per_item):
        raise ValueError("no items to draw from")
    groups = np.arange(len(per_item)) if groups is None else np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, 1 + np.flatnonzero(np.diff(groups[order])))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(rounds):
        drawn = [members[i] for i in rng.integers(len(members), size=len(members))]
        values.append(statistic(per_item[np.concatenate(drawn)]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


STRAIGHT = str.maketrans("‘’“”", "''\"\"")
CLITIC = r"(?:n't|'(?:s|m|d|re|ve|ll))\b"
CUT = re.compile(rf"(?<=\w)(?={CLITIC})|(?<=\bcan)(?=not\b)|(?<=\b(?:gon|wan))(?=na\b)|(?<=\bgot)(?=ta\b)")
TOKEN = re.compile(rf"{CLITIC}|[#@]?\w+(?:[-.'/&]\w+|[,:]\d+)*|[^\w\s]")
DROPPED = frozenset("'\"`.?!,:;-–—")


def tokens(caption: str) -> list[str]:
    """The words of a caption as caption metrics count them: lower case, no punctuation, "don't" as "do" and "n't".

    The official scores (coco-caption) are over the tokens of Stanford's PTBTokenizer, which needs Java. These follow
    its rules: contractions are cut, the punctuation that coco-caption drops is dropped, brackets and signs count, and
    hyphens, slashes and dots inside a word join it. What differs is rare in captions ("y'all" and "lemme" stay whole;
    file names, numbers like 1e+5), or differs in spelling alone, which no score sees ("mr" for "mr.", "½" for "1/2").
    """
    return [t for t in TOKEN.findall(CUT.sub(" ", caption.lower().translate(STRAIGHT))) if t not in DROPPED]


def caption_scorers() -> tuple[Callable, Callable, type, type]:
    """What of pycocoevalcap scores captions. Raises ValueError, one line, where it is not installed."""
    try:
        from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError:
        raise ValueError("scoring captions needs pycocoevalcap: pip install 'minivideococa[eval]'") from None
    return cook_refs, cook_test, Cider, Rouge


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """What pycocoevalcap makes of n captions, each with one or more references: name -> [n] or [n, 10].

    "ROUGE-L": [n], the F-measure of the longest common subsequence, recall weighing 1.2 times as much (Lin, 2004).
    "CIDEr": [n], CIDEr-D (arXiv 1411.5726): from 0 to 10, 1 for what papers print as 100; how rare an n-gram is, is
    counted over these very references, so of one video alone it is always 0, and of a few it means little.
    "BLEU-4": [n, 10], the counts that `bleu` adds up, since BLEU belongs to a corpus and not to a sentence.
    `tokens` tells in what the words may differ from the official ones.
    Raises ValueError if pycocoevalcap is not installed or no reference has a word.
    """
    cook_refs, cook_test, Cider, Rouge = caption_scorers()
    said = {i: [" ".join(tokens(caption))] for i, caption in enumerate(captions)}
    true = {i: [" ".join(tokens(text)) for text in texts] for i, texts in enumerate(references)}
    if not any(text for texts in true.values() for text in texts):
        raise ValueError("none of the captions to compare with has a word in it")
    counts = []
    for i, (caption,) in said.items():
        counted = cook_test(caption, cook_refs(true[i]), eff="closest")
        counts.append([*counted["correct"], *counted["guess"], counted["testlen"], counted["reflen"]])
    return {"BLEU-4": np.array(counts), "ROUGE-L": Rouge().compute_score(true, said)[1],
            "CIDEr": Cider().compute_score(true, said)[1]}


def bleu(counts: np.ndarray) -> float:
    """BLEU-4 of a corpus, from 0 to 1 (Papineni et al., 2002): the counts of its captions, [n, 10].

    A caption's counts: its n-grams that are in a reference, for n = 1 to 4; its n-grams; its words; the words of the
    reference that is closest in length.
    """
    total = np.sum(counts, axis=0)
    right, said, (length, reference) = total[:4], total[4:8], total[8:]
    if not right.all():
        return 0.0
    return float(np.exp(np.log(right / said).mean() + min(0, 1 - reference / length)))


ARTICLE = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal_answer(answer: str) -> str:
    """An answer as it is compared: lower case, without punctuation and articles (a, an, the), single spaces.

    These are the steps of SQuAD's evaluation (arXiv 1606.05250), in its order.
    """
    return " ".join(ARTICLE.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def same_answer(answer: str, truth: str) -> bool:
    """Whether two answers are the same, word for word, once `normal_answer` is done with them."""
    return normal_answer(answer) == normal_answer(truth)
