"""Exercises 5 to 7: greedy decoding, the key-value cache, beam search. They are judged by ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..model import generation, ops
from ..model.config import Array, Params, describe
from ..model.decoder import causal_mask
from ..model.generation import DecodingOptions, NextLogits
from ..model.hooks import replace_operations, trace
from ..model.ops import Mask, in_projection, linear, log_softmax, merge_heads
from .comparison import Case, Mistakes, called, compare
from .forward import attend
from .hints import HINTS
from .learner import Written
from .result import Verdict, Wrong
from .running import RunningModel, in_place_of

LONGEST = 20  # ids
BEAMS = 3
PROMPT = "a photo of"
GREEDY_SEED, BEAM_SEEDS = 18, (74, 69)  # of toy languages in which the common mistakes lead to other texts
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
                f"next_logits got {len(row)} ids, and max_length is {self.max_length}: stop before"
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
        lambda ids: logits(ids, np.arange(len(ids))),
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


def as_ids(says: str, result: Any) -> Array:
    """Return a learner's result as ids [L]. Raises Wrong for anything else."""
    if result is None:
        raise Wrong(f"For {says}, it returns None.", hint="does it end with a return?")
    try:
        ids = np.asarray(result)
    except ValueError:
        ids = np.asarray(None)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise Wrong(f"For {says}, it returns {describe(result)}: return the ids, a list or an array [L].")
    return ids


def judged(
    written: Written,
    language: Language,
    args: tuple[Any, ...],
    expected: Array,
    mistakes: Mistakes,
    tell: Callable[[Array], str],
    as_good: Callable[[Array], bool] = lambda ids: False,
) -> tuple[Array, Verdict | None]:
    """Call a learner's decoding; return its ids, and what is wrong with them, or None.

    tell: ids as they are shown. as_good: whether other ids than expected are right, too.
    """
    result = called(
        written, (language.for_learner, language.start_id, language.end_id, *args, language.max_length)
    )
    ids = as_ids(language.says, result)
    if np.array_equal(ids, expected) or as_good(ids):
        return ids, None
    hint = next((HINTS[name] for name, make in mistakes.items() if np.array_equal(make(), ids)), "")
    lines = (
        f"Given {language.says}, the ids differ.",
        f"Expected:  {tell(expected)}",
        f"Came:      {tell(ids)}",
    )
    return ids, Verdict(False, lines, hint)


def edge_mistakes(expected: Array, longer: Array) -> Mistakes:
    """Return mistakes at both ends of a text. longer: the ids if the end id and max_length did not end it."""
    return {
        "no_start": lambda: expected[1:],
        "no_end": lambda: expected[:-1],
        "never_ends": lambda: longer,
        "one_too_many": lambda: longer[: len(expected) + 1],
    }


def survived(
    running: RunningModel,
    language: Language,
    expected: Array,
    answers: Sequence[tuple[Array, Verdict | None]],
) -> Verdict:
    """Return the verdict on a decoding: the first that is wrong, and what becomes of the caption.

    language, expected: the clip's captions and the right one. answers: of `judged`, the last but one for it.
    """
    first = next((verdict for _, verdict in answers if verdict), None)
    caption = language.decode(answers[-2][0])
    if first:
        lines = (*first.lines, running.says(caption, language.decode(expected)))
        return replace(first, lines=lines, caption=caption)
    return Verdict(True, (f"The ids are right; the caption is {caption!r}.",), caption=caption)


# 5. Greedy decoding


def greedy(written: Written, running: RunningModel) -> Verdict:
    """Check `greedy`."""
    languages = [toy_language(GREEDY_SEED), clip_language(running, LONGEST), clip_language(running, 6)]
    expected = [greedy_ids(language) for language in languages]
    answers = [
        judged(written, language, (), ids, greedy_mistakes(language, ids), language.tell)
        for language, ids in zip(languages, expected, strict=True)
    ]
    return survived(running, languages[-2], expected[-2], answers)


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
        **edge_mistakes(expected, greedy_ids(language, end_id=-1)),
        "least_likely": lambda: greedy_ids(language, sign=-1),
        "last_id_alone": last_alone,
        "first_chosen_again": first_again,
        "one_too_few": lambda: greedy_ids(language, max_length=length - 1),
    }


# 6. The cache


def cached_attention(written: Written, running: RunningModel) -> Verdict:
    """Check `cached_attention`: call by call on random numbers, then in the model while it generates."""
    mistake = first_wrong_call(written)
    expected = [running.model.generate(running.caption_tokens, beams=1, prompt=text) for text in ("", PROMPT)]
    with trace({}), np.errstate(all="ignore"):  # {}: numbers that are not finite go through
        came = []
        for text in ("", PROMPT):  # a dict of caches for each text
            with replace_operations({"ops.attention": with_cache(written, running)}):
                came.append(running.model.generate(running.caption_tokens, beams=1, prompt=text))
    decode = running.model.require_tokenizer().decode
    caption = decode(came[0])
    if not mistake and all(map(np.array_equal, came, expected)):
        return Verdict(
            True, (f"The caption is still {caption!r}, each position computed once.",), caption=caption
        )
    lines = mistake.lines if mistake else ()
    if np.array_equal(came[0], expected[0]) and not np.array_equal(came[1], expected[1]):
        prompted = (
            f"With the prompt {PROMPT!r} it becomes {decode(came[1])!r}, instead of {decode(expected[1])!r}."
        )
        lines = (*lines, f"The caption survives, {caption!r}.", prompted)
    else:
        lines = (*lines, running.says(caption))
    return Verdict(False, lines, mistake.hint if mistake else "", caption)


CALLS = (1, 1, 3, 2)  # new positions in each call


def first_wrong_call(written: Written) -> Verdict | None:
    """Return what is wrong in the first of several calls with one cache that is, or None.

    Raises Wrong if a call fails or its result has the wrong form.
    """
    rng, cache = np.random.default_rng(0), dict[str, Array]()
    q, k, v = rng.standard_normal((3, 2, sum(CALLS), 8))  # [2, L, E], a batch of two
    ends = np.cumsum(CALLS)
    for i, (end, length) in enumerate(zip(ends, CALLS, strict=True)):
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
    old, mask = slice(0, new.start), causal_mask(length, end - length)
    last = slice(new.start - before, end)

    def other(keys: Array, values: Array, mask: Mask, heads: int = 2) -> Callable[[], Array]:
        return lambda: attend(q[:, new], keys, values, heads, mask)

    def first(x: Array) -> Array:
        return np.concatenate([x[:, new], x[:, old]], axis=1)

    return {
        "nothing_kept": other(k[:, new], v[:, new], causal_mask(length, 0)),
        "last_call_kept": other(k[:, last], v[:, last], causal_mask(length, before)),
        "cache_not_causal": other(k[:, :end], v[:, :end], None),
        "mask_without_offset": other(k[:, :end], v[:, :end], np.tri(length, end, dtype=bool)),
        "new_first": other(first(k), first(v), mask),
        "values_not_kept": other(k[:, :end], first(v), mask),
        "cached_heads": other(k[:, :end], v[:, :end], mask, 1),
    }


def with_cache(written: Written, running: RunningModel) -> Callable[[Any], Any]:
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
    languages = [*map(toy_language, BEAM_SEEDS), clip_language(running, LONGEST), clip_language(running, 6)]
    expected = [search_ids(language) for language in languages]
    answers = [
        judged_search(written, language, ids) for language, ids in zip(languages, expected, strict=True)
    ]
    return survived(running, languages[-2], expected[-2], answers)


def judged_search(written: Written, language: Language, expected: Array) -> tuple[Array, Verdict | None]:
    """Return the ids that a learner's beam search finds, and what is wrong with them, or None."""
    best = language.score(expected)

    def tell(ids: Array) -> str:
        score = f", score {language.score(ids):.3f}" if language.is_text(ids) else ""
        return language.tell(ids) + score

    def as_good(ids: Array) -> bool:
        return language.is_text(ids) and language.score(ids) >= best - 1e-6

    mistakes = search_mistakes(language, expected)
    ids, verdict = judged(written, language, (BEAMS,), expected, mistakes, tell, as_good)
    return ids, verdict and replace(verdict, hint=verdict.hint or HINTS["lower_score"])


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
        "no_start": lambda: expected[1:],
        "no_end": lambda: expected[:-1],
        "greedy_text": lambda: greedy_ids(language),
        "sum_alone": lambda: search_ids(language, length_penalty=0),
        "raw_logits": lambda: search_ids(language, generation.raw_logits),
        "probabilities": lambda: search_ids(language, ops.softmax),
    }
