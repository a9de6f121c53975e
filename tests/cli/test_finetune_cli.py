"""The command `finetune`: its result, its messages and its exit status."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from platforms import posix

import minivideococa as mvc
from minivideococa import cli
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, write_manifest
from minivideococa.training import finetune as module
from minivideococa.training import loop

BROKEN = Path(__file__).parents[1] / "cases" / "broken.mp4"
QUICK = ["--frames", "2", "--batch", "2", "--steps", "2", "--learning-rate", "1e-3"]


@pytest.fixture
def manifest(tmp_path):
    """The path of a manifest of two clips."""
    path = tmp_path / "manifest.jsonl"
    clips = ("single.gif", "a green crescent"), ("pair.gif", "a red ring and a green diamond")
    write_manifest(path, [Entry(CLIPS / clip, (caption,)) for clip, caption in clips])
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(manifest, cache, tmp_path, capsys):
    """(status, standard output, standard error) of finetune, with the manifest and a folder."""

    def run(*arguments, folder="run"):
        arguments = [str(manifest), "-o", str(tmp_path / folder), "--cache", str(cache), *QUICK, *arguments]
        status = cli.main(["finetune", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_the_result_is_a_summary_and_the_tuned_part(run, tmp_path, manifest):
    status, out, err = run("--validate", manifest, "--whole")
    assert status == 0 and err == ""
    assert re.search(r"^2 clips, 2 steps \(2 epochs\) in [\d.]+ s\nloss [\d.]+ -> [\d.]+\nvalidation, ", out)
    assert f"tuned part: {tmp_path / 'run' / 'tuned.safetensors'} (give it to --tuned)" in out
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoint'} (give it to --weights)" in out
    for arguments in ["--tuned", tmp_path / "run"], ["--weights", tmp_path / "run" / "checkpoint"]:
        clip = [str(CLIPS / "pair.gif"), "--quiet", "--frames", "2", "--beams", "1"]
        assert cli.main(["caption", *clip, *map(str, arguments)]) == 0
    part, checkpoint = (
        mvc.load(**source)
        for source in ({"tuned": tmp_path / "run"}, {"source": tmp_path / "run" / "checkpoint"})
    )
    assert np.array_equal(part.params["visual"]["proj"], checkpoint.params["visual"]["proj"])


def test_json_is_the_summary(run, tmp_path, manifest):
    status, out, _ = run("--json")
    summary = json.loads(out)
    assert status == 0 and summary == {
        "manifest": str(manifest),
        **json.loads((tmp_path / "run" / "summary.json").read_text()),
    }
    assert (summary["steps"], summary["clips"], summary["left_out"]) == (2, 2, [])


def test_one_is_singular(run):
    assert run("--steps", "1")[1].startswith("2 clips, 1 step (1 epoch) in ")


def test_the_command_does_what_the_function_does(run, tmp_path, manifest, cache):
    run("--task", "caption", "--tune", "frozen", "--adapter", "mean", "--half")
    options = dict(num_frames=2, batch=2, steps=2, learning_rate=1e-3, half=True, adapter="mean")
    mvc.finetune(mvc.load(), manifest, tmp_path / "b", cache=cache, task="caption", tune="frozen", **options)
    same = [(tmp_path / folder / "state-2.safetensors").read_bytes() for folder in ("run", "b")]
    assert same[0] == same[1]


def test_tensors_that_are_tuned_too_are_named_one_by_one(run, tmp_path):
    also = ["visual.positional_embedding", "visual.conv1"]
    status, _, err = run("--task", "caption", "--also", also[0], "--also", also[1])
    assert (status, err) == (0, "")
    assert {"visual.positional_embedding", "visual.conv1.weight"} <= mvc.load(tuned=tmp_path / "run").changed
    status, _, err = run("--also", "visual.conv2", folder="b")
    assert status == 2 and "--also" in err and "visual.conv2" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_new_adapter_is_added_and_is_the_default_afterwards(run, tmp_path, capsys):
    assert run("--adapter", "factorized", "--positions")[0] == 0
    tuned = ["--tuned", str(tmp_path / "run")]
    clip = ["caption", str(CLIPS / "pair.gif"), "--quiet", "--beams", "1"]
    assert cli.main([*clip, "--frames", "2", *tuned]) == 0
    assert cli.main([*clip, "--frames", "3", *tuned]) == 2
    assert "positions for 2" in capsys.readouterr().err
    status, _, err = run(*tuned, "--frames", "3", folder="b")  # tuned further
    assert status == 2 and "positions for 2" in err


@pytest.mark.slow
def test_an_unreadable_clip_is_status_3(run, manifest):
    entry = {"video": str(BROKEN), "captions": ["a red ring"]}
    manifest.write_text(manifest.read_text() + json.dumps(entry) + "\n")
    status, out, err = run()
    assert status == 3 and "left out, because they cannot be read: 1 clip\n" in out and "broken.mp4" in err
    status, out, err = run("--allow-bad", "0", folder="b")
    assert (status, out) == (2, "") and "allow_bad (--allow-bad) is 0" in err and err.count("\n") == 1


def test_a_loss_that_is_not_finite_is_status_2(run, monkeypatch):
    monkeypatch.setattr(loop, "accumulate", lambda *_: {"loss": float("nan")})
    status, out, err = run()
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "step 1: the loss is not finite; its clips: " in err and "single.gif" in err


def test_ctrl_c_says_how_to_resume(run, monkeypatch):
    step = loop.take_step

    def take_step(run, tuner, log):
        if tuner.position.step == 1:
            raise KeyboardInterrupt
        return step(run, tuner, log)

    monkeypatch.setattr(loop, "take_step", take_step)
    status, out, err = run()
    assert (status, out) == (130, "")
    assert err == "minivideococa: interrupted: repeat the command to go on from step 1, the last saved\n"


def test_ctrl_c_before_the_first_state(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupt)
    status, out, err = run()
    assert (status, out) == (130, "") and "the command starts from the beginning" in err


@pytest.mark.slow
@posix
def test_signals_end_a_run_that_can_be_resumed(manifest, cache, tmp_path):
    """SIGINT to the process itself, in the middle of its steps."""
    folder = tmp_path / "run"
    arguments = [str(manifest), "-o", str(folder), "--cache", str(cache), *QUICK, "--steps", "2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "minivideococa", "finetune", *arguments, "--save-every", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.time() + 60
    while not list(folder.glob("state-*")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert re.fullmatch(r"minivideococa: interrupted: repeat the command to go on from step \d+, .*\n", err)
    assert not list(folder.glob(".partial*"))


def test_another_run_in_the_folder_is_refused_by_the_option(run):
    run()
    status, out, err = run("--seed", "3")
    assert (status, out) == (2, "") and "seed was 0 and is 3" in err and err.count("\n") == 1


def test_a_missing_matplotlib_is_reported_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = run("--plot", tmp_path / "losses.png")
    assert (status, out) == (2, "") and "pip install" in err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_unknown_words_are_refused_unless_they_are_added(run, manifest):
    manifest.write_text(manifest.read_text().replace("a green crescent", "a wooden crescent"))
    status, out, err = run()
    assert (status, out) == (2, "") and "lacks wooden" in err and "give --add-words to learn them" in err
    assert run("--add-words", folder="b")[0] == 0
    status, _, err = run("--force", folder="c")
    assert status == 0 and "lacks wooden" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "1"], "--epochs 1 and --steps 2 exclude each other"),
        (["--micro-batch", "3"], "--micro-batch is 3: give at most the batch, 2"),
        (["--head", "classifier"], "--head classifier needs --task qa"),
        (["--beta2", "1"], "--beta2 is 1: give a number"),
        (["--plot", "losses.jpg"], "losses.jpg: a plot is a .png, .pdf or .svg file"),
        (["--task", "qa"], 'manifest.jsonl: no entry has "question"'),
    ],
)
def test_impossible_values_name_their_flag(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_the_summary_counts_in_proper_english(manifest, cache, tmp_path, capsys):
    questions = [Entry(CLIPS / "single.gif", question="a green", answer="crescent")]
    write_manifest(manifest, questions)
    arguments = [manifest, "-o", tmp_path / "run", "--cache", cache, "--task", "qa", "--frames", "2"]
    assert cli.main(["finetune", *map(str, arguments)]) == 0
    assert capsys.readouterr().out.startswith("1 question, 1 step (1 epoch) in ")
