"""evaluate: predictions against those of `tasks`, new tasks, unreadable clips, the cache, the command."""

import json
import shutil
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from platforms import posix

import minivideococa as mvc
from minivideococa import cli, tasks
from minivideococa.demo import CLIPS
from minivideococa.evaluation import FORMATS, TASKS, Entry, evaluate, read_manifest, write_manifest
from minivideococa.evaluation.tasks import Task
from minivideococa.evaluation.tasks.task import finite_latents

LABELS = ["a blue square", "a green star", "a red circle", "an orange heart", "a pink ring", "a cyan cross"]
OPTIONS = {"beams": 1, "max_length": 8}


@pytest.fixture
def clips(pictures):
    """Name -> the path of a picture."""
    return {path.stem: path for path in pictures}


def values(result):
    """(task, metric) -> value."""
    return {
        (task, name): found["value"]
        for task, some in result["metrics"].items()
        for name, found in some.items()
    }


def everything(clips):
    """An entry for each clip that fits every task."""
    return [
        Entry(path, (label, f"there is {label}"), (label,), "this is a", "red star")
        for path, label in zip(clips.values(), LABELS)
    ]


# Tasks


@pytest.mark.parametrize("templates", [None, ["a photo of {}", "{} and nothing"]])
def test_classify(model, clips, templates):
    result = evaluate(model, everything(clips), ["classify"], num_frames=2, templates=templates)
    place = []
    for path, label, line in zip(clips.values(), LABELS, result["predictions"]):
        ranking = mvc.classify(model, model.encode(path, 2), sorted(LABELS), templates)
        assert [(x["label"], x["probability"]) for x in line["labels"]] == [
            (name, pytest.approx(p)) for name, p in ranking[:5]
        ]
        place.append([name for name, _ in ranking].index(label))
    assert result["metrics"] == {
        "classify": {
            "top-1": {"value": np.mean(np.array(place) < 1), "items": 6},
            "top-5": {"value": np.mean(np.array(place) < 5), "items": 6},
        }
    }


def test_several_labels_give_mean_average_precision(model, clips):
    entries = [
        Entry(path, (), tuple({LABELS[i], LABELS[i * i % 3]})) for i, path in enumerate(clips.values())
    ]
    found = evaluate(model, entries)["metrics"]
    assert list(found) == ["classify"] and list(found["classify"]) == ["mAP"]
    latents = tasks.label_latents(
        model, LABELS
    )  # cosines: a softmax over labels would change the order of videos
    scores, wanted = np.array([latents @ model.encode(entry.video).latent for entry in entries]), []
    for i, label in enumerate(LABELS):
        right = np.array([label in entry.labels for entry in entries])
        wanted.append(np.mean([right[scores[:, i] >= s].mean() for s in scores[right, i]]))
    assert found["classify"]["mAP"] == {"value": pytest.approx(np.mean(wanted)), "items": 6}
    twice = evaluate(model, [Entry(clips["a"], (), ("one", "one")), Entry(clips["b"], (), ("two",))])
    assert list(twice["metrics"]["classify"]) == ["top-1", "top-5"]


@pytest.mark.slow
def test_retrieve(model, clips):
    entries = everything(clips)
    result = evaluate(model, entries, ["retrieve"])
    to_video, to_text = [], []
    texts = [text for entry in entries for text in entry.captions]
    for i, (entry, line) in enumerate(zip(entries, result["predictions"])):
        found = [
            [index for index, _ in mvc.retrieve(model, text, list(clips.values()))].index(i) + 1
            for text in entry.captions
        ]
        ranking = [index // 2 for index, _ in mvc.retrieve(model, entry.video, texts)]
        wrong_ones = [j for j in ranking if j != i]
        before = len([j for j in ranking[: ranking.index(i)] if j != i])
        assert (
            len(wrong_ones) == 10
            and line["text_to_video_ranks"] == found
            and line["video_to_text_rank"] == before + 1
        )
        to_video, to_text = to_video + found, [*to_text, before + 1]
    for way, places in ("text-to-video", to_video), ("video-to-text", to_text):
        for k in 1, 5, 10:
            assert result["metrics"]["retrieve"][f"{way} R@{k}"] == {
                "value": pytest.approx(np.mean(np.array(places) <= k)),
                "items": len(places),
            }
        assert values(result)["retrieve", f"{way} median rank"] == np.median(places)


def test_copies_of_a_clip_tie_and_are_errors(model, clips, tmp_path):
    shutil.copy(clips["a"], tmp_path / "copy.png")
    entries = [Entry(clips["a"], ("a red star",)), Entry(tmp_path / "copy.png", ("a blue ring",))]
    found = values(evaluate(model, entries, ["retrieve"]))
    assert found["retrieve", "text-to-video R@1"] == 0 and found["retrieve", "text-to-video median rank"] == 2


def test_a_caption_of_two_videos_is_correct_for_both(model, clips):
    """As a query it still has to retrieve its own video before the other."""
    entries = [Entry(clips["a"], ("a red star",)), Entry(clips["b"], ("a red star",))]
    found = values(evaluate(model, entries, ["retrieve"]))
    assert found["retrieve", "video-to-text R@1"] == 1
    assert found["retrieve", "text-to-video R@1"] == 0.5


@posix
def test_two_paths_to_a_file_are_one_video(model, clips, tmp_path, calls):
    (tmp_path / "link.png").symlink_to(clips["a"])
    ways = [clips["a"], tmp_path / "link.png", tmp_path / ".." / tmp_path.name / "a.png"]
    result = evaluate(
        model, [Entry(way, ("a red star", f"caption {i}")) for i, way in enumerate(ways)], ["retrieve"]
    )
    assert (result["videos"], calls["encode_video"]) == (1, 1)
    assert [line["video"] for line in result["predictions"]] == [str(way) for way in ways]
    assert values(result)["retrieve", "text-to-video R@1"] == 1
    assert result["metrics"]["retrieve"]["text-to-video R@1"]["items"] == 4


def test_invalid_arguments_are_refused_before_any_encoding(model, clips, calls):
    for how, complaint in (({"tasks": "classify"}, "give a list"), ({"num_frames": 0}, "num_frames is 0")):
        with pytest.raises(ValueError, match=complaint):
            evaluate(model, everything(clips), **how)
    assert set(calls.values()) == {0}


def test_an_interrupted_run_keeps_the_texts_it_has_encoded(model, clips, tmp_path, monkeypatch):
    """Interrupted at the last batch of captions; the first ones are not encoded again."""
    monkeypatch.setattr("minivideococa.evaluation.tasks.retrieve.TEXTS", 16)
    entries = [Entry(clips["a"], tuple(f"a red star {'and a ring ' * i}" for i in range(40)))]
    whole, encoded, encode = evaluate(model, entries, ["retrieve"]), [], mvc.VideoCoCa.encode_text

    def until_the_last(self, texts):
        if ended and len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(texts)
        return encode(self, texts)

    monkeypatch.setattr(mvc.VideoCoCa, "encode_text", until_the_last)
    ended = True
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, entries, ["retrieve"], cache=tmp_path / "cache")
    ended = False
    assert evaluate(model, entries, ["retrieve"], cache=tmp_path / "cache") == whole
    assert [len(texts) for texts in encoded] == [16, 16, 8]


def test_correct_answers_outside_the_choices_are_counted(model, clips):
    entries = [
        Entry(path, (), (), "this is a", answer)
        for path, answer in zip(clips.values(), ("star", "Ring.", "cube"))
    ]
    with pytest.warns(UserWarning, match="2 right answers are not among those to choose from"):
        evaluate(model, entries, ["qa"], answers=["ring", "heart"])


@pytest.mark.slow
def test_the_models_own_captions_and_answers_are_correct(model, clips):
    how = OPTIONS | {"min_length": 6}
    said = [model.caption(path, **how) for path in clips.values()]
    answers = [mvc.answer(model, path, "there is", beams=1, max_length=9) for path in clips.values()]
    assert all(answers)
    entries = [
        Entry(path, (text.upper() + ".",), (), "there is", f"The {answer}!")
        for path, text, answer in zip(clips.values(), said, answers)
    ]
    result = evaluate(model, entries, ["caption", "qa"], **how)
    assert [line["caption"] for line in result["predictions"]] == said
    assert [line["answer"] for line in result["predictions"]] == answers
    found = values(result)
    assert found["caption", "BLEU-4"] == pytest.approx(1, abs=1e-6) and found[
        "caption", "ROUGE-L"
    ] == pytest.approx(1)
    assert found["qa", "accuracy"] == 1
    wrong = [Entry(entry.video, ("nothing like it",), (), entry.question, "no") for entry in entries]
    assert max(values(evaluate(model, wrong, ["caption", "qa"], **how)).values()) < 1e-3


def test_answers_to_choose_from(model, clips):
    answers = ["red circle", "blue star", "green heart"]
    entries = [
        Entry(path, (), (), question, "blue star")
        for path in clips.values()
        for question in ("this is a", "there is a")
    ]
    result = evaluate(model, entries, answers=answers)
    chosen = [mvc.answer(model, entry.video, entry.question, answers) for entry in entries]
    assert [line["answer"] for line in result["predictions"]] == chosen
    for metric in "accuracy", "exact match":
        assert result["metrics"]["qa"][metric] == {"value": chosen.count("blue star") / 12, "items": 12}


def test_entries_about_one_video_are_merged(model, clips, calls):
    a, b = clips["a"], clips["b"]
    lines = [
        Entry(a, ("a red star",), ("x",)),
        Entry(b, ("a blue ring", "a pink cross"), ("y",)),
        Entry(a, ("a green heart", "a red star")),
        Entry(a, (), (), "this is", "a"),
        Entry(a, (), (), "there is", "a"),
        Entry(a, (), (), "this is", "b"),
    ]
    result = evaluate(model, lines, **OPTIONS)
    assert calls["encode_video"] == 2 and result["videos"] == 2
    assert {task: next(iter(some.values()))["items"] for task, some in result["metrics"].items()} == {
        "classify": 2,
        "retrieve": 4,
        "caption": 2,
        "qa": 3,
    }
    one = [
        Entry(a, ("a red star", "a green heart"), ("x",)),
        Entry(b, ("a blue ring", "a pink cross"), ("y",)),
    ]
    merged = evaluate(model, one, **OPTIONS)
    assert {name: value for name, value in values(result).items() if name[0] != "qa"} == values(merged)
    assert [set(line) for line in result["predictions"][1:4]] == [
        {"video", "labels", "text_to_video_ranks", "video_to_text_rank", "caption"},
        {"video", "text_to_video_ranks", "video_to_text_rank", "caption"},
        {"video", "question", "answer"},
    ]


def test_default_and_selected_tasks(model, clips, calls):
    labelled, captioned = Entry(clips["a"], (), ("x",)), Entry(clips["b"], ("a red star",))
    assert list(evaluate(model, [labelled])["metrics"]) == ["classify"]
    assert list(evaluate(model, [captioned, labelled], **OPTIONS)["metrics"]) == [
        "classify",
        "retrieve",
        "caption",
    ]
    before = calls["encode_video"]
    assert list(evaluate(model, [captioned, labelled], ["retrieve"])["metrics"]) == ["retrieve"]
    assert calls["encode_video"] == before + 1  # a video that the task is not about is not looked at
    for asked, message in [
        (["qa"], 'qa: no entry.*"question" with "answer"'),
        (["sing"], "'sing': give some of classify, retrieve"),
        (["classify", "qa"], "qa: no entry"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(model, [labelled], asked)
    with pytest.raises(ValueError, match="no entry of the manifest has"):
        evaluate(model, [Entry(clips["a"], (), (), "what is it?")])
    assert calls["encode_video"] == before + 1


def test_a_question_that_leaves_no_room_is_found_before_any_encoding(model, clips, calls):
    with pytest.raises(ValueError, match="'a a a a a a a a' leaves no room for an answer"):
        evaluate(
            model,
            [Entry(clips["a"], (), (), "this is", "a"), Entry(clips["b"], (), (), " ".join("a" * 8), "a")],
        )
    with pytest.raises(ValueError, match="'  ' is blank"):
        evaluate(model, [Entry(clips["a"], (), (), "  ", "a")])
    with pytest.raises(ValueError, match="adapter is 'median'"):
        evaluate(model, everything(clips), adapter="median")
    assert calls["encode_video"] == 0
    evaluate(
        model, [Entry(clips["a"], (), (), " ".join("a" * 6), "a")], max_length=2
    )  # of the answer, not of both
    evaluate(model, [Entry(clips["a"], (), (), " ".join("a" * 6), "a")], answers=["red"])


class Duration(Task):
    """A toy task: predict the number of caption tokens, and compare it with the label."""

    name = "duration"
    needs = '"label" with a number'

    @staticmethod
    def targets_of(entry):
        return [int(label) for label in entry.labels if label.isdigit()]

    def check(self):
        self.counts = {}

    def predict(self, clip, video):
        self.counts[clip] = len(video.tokens)

    def metrics(self, clips):
        errors = [abs(self.counts[clip] - self.targets[clip][0]) for clip in clips]
        return {"mean error": {"value": float(np.mean(errors)), "items": len(clips)}}

    def prediction(self, entry, clip):
        return {"count": self.counts[clip]}


@pytest.fixture
def with_duration():
    TASKS.append(Duration)
    yield
    TASKS.remove(Duration)


def test_a_new_task_is_one_class_and_one_entry_of_the_list(with_duration, model, clips, tmp_path, capsys):
    entries = [Entry(clips["a"], labels=("3",)), Entry(clips["b"], labels=("5",)), Entry(clips["c"])]
    result = evaluate(model, entries)
    assert list(result["metrics"]) == ["classify", "duration"]
    assert result["metrics"]["duration"] == {"mean error": {"value": 1.0, "items": 2}}
    assert [line.get("count") for line in result["predictions"]] == [3, 3, None]
    with pytest.raises(ValueError, match='task duration: no entry of the manifest has "label" with a number'):
        evaluate(model, [Entry(clips["a"], labels=("x",))], ["duration"])
    write_manifest(tmp_path / "m.jsonl", entries)
    assert cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--tasks", "duration", "--no-cache"]) == 0
    assert "duration  mean error  27.000      2" in capsys.readouterr().out


def test_progress_is_reported_by_stages(model, clips):
    stages = []

    @contextmanager
    def progress(total, unit):
        counts = []
        stages.append((unit, total, counts))
        yield counts.append

    evaluate(model, everything(clips), progress=progress, **OPTIONS)
    assert [(unit, total, sum(counts)) for unit, total, counts in stages] == [
        ("labels", 6, 6),
        ("captions", 12, 12),
        ("videos", 6, 6),
        ("questions without a video", 1, 1),
    ]


# Clips that cannot be read


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_unreadable_clips_are_left_out_with_a_warning(model, clips, tmp_path, cached):
    (tmp_path / "noise.mp4").write_bytes(b"no video at all")
    (tmp_path / "empty").mkdir()
    bad = [
        Entry(tmp_path / name, ("a cyan cross",), ("a red circle",), "this is a", "red star")
        for name in ("noise.mp4", "missing.mp4", "empty", "noise.mp4")
    ]
    good = everything(clips)
    cache = tmp_path / "cache" if cached else None
    with pytest.warns(UserWarning, match="left out") as warned:
        result = evaluate(model, [*bad[:2], *good, *bad[2:]], cache=cache, **OPTIONS)
    assert result["metrics"] == evaluate(model, good, **OPTIONS)["metrics"] and result["videos"] == 6
    messages = [str(warning.message) for warning in warned if "left out" in str(warning.message)]
    assert len(messages) == len(result["unreadable"]) == 3
    for message, left_out, name in zip(messages, result["unreadable"], ("noise.mp4", "missing.mp4", "empty")):
        assert left_out["video"] == str(tmp_path / name) and name in left_out["why"]
        assert left_out["why"] in message
    assert [line["unreadable"] for line in result["predictions"] if "unreadable" in line] == [
        result["unreadable"][i]["why"] for i in (0, 1, 2, 0)
    ]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="none of the 3 videos can be read: .*noise.mp4"),
    ):
        evaluate(model, bad, cache=cache)


def test_a_task_whose_videos_cannot_be_read_has_no_metrics(model, clips, tmp_path):
    entries = [Entry(clips["a"], (), ("x",)), Entry(tmp_path / "missing.gif", (), (), "this is", "a")]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.warns(UserWarning, match="qa: none of its videos can be read"),
    ):
        result = evaluate(model, entries)
    assert result["metrics"]["qa"] == {} and result["metrics"]["classify"]["top-1"]["value"] == 1


# The cache


@pytest.mark.slow
def test_a_second_run_computes_nothing(model, clips, tmp_path, calls):
    plain = evaluate(model, everything(clips), **OPTIONS)
    first = evaluate(model, everything(clips), cache=tmp_path / "cache", **OPTIONS)
    before = dict(calls)
    second = evaluate(model, everything(clips), cache=str(tmp_path / "cache"), **OPTIONS)
    assert calls == before and plain == first == second
    clips["a"].rename(tmp_path / "moved.png")
    evaluate(model, everything(clips | {"a": tmp_path / "moved.png"}), cache=tmp_path / "cache", **OPTIONS)
    assert calls == before  # by content, not by name


def test_the_latent_that_is_not_finite_is_named():
    latents = np.array([[1.0, 0.0], [0.0, np.nan]])
    with pytest.raises(ValueError, match="latent of 'b' is not finite"):
        finite_latents(latents, ["a", "b"])
    np.testing.assert_array_equal(finite_latents(latents[:1], ["a"]), latents[:1])


def test_an_empty_text_is_cached(model, clips, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(
        "minivideococa.evaluation.tasks.caption.caption_batch",
        lambda model, videos, options: calls.update(generate=calls["generate"] + 1) or [""] * len(videos),
    )
    for _ in range(2):
        assert (
            evaluate(model, everything(clips)[:1], ["caption"], cache=tmp_path / "cache")["predictions"][0][
                "caption"
            ]
            == ""
        )
    assert calls["generate"] == 1


@pytest.mark.parametrize(
    "change", ["frames", "adapter", "weights", "dtype", "bytes", "configuration", "version"]
)
def test_the_key_of_a_video_contains_everything_it_depends_on(
    tiny_model, tokenizer, clips, tmp_path, calls, monkeypatch, change
):
    entries, how = everything(clips)[:2], {"cache": tmp_path / "cache", "num_frames": 3}
    evaluate(tiny_model(2, tokenizer=tokenizer), entries, ["classify"], **how)
    encoded = calls["encode_video"]
    model, again = tiny_model(2, tokenizer=tokenizer), 2
    if change == "frames":
        how["num_frames"] = 2
    elif change == "adapter":
        how["adapter"] = "mean"
    elif change == "weights":
        model.params["visual"]["proj"][0, 0] += 1e-9
    elif change == "dtype":
        model = tiny_model(2, "float32", tokenizer=tokenizer)
    elif change == "bytes":
        clips["b"].write_bytes(clips["b"].read_bytes() + b"\0")
        again = 1
    elif change == "configuration":
        model = tiny_model(2, tokenizer=tokenizer, vision={"attn_pooler_heads": 4})
    else:
        monkeypatch.setattr("minivideococa.cache.__version__", "0.0.0")
    evaluate(model, entries, ["classify"], **how)
    assert calls["encode_video"] == encoded + again
    evaluate(model, entries, ["classify"], **how)
    assert calls["encode_video"] == encoded + again


@pytest.mark.slow
def test_the_key_of_a_text_contains_everything_it_depends_on(model, clips, tmp_path, calls):
    entries, cache = everything(clips)[:1], tmp_path / "cache"
    asked = [
        Entry(clips["a"], (), (), question, "red star") for question in ("this is a", "red", "there is a")
    ]
    fresh = evaluate(model, asked, **OPTIONS)
    assert len({line["answer"] for line in fresh["predictions"]}) > 1
    assert (
        evaluate(model, asked, cache=cache, **OPTIONS)
        == evaluate(model, asked, cache=cache, **OPTIONS)
        == fresh
    )
    cache = tmp_path / "another"
    settings = [
        {},
        {"beams": 2},
        {"max_length": 7},
        {"prompt": "a"},
        {"top_k": 3},
        {"top_k": 3, "seed": 1},
        {"textbook": True},
    ]
    for how in settings:
        fresh, before = evaluate(model, entries, ["caption", "qa"], **OPTIONS | how), calls["generate"]
        assert evaluate(model, entries, ["caption", "qa"], cache=cache, **OPTIONS | how) == fresh
        assert calls["generate"] == before + 3  # a caption, an answer, and one without a video
        assert evaluate(model, entries, ["caption", "qa"], cache=cache, **OPTIONS | how) == fresh
        assert calls["generate"] == before + 3
    before, encoded = calls["encode_text"], calls["encode_video"]
    for templates in None, ["a photo of {}"]:
        evaluate(model, entries, ["classify"], templates=templates, cache=cache)
    for answers in ["red star", "blue ring"], ["pink ring", "cyan cross"]:
        assert (
            evaluate(model, entries, ["qa"], answers=answers, cache=cache)["predictions"][0]["answer"]
            in answers
        )
    assert calls["encode_text"] == before + 2 and calls["encode_video"] == encoded


def test_the_key_of_a_folder_contains_names_and_contents(model, clips, tmp_path, calls):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, name in enumerate("abc"):
        shutil.copy(clips[name], folder / f"{i}.png")

    def run():
        evaluate(model, [Entry(folder, (), ("x",))], cache=tmp_path / "cache")
        return calls["encode_video"]

    assert run() == 1 and run() == 1
    (folder / "notes.txt").write_text("no image")
    assert run() == 1
    (folder / "0.png").rename(folder / "7.png")  # another order
    assert run() == 2
    shutil.copy(folder / "1.png", folder / "2.png")
    assert run() == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-7],
        lambda data: data[:9],
        lambda data: b"garbage" * 99,
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: data.replace(b"sha256", b"sha257"),
    ],
)
def test_a_damaged_file_is_computed_again(model, clips, tmp_path, calls, damage):
    entries, cache = everything(clips)[:2], tmp_path / "cache"
    first = evaluate(model, entries, cache=cache, **OPTIONS)
    kept = {path: path.read_bytes() for path in cache.iterdir()}
    for path, data in kept.items():
        path.write_bytes(damage(data))
    before = dict(calls)
    assert evaluate(model, entries, cache=cache, **OPTIONS) == first
    assert calls["encode_video"] == before["encode_video"] + 2 and calls["generate"] == before["generate"] + 4
    assert {path: path.read_bytes() for path in cache.iterdir()} == kept


@pytest.mark.slow
def test_an_interrupted_run_continues(model, clips, tmp_path, calls, monkeypatch):
    cache, encode = tmp_path / "cache", mvc.VideoCoCa.encode_video

    def ended(self, *rest):
        if calls["encode_video"] == 4:
            raise KeyboardInterrupt
        return encode(self, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mvc.VideoCoCa, "encode_video", ended)
        evaluate(model, everything(clips), cache=cache, **OPTIONS)
    assert {path.suffix for path in cache.iterdir()} == {".safetensors"}
    result = evaluate(model, everything(clips), cache=cache, **OPTIONS)
    assert calls["encode_video"] == 6 and result == evaluate(model, everything(clips), **OPTIONS)


def test_an_interrupt_while_a_file_is_written_leaves_nothing(model, clips, tmp_path, monkeypatch):
    def ended(path, *_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minivideococa.cache.save_tensors", ended)
        evaluate(model, everything(clips), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_a_warning_and_a_file_an_error(model, clips):
    with pytest.raises(ValueError, match=r"^[^\n]*a.png: is not a folder: [^\n]*cache$"):
        evaluate(model, everything(clips), cache=clips["a"])
    with pytest.warns(UserWarning, match=r"^[^\n]*inside: the cache cannot be written[^\n]*--no-cache; "):
        result = evaluate(model, everything(clips), cache=clips["a"] / "inside")
    assert result == evaluate(model, everything(clips))


# Templates of the package


def test_the_ensemble():
    assert len(set(tasks.ENSEMBLE)) == len(tasks.ENSEMBLE) >= 8
    sentences = tasks.label_sentences(["singing", "a dog"], tasks.ENSEMBLE)
    assert len({text for texts in sentences for text in texts}) == 2 * len(tasks.ENSEMBLE)


# The command line


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """A manifest of the demo's clips with two captions, a label and a question each; and a separate cache."""
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", str(tmp_path / "home"))
    said = [json.loads(line) for line in (CLIPS / "clips.jsonl").read_text().split("\n") if line]
    write_manifest(
        tmp_path / "m.jsonl",
        [
            Entry(
                CLIPS / x["clip"],
                (x["text"], f"a photo of {x['text']}"),
                (x["text"],),
                "a photo of",
                x["text"],
            )
            for x in said
        ],
    )
    return tmp_path / "m.jsonl"


@pytest.mark.slow
def test_the_command_on_the_demos_clips(manifest, tmp_path, capsys, calls):
    assert cli.main(["evaluate", str(manifest), "--beams", "1", "-o", str(tmp_path / "out.jsonl")]) == 0
    table, err = capsys.readouterr()
    (written,) = [line for line in err.splitlines() if not line.endswith("times sampled")]
    assert written == f"minivideococa: wrote the predictions to {tmp_path / 'out.jsonl'}"
    assert table.split("\n")[0].split() == ["task", "metric", "value", "items"]
    before = dict(calls)
    assert before["encode_video"] == 5 and (tmp_path / "home" / "videos").is_dir()
    assert cli.main(["evaluate", str(manifest), "--beams", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert calls == before
    assert {name: some["items"] for some in result["metrics"].values() for name, some in some.items()} == {
        "top-1": 5,
        "top-5": 5,
        "BLEU-4": 5,
        "ROUGE-L": 5,
        "CIDEr": 5,
        "accuracy": 5,
        "question only": 5,
        "exact match": 5,
        **{
            f"{way} {name}": n
            for way, n in (("text-to-video", 10), ("video-to-text", 5))
            for name in ("R@1", "R@5", "R@10", "median rank")
        },
    }
    rows = [line.split() for line in table.partition("\n\n")[0].split("\n")[1:]]
    assert [(row[0], " ".join(row[1:-2]), row[-2], row[-1]) for row in rows] == [
        (task, name, f"{some['value']:.3f}", str(some["items"]))
        for task, found in result["metrics"].items()
        for name, some in found.items()
    ]
    found = values(result)
    assert found["classify", "top-1"] >= 0.6 and found["retrieve", "text-to-video R@1"] >= 0.6
    assert found["caption", "ROUGE-L"] >= 0.4
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").split("\n") if line]
    assert [line["video"] for line in lines] == [str(entry.video) for entry in read_manifest(manifest)]
    model = mvc.load()
    assert lines[0]["caption"] == model.caption(CLIPS / "single.gif", beams=1)
    assert (
        np.mean(
            [
                line["labels"][0]["label"] == entry.labels[0]
                for line, entry in zip(lines, read_manifest(manifest))
            ]
        )
        == found["classify", "top-1"]
    )


@pytest.mark.slow
def test_options_reach_the_model(manifest, tmp_path, capsys):
    (tmp_path / "templates.txt").write_text("a photo of {}\nthere is {}\n")
    (tmp_path / "answers.txt").write_text("a green crescent\na red star\n")
    common = [
        "evaluate",
        str(manifest),
        "--frames",
        "2",
        "--adapter",
        "mean",
        "--cache",
        str(tmp_path / "here"),
        "-o",
    ]
    assert (
        cli.main(
            [
                *common,
                str(tmp_path / "1"),
                "--tasks",
                "classify, qa",
                "--ensemble",
                "--answers-file",
                str(tmp_path / "answers.txt"),
            ]
        )
        == 0
    )
    assert (
        cli.main(
            [
                *common,
                str(tmp_path / "2"),
                "--tasks",
                "classify",
                "--templates-file",
                str(tmp_path / "templates.txt"),
            ]
        )
        == 0
    )
    assert (tmp_path / "here").is_dir() and not (tmp_path / "home").exists()
    model = mvc.load()
    video, labels = (
        model.encode(CLIPS / "single.gif", 2, "mean"),
        sorted(e.labels[0] for e in read_manifest(manifest)),
    )
    known = [
        template for template in tasks.ENSEMBLE if not model.tokenizer.unknown([template.replace("{}", "")])
    ]
    for name, templates in ("1", known), ("2", ["a photo of {}", "there is {}"]):
        first = json.loads((tmp_path / name).read_text("utf-8").split("\n")[0])
        told = {x["label"]: x["probability"] for x in first["labels"]}
        assert told == pytest.approx(dict(mvc.classify(model, video, labels, templates)))
    assert json.loads((tmp_path / "1").read_text("utf-8").split("\n")[0])["answer"] == mvc.answer(
        model, video, "a photo of", ["a green crescent", "a red star"]
    )
    capsys.readouterr()
    assert (
        cli.main(
            [
                "classify",
                str(CLIPS / "single.gif"),
                "--frames",
                "2",
                "--adapter",
                "mean",
                "--labels",
                ",".join(labels),
                "--ensemble",
                "--json",
            ]
        )
        == 0
    )
    told = {x["label"]: x["probability"] for x in json.loads(capsys.readouterr().out)["labels"]}
    assert told == pytest.approx(dict(mvc.classify(model, video, labels, known)))


def test_a_data_sets_own_annotations(tmp_path, monkeypatch, capsys):
    """UCF101's list with one folder per class; one clip is missing. All formats are choices of --format."""
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", str(tmp_path / "cache"))
    for label in "RedRing", "GreenDiamond":
        (tmp_path / "videos" / label).mkdir(parents=True)
        shutil.copy(CLIPS / "pair.gif", tmp_path / "videos" / label / f"v_{label}_g01_c01.mp4")
    (tmp_path / "testlist01.txt").write_text(
        "RedRing/v_RedRing_g01_c01.avi\nGreenDiamond/v_GreenDiamond_g01_c01.avi\n"
        "GreenDiamond/v_GreenDiamond_g01_c02.avi\n"
    )
    command = ["evaluate", str(tmp_path / "testlist01.txt"), "--json"]
    assert cli.main([*command, "--format", "ucf101", "--videos", str(tmp_path / "videos")]) == 3
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["metrics"]["classify"]["top-5"] == {"value": 1.0, "items": 2}
    assert [Path(row["video"]).name for row in result["unreadable"]] == ["v_GreenDiamond_g01_c02.avi"]
    assert "v_GreenDiamond_g01_c02.avi" in err
    for wrong in (["--format", "ucf101"], ["--videos", "."], ["--split", "test"]):
        assert cli.main([*command, *wrong]) == 2
        assert "--format and --videos go together" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*command, "--format", "no such", "--videos", "."])
    choices = capsys.readouterr().err
    assert all(f"'{name}'" in choices for name in FORMATS)


def test_no_cache_writes_no_files(manifest, tmp_path, capsys):
    assert cli.main(["evaluate", str(manifest), "--tasks", "classify", "--no-cache"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["--tasks", "sing"], "'sing'"),
        (["--tasks", ""], "''"),
        (["--answers-file", "nowhere.txt"], "nowhere.txt"),
        (["-o", "nowhere/out.jsonl"], "nowhere"),
        (["-o", "m.jsonl"], "m.jsonl"),
        (["--templates-file", "t.txt", "-o", "t.txt"], "t.txt"),
        (["--answers-file", "t.txt", "-o", "t.txt"], "t.txt"),
        (["-o", str(CLIPS / "pair.gif")], "pair.gif"),
        (["--weights", "nowhere"], "nowhere"),
        (["--prompt", "a " * 40], "--max-length"),
        (["--max-length", "5"], "--max-length 5"),
    ],
)
def test_an_error_is_one_line_and_changes_no_file(manifest, monkeypatch, capsys, arguments, names):
    monkeypatch.chdir(manifest.parent)
    Path("t.txt").write_text("\ufeffa video of {}")
    before = manifest.read_bytes()
    assert cli.main(["evaluate", "m.jsonl", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("minivideococa: ") and names in err
    assert manifest.read_bytes() == before and not Path("out.jsonl").exists()


def test_wrong_usage(manifest):
    for arguments in (
        ["--cache", "x", "--no-cache"],
        ["--ensemble", "--templates-file", "x"],
        ["--tokenizer", "spaces"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", str(manifest), *arguments])
        assert ended.value.code == 2


def test_an_interrupt_leaves_the_previous_output(manifest, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mvc.VideoCoCa, "generate", interrupted)
    (tmp_path / "out.jsonl").write_text("from before")
    assert cli.main(["evaluate", str(manifest), "-o", str(tmp_path / "out.jsonl")]) == 130
    assert (tmp_path / "out.jsonl").read_text() == "from before"


# Missing packages and long texts


@pytest.mark.slow
def test_captions_are_left_out_without_their_package(manifest, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    assert cli.main(["evaluate", str(manifest), "--beams", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["metrics"]) == ["classify", "retrieve", "qa"]
    assert err.count('minivideococa: caption left out: pip install "minivideococa[eval]"\n') == 1
    assert cli.main(["evaluate", str(manifest), "--tasks", "caption"]) == 2
    assert "caption metrics need pycocoevalcap" in capsys.readouterr().err


@pytest.mark.parametrize("cached", [False, True])
def test_texts_that_are_cut_give_one_warning(model, clips, tmp_path, cached):
    long, cache = " and ".join(["a red circle"] * 30), tmp_path / "cache" if cached else None
    entries = [Entry(path, (long, f"{name} {long}", "a star"), ("a circle",)) for name, path in clips.items()]
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluate(model, entries, ["classify", "retrieve"], cache=cache)
        [message] = [str(warning.message) for warning in caught if " ids" in str(warning.message)]
        assert message.endswith("are used") and message.startswith(
            f"{1 + len(clips)} of {3 + len(clips)} texts"
        )


def test_long_answers_give_one_warning(model, clips):
    long = " and ".join(["a red circle"] * 30)
    entries = [Entry(path, question="there is", answer="a star") for path in clips.values()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(model, entries, answers=["a star", long])
    assert sum(" ids" in str(warning.message) for warning in caught) == 1
