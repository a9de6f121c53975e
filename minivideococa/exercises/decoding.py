"""Exercises 5 to 7: greedy decoding, the key-value cache, beam search. They are judged by ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ..model import generation, ops
from ..model.config import Array, Params, describe
from ..model.decoder import causal_mask
from ..model.generation import DecodingOptions, NextLogits
from ..model.hooks import replace_operations, trace
from ..model.ops import Mask, in_projection, linear, log_softmax, merge_heads
from ..verify.changes import Make
from .comparison import Case, Mistakes, called, compare
from .forward import attend
from .hints import HINTS
from .learner import Written
from .result import Verdict, Wrong
from .running import RunningModel, in_place_of

LONGEST, SHORT = 20, 6  # ids
BEAMS = 3
PROMPT = "a photo of"
GREEDY_SEED, BEAM_SEEDS = 18, (2941, 69)  # of toy languages in which the common mistakes lead to other texts
WORDS = ("<start>", "<end>", "a", "red", "ring", "star")


@dataclass(frozen=True)
class Language:
    """What a text is decoded from: the logits of the next token, and how ids are shown.

    next_logits: ids [R, L] -> logits [R, V]. decode: ids -> a text.
    """

    says: str
    next_logits: Callable[[Array], Array]
    decode: Callable[[Array], str]
    start_id: int
    end_id: int
    max_length: int

    @property
    def for_search(self) -> NextLogits:
        """The same function as `generation` calls it."""
        return lambda ids, rows: self.next_logits(ids)

    def for_learner(self, ids: Any) -> Array:
        """Return the logits [V] of the token after ids [L]. Raises ValueError for what has no next token."""
        row = np.asarray(ids)
        if row.ndim != 1 or row.dtype.kind not in "iu" or not row.size:
            raise ValueError(f"next_logits takes ids [L], whole numbers; it got {describe(ids)}")
        if len(row) >= self.max_length:
            raise ValueError(
                f"next_logits got {len(row)} ids, and max_length is {self.max_length}, start and end included"
            )
        return self.next_logits(row[None])[0]

    def score(self, ids: Array) -> float:
        """Return the textbook's score of a text: the mean log-probability over its ids."""
        steps = (log_softmax(self.next_logits(ids[None, :i]))[0, ids[i]] for i in range(1, len(ids)))
        return float(sum(steps)) / len(ids)

    def is_text(self, ids: Array) -> bool:
        """Return whether these are the ids of a finished text."""
        ends = np.flatnonzero(ids == self.end_id)
        whole = len(ids) == self.max_length if not ends.size else ends[0] == len(ids) - 1
        return bool(whole and 1 < len(ids) <= self.max_length and ids[0] == self.start_id)

    def tell(self, ids: Array) -> str:
        """Return ids and the text that they stand for."""
        return f"{' '.join(map(str, ids))}  ({self.decode(ids)!r})"


def clip_language(running: RunningModel, max_length: int) -> Language:
    """Return the clip's captions, from the model without a cache."""
    model = running.model
    logits = generation.model_logits(model.params, model.config, running.caption_tokens[None], cache=False)
    decode, tokenizer = model.require_tokenizer().decode, model.tokenizer
    return Language(
        f"the clip, at most {max_length} ids",
        lambda ids: logits(ids, np.zeros(len(ids), int)),  # all rows are about the one video
        decode,
        tokenizer.start_id,
        tokenizer.end_id,
        max_length,
    )


def toy_language(seed: int, max_length: int = 7) -> Language:
    """Return a language of six tokens: the last token decides the probabilities of the next.

    The logits of each token have an offset of their own, which changes no probability.
    """
    rng = np.random.default_rng(seed)
    table = 2 * rng.standard_normal((len(WORDS), len(WORDS))) + 4 * rng.standard_normal((len(WORDS), 1))
    table[:, 0] = table.min() - 20  # the start id comes only once

    def decode(ids: Array) -> str:
        return " ".join(WORDS[i] if 0 <= i < len(WORDS) else "?" for i in ids)

    return Language(
        f"a language of {len(WORDS)} tokens", lambda ids: table[ids[:, -1]], decode, 0, 1, max_length
    )


class Answer(NamedTuple):
    """A learner's ids [L] and the right ones; if they differ, how, and the mistakes that give a learner's."""

    ids: Array
    expected: Array
    lines: tuple[str, ...] = ()
    mistakes: Sequence[str] = ()


def as_ids(says: str, result: Any) -> Array:
    """Return a learner's result as ids [L]. Raises Wrong for anything else."""
    if result is None:
        raise Wrong(f"Given {says}, it returns None.", hint="does it end with a return?")
    try:
        ids = np.asarray(result)
    except ValueError:
        ids = np.asarray(None)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise Wrong(f"Given {says}, it returns {describe(result)}: return the ids, a list or an array [L].")
    return ids


def judged(
    written: Written,
    language: Language,
    args: tuple[Any, ...],
    expected: Array,
    mistakes: Mistakes,
    tell: Callable[[Array], str],
    as_good: Callable[[Array], bool] = lambda ids: False,
) -> Answer:
    """Call a learner's decoding, and compare its ids.

    tell: ids as they are shown. as_good: whether other ids than expected are right, too.
    """
    arguments = language.for_learner, language.start_id, language.end_id, *args, language.max_length
    result = called(written, arguments, language.says)
    ids = as_ids(language.says, result)
    if np.array_equal(ids, expected) or as_good(ids):
        return Answer(ids, expected)
    lines = (
        f"Given {language.says}, the ids differ.",
        f"Expected:  {tell(expected)}",
        f"Came:      {tell(ids)}",
    )
    same = [name for name, make in mistakes.items() if np.array_equal(make(), ids)]
    return Answer(ids, expected, lines, same)


def end_mistakes(language: Language, expected: Array) -> Mistakes:
    """Return the common mistakes at the ends of a text."""
    end = 1 if expected[-1] == language.end_id else 0
    return {"no_start": lambda: expected[1:], "no_end": lambda: expected[: len(expected) - end]}


def verdict_on(
    running: RunningModel, ask: Callable[[Language], Answer], toys: Sequence[int], default: str = ""
) -> Verdict:
    """Ask a learner's decoding for texts of toy languages and of the clip, and return the verdict.

    The hint is that of the mistake which explains most answers, or `default`. Raises Wrong if it fails.
    """
    whole, cut = (clip_language(running, length) for length in (LONGEST, SHORT))
    answers: list[Answer] = []
    try:
        for language in (*map(toy_language, toys), whole, cut):
            answers.append(ask(language))  # noqa: PERF401 (those before an error are used)
    except Wrong:
        if not any(answer.lines for answer in answers):
            raise
    wrong = [answer for answer in answers if answer.lines]
    clip = answers[len(toys)] if len(answers) > len(toys) else None
    caption = whole.decode(clip.ids) if clip else None
    if not wrong:
        return Verdict(True, (f"The ids are right; the caption is {caption!r}.",), caption=caption)
    survives = [running.says(caption, whole.decode(clip.expected))] if clip else []
    names = [name for answer in wrong for name in answer.mistakes]
    hint = HINTS[max(names, key=names.count)] if names else default
    return Verdict(False, (*wrong[0].lines, *survives), hint, caption)


# 5. Greedy decoding


def greedy(written: Written, running: RunningModel) -> Verdict:
    """Check `greedy`."""

    def ask(language: Language) -> Answer:
        ids = greedy_ids(language)
        return judged(written, language, (), ids, greedy_mistakes(language, ids), language.tell)

    return verdict_on(running, ask, [GREEDY_SEED])


def greedy_ids(language: Language, end_id: int | None = None, max_length: int = 0, sign: int = 1) -> Array:
    """Return the ids of the package's greedy decoding; with sign -1 those of the least likely tokens."""
    return generation.greedy(
        language.for_search,
        np.array([[language.start_id]]),
        [lambda ids, logits: sign * logits],
        max_length or language.max_length,
        language.end_id if end_id is None else end_id,
    )[0]


def greedy_mistakes(language: Language, expected: Array) -> Mistakes:
    """Return the common mistakes in greedy decoding."""
    length = language.max_length

    def last_alone() -> Array:
        narrow = replace(language, next_logits=lambda ids: language.next_logits(ids[:, -1:]))
        return greedy_ids(narrow)

    def first_again() -> Array:
        return greedy_ids(replace(language, next_logits=lambda ids: language.next_logits(ids[:, :1])))

    return {
        **end_mistakes(language, expected),
        "never_ends": lambda: greedy_ids(language, end_id=-1),
        "least_likely": lambda: greedy_ids(language, sign=-1),
        "last_id_alone": last_alone,
        "first_chosen_again": first_again,
        "one_too_few": lambda: greedy_ids(language, max_length=length - 1),
    }


# 6. The cache


def cached_attention(written: Written, running: RunningModel) -> Verdict:
    """Check `cached_attention`: call by call on random numbers, then in the model while it generates."""
    mistake = first_wrong_call(written)
    try:
        came = [decode(running, text, with_cache(written, running)) for text in ("", PROMPT)]
    except Wrong:
        if mistake:
            return mistake
        raise
    expected = [decode(running, text) for text in ("", PROMPT)]
    if not mistake and came == expected:
        says = f"The caption is still {came[0]!r}, each position computed once."
        return Verdict(True, (says,), caption=came[0])
    lines = [*(mistake.lines if mistake else ()), running.says(came[0], expected[0])]
    if came[1] != expected[1]:
        lines.append(f"With the prompt {PROMPT!r} it becomes {came[1]!r}, instead of {expected[1]!r}.")
    return Verdict(False, tuple(lines), mistake.hint if mistake else "", came[0])


def decode(running: RunningModel, prompt: str, attention: Make | None = None) -> str:
    """Return the clip's caption after a prompt, by greedy decoding, with other attention in the model."""
    model, tokens = running.model, running.caption_tokens
    replaced = {"ops.attention": attention} if attention else {}
    with replace_operations(replaced), trace({}), np.errstate(all="ignore"):  # {}: NaN goes through
        ids = model.generate(tokens, beams=1, prompt=prompt)
    return str(model.require_tokenizer().decode(ids))


CALLS = (1, 1, 3, 2)  # new positions in each call
ENDS = tuple(accumulate(CALLS))  # positions in the cache after each


def first_wrong_call(written: Written) -> Verdict | None:
    """Return what is wrong in the first of several calls with one cache that is, or None.

    Raises Wrong if a call fails or its result has the wrong form.
    """
    rng, cache = np.random.default_rng(0), dict[str, Array]()
    q, k, v = rng.standard_normal((3, 2, sum(CALLS), 8))  # [2, L, E], a batch of two
    for i, (end, length) in enumerate(zip(ENDS, CALLS, strict=True)):
        new = slice(end - length, end)
        expected = attend(q[:, new], k[:, :end], v[:, :end], 2, causal_mask(length, end - length))
        says = f"{length} new position{'s' * (length > 1)} after {end - length} in the cache (call {i + 1})"
        result = written(q[:, new].copy(), k[:, new].copy(), v[:, new].copy(), cache, 2)
        verdict = compare(Case(says, (), expected, cache_mistakes(q, k, v, new, i)), result)
        if verdict:
            return verdict
    return None


def cache_mistakes(q: Array, k: Array, v: Array, new: slice, call: int) -> Mistakes:
    """Return the common mistakes in the cache, in one of the `CALLS`."""
    end, length = new.stop, new.stop - new.start
    before = CALLS[call - 1] if call else 0
    mask = causal_mask(length, end - length)
    last = slice(new.start - before, end)

    def other(keys: Array, values: Array, mask: Mask, heads: int = 2) -> Callable[[], Array]:
        return lambda: attend(q[:, new], keys, values, heads, mask)

    def reversed_calls(x: Array) -> Array:
        return np.concatenate(
            [x[:, end - n : end] for n, end in zip(CALLS, ENDS, strict=True)][call::-1], axis=1
        )

    return {
        "nothing_kept": other(k[:, new], v[:, new], causal_mask(length, 0)),
        "last_call_kept": other(k[:, last], v[:, last], causal_mask(length, before)),
        "cache_not_causal": other(k[:, :end], v[:, :end], None),
        "mask_without_offset": other(k[:, :end], v[:, :end], np.tri(length, end, dtype=bool)),
        "new_first": other(reversed_calls(k), reversed_calls(v), mask),
        "cached_heads": other(k[:, :end], v[:, :end], mask, 1),
    }


def with_cache(written: Written, running: RunningModel) -> Make:
    """Return what makes the self-attention of text and decoder run a learner's function, with new caches.

    The model extends its own caches all the same, so it knows how many positions are in them.
    """
    params = running.model.params
    blocks = [*params["text"]["transformer"]["resblocks"], *params["text_decoder"]["resblocks"]]
    cached = {id(block["attn"]) for block in blocks}
    caches: defaultdict[int, dict[str, Array]] = defaultdict(dict)

    def make(operation: Callable[..., Array]) -> Callable[..., Array]:
        def run(x: Array, keys: Array, values: Array, p: Params, heads: int, mask: Mask = None) -> Array:
            ours = operation(x, keys, values, p, heads, mask)
            if id(p) not in cached:
                return ours
            new = [merge_heads(y[..., -x.shape[-2] :, :]) for y in (keys, values)]
            queries = linear(x, *in_projection(p, "q"))
            return linear(in_place_of(ours, written, queries, *new, caches[id(p)], heads), **p["out_proj"])

        return run

    return make


# 7. Beam search


def beam_search(written: Written, running: RunningModel) -> Verdict:
    """Check `beam_search`. Other ids are right too if their score is as high."""
    return verdict_on(running, partial(judged_search, written), BEAM_SEEDS, HINTS["lower_score"])


def judged_search(written: Written, language: Language) -> Answer:
    """Call a learner's beam search, and compare its ids and their score."""
    expected = search_ids(language)
    best = language.score(expected)

    def tell(ids: Array) -> str:
        score = f", score {language.score(ids):.3f}" if language.is_text(ids) else ""
        return language.tell(ids) + score

    def as_good(ids: Array) -> bool:
        return language.is_text(ids) and language.score(ids) >= best - 1e-6

    mistakes = search_mistakes(language, expected)
    return judged(written, language, (BEAMS,), expected, mistakes, tell, as_good)


def search_ids(
    language: Language, token_scores: Callable[[Array], Array] = log_softmax, length_penalty: float = 1
) -> Array:
    """Return the ids of the package's beam search, by the textbook's scores or others."""
    options = DecodingOptions(
        beams=BEAMS,
        beam_groups=1,
        min_length=0,
        max_length=language.max_length,
        length_penalty=length_penalty,
    )
    start, end_id = np.array([[language.start_id]]), language.end_id
    return generation.beam_search(language.for_search, start, [], options, end_id, end_id, token_scores)[0][0]


def search_mistakes(language: Language, expected: Array) -> Mistakes:
    """Return the common mistakes in beam search."""
    return {
        **end_mistakes(language, expected),
        "greedy_text": lambda: greedy_ids(language),
        "sum_alone": lambda: search_ids(language, length_penalty=0),
        "raw_logits": lambda: search_ids(language, generation.raw_logits),
        "probabilities": lambda: search_ids(language, ops.softmax),
    }
