"""Metrics, against cases worked out by hand and against definitions written down in another way."""

import shutil
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from platforms import posix

from minivideococa.evaluation import metrics


@st.composite
def rankings(draw):
    """Scores [n, C], with many ties, and what is right, at least one in each row."""
    n, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    scores = np.array(
        draw(
            st.lists(
                st.sampled_from([0.0, 0.5, 1.0, -np.inf, np.nan]),
                min_size=n * candidates,
                max_size=n * candidates,
            )
        )
    ).reshape(n, candidates)
    right = np.array(
        [
            draw(st.lists(st.booleans(), min_size=candidates, max_size=candidates).filter(any))
            for _ in range(n)
        ]
    )
    return scores, right


# Ranks


def test_ranks_by_hand():
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]])
    right = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0]], bool)
    places = metrics.ranks(scores, right)
    assert places.tolist() == [1, 2, 3]  # a tie with two others is lost to both
    assert [metrics.recall(places, k) for k in (1, 2, 5)] == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1]


@given(rankings())
def test_ranks_by_sorting(case):
    """Sorted by descending score, wrong ones first in ties; a wrong NaN is highest, a correct one lowest."""

    def key(score, right):
        return (-score if score == score else np.inf if right else -np.inf), right

    for rank, scores, right in zip(metrics.ranks(*case), *case):
        order = sorted(range(len(scores)), key=lambda i: key(scores[i], right[i]))
        if not np.isnan(scores[right]).any():  # of right ones that are NaN only the bound holds
            assert rank == 1 + next(place for place, i in enumerate(order) if right[i])
        assert 1 <= rank <= 1 + (~right).sum()


def test_ties_count_as_errors():
    assert metrics.ranks(np.zeros((4, 4)), np.eye(4)).tolist() == [4] * 4
    assert metrics.ranks(np.full((4, 4), np.nan), np.eye(4)).tolist() == [4] * 4
    with pytest.raises(ValueError, match="row 1 has no correct"):
        metrics.ranks(np.zeros((2, 2)), np.array([[1, 0], [0, 0]]))


# Average precision


@pytest.mark.parametrize(
    "scores, right, want",
    [
        ([3, 2, 1], [1, 0, 1], (1 + 2 / 3) / 2),
        ([3, 2, 1], [0, 0, 1], 1 / 3),
        ([3, 2, 1], [1, 1, 0], 1),
        ([1, 1, 1, 1], [0, 1, 0, 0], 1 / 4),
        ([2, 1, 1], [1, 1, 0], (1 + 2 / 3) / 2),
        ([np.nan, 1], [1, 0], 1 / 2),
    ],
)
def test_average_precision_by_hand(scores, right, want):
    assert metrics.average_precision(np.array(scores, float), np.array(right, bool)) == pytest.approx(want)


@given(rankings(), st.randoms())
def test_average_precision_by_thresholds(case, random):
    """The sum over descending thresholds of precision times the gain of recall, for videos in any order."""
    scores, right = np.nan_to_num(case[0][0], nan=-np.inf), case[1][0]
    want = before = 0
    for threshold in sorted(set(scores), reverse=True):
        found = right[scores >= threshold]
        want += found.mean() * (found.sum() / right.sum() - before)
        before = found.sum() / right.sum()
    assert metrics.average_precision(scores, right) == pytest.approx(want)
    order = random.sample(range(len(scores)), len(scores))
    assert metrics.average_precision(scores[order], right[order]) == pytest.approx(want)


def test_labels_that_no_video_has_are_left_out():
    scores = np.array([[3, 1, 9], [2, 2, 9], [1, 3, 9]])
    right = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    assert metrics.mean_average_precision(scores, right) == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    with pytest.raises(ValueError, match="no video has a label"):
        metrics.mean_average_precision(scores, np.zeros((3, 3)))


# Captions

DOG, CAT = "a dog runs in the park", "the black cat sleeps on one chair"


def test_identical_and_disjoint_captions():
    same = metrics.caption_scores([DOG, CAT.upper() + "!"], [[DOG + "."], ["nothing of it", CAT]])
    assert same["BLEU-4"] == pytest.approx(1, abs=1e-6) and same["ROUGE-L"] == pytest.approx(1)
    assert metrics.caption_scores([DOG, CAT], [[DOG], [CAT]])["CIDEr"] == pytest.approx(10)
    other = metrics.caption_scores([DOG, CAT], [["one two three four"], ["five six seven eight"]])
    assert list(other.values()) == pytest.approx([0, 0, 0], abs=1e-6)
    assert metrics.caption_scores(["", CAT], [[DOG], [CAT]])["ROUGE-L"] == pytest.approx(1 / 2)


def test_bleu_and_rouge_by_hand():
    """Of the n-grams of "a dog runs in the park", 5 of 6, 3 of 5, 2 of 4 and 1 of 3 are in the reference."""
    found = metrics.caption_scores([DOG], [["A dog runs in a park"]])
    assert found["BLEU-4"] == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert found["ROUGE-L"] == pytest.approx(5 / 6)  # precision and recall of "a dog runs in park"
    short = metrics.caption_scores(["a dog runs in"], [[DOG]])
    assert short["BLEU-4"] == pytest.approx(np.exp(1 - 6 / 4))
    assert short["ROUGE-L"] == pytest.approx((1 + 1.2**2) * (4 / 6) / (4 / 6 + 1.2**2))
    both = metrics.caption_scores(
        [DOG, CAT], [["a dog runs in a park"], [CAT]]
    )  # counts are added up, not scores
    assert both["BLEU-4"] == pytest.approx((12 / 13 * 9 / 11 * 7 / 9 * 5 / 7) ** 0.25)


def test_captions_are_compared_with_their_own_references():
    right = metrics.caption_scores([DOG, CAT, "x y z w"], [[DOG, CAT], [CAT], ["x y z w"]])
    wrong = metrics.caption_scores([DOG, CAT, "x y z w"], [[CAT], [DOG], ["x y z w"]])
    assert all(right[name] > 1.5 * wrong[name] for name in right)


@pytest.mark.parametrize(
    "text, want",
    [
        ("A Man, (smiling)... sings!", "a man smiling sings"),
        ("don't  shake-it", "don't shake-it"),
        ("'quoted' - “so”", "quoted so"),
        ("one,two/three", "one two three"),
        ("a\nb\u0085c", "a b c"),
        ("Café – 3,5%", "café 3 5"),
        ("?!", ""),
    ],
)
def test_words(text, want):
    assert metrics.words([text]) == [want]


@given(st.lists(st.text(), max_size=5))
def test_words_is_idempotent_and_gives_one_line_per_text(texts):
    once = metrics.words(texts)
    assert len(once) == len(texts) and metrics.words(once) == once
    assert not any("\n" in text or "  " in text or text != text.strip() for text in once)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="needs Java")
def test_ptb_keeps_texts_apart():
    texts = ["He doesn't sing.", "", "one\u0085two\ntwo\u2028three\r\nfour", "A man; a woman...", "..."]
    assert metrics.ptb(texts) == ["he does n't sing", "", "one two two three four", "a man a woman", ""]
    assert metrics.tokenizer_for("ptb") is metrics.ptb


def test_missing_requirements_are_errors_of_one_line(monkeypatch):
    assert metrics.tokenizer_for("words") is metrics.words
    with pytest.raises(ValueError, match="give words or ptb"):
        metrics.tokenizer_for("spaces")
    with pytest.raises(ValueError, match="none of the reference captions has a word"):
        metrics.caption_scores([DOG], [["..."]])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"^[^\n]*no java here[^\n]*words$"):
        metrics.tokenizer_for("ptb")
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ValueError, match=r"^[^\n]*pip install \"minivideococa\[eval\]\"[^\n]*$"):
        metrics.tokenizer_for("words")


@posix
def test_java_without_output_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(ValueError, match="Java returns no tokens"):
        metrics.tokenizer_for("ptb")


# Answers


@pytest.mark.parametrize(
    "answer, truth, same",
    [
        ("A dog.", "the DOG", True),
        ("play the  guitar", "play guitar", True),
        ("dogs", "dog", False),
        ("a", "A", True),
        ("a", "the", False),
        ("", "a", False),
        ("", "?", False),
        ("", "", False),
        (" ", "", False),
        ("?", " ? ", True),
        ("?", "!", False),
        ("an", "ant", False),
        ("two, three", "two three", True),
    ],
)
def test_same_answer(answer, truth, same):
    assert metrics.same_answer(answer, truth) == metrics.same_answer(truth, answer) == same
