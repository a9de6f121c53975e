"""A clip that cannot be read, for any reason, is left out, and invalid arguments are refused early."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from platforms import linux, posix

import minivideococa as mvc
from minivideococa import cli
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, evaluate, read_manifest, run, write_manifest
from minivideococa.evaluation.metrics import average_precision, recall
from minivideococa.evaluation.tasks import Settings
from minivideococa.evaluation.tasks.caption import Caption
from minivideococa.model.generation import DecodingOptions

TREE = Path(__file__).parents[2]


def labelled(paths):
    return [Entry(path, labels=(label,)) for path, label in zip(paths, ["red", "blue", "green"])]


# Errors of reading a clip


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 TiB"),
        RecursionError("too deep"),
        OverflowError("int too large"),
        SyntaxError("broken PNG file"),
        KeyError(3),
        ZeroDivisionError("division by zero"),
        RuntimeError("no decoder"),
        TypeError("'NoneType' object is not iterable"),
        OSError(5, "Input/output error"),
        ValueError("two\nlines"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stage", ["read_video", "preprocess"])
def test_any_error_of_a_reader_costs_one_clip(model, pictures, tmp_path, monkeypatch, error, stage):
    """The second of three clips raises; the metrics are those of the other two."""
    bad, shape = tmp_path / "bad.png", (1, 9, 7, 3)

    def read(path, num_frames, start, end):
        if path == bad and stage == "read_video":
            raise error
        return np.full(shape, 255 if path == bad else 0, np.uint8)

    def preprocess(self, frames):
        if frames.max() == 255 and stage == "preprocess":
            raise error
        return np.zeros((1, 3, 14, 14), np.float32)

    monkeypatch.setattr(run, "read_video", read)
    monkeypatch.setattr(mvc.VideoCoCa, "preprocess", preprocess)
    with pytest.warns(UserWarning, match="left out") as warned:
        result = evaluate(model, labelled([pictures[0], bad, pictures[1]]))
    assert result["videos"] == 2 and result["metrics"]["classify"]["top-1"]["items"] == 2
    (left_out,) = result["unreadable"]
    assert left_out["video"] == str(bad) and str(bad) in left_out["why"] and "\n" not in left_out["why"]
    assert [str(warning.message) for warning in warned] == [f"left out: {left_out['why']}"]
    assert [line.get("unreadable") for line in result["predictions"]] == [None, left_out["why"], None]


@linux
def test_an_image_that_needs_too_much_memory_costs_one_clip(model, pictures, tmp_path):
    """1 x 1,000,000 pixels, to be resized by the shorter side, with 40 MB left. It is read or left out."""
    resource = pytest.importorskip("resource")
    from PIL import Image

    Image.new("RGB", (1, 1_000_000)).save(tmp_path / "strip.png")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, limits[1]))
        result = evaluate(model, labelled([pictures[0], tmp_path / "strip.png"]), num_frames=1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert (
        "unreadable" not in result["predictions"][0] and result["metrics"]["classify"]["top-1"]["items"] >= 1
    )
    assert {left_out["video"] for left_out in result["unreadable"]} <= {str(tmp_path / "strip.png")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_an_unreadable_clip(model, pictures, monkeypatch, error):
    def ended(*_, **__):
        raise error

    monkeypatch.setattr(run, "read_video", ended)
    with pytest.raises(error):
        evaluate(model, labelled(pictures[:2]))


def test_the_exit_status_is_3_if_a_video_is_left_out(tmp_path, capsys):
    write_manifest(tmp_path / "m.jsonl", labelled([CLIPS / "single.gif", tmp_path / "missing.gif"]))
    assert cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--no-cache", "--json"]) == 3
    out, err = capsys.readouterr()
    assert len(json.loads(out)["unreadable"]) == 1 and "missing.gif" in err
    write_manifest(tmp_path / "m.jsonl", labelled([CLIPS / "single.gif"]))
    assert cli.main(["evaluate", str(tmp_path / "m.jsonl"), "--no-cache"]) == 0


# Parts of videos


def test_parts_are_read_as_seconds(tmp_path):
    lines = [
        {"video": "x.mp4", "start": 1.5, "end": "00:01:10.25"},
        {"video": "x.mp4", "start": "2:03"},
        {"video": "x.mp4", "end": 4},
        {"video": "x.mp4", "start": None},
        {"video": "x.mp4", "start": 0},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entries = read_manifest(tmp_path / "m.jsonl")
    assert [(entry.start, entry.end) for entry in entries] == [
        (1.5, 70.25),
        (123, None),
        (None, 4),
        (None, None),
        (0, None),
    ]
    write_manifest(tmp_path / "again.jsonl", entries)
    assert read_manifest(tmp_path / "again.jsonl") == entries
    assert json.loads((tmp_path / "again.jsonl").read_text().split("\n")[0]) == {
        "video": "x.mp4",
        "start": 1.5,
        "end": 70.25,
    }


@pytest.mark.parametrize(
    "part",
    [
        '"start": -1',
        '"start": true',
        '"start": []',
        '"start": {}',
        '"start": "1:2:3:4"',
        '"end": 0',
        '"start": 2, "end": 1',
        '"start": 1e999',
        '"end": "soon"',
        '"end": NaN',
        f'"end": {"9" * 400}',
        f'"end": "{"9" * 400}"',
        f'"end": {"[" * 500 + "]" * 500}',
        '"start": 1e308, "end": 1',
    ],
)
def test_invalid_times_are_errors_that_name_the_line(tmp_path, part):
    (tmp_path / "m.jsonl").write_text('{"video": "x.mp4"}\n{"video": "x.mp4", ' + part + "}\n")
    with pytest.raises(ValueError, match=r"^[^\n]*m.jsonl: line 2: [^\n]*$") as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert len(str(caught.value)) < 400


@posix
def test_two_parts_of_a_video_are_two_clips(model, pictures, monkeypatch, tmp_path):
    """Each part is read, cached and predicted separately."""
    a, b = pictures[:2]
    asked = []

    def read(path, num_frames, start=None, end=None):
        asked.append((start, end))
        return np.full((2, 9, 7, 3), 20 * len(asked), np.uint8)

    monkeypatch.setattr(run, "read_video", read)
    entries = [
        Entry(a, ("a red star",), start=1, end="0:02"),
        Entry(a, ("a blue ring",), start=2),
        Entry(a, ("a star", "one more"), start=1, end=2.0),
        Entry(b, ("a ring",)),
    ]
    (tmp_path / "link.png").symlink_to(a)
    entries.append(Entry(tmp_path / "link.png", ("a pink ring",), start="2"))
    first = evaluate(model, entries, ["retrieve"], cache=tmp_path / "cache")
    assert asked == [(1, 2), (2, None), (None, None)] and first["videos"] == 3
    assert [(line.get("start"), line.get("end")) for line in first["predictions"]] == [
        (1, 2),
        (2, None),
        (1, 2),
        (None, None),
        (2, None),
    ]
    assert evaluate(model, entries, ["retrieve"], cache=tmp_path / "cache") == first and len(asked) == 3


def test_an_unreadable_part_is_reported_with_its_start(model, pictures, monkeypatch):
    def read(path, num_frames, start=None, end=None):
        if start:
            raise ValueError(f"{path}: start is {start}, and the clip lasts 1 s")
        return np.zeros((1, 9, 7, 3), np.uint8)

    monkeypatch.setattr(run, "read_video", read)
    with pytest.warns(UserWarning, match="left out"):
        result = evaluate(
            model, [Entry(pictures[0], (), ("red",)), Entry(pictures[0], (), ("blue",), start=9)]
        )
    assert result["unreadable"] == [
        {
            "video": str(pictures[0]),
            "start": 9.0,
            "why": f"{pictures[0]}: start is 9.0, and the clip lasts 1 s",
        }
    ]


# Arguments


@pytest.mark.parametrize("tasks", [["classify"], ["caption"], ["qa"]], ids=str)
@pytest.mark.parametrize(
    "keywords, error, named",
    [
        ({"beams": 0}, ValueError, "beams is 0"),
        ({"top_p": 2}, ValueError, "top_p is 2"),
        ({"temperature": "hot"}, ValueError, "temperature is 'hot'"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"beam_groups": 4}, ValueError, "beam_groups is 4"),
        ({"beam": 3}, TypeError, "beam"),
    ],
    ids=str,
)
def test_decoding_options_are_checked_before_the_first_video(
    model, pictures, monkeypatch, tasks, keywords, error, named
):
    """For every task, also those that generate nothing."""
    monkeypatch.setattr(run, "read_video", None)
    monkeypatch.setattr(mvc.VideoCoCa, "encode_text", None)
    with pytest.raises(error, match=named):
        evaluate(model, [Entry(pictures[0], ("a",), ("a",), "this is", "a")], tasks, **keywords)


@pytest.mark.parametrize(
    "keywords, named",
    [
        ({"max_length": 5}, "max_length"),
        ({"max_length": 10}, "max_length"),
        ({"prompt": "a " * 9}, "max_length"),
        ({"min_length": 9}, "min_length"),
        ({"end_id": 10**6}, "end_id"),
    ],
    ids=str,
)
def test_options_that_do_not_suit_the_model_are_found_before_the_first_video(
    model, pictures, monkeypatch, keywords, named
):
    """The context is 9 tokens, and min_length is 5 unless given."""
    monkeypatch.setattr(run, "read_video", None)
    with pytest.raises(ValueError, match=named):
        evaluate(model, [Entry(pictures[0], ("a",))], ["caption"], **keywords)


def test_options_may_be_an_instance(model, pictures):
    entries = [Entry(pictures[0], ("a",))]
    options = DecodingOptions(beams=1, max_length=8)
    assert evaluate(model, entries, options=options) == evaluate(model, entries, beams=1, max_length=8)
    assert evaluate(model, entries, options=options, beams=2) == evaluate(
        model, entries, beams=2, max_length=8
    )


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"tasks": "classify"}, "tasks is 'classify'"),
        ({"tasks": [["classify"]]}, "task"),
        ({"tasks": 3}, "tasks is 3"),
        ({"num_frames": 2.5}, "num_frames is 2.5"),
        ({"num_frames": 2.0}, "num_frames is 2.0"),
        ({"num_frames": None}, "num_frames is None"),
        ({"num_frames": "8"}, "num_frames is '8'"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_frames": 10**22}, "num_frames is"),
        ({"adapter": 3}, "adapter is 3"),
        ({"adapter": "factorized"}, "finetune --adapter factorized"),
        ({"adapter": ["mean"]}, "adapter is"),
        ({"templates": "a video of {}"}, "templates is 'a video of {}'"),
        ({"templates": []}, "templates is"),
        ({"templates": [1]}, "templates is"),
        ({"answers": "red"}, "answers is 'red'"),
        ({"answers": []}, "answers is"),
        ({"answers": 3}, "answers is 3"),
        ({"cache": ""}, "cache is ''"),
        ({"cache": 3}, "cache is 3"),
        ({"cache": "a\0b"}, "cache is"),
        ({"cache": __file__}, "test_left_out.py"),
        ({"start": 2.0}, "in the entries"),
        ({"end": 2.0}, "in the entries"),
    ],
)
def test_errors_name_the_invalid_argument(model, pictures, monkeypatch, arguments, named):
    monkeypatch.setattr(run, "read_video", None)  # nothing may be read before
    with pytest.raises(ValueError) as caught:
        evaluate(model, labelled(pictures[:2]), **arguments)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entries, named",
    [
        ("m.jsonl", "read_manifest"),
        (Path("m.jsonl"), "read_manifest"),
        ([{"video": "x"}], "a dict in it"),
        (None, "a NoneType in it"),
        ([None], "a NoneType in it"),
        (3, "an? int in it"),
        ([], "no entry"),
        (Entry("x.mp4"), "no entry"),
    ],
)
def test_entries_of_another_type_are_refused(model, entries, named):
    with pytest.raises(ValueError, match=named):
        evaluate(model, entries)


def test_entries_and_texts_may_come_from_generators(model, pictures, tmp_path):
    want = evaluate(model, labelled(pictures[:2]), ["classify"], templates=["a photo of {}", "{}"])
    assert (
        evaluate(
            model,
            iter(labelled(pictures[:2])),
            ("classify",),
            templates=iter(["a photo of {}", "{}"]),
            cache=tmp_path / "cache",
        )
        == want
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"video": None},
        {"video": ""},
        {"video": "a\0b"},
        {"video": "\ud83d.mp4"},
        {"captions": "a ring"},
        {"captions": None},
        {"captions": (3,)},
        {"captions": (" ",)},
        {"labels": ("",)},
        {"question": "  "},
        {"question": 3},
        {"answer": "a"},
        {"question": "why?", "answer": ""},
        {"start": -1},
        {"start": "x"},
        {"end": float("nan")},
        {"end": 10**400},
        {"start": 2, "end": 2},
    ],
    ids=repr,
)
def test_an_entry_is_checked_when_it_is_made(wrong):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Entry(**{"video": Path("x.mp4")} | wrong)


# Values that are not finite


def test_latents_that_are_not_finite_are_an_error(model, pictures, tmp_path):
    """No NaN in the output, and none in the cache."""
    model.params["visual"]["proj"][:] = np.nan
    with pytest.raises(ValueError, match="finite"):
        evaluate(model, labelled(pictures[:2]), cache=tmp_path / "cache")
    model.params["visual"]["proj"][:] = 1
    model.params["text"]["text_projection"][:] = np.inf
    with pytest.raises(ValueError, match="finite"), np.errstate(all="ignore"):
        evaluate(model, labelled(pictures[:2]), cache=tmp_path / "cache")


def test_metrics_without_items_are_errors():
    for metric in (
        lambda: recall(np.array([], int), 1),
        lambda: average_precision(np.array([0.5, 0.1]), np.array([False, False])),
        lambda: average_precision(np.array([]), np.array([], bool)),
    ):
        with pytest.raises(ValueError):
            metric()


# Memory


def test_retrieval_that_exceeds_memory_is_refused_before_any_encoding(model, pictures, monkeypatch):
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**6)
    monkeypatch.setattr(run, "read_video", None)
    entries = [Entry(f"{i}.mp4", tuple(f"text {i} {j}" for j in range(10))) for i in range(100)]
    with pytest.raises(
        ValueError,
        match="retrieval among 1000 captions and 100 videos needs 2.4 MB .*1.0 MB are available; .*--tasks",
    ):
        evaluate(model, entries, ["retrieve"])


def test_frames_that_exceed_memory_are_refused_once(model, pictures, monkeypatch):
    """2 * 10**9 frames are refused once, and not as an unreadable video each."""
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**10)
    monkeypatch.setattr(run, "read_video", None)
    with pytest.raises(
        ValueError, match="^encoding 2000000000 frames needs .* TB of memory.* frames would fit$"
    ):
        evaluate(model, labelled(pictures[:2]), num_frames=2 * 10**9)


def test_many_captions_of_one_video_are_counted_once_each(model, pictures):
    """In linear time."""
    entry = Entry(pictures[0], tuple(f"text {i}" for i in range(100_000)))
    begin = time.perf_counter()
    entries = [entry, entry, Entry(pictures[0], ("one more", "text 3"))]
    (clip,) = run.collect_clips(entries, [Caption]).values()
    settings = Settings(model, DecodingOptions(), None, None, "words", None)
    assert len(Caption(settings, [clip]).targets[clip]) == 100_001 and time.perf_counter() - begin < 5


def test_a_giant_manifest_is_refused(tmp_path, monkeypatch):
    with open(tmp_path / "m.jsonl", "wb") as file:
        file.truncate(10**12)  # a hole: it takes no room
    with pytest.raises(ValueError, match="m.jsonl: reading this file needs 50 TB of memory"):
        read_manifest(tmp_path / "m.jsonl")


# Files that never end


def run_in_time(*arguments, cwd, **more):
    """Run Python for at most 20 seconds."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(TREE)},
        **more,
    )


IRREGULAR = ("fifo", "/dev/zero")
IN_PLACE_OF = [
    ["{}"],
    ["{}", "--format", "msrvtt", "--videos", "."],
    ["{}", "--format", "kinetics", "--videos", "."],
    ["m.jsonl", "--answers-file", "{}"],
    ["m.jsonl", "--templates-file", "{}"],
]


@pytest.fixture(scope="module")
def irregular(tmp_path_factory):
    """(name, arguments) -> status, output and messages of the command, from one process."""
    folder = tmp_path_factory.mktemp("irregular")
    os.mkfifo(folder / "fifo")
    write_manifest(folder / "m.jsonl", [Entry(CLIPS / "single.gif", ("a",), ("a",), "a", "a")])
    code = """if True:
        import contextlib, io, json, sys
        from minivideococa.cli import main
        for name, arguments in json.loads(sys.argv[1]):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["evaluate", *(x.format(name) for x in arguments), "--no-cache"])
            print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
    """
    cases = [(name, arguments) for name in IRREGULAR for arguments in IN_PLACE_OF]
    process = run_in_time("-c", code, json.dumps(cases), cwd=folder)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return {(name, *arguments): line for (name, arguments), line in zip(cases, lines)}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("name", IRREGULAR)
@pytest.mark.parametrize("arguments", IN_PLACE_OF, ids=" ".join)
def test_only_regular_files_are_read(irregular, name, arguments):
    status, out, err = irregular[(name, *arguments)]
    assert status == 2 and out == "" and err.count("\n") == 1
    assert f"{name}: not a regular file" in err


# A full disk


@pytest.mark.slow
@posix
def test_a_full_disk_does_not_lose_the_metrics(tmp_path):
    """The system limits files to 20 kB: its error comes after the work is done."""
    resource = pytest.importorskip("resource")
    write_manifest(tmp_path / "m.jsonl", labelled([CLIPS / "single.gif", CLIPS / "pair.gif"]) * 100)

    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = "-m minivideococa evaluate m.jsonl --no-cache --json -o out.jsonl"
    ended = run_in_time(*command.split(), cwd=tmp_path, preexec_fn=no_room)
    assert ended.returncode == 2 and json.loads(ended.stdout)["metrics"]["classify"]["top-1"]["items"] == 2
    last = ended.stderr.strip().split("\n")[-1]
    assert "out.jsonl: cannot be written" in last and "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


# Clips of the synthetic world


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    "script, complaint",
    [
        ("cat > /dev/null", "0 of 16 frames"),
        ("exit 0", "0 of 16 frames"),
        (
            'for last; do :; done; cat > /dev/null; case $last in file:*) : > "${last#file:}";; esac',
            "0 of 16 frames",
        ),
        (
            "for last; do :; done; cat > /dev/null; "
            'case $last in file:*) echo garbage > "${last#file:}";; esac',
            "0 of 16 frames",
        ),
        ("while :; do sleep 1; done", "does not end"),
    ],
    ids=range(5),
)
def test_an_ffmpeg_that_writes_nothing_is_an_error(tmp_path, monkeypatch, capsys, script, complaint):
    from minivideococa.world import shapes

    executable = tmp_path / "ffmpeg"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(executable.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(executable))
    monkeypatch.setattr(shapes, "TIMEOUT", -15, raising=False)
    assert cli.main(["shapes", str(tmp_path / "made"), "--count", "2"]) == 2
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.count("\n") == 1
        and f"{tmp_path / 'made' / '0000.mp4'}: cannot be written" in err
        and complaint in err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_an_incomplete_clip_is_an_error(tmp_path, monkeypatch):
    """The real ffmpeg with an option to stop after 5 frames."""
    from minivideococa.world import shapes

    monkeypatch.setattr(shapes, "ENCODING", ["-frames:v", "5", *shapes.ENCODING])
    with pytest.raises(OSError, match="0000.mp4: .*5 of 16 frames"):
        shapes.write_shapes(tmp_path / "made", 1)


def test_a_clip_is_written_over_another(tmp_path):
    from minivideococa.world import shapes

    for frames in 2, 3:
        shapes.write_video(tmp_path / "a.mp4", np.zeros((frames, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("wrong", [{"count": 2.5}, {"seed": None}, {"frames": "16"}, {"frames": 10**12}])
def test_invalid_arguments_of_write_shapes(tmp_path, wrong):
    from minivideococa.world import shapes

    with pytest.raises(ValueError, match="frames" if "frames" in wrong else next(iter(wrong))):
        shapes.write_shapes(tmp_path / "made", **wrong)
    assert not list(tmp_path.iterdir())
