"""Answers to questions: the most probable continuation of a prompt."""

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.model.ops import log_softmax


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
