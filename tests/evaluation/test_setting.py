"""What `evaluate` says of its numbers: the published splits, VideoCoCa's figures, the setting of a run."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import cli
from minivideococa.demo import CLIPS
from minivideococa.evaluation import FORMATS, TASKS, Entry, evaluate, report, split_name, write_manifest
from minivideococa.evaluation.published import FIGURES, SIZES

HERE = Path(__file__).parent


def numbers_of_1ka():
    ranges = (HERE / "msrvtt_1ka.txt").read_text().partition("\n")[2].split()
    pairs = [[int(number) for number in item.split("-")] for item in ranges]
    return [number for pair in pairs for number in range(pair[0], pair[-1] + 1)]


def msrvtt(numbers, captions=20):
    return [Entry(Path(f"clips/video{n}.mp4"), tuple(f"{n} {i}" for i in range(captions))) for n in numbers]


# The published splits


def test_1k_a_has_a_thousand_of_the_test_clips():
    numbers = numbers_of_1ka()
    assert len(set(numbers)) == len(numbers) == 1000
    assert min(numbers) >= 7010 and max(numbers) < 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers, captions, name",
    [
        (range(6513), 20, "MSR-VTT full, train"),
        (range(6513, 7010), 20, "MSR-VTT full, val"),
        (range(7010, 10_000), 20, "MSR-VTT full, test"),
        (numbers_of_1ka()[::-1], 1, "MSR-VTT 1K-A, test"),
        (sorted(set(range(10_000)) - set(numbers_of_1ka())), 20, "MSR-VTT 1K-A, train"),
        (numbers_of_1ka(), 20, "unknown"),
        (range(7010, 10_000), 1, "unknown"),
        (range(7010, 9999), 20, "unknown"),
        (range(7010, 8010), 1, "unknown"),
        ([*numbers_of_1ka()[1:], 7010], 1, "unknown"),
    ],
)
def test_the_splits_of_msrvtt(numbers, captions, name):
    entries = msrvtt(numbers, captions)
    assert split_name(entries) == split_name(entries, "msrvtt", "test") == name
    assert split_name(entries, "ucf101") == "unknown"


def test_other_videos_and_parts_are_no_split_of_msrvtt():
    entries = msrvtt(range(6513, 7010))
    assert split_name([*entries, Entry(Path("other.mp4"), ("a",) * 20)]) == "unknown"
    assert split_name([replace(entries[0], end=5.0), *entries[1:]]) == "unknown"


def test_a_blank_caption_that_was_left_out_changes_no_split():
    entries = msrvtt(range(6513, 7010))
    assert split_name([replace(entries[0], captions=("a",)), *entries[1:]]) == "MSR-VTT full, val"


def test_other_data_sets_are_recognized_by_their_size():
    question = Entry(Path("a.mp4"), question="what is it?", answer="a cat")
    assert split_name([question] * 72_821, "msrvtt-qa") == "MSRVTT-QA, test"
    assert split_name([question] * 72_820, "msrvtt-qa") == "unknown"
    assert split_name([question] * 2_000, "ivqa") == "unknown"  # val and test are of this size
    assert SIZES.keys() <= FORMATS.keys()
    # what the data sets' authors say of the whole: 243k, 50,505 and 58,000 questions, 13,320 clips
    totals = {name: sum(sizes) for name, (_, sizes) in SIZES.items()}
    assert totals["msrvtt-qa"] == 243_680 and totals["msvd-qa"] == 50_505
    assert totals["activitynet-qa"] == 58_000 and totals["ucf101"] == 3 * 13_320


def test_kinetics_is_recognized_by_its_classes_and_the_split_that_is_asked_for():
    entries = [Entry(Path("a.mp4"), labels=(f"label {i}",)) for i in range(400)]
    assert split_name(entries, "kinetics", "validate") == "Kinetics-400, val"
    assert split_name(entries, "kinetics") == split_name(entries[1:], "kinetics", "val") == "unknown"


# VideoCoCa's figures


def test_figures_belong_to_splits_that_are_recognized_and_metrics_that_exist():
    names = {f"{name}, {split}" for name, sizes in SIZES.values() for split in sizes.values()}
    names |= {"MSR-VTT full, test", "MSR-VTT 1K-A, test", "Kinetics-400, val", "Kinetics-600, val"}
    assert FIGURES.keys() <= names
    metrics = {
        "classify": {"top-1", "top-5"},
        "retrieve": {f"{way} R@{k}" for way in ("text-to-video", "video-to-text") for k in (1, 5, 10)},
        "caption": {"BLEU-4", "ROUGE-L", "CIDEr"},
        "qa": {"exact match"},
    }
    for figures in (figures for several in FIGURES.values() for figures in several):
        assert figures.metrics.keys() <= metrics[figures.task]
        assert all(0 < value < 1 for value in figures.metrics.values())


def test_figures_stand_beside_the_result_of_their_task(model, pictures):
    entries = [Entry(pictures[0], ("a red star",), ("a red star",)), Entry(pictures[1], ("a blue ring",))]
    result = evaluate(model, entries, ["classify", "retrieve"], split="MSR-VTT 1K-A, test")
    table, _, rest = report(result).partition("\n\n")
    head, *rows = table.split("\n")
    assert head.endswith("VideoCoCa zero-shot") and len(set(map(len, [head, *rows]))) == 1
    shown = {" ".join(row.split()[1:-3]): row.split()[-1] for row in rows if row.split()[-1][0] == "0"}
    assert shown["text-to-video R@1"] == "0.439" and shown["video-to-text R@5"] == "0.686"
    assert len(shown) == 4  # neither R@10, which is not published, nor another task
    assert "arXiv 2212.04979" in rest and "arXiv 2402.13217" in rest and "Not known" in rest
    plain = report(evaluate(model, entries, ["classify", "retrieve"]))
    assert "VideoCoCa" not in plain and "split     unknown" in plain


# The setting


def run(model, folder, pictures, captions=("a red star",), **options):
    """The setting of a run on copies of pictures in a folder."""
    folder.mkdir()
    entries = []
    for path in pictures[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
        entries.append(Entry(folder / path.name, captions, ("red star",), "is it", "red"))
    arguments = {"tasks": ["classify", "caption", "qa"], "beams": 1, "max_length": 6, "num_frames": 1}
    return evaluate(model, entries, **arguments | options)["setting"]


def test_two_equal_runs_have_equal_settings(model, pictures, tmp_path, monkeypatch):
    first = run(model, tmp_path / "one", pictures, cache=tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert run(model, tmp_path / "another", pictures) == first  # without the cache
    assert json.loads(json.dumps(first)) == first
    assert str(tmp_path) not in json.dumps(first) and os.sep not in json.dumps(first)


@pytest.mark.parametrize(
    "changed, facts",
    [
        ({"num_frames": 2}, {"frames"}),
        ({"adapter": "mean"}, {"adapter"}),
        ({"templates": ["a {}"]}, {"tasks"}),
        ({"beams": 2}, {"tasks"}),
        ({"prompt": "a"}, {"tasks"}),
        ({"answers": ["red", "blue"]}, {"tasks"}),
        ({"tasks": ["classify"]}, {"tasks"}),
        ({"captions": ("a red star", "a star")}, {"annotations", "captions_per_video"}),
        ({"captions": ("a red ring",)}, {"annotations"}),
        ({"split": "mine"}, {"split"}),
        ({"train": [Entry(CLIPS / "single.gif")]}, {"training"}),
    ],
)
def test_a_setting_tells_what_differs(model, pictures, tmp_path, changed, facts):
    one, other = run(model, tmp_path / "1", pictures), run(model, tmp_path / "2", pictures, **changed)
    assert {name for name in one if one[name] != other[name]} == facts


def test_a_setting_tells_one_model_from_another(tiny_model, tokenizer, pictures, tmp_path, monkeypatch):
    one = run(tiny_model(2, tokenizer=tokenizer), tmp_path / "1", pictures)
    monkeypatch.setattr("minivideococa.evaluation.setting.__version__", "9.9")
    other = run(tiny_model(3, tokenizer=tokenizer), tmp_path / "2", pictures)
    assert {name for name in one if one[name] != other[name]} == {"model", "versions"}
    assert one["versions"]["numpy"] == np.__version__ and one["versions"]["ffmpeg"]


def test_missing_videos_are_counted(model, pictures, tmp_path):
    (tmp_path / "broken.png").write_text("no picture")
    names = [pictures[0], tmp_path / "broken.png", tmp_path / "none.png"]
    with pytest.warns(UserWarning, match="left out"):
        result = evaluate(model, [Entry(name, ("a red star",)) for name in names], ["retrieve"])
    assert result["setting"]["videos"] == {"listed": 3, "read": 1, "missing": 1}
    assert "videos    1 of 3 read, 1 missing\n" in report(result)


def test_a_report_ends_with_the_setting(model, pictures, tmp_path):
    entries = [
        Entry(path, ("a red star", "a star")[: 1 + i], ("red star",)) for i, path in enumerate(pictures[:2])
    ]
    result = evaluate(
        model, entries, ["classify", "caption"], num_frames=1, templates=["a {}", "the {}"], beams=1
    )
    setting = result["setting"]
    lines = report(result).split("\n\n")[-1].split("\n")
    assert lines == [
        "split     unknown",
        "videos    2 of 2 read",
        "captions  1 to 2 per video",
        "frames    1, adapter attentional",
        'classify  templates "a {}" and 1 more',
        "caption   tokenizer words, beams 1",
        f"model     sha256 {setting['model']['sha256'][:12]}, float64",
        f"versions  minivideococa {mvc.__version__}, numpy {np.__version__}, "
        f"ffmpeg {setting['versions']['ffmpeg']}",
    ]


def test_every_task_says_what_it_depends_on(model, pictures):
    entries = [Entry(pictures[0], ("a star",), ("star",), "is it", "red")]
    assert list(evaluate(model, entries, num_frames=1)["setting"]["tasks"]) == [task.name for task in TASKS]


def test_answers_come_from_choices_a_list_or_generation(model, pictures):
    def source(entry, **options):
        return evaluate(model, [entry], num_frames=1, **options)["setting"]["tasks"]["qa"]

    asked = Entry(pictures[0], question="is it", answer="red")
    assert source(asked, answers=["red", "blue"]) == {"answers": ["red", "blue"]}
    assert source(replace(asked, choices=("red", "blue"))) == {"answers": "choices"}
    generated = source(asked, beams=1)
    assert generated["answers"] == "generated" and generated["decoding"]["beams"] == 1


@pytest.mark.slow
def test_the_command_prints_the_setting_and_names_the_split(pictures, tmp_path, capsys):
    write_manifest(tmp_path / "m.jsonl", [Entry(pictures[0], ("a red circle",), ("a red circle",))])
    command = ["evaluate", str(tmp_path / "m.jsonl"), "--tasks", "classify", "--frames", "1", "--no-cache"]
    assert cli.main(command) == 0 and "split     unknown" in capsys.readouterr().out
    assert cli.main([*command, "--json"]) == 0
    setting = json.loads(capsys.readouterr().out)["setting"]
    assert setting["frames"] == 1 and setting["tasks"] == {"classify": {"templates": ["a video of {}."]}}
    videos = tmp_path / "videos"
    videos.mkdir()
    rows = [f"ret{i},msr{n},video{n},a red circle" for i, n in enumerate(numbers_of_1ka())]
    (tmp_path / "1ka.csv").write_text("\n".join(["key,vid_key,video_id,sentence", *rows]))
    (videos / "video9770.mp4").write_bytes(pictures[0].read_bytes())
    command[1] = str(tmp_path / "1ka.csv")
    command[3] = "retrieve"
    assert cli.main([*command, "-q", "--format", "msrvtt-1ka", "--videos", str(videos)]) == 3
    out = capsys.readouterr().out
    assert "split     MSR-VTT 1K-A, test" in out and "1 of 1000 read, 999 missing" in out
