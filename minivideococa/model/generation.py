"""Autoregressive decoding: greedy decoding, sampling and beam search, with a key-value cache.

Every strategy works on rows of ids, several at a time, and on `NextLogits`. Logits processors change the
logits before a strategy uses them. The strategies are written in their textbook form. `OPEN_CLIP` lists what
open_clip's `generate` does differently (up to version 3.3.0, with transformers 4.49.0); it is the default, so
that the ids are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from . import decoder, text
from .config import (
    Array,
    Callback,
    Config,
    Options,
    Params,
    TextConfig,
    check_bool,
    check_finite,
    check_int,
    check_text,
    choice,
    integer,
    number,
    option,
)
from .hooks import record_texts
from .kernels import map_texts
from .ops import linear, log_softmax, softmax
from .transformer import KV, KVCache, KVCaches, cache_length

if TYPE_CHECKING:
    from .videococa import VideoCoCa

# (ids int64 [R, L], rows int64 [R]) -> logits [R, V] of the token after each row. Row i of the ids continues
# what was row rows[i] in the call before, by one token: this is all that a cache needs. In the first call row
# i is about video rows[i]. Videos whose texts are finished have no rows any more.
NextLogits = Callable[[Array, Array], Array]
LogitsProcessor = Callable[[Array, Array], Array]  # (ids [R, L], logits [R, V]) -> logits [R, V]
Choose = Callable[[Array, Array], Array]  # (logits [R, V], texts int64 [R]) -> ids [R]

MAX_BEAMS = 1000  # a search with more takes hours, even with a small model


# Options


@dataclass(frozen=True)
class DecodingOptions(Options):
    """How a text is generated: the keywords of `VideoCoCa.generate` and the flags of the command line.

    With `top_k`, `top_p` or `temperature` the tokens are sampled, by `seed`; otherwise beam search with
    `beams` beams, and with one beam greedy decoding. `max_length` counts all ids, `min_length` those before
    the end token.

    Raises ValueError, one line that names the field, for a value that makes no sense, and for more than 1000
    beams.
    """

    beams: int = option(6, integer(1, MAX_BEAMS), "beams of the beam search; 1 is greedy decoding", "N")
    beam_groups: int | None = option(
        None,
        integer(1),
        "groups of beams; without a diversity penalty all find the same (default: 3 for 6 beams, else 1)",
        "N",
    )
    min_length: int = option(
        5, integer(0), "fewest tokens before the end token, the start token included", "N"
    )
    max_length: int | None = option(
        None,
        integer(),
        "most tokens, start and end included (default: 30, or the context length if that is less)",
        "N",
    )
    prompt: str = option("", check_text, "text that the generated text continues", "TEXT")
    top_k: int | None = option(None, integer(1), "sample from the N most likely tokens", "N")
    top_p: float | None = option(
        None,
        number(0, 1),
        "sample from the most likely tokens whose probabilities add up to P (nucleus sampling)",
        "P",
    )
    temperature: float | None = option(None, number(0, 1e6), "sample with the logits divided by X", "X")
    seed: int = option(0, integer(0), "seed of the sampling", "N")
    repetition_penalty: float = option(
        1.0, number(1e-6, 1e6), "above 1, tokens that are already in the text become less likely", "X"
    )
    diversity_penalty: float = option(
        0.0, number(0, 1e6), "penalty of a group of beams for a token that earlier groups chose", "X"
    )
    length_penalty: float = option(
        1.0, number(-100, 100), "the score of a beam is divided by its length to the power of X", "X"
    )
    candidates: int = option(
        1, integer(1, MAX_BEAMS), "number of texts to return, the best of one beam search", "N"
    )
    convention: Literal["open_clip", "textbook"] = option(
        "open_clip",
        choice(("open_clip", "textbook")),
        "follow open_clip's generate, or the textbook: sums of log-probabilities, one group of beams",
    )
    start_id: int | None = option(
        None, integer(0), "first id (default: the tokenizer's start token, or CLIP's, V - 2)"
    )
    end_id: int | None = option(
        None, integer(0), "id that ends a text (default: the tokenizer's end token, or CLIP's, V - 1)"
    )
    cache: bool = option(True, check_bool, "keep keys and values from one token to the next")

    kind = "decoding"

    @classmethod
    def create(cls, options: DecodingOptions | None = None, **keywords: Any) -> DecodingOptions:
        """Return the options, some replaced by keywords. `textbook=True` stands for `convention="textbook"`.

        Raises TypeError for an unknown keyword, and ValueError as the class itself.
        """
        if check_bool("textbook", keywords.pop("textbook", False)):
            keywords["convention"] = "textbook"
        return super().create(options, **keywords)

    def check_together(self) -> None:
        """Raise ValueError for values that are invalid alone or in combination."""
        if self.top_p == 0:
            raise ValueError(f"top_p is {self.top_p}: give a number of more than 0, at most 1")
        if self.temperature is not None and self.temperature < 1e-6:
            raise ValueError(
                f"temperature is {self.temperature}: give a number of 1e-06 or more; for the most likely "
                "token give beams=1 and no temperature"
            )
        if not self.is_sampling and self.beams > 1 and self.beams % self.groups:
            raise ValueError(
                f"beam_groups is {self.beam_groups}: give a number that divides the {self.beams} beams; 1 is "
                "plain beam search"
            )
        if self.candidates > 1 and self.is_sampling:
            raise ValueError("candidates needs beam search: leave out top_k, top_p and temperature")
        if self.candidates > self.rows_per_text:
            raise ValueError(
                f"candidates is {self.candidates}: this search has {self.rows_per_text} beams; give more "
                "beams, in one group (beam_groups=1)"
            )

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are sampled."""
        return (self.top_k, self.top_p, self.temperature) != (None, None, None)

    @property
    def groups(self) -> int:
        """The number of groups of beams."""
        if self.beam_groups is not None:
            return self.beam_groups
        return 3 if self.beams == 6 and self.candidates == 1 and self.convention == "open_clip" else 1

    @property
    def computed_groups(self) -> int:
        """The number of groups that are computed: one if nothing makes them differ."""
        return self.groups if self.diversity_penalty else 1

    @property
    def rows_per_text(self) -> int:
        """The number of rows of ids that a text takes while it is generated."""
        if self.is_sampling:
            return 1
        return max(1, self.beams // self.groups) * self.computed_groups


class Convention(NamedTuple):
    """What open_clip's `generate` and the textbook do differently, one choice per field."""

    token_scores: Callable[[Array], Array]  # what beam search sums: log-probabilities, or the raw logits
    temperature_first: bool  # in sampling, the temperature acts before top_k and top_p, or after them
    padding_ends: bool  # in sampling, the padding id ends a text too
    end_is_forced: bool  # in sampling, a text that reaches the maximum length gets the end token as its last


def raw_logits(logits: Array) -> Array:
    """Return the logits themselves: open_clip's beam search sums them without a log-softmax."""
    return logits


TEXTBOOK = Convention(log_softmax, temperature_first=True, padding_ends=False, end_is_forced=False)
OPEN_CLIP = Convention(raw_logits, temperature_first=False, padding_ends=True, end_is_forced=True)
CONVENTIONS = {"open_clip": OPEN_CLIP, "textbook": TEXTBOOK}


# Logits processors


def suppress_end(min_length: int, end_id: int) -> LogitsProcessor:
    """Forbid the end token while there are fewer than `min_length` ids, the start token included."""

    def process(ids: Array, logits: Array) -> Array:
        suppressed = (np.arange(logits.shape[-1]) == end_id) & (ids.shape[1] < min_length)
        return np.where(suppressed, -np.inf, logits)

    return process


def penalize_repetition(penalty: float) -> LogitsProcessor:
    """Divide the logits of ids that a row already has by the penalty; multiply those that are negative.

    CTRL (arXiv 1909.05858, section 4.1).
    """

    def process(ids: Array, logits: Array) -> Array:
        logits = logits.copy()
        old = np.take_along_axis(logits, ids, axis=1)
        np.put_along_axis(logits, ids, np.where(old < 0, old * penalty, old / penalty), axis=1)
        return logits

    return process


def top_k(k: int) -> LogitsProcessor:
    """Keep the k most likely tokens (arXiv 1805.04833, section 5.4), and those that tie with the last one."""

    def process(ids: Array, logits: Array) -> Array:
        n = min(k, logits.shape[-1])
        threshold = np.partition(logits, -n, axis=-1)[:, -n, None]
        return np.where(logits < threshold, -np.inf, logits)

    return process


def top_p(p: float) -> LogitsProcessor:
    """Keep the fewest most likely tokens whose probabilities add up to p, at least one.

    Nucleus sampling (arXiv 1904.09751, section 3.1).
    """

    def process(ids: Array, logits: Array) -> Array:
        order = np.argsort(logits, axis=-1, kind="stable")  # least likely first
        ordered = np.take_along_axis(logits, order, axis=-1)
        removed = np.cumsum(softmax(ordered), axis=-1) <= 1 - p
        removed[:, -1] = False
        logits = logits.copy()
        np.put_along_axis(logits, order, np.where(removed, -np.inf, ordered), axis=-1)
        return logits

    return process


def temperature(t: float) -> LogitsProcessor:
    """Divide the logits by t: below 1 the distribution becomes sharper, above 1 flatter."""
    return lambda ids, logits: logits / t


def process_logits(processors: Sequence[LogitsProcessor], ids: Array, logits: Array) -> Array:
    """Apply logits processors in their order."""
    for process in processors:
        logits = process(ids, logits)
    return logits


# Greedy decoding and sampling


def greedy(
    next_logits: NextLogits,
    ids: Array,
    processors: Sequence[LogitsProcessor],
    max_length: int,
    end_id: int,
    progress: Callback = None,
) -> list[Array]:
    """Append the most likely token to rows of ids [R, L0] until the end token or `max_length`: R texts."""
    ended = np.zeros(len(ids), bool)
    return _append(
        next_logits,
        ids,
        processors,
        lambda logits, texts: logits.argmax(-1),
        max_length,
        [end_id],
        ended,
        progress,
    )


def sample(
    next_logits: NextLogits,
    ids: Array,
    processors: Sequence[LogitsProcessor],
    seed: int,
    max_length: int,
    end_ids: Sequence[int],
    end_is_forced: bool = False,
    progress: Callback = None,
) -> list[Array]:
    """Append a token drawn by its probability to ids [R, L0] until one of `end_ids` or `max_length`: R texts.

    Each row has a random generator of its own, so that a text does not depend on the batch. `end_is_forced`:
    the first of `end_ids` becomes the last token at `max_length`, and a prompt that ends with one of them is
    a whole text.
    """
    ended = np.isin(ids[:, -1], end_ids) & end_is_forced
    last = end_ids[0] if end_is_forced else None
    choose = sampler(len(ids), seed)
    return _append(next_logits, ids, processors, choose, max_length, end_ids, ended, progress, last)


def sampler(count: int, seed: int) -> Choose:
    """Return a choice by probability, with a random generator for each of `count` texts."""
    generators = [np.random.default_rng([seed, text]) for text in range(count)]

    def choose(logits: Array, texts: Array) -> Array:
        cumulative = np.cumsum(softmax(logits.astype(np.float64)), axis=-1)
        draws = ((row, generators[text].random()) for row, text in zip(cumulative, texts, strict=True))
        return np.array([np.searchsorted(row, draw * row[-1], side="right") for row, draw in draws])

    return choose


def _append(
    next_logits: NextLogits,
    ids: Array,
    processors: Sequence[LogitsProcessor],
    choose: Choose,
    max_length: int,
    end_ids: Sequence[int],
    ended: Array,
    progress: Callback,
    last: int | None = None,
) -> list[Array]:
    """Append chosen tokens to ids [R, L0] until all texts have ended. last: a fixed token at `max_length`."""
    results = list(ids)
    rows = running = np.flatnonzero(~ended)  # texts
    ids = ids[rows]
    while len(running) and ids.shape[1] < max_length:
        chosen = choose(process_logits(processors, ids, next_logits(ids, rows)), running)
        if last is not None and ids.shape[1] + 1 == max_length:
            chosen[:] = last
        ids = np.append(ids, chosen[:, None], axis=1)
        for i, row in zip(running, ids, strict=True):
            results[i] = row
        rows = np.flatnonzero(~np.isin(chosen, end_ids))
        ids, running = ids[rows], running[rows]
        if progress:
            progress(1)
    return results


# Beam search


class Hypothesis(NamedTuple):
    """A finished text of a beam search."""

    score: float  # the sum of its token scores, by its length
    ids: Array  # int64 [L], without the end token


class Beams:
    """The beams of one video, or a group of them: `size` running texts and the best `size` finished ones."""

    def __init__(self, size: int, length_penalty: float) -> None:
        self.size, self.length_penalty = size, length_penalty
        # in float32, as in open_clip; all beams begin with the same ids, so only the first counts
        self.totals = np.full(size, -1e9, np.float32)
        self.totals[0] = 0
        self.finished: list[Hypothesis] = []
        self.done = False

    def score(self, total: float, length: int) -> float:
        """Return the score by which texts of different lengths are compared."""
        return float(total) / length**self.length_penalty

    def step(self, ids: Array, token_scores: Array, end_id: int) -> tuple[Array, Array]:
        """Extend all beams by a token: ids [size, L], token scores [size, V] -> beams to continue, tokens.

        The search is done when the worst finished text scores at least as high as the best extension would if
        it ended here.
        """
        totals = token_scores + self.totals[:, None]
        beam, token = np.divmod(best_indices(totals.ravel(), 2 * self.size), token_scores.shape[1])
        length = ids.shape[1] + 1
        for b in beam[: self.size][token[: self.size] == end_id]:
            self.finish(totals[b, end_id], length, ids[b])
        attainable = self.score(totals.max(), length)
        self.done = len(self.finished) == self.size and min(self.finished, key=_score).score >= attainable
        # at least `size` of the 2 size candidates go on, since each beam can end only once
        running = token != end_id
        beam, token = beam[running][: self.size], token[running][: self.size]
        self.totals = totals[beam, token].astype(np.float32)
        return beam, token

    def finish(self, total: float, length: int, ids: Array) -> None:
        """Keep a finished text if it is among the best `size`."""
        new = Hypothesis(self.score(total, length), ids)
        if len(self.finished) == self.size:
            worst = min(self.finished, key=_score)
            if new.score <= worst.score:
                return
            self.finished = [text for text in self.finished if text is not worst]
        self.finished.append(new)

    def cut_off(self, ids: Array) -> None:
        """Finish the running texts [size, L], which cannot become longer, unless the search is done."""
        for beam, row in enumerate(ids):
            if not self.done:
                self.finish(self.totals[beam], len(row), row)


def _score(hypothesis: Hypothesis) -> float:
    return hypothesis.score


def beam_search(
    next_logits: NextLogits,
    ids: Array,
    processors: Sequence[LogitsProcessor],
    options: DecodingOptions,
    end_id: int,
    pad_id: int,
    token_scores: Callable[[Array], Array] = log_softmax,
    progress: Callback = None,
) -> list[list[Array]]:
    """Search for the texts with the highest scores: ids [B, L0] -> the best candidates of each of B videos.

    A text's score is the sum of the log-probabilities of its generated tokens, divided by its length (with
    start, prompt and end tokens) to the power of `options.length_penalty`. open_clip sums other
    `token_scores`, the raw logits, and searches in groups of beams, which `options.diversity_penalty` makes
    differ.
    """
    max_length, groups = options.max_length or 0, options.computed_groups
    beams = options.beams // options.groups
    searches = [Beams(beams, options.length_penalty) for _ in range(len(ids) * groups)]
    rows, running = np.repeat(np.arange(len(ids)), groups * beams), searches
    ids = ids[rows]  # video by video, and in each, group by group
    while running and ids.shape[1] < max_length:
        scores = process_logits(processors, ids, token_scores(next_logits(ids, rows)))
        rows, tokens = _step_all(running, groups, ids, scores, options.diversity_penalty, end_id, pad_id)
        kept = np.repeat(_unfinished(running, groups), beams)  # of the rows
        ids, rows = np.append(ids[rows], tokens[:, None], axis=1)[kept], rows[kept]
        running = [search for search, keep in zip(running, kept[::beams], strict=True) if keep]
        if progress:
            progress(1)
    for search, texts in zip(running, ids.reshape(-1, beams, ids.shape[1]), strict=True):
        search.cut_off(texts)
    videos = [searches[i : i + groups] for i in range(0, len(searches), groups)]
    return [_best(video, options.candidates, max_length, end_id) for video in videos]


def _unfinished(searches: Sequence[Beams], groups: int) -> Array:
    """Return for each search whether any group of its video is still running: bool [searches]."""
    done = np.array([search.done for search in searches]).reshape(-1, groups)
    return np.repeat(~done.all(axis=1), groups)


def _best(searches: Sequence[Beams], candidates: int, max_length: int, end_id: int) -> list[Array]:
    """Return the ids of the best finished texts of a video's groups, with their end tokens."""
    finished = [text for search in searches for text in search.finished]
    finished.reverse()  # of equal scores, the text that finished last
    best = sorted(finished, key=_score, reverse=True)[:candidates]
    return [text.ids if len(text.ids) == max_length else np.append(text.ids, end_id) for text in best]


def _step_all(
    searches: Sequence[Beams],
    groups: int,
    ids: Array,
    scores: Array,
    diversity_penalty: float,
    end_id: int,
    pad_id: int,
) -> tuple[Array, Array]:
    """Extend the beams of every search by a token: ids [R, L], scores [R, V] -> row to continue, token [R].

    A token's score is lowered by `diversity_penalty` for each time an earlier group of the video chose it
    at this position (arXiv 1610.02424, section 3).
    """
    rows, tokens = np.arange(len(ids)), np.full(len(ids), pad_id)
    for i, search in enumerate(searches):
        first = i * search.size
        own, earlier = slice(first, first + search.size), slice(first - (i % groups) * search.size, first)
        if not search.done:
            chosen = np.bincount(tokens[earlier], minlength=scores.shape[1]).astype(scores.dtype)
            beam, tokens[own] = search.step(ids[own], scores[own] - diversity_penalty * chosen, end_id)
            rows[own] = first + beam
    return rows, tokens


def best_indices(x: Array, n: int) -> Array:
    """Return the indices of the n highest of x [M], best first; of equal ones the first."""
    candidates = np.flatnonzero(x >= np.partition(x, -n)[-n])  # sorting all V logits would take longer
    return candidates[np.argsort(-x[candidates], kind="stable")[:n]]


# The model's logits


def model_logits(params: Params, config: Config, caption_tokens: Array, cache: bool = True) -> NextLogits:
    """Return the model's `NextLogits` for caption tokens [B, Q', E] and R / B rows of ids per video.

    With a key-value cache each call computes the new position alone; without, all positions again.
    """
    unimodal, multimodal = params["text"], params["text_decoder"]
    kv = decoder.cross_attention_kv(caption_tokens, multimodal, config.decoder)
    videos = np.arange(len(caption_tokens))  # of the rows
    text_caches: list[KVCache] = [{} for _ in unimodal["transformer"]["resblocks"]]
    decoder_caches: list[KVCache] = [{} for _ in multimodal["resblocks"]]

    def cached(ids: Array, rows: Array) -> Array:
        reorder_caches(text_caches + decoder_caches, rows)
        features = encode_new_tokens(ids, unimodal, config.text, text_caches)
        return last_logits(features, rows, decoder_caches)

    def uncached(ids: Array, rows: Array) -> Array:
        _, features = text.encode_text(ids, unimodal, config.text)
        return last_logits(features, rows)

    def last_logits(features: Array, rows: Array, caches: KVCaches = None) -> Array:
        nonlocal kv, videos
        kv, videos = leave_out_finished(kv, videos[rows])
        logits = decoder.decode(features, kv, multimodal, config.decoder, caches)
        return check_finite("the logits are", logits[:, -1])

    return cached if cache else uncached


def leave_out_finished(kv: list[KV], videos: Array) -> tuple[list[KV], Array]:
    """Keep the keys and values of the `videos` of the rows [R]; number these videos anew."""
    kept, videos = np.unique(videos, return_inverse=True)
    return kv if len(kept) == len(kv[0][0]) else [(keys[kept], values[kept]) for keys, values in kv], videos


def encode_new_tokens(ids: Array, unimodal: Params, config: TextConfig, caches: list[KVCache]) -> Array:
    """Encode those of ids [R, L] that follow the M positions in the caches -> token features [R, L - M, E].

    The transformer is causal: later positions, and so the class embedding, change no feature before them.
    """
    ids, new = record_texts("ids", ids), slice(cache_length(caches), -1)
    mask = text.attention_mask(ids, config.pad_id, config.correct_cls_mask)[..., new, :-1]
    return text.transformer(text.embed(ids, unimodal)[:, new], mask, unimodal, config, caches)


def reorder_caches(caches: list[KVCache], rows: Array) -> None:
    """Let row i of each cache [R, ...] continue what was row rows[i]."""
    for cache in caches:
        cache.update((name, x[rows]) for name, x in cache.items())


# The log-probabilities of given texts

POSITIONS = 256  # of which logits are computed at a time; those of one take V numbers


def score_texts(
    model: VideoCoCa,
    caption_tokens: Array,
    ids: Array,
    lengths: Array,
    begin: int = 1,
    progress: Callback = None,
) -> Array:
    """Return the log-probability of each text's ids from position `begin` on, given those before them: [B].

    ids: [B, L], of which `lengths` [B] count; about the video with these caption tokens [1, Q', E]. What all
    texts begin with is computed once, and its keys and values are the cache that each of them continues.
    """
    unimodal, multimodal, config = model.params["text"], model.params["text_decoder"], model.config
    kv = decoder.cross_attention_kv(caption_tokens, multimodal, config.decoder)
    blocks = len(unimodal["transformer"]["resblocks"])
    caches: list[KVCache] = [{} for _ in range(blocks + len(multimodal["resblocks"]))]
    shared, project = shared_length(ids, lengths), multimodal["text_projection"].T

    def hidden(ids: Array, caches: list[KVCache]) -> Array:
        features = encode_new_tokens(ids, unimodal, config.text, caches[:blocks])
        return decoder.hidden_states(features, kv, multimodal, config.decoder, caches[blocks:])

    def score_rest(rows: Array) -> Array:
        targets, continued = ids[rows, shared + 1 : lengths[rows].max()], [dict(cache) for cache in caches]
        reorder_caches(continued, np.zeros_like(rows))  # each row continues the one that is shared
        positions = shared + 1 + np.arange(targets.shape[1])
        counted = (begin <= positions) & (positions < lengths[rows, None])
        found = np.zeros(targets.shape, model.dtype)
        x = hidden(ids[rows, : positions[-1]], continued)[counted]
        found[counted] = log_probs(x, targets[counted, None], project)[:, 0]
        return found.sum(axis=1)

    scores = np.zeros(len(ids), model.dtype)
    if shared:
        x = hidden(ids[:1, :shared], caches)[0, begin - 1 :]
        scores += log_probs(x, ids[:, begin : shared + 1].T, project).sum(axis=0)
    return scores + map_texts(score_rest, np.arange(len(ids)), np.argsort(lengths, kind="stable"), progress)


def shared_length(ids: Array, lengths: Array) -> int:
    """Return how many of the ids [B, L] all texts begin with. Each keeps one before its end; one text all."""
    different = (ids != ids[0]).any(axis=0)
    return min(int(different.argmax()), int(lengths.min()) - 2)


def log_probs(x: Array, ids: Array, projection: Array) -> Array:
    """Return the log-probabilities of ids [n, k], k for each of the hidden states x [n, E]: [n, k]."""
    found = np.empty(ids.shape, x.dtype)
    for i in range(0, len(x), POSITIONS):
        part = slice(i, i + POSITIONS)
        logits = check_finite("the logits are", linear(x[part], projection))
        found[part] = np.take_along_axis(log_softmax(logits), ids[part], axis=-1)
    return found


# A model's texts


def generate(
    model: VideoCoCa, caption_tokens: Array, options: DecodingOptions, progress: Callback = None
) -> Any:
    """Generate ids int64 [L] from caption tokens [Q', E]; a list of B from [B, Q', E].

    If the options ask for several candidates, each text is a list of them, best first.

    Raises ValueError for lengths that leave no room, and for more texts than fit into memory.
    """
    batch = model.config.check_caption_tokens(caption_tokens, model.dtype)
    prompt_ids, end_id, options = prepare(model, options, len(batch))
    next_logits = model_logits(model.params, model.config, batch, options.cache)
    ids = np.tile(prompt_ids, (len(batch), 1))
    texts = generate_ids(next_logits, ids, end_id, model.config.pad_id, options, progress)
    results = texts if options.candidates > 1 else [candidates[0] for candidates in texts]
    return results if np.ndim(caption_tokens) == 3 else results[0]


def prepare(model: VideoCoCa, options: DecodingOptions, texts: int = 1) -> tuple[Array, int, DecodingOptions]:
    """Return the prompt's ids [L], the start id first; the end id; and the options with a maximum length.

    Raises ValueError for ids outside the vocabulary, for lengths that leave no room, and for more texts than
    fit into memory.
    """
    config, vocabulary = model.config, model.config.text.vocab_size
    tokenizer_ids = (model.tokenizer.start_id, model.tokenizer.end_id) if model.tokenizer else None
    start_id, end_id = tokenizer_ids or (vocabulary - 2, vocabulary - 1)  # CLIP's
    start_id = (
        start_id if options.start_id is None else check_int("start_id", options.start_id, 0, vocabulary - 1)
    )
    end_id = end_id if options.end_id is None else check_int("end_id", options.end_id, 0, vocabulary - 1)
    prompt_ids = np.array([start_id, *_prompt_ids(model, options.prompt)])
    options = replace(options, max_length=_max_length(options, len(prompt_ids), config.text.context_length))
    _require_memory(model, texts, len(prompt_ids), options)
    return prompt_ids, end_id, options


def generate_ids(
    next_logits: NextLogits,
    ids: Array,
    end_id: int,
    pad_id: int,
    options: DecodingOptions,
    progress: Callback = None,
) -> list[list[Array]]:
    """Continue ids [B, L0] by the strategy that the options choose: the candidates of each of B texts."""
    convention, max_length = CONVENTIONS[options.convention], options.max_length or 0
    processors = [suppress_end(options.min_length, end_id)]
    if options.repetition_penalty != 1:
        processors.append(penalize_repetition(options.repetition_penalty))
    if options.is_sampling:
        processors += _warpers(options, convention)
        end_ids = [end_id, pad_id] if convention.padding_ends else [end_id]
        forced = convention.end_is_forced
        return [
            [x]
            for x in sample(next_logits, ids, processors, options.seed, max_length, end_ids, forced, progress)
        ]
    if options.beams == 1:
        return [[x] for x in greedy(next_logits, ids, processors, max_length, end_id, progress)]
    token_scores = convention.token_scores
    return beam_search(next_logits, ids, processors, options, end_id, pad_id, token_scores, progress)


def _warpers(options: DecodingOptions, convention: Convention) -> list[LogitsProcessor]:
    """Return the logits processors of sampling, in their order."""
    scaled = [temperature(options.temperature)] if options.temperature is not None else []
    kept = [top_k(options.top_k)] if options.top_k is not None else []
    kept += [top_p(options.top_p)] if options.top_p is not None else []
    return scaled + kept if convention.temperature_first else kept + scaled


def _prompt_ids(model: VideoCoCa, prompt: str) -> Array:
    """Return the ids of a prompt, without start, end and padding."""
    if not prompt:
        return np.array([], np.int64)
    # the start and end tokens take two; so a prompt as long as the context stays whole, and is refused
    row = model.require_tokenizer().encode([prompt], context_length=model.config.text.context_length + 2)[0]
    return row[1 : np.argmax(row == model.tokenizer.end_id)]


def _max_length(options: DecodingOptions, prompt_length: int, context_length: int) -> int:
    """Return the maximum length, by default min(30, context_length). Raise ValueError if it is too short."""
    max_length = min(30, context_length) if options.max_length is None else options.max_length
    limit = f"this model's texts have at most {context_length} tokens"
    if max_length > context_length:
        raise ValueError(f"max_length is {max_length}: {limit}")
    if options.max_length is None and options.min_length >= max_length:
        raise ValueError(
            f"min_length is {options.min_length}, and max_length is {max_length} by default: {limit}"
        )
    if options.max_length is None and prompt_length >= max_length:
        prompt = f"prompt has {prompt_length} tokens, the start token included"
        raise ValueError(f"{prompt}, and max_length is {max_length} by default: {limit}")
    if not max(options.min_length, prompt_length) < max_length:
        tokens = "token" if prompt_length == 1 else "tokens"
        raise ValueError(
            f"max_length {max_length} must be more than min_length {options.min_length} and the prompt's "
            f"{prompt_length} {tokens}; {limit}"
        )
    return max_length


def _require_memory(model: VideoCoCa, texts: int, prompt_length: int, options: DecodingOptions) -> None:
    """Raise ValueError if generating this many texts does not fit into memory."""
    rows = options.rows_per_text
    bytes_of_one = bytes_per_row(model.config, prompt_length, options, model.dtype.itemsize)
    what = f"generating {texts} texts" if rows == 1 else f"beam search with {texts} x {rows} beams"
    unit = "texts" if rows == 1 else "beams in all"
    model.media["require_memory_for"](texts * rows, lambda rows: rows * bytes_of_one, what, unit)


def bytes_per_row(config: Config, prompt_length: int, options: DecodingOptions, itemsize: int) -> int:
    """Estimate the bytes that generating one row of ids takes. `options.max_length` is given."""
    max_length, E, V = options.max_length or 0, config.embed_dim, config.text.vocab_size
    positions = prompt_length if options.cache else max_length  # at most, in one step
    # keys and values, and copies of some
    cached = 3 * (config.text.layers + config.decoder.layers) * max_length * E
    keys = max(config.vision.queries, max_length)  # that a position attends to
    work = positions * (V + 16 * E + 2 * config.decoder.heads * keys)
    return itemsize * (options.cache * cached + work + 8 * V)  # and the logits, as processors change them
