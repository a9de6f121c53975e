"""How a run ends: streams that are closed or full, signals, files that cannot be read, unknown words."""

import argparse
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from platforms import linux
from safetensors import safe_open

import minivideococa as mvc
from minivideococa import cli, terminal
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.cli import messages
from minivideococa.demo import CLIPS
from minivideococa.media.tokenizer import clip_tokenizer_json, load_tokenizer

pty = pytest.importorskip("pty", reason="needs POSIX: terminals, signals, a shell")
resource = pytest.importorskip("resource")

PACKAGE = Path(mvc.__file__).parent
PAIR, SPLIT = str(CLIPS / "pair.gif"), str(CLIPS / "split.gif")
BROKEN = str(Path(__file__).parents[1] / "cases" / "broken.mp4")
MODULE = [sys.executable, "-m", "minivideococa"]
QUICK = ["--frames", "1", "--beams", "1"]


def environment(**variables) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | variables


def shell(script: str, *arguments: str, **variables) -> subprocess.CompletedProcess:
    """Run a script of bash; `m` is the command line, "$@" are the arguments."""
    script = f'm() {{ "{sys.executable}" -m minivideococa "$@"; }}; {script}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *arguments],
        capture_output=True,
        timeout=120,
        env=environment(**variables),
    )


def one_line(message: bytes | str) -> bool:
    message = message if isinstance(message, str) else message.decode()
    return message.startswith("minivideococa: ") and message.count("\n") == 1


# Standard output


@pytest.mark.slow
def test_a_closed_standard_output_is_an_error_before_the_work():
    result = shell('m "$@" >&-', "caption", PAIR, "--weights", "nowhere")
    assert (
        result.returncode == 2 and one_line(result.stderr) and b"standard output is closed" in result.stderr
    )
    result = shell('m "$@" >&- 2>&- <&-', "caption", PAIR, *QUICK)
    assert (result.returncode, result.stdout, result.stderr) == (2, b"", b"")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("arguments", [["caption", PAIR, *QUICK], ["--help"]], ids=" ".join)
def test_a_full_standard_output_is_an_error(arguments):
    """Also when the interpreter flushes its streams at exit."""
    result = shell('m "$@" >/dev/full', *arguments)
    assert (
        result.returncode == 2
        and one_line(result.stderr)
        and b"standard output: No space left" in result.stderr
    )


@linux
@pytest.mark.parametrize(
    "arguments",
    [["caption", PAIR, *QUICK, "--json"], ["caption", "--help"], ["--version"], []],
    ids=" ".join,
)
def test_every_kind_of_output_can_fail(arguments, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert one_line(err) and "standard output: No space left" in err


@pytest.mark.slow
def test_a_reader_that_leaves_early_changes_nothing():
    """The status is the command's own, also where it is not 0."""
    script = 'm "$@" | true; exit ${PIPESTATUS[0]}'
    assert (result := shell(script, "--help")).returncode == 0 and result.stderr == b""
    result = shell(
        script,
        "retrieve",
        "a red ring",
        "--frames",
        "1",
        PAIR,
        BROKEN,
        "--weights",
        str(embedded_checkpoint()),
    )
    assert result.returncode == 3 and one_line(result.stderr)


# Standard error


@pytest.mark.slow
def test_with_standard_error_closed_no_message_is_in_the_result(tmp_path):
    result = shell('m "$@" 2>&-', "caption", PAIR, *QUICK, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["video"] == PAIR
    result = shell(
        'm "$@" 2>&- <&-',
        "trace",
        PAIR,
        "--frames",
        "1",
        "--text",
        "a dog",
        "--force",
        "-o",
        str(tmp_path / "t"),
    )
    assert result.returncode == 0 and result.stdout.startswith(b"frames ")
    with safe_open(tmp_path / "t", "numpy") as file:
        assert file.get_slice("logits").get_shape()
    assert shell('m "$@" 2>&-', "sing").returncode == 2


@pytest.mark.slow
@linux
def test_a_result_is_printed_though_standard_error_is_full_or_its_reader_has_left():
    result = shell('m "$@" 2>/dev/full', "caption", PAIR, *QUICK)
    assert result.returncode == 0 and b"red ring" in result.stdout
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*MODULE, "caption", PAIR, *QUICK], stdout=subprocess.PIPE, stderr=writer, env=environment()
    )
    os.close(writer)
    assert result.returncode == 0 and b"red ring" in result.stdout


# Characters


@pytest.fixture
def odd_names(tmp_path) -> list[str]:
    """Links to a clip: a name that is not UTF-8, one with a line break and an escape code, a snowman."""
    names = [
        os.fsdecode(os.fsencode(tmp_path) + name)
        for name in (b"/bad\xff.gif", b"/new\nline\x1b[31m.gif", "/é☃.gif".encode())
    ]
    for name in names:
        Path(name).symlink_to(PAIR)
    return names


@linux
@pytest.mark.parametrize(
    "encoding, letters", [("utf-8", "é☃"), ("cp1252", "é\\u2603"), ("ascii", "\\xe9\\u2603")]
)
def test_names_and_encodings(odd_names, encoding, letters, monkeypatch):
    """One line for each name, with escapes; JSON has the names themselves; an error is one line too."""

    def output(stream: str, status: int, *arguments: str) -> bytes:
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(buffer, encoding))
        assert cli.main(arguments) == status
        return buffer.getvalue()

    command = ["retrieve", "a red ring", "--frames", "1", *odd_names]
    lines = [
        line.split("  ")[1].split("/")[-1]
        for line in output("stdout", 0, *command).decode(encoding).splitlines()
    ]
    assert lines == ["bad\\udcff.gif", "new\\nline\\x1b[31m.gif", f"{letters}.gif"]
    result = json.loads(output("stdout", 0, *command, "--json"))
    assert [entry["video"] for entry in result["videos"]] == odd_names
    error = output("stderr", 2, "caption", odd_names[1] + "?")
    assert one_line(error) and b"new\\nline\\x1b[31m.gif?: " in error


@pytest.mark.slow
@linux
def test_the_encoding_of_the_process(odd_names):
    """What the streams of a process that speaks ASCII make of the same names."""
    result = shell('m "$@"', "retrieve", "a red ring", "--frames", "1", *odd_names, PYTHONIOENCODING="ascii")
    assert result.returncode == 0 and b"\\xe9\\u2603.gif" in result.stdout and b"bad\\udcff" in result.stdout
    result = shell('m "$@"', "caption", odd_names[2] + "?", PYTHONIOENCODING="ascii")
    assert result.returncode == 2 and one_line(result.stderr) and b"\\xe9\\u2603.gif?" in result.stderr


def test_escapes():
    assert terminal.printable("a\\b 'c' \u3000é\u200c👩\u200d🚀") == "a\\b 'c' \u3000é\u200c👩\u200d🚀"
    assert (
        terminal.printable("\n\r\t\x1b\x7f\x9b\u202e\u2028\udcff")
        == "\\n\\r\\t\\x1b\\x7f\\x9b\\u202e\\u2028\\udcff"
    )


def test_json_has_no_nan(capsys):
    with pytest.raises(ValueError, match="JSON"):
        messages.print_result(argparse.Namespace(json=True), [], {"cosine": float("nan")})
    assert capsys.readouterr().out == ""


# The bar


@pytest.mark.slow
def test_a_bar_is_drawn_at_once_and_leaves_an_empty_line():
    controller, user = pty.openpty()  # of no width, as in a container without a console
    labels = ",".join(["a red ring"] * 9)
    process = subprocess.Popen(
        [*MODULE, "classify", PAIR, "--labels", labels, "--weights", str(embedded_checkpoint())],
        stdout=subprocess.PIPE,
        stderr=user,
        env=environment(),
    )
    os.close(user)
    seen = b""
    try:
        while part := os.read(controller, 10**6):
            seen += part
    except OSError:  # Linux's end of a terminal
        pass
    os.close(controller)
    assert process.communicate()[0].count(b"\n") == 9
    assert b" 0/8 " in seen and b" 0/9 " in seen and seen.decode().rpartition("\r")[2].strip() == ""


# Signals

PLANT = """
import os, signal, sys
class Interrupt:
    def find_spec(name, path=None, target=None):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["minivideococa.cli", "argparse", "minivideococa.output", "tqdm", "numpy", "tokenizers"]
)
@pytest.mark.parametrize("script", [False, True])
def test_an_interrupt_while_modules_are_imported(tmp_path, module, script):
    (tmp_path / "sitecustomize.py").write_text(PLANT)
    command = MODULE
    if script:
        if not (PACKAGE.parent / "pyproject.toml").is_file():
            pytest.skip("not a checkout")
        home, name = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["scripts"][
            "minivideococa"
        ].split(":")
        command = [sys.executable, "-c", f"import sys; from {home} import {name}; sys.exit({name}())"]
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    result = subprocess.run(
        [*command, "caption", PAIR, *QUICK], capture_output=True, env=environment(PYTHONPATH=path, AT=module)
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_shapes_and_leaves_nothing(tmp_path, number):
    process = subprocess.Popen(
        [*MODULE, "shapes", str(tmp_path / "clips"), "--count", "100000"],
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    while process.poll() is None and not list(tmp_path.rglob("0001.mp4")):
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == 128 + number and process.stderr.read() == b"" and not list(tmp_path.iterdir())
    process.stderr.close()


@pytest.mark.slow
def test_sigterm_ends_convert_and_leaves_nothing(tmp_path):
    """While the weights are written."""
    code = """
import os, signal, sys
from minivideococa import cli
from minivideococa.checkpoint import folder
def save(path, *_):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGTERM)
folder.save_tensors = save
sys.exit(cli.main(["convert", *sys.argv[1:]]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(embedded_checkpoint()), str(tmp_path / "out")],
        capture_output=True,
        env=environment(),
    )
    assert (result.returncode, result.stderr) == (143, b"") and not list(tmp_path.iterdir())


def test_main_leaves_signals_and_warnings_as_they_were(capsys):
    before = signal.getsignal(signal.SIGTERM), warnings.showwarning, list(warnings.filters)
    assert cli.main(["caption", "nowhere.gif"]) == 2
    assert (signal.getsignal(signal.SIGTERM), warnings.showwarning, list(warnings.filters)) == before


def test_a_warning_is_one_line_once(capsys, monkeypatch):
    def captions(*_):
        for _ in range(3):
            warnings.warn("x.gif: 3 frames\nare there", stacklevel=2)
        return ["a ring"]

    monkeypatch.setattr("minivideococa.tasks.caption_batch", captions)
    for _ in range(2):  # in each run
        assert cli.main(["caption", PAIR, "--frames", "1", "--weights", str(embedded_checkpoint())]) == 0
        assert capsys.readouterr() == ("a ring\n", "minivideococa: x.gif: 3 frames\\nare there\n")


# Inputs


@pytest.fixture
def refused(capsys):
    """Run a command that must fail: status 2, nothing on standard output, one line. Return that line."""

    def run(*arguments) -> str:
        try:
            status = cli.main([str(x) for x in arguments])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert (status, out) == (2, "") and one_line(err)
        return err

    return run


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["caption", ""], "VIDEO is empty"),
        (["caption", PAIR, "--weights", ""], "--weights is empty"),
        (["classify", PAIR, "--labels-file", ""], "--labels-file is empty"),
        (["classify", PAIR, "--labels", " ,"], "--labels is empty"),
        (["classify", PAIR, "--labels", "a", "--templates-file", ""], "--templates-file is empty"),
        (["retrieve", "", PAIR], "TEXT is empty"),
        (["retrieve", " \n", PAIR], "TEXT is empty"),
        (["retrieve", "a", ""], "VIDEO is"),
        (["answer", PAIR, " "], "QUESTION is empty"),
        (["answer", PAIR, "a", "--answers", ""], "--answers is empty"),
        (["trace", PAIR, "-o", ""], "--output is empty"),
        (["verify", ""], "TRACE is empty"),
        (["evaluate", "", "--no-cache"], "MANIFEST is empty"),
        (["evaluate", "m.jsonl", "--cache", ""], "--cache is empty"),
        (["evaluate", "m.jsonl", "--answers-file", ""], "--answers-file is empty"),
        (["shapes", ""], "DIR is empty"),
        (["convert", "", "x"], "SRC is empty"),
        (["convert", "x", ""], "DEST is empty"),
        (["convert", "x", "y", "--config", ""], "--config"),
        (["caption", PAIR, "--frames", "9" * 22], "--frames must be"),
        (["caption", PAIR, "--frames", "9" * 5000], "--frames must be"),
        (["caption", PAIR, "--frames", "0"], "--frames must be"),
        (["caption", PAIR, "--frames", "8.5"], "--frames: '8.5' is not a whole"),
        (["caption", PAIR, "--beams", "9" * 22], "--beams must be"),
        (["caption", PAIR, "--max-length", "x"], "--max-length: 'x' is"),
        (["caption", PAIR, "--seed", "-1"], "--seed must be"),
        (["caption", PAIR, "--temperature", "nan"], "--temperature: 'nan' is"),
        (["caption", PAIR, "--top-p", "inf"], "--top-p: 'inf' is"),
        (["caption", PAIR, "--length-penalty", "1e999"], "--length-penalty: "),
        (["shapes", "x", "--count", "9" * 22], "--count must be"),
        (["sing"], "'sing'"),
        (["caption"], "VIDEO"),
    ],
    ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "",
)
def test_an_argument_is_refused_by_its_name(refused, arguments, names):
    assert names in refused(*arguments)


@pytest.mark.parametrize(
    "command",
    [
        ["classify", PAIR, "--labels-file"],
        ["classify", PAIR, "--labels", "a", "--templates-file"],
        ["evaluate", "m.jsonl", "--no-cache", "--answers-file"],
    ],
)
def test_a_file_that_never_ends_is_refused(refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text(json.dumps({"video": PAIR, "question": "there is", "answer": "a ring"}))
    os.mkfifo("fifo")
    for path in ("fifo", "/dev/zero"):
        assert f"{path}: not a regular file" in refused(*command, path)


@pytest.mark.parametrize(
    "command",
    [
        ["caption"],
        ["classify", "--labels", "a"],
        ["retrieve", "a"],
        ["answer"],
        ["trace", "-o", "t"],
        ["evaluate"],
    ],
    ids=" ".join,
)
def test_the_path_of_a_video_is_checked_before_weights_are_loaded(refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text('{"video": "nowhere.mp4", "label": "a"}\n{"video": "nor.mp4", "label": "b"}\n')
    importlib.import_module("minivideococa.verify")  # which keeps the `load` that it finds
    monkeypatch.setattr(
        "minivideococa.checkpoint.load", lambda *_, **__: pytest.fail("the weights are loaded")
    )
    last = (
        ["m.jsonl"] if command == ["evaluate"] else ["nowhere.mp4", *(["a"] if command == ["answer"] else [])]
    )
    assert "nowhere.mp4: no such file" in refused(*command, *last)


@pytest.mark.slow
def test_a_damaged_video_is_left_out(capsys, refused):
    """The rest is ranked as without it; the status is 3, or 2 if nothing is left."""
    command = ["retrieve", "a red ring", "--frames", "2", "--weights", str(embedded_checkpoint())]
    assert cli.main([*command, SPLIT, PAIR]) == 0
    ranking = capsys.readouterr().out
    assert cli.main([*command, BROKEN, SPLIT, "nowhere.gif", PAIR]) == 3
    out, err = capsys.readouterr()
    assert out == ranking and [line.split(": ")[:3] for line in err.splitlines()] == [
        ["minivideococa", "left out", name] for name in (BROKEN, "nowhere.gif")
    ]
    assert cli.main([*command, BROKEN, PAIR, "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    assert [entry["video"] for entry in result["videos"]] == [PAIR]
    [left_out] = result["left_out"]
    assert left_out["video"] == BROKEN and left_out["why"].startswith(BROKEN)
    assert refused(*command, BROKEN).startswith(f"minivideococa: {BROKEN}: ")
    assert f"none of the 2 videos can be read: {BROKEN}" in refused(*command, BROKEN, __file__)


def test_evaluate_without_a_damaged_video_is_status_3(capsys, tmp_path):
    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps({"video": path, "label": label}) + "\n"
            for path, label in ((PAIR, "a red ring"), (BROKEN, "a blue star"))
        )
    )
    assert cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--no-cache", "--frames", "1", "--json"]) == 3
    out, err = capsys.readouterr()
    assert [entry["video"] for entry in json.loads(out)["unreadable"]] == [BROKEN] and BROKEN in err


# Outputs


def limited(*arguments: str, size: int = 2000) -> subprocess.CompletedProcess:
    """Run a command that cannot write a file of more than `size` bytes, as on a disk that is full."""
    return subprocess.run(
        [*MODULE, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.slow
def test_a_full_disk_loses_no_table_and_the_file_is_named(tmp_path):
    line = json.dumps({"video": PAIR, "label": "a red ring", "captions": ["a red ring"]}) + "\n"
    (tmp_path / "m.jsonl").write_text(line * 20)
    result = limited(
        "evaluate",
        str(tmp_path / "m.jsonl"),
        "--no-cache",
        "--frames",
        "1",
        "--tasks",
        "classify",
        "--weights",
        str(embedded_checkpoint()),
        "-o",
        str(tmp_path / "out.jsonl"),
    )
    assert result.returncode == 2 and "top-1" in result.stdout
    error = result.stderr.splitlines(keepends=True)[-1]
    assert one_line(error) and f"{tmp_path / 'out.jsonl'}: " in error and "File too large" in error
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


# Words


@pytest.mark.parametrize(
    "command",
    [
        ["classify", PAIR, "--labels", "quantum entropy,a rad circle"],
        ["classify", PAIR, "--labels-file", "words.txt"],
        ["classify", PAIR, "--labels", "a ring", "--templates-file", "words.txt"],
        ["retrieve", "a rad entropy", PAIR],
        ["answer", PAIR, "the rad entropy"],
        ["answer", PAIR, "a", "--answers", "rad,entropy"],
        ["caption", PAIR, "--prompt", "rad entropy"],
        ["trace", PAIR, "-o", "t", "--text", "rad entropy"],
        ["evaluate", "m.jsonl", "--no-cache", "--answers-file", "words.txt"],
        ["evaluate", "m.jsonl", "--no-cache", "--prompt", "rad entropy"],
        ["evaluate", "m.jsonl", "--no-cache", "--templates-file", "words.txt"],
    ],
    ids=" ".join,
)
def test_unknown_words_of_the_users_own_end_the_command(refused, capsys, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("a rad entropy {}")
    Path("m.jsonl").write_text(
        json.dumps({"video": PAIR, "label": "a ring", "question": "there is", "answer": "a ring"})
    )
    message = refused(*command)
    assert (
        "the embedded checkpoint is for coloured shapes only" in message
        and "rad (nearest: red)" in message
        and "entropy" in message
        and "entropy (nearest" not in message
        and "give --weights (such as hf-hub:laion/" in message
        and "), other words, or --force" in message
    )
    assert not Path("t").exists()
    assert cli.main([*command, "--force", "--frames", "1"]) == 0
    out, err = capsys.readouterr()
    assert out and "entropy" in err


def test_unknown_words_of_a_data_set_are_named_and_accepted(capsys, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"video": PAIR, "label": "quantum entropy"}))
    assert cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--no-cache", "--frames", "1"]) == 0
    assert "quantum, entropy" in capsys.readouterr().err


def test_a_vocabulary_that_spells_everything_knows_every_word(tmp_path):
    (tmp_path / "tokenizer.json").write_text(clip_tokenizer_json(), encoding="utf-8")
    model = SimpleNamespace(
        tokenizer=load_tokenizer(tmp_path / "tokenizer.json", 76, pad_id=0, clean="lower")
    )
    messages.refuse_unknown_words(argparse.Namespace(force=False), model, ["quantum entropy", "!!!"])


def test_sentences_of_the_package_with_unknown_words_are_left_out(capsys):
    command = [
        "classify",
        PAIR,
        "--labels",
        "a red ring,a blue star",
        "--json",
        "--weights",
        str(embedded_checkpoint()),
    ]
    assert cli.main([*command, "--ensemble"]) == 0
    out, err = capsys.readouterr()
    assert one_line(err) and "7 of 8 templates are left out" in err and "footage" in err
    assert cli.main(command) == 0 and capsys.readouterr() == (out, "")  # the one that is left


# A part of a video


@pytest.mark.parametrize(
    "command",
    [
        ["caption", PAIR, "--beams", "1"],
        ["classify", PAIR, "--labels", "a red ring"],
        ["retrieve", "a red ring", PAIR],
        ["answer", PAIR, "there is"],
    ],
    ids=lambda x: x[0],
)
def test_start_and_end_reach_the_reader(command, capsys, monkeypatch):
    given = []
    encode = mvc.VideoCoCa.encode

    def recorded(self, video, *arguments, **options):
        if isinstance(video, str):
            given.append((options["start"], options["end"]))
        return encode(self, video, *arguments, **options)

    monkeypatch.setattr(mvc.VideoCoCa, "encode", recorded)
    assert cli.main([*command, "--start", "00:00.5", "--end", "1.25"]) == 0 and set(given) == {(0.5, 1.25)}


def test_a_trace_of_a_part(tmp_path, capsys):
    assert (
        cli.main(
            [
                "trace",
                SPLIT,
                "-o",
                str(tmp_path / "t"),
                "--start",
                "0.5",
                "--end",
                "1",
                "--text",
                "a red ring",
            ]
        )
        == 0
    )
    with safe_open(tmp_path / "t", "numpy") as file:
        assert (file.get_tensor("frames") == mvc.read_video(SPLIT, start=0.5, end=1)).all()


def test_a_time_that_is_none_is_refused_by_its_name(refused):
    for argument in ("--start", "--end"):
        for value in ("soon", "1:2:3:4", "nan", ""):
            assert f"{argument}: " in refused("caption", PAIR, argument, value)


def test_a_file_that_takes_too_much_memory_is_left_out(monkeypatch, capsys):
    encode = mvc.VideoCoCa.encode

    def short_of_memory(self, path, *rest, **more):
        if path == SPLIT:
            raise MemoryError("Unable to allocate 1.97 GiB")
        return encode(self, path, *rest, **more)

    monkeypatch.setattr(mvc.VideoCoCa, "encode", short_of_memory)
    assert cli.main(["retrieve", "a red ring", PAIR, SPLIT]) == 3
    out, err = capsys.readouterr()
    assert PAIR in out and f"left out: {SPLIT}: not enough memory (Unable to allocate 1.97 GiB)" in err


@pytest.mark.parametrize(
    "command", [["classify", PAIR, "--labels", "!!!,a red ring"], ["retrieve", "...", PAIR]]
)
def test_a_text_without_a_word_is_refused(command, capsys):
    assert cli.main(command) == 2
    assert "has no word that this checkpoint's tokenizer reads" in capsys.readouterr().err
    assert cli.main([*command, "--force"]) == 0


def test_an_interrupt_that_python_wraps_is_one(monkeypatch, capsys):
    """Python 3.11 raises RuntimeError from a KeyboardInterrupt in __set_name__."""

    def interrupted():
        raise RuntimeError("Error calling __set_name__ on 'Field' instance") from KeyboardInterrupt()

    monkeypatch.setattr(cli, "parser", interrupted)
    assert cli.main([]) == 130 and capsys.readouterr().err == ""
