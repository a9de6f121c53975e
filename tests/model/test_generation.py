"""Decoding: the cache against none, batches against their parts, strategies against their definitions."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from safetensors.numpy import load_file
from test_laws import close, law, make, random_ids, seeds

import minivideococa as mvc
from minivideococa.model import decoder, generation
from minivideococa.model.ops import softmax

# open_clip's ids

KIT = Path(__file__).parents[1] / "conformance" / "generation"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("folder", sorted(KIT.iterdir()), ids=lambda folder: folder.name)
def test_the_kits_calls_return_open_clips_ids(folder, dtype):
    model, pixels = mvc.load(folder, dtype=dtype), load_file(folder / "inputs.safetensors")
    truth = json.loads((folder / "calls.json").read_text())
    tokens = [model.encode_video(pixels[f"pixels.{i}"]).tokens for i in range(len(pixels))]
    for call in truth["calls"]:
        ends = {name: truth[name] for name in ("start_id", "end_id")}
        ids = model.generate(tokens[call["video"]], **ends, **call["options"])
        assert ids.tolist() == call["ids"], call


# With a network

GREEDY_AND_BEAMS = [
    {"beams": 1},
    {},
    {"beams": 4, "beam_groups": 1, "repetition_penalty": 1.4},
    {"beams": 6, "beam_groups": 3, "diversity_penalty": 1.5},
    {"beams": 4, "beam_groups": 2, "textbook": True},
    {"beams": 4, "beam_groups": 4, "diversity_penalty": 0.3, "textbook": True, "length_penalty": 0.5},
]
SAMPLING = [
    {"top_k": 1},
    {"top_k": 3},
    {"top_p": 0.8, "temperature": 1.5},
    {"temperature": 1.2, "textbook": True},
]


class Numbers:
    """A tokenizer whose words are the ids themselves: "3 0 4". So the padding's id may be in a text."""

    def __init__(self, vocabulary, context_length):
        self.start_id, self.end_id, self.context_length = vocabulary - 2, vocabulary - 1, context_length

    def encode(self, texts, context_length=None):
        texts = [texts] if isinstance(texts, str) else texts
        rows = np.zeros((len(texts), context_length or self.context_length), np.int64)
        for row, text in zip(rows, texts):
            ids = [self.start_id, *map(int, text.split()), self.end_id]
            if len(ids) > len(row):
                ids[len(row) - 1 :] = [self.end_id]
            row[: len(ids)] = ids
        return rows

    def lengths(self, texts):
        return [2 + len(text.split()) for text in texts]


def raise_logits(model, by):
    """Adds by[id] to an id's logit, whatever the text: the first feature before the vocabulary becomes 1."""
    layers = model.params["text_decoder"]
    layers["ln_final"]["weight"][0], layers["ln_final"]["bias"][0] = 0, 1
    for i, more in by.items():
        layers["text_projection"][0, i] += more


def talkative_model(tiny_model, overrides, seed, data, dtype="float64"):
    """A random model that likes to say id 0, its mask's padding, and sometimes to end; and a generator."""
    overrides = overrides | {"text": overrides["text"] | {"pad_id": 0}}
    model, rng = make(tiny_model, overrides, seed, dtype)
    V = model.config.text.vocab_size
    raise_logits(model, {0: rng.uniform(0, 3), V - 1: rng.uniform(-3, 2)})
    model.tokenizer = Numbers(V, model.config.text.context_length)
    return model, rng


def keywords(model, data):
    """How long the text is, and options it begins: a prompt of any ids."""
    longest = model.config.text.context_length
    words = st.integers(0, model.config.text.vocab_size - 3)
    prompt = data.draw(st.lists(words, max_size=longest - 2))
    max_length = data.draw(st.integers(len(prompt) + 2, longest))
    return {
        "prompt": " ".join(map(str, prompt)),
        "max_length": max_length,
        "min_length": data.draw(st.integers(0, max_length - 1)),
    }


@pytest.mark.slow
def test_a_cache_changes_no_id(tiny_model):
    padded, moved = [], []

    @law(60)
    def same(overrides, seed, data):
        model, rng = talkative_model(tiny_model, overrides, seed, data)
        shape = data.draw(st.sampled_from([(), (1,), (3,)]))
        tokens, lengths = rng.standard_normal((*shape, 3, model.config.embed_dim)), keywords(model, data)
        for options in GREEDY_AND_BEAMS + [options | {"seed": seed} for options in SAMPLING]:
            cached, anew = (
                model.generate(tokens, cache=cache, **options, **lengths) for cache in (True, False)
            )
            cached, anew = (texts if shape else [texts] for texts in (cached, anew))
            assert [text.tolist() for text in cached] == [text.tolist() for text in anew], options
            padded.extend(0 in text[:-1] for text in cached)
            moved.extend(len(text) > 4 for text in cached)

    same()
    assert np.mean(padded) > 0.3 and np.mean(moved) > 0.3  # or else it would say little


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_cache_changes_no_logits(tiny_model, dtype):
    """Steps as a beam search makes them, at random: rows of a video go on, several times or not at all.

    Videos are left out, as they are once their texts are finished.
    """
    eps, padded = float(np.finfo(dtype).eps), []

    @law(40)
    def same(overrides, seed, data):
        model, rng = talkative_model(tiny_model, overrides, seed, data, dtype)
        longest, B = model.config.text.context_length, data.draw(st.integers(1, 3))
        tokens = rng.standard_normal((B, 3, model.config.embed_dim)).astype(dtype)
        cached, anew = (
            generation.model_logits(model.params, model.config, tokens, cache) for cache in (True, False)
        )
        R = data.draw(st.integers(1, 4))  # rows of a video
        ids = random_ids(model, rng, (B * R, data.draw(st.integers(1, longest))))
        rows, left = np.repeat(np.arange(B), R), np.arange(B)  # left: the videos that go on
        while True:
            videos = np.repeat(tokens[left], len(ids) // len(left), axis=0)
            want = model.decode(videos, ids)[:, -1]
            for next_logits in (cached, anew):
                got = next_logits(ids, rows)
                assert got.dtype == dtype
                close(got, want, eps)
            padded.append((ids[:, :-1] == 0).any())
            if ids.shape[1] == longest:
                break
            before, R = len(ids) // len(left), R if rng.random() < 0.7 else rng.integers(1, 5)
            kept = np.flatnonzero(rng.random(len(left)) < 0.8)
            kept = kept if len(kept) else np.array([0])
            rows = np.concatenate([b * before + rng.integers(0, before, R) for b in kept])
            left = left[kept]
            ids = np.append(ids[rows], random_ids(model, rng, (len(rows), 2))[:, 1:], axis=1)

    same()
    assert np.mean(padded) > 0.3


@pytest.mark.slow
@law(20)
def test_a_batch_of_videos_gives_what_its_parts_give(tiny_model, overrides, seed, data):
    model, rng = talkative_model(tiny_model, overrides, seed, data)
    tokens = rng.standard_normal((data.draw(st.integers(1, 4)), 3, model.config.embed_dim))
    lengths = keywords(model, data)
    for options in [*GREEDY_AND_BEAMS, {"top_k": 1}]:  # no ties: one token is left to draw
        together = model.generate(tokens, **options, **lengths)
        assert isinstance(together, list) and {text.dtype for text in together} == {np.dtype(np.int64)}
        alone = [model.generate(one, **options, **lengths) for one in tokens]
        assert [text.tolist() for text in together] == [text.tolist() for text in alone], options


@pytest.mark.slow
def test_generate_searches_with_six_beams_in_three_groups(tiny_model):
    """... whose groups are all the same, so it is the search with two beams."""
    differ = 0
    for seed in range(12):
        model, tokens = tiny_model(seed), np.random.default_rng(seed).standard_normal((3, 8))
        raise_logits(model, {model.config.text.vocab_size - 1: 1.0})
        text = model.generate(tokens).tolist()
        assert text == model.generate(tokens, beams=6, beam_groups=3, min_length=5, max_length=9).tolist()
        assert text == model.generate(tokens, beams=2, beam_groups=1).tolist()
        differ += text != model.generate(tokens, beams=6, beam_groups=1).tolist()
    assert differ > 0
    for default, options in ({"beams": 6}, {"beam_groups": 6}), ({"beam_groups": 1}, {"beams": 9}):
        assert (
            model.generate(tokens, **options).tolist()
            == model.generate(tokens, **default, **options).tolist()
        )


# Without one

PAD, START, END = 0, 1, 2
DEFAULTS = {"min_length": 0, "max_length": 6, "beams": 1, "beam_groups": 1}


def language(V, seed, shift=0.0):
    """Logits of V ids after any text (a tuple): random, and always the same."""
    return cache(lambda text: np.random.default_rng([seed, *text]).normal(shift, 2, V))


def always(*logits):
    """A language in which all ids follow each other alike."""
    return lambda text: np.array(logits, float)


def decoded(logits, begin=(START,), batch=1, requested=None, **options):
    """The texts that `generate_ids` finds in a language; `requested` collects their ids."""
    requested = [] if requested is None else requested

    def next_logits(ids, rows):
        assert ids.dtype == np.int64 and rows.shape == ids.shape[:1]
        if requested:  # one id more than its row had before
            np.testing.assert_array_equal(ids[:, :-1], requested[-1][rows])
        requested.append(ids.copy())
        return np.array([logits(tuple(text)) for text in ids.tolist()])

    options = generation.DecodingOptions.create(**DEFAULTS | options)
    texts = generation.generate_ids(next_logits, np.tile(begin, (batch, 1)), END, PAD, options)
    assert len(texts) == batch and {len(candidates) for candidates in texts} == {1}
    return [text.tolist() for [text] in texts]


def scored(logits, text, textbook=False, min_length=0, repetition_penalty=1.0):
    """What each id would add to a text's score."""
    scores = logits(text).copy()
    if textbook:
        scores -= np.log(np.exp(scores).sum())
    for i in set(text):
        scores[i] = scores[i] * repetition_penalty if scores[i] < 0 else scores[i] / repetition_penalty
    if len(text) < min_length:
        scores[END] = -np.inf
    return scores


def all_texts(logits, begin, max_length, **options):
    """{text: the sum of its scores} of all that can be said: up to the end, or to `max_length`."""
    unfinished, finished = {begin: 0.0}, {}
    while unfinished:
        text, total = unfinished.popitem()
        for i, more in enumerate(scored(logits, text, **options)):
            done = i == END or len(text) + 1 == max_length
            (finished if done else unfinished)[(*text, i)] = total + more
    return finished


small_languages = st.builds(language, st.integers(3, 4), seeds, st.sampled_from([0.0, -5.0, 5.0]))
begins = st.sampled_from([(START,), (START, 0), (START, 0, 2)])


@settings(max_examples=examples(60))
@given(
    small_languages,
    begins,
    st.booleans(),
    st.integers(0, 4),
    st.sampled_from([1, 1, 1.7, 0.6]),
    st.sampled_from([0, 0, 1, 2.5, -1]),
)
def test_beam_search_with_enough_beams_finds_the_best(
    logits, begin, textbook, min_length, repetition_penalty, length_penalty
):
    options = {"textbook": textbook, "min_length": min_length, "repetition_penalty": repetition_penalty}
    totals = all_texts(logits, begin, 5, **options)
    scores = {text: total / len(text) ** length_penalty for text, total in totals.items()}
    enough = len(logits(begin)) ** (5 - len(begin))
    [found] = decoded(logits, begin, max_length=5, beams=enough, length_penalty=length_penalty, **options)
    best = max(scores.values())
    assert scores[tuple(found)] >= best - 1e-5 * abs(best)  # sums are held in float32


@settings(max_examples=examples(30))
@given(small_languages, begins, st.data())
def test_beam_search_finds_nothing_better_than_the_best(logits, begin, data):
    """... but with few beams a text of the language all the same, with no end inside."""
    beams, groups = data.draw(st.sampled_from([(2, 1), (2, 2), (3, 1), (4, 2)]))
    penalty = data.draw(st.sampled_from([0.0, 1.0]))
    options = {"beams": beams, "beam_groups": groups, "diversity_penalty": penalty}
    for textbook in (True, False):
        [found] = decoded(logits, begin, max_length=5, textbook=textbook, **options)
        assert tuple(found) in all_texts(logits, begin, 5)


@settings(max_examples=examples(20))
@given(small_languages)
def test_length_penalty(logits):
    """Of log-probabilities, as of all sums below zero, more of it makes longer texts; of others, shorter."""
    lengths = [
        len(decoded(logits, max_length=5, beams=128, textbook=True, length_penalty=penalty)[0])
        for penalty in (-2, 0, 0.5, 1, 2, 5)
    ]
    assert lengths == sorted(lengths)


def test_length_penalty_does_something():
    below, above = always(-5, -5, -1, -1), always(-9, -9, 1, 1)  # PAD, START, END, one word
    for logits, short, long in [(below, -1, 3), (above, 2, -2)]:
        lengths = [len(decoded(logits, beams=4, length_penalty=penalty)[0]) for penalty in (short, long)]
        assert lengths == [2, 6]


@settings(max_examples=examples(20))
@given(small_languages, seeds)
def test_textbook_beams_weigh_probabilities(logits, seed):
    """What is added to all logits after a text, is nothing to probabilities."""
    added = language(1, seed, 0)
    for options in ({}, {"beam_groups": 2, "diversity_penalty": 0.7}, {"length_penalty": 0}):
        options = options | {"beams": 4, "textbook": True}
        assert decoded(logits, **options) == decoded(lambda text: logits(text) + 3 * added(text), **options)


def test_raw_logits_are_summed_where_it_is_not_the_textbook():
    """After id 4 all logits are higher by 5 than after 3: the sums see it, the probabilities do not."""

    def logits(text):
        return {START: np.array([-9, -9, -9, 2, 1.9]), 4: np.array([-4.0, -4, 5, -4, -4])}.get(
            text[-1], np.array([-9.0, -9, 0, -9, -9])
        )

    assert decoded(logits, beams=2) == [[START, 4, END]]
    assert decoded(logits, beams=2, textbook=True) == [[START, 3, END]]


# Greedy


def naive_greedy(logits, begin, max_length, ends, force_end=False, **options):
    text = begin
    while len(text) < max_length and not (len(text) > len(begin) and text[-1] in ends):
        forced = force_end and len(text) + 1 == max_length
        text += (END if forced else int(scored(logits, text, **options).argmax()),)
    return list(text)


@settings(max_examples=examples(60))
@given(
    st.builds(language, st.integers(3, 6), seeds, st.sampled_from([0.0, -5.0])),
    begins,
    st.integers(0, 7),
    st.sampled_from([1, 1.7, 0.6]),
)
def test_greedy_and_top_1(logits, begin, min_length, repetition_penalty):
    options = {"min_length": min_length, "repetition_penalty": repetition_penalty}
    greedy = naive_greedy(logits, begin, 6, {END}, **options)
    assert decoded(logits, begin, **options) == [greedy]
    # textbook sampling from one token is greedy; open_clip's forces an end, and the padding's id ends too
    assert decoded(logits, begin, top_k=1, textbook=True, **options) == [greedy]
    if begin[-1] not in (PAD, END):
        open_clips = naive_greedy(logits, begin, 6, {END, PAD}, True, **options)
        assert decoded(logits, begin, top_k=1, **options) == [open_clips]


def test_open_clips_habits_in_sampling():
    wordy, quiet = always(0, 0, -50, 50), always(50, 0, 0, 0)
    assert decoded(wordy, top_k=2) == decoded(wordy, temperature=0.5) == [[START, 3, 3, 3, 3, END]]
    assert decoded(quiet, top_p=0.5) == [[START, PAD]]
    for options in ({"top_k": 2, "textbook": True}, {"beams": 1}):
        assert decoded(wordy, **options) == [[START, 3, 3, 3, 3, 3]]
    for options in (
        {"top_p": 0.5, "textbook": True},
        {"beams": 1},
        {"beams": 2},
        {"beams": 2, "textbook": True},
    ):
        assert decoded(quiet, **options) == [[START, PAD, PAD, PAD, PAD, PAD]]


@pytest.mark.parametrize("last", [END, PAD])
def test_a_prompt_that_has_ended(last):
    """In open_clip's sampling it is the whole text, and nothing is computed; else it goes on."""
    logits, begin, requested = always(0, 0, -50, 50), (START, 3, last), []
    assert (
        decoded(logits, begin, batch=2, requested=requested, top_k=1) == [list(begin)] * 2 and not requested
    )
    for options in ({"top_k": 1, "textbook": True}, {"beams": 1}, {"beams": 2}):
        assert decoded(logits, begin, **options) == [[*begin, 3, 3, 3]]


def test_a_text_of_a_batch_ends_by_itself():
    """The others go on, and the ended one is not touched."""
    texts = decoded(language(5, 0), batch=40, temperature=2, max_length=9)
    assert len({len(text) for text in texts}) > 4
    for text in texts:
        assert text[-1] in (END, PAD) and not {END, PAD} & set(text[1:-1])


# Rules

STRATEGIES = {
    "greedy": {},
    "beams": {"beams": 3},
    "groups": {"beams": 4, "beam_groups": 2, "diversity_penalty": 1},
    "textbook beams": {"beams": 3, "textbook": True},
    "top-k": {"top_k": 3},
    "top-1": {"top_k": 1},
    "textbook sampling": {"temperature": 2, "textbook": True},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_min_length(strategy):
    """So many ids come before the end at least; and no more of them, if the end is all that is wanted."""
    for min_length in range(1, 8):
        [text] = decoded(always(-9, -9, 9, 0, 0), min_length=min_length, max_length=8, **STRATEGIES[strategy])
        assert text.index(END) == len(text) - 1 == min_length


@settings(max_examples=examples(30))
@given(st.sampled_from(sorted(STRATEGIES)), seeds, st.integers(0, 6))
def test_min_length_in_any_language(strategy, seed, min_length):
    for text in decoded(
        language(5, seed), batch=3, min_length=min_length, max_length=7, **STRATEGIES[strategy]
    ):
        assert END not in text[:min_length] and END not in text[:-1] and len(text) <= 7


@pytest.mark.parametrize("strategy", ["greedy", "beams", "textbook beams", "textbook sampling"])
def test_repetition_penalty(strategy):
    """With a large one nothing is said twice, the start included, while there is something else."""
    logits = always(-2, -1, -3, -1, -1.5, -2.5, -1.2)
    [text] = decoded(logits, max_length=7, min_length=6, repetition_penalty=1e6, **STRATEGIES[strategy])
    assert sorted(text) == list(range(7))
    [text] = decoded(always(-2, -1, -3, -1.3), min_length=9, repetition_penalty=1e-6)
    assert text == [START] * 6  # below 1 it is a reward


@given(seeds)
def test_the_rule_of_repetition(seed):
    rng = np.random.default_rng(seed)
    ids, logits, penalty = rng.integers(0, 6, (3, 4)), rng.standard_normal((3, 6)), rng.uniform(0.3, 3)
    before = logits.copy()
    got = generation.penalize_repetition(penalty)(ids, logits)
    for row, had, raw in zip(got, ids, before):
        want = [x if i not in had else x / penalty if x > 0 else x * penalty for i, x in enumerate(raw)]
        np.testing.assert_allclose(row, want, rtol=1e-15)
    np.testing.assert_array_equal(logits, before)


# Groups


def naive_groups(logits, begin, groups, penalty, max_length, textbook):
    """Groups of one beam, one after the other: [(text, total)]. None ends before the limit."""
    texts, totals = [begin] * groups, np.zeros(groups)
    for _ in range(max_length - len(begin)):
        taken = np.zeros(len(logits(begin)))
        for g, text in enumerate(texts):
            scores = scored(logits, text, textbook, min_length=99) - penalty * taken
            best = int(scores.argmax())
            texts[g], totals[g] = (*text, best), totals[g] + scores[best]
            taken[best] += 1
    return list(zip(texts, totals))


@settings(max_examples=examples(40))
@given(
    st.builds(language, st.integers(5, 7), seeds),
    begins,
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from([1e-9, 0.5, 2.0, 1e4]),
)
def test_groups_avoid_what_those_before_them_said(logits, begin, groups, textbook, penalty):
    requested = []
    [found] = decoded(
        logits,
        begin,
        requested=requested,
        beams=groups,
        beam_groups=groups,
        diversity_penalty=penalty,
        min_length=99,
        textbook=textbook,
    )
    want = naive_groups(logits, begin, groups, penalty, 6, textbook)
    assert requested[-1].tolist() == [list(text[:-1]) for text, _ in want]
    best = max(total for _, total in want)
    assert any(list(text) == found and total >= best - 1e-5 * abs(best) for text, total in want)
    for ids in requested[1:]:
        said_here = len(set(ids[:, -1].tolist()))
        assert said_here == groups if penalty == 1e4 else said_here <= groups


@settings(max_examples=examples(30))
@given(st.builds(language, st.integers(4, 7), seeds), begins, st.booleans())
def test_groups_without_a_penalty_are_one(logits, begin, textbook):
    """Only one is computed; a penalty next to nothing computes all, and finds the same."""
    one = decoded(logits, begin, beams=2, textbook=textbook)
    requested, options = [], {"beams": 6, "beam_groups": 3, "textbook": textbook}
    assert decoded(logits, begin, requested=requested, **options) == one
    assert {len(ids) for ids in requested} == {2}
    requested = []
    assert decoded(logits, begin, requested=requested, diversity_penalty=1e-9, **options) == one
    assert {len(ids) for ids in requested} == {6}
    assert all((ids.reshape(3, 2, -1) == ids[:2]).all() for ids in requested)


def test_videos_do_not_pay_for_each_other():
    options = {"beams": 4, "beam_groups": 2, "diversity_penalty": 3.0, "min_length": 3}
    for seed in range(10):
        assert decoded(language(6, seed), batch=3, **options) == decoded(language(6, seed), **options) * 3


# Sampling


def kept(logits, k=None, p=None):
    """The ids that top-k, then top-p leave: the definition, from the likeliest id down."""
    ids = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
    if p is not None:
        total, reached = sum(np.exp(logits[i]) for i in ids), 0.0
        sums = [reached := reached + np.exp(logits[i]) / total for i in ids]
        assert all(abs(x - p) > 1e-6 for x in sums[:-1])  # or else rounding decides
        ids = ids[: next((n for n, x in enumerate(sums, 1) if x >= p), len(ids))]
    return set(ids)


@given(seeds, st.integers(1, 12), st.floats(1e-6, 1), st.sampled_from(["float32", "float64"]))
def test_top_k_and_top_p_keep_what_they_should(seed, k, p, dtype):
    logits = np.random.default_rng(seed).normal(0, 2, (3, 8)).astype(dtype)
    before = logits.copy()
    for rule, limits in [(generation.top_k(k), {"k": k}), (generation.top_p(p), {"p": p})]:
        got = rule(np.zeros((3, 1), int), logits)
        assert got.dtype == dtype
        for row, raw in zip(got, before):
            left = np.isin(np.arange(8), list(kept(raw.astype(float), **limits)))
            np.testing.assert_array_equal(row, np.where(left, raw, -np.inf))
    np.testing.assert_array_equal(logits, before)


def test_top_k_and_top_p_where_ids_are_equally_likely():
    equal, none = np.array([[1.0, 2.0, 2.0, 0.0]]), np.zeros((1, 1), int)
    assert np.isfinite(generation.top_k(1)(none, equal)).tolist() == [[False, True, True, False]]
    for p, n in [(0.25, 1), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4), (1e-9, 1)]:
        assert np.isfinite(generation.top_p(p)(none, np.zeros((1, 4)))).sum() == n
    barred = np.array([[0, -np.inf, 5.0]])
    np.testing.assert_array_equal(generation.top_p(1.0)(none, barred), barred)


def fits(counts, probabilities):
    """Whether counts come from a distribution: none where it is 0, and a chi-square within 5 deviations."""
    counts, want = np.asarray(counts), np.sum(counts) * np.asarray(probabilities)
    possible = want > 0
    chi_square, freedom = ((counts - want)[possible] ** 2 / want[possible]).sum(), possible.sum() - 1
    return not counts[~possible].any() and chi_square <= freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1},
        {"temperature": 0.5},
        {"temperature": 3},
        {"top_k": 4},
        {"top_p": 0.8},
        {"top_k": 1},
        {"top_k": 5, "top_p": 0.8},
        {"top_k": 3, "temperature": 4},
        {"top_p": 0.6, "temperature": 4},
        {"top_k": 6, "top_p": 0.9, "temperature": 0.6},
    ],
    ids=str,
)
@pytest.mark.parametrize("textbook", [False, True])
def test_how_often_an_id_is_drawn(options, textbook):
    """As softmax says of what is left. Open_clip warms after top-k and top-p, the textbook before them."""
    logits, temperature = language(8, 3)((START,)), options.get("temperature", 1)
    tempered = logits / temperature
    left = kept(tempered if textbook else logits, options.get("top_k"), options.get("top_p"))
    probabilities = softmax(np.where(np.isin(np.arange(8), list(left)), tempered, -np.inf))
    texts = decoded(lambda text: logits, batch=1500, max_length=3, textbook=textbook, **options)
    assert fits(np.bincount([text[1] for text in texts], minlength=8), probabilities)


def test_the_order_of_temperature_and_top_p_matters():
    logits = language(8, 3)((START,))
    assert kept(logits, p=0.6) < kept(logits / 4, p=0.6)


def test_draws_follow_each_other_at_random():
    """Each by softmax, whatever the draw before it was, and the draw of the other row."""
    logits = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]])
    choose = generation.sampler(2, seed=4)
    ids = np.array([choose(logits, [0, 1]) for _ in range(2000)])
    p, q = softmax(logits)
    assert fits(np.bincount(ids[1:, 0] * 3 + ids[:-1, 0], minlength=9), np.outer(p, p).ravel())
    assert fits(np.bincount(ids[:, 0] * 3 + ids[:, 1], minlength=9), np.outer(p, q).ravel())


def test_an_id_without_probability_is_never_drawn():
    logits = np.array([[-np.inf, 0.0, -np.inf]])
    choose = generation.sampler(1, seed=0)
    assert {int(choose(logits, [0])[0]) for _ in range(200)} == {1}


def test_the_seed():
    """It decides the text. Equal videos get texts of their own, whatever the size of the batch."""
    for options in ({"temperature": 1.0}, {"top_k": 4}, {"top_p": 0.9, "textbook": True}):
        options = options | {"max_length": 12, "min_length": 11}
        logits = always(-50, 0, 0, 0, 0, 0)
        texts = decoded(logits, batch=8, **options, seed=5)
        assert texts == decoded(logits, batch=8, **options, seed=5)
        assert len({tuple(text) for text in texts}) == 8
        assert (
            decoded(logits, **options, seed=5) == texts[:1]
            and decoded(logits, batch=3, **options, seed=5) == texts[:3]
        )
        others = decoded(logits, batch=8, **options, seed=6)
        assert not {tuple(text) for text in others} & {tuple(text) for text in texts}


def test_the_seed_of_a_model(tiny_model):
    model, tokens = tiny_model(), np.ones((2, 3, 8))
    first, second = (text.tolist() for text in model.generate(tokens, temperature=1.0))
    assert first != second
    assert model.generate(tokens[0], temperature=1.0, seed=0).tolist() == first
    assert len({tuple(model.generate(tokens[0], temperature=1.0, seed=seed)) for seed in range(10)}) > 5
    assert len({tuple(model.generate(tokens[0], seed=seed)) for seed in range(3)}) == 1


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_highest(x, data):
    """Best first, and of equals the first: a stable sort."""
    n = data.draw(st.integers(1, len(x)))
    ranked = sorted(range(len(x)), key=lambda i: -x[i])
    assert generation.best_indices(np.array(x, float), n).tolist() == ranked[:n]


# Errors

WRONG = [
    ("beams", {"beams": 0}),
    ("beams", {"beams": -2}),
    ("beam_groups", {"beams": 6, "beam_groups": 4}),
    ("beam_groups", {"beams": 6, "beam_groups": 0}),
    ("beam_groups", {"beams": 2, "beam_groups": -1}),
    ("beam_groups", {"beams": 2, "beam_groups": 3}),
    ("top_k", {"top_k": 0}),
    ("top_k", {"top_k": -1}),
    ("top_p", {"top_p": 0.0}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": -0.1}),
    ("top_p", {"top_p": float("nan")}),
    ("temperature", {"temperature": 0.0}),
    ("temperature", {"temperature": -1.0}),
    ("temperature", {"temperature": float("nan")}),
    ("seed", {"seed": -1}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("repetition_penalty", {"repetition_penalty": -2.0}),
    ("diversity_penalty", {"diversity_penalty": -0.5}),
    ("diversity_penalty", {"diversity_penalty": float("nan")}),
    ("diversity_penalty", {"diversity_penalty": math.inf}),
    ("temperature", {"temperature": math.inf}),
    ("temperature", {"temperature": 1e-39}),
    ("repetition_penalty", {"repetition_penalty": math.inf}),
    ("repetition_penalty", {"repetition_penalty": 1e-40}),
    ("length_penalty", {"length_penalty": 1000.0}),
    ("length_penalty", {"length_penalty": -1e5}),
    ("length_penalty", {"length_penalty": float("nan")}),
]


@pytest.mark.parametrize("name, options", WRONG, ids=str)
def test_values_that_make_no_sense(tiny_model, monkeypatch, name, options):
    """One line with the name and the value; by then no token's logits have been computed."""

    def computed(*args, **kwargs):
        raise AssertionError("computed something first")

    with pytest.raises(ValueError) as error:
        decoded(computed, **options)
    message = str(error.value)
    assert "\n" not in message and message.startswith(name) and str(options[name]) in message
    monkeypatch.setattr(decoder, "decode", computed)
    with pytest.raises(ValueError, match=name):
        tiny_model().generate(np.zeros((3, 8)), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"beams": 1, "beam_groups": 3},
        {"beams": 3, "beam_groups": 3},
        {"top_k": 10**9},
        {"top_p": 1.0},
        {"top_p": 1e-9},
        {"temperature": 1e-6},
        {"temperature": 1e6},
        {"seed": 2**70},
        {"repetition_penalty": 1e-3},
    ],
    ids=str,
)
def test_values_at_the_end_of_the_range(tiny_model, options):
    """They are taken: a text comes back."""
    model = tiny_model(dtype="float32")
    with np.errstate(all="raise", under="ignore"):
        assert len(model.generate(np.ones((3, 8)), **options)) >= 2
