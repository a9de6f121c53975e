"""Evaluation of question answering: choices, several annotators, types of questions, and the baseline."""

import json
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import cli, tasks
from minivideococa.checkpoint import with_tensors
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.tuned import write_tuned
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, evaluate, report, write_manifest
from minivideococa.evaluation.metrics import equal_texts, soft_score
from minivideococa.evaluation.tasks import qa
from minivideococa.evaluation.tasks.caption import Caption
from minivideococa.evaluation.tasks.mean import MeanVideo
from minivideococa.evaluation.tasks.qa import question_type
from minivideococa.model.config import Video
from minivideococa.model.generation import DecodingOptions
from minivideococa.model.ops import normalize
from minivideococa.training.parameters import new_question_head

WORDS = ["red", "star", "blue ring"]
CLASSES = ["red", "blue star", "small ring"]


def ask(video, question="this is a", answer="red", **more):
    return Entry(video, question=question, answer=answer, **more)


def qa_of(model, entries, **more):
    """{metric: value} of an evaluation, and its details."""
    result = evaluate(model, entries, ["qa"], **{"beams": 1} | more)
    return {name: row["value"] for name, row in result["metrics"]["qa"].items()}, result["details"]["qa"]


@pytest.fixture
def classifier(tiny_model, tokenizer):
    return tiny_model(2, tokenizer=tokenizer, video={"answers": CLASSES})


# The score of an answer


@pytest.mark.parametrize(
    "answer, truths, score",
    [
        ("wool", ["wool", "wool", "yarn", "wool", "string"], 1),
        ("yarn", ["wool", "wool", "yarn", "wool", "string"], 0.5),
        ("a yarn!", ["wool", "yarn", "Yarn"], 1),
        ("cat", ["wool", "yarn"], 0),
        ("", ["", " "], 0),
    ],
)
def test_the_soft_score(answer, truths, score):
    assert soft_score(answer, truths) == score


def test_the_exact_match_of_published_evaluations():
    assert equal_texts(" Red", "red") and not equal_texts("a red", "red") and not equal_texts(" ", "")
    assert soft_score("a red", ["red", "red"], equal_texts) == 0


def test_the_exact_match_counts_articles(model, pictures):
    said = mvc.answer(model, pictures[0], "there is", beams=1, max_length=9)
    entries = [ask(pictures[0], "there is", f"the {said}"), ask(pictures[0], "there is", said.upper())]
    found, _ = qa_of(model, entries)
    assert found["accuracy"] == 1 and found["exact match"] == 0.5


def test_several_annotators_give_the_soft_score(model, pictures):
    said = mvc.answer(model, pictures[0], "this is a", WORDS)
    [other, another] = [word for word in WORDS if word != said]
    entries = [
        Entry(pictures[0], question="this is a", answers=answers)
        for answers in ([said, said, other], [said, other, other], [other, another, another])
    ]
    found, _ = qa_of(model, entries, answers=WORDS)
    assert found["soft score"] == pytest.approx((1 + 0.5 + 0) / 3) and "accuracy" not in found


# Choices


def test_each_question_has_its_own_choices(model, pictures):
    """The same question with other choices is another one; `answers` are for questions without choices."""
    choices = [("red", "star"), ("a ring", "the ring", "cross"), ()]
    entries = [ask(pictures[0], answer=(some or WORDS)[0], choices=some) for some in choices]
    predictions = evaluate(model, entries, answers=WORDS)["predictions"]
    want = [mvc.answer(model, pictures[0], "this is a", some or WORDS) for some in choices]
    assert [line["answer"] for line in predictions] == want
    assert len(set(want)) > 1


def test_choices_that_differ_in_an_article_are_different(model, pictures):
    chosen = mvc.answer(model, pictures[0], "this is a", ["a ring", "the ring"])
    for answer in "a ring", "the ring":
        found, _ = qa_of(model, [ask(pictures[0], answer=answer, choices=("a ring", "the ring"))])
        assert found["accuracy"] == (answer == chosen) and "exact match" not in found


# Types


@pytest.mark.parametrize(
    "question, given, type",
    [
        ("what is it?", None, "what"),
        ("Who is it?", None, "who"),
        ("is it a cat?", None, "other"),
        ("whatever", None, "other"),
        ("what is it?", "free/object", "free/object"),
    ],
)
def test_the_type_of_a_question(question, given, type):
    assert question_type(ask("x.mp4", question, question_type=given)) == type


def test_the_table_by_type_has_a_row_for_each_type_and_each_group(model, pictures):
    said = mvc.answer(model, pictures[0], "this is a", WORDS)
    wrong = next(word for word in WORDS if word != said)
    kinds = [("free/color", said), ("free/color", wrong), ("free/number", said), ("motion", wrong)]
    entries = [ask(pictures[0], answer=answer, question_type=kind) for kind, answer in kinds]
    result = evaluate(model, entries, answers=WORDS)
    by_type = result["details"]["qa"]["by_type"]
    assert {kind: row["accuracy"] for kind, row in by_type.items()} == {
        "free": {"value": pytest.approx(2 / 3), "items": 3},
        "free/color": {"value": 0.5, "items": 2},
        "free/number": {"value": 1, "items": 1},
        "motion": {"value": 0, "items": 1},
    }
    table = report(result).split("\n\n")[1].split("\n")
    assert table[0].split() == ["qa,", "by", "type", "accuracy", "question", "only", "items"]
    assert table[2].split() == [
        "free/color",
        "0.500",
        f"{by_type['free/color']['question only']['value']:.3f}",
        "2",
    ]
    assert len({len(line) for line in table}) == 1


def test_a_single_type_needs_no_table(model, pictures):
    result = evaluate(model, [ask(pictures[0]), ask(pictures[1])], answers=WORDS)
    assert result["details"]["qa"]["by_type"] == {} and "by type" not in report(result)


# The question-only baseline


def test_the_mean_of_videos(model):
    rng = np.random.default_rng(0)
    videos = [Video(normalize(rng.standard_normal(8)), rng.standard_normal((3, 8))) for _ in range(4)]
    mean = MeanVideo()
    for video in videos:
        mean.add(video)
    found = mean.video(np.dtype("float32"))
    np.testing.assert_allclose(found.tokens, np.mean([video.tokens for video in videos], 0), rtol=1e-6)
    latent = np.mean([video.latent for video in videos], 0)
    np.testing.assert_allclose(found.latent, latent / np.linalg.norm(latent), rtol=1e-6)
    assert found.tokens.dtype == found.latent.dtype == np.float32


@pytest.mark.parametrize("trained", [False, True])
def test_the_baseline_answers_about_the_mean_video(model, pictures, trained):
    """It is that of the training set, or else of the evaluated videos; one answer for each question."""
    entries = [
        ask(path, question, word)
        for path, word in zip(pictures[:3], WORDS)
        for question in ("this is a", "there is a")
    ]
    train = [ask(path) for path in pictures[3:]] if trained else None
    videos = [model.encode(path) for path in (pictures[3:] if trained else pictures[:3])]
    mean = Video(videos[0].latent, np.mean([video.tokens for video in videos], axis=0))
    want = [mvc.answer(model, mean, entry.question, WORDS) == entry.answer for entry in entries]
    found, details = qa_of(model, entries, answers=WORDS, train=train)
    assert found["question only"] == pytest.approx(np.mean(want))
    assert ("the mean of the 3 training videos" in details["note"]) == trained
    assert ("the mean of the 3 evaluated videos; --train" in details["note"]) != trained


def test_the_baseline_sees_nothing_of_the_video(model, pictures, monkeypatch):
    """Whatever is shown, the answers without a video are those about the training set's mean."""
    seen = []

    def answer(model, video, question, *_, **__):
        seen.append(video.tokens)
        return "red"

    monkeypatch.setattr(qa, "answer", answer)
    train = [ask(path) for path in pictures[4:]]
    for path in pictures[:2]:
        evaluate(model, [ask(path)], ["qa"], train=train)
    about_a, blind, about_b, blind_again = seen
    np.testing.assert_array_equal(blind, blind_again)
    assert np.abs(about_a - about_b).max() > 1e-3 and np.abs(about_a - blind).max() > 1e-3


def test_a_training_video_counts_once_and_a_broken_one_not_at_all(model, pictures, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    train = [
        ask(pictures[3]),
        ask(pictures[3], "there is"),
        Entry(pictures[4]),
        Entry(tmp_path / "broken.mp4"),
    ]
    with pytest.warns(UserWarning, match="left out of the training set's mean: .*broken.mp4"):
        _, details = qa_of(model, [ask(pictures[0])], train=train)
    assert "the mean of the 2 training videos" in details["note"]
    with (
        pytest.raises(ValueError, match="none of the 1 training videos can be read"),
        pytest.warns(UserWarning),
    ):
        qa_of(model, [ask(pictures[0])], train=train[-1:])


def test_tasks_without_a_baseline_do_not_read_the_training_set(model, pictures, calls):
    evaluate(model, [Entry(pictures[0], (), ("x",))], train=[ask(pictures[1])])
    assert calls["encode_video"] == 1


@pytest.mark.slow
def test_the_cache_tells_one_mean_from_another(model, pictures, tmp_path, calls):
    for train in None, [ask(pictures[3])], [ask(pictures[4])]:
        evaluate(model, [ask(pictures[0])], ["qa"], train=train, cache=tmp_path / "cache", beams=1)
    assert calls["generate"] == 1 + 3
    evaluate(model, [ask(pictures[0])], ["qa"], train=train, cache=tmp_path / "cache", beams=1)
    assert calls["generate"] == 1 + 3


def test_progress_has_a_stage_for_the_training_videos_and_one_for_the_baseline(model, pictures):
    stages = []

    @contextmanager
    def progress(total, unit):
        counts = []
        stages.append((unit, total, counts))
        yield counts.append

    entries = [ask(pictures[0]), ask(pictures[1]), ask(pictures[1], "there is")]
    evaluate(model, entries, train=[ask(pictures[2])] * 2, answers=WORDS, progress=progress)
    assert [(unit, total, sum(counts)) for unit, total, counts in stages] == [
        ("training videos", 1, 1),
        ("videos", 2, 2),
        ("questions without a video", 2, 2),
    ]


# The classifier of answers


def test_a_classifier_answers_and_generates_nothing(classifier, pictures, calls):
    entries = [ask(path, answer="red") for path in pictures]
    result = evaluate(classifier, entries)
    said = [mvc.answer(classifier, path, "this is a") for path in pictures]
    assert [line["answer"] for line in result["predictions"]] == said and set(said) <= set(CLASSES)
    assert calls["generate"] == 0


def test_what_a_classifier_cannot_answer_is_counted_once(classifier, pictures):
    entries = [ask(pictures[0], answer=answer) for answer in ("red", "cross", "The Ring", "a small ring")]
    with pytest.warns(UserWarning, match="^qa: 2 right answers are not among those to choose from$"):
        evaluate(classifier, entries)


def test_choices_that_a_classifier_does_not_know_are_counted_once(classifier, pictures):
    choices = [("red", "cross", "ring"), ("heart", "cross", "ring"), ("a Red", "The blue star.")]
    entries = [ask(pictures[0], answer=some[0], choices=some) for some in choices]
    with pytest.warns(UserWarning) as caught:
        predictions = evaluate(classifier, entries)["predictions"]
    [message] = [str(warning.message) for warning in caught]
    assert message.startswith("qa: 3 of 6 answers to choose from are not classes of the model's classifier")
    assert predictions[0]["answer"] == "red"  # the only one that it knows
    scores = mvc.score(classifier, pictures[0], choices[1], "this is a")
    assert predictions[1]["answer"] == choices[1][int(scores.argmax())]


def test_a_classifier_needs_no_room_for_an_answer(classifier, pictures):
    question = " ".join("a" * 7)  # fills the context
    assert evaluate(classifier, [ask(pictures[0], question)])["predictions"][0]["answer"] in CLASSES
    with pytest.raises(ValueError, match="leaves no room for an answer"):
        evaluate(classifier, [ask(pictures[0], question)], answers=WORDS)


# The commands


@pytest.fixture
def run(capsys):
    """Run a command; its exit status, output and messages."""

    def run(*arguments):
        status = cli.main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_the_training_set_of_the_command(run, pictures, tmp_path):
    write_manifest(
        tmp_path / "test.jsonl", [ask(pictures[0], "there is a", "red star", choices=("red star", "ring"))]
    )
    write_manifest(tmp_path / "train.jsonl", [Entry(path) for path in pictures[3:]])
    common = ["evaluate", tmp_path / "test.jsonl", "--no-cache", "--frames", 1, "-q"]
    status, out, _ = run(*common, "--train", tmp_path / "train.jsonl")
    assert status == 0 and [line.split()[1] for line in out.split("\n")[1:3]] == ["accuracy", "question"]
    assert "the mean of the 3 training videos" in out and "exact match" not in out
    assert run(*common[:-1], "--train", tmp_path / "train.jsonl", "-o", tmp_path / "train.jsonl")[0] == 2
    status, _, err = run(*common[:-1], "--train", tmp_path / "none.jsonl")
    assert status == 2 and "none.jsonl" in err


def test_the_training_set_has_the_form_of_the_data_set(run, tmp_path):
    for name, clip in ("1", "single.gif"), ("2", "pair.gif"):
        (tmp_path / f"{name}.mp4").write_bytes((CLIPS / clip).read_bytes())
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
    for name in "1", "2":
        row = f"{name},9,9,9,there is a,1,0,DO,red star,green crescent,ring,cross,heart\n"
        (tmp_path / f"{name}.csv").write_text(header + row)
    status, out, err = run(
        *("evaluate", tmp_path / "1.csv", "--format", "next-qa", "--videos", tmp_path, "--json"),
        *("--train", tmp_path / "2.csv", "--no-cache", "--frames", 2),
    )
    assert status == 0, err
    result = json.loads(out)
    assert result["metrics"]["qa"]["accuracy"] == {"value": 1, "items": 1}
    assert "the mean of the 1 training videos" in result["details"]["qa"]["note"]
    assert list(result["details"]["qa"]["by_type"]) == ["descriptive", "descriptive/other"]


@pytest.mark.slow
def test_the_answers_of_the_command_with_their_probabilities(run):
    command = ["answer", CLIPS / "single.gif", "a photo of a", "--frames", 2]
    command += ["--weights", embedded_checkpoint()]  # without its part for questions
    answers = ["--answers", "green crescent,red star,ring"]
    status, out, err = run(*command, *answers, "--top", 2)
    assert status == 0 and [line[9:].strip() for line in out.split("\n")[:1]] == ["green crescent"]
    assert len(out.strip().split("\n")) == 2
    assert err.count("was not finetuned for questions") == 1
    told = json.loads(run(*command, *answers, "--top", 2, "--json")[1])
    model = mvc.load()
    video = model.encode(CLIPS / "single.gif", 2)
    want = tasks.rank_answers(model, video, "a photo of a", ["green crescent", "red star", "ring"])[:2]
    assert told["answers"] == [pytest.approx(row._asdict()) for row in want]
    assert told["tuned_for_questions"] is False
    generated = json.loads(run(*command, "--top", 3, "--json")[1])["answers"]
    assert [(row["answer"], pytest.approx(row["probability"])) for row in generated] == mvc.answer(
        model, video, "a photo of a", top=3
    )


@pytest.fixture
def tuned_part(tmp_path):
    """The embedded checkpoint with a new classifier of answers, stored as a part."""
    base = mvc.load()
    config = parse_config(base.config.source | {"video_cfg": {"answers": ["crescent", "green", "two"]}})
    head = new_question_head(config, 0, base.dtype)
    head["question_head.classifier.bias"] = np.array([0, 5, 1], base.dtype)
    model = with_tensors(base, head, config=config, tuned_for="qa")
    return write_tuned(tmp_path / "tuned.safetensors", model)


@pytest.mark.slow
def test_the_command_with_a_classifier(run, tuned_part):
    """No message about the finetuning; the classes, or those of them that are given."""
    command = ["answer", CLIPS / "single.gif", "a green", "--tuned", tuned_part, "--frames", 2]
    assert run(*command, "-q") == (0, "green\n", "")
    status, out, err = run(*command, "--top", 9)
    rows = [line.split() for line in out.splitlines()]
    assert status == 0 and [row[1] for row in rows] == ["green", "two", "crescent"]
    assert sum(float(row[0]) for row in rows) == pytest.approx(1, abs=2e-3) and "not finetuned" not in err
    told = json.loads(run(*command, "--json", "--top", 1)[1])
    assert told["tuned_for_questions"] is True and told["answers"][0]["answer"] == "green"
    status, out, err = run(*command, "--answers", "two,purple,green")  # no vocabulary reads "two"
    assert [line.split()[1] for line in out.splitlines()] == ["green", "two"]
    assert err.count("purple is not a class of this model's classifier of answers: left out\n") == 1


def test_captions_of_a_model_tuned_for_questions_are_warned_of():
    """They are measured all the same: other tasks of the manifest may suit the model."""
    pytest.importorskip("pycocoevalcap")
    options = SimpleNamespace(options=DecodingOptions(), tokenizer="words")
    for tuned, known in ((None, False), ("questions", True)):
        task = SimpleNamespace(model=mvc.load(tuned=tuned), settings=options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Caption.check(task)
        assert any("writes no captions" in str(warning.message) for warning in caught) == known
