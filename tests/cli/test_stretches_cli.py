"""`caption --every`: a caption for each stretch of a video, with its time stamps."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from clips import H264, ffmpeg, make
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

import minivideococa as mvc
from minivideococa import cli, tasks
from minivideococa.media.stretches import read_stretches
from minivideococa.model.generation import DecodingOptions

CLIPS = Path(mvc.__file__).parent / "data" / "demo"
PAIR = str(CLIPS / "pair.gif")
QUICK = ["--frames", "2", "--beams", "1"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds."""
    return str(make(tmp_path_factory.mktemp("film") / "film.mp4", *H264, source="testsrc2=s=64x48:r=25:d=6"))


@pytest.fixture
def run(capsys):
    def run(*arguments):
        try:
            status = cli.main(["caption", *map(str, arguments), *QUICK])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_each_stretch_has_the_caption_of_its_part(run, film):
    status, out, _ = run(film, "--every", "2s")
    parts = [(0, 2), (2, 4), (4, 6)]
    captions = []
    for start, end in parts:
        status, caption, _ = run(film, "--start", start, "--end", end, "--quiet")
        captions.append(caption.splitlines()[0])
    assert status == 0 and len(set(captions)) > 1
    clocks = [f"[00:0{start}.000 --> 00:0{end}.000]" for start, end in parts]
    assert out.splitlines() == [
        f"{clock}  {caption}" for clock, caption in zip(clocks, captions, strict=True)
    ]
    found = list(mvc.caption_stretches(mvc.load(), film, 2.0, num_frames=2, beams=1))
    assert found == [(*part, caption) for part, caption in zip(parts, captions, strict=True)]


def test_json(run, film):
    status, out, _ = run(film, "--every", "00:00:04", "--json")
    rows = [json.loads(row) for row in out.splitlines()]
    assert status == 0 and [(row["start"], row["end"]) for row in rows] == [(0, 4), (4, 6)]
    assert set(rows[0]) == {"video", "start", "end", "caption", "in_world"} and rows[0]["video"] == film


@pytest.mark.slow
def test_a_part_and_a_gif(run, film):
    status, out, _ = run(film, "--every", "1", "--start", "1.5", "--end", "3", "--json")
    assert [(row["start"], row["end"]) for row in map(json.loads, out.splitlines())] == [(1.5, 2.5), (2.5, 3)]
    status, out, _ = run(PAIR, "--every", "0.5", "--json")
    rows = [json.loads(row) for row in out.splitlines()]
    with Image.open(PAIR) as image:
        durations = [image.seek(i) or image.info["duration"] for i in range(image.n_frames)]
    assert status == 0 and len(rows) > 1 and rows[-1]["end"] == sum(durations) / 1000


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".srt", ".VTT", ".json", ".txt"])
def test_files(run, film, tmp_path, ending):
    path = tmp_path / f"captions{ending}"
    path.write_text("old")
    status, out, err = run(film, "--every", "4", "-o", path)
    assert status == 0 and f"wrote {path}" in err and [p.name for p in tmp_path.iterdir()] == [path.name]
    captions = [row.split("]  ")[1] for row in out.splitlines()]
    text = path.read_text("utf-8")
    if ending == ".json":
        assert [row["caption"] for row in json.loads(text)] == captions
    elif ending == ".txt":
        assert text == out
    else:
        assert ffmpeg("-i", path, "-f", "srt", "-").decode().split("\n")[2::4] == captions


@pytest.mark.slow
def test_several_videos(run, film, tmp_path):
    cut = tmp_path / "not a video.mp4"
    cut.write_text("text")
    status, out, err = run(cut, film, PAIR, "--every", "4")
    rows = out.splitlines()
    assert status == 3 and len(rows) == 2 + 1 and f"left out: {cut}: " in err
    assert [row.split(": [")[0] for row in rows] == [film, film, PAIR]
    status, out, _ = run(cut, film, "--every", "4", "--json")
    assert json.loads(out.splitlines()[0]).keys() == {"video", "left_out"}
    status, out, err = run(cut, "--every", "4", "-o", tmp_path / "a.srt")
    assert (status, out) == (2, "") and err.count("\n") == 1 and not (tmp_path / "a.srt").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-o", "a.srt"], "-o needs --every TIME"),
        (["--every", "5", "-o", "a.sub"], "-o a.sub: end the name with .srt, .vtt, .json or .txt"),
        (["--every", "0.01"], "--every 0.01 is too short: give at least 0.1 s"),
        (["--every", "0"], "--every 0 is too short"),
        (["--every", "soon"], "argument --every: "),
        (["--every", "5", "--candidates", "3"], "--candidates and --every exclude each other"),
        (["--every", "5", "--start", "9"], "start is 9, and the clip lasts 6 s"),
        (["--every", "5", "-o", "nowhere/a.srt"], "there is no folder"),
        (["--every", "5", PAIR, "-o", "a.srt"], "2 videos for one file; give one VIDEO, or leave out -o"),
    ],
)
def test_bad_requests_are_refused_in_one_line(run, film, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(film, *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_has_no_time_is_refused(run, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for path in (tmp_path, tmp_path / "a.png"):
        status, out, err = run(path, "--every", "5")
        assert (status, out) == (2, "") and "has no time; give a video" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_film_that_is_cut_short(run, film, tmp_path):
    whole, path = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    ffmpeg("-i", film, "-c", "copy", "-movflags", "faststart", whole)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    status, out, err = run(path, "--every", "1")
    assert status == 0 and 1 <= len(out.splitlines()) < 5
    assert f"{path}: the file is incomplete or damaged, its pictures end at " in err


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_an_ffmpeg_that_dies_leaves_what_was_captioned(run, film, tmp_path, monkeypatch):
    script, real = tmp_path / "ffmpeg", get_ffmpeg_exe()
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *image2pipe*) "{real}" "$@" | head -c 70000; kill -9 $$;; '
        f'*) exec "{real}" "$@";; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    status, out, err = run(film, "--every", "1", "-o", tmp_path / "a.srt")
    rows = out.splitlines()
    assert status == 3 and 1 <= len(rows) < 6
    assert f"left out: {film}: signal 9 ended ffmpeg" in err and f"(captioned to {len(rows)}.000 s)" in err
    assert (tmp_path / "a.srt").read_text().count("-->") == len(rows)


def test_captions_come_one_by_one_and_then_together(monkeypatch, film):
    """The first caption waits for one stretch alone; no more than 16 are decoded together."""
    model, read, sizes = mvc.load(), [], []
    monkeypatch.setattr(
        tasks,
        "caption_batch",
        lambda model, videos, options: sizes.append(len(videos)) or ["a"] * len(videos),
    )
    encoded = ((i, i + 1, read.append(i)) for i in range(50))
    captions = tasks.caption_encoded(model, encoded, DecodingOptions())
    assert next(captions) == (0, 1, None, "a") and read == [0]
    assert len(list(captions)) == 49 and sizes == [1, 2, 4, 8, 16, 16, 3]


def test_the_captions_before_a_failure_come_first(monkeypatch):
    def encoded():
        yield from ((i, i + 1, None) for i in range(5))
        raise ValueError("damaged")

    monkeypatch.setattr(tasks, "caption_batch", lambda model, videos, options: ["a"] * len(videos))
    captions = tasks.caption_encoded(mvc.load(), encoded(), DecodingOptions())
    assert [start for start, *_ in islice(captions, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="damaged"):
        next(captions)


def test_progress_counts_seconds_of_the_video(film):
    from contextlib import contextmanager

    stages, counts = [], []

    @contextmanager
    def progress(total, unit):
        stages.append((total, unit))
        yield counts.append

    list(read_stretches(film, 2.2, 1, start=0.7, progress=progress))
    assert stages == [(5, "seconds of video")] and sum(counts) == 5 and np.all(np.array(counts) > 0)
