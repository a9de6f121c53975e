"""`explain VIDEO -o FILE`."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.cli.explain import CAVEAT
from minivideococa.demo import CLIPS

PAIR, SINGLE = str(CLIPS / "pair.gif"), str(CLIPS / "single.gif")
QUICK = ("--frames", "2", "--beams", "1")


@pytest.fixture
def run(capsys):
    """Run `explain` with arguments, and return its exit status, standard output and standard error."""

    def run(*arguments):
        try:
            status = cli.main(["explain", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def pages(monkeypatch):
    """The arguments with which the page is made, in place of the page."""
    calls = []

    def page(explanations, title="", labels=()):
        calls.append(([x.text for x in explanations], list(labels)))
        return "<!doctype html>"

    module = types.ModuleType("page")
    module.page = page
    monkeypatch.setitem(sys.modules, "minivideococa.explanation.page", module)
    return calls


@pytest.mark.slow
def test_a_picture(run, tmp_path):
    path = tmp_path / "a.png"
    status, out, err = run(PAIR, "-o", path, *QUICK)
    assert (status, out) == (0, mvc.load().caption(PAIR, num_frames=2, beams=1) + "\n")
    assert err == f"minivideococa: wrote {path}\n"
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.mark.slow
def test_an_animation_of_two_adapters(run, tmp_path):
    path = tmp_path / "a.GIF"
    status, out, _ = run(PAIR, "-o", path, *QUICK, "--compare", "adapter=mean", "--compare", "frames=1")
    labels = [line.partition(": ")[0] for line in out.splitlines()]
    assert status == 0 and labels == ["adapter=attentional, frames=2", "adapter=mean, frames=1"]
    with Image.open(path) as image:
        assert image.format == "GIF" and image.n_frames > 10


@pytest.mark.slow
def test_a_page_of_two_videos(run, tmp_path, pages):
    status, out, _ = run(PAIR, SINGLE, "-o", tmp_path / "a.html", *QUICK)
    texts = [mvc.load().caption(path, num_frames=2, beams=1) for path in (PAIR, SINGLE)]
    assert status == 0 and pages == [(texts, ["pair.gif", "single.gif"])]
    assert out == f"{PAIR}: {texts[0]}\n{SINGLE}: {texts[1]}\n"
    assert (tmp_path / "a.html").read_text() == "<!doctype html>"


def test_one_explanation_has_the_name_of_its_file(run, tmp_path, pages):
    assert run(PAIR, "-o", tmp_path / "a.html", *QUICK)[0] == 0
    assert pages[0][1] == ["pair.gif"]


def test_each_video_that_is_not_of_shapes_is_told_where_it_stands(run, tmp_path, pages):
    """In the file, which is kept and shown to others, as well as after its line."""
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)).save(noise)
    status, out, _ = run(noise, PAIR, "-o", tmp_path / "a.html", *QUICK)
    first, caveat, second = out.splitlines()
    assert status == 0 and caveat.startswith("(may not be a description")
    assert first.startswith(f"{noise}: ") and second.startswith(f"{PAIR}: ")
    assert pages[0][1] == [f"noise.png {CAVEAT}", "pair.gif"]


def test_a_question(run, tmp_path):
    question = ("--question", "what shape is red?")
    status, out, err = run(PAIR, "-o", tmp_path / "a.png", *question, *QUICK, "--json")
    data = json.loads(out)
    assert (status, [text["in_world"] for text in data["texts"]]) == (0, [True])
    assert "wrote" in err and len(err.splitlines()) == 1  # nothing is amiss
    [text] = data["texts"]
    assert text["text"] == "ring" and text["question"] == question[1]
    assert [word["word"] for word in text["words"]] == ["ring", ""]
    assert sum(text["words"][0]["frames"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_before_and_after_tuning(run, tmp_path):
    compare = ("--compare", "tuned=questions")
    status, out, err = run(PAIR, "-o", tmp_path / "a.png", *compare, *QUICK)
    assert (status, out) == (2, "") and "tuned to answer questions and writes no captions" in err
    status, out, err = run(PAIR, "-o", tmp_path / "a.png", *compare, *QUICK, "--question", "a red")
    assert (status, out) == (2, "") and "tuned=questions is what is explained already" in err
    question = ("--question", "a red", "--weights", embedded_checkpoint())
    status, out, _ = run(PAIR, "-o", tmp_path / "a.png", *compare, *question, *QUICK)
    assert status == 0
    assert [line.partition(": ")[0] for line in out.splitlines()] == ["not tuned", "tuned=questions"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PAIR, "-o", "a.txt"], "-o a.txt: end the name with .html, .gif or .png"),
        ([PAIR], "-o/--output"),
        ([PAIR, SINGLE, PAIR, "-o", "a.png"], "takes one VIDEO or two"),
        ([PAIR, SINGLE, "-o", "a.png", "--compare", "adapter=mean"], "two videos are compared already"),
        ([PAIR, PAIR, "-o", "a.png"], "pair.gif is the same video: give another one, or --compare"),
        ([PAIR, "-o", "a.png", "--compare", "frames=8"], "--compare frames=8 is what is explained already"),
        (
            [PAIR, "-o", "a.png", "--compare", "adapter=attentional", "--compare", "formula=gradient"],
            "adapter=attentional, formula=gradient is what is explained already",
        ),
        ([PAIR, "-o", "a.png", "--tuned", "questions"], "writes no captions: give a question, or leave out"),
        ([PAIR, "-o", "a.png", "--compare", "adapter=x"], "adapter is 'x': give attentional, mean"),
        ([PAIR, "-o", "a.png", "--compare", "colour=red"], "KEY one of adapter, formula, frames"),
        ([PAIR, "-o", "a.png", "--compare", "adapter=factorized"], "no layers across the frames"),
        ([PAIR, "-o", "a.png", "--formula", "x"], "--formula"),
        ([PAIR, "-o", "a.png", "--max-length", "99"], "--max-length is 99"),
        ([PAIR, "-o", "a.png", "--question", "which zebra?"], "vocabulary lacks zebra"),
        (["no.gif", "-o", "a.png"], "no.gif: no such file"),
        ([PAIR, "-o", "none/a.png"], "there is no folder"),
    ],
)
def test_one_line_says_what_is_wrong(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and err.startswith("minivideococa: ") and err.count("\n") == 1
    assert message in err and not list(tmp_path.iterdir())


def test_an_input_is_not_overwritten(run, tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes((CLIPS / "pair.gif").read_bytes())
    status, _, err = run(path, "-o", path)
    assert status == 2 and "would overwrite an input" in err
    assert path.read_bytes() == (CLIPS / "pair.gif").read_bytes()


@pytest.mark.slow
def test_other_footage_is_marked(run, tmp_path):
    noise = tmp_path / "noise.png"
    import numpy as np

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise)
    status, out, _ = run(noise, "-o", tmp_path / "a.png", "--frames", "1")
    assert status == 0 and "may not be a description" in out.splitlines()[1]


@pytest.mark.slow
def test_a_caption_of_nothing_is_marked_as_by_caption(run, tmp_path, capsys):
    """One criterion: an empty picture looks like the world's backgrounds, but a clip of it has a shape."""
    empty = tmp_path / "empty.png"
    Image.new("RGB", (64, 64), (120, 110, 130)).save(empty)
    _, out, _ = run(empty, "-o", tmp_path / "a.png", "--json")
    [explained] = json.loads(out)["texts"]
    assert cli.main(["caption", str(empty), "--json"]) == 0
    captioned = json.loads(capsys.readouterr().out)
    assert "nothing" in captioned["caption"].split()
    assert explained["in_world"] is captioned["in_world"] is False
    by_mean = json.loads(run(empty, "-o", tmp_path / "a.png", "--adapter", "mean", "--json")[1])
    assert by_mean["texts"][0]["in_world"] is True
