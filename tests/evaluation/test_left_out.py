"""One clip that cannot be read, whatever the reason, is one clip left out: the others keep their results."""

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


# What reading a clip can raise


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


def test_a_picture_that_unfolds_costs_no_other_its_result(model, pictures, tmp_path):
    """A real one: 1 x 1,000,000 pixels, with its shorter side enlarged, where 40 MB are left. It is read or left out."""
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
def test_an_interrupt_is_no_unreadable_clip(model, pictures, monkeypatch, error):
    def ended(*_, **__):
        raise error

    monkeypatch.setattr(run, "read_video", ended)
    with pytest.raises(error):
        evaluate(model, labelled(pictures[:2]))


def test_the_status_says_that_something_was_left_out(tmp_path, capsys):
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
def test_times_that_make_no_sense_are_named_with_their_line(tmp_path, part):
    (tmp_path / "m.jsonl").write_text('{"video": "x.mp4"}\n{"video": "x.mp4", %s}\n' % part)
    with pytest.raises(ValueError, match=r"^[^\n]*m.jsonl: line 2: [^\n]*$") as caught:
        read_manifest(tmp_path / "m.jsonl")
    assert len(str(caught.value)) < 400


def test_two_parts_of_a_video_are_two_clips(model, pictures, monkeypatch, tmp_path):
    """Each is read with its own part, cached apart, and has its own prediction."""
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


def test_a_part_that_cannot_be_read_is_named(model, pictures, monkeypatch):
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
    """Whatever the tasks are, and though a cache could answer."""
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
        ({"adapter": None}, "adapter is None"),
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
def test_an_argument_that_makes_no_sense_is_named(model, pictures, monkeypatch, arguments, named):
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
def test_entries_that_are_none_are_named(model, entries, named):
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


# Nothing that is not finite


def test_latents_that_are_not_finite_end_the_run(model, pictures, tmp_path):
    """No NaN in the output, and none in the cache."""
    model.params["visual"]["proj"][:] = np.nan
    with pytest.raises(ValueError, match="finite"):
        evaluate(model, labelled(pictures[:2]), cache=tmp_path / "cache")
    model.params["visual"]["proj"][:] = 1
    model.params["text"]["text_projection"][:] = np.inf
    with pytest.raises(ValueError, match="finite"), np.errstate(all="ignore"):
        evaluate(model, labelled(pictures[:2]), cache=tmp_path / "cache")


def test_metrics_of_nothing_are_refused():
    for metric in (
        lambda: recall(np.array([], int), 1),
        lambda: average_precision(np.array([0.5, 0.1]), np.array([False, False])),
        lambda: average_precision(np.array([]), np.array([], bool)),
    ):
        with pytest.raises(ValueError):
            metric()


# Memory


def test_retrieval_that_does_not_fit_is_refused_before_the_work(model, pictures, monkeypatch):
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**6)
    monkeypatch.setattr(run, "read_video", None)
    entries = [Entry(f"{i}.mp4", tuple(f"text {i} {j}" for j in range(10))) for i in range(100)]
    with pytest.raises(
        ValueError,
        match="retrieval among 1000 captions and 100 videos needs 2.4 MB .*1.0 MB are available; .*--tasks",
    ):
        evaluate(model, entries, ["retrieve"])


def test_frames_that_do_not_fit_are_refused_once(model, pictures, monkeypatch):
    """2 * 10**9 frames; not once for each video, as if it could not be read."""
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**10)
    monkeypatch.setattr(run, "read_video", None)
    with pytest.raises(
        ValueError, match="^encoding 2000000000 frames needs .* TB of memory.* frames would fit$"
    ):
        evaluate(model, labelled(pictures[:2]), num_frames=2 * 10**9)


def test_many_captions_of_one_video_are_counted_once_each(model, pictures):
    """In time that grows with their number."""
    entry = Entry(pictures[0], tuple(f"text {i}" for i in range(100_000)))
    begin = time.perf_counter()
    entries = [entry, entry, Entry(pictures[0], ("one more", "text 3"))]
    (clip,) = run.collect_clips(entries, [Caption]).values()
    settings = Settings(model, DecodingOptions(), None, None, "words", None)
    assert len(Caption(settings, [clip]).targets[clip]) == 100_001 and time.perf_counter() - begin < 5


def test_a_giant_manifest_is_refused(tmp_path, monkeypatch):
    with open(tmp_path / "m.jsonl", "wb") as file:
        file.truncate(10**12)  # a hole: it takes no room
    with pytest.raises(ValueError, match="m.jsonl: reading this file needs 4.0 TB of memory"):
        read_manifest(tmp_path / "m.jsonl")


# What never ends


def in_time(*arguments, cwd, **more):
    return subprocess.run(
        [sys.executable, "-m", "minivideococa", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(TREE)},
        **more,
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
@pytest.mark.parametrize("what", ["fifo", "/dev/zero"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["{}"],
        ["{}", "--format", "msrvtt", "--videos", "."],
        ["{}", "--format", "kinetics", "--videos", "."],
        ["m.jsonl", "--answers-file", "{}"],
        ["m.jsonl", "--templates-file", "{}"],
    ],
    ids=" ".join,
)
def test_only_regular_files_are_read(tmp_path, what, arguments):
    os.mkfifo(tmp_path / "fifo")
    write_manifest(tmp_path / "m.jsonl", [Entry(CLIPS / "single.gif", ("a",), ("a",), "a", "a")])
    ended = in_time(
        "evaluate", *(argument.format(what) for argument in arguments), "--no-cache", cwd=tmp_path
    )
    assert ended.returncode == 2 and ended.stdout == "" and ended.stderr.count("\n") == 1
    assert f"{what}: not a regular file" in ended.stderr


# A full disk


def test_a_full_disk_takes_no_results_along(tmp_path):
    """No file may grow beyond 20 kB: the system's own error, after the work is done."""
    resource = pytest.importorskip("resource")
    write_manifest(tmp_path / "m.jsonl", labelled([CLIPS / "single.gif", CLIPS / "pair.gif"]) * 100)

    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    ended = in_time(
        "evaluate", "m.jsonl", "--no-cache", "--json", "-o", "out.jsonl", cwd=tmp_path, preexec_fn=no_room
    )
    assert ended.returncode == 2 and json.loads(ended.stdout)["metrics"]["classify"]["top-1"]["items"] == 2
    last = ended.stderr.strip().split("\n")[-1]
    assert "out.jsonl: cannot be written" in last and "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


# Clips of the world


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
            'for last; do :; done; cat > /dev/null; case $last in file:*) echo garbage > "${last#file:}";; esac',
            "0 of 16 frames",
        ),
        ("while :; do sleep 1; done", "does not end"),
    ],
    ids=range(5),
)
def test_an_ffmpeg_that_writes_nothing_is_found_out(tmp_path, monkeypatch, capsys, script, complaint):
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


def test_half_a_clip_is_found_out(tmp_path, monkeypatch):
    """The real ffmpeg, told to stop after 5 frames."""
    from minivideococa.world import shapes

    monkeypatch.setattr(shapes, "ENCODING", ["-frames:v", "5", *shapes.ENCODING])
    with pytest.raises(OSError, match="0000.mp4: .*5 of 16 frames"):
        shapes.write_shapes(tmp_path / "made", 1)


def test_a_clip_is_written_over_another(tmp_path):
    from minivideococa.world import shapes

    for frames in 2, 3:
        shapes.write_video(tmp_path / "a.mp4", np.zeros((frames, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("wrong", [{"count": 2.5}, {"seed": None}, {"frames": "16"}, {"frames": 10**12}])
def test_what_shapes_refuses(tmp_path, wrong):
    from minivideococa.world import shapes

    with pytest.raises(ValueError, match="frames" if "frames" in wrong else next(iter(wrong))):
        shapes.write_shapes(tmp_path / "made", **wrong)
    assert not list(tmp_path.iterdir())
