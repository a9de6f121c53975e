"""Decoding: from a function that gives the next token's logits to sequences of ids. No network in here.

Every strategy works on rows of ids, several at once, and on `NextLogits`. Before it chooses, rules change the logits:
functions that are put in a list. The results are those of open_clip's `generate` (3.3.0, with transformers 4.49.0), its
odd habits included; `textbook` turns each of them off and stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..progress import advance
from .arguments import flag, number, whole
from .ops import log_softmax, softmax

# (ids int64 [R, L], rows int64 [R]) -> logits [R, V] of the token after each row; row i of the ids is what was row
# rows[i] in the call before, and one id more: all that a cache needs to know
NextLogits = Callable[[np.ndarray, np.ndarray], np.ndarray]
Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ids [R, L], logits [R, V]) -> logits [R, V]
Choice = Callable[[np.ndarray], np.ndarray]  # logits [R, V] -> ids [R]

BEAMS_AT_MOST = 1000  # a search with more takes hours, even of a small model


def no_end_before(min_length: int, end_id: int) -> Rule:
    """A rule: no end token while there are fewer than `min_length` ids, the start token included."""

    def rule(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        barred = (np.arange(logits.shape[-1]) == end_id) & (ids.shape[1] < min_length)
        return np.where(barred, -np.inf, logits)

    return rule


def penalize_repetition(penalty: float) -> Rule:
    """A rule: the logits of ids that a row has already are divided by the penalty, or multiplied where negative.

    CTRL (arXiv 1909.05858, section 4.1).
    """

    def rule(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        old = np.take_along_axis(logits, ids, axis=1)
        np.put_along_axis(logits, ids, np.where(old < 0, old * penalty, old / penalty), axis=1)
        return logits

    return rule


def keep_top_k(k: int) -> Rule:
    """A rule: only the k likeliest tokens (arXiv 1805.04833, section 5.4), and those as likely as the last of them."""

    def rule(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        n = min(k, logits.shape[-1])
        least = np.partition(logits, -n, axis=-1)[:, -n, None]
        return np.where(logits < least, -np.inf, logits)

    return rule


def keep_top_p(p: float) -> Rule:
    """A rule: the fewest likeliest tokens whose probabilities come to p (arXiv 1904.09751, section 3.1); at least one."""

    def rule(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        order = np.argsort(logits, axis=-1, kind="stable")  # least likely first
        less_likely = np.cumsum(softmax(np.take_along_axis(logits, order, axis=-1)), axis=-1)
        dropped = less_likely <= 1 - p
        dropped[:, -1] = False
        logits = logits.copy()
        np.put_along_axis(
            logits, order, np.where(dropped, -np.inf, np.take_along_axis(logits, order, axis=-1)), axis=-1
        )
        return logits

    return rule


def temper(temperature: float) -> Rule:
    """A rule: below 1, likely tokens become likelier; above 1, less likely ones do."""
    return lambda ids, logits: logits / temperature


def ruled(rules: Sequence[Rule], ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The logits after all rules, in their order."""
    for rule in rules:
        logits = rule(ids, logits)
    return logits


def likeliest(logits: np.ndarray) -> np.ndarray:
    """The choice of greedy decoding: the token with the highest logit."""
    return logits.argmax(axis=-1)


def draw(count: int, seed: int) -> Choice:
    """The choice of sampling: a token at random, by its probability. Each of `count` rows has a stream of its own."""
    streams = [np.random.default_rng([seed, row]) for row in range(count)]

    def choice(logits: np.ndarray) -> np.ndarray:
        below = np.cumsum(softmax(logits.astype(np.float64)), axis=-1)
        return np.array(
            [
                np.searchsorted(row, stream.random() * row[-1], side="right")
                for row, stream in zip(below, streams, strict=True)
            ]
        )

    return choice


def one_by_one(
    next_logits: NextLogits,
    ids: np.ndarray,
    rules: Sequence[Rule],
    choose: Choice,
    max_length: int,
    end_ids: Sequence[int],
    as_open_clip: bool = False,
) -> list[np.ndarray]:
    """Greedy decoding and sampling: ids [R, L0] -> R sequences of ids, each until one of `end_ids` or `max_length`.

    as_open_clip: a prompt that ends with one of `end_ids` is a whole text, and the first of them gets the last place,
    whatever the logits say.
    """
    rows, length = np.arange(len(ids)), np.full(len(ids), max_length)
    ended = np.isin(ids[:, -1], end_ids) & as_open_clip
    length[ended] = ids.shape[1]
    while ids.shape[1] < max_length and not ended.all():
        chosen = choose(ruled(rules, ids, next_logits(ids, rows)))
        if as_open_clip and ids.shape[1] + 1 == max_length:
            chosen[:] = end_ids[0]
        ids = np.append(ids, chosen[:, None], axis=1)
        length[~ended & np.isin(chosen, end_ids)] = ids.shape[1]
        ended |= np.isin(chosen, end_ids)
        advance()
    return [row[:n] for row, n in zip(ids, length, strict=True)]


def highest(x: np.ndarray, n: int) -> np.ndarray:
    """Indices of the n highest of x [M], best first; of equals the first."""
    candidates = np.flatnonzero(x >= np.partition(x, -n)[-n])  # a sort of all V logits would take longer
    return candidates[np.argsort(-x[candidates], kind="stable")[:n]]


class Beams:
    """A group of beams of one video: `size` texts that go on, and at most as many, the best, that have ended."""

    def __init__(self, size: int, length_penalty: float) -> None:
        self.size, self.length_penalty = size, length_penalty
        self.totals = np.full(size, -1e9, np.float32)  # at first all beams are alike: one shall go on
        self.totals[0] = 0
        self.ended: list[tuple[float, np.ndarray]] = []  # (score, ids without the end)
        self.done = False

    def score(self, total: float, length: int) -> float:
        """What texts of different lengths are compared by."""
        return float(total) / length**self.length_penalty

    def advance(self, ids: np.ndarray, logits: np.ndarray, end_id: int) -> tuple[np.ndarray, np.ndarray]:
        """ids [size, L] and logits [size, V] of the beams -> the next ones: the beam each goes on from, and its id.

        The search is done when the worst of the ended is as good as the best continuation would be if it ended here.
        """
        totals = logits + self.totals[:, None]
        beam, token = np.divmod(
            highest(totals.ravel(), 2 * self.size), logits.shape[1]
        )  # enough, if all can end
        length = ids.shape[1] + 1
        for b in beam[: self.size][token[: self.size] == end_id]:
            self.end(totals[b, end_id], length, ids[b])
        attainable = self.score(totals.max(), length)
        self.done = len(self.ended) == self.size and min(score for score, _ in self.ended) >= attainable
        beam, token = beam[token != end_id][: self.size], token[token != end_id][: self.size]
        self.totals = totals[beam, token].astype(np.float32)
        return beam, token

    def end(self, total: float, length: int, ids: np.ndarray) -> None:
        """Keep an ended text if it is among the best."""
        score, scores = self.score(total, length), [score for score, _ in self.ended]
        if len(scores) == self.size:
            if score <= min(scores):
                return
            del self.ended[scores.index(min(scores))]
        self.ended.append((score, ids))


def beam_search(
    next_logits: NextLogits,
    ids: np.ndarray,
    rules: Sequence[Rule],
    max_length: int,
    end_id: int,
    pad_id: int,
    beams: int,
    groups: int = 1,
    diversity_penalty: float = 0.0,
    length_penalty: float = 1.0,
    textbook: bool = False,
) -> list[np.ndarray]:
    """Beam search, in groups if asked: ids [B, L0] -> the best sequence of ids for each of the B videos.

    A text's score is the sum of its logits (`textbook`: of its log-probabilities) over its length, the end counted, to
    the power of `length_penalty`. A group pays `diversity_penalty` for a token as often as the groups before it took
    it in this place (arXiv 1610.02424, section 3); without one all groups are the same, and only one is computed.
    """
    if not diversity_penalty:
        beams, groups = beams // groups, 1
    size = beams // groups
    searches = [Beams(size, length_penalty) for _ in range(len(ids) * groups)]
    ids = np.repeat(ids, beams, axis=0)  # rows: video by video, and in it group by group
    rows = np.arange(len(ids))
    while ids.shape[1] < max_length and not all(search.done for search in searches):
        logits = next_logits(ids, rows)
        logits = ruled(rules, ids, log_softmax(logits) if textbook else logits)
        rows, chosen = np.arange(len(ids)), np.full(len(ids), pad_id)
        for i, search in enumerate(searches):
            start = i * size
            own, others = slice(start, start + size), slice(start - start % beams, start)
            if not search.done:
                taken = np.bincount(chosen[others], minlength=logits.shape[1]).astype(logits.dtype)
                beam, chosen[own] = search.advance(ids[own], logits[own] - diversity_penalty * taken, end_id)
                rows[own] = start + beam
        ids = np.append(ids[rows], chosen[:, None], axis=1)
        advance()
    for i, search in enumerate(searches):
        for beam in range(size if not search.done else 0):  # the limit has ended them
            search.end(search.totals[beam], max_length, ids[i * size + beam])
    best = []
    for i in range(0, len(searches), groups):
        ended = [text for search in searches[i : i + groups] for text in search.ended]
        _, text = max(reversed(ended), key=lambda pair: pair[0])
        best.append(text if len(text) == max_length else np.append(text, end_id))
    return best


def generate(
    next_logits: NextLogits,
    ids: np.ndarray,
    *,
    min_length: int,
    max_length: int,
    end_id: int,
    pad_id: int,
    beams: int,
    beam_groups: int,
    top_k: int | None,
    top_p: float | None,
    temperature: float | None,
    seed: int,
    repetition_penalty: float,
    diversity_penalty: float,
    length_penalty: float,
    textbook: bool,
) -> list[np.ndarray]:
    """Texts begun as ids [B, L0] -> B texts, by the strategy that the keywords of `VideoCoCa.generate` ask for."""
    check(
        beams=beams,
        beam_groups=beam_groups,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        seed=seed,
        repetition_penalty=repetition_penalty,
        diversity_penalty=diversity_penalty,
        length_penalty=length_penalty,
        textbook=textbook,
    )
    rules = [no_end_before(min_length, end_id)]
    if repetition_penalty != 1:
        rules.append(penalize_repetition(repetition_penalty))
    if top_k is None and top_p is None and temperature is None:
        if beams == 1:
            return one_by_one(next_logits, ids, rules, likeliest, max_length, [end_id])
        return beam_search(
            next_logits,
            ids,
            rules,
            max_length,
            end_id,
            pad_id,
            beams,
            beam_groups,
            diversity_penalty,
            length_penalty,
            textbook,
        )
    kept = [keep_top_k(top_k)] * (top_k is not None) + [keep_top_p(top_p)] * (top_p is not None)
    tempered = [temper(temperature)] * (temperature is not None)
    choose = draw(len(ids), seed)
    if textbook:
        return one_by_one(next_logits, ids, rules + tempered + kept, choose, max_length, [end_id])
    return one_by_one(
        next_logits, ids, rules + kept + tempered, choose, max_length, [end_id, pad_id], as_open_clip=True
    )


def check(
    *,
    beams: int,
    beam_groups: int,
    top_k: int | None,
    top_p: float | None,
    temperature: float | None,
    seed: int,
    repetition_penalty: float,
    diversity_penalty: float,
    length_penalty: float,
    textbook: bool,
) -> dict[str, Any]:
    """Return the values as Python's own numbers. Raises ValueError, one line, for one that makes no sense, or for more
    than float32 can bear."""
    beams, beam_groups = whole("beams", beams, 1, BEAMS_AT_MOST), whole("beam_groups", beam_groups, 1)
    if beams > 1 and beams % beam_groups and (top_k, top_p, temperature) == (None, None, None):
        raise ValueError(
            f"beam_groups is {beam_groups}: give a number that divides the {beams} beams; 1 is plain beam "
            "search"
        )
    if top_p is not None and number("top_p", top_p, 0, 1) == 0:
        raise ValueError(f"top_p is {top_p}: give a number of more than 0, at most 1")
    return {
        "beams": beams,
        "beam_groups": beam_groups,
        "top_k": None if top_k is None else whole("top_k", top_k, 1),
        "top_p": None if top_p is None else number("top_p", top_p, 0, 1),
        "temperature": None if temperature is None else number("temperature", temperature, 1e-6, 1e6),
        "seed": whole("seed", seed, 0),
        "repetition_penalty": number("repetition_penalty", repetition_penalty, 1e-6, 1e6),
        "diversity_penalty": number("diversity_penalty", diversity_penalty, 0, 1e6),
        "length_penalty": number("length_penalty", length_penalty, -100, 100),
        "textbook": flag("textbook", textbook),
    }


def rows_per_text(
    *,
    beams: int,
    beam_groups: int,
    diversity_penalty: float,
    top_k: int | None,
    top_p: float | None,
    temperature: float | None,
    **others: object,
) -> int:
    """Return how many rows of ids a text takes while it is generated; the keywords are those of `check`."""
    if (top_k, top_p, temperature) != (None, None, None):
        return 1
    return beams if diversity_penalty else max(1, beams // beam_groups)
