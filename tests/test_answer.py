"""Answers to questions: the most probable continuation of a prompt."""

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import question_head
from minivideococa.checkpoint.folder import embedded_checkpoint, open_safetensors
from minivideococa.evaluation import Entry
from minivideococa.model import decoder, text
from minivideococa.model.generation import DecodingOptions
from minivideococa.model.ops import attention, keys_and_values, layer_norm, log_softmax, softmax
from minivideococa.tasks import class_logits, is_tuned_for_questions, rank_answers
from minivideococa.training.data import frequent_answers
from minivideococa.world import draw_clip
from minivideococa.world.questions import ASKED, sample_questions


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(5, tokenizer=tokenizer)


@pytest.fixture
def video(model):
    return model.encode_video(np.random.default_rng(0).standard_normal((2, 3, 14, 14)))


def test_the_score_with_a_prompt_against_the_decoders_logits(model, video):
    """log p(red circle, end | start, there is a): one row, no padding, id by id."""
    ids = model.tokenize(["there is a red circle"])[0]
    ids = ids[: list(ids).index(model.tokenizer.end_id) + 1]
    told = log_softmax(model.decode(video.tokens, ids[None, :-1]))[0]
    want = sum(told[i - 1, ids[i]] for i in range(4, len(ids)))  # start there is a | red circle end
    assert len(ids) == 7
    np.testing.assert_allclose(mvc.score(model, video, ["red circle"], "there is a"), [want], atol=1e-12)


def test_a_prompt_shifts_all_scores_by_the_same_amount(model, video):
    texts = ["red circle", "blue star", "star"]
    off = mvc.score(model, video, [f"there is a {text}" for text in texts]) - mvc.score(
        model, video, texts, "there is a"
    )
    np.testing.assert_allclose(off, off[0], atol=1e-12)
    assert off[0] < -0.1
    np.testing.assert_array_equal(mvc.score(model, video, texts, ""), mvc.score(model, video, texts))


def test_the_most_probable_answer(model, video):
    answers = ["red circle", "blue star", "green heart", "a"]
    best = answers[int(mvc.score(model, video, answers, "this is a").argmax())]
    assert mvc.answer(model, video, "this is a", answers) == best
    assert mvc.answer(model, video, "this is a", answers[::-1]) == best
    assert mvc.answer(model, video, "this is a", [answers[2]]) == answers[2]


def test_without_answers_the_question_is_continued(model, video):
    written = mvc.answer(model, video, "there is")
    assert f"there is {written}".strip() == model.caption(video, prompt="there is", min_length=1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model, video: mvc.answer(model, video, " "), "give a question"),
        (lambda model, video: mvc.answer(model, video, "is", []), "at least one text"),
        (lambda model, video: mvc.answer(model, video, "is", "red"), "at least one text"),
        (lambda model, video: mvc.score(model, video, ["red"], "a " * 9), "leaves no room"),
        (lambda model, video: mvc.answer(model, video, "a " * 9), "prompt has .* tokens"),
    ],
)
def test_invalid_questions(model, video, call, message):
    with pytest.raises(ValueError, match=message):
        call(model, video)


def test_answer_needs_a_tokenizer(tiny_model, video):
    with pytest.raises(ValueError, match="no tokenizer"):
        mvc.answer(tiny_model(5), video, "there is", ["red"])


def test_the_embedded_checkpoint_knows_colours():
    from minivideococa.demo import CLIPS

    model = mvc.load()
    assert (
        mvc.answer(
            model, CLIPS / "single.gif", "a photo of a", ["red crescent", "green crescent", "green star"]
        )
        == "green crescent"
    )


# The best answers with their probabilities


def test_the_probabilities_of_given_answers_are_the_softmax_of_their_scores(model, video):
    answers = ["red circle", "blue star", "a"]
    scores = mvc.score(model, video, answers, "this is a")
    want = sorted(zip(softmax(scores), answers), reverse=True)
    found = mvc.answer(model, video, "this is a", answers, top=9)
    assert [text for text, _ in found] == [text for _, text in want]
    np.testing.assert_allclose([p for _, p in found], [p for p, _ in want], atol=1e-12)
    assert sum(p for _, p in found) == pytest.approx(1)
    assert mvc.answer(model, video, "this is a", answers, top=2) == found[:2]
    assert mvc.answer(model, video, "this is a", answers) == found[0][0]
    for row in rank_answers(model, video, "this is a", answers):
        assert row.score == pytest.approx(scores[answers.index(row.answer)])


def test_the_probabilities_of_generated_answers_are_those_of_the_texts(model, video):
    found = mvc.answer(model, video, "there is", top=3)
    assert len(found) == 3 and len({text for text, _ in found}) == 3
    want = np.exp(mvc.score(model, video, [text for text, _ in found], "there is"))
    np.testing.assert_allclose([p for _, p in found], want, atol=1e-15)
    assert sorted(want, reverse=True) == list(want)


def test_the_most_probable_answers_of_one_word_are_found(model, video):
    """After a question that leaves room for one word and the end token, with a beam for each word."""
    words = [word for word in model.tokenizer.vocabulary.get_vocab() if not word.startswith("<")]
    question = " ".join(["a"] * 6)
    found = mvc.answer(model, video, question, top=3, beams=model.config.text.vocab_size)
    told = dict(zip(words, np.exp(mvc.score(model, video, words, question))))
    found = [pair for pair in found if pair[0] in told]  # without the empty answer
    best = sorted(told, key=told.get, reverse=True)[: len(found)]
    assert len(found) >= 2 and found[0] == (best[0], pytest.approx(told[best[0]]))


def test_the_search_is_for_the_most_probable_answers():
    """Sums of raw logits, and scores divided by the length, lead to less probable texts."""
    from minivideococa.demo import CLIPS

    model = mvc.load()
    video = model.encode(CLIPS / "single.gif")
    total, *others = (
        sum(p for _, p in mvc.answer(model, video, "a", top=3, **how))
        for how in ({}, {"length_penalty": 1}, {"convention": "open_clip", "length_penalty": 1})
    )
    assert 1 > total > 1.1 * max(others)


@pytest.mark.parametrize("top", [0, -1, 1.5, True, "2"])
def test_top_is_a_number_of_answers(model, video, top):
    with pytest.raises(ValueError, match="^top is .*give a whole number of 1 or more"):
        mvc.answer(model, video, "there is", top=top)


# The classifier of answers

CLASSES = ["red", "blue star", "two", "YES"]


@pytest.fixture
def classifier(tiny_model, tokenizer):
    return tiny_model(5, tokenizer=tokenizer, video={"answers": CLASSES})


def test_the_logits_of_the_classes_stage_by_stage(classifier, video):
    """One question without padding, one head of the pooler after the other."""
    p, config = classifier.params, classifier.config
    ids = np.array([[1, 10, 11, 2]])
    _, features = text.encode_text(ids, p["text"], config.text)
    kv = decoder.cross_attention_kv(video.tokens[None], p["text_decoder"], config.decoder)
    hidden = decoder.hidden_states(features, kv, p["text_decoder"], config.decoder)[0]  # [L, E]
    pooler, linear = p["question_head"]["pooler"], p["question_head"]["classifier"]
    query, context = layer_norm(pooler["query"], **pooler["ln_q"]), layer_norm(hidden, **pooler["ln_k"])
    heads = config.vision.pooler_heads
    pooled = attention(query, *keys_and_values(context, pooler["attn"], heads), pooler["attn"], heads)[0]
    want = linear["weight"] @ pooled + linear["bias"]
    found = question_head.classify_questions(ids, video.tokens[None], p, config)
    np.testing.assert_allclose(found, [want], atol=1e-12)


def test_padding_changes_nothing_where_the_mask_leaves_it_out(classifier, video):
    hidden = np.random.default_rng(3).standard_normal((1, 7, 8))
    mask = np.array([[True] * 4 + [False] * 3])
    head, heads = classifier.params["question_head"], 2
    short = question_head.answer_logits(hidden[:, :4], mask[:, :4], head, heads)
    np.testing.assert_allclose(question_head.answer_logits(hidden, mask, head, heads), short, atol=1e-12)
    assert np.abs(question_head.answer_logits(hidden, ~mask, head, heads) - short).max() > 1e-3


def test_a_classifier_answers_with_its_most_probable_class(classifier, video):
    logits = class_logits(classifier, video, "a red star")
    found = mvc.answer(classifier, video, "a red star", top=9)
    assert [text for text, _ in found] == [CLASSES[i] for i in np.argsort(-logits)]
    np.testing.assert_allclose([p for _, p in found], np.sort(softmax(logits))[::-1], atol=1e-12)
    assert mvc.answer(classifier, video, "a red star") == found[0][0]
    other = class_logits(classifier, video, "a blue ring")
    assert np.abs(other - logits).max() > 1e-3  # the question matters, and so does the video:
    blank = mvc.Video(video.latent, np.zeros_like(video.tokens))
    assert np.abs(class_logits(classifier, blank, "a red star") - logits).max() > 1e-3


def test_a_classifier_ranks_the_given_answers_that_it_knows(classifier, video):
    scores = log_softmax(class_logits(classifier, video, "a star"))
    with pytest.warns(UserWarning, match="^purple is not a class of .* classifier of answers: left out$"):
        found = rank_answers(classifier, video, "a star", ["purple", "Yes ", "red"])
    assert {row.answer: row.score for row in found} == pytest.approx({"Yes ": scores[3], "red": scores[0]})
    want = softmax(scores[[3, 0]])
    assert {row.answer: row.probability for row in found} == pytest.approx({"Yes ": want[0], "red": want[1]})


@pytest.mark.parametrize("given, number", [("The blue star!", 1), (" a  YES", 3), ("Two", 2)])
def test_an_answer_is_a_class_by_the_rule_of_training(classifier, video, given, number):
    """Without articles, punctuation and case; the answer is named as it is given."""
    entries = [Entry("a.mp4", question="q", answer=answer) for answer in (CLASSES[number], given)]
    assert frequent_answers(entries, 9) == (CLASSES[number],)
    scores = log_softmax(class_logits(classifier, video, "a star"))
    with pytest.warns(UserWarning, match="^purple is not a class"):
        [row] = rank_answers(classifier, video, "a star", ["purple", given])
    assert (row.answer, row.score) == (given, pytest.approx(scores[number]))


def test_the_decoder_ranks_answers_none_of_which_the_classifier_knows(classifier, video):
    with pytest.warns(UserWarning, match="^a ring, a heart are not classes of .*: ranked by the decoder"):
        found = mvc.answer(classifier, video, "there is", ["a ring", "a heart"], top=2)
    want = softmax(mvc.score(classifier, video, ["a ring", "a heart"], "there is"))
    assert dict(found) == pytest.approx({"a ring": want[0], "a heart": want[1]})


def test_which_models_are_tuned_for_questions(model, classifier, tiny_model):
    assert is_tuned_for_questions(classifier) and not is_tuned_for_questions(model)
    tuned = tiny_model(5)
    tuned.tuned_for = "caption"
    assert not is_tuned_for_questions(tuned)
    tuned.tuned_for = "qa"
    assert is_tuned_for_questions(tuned)


def test_a_model_tuned_for_questions_answers_greedily_unless_told_otherwise(model, video, monkeypatch):
    options, generate = [], model.generate

    def spy(tokens, given, **keywords):
        options.append(given)
        return generate(tokens, given, **keywords)

    monkeypatch.setattr(model, "generate", spy)
    for task in None, "qa":
        model.tuned_for = task
        mvc.answer(model, video, "there is")
        mvc.answer(model, video, "there is", beams=3)
        mvc.answer(model, video, "there is", options=DecodingOptions())
    assert [given.beams for given in options] == [6, 3, 6, 1, 3, 6]


# The embedded part for questions


def test_the_embedded_part_is_a_small_part_of_the_embedded_checkpoint():
    path = embedded_checkpoint() / "questions.safetensors"
    assert path.stat().st_size < 3e6
    assert {str(tensor.dtype) for tensor in open_safetensors(path).values()} == {"float16"}
    tuned, base = mvc.load(tuned="questions"), mvc.load()
    assert is_tuned_for_questions(tuned) and not is_tuned_for_questions(base)
    assert (tuned.config.adapter, tuned.config.answers) == ("attentional", ())
    assert tuned.params["visual"]["transformer"]["resblocks"][0]["ln_1"]["bias"].tolist() == (
        base.params["visual"]["transformer"]["resblocks"][0]["ln_1"]["bias"].tolist()
    )


@pytest.mark.slow
def test_the_embedded_part_answers_questions_of_every_kind():
    """weights/make_questions.py measures the rates of each kind on 1400 clips."""
    model, right = mvc.load(tuned="questions"), []
    for i in range(6 * len(ASKED)):
        rng = np.random.default_rng([20_001, i])  # of no training
        clip, asked = sample_questions(ASKED[i % len(ASKED)], rng, 8, "test", "canonical")
        video = model.encode(draw_clip(clip))
        asked = [q for q in asked if q.kind in ASKED]
        right += [mvc.answer(model, video, q.question) == q.answer for q in asked]
    assert len(right) > 80 and np.mean(right) >= 0.9
