"""The command line, as a user meets it: what it prints where, its exit status, one line for each mistake."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from platforms import posix

import minivideococa.demo
from minivideococa import cli
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.demo import CLIPS
from minivideococa.model.generation import DecodingOptions
from minivideococa.progress import no_progress

PAIR, SPLIT = str(CLIPS / "pair.gif"), str(CLIPS / "split.gif")


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "minivideococa", *arguments], capture_output=True, text=True, **options
    )


def test_caption(capsys):
    assert cli.main(["caption", PAIR]) == 0
    out, err = capsys.readouterr()
    assert "red ring" in out and "green diamond" in out and out.count("\n") == 1
    assert err == ""  # no caveat for a clip like those it was trained on
    assert cli.main(["caption", PAIR, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"video": PAIR, "caption": out.strip(), "in_world": True}
    assert cli.main(["caption", PAIR, "--weights", str(embedded_checkpoint())]) == 0
    assert capsys.readouterr() == (out, "")


@pytest.mark.slow
def test_answer(capsys):
    """With the part for questions, unless other weights are given; in_world is the base checkpoint's."""
    command = ["answer", PAIR, "what colour is the ring?"]
    assert cli.main(command) == 0
    assert capsys.readouterr() == ("red\n", "")
    assert cli.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answers"], told["tuned_for_questions"]) == ([{"answer": "red"}], True) and told["in_world"]
    assert cli.main(["answer", PAIR, "a photo of a", "--weights", str(embedded_checkpoint())]) == 0
    assert "was not finetuned for questions" in capsys.readouterr().err


def test_caption_prompt_and_length(capsys):
    cli.main(["caption", PAIR, "--prompt", "there is"])
    assert capsys.readouterr().out.startswith("there is a")
    cli.main(["caption", PAIR, "--prompt", "there is", "--min-length", "1", "--max-length", "5"])
    assert len(capsys.readouterr().out.split()) == 4  # and the start token


def test_a_trace_replaces_no_video(capsys, tmp_path):
    video = tmp_path / "pair.gif"
    video.write_bytes(Path(PAIR).read_bytes())
    assert cli.main(["trace", str(video), "-o", str(video)]) == 2
    assert (
        "would overwrite an input" in capsys.readouterr().err
        and video.read_bytes() == Path(PAIR).read_bytes()
    )


def test_classify(capsys, tmp_path):
    labels = "a red star, a green crescent,a blue ring"
    assert cli.main(["classify", str(CLIPS / "single.gif"), "--labels", labels]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 3 and lines[0].endswith("%  a green crescent") and 0.5 < float(lines[0].split()[0]) <= 1
    )
    (tmp_path / "labels.txt").write_text("\ufeffa red star\r\n\na green crescent\n")
    (tmp_path / "templates.txt").write_text("a photo of {}\nthere is {}\n")
    assert (
        cli.main(
            [
                "classify",
                str(CLIPS / "single.gif"),
                "--labels-file",
                str(tmp_path / "labels.txt"),
                "--templates-file",
                str(tmp_path / "templates.txt"),
                "--json",
            ]
        )
        == 0
    )
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert [entry["label"] for entry in labels] == ["a green crescent", "a red star"]
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1)


def test_retrieve(capsys):
    assert cli.main(["retrieve", "a red ring and a green diamond", SPLIT, PAIR]) == 0
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [PAIR, SPLIT]
    cli.main(["retrieve", "a red ring and a green diamond", SPLIT, PAIR, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [video["video"] for video in result["videos"]] == [PAIR, SPLIT]
    assert result["videos"][0]["cosine"] > result["videos"][1]["cosine"]


def test_demo_as_text_and_json(capsys, monkeypatch):
    monkeypatch.setattr("minivideococa.demo.run", functools.cache(minivideococa.demo.run))
    monkeypatch.setattr("minivideococa.cli.arguments.progress_bar", no_progress)  # one function: one entry
    assert cli.main(["demo"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["demo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    answers = [
        value
        for entry in result["clips"] + result["retrieval"] + result["questions"]
        for key, value in entry.items()
        if key.endswith("right")
    ]
    assert f"{sum(answers)} of {len(answers)} answers are right." in text
    assert sum(answers) >= 0.85 * len(answers)
    assert text == Path(__file__).with_name("demo.txt").read_text()
    for entry in result["clips"]:
        assert entry["clip"] in text and entry["caption"] in text


@pytest.mark.slow
def test_demo_page(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("minivideococa.demo.run", functools.cache(minivideococa.demo.run))
    page = tmp_path / "demo.html"
    assert cli.main(["demo", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "answers are right.\n" in out and f"wrote {page}: open it in a browser" in err
    assert "minivideococa explain VIDEO" in out and "demo --html" not in out
    html = page.read_text(encoding="utf-8")
    assert len(html) < 1_500_000
    clips = [re.search(rf'"heading":"({kind}.gif: [^"]*)"', html) for kind in ("brief", "split", "single")]
    assert all(clips) and [clip.start() for clip in clips] == sorted(clip.start() for clip in clips)
    assert "mean pooling: misses the yellow crescent" in html and "attentional pooling: right" in html
    assert cli.main(["demo", "--html", str(tmp_path / "no" / "demo.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err and list(tmp_path.iterdir()) == [page]


def test_unknown_words_are_named(capsys):
    assert cli.main(["classify", PAIR, "--labels", "arm wrestling, a red ring", "--force"]) == 0
    out, err = capsys.readouterr()
    assert "a red ring" in out and "arm, wrestling" in err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["caption", "nothing.mp4"], "nothing.mp4"),
        (["caption", __file__], "test_cli.py"),
        (["caption", PAIR, "--weights", "nowhere"], "nowhere"),
        (["caption", PAIR, "--weights", str(CLIPS)], "config.json"),
        (["caption", PAIR, "--min-length", "9", "--max-length", "9"], "--max-length 9"),
        (["classify", PAIR, "--labels", " , "], "label"),
        (["classify", PAIR, "--labels-file", "nowhere.txt"], "nowhere.txt"),
        (["classify", PAIR, "--labels-file", PAIR], "pair.gif"),
        (["convert", "nowhere", "there"], "nowhere"),
        (["convert", str(CLIPS), "there"], "demo"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, names, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("minivideococa: ") and names in err


@pytest.mark.parametrize(
    "arguments", [["caption"], ["caption", PAIR, "--frames", "0"], ["classify", PAIR], ["sing"], ["--sing"]]
)
def test_a_usage_error_is_one_line_with_a_pointer_to_help_and_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("minivideococa: ") and err.endswith(" --help\n")


@pytest.mark.slow
def test_version():
    assert run("--version").stdout.startswith("minivideococa ")


@pytest.mark.slow
@posix
def test_a_closed_pipe_is_no_error():
    script = (
        f'"{sys.executable}" -m minivideococa caption "{PAIR}" --frames 1 --beams 1 | true; '
        "exit ${PIPESTATUS[0]}"
    )
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""


def test_interrupt_is_130(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minivideococa.checkpoint.load", interrupted)
    assert cli.main(["caption", PAIR]) == 130


@pytest.mark.slow
def test_the_current_folder_does_not_matter(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["caption", "x.gif"]) == 2 and "x.gif" in capsys.readouterr().err
    (tmp_path / "x.gif").write_bytes(Path(PAIR).read_bytes())
    assert (
        run(
            "caption", "x.gif", "--no-cache", cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2])}
        ).returncode
        == 0
    )


@pytest.mark.slow
def test_decoding_flags_reach_the_model(capsys, monkeypatch):
    """Each flag of `caption` is the field of `DecodingOptions` of its name; the same for `classify --by`."""
    import minivideococa as mvc

    model, clip = mvc.load(), CLIPS / "mixed.gif"
    options = {"top_p": 0.99, "temperature": 3.0, "seed": 4}
    assert cli.main(["caption", str(clip), "--top-p", "0.99", "--temperature", "3", "--seed", "4"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == model.caption(clip, **options) != model.caption(clip)
    labels = ["a blue star", "a purple ring"]
    assert (
        cli.main(["classify", str(clip), "--labels", ",".join(labels), "--by", "likelihood", "--json"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)["labels"]
    assert [(x["label"], x["probability"]) for x in printed] == mvc.classify(
        model, clip, labels, by="likelihood"
    )

    given: list = []
    monkeypatch.setattr(
        "minivideococa.tasks.caption_batch", lambda model, videos, options, *_: given.append(options) or [""]
    )
    options |= {
        "min_length": 2,
        "max_length": 9,
        "prompt": "a",
        "beams": 4,
        "beam_groups": 2,
        "diversity_penalty": 9.0,
        "repetition_penalty": 3.0,
        "length_penalty": 0.5,
        "top_k": 5,
        "convention": "textbook",
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert cli.main(["caption", str(clip), *flags]) == 0 and given == [DecodingOptions(**options)]
    flags[-1] = "--textbook"
    assert cli.main(["caption", str(clip), *flags]) == 0 and given == [DecodingOptions(**options)] * 2
