"""Log-probabilities of texts: `score` against one token at a time, and classification by likelihood."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from test_generation import Numbers, raise_logits

import minivideococa as mvc
from minivideococa.model import decoder, generation, kernels
from minivideococa.model.hooks import trace
from minivideococa.world import VOCABULARY

WORDS = VOCABULARY[3:]  # without padding, start and end; "<unk>" may be said
LABELS = ["a red circle", "a square", "nothing"]
START, END = 1, 2


def a_video(seed=0, dtype="float64"):
    return mvc.Video(
        np.ones(8, dtype) / np.sqrt(8).astype(dtype),
        np.random.default_rng(seed).standard_normal((3, 8)).astype(dtype),
    )


@pytest.fixture(scope="module")
def model(tiny_model, tokenizer):
    return tiny_model(1, tokenizer=tokenizer)


def naive_score(model, video, ids):
    """log p(id 1 | id 0) + log p(id 2 | ids 0, 1) + ..., each decoded separately."""
    total = 0.0
    for n in range(1, len(ids)):
        logits = model.decode(video.tokens, np.array([ids[:n]]))[0, -1].astype(float)
        total += logits[ids[n]] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return total


def refused(call, *facts):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(fact in message for fact in facts), message


texts_of_words = st.lists(st.lists(st.sampled_from(WORDS), max_size=7).map(" ".join), min_size=1, max_size=40)


@settings(max_examples=examples(30))
@given(texts_of_words, st.integers(0, 99), st.sampled_from(["float32", "float64"]))
def test_a_score_is_the_sum_over_tokens(tiny_model, tokenizer, texts, seed, dtype):
    model, video = tiny_model(seed, dtype, tokenizer=tokenizer), a_video(seed, dtype)
    scores = mvc.score(model, video, texts)
    assert scores.shape == (len(texts),) and scores.dtype == dtype
    rel = 1e-5 if dtype == "float32" else 1e-12
    for i in np.random.default_rng(seed).integers(0, len(texts), 3):
        ids = [START, *(VOCABULARY.index(word) for word in texts[i].split()), END]
        assert scores[i] == pytest.approx(naive_score(model, video, ids), rel=rel)


@settings(max_examples=examples(30))
@given(texts_of_words, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_other_texts(model, texts, random):
    """Nor on their order or the batch size."""
    video, order = a_video(), random.sample(range(len(texts)), len(texts))
    together = mvc.score(model, video, texts)
    reordered = mvc.score(model, video, [texts[i] for i in order])
    np.testing.assert_allclose(reordered, together[order], rtol=1e-12)
    np.testing.assert_allclose(mvc.score(model, video, texts[:1]), together[:1], rtol=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BATCH_TEXTS", random.randint(1, 5))
        np.testing.assert_allclose(mvc.score(model, video, texts), together, rtol=1e-12)


def test_scores_do_not_depend_on_padding(tiny_model, model, tokenizer, monkeypatch):
    """Texts padded to other lengths, and texts that contain the padding id."""
    texts, video = ["a red circle", "", "a " * 7], a_video()
    got = mvc.score(model, video, texts)
    for length in (3, 5, 20):
        ids = tokenizer.encode(texts[:2], context_length=length)
        monkeypatch.setattr(model, "tokenize", lambda _: ids)
        np.testing.assert_allclose(mvc.score(model, video, texts[:2])[1], got[1], rtol=1e-12)
        if length > 3:
            np.testing.assert_allclose(mvc.score(model, video, texts[:2]), got[:2], rtol=1e-12)
        monkeypatch.undo()
    numbers = tiny_model(3, text={"vocab_size": 6}, decoder={"vocab_size": 6})
    numbers.tokenizer = Numbers(6, 9)
    for text, ids in [("0", [4, 0, 5]), ("1 0 0", [4, 1, 0, 0, 5]), ("0 2 0", [4, 0, 2, 0, 5])]:
        [got] = mvc.score(numbers, video, [text])
        assert got == pytest.approx(naive_score(numbers, video, ids), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_of_all_texts_sum_to_one(tiny_model, seed):
    """The probabilities of all texts up to a length sum to 1 minus that of longer ones."""
    V, video = 5, a_video(seed)
    model = tiny_model(seed, text={"vocab_size": V}, decoder={"vocab_size": V})
    model.tokenizer = Numbers(V, 9)
    texts = [[*words] for n in range(5) for words in product(range(V - 1), repeat=n)]

    def probability(longest):
        short = [" ".join(map(str, text)) for text in texts if len(text) <= longest]
        return np.exp(mvc.score(model, video, short)).sum()

    sums = [probability(n) for n in range(5)]
    assert sums[0] > 0 and sums == sorted(sums) and sums[4] < 1
    for n in range(3):
        beginnings = [[V - 2, *text] for text in texts if len(text) == n + 1]
        longer = sum(np.exp(naive_score(model, video, beginning)) for beginning in beginnings)
        assert sums[n] == pytest.approx(1 - longer, rel=1e-11)
    raise_logits(model, {V - 1: 20})  # the end is all that is wanted
    assert probability(4) == pytest.approx(1, abs=1e-9)


def test_probabilities_of_short_texts_sum_to_less_than_one(model):
    """Texts of up to two words: other ids and longer texts have the rest."""
    texts = [" ".join(words) for n in range(3) for words in product(WORDS, repeat=n)]
    total = np.exp(mvc.score(model, a_video(), texts)).sum()
    assert 0 < total < 1


# Texts that begin with the same ids


@st.composite
def texts_of_numbers(draw):
    """Texts with common beginnings, some the beginning of others, or equal. 0 is the padding id too."""
    words = st.lists(st.integers(0, 3), max_size=5)
    beginnings = draw(st.lists(words, min_size=1, max_size=2))
    rests = st.tuples(st.sampled_from(beginnings), words)
    return [" ".join(map(str, (a + b)[:5])) for a, b in draw(st.lists(rests, min_size=1, max_size=12))]


@pytest.mark.slow
@settings(max_examples=60)
@given(texts_of_numbers(), st.sampled_from(["", "1", "2 0", "0 0 3"]), st.booleans(), st.integers(1, 9))
def test_a_shared_beginning_changes_no_score(tiny_model, texts, prompt, correct, some):
    """A trace computes every text whole; both padding masks, and few hidden states at a time."""
    sizes = {"vocab_size": 6, "context_length": 12}
    model = tiny_model(some, text=sizes | {"correct_cls_mask": correct}, decoder=sizes)
    model.tokenizer = Numbers(6, 12)
    with trace():
        whole = mvc.score(model, a_video(), texts, prompt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "POSITIONS", some)
        np.testing.assert_allclose(mvc.score(model, a_video(), texts, prompt), whole, rtol=1e-12)


def positions(call):
    """Return how many positions the text stacks compute in a call."""
    counts = {"text.transformer": [], "decoder.hidden_states": []}
    with pytest.MonkeyPatch.context() as patch:
        for name, found in counts.items():
            module, function = getattr(generation, name.split(".")[0]), name.split(".")[1]
            operation = getattr(module, function)

            def counted(x, *args, operation=operation, found=found):
                found.append(x.shape[0] * x.shape[1])
                return operation(x, *args)

            patch.setattr(module, function, counted)
        call()
    first, second = (sum(found) for found in counts.values())
    assert first == second
    return first


def test_what_texts_begin_with_is_computed_once(model):
    """A question of three words and the start are one text's; each of the answers has its own words."""
    question, video = "a video of", a_video()
    answers = [f"{a} {b}" for a in WORDS[:10] for b in WORDS[:10]]
    assert positions(lambda: mvc.score(model, video, answers, question)) == 4 + 100 * 2
    assert positions(lambda: mvc.score(model, video, [f"{question} {a}" for a in answers])) == 4 + 100 * 2
    assert positions(lambda: mvc.score(model, video, answers)) == 1 + 100 * 2
    assert positions(lambda: mvc.score(model, video, ["a red circle"])) == 4
    assert positions(lambda: mvc.score(model, video, ["a red circle"] * 3)) == 3 * 4


def test_each_template_is_computed_once(model):
    templates, labels = ["a video of a {}", "there is {}"], [f"{a} {b}" for a in WORDS[:5] for b in WORDS[:4]]
    call = lambda: mvc.classify(model, a_video(), labels, templates, by="likelihood")  # noqa: E731
    assert positions(call) == (5 + 3) + 20 * (2 + 2)


def test_a_trace_of_scores_has_all_positions(model):
    """What `decode` computes, class position included."""
    texts, video = ["a red circle", "a red square is nothing"], a_video()
    with trace() as tape:
        mvc.score(model, video, texts)
    ids = model.tokenize(texts)[:, :6]
    with trace() as decoded:
        model.decode(video.tokens, ids)
    assert list(tape) == list(decoded) and "text.latent" in tape
    for name, x in decoded.items():
        np.testing.assert_array_equal(tape[name], x)


def test_a_score_depends_on_the_video(model):
    videos = [a_video(seed) for seed in range(2)]
    assert abs(np.subtract(*(mvc.score(model, video, ["a red circle"]) for video in videos))) > 1e-3


def test_the_best_beam_has_the_highest_score(tiny_model):
    """With enough textbook beams and no length penalty, `generate` finds the text with the highest score."""
    V, video = 5, a_video(7)
    model = tiny_model(7, text={"vocab_size": V}, decoder={"vocab_size": V})
    model.tokenizer = Numbers(V, 9)
    raise_logits(model, {V - 1: 2})
    ids = model.generate(
        video.tokens, beams=64, beam_groups=1, min_length=0, max_length=5, textbook=True, length_penalty=0
    ).tolist()
    assert ids[-1] == V - 1
    texts = [" ".join(map(str, words)) for n in range(4) for words in product(range(V - 1), repeat=n)]
    best = texts[mvc.score(model, video, texts).argmax()]
    assert [V - 2, *map(int, best.split()), V - 1] == ids


def test_a_text_longer_than_the_context_is_cut(model):
    """The tokenizer cuts it and puts the end token last."""
    long = "a red circle and a blue square " * 3
    ids = model.tokenize([long])[0].tolist()
    assert len(ids) == 9 and ids[-1] == END
    with pytest.warns(UserWarning, match="the text has 23 ids; the first 9 are used") as caught:
        [got] = mvc.score(model, a_video(), [long])
    assert len(caught) == 1
    assert got == pytest.approx(naive_score(model, a_video(), ids), rel=1e-12)


def test_a_text_of_every_kind_of_video(model):
    frames = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
    video = model.encode(frames)
    np.testing.assert_array_equal(mvc.score(model, frames, LABELS), mvc.score(model, video, LABELS))


# classify


def naive_likelihood(model, video, labels, templates):
    def probability(text):
        ids = model.tokenize([text])[0].tolist()
        return np.exp(naive_score(model, video, ids[: ids.index(END) + 1]))

    likely = {label: sum(probability(t.replace("{}", label)) for t in templates) for label in labels}
    return {label: x / sum(likely.values()) for label, x in likely.items()}


@pytest.mark.slow
@pytest.mark.parametrize("templates", [None, ["{}"], ["{}", "there is {}", "a video of {}"]], ids=str)
def test_classify_by_likelihood(model, templates):
    """A label's probability is the sum over its sentences, normalized over the labels."""
    for seed in range(3):
        video = a_video(seed)
        result = mvc.classify(model, video, LABELS, templates, by="likelihood")
        want = naive_likelihood(model, video, LABELS, templates or ["a video of {}."])
        assert [label for label, _ in result] == sorted(LABELS, key=want.get, reverse=True)
        assert dict(result) == pytest.approx(want, rel=1e-9)
        assert sum(p for _, p in result) == pytest.approx(1, abs=1e-12)
        assert {type(p) for _, p in result} == {float}


def test_classify_by_likelihood_with_tiny_probabilities(tiny_model, tokenizer):
    """No underflow for a float32 model and almost impossible sentences."""
    model = tiny_model(1, "float32", tokenizer=tokenizer)
    raise_logits(model, {VOCABULARY.index("red"): 40})
    video = a_video(dtype="float32")
    labels = ["a blue circle", "a blue square", "a red circle"]
    scores = mvc.score(model, video, [f"a video of {label}." for label in labels])
    assert scores.max() < -200
    result = dict(mvc.classify(model, video, labels, by="likelihood"))
    assert sum(result.values()) == pytest.approx(1, abs=1e-5)
    assert result["a red circle"] > 0.99
    for label, score in zip(labels, scores):
        assert result[label] == pytest.approx(np.exp(float(score - scores[2])), rel=1e-3, abs=1e-30)


def test_classify_by_latent_is_the_default(model):
    video = a_video()
    assert mvc.classify(model, video, LABELS) == mvc.classify(model, video, LABELS, by="latent")
    assert mvc.classify(model, video, LABELS) != mvc.classify(model, video, LABELS, by="likelihood")


# Errors


def test_errors(model, tiny_model, monkeypatch):
    def computed(*args, **kwargs):
        raise AssertionError("computed something first")

    monkeypatch.setattr(decoder, "hidden_states", computed)
    monkeypatch.setattr(type(model), "encode_frames", computed)
    video, frames = a_video(), np.zeros((2, 14, 14, 3), np.uint8)
    for nothing in ([], (), "a red circle", ""):
        refused(lambda: mvc.score(model, frames, nothing), "list")
    for wrong in ("logits", "", None, "Latent"):
        refused(lambda: mvc.classify(model, video, LABELS, by=wrong), "latent", "likelihood", repr(wrong))
    for labels, templates in [([], None), ("circle", None), (LABELS, []), (LABELS, "a {}"), (LABELS, ["a"])]:
        refused(lambda: mvc.classify(model, video, labels, templates, by="likelihood"))
    for texts in ([None], [3]):
        refused(lambda: mvc.score(model, video, texts))
    refused(lambda: mvc.score(tiny_model(), video, ["a"]), "tokenizer")
