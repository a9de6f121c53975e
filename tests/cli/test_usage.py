"""What people type first works, or one line says what to type instead."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from platforms import posix

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.cli import arguments, messages, videos
from minivideococa.demo import CLIPS
from minivideococa.evaluation import FORMATS, TASKS
from minivideococa.model.config import ADAPTERS
from minivideococa.model.generation import DecodingOptions

PAIR, SINGLE, SPLIT = (str(CLIPS / f"{name}.gif") for name in ("pair", "single", "split"))
CASES = Path(__file__).parents[1] / "cases"
BROKEN, FOREIGN = str(CASES / "broken.mp4"), str(CASES / "two.mp4")
QUICK = ["--frames", "1", "--beams", "1"]


@pytest.fixture
def run(capsys):
    """Run a command and return its exit status, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run):
    """Run a command that must end with status 2 and one line, and return the line."""

    def refused(*arguments) -> str:
        status, out, err = run(*arguments)
        assert (status, out) == (2, "") and err.startswith("minivideococa: ") and err.count("\n") == 1
        return err

    return refused


@pytest.fixture
def no_video(monkeypatch):
    """Fail if a video is read."""
    monkeypatch.setattr(
        "minivideococa.media.video.read_timed", lambda *_, **__: pytest.fail("a video is read")
    )
    for method in ("encode", "preprocess"):
        monkeypatch.setattr(mvc.VideoCoCa, method, lambda *_, **__: pytest.fail("a video is encoded"))


def folder_of(folder: Path, *names: str) -> str:
    """Make a folder with copies of files; "new name=path" renames."""
    folder.mkdir()
    for name in names:
        new, _, source = name.rpartition("=")
        shutil.copy(source, folder / (new or Path(source).name))
    return str(folder)


# The commands


def test_without_arguments_the_help_is_printed(run):
    status, out, err = run()
    assert (status, err) == (0, "") and out.startswith("usage: minivideococa") and out == run("--help")[1]


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda module: module.__name__.split(".")[-1])
def test_every_command_has_a_module_of_the_same_form(command, run):
    name = command.__name__.split(".")[-1]
    assert callable(command.add_parser) and callable(command.run)
    status, out, err = run(name, "--help")
    assert (status, err) == (0, "") and out.startswith(f"usage: minivideococa {name} ") and "--quiet" in out
    assert f"    {name} " in run("--help")[1]


def test_lists_are_written_down_once(run):
    """The flags of decoding, the adapters, data sets and tasks are those of the library."""
    text = " ".join(run("caption", "--help")[1].split())
    for field in dataclasses.fields(DecodingOptions):
        if field.name not in arguments.NO_FLAGS:
            assert f"--{field.name.replace('_', '-')} " in text
            assert " ".join(field.metadata["help"].split()) in text
    assert f"--adapter {{{','.join(ADAPTERS)}}}" in text
    text = " ".join(run("evaluate", "--help")[1].split())
    assert f"--format {{{','.join(FORMATS)}}}" in text
    assert f"any of {', '.join(task.name for task in TASKS)} " in text and "--candidates" not in text


@pytest.mark.parametrize(
    "command",
    [
        ["caption", PAIR, "--frames", "abc"],
        ["caption", PAIR, "--beams", "abc"],
        ["caption", PAIR, "--top-p", "abc"],
        ["caption", PAIR, "--start", "abc"],
        ["caption", PAIR, "--adapter", "abc"],
        ["caption", PAIR, "--convention", "abc"],
        ["shapes", "x", "--seed", "abc"],
    ],
    ids=" ".join,
)
def test_a_usage_error_names_the_flag_and_no_function(refused, command):
    message = refused(*command)
    assert (
        f"argument {command[2]}: " in message
        and "'abc'" in message
        and "_" not in message.replace("open_clip", "")
    )
    assert message.endswith(f"; see minivideococa {command[0]} --help\n")


@pytest.mark.parametrize(
    "command",
    [
        ["caption", "URL"],
        ["caption", PAIR, "URL"],
        ["classify", "URL", "--labels", "a"],
        ["retrieve", "a ring", PAIR, "URL"],
        ["answer", "URL", "what?"],
        ["trace", "URL", "-o", "t"],
        ["verify", "URL"],
        ["evaluate", "URL"],
        ["convert", "URL", "x"],
        ["caption", PAIR, "--weights", "URL"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("url", ["https://example.org/a/clip.mp4", "rtsp://camera:554/1"])
def test_a_url_is_to_be_downloaded_first(refused, command, url):
    message = refused(*(url if argument == "URL" else argument for argument in command))
    assert f"{url} is a URL: download the file first" in message


@pytest.mark.parametrize(
    "weights",
    ["laion/CoCa-ViT-B-32-laion2B-s13B-b90k", "https://huggingface.co/laion/CoCa-ViT-B-32-laion2B-s13B-b90k"],
)
def test_a_repository_without_its_prefix_is_suggested_with_it(refused, weights):
    assert "give hf-hub:laion/CoCa-ViT-B-32-laion2B-s13B-b90k;" in refused(
        "caption", PAIR, "--weights", weights
    )


@posix
def test_a_folder_of_weights_needs_no_prefix(run, tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny").symlink_to(embedded_checkpoint())
    monkeypatch.chdir(tmp_path)
    assert run("caption", PAIR, *QUICK, "--weights", "weights/tiny")[0] == 0
    assert run("caption", PAIR, *QUICK, "--weights", "./weights/tiny/")[0] == 0


# Several videos


def test_several_videos_are_captioned_in_order(run):
    alone = {path: run("caption", path, *QUICK)[1] for path in (SINGLE, PAIR)}
    status, out, _ = run("caption", SINGLE, PAIR, SINGLE, *QUICK)
    assert status == 0 and out == "".join(f"{path}: {alone[path]}" for path in (SINGLE, PAIR, SINGLE))


def test_several_results_are_one_json_object_a_line(run):
    lines = run("caption", SINGLE, PAIR, *QUICK, "--json")[1].splitlines()
    assert [json.loads(line)["video"] for line in lines] == [SINGLE, PAIR]
    assert lines == [run("caption", path, *QUICK, "--json")[1].rstrip("\n") for path in (SINGLE, PAIR)]


@pytest.mark.slow
def test_videos_that_cannot_be_read_are_left_out(run, refused):
    status, out, err = run("caption", BROKEN, PAIR, "nowhere.gif", *QUICK)
    assert status == 3 and out == f"{PAIR}: {run('caption', PAIR, *QUICK)[1]}"
    assert [line.split(": ")[1:3] for line in err.splitlines()] == [
        ["left out", BROKEN],
        ["left out", "nowhere.gif"],
    ]
    assert refused("caption", BROKEN, *QUICK).startswith(f"minivideococa: {BROKEN}: ")
    assert f"none of the 2 videos can be read: {BROKEN}: " in refused("caption", BROKEN, __file__, *QUICK)
    assert "none of the 2 videos can be read: a.gif: no such file" in refused("caption", "a.gif", "b.gif")


def test_a_folder_of_videos_is_many_videos(run, tmp_path):
    folder = folder_of(
        tmp_path / "clips", f"c10.GIF={PAIR}", f"c2.gif={SINGLE}", f"c1.mp4={FOREIGN}", f".c.gif={PAIR}"
    )
    (tmp_path / "clips" / "notes.txt").write_text("not a video")
    (tmp_path / "clips" / "more.mp4").mkdir()
    status, out, _ = run("caption", folder, *QUICK, "--json")
    names = [Path(json.loads(line)["video"]).name for line in out.splitlines()]
    assert status == 0 and names == ["c1.mp4", "c2.gif", "c10.GIF"]
    result = json.loads(run("retrieve", "a green crescent", folder, PAIR, "--frames", "1", "--json")[1])
    assert {entry["video"] for entry in result["videos"]} == {*(f"{folder}/{name}" for name in names), PAIR}


def test_a_folder_of_one_video_is_captioned_with_its_name(run, tmp_path):
    folder = folder_of(tmp_path / "clips", PAIR)
    assert run("caption", folder, *QUICK)[1].startswith(f"{folder}/pair.gif: ")


def test_a_folder_of_images_is_one_clip(run):
    folder = str(CASES / "img" / "fold_upright")
    status, out, _ = run("caption", folder, *QUICK, "--json")
    assert status == 0 and json.loads(out)["video"] == folder


def test_a_folder_of_stills_in_gif_files_is_one_clip(tmp_path):
    from PIL import Image

    for i in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.gif")
    assert videos.expand([str(tmp_path)]) == [str(tmp_path)]


@pytest.mark.parametrize(
    "command", [["caption"], ["retrieve", "a ring"], ["classify", "--labels", "a"]], ids=" ".join
)
def test_a_folder_of_videos_and_images_is_refused(refused, tmp_path, command):
    folder = folder_of(tmp_path / "both", PAIR, str(CASES / "img" / "photo_plain.jpg"))
    message = refused(*command, folder)
    assert f"{folder}: a folder of both videos and images" in message
    assert "pair.gif" in message and "photo_plain.jpg" in message


@pytest.mark.parametrize(
    "command",
    [["classify", "--labels", "a"], ["answer", "-q", "VIDEO", "what?"], ["trace", "-o", "t"]],
    ids=" ".join,
)
def test_commands_for_one_video_refuse_a_folder_of_videos(refused, tmp_path, command):
    folder = folder_of(tmp_path / "clips", PAIR, SINGLE)
    command = [folder if argument == "VIDEO" else argument for argument in command]
    message = refused(*command, *([] if folder in command else [folder]))
    assert f"{folder}: a folder of videos: give one of them, such as {folder}/pair.gif" in message


def test_a_folder_without_videos_or_images_is_refused(refused, tmp_path):
    message = (
        f"{tmp_path}: no videos and no images directly in this folder (subfolders are not searched); "
        "give the folder that holds them"
    )
    for command in ["caption"], ["retrieve", "a ring"], ["classify", "--labels", "a"]:
        assert message in refused(*command, tmp_path)


def test_a_folder_that_cannot_be_used_is_left_out(run, tmp_path):
    both = folder_of(tmp_path / "both", PAIR, str(CASES / "img" / "photo_plain.jpg"))
    (tmp_path / "none" / "deeper").mkdir(parents=True)
    for command in (["caption"], ["retrieve", "a ring"]):
        status, out, err = run(*command, both, PAIR, tmp_path / "none", "--frames", "1")
        assert status == 3 and out.count("\n") == 1 and PAIR in out
        assert f"left out: {both}: a folder of both" in err and "left out: " + str(tmp_path / "none") in err


def test_a_video_that_is_left_out_is_an_object_too(run):
    status, out, _ = run("caption", BROKEN, PAIR, "nowhere.gif", *QUICK, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 3 and [row["video"] for row in rows] == [BROKEN, PAIR, "nowhere.gif"]
    assert rows[0]["left_out"].startswith(BROKEN) and rows[2]["left_out"].startswith("nowhere.gif: no such")
    assert run("caption", BROKEN, "nowhere.gif", "--json")[:2] == (2, "")


def test_negative_cosines_are_aligned(run, monkeypatch):
    monkeypatch.setattr("minivideococa.tasks.retrieve", lambda *_: [(1, 0.5), (0, -0.25)])
    assert (
        run("retrieve", "a ring", PAIR, SINGLE, "--frames", "1")[1] == f" 0.500  {SINGLE}\n-0.250  {PAIR}\n"
    )


# The order and the spelling of arguments


@pytest.mark.slow
def test_options_can_stand_between_videos(run):
    last = run("caption", PAIR, SINGLE, *QUICK)
    assert run("caption", PAIR, *QUICK, SINGLE) == last
    assert run("caption", PAIR, "-q", SINGLE, *QUICK) == last
    assert run("caption", *QUICK, "--", PAIR, SINGLE) == last
    last = run("retrieve", "a ring", PAIR, SINGLE, "--frames", "1")
    assert last[0] == 0 and run("retrieve", "a ring", PAIR, "--frames", "1", SINGLE) == last
    assert run("retrieve", "--frames", "1", "a ring", PAIR, SINGLE) == last


def test_a_name_with_a_hyphen_follows_two_hyphens(refused, tmp_path, monkeypatch):
    assert "minivideococa: -b.gif: no such file" in refused("caption", *QUICK, "--", "-b.gif")
    assert "minivideococa: --frames: no such file" in refused("caption", "--", "--frames")


@pytest.mark.parametrize(
    "command, message",
    [
        (["caption", PAIR, "--lable", "a"], "there is no option --lable; see minivideococa caption"),
        (["classify", PAIR, "--lables", "a"], "no option --lables: did you mean --labels? see minivideococa"),
        (["classify", PAIR, "--lables=a"], "no option --lables: did you mean --labels? see minivideococa"),
        (["caption", PAIR, "-x"], "there is no option -x; see minivideococa caption --help"),
        (
            ["classify", PAIR, "b.gif", "--labels", "a"],
            "classify takes one VIDEO: 'b.gif' is one too many; see",
        ),
        (["answer", PAIR, "what?", "b"], "answer takes one VIDEO and one QUESTION: 'b' is one too many"),
        (["caption", PAIR, "-q", "b", "--", "-c"], "all options stand before the other arguments; see"),
        (["demo", "b"], "demo takes no arguments: 'b' is one too many"),
        (["caption", PAIR, "--start", "4", "--end", "0:02"], "--end 0:02 is not after --start 4; see"),
        (["trace", PAIR, "-o", "t", "--end", "0"], "--end 0 is not after the start; see minivideococa trace"),
        (["retrieve", PAIR], f"TEXT: {PAIR} is a file: the first argument is the text to search for"),
        (["retrieve", PAIR, SINGLE], f"TEXT: {PAIR} is a file: the first argument is the text to search for"),
        (
            ["caption", PAIR, "--weights", "nope"],
            "--weights nope: no such folder; give a checkpoint folder, or hf-",
        ),
        (
            ["verify", "t", "--weights", "nope"],
            "--weights nope: no such folder; give a checkpoint folder, or hf-",
        ),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_a_mistyped_command_line(refused, no_video, command, message):
    assert message in refused(*command)


def test_exit_statuses_are_in_the_help(run):
    for name in ("caption", "retrieve", "evaluate"):
        assert "3, there is a result, but some videos" in " ".join(run(name, "--help")[1].split())
    assert "Exit status: 0, success; 2, an error" in " ".join(run("classify", "--help")[1].split())
    text = " ".join(run("--help")[1].split())
    assert "1, verify or check found a fault;" in text and "3, there is a result" in text


def test_numbers_and_fields_are_explained_in_the_help(run):
    text = " ".join(run("caption", "--help")[1].split())
    assert "a single group of max(6, N) beams, so the first text may differ" in text
    assert "left_out" in text
    for name in ("caption", "retrieve", "classify", "answer"):
        assert "in_world is whether a video looks like" in " ".join(run(name, "--help")[1].split())
    assert "is the log-probability of the answer" in " ".join(run("answer", "--help")[1].split())


# Labels and answers


def test_a_label_can_hold_a_comma(run, refused):
    command = ["classify", PAIR, "--frames", "1", "--force", "--json"]

    def labels(*flags):
        return {entry["label"] for entry in json.loads(run(*command, *flags)[1])["labels"]}

    assert labels("--labels", 'a ring, "red, white, and blue" ,a star') == {
        "a ring",
        "red, white, and blue",
        "a star",
    }
    assert labels("--label", "red, white, and blue", "--label", 'a "star"') == {
        "red, white, and blue",
        'a "star"',
    }
    assert labels("--labels", 'a 6" disc,a star') == {'a 6" disc', "a star"}
    for wrong in '"red, white', '"red" ring,blue':
        assert "a double quote is not closed, or text follows it" in refused(*command, "--labels", wrong)
    assert "not allowed with argument" in refused(*command, "--labels", "a", "--label", "b")
    assert "--label is empty" in refused(*command, "--label", " ")


def test_an_answer_can_hold_a_comma(run):
    command = ["answer", PAIR, "there is", "--frames", "1", "--force", "--json"]
    for flags in ["--answers", '"a ring, red",a star'], ["--answer", "a ring, red", "--answer", "a star"]:
        answers = json.loads(run(*command, *flags)[1])["answers"]
        assert {entry["answer"] for entry in answers} == {"a ring, red", "a star"}


def test_probabilities_are_percentages_too(run):
    for line in run("classify", PAIR, "--labels", "a red ring,a blue star,a green diamond")[1].splitlines():
        probability, percentage, *label = line.split()
        assert percentage.endswith("%") and label[0] == "a"
        assert float(percentage[:-1]) == pytest.approx(100 * float(probability), abs=0.051)


# Decoding


IMPOSSIBLE = [
    (["--temperature", "0"], "minivideococa: --temperature 0 leaves nothing to chance: give --beams 1"),
    (["--temperature", "0.0"], "give --beams 1"),
    (["--max-length", "21"], "at most 20"),
    (["--max-length", "99"], "at most 20"),
    (["--max-length", "5"], "5 must be more than"),
    (["--max-length", "4", "--min-length", "9"], "4 must be more than"),
    (["--beams", "0"], "--beams is 0"),
    (["--beams", "1001"], "--beams is 1001"),
    (["--beams", "6", "--beam-groups", "4"], "--beam-groups is 4"),
    (["--top-p", "2"], "--top-p is 2"),
    (["--top-k", "0"], "--top-k is 0"),
    (["--candidates", "0"], "--candidates is 0"),
    (["--candidates", "4", "--beams", "2"], "--candidates is 4: this search has 2 beams"),
    (["--candidates", "2", "--top-k", "5"], "--candidates 2 and --top-k exclude each other"),
    (["--candidates", "3", "--temperature", "1"], "--candidates 3 and --temperature exclude each other"),
    (["--candidates", "3", "--beam-groups", "3"], "one group (--beam-groups 1)"),
    (["--candidates", "1001"], "--candidates is 1001: give a whole number from 1 to 1000"),
    (["--min-length", "50"], "--min-length is 50, and --max-length is 20 by default"),
    (["--top-p", "2.50"], "--top-p is 2.50: "),
    (["--top-p", "0"], "--top-p is 0: "),
    (["--length-penalty", "1e9"], "--length-penalty is 1e9: "),
    (["--prompt", " ".join(["a red ring"] * 9)], "prompt"),
]


@pytest.mark.parametrize(
    "command, flags, message",
    [
        (command, flags, message)
        for command in ("caption", "evaluate")
        for flags, message in IMPOSSIBLE
        if command == "caption" or "--candidates" not in flags
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_options_are_refused_before_a_video_is_read(
    refused, no_video, tmp_path, command, flags, message
):
    source = PAIR
    if command == "evaluate":
        source = tmp_path / "m.jsonl"
        source.write_text(json.dumps({"video": PAIR, "captions": ["a red ring"]}))
        flags = [*flags, "--no-cache"]
    assert message in refused(command, source, *flags)


def test_the_default_length_fits_every_model(run):
    """The embedded checkpoint's texts have at most 20 tokens, fewer than the usual 30."""
    assert run("caption", PAIR, *QUICK) == run("caption", PAIR, *QUICK, "--max-length", "20")


def test_numbers_agree_with_their_nouns(refused):
    message = refused("caption", PAIR, "--max-length", "1", "--min-length", "0")
    assert "--max-length 1 must be more than --min-length 0 and the prompt's 1 token;" in message


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 6, 9])
def test_candidates(run, count):
    """The best of one search with at least as many beams, with their log-probabilities, in that order."""
    status, out, _ = run("caption", PAIR, "--frames", "2", "--candidates", count)
    rows = [line.strip().split("  ", 1) for line in out.splitlines()]
    texts, scores = [text for _, text in rows], [float(score) for score, _ in rows]
    assert status == 0 and len(set(texts)) == len(texts) == count
    assert scores == sorted(scores, reverse=True)
    model = mvc.load()
    video = model.encode(PAIR, 2)
    assert scores == pytest.approx(mvc.score(model, video, texts), abs=5e-4)
    options = DecodingOptions(beams=max(6, count), beam_groups=1, candidates=count)
    assert {model.tokenizer.decode(ids) for ids in model.generate(video.tokens, options)} == set(texts)


@pytest.mark.slow
def test_candidates_as_json_and_of_several_videos(run):
    command = ["--frames", "1", "--candidates", "2"]
    lines = run("caption", PAIR, SINGLE, *command, "--json")[1].splitlines()
    for path, line in zip((PAIR, SINGLE), lines, strict=True):
        result = json.loads(line)
        assert result["video"] == path and result["caption"] == result["candidates"][0]["caption"]
        assert len(result["candidates"]) == 2 and all(
            math.isfinite(row["score"]) for row in result["candidates"]
        )
    printed = run("caption", PAIR, SINGLE, *command)[1].splitlines()
    assert [line.split(": ")[0] for line in printed] == [PAIR, PAIR, SINGLE, SINGLE]
    assert "candidates" not in json.loads(run("caption", PAIR, *QUICK, "--candidates", "1", "--json")[1])


@pytest.mark.slow
def test_options_without_effect_are_named(run, tmp_path):
    def message(*flags):
        status, _, err = run("caption", PAIR, "--frames", "1", *flags)
        assert status == 0 and err.count("\n") <= 1
        return err

    assert "--seed has no effect without sampling" in message("--seed", "3")
    assert "--beams has no effect with --top-k" in message("--top-k", "2", "--beams", "3")
    assert (
        "--seed has no effect without sampling (--top-k, --top-p, --temperature); --diversity-penalty and "
        "--length-penalty have no effect with --beams 1"
    ) in message("--beams", "1", "--seed", "3", "--diversity-penalty", "2", "--length-penalty", "2")
    assert "--diversity-penalty has no effect with one group" in message(
        "--beams", "2", "--diversity-penalty=2"
    )
    assert message("--top-k", "2", "--seed", "1") == message("--diversity-penalty", "2") == ""
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"video": PAIR, "label": "a red ring", "captions": ["a red ring"]}))
    command = ["evaluate", source, "--no-cache", "--frames", "1", "--tasks"]
    err = run(*command, "classify", "--beams", "3", "--answers-file", __file__, "--force")[2]
    assert "--answers-file and --beams have no effect on the tasks classify" in err
    assert run(*command, "caption", "--beams", "3")[2] == ""
    assert "--ensemble has no effect on the tasks caption" in run(*command, "caption", "--ensemble")[2]


# Messages


def test_texts_that_are_longer_than_the_context_are_named(run):
    text = " ".join(["a red ring"] * 30)
    message = "minivideococa: the text has 92 ids; the first 20 are used\n"
    assert run("retrieve", text, PAIR, "--frames", "1")[2] == message
    err = run("classify", PAIR, "--label", text, "--label", "a red ring", "--frames", "1")[2]
    assert "a text has 95 ids; the first 20 are used" in err
    assert "the text has 94 ids" in run("answer", PAIR, "there is", "--answer", text, "--frames", "1")[2]
    assert run("retrieve", " ".join(["a red ring"] * 6), PAIR, "--frames", "1")[2] == ""


@pytest.mark.parametrize(
    "flags", [["--prompt", "nothing"], ["--end", "9"], ["--frames", "1"], ["--top-k", "1"]]
)
def test_no_caveat_for_a_caption_that_says_nothing_because_of_an_option(run, monkeypatch, flags):
    monkeypatch.setattr("minivideococa.tasks.caption_batch", lambda *_: ["nothing"])
    assert messages.NO_DESCRIPTION in run("caption", PAIR)[1]
    status, out, err = run("caption", PAIR, *flags)
    assert (status, out, err) == (0, "nothing\n", "")


def test_evaluate_names_its_file_and_has_no_caveat(run, tmp_path):
    source = tmp_path / "m.jsonl"
    source.write_text(json.dumps({"video": PAIR, "label": "a red ring"}))
    command = ["evaluate", source, "--no-cache", "--frames", "1"]
    assert run(*command)[2] == ""
    assert (
        run(*command, "-o", tmp_path / "out")[2]
        == f"minivideococa: wrote the predictions to {tmp_path}/out\n"
    )


@pytest.mark.slow
def test_quiet_prints_the_results_alone(run, tmp_path):
    """No messages and no caveat; the exit status still says that something was left out; errors are shown."""
    status, out, err = run("caption", FOREIGN, *QUICK)
    assert status == 0 and messages.NO_DESCRIPTION in out and "coloured shapes only" in err
    assert run("caption", FOREIGN, *QUICK, "--quiet") == (0, out.splitlines()[0] + "\n", "")
    assert run("caption", FOREIGN, BROKEN, *QUICK, "-q") == (3, f"{FOREIGN}: {out.splitlines()[0]}\n", "")
    assert run("shapes", tmp_path / "clips", "--count", "1", "-q") == (0, "", "")
    brief = str(CLIPS / "brief.gif")  # frames repeat, which is a warning of the library
    assert run("classify", brief, "--labels", "a quark", "--force")[2].count("\n") == 2
    assert run("classify", brief, "--labels", "a quark", "--force", "-q")[2] == ""
    status, out, err = run("caption", BROKEN, "-q")
    assert (status, out) == (2, "") and err.count("\n") == 1


def test_quiet_draws_no_bars(monkeypatch, run):
    monkeypatch.setattr("minivideococa.cli.arguments.progress_bar", lambda *_: pytest.fail("a bar is drawn"))
    assert run("caption", PAIR, *QUICK, "-q")[0] == 0
    with pytest.raises(pytest.fail.Exception):
        run("caption", PAIR, *QUICK)


def test_one_place_tunes_the_process():
    """Only the entry point of the command line, whose process is its own, changes the allocator."""
    package = Path(mvc.__file__).parent
    callers = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "keep_freed_memory()" in path.read_text(encoding="utf-8").replace("def keep_freed_memory()", "")
    ]
    assert callers == ["__main__.py"]
