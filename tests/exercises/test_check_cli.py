"""`minivideococa check`: what it prints, its exit status, and errors told as the learner's own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from platforms import posix

from minivideococa import cli
from minivideococa.exercises import EXERCISES, TEMPLATE

SOLUTIONS = Path(__file__).with_name("solutions.py").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of a learner."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*arguments):
    return cli.main(["check", *arguments])


def write(folder, body, name="patchify(pixels, patch_size)"):
    (folder / "mine.py").write_text(f"import numpy as np\n\n\ndef {name}:\n    {body}\n")


@pytest.mark.slow
def test_from_the_template_to_the_first_function(folder, capsys):
    """As a learner does it: nothing written, then one function."""
    assert check("--new", "exercises.py") == 0
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "minivideococa: wrote exercises.py: fill in a function, then run minivideococa check exercises.py\n"
    )
    mine = folder / "exercises.py"
    assert mine.read_text() == TEMPLATE.read_text() and os.listdir(folder) == ["exercises.py"]
    assert check("exercises.py") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:9] == [f"{i} {name}: not written yet" for i, name in enumerate(EXERCISES, 1)]
    assert lines[-1] == "Nothing is written yet: begin with patchify."

    start, end = SOLUTIONS.index("def patchify"), SOLUTIONS.index("def softmax")
    mine.write_text(mine.read_text() + "\n\n" + SOLUTIONS[start:end])
    assert check("exercises.py") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 patchify: right" and lines[1].startswith(
        "  The caption is still 'a photo of a yellow"
    )
    assert lines[-1] == "1 right, 8 not written yet. Next: attention."


@pytest.mark.slow
def test_all_nine(folder, capsys):
    (folder / "mine.py").write_text(SOLUTIONS)
    assert check("mine.py") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All 9 right."


def test_a_wrong_exercise_is_status_1(folder, capsys):
    write(folder, "return None")
    assert check("mine.py", "patchify", "--json") == 1
    told = json.loads(capsys.readouterr().out)
    (result,) = told["exercises"]
    assert told["right"] is False and (result["number"], result["status"]) == (1, "wrong")
    assert result["hint"] == "does it end with a return?"
    assert check("mine.py", "2") == 0  # not written


def test_an_error_is_told_with_the_learners_line(folder, capsys):
    write(folder, "return np.reshape(pixels, (3, -1, 7))")
    assert check("mine.py", "1") == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:3] == [
        "1 patchify: wrong",
        "  Given an image of 4 x 4 pixels, its numbers counted from 0 to 47, and patch size 2:",
        "  Called with pixels float32 [1, 3, 4, 4], patch_size 2, it fails:",
    ]
    assert lines[3].startswith(
        "  mine.py, line 5, in patchify: return np.reshape(pixels, (3, -1, 7))  ->  "
        "ValueError: cannot reshape array of size 48 into shape"
    )
    assert "keeps the number of elements" in lines[4] and "Traceback" not in out + err


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("return patchify(pixels, patch_size)", "RecursionError: "),
        ("return other(pixels)", "NameError: name 'other' is not defined"),
        ("assert False", "AssertionError"),
    ],
)
def test_other_errors(folder, capsys, body, told):
    write(folder, body)
    assert check("mine.py", "1") == 1
    assert f"mine.py, line 5, in patchify: {body}  ->  {told}" in capsys.readouterr().out


def test_a_function_that_needs_one_that_is_not_written(folder, capsys):
    text = TEMPLATE.read_text()
    start, end = SOLUTIONS.index("def pooler"), SOLUTIONS.index("def shifted_mask")
    (folder / "mine.py").write_text(text + "\n\n" + SOLUTIONS[start:end])
    assert check("mine.py", "pooler") == 0
    assert (
        "3 pooler: not written yet\n  It calls attention, which is not written yet.\n"
        in capsys.readouterr().out
    )


def test_what_a_learner_prints_is_no_result(folder, capsys):
    write(folder, "print('shape', pixels.shape)\n    return None")
    assert check("mine.py", "1", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) and "shape (1, 3, 4, 4)" in err


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def patchify(:\n", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("if True:\nx = 1\n", "mine.py, line 2: IndentationError"),
        ("x = 1\nimport nowhere\n", "mine.py, line 2: import nowhere  ->  ModuleNotFoundError"),
        ("raise SystemExit\n", "mine.py, line 1: raise SystemExit  ->  SystemExit"),
        ("x = '\0'\n", "mine.py"),
    ],
)
def test_a_file_that_cannot_be_run_is_status_2(folder, capsys, source, told):
    (folder / "mine.py").write_text(source)
    assert check("mine.py") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["nothing.py"],
            "nothing.py: no such file; write the file with the exercises: minivideococa check --new",
        ),
        (["."], "is a folder"),
        (["mine.py", "poler"], "there is no exercise poler: there are 1 patchify, 2 attention"),
        (["--new", "mine.py"], "mine.py: exists: give another name"),
        (["--new", "nowhere/mine.py"], "there is no folder"),
        (["--new", "other.py", "1"], "--new"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(folder, capsys, arguments, told):
    write(folder, "raise SystemError")
    before = (folder / "mine.py").read_text()
    try:
        assert check(*arguments) == 2
    except SystemExit as end:
        assert end.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err
    assert (folder / "mine.py").read_text() == before and os.listdir(folder) == ["mine.py"]


LOOP = """
solved = patchify


def patchify(pixels, patch_size):
    if len(pixels) >= {frames}:
        open("looping", "w").close()
        while True:
            pass
    return solved(pixels, patch_size)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("frames", [1, 3], ids=["in a small case", "in the model"])
def test_ctrl_c_ends_an_endless_loop(folder, frames):
    """The small cases have up to two images, the model 8 frames, which it otherwise spreads over threads."""
    (folder / "mine.py").write_text(SOLUTIONS + LOOP.format(frames=frames))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "minivideococa", "check", "mine.py", "1"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "looping").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "") and process.returncode == 130
    finally:
        process.kill()


def test_nothing_else_is_written(folder, capsys):
    write(folder, "return None")
    check("mine.py", "1")
    assert os.listdir(folder) == ["mine.py"]
