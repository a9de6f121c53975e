"""Written clips: format and pixels of the files, and the truth of their entries."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from platforms import posix

import minivideococa as mvc
from minivideococa import cli, world
from minivideococa.evaluation.manifest import read_manifest
from minivideococa.world import shapes

COUNT, SEED = 12, 7  # of the clips in `written`


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def blocks(frames: np.ndarray) -> np.ndarray:
    """Average blocks of 4 x 4 pixels: [T, 4H, 4W, 3] -> [T, H, W, 3]."""
    t, height, width, _ = frames.shape
    return frames.reshape(t, height // 4, 4, width // 4, 4, 3).mean(axis=(2, 4))


def test_files_and_paths_in_the_manifest(written):
    names = [f"{i:04}.mp4" for i in range(COUNT)]
    assert sorted(contents(written)) == [*names, "answers.txt", "manifest.jsonl"]
    assert [entry.video for entry in read_manifest(written / "manifest.jsonl")] == [
        written / name for name in names
    ]
    assert {path.name for path in written.parent.iterdir()} == {"shapes"}


def test_files_are_h264_yuv420p_bt709(written):
    told = subprocess.run(
        [get_ffmpeg_exe(), "-i", written / "0000.mp4"], capture_output=True, text=True
    ).stderr
    assert (
        re.search(r"Video: h264 .*yuv420p\(tv, bt709.* 256x256.* 8 fps", told)
        and "Duration: 00:00:02.00" in told
    )


@pytest.mark.slow
def test_a_seed_determines_every_byte(written, tmp_path):
    """Every byte is the same; more clips begin with the same files."""
    shapes.write_shapes(tmp_path / "fewer", 3, SEED)
    fewer, more = contents(tmp_path / "fewer"), contents(written)
    lines = fewer.pop("manifest.jsonl")
    assert more["manifest.jsonl"].startswith(lines) and lines.count(b"\n") == 3
    assert fewer.items() <= more.items()
    assert fewer["answers.txt"].decode().split("\n") == [*world.SHAPES, ""]
    shapes.write_shapes(tmp_path / "others", 3, SEED + 1)
    others = contents(tmp_path / "others")
    assert others.pop("answers.txt") == more.pop("answers.txt")
    assert not set(others.values()) & set(more.values())


@pytest.mark.slow
def test_the_drawn_pixels_are_read_back(written):
    """Each block of 4 x 4 has the colour of its pixel, up to 8-bit luma and chroma and compression."""
    model, kinds = mvc.load(), list(world.CLIP_SETS)
    for i in range(COUNT):
        drawn = world.draw_clip(world.sample_clip(kinds[i % 6], np.random.default_rng([SEED, i]), 16))
        frames = mvc.read_video(written / f"{i:04}.mp4", 16)
        away = np.abs(blocks(frames) - drawn)
        assert away.max() <= 16 and away.mean() <= 2.5
        pixels = np.abs(model.preprocess(frames) - model.preprocess(drawn))  # in units of 68 of 255 levels
        assert pixels.mean() <= 0.12  # a grainy background has most


def test_pure_colours_stay(tmp_path):
    """BT.601 read as BT.709, or one range as another, would be off by more than 15."""
    colours = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    frames = np.repeat(colours.reshape(1, 2, 4, 3), 3, axis=0).repeat(16, axis=1).repeat(8, axis=2)
    shapes.write_video(tmp_path / "a.mp4", frames)
    np.testing.assert_allclose(blocks(mvc.read_video(tmp_path / "a.mp4", 3)), frames, atol=8)


@pytest.mark.slow
def test_the_checkpoint_classifies_and_answers_on_written_clips(written):
    model, entries = mvc.load(), read_manifest(written / "manifest.jsonl")
    single = [entry for entry in entries if entry.labels]
    assert len(single) >= 4
    right = [mvc.classify(model, entry.video, world.LABELS)[0][0] == entry.labels[0] for entry in single]
    right += [
        mvc.answer(model, entry.video, entry.question, (written / "answers.txt").read_text().split())
        == entry.answer
        for entry in entries[:6]
    ]
    assert np.mean(right) >= 0.9


def test_entries_are_true_of_their_clips(written):
    for i, entry in enumerate(read_manifest(written / "manifest.jsonl")):
        kind = list(world.CLIP_SETS)[i % 6]
        clip = world.sample_clip(kind, np.random.default_rng([SEED, i]), 16)
        assert 2 <= len(set(entry.captions)) == len(entry.captions) <= 5
        assert all(world.objects_named(text) == clip.names for text in entry.captions)
        assert entry.labels == ((entry.captions[0],) if len(clip.names) == 1 else ())
        assert set(entry.labels) <= set(world.LABELS)
        assert world.objects_named(f"{entry.question} {entry.answer}") <= clip.names
    assert "grow" in world.CLIP_SETS and len(world.CLIP_SETS) == 6


@posix
def test_folder_and_manifest_can_be_moved(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "empty").mkdir()
    shapes.write_shapes(tmp_path / "link" / "empty", 1)
    (tmp_path / "real").rename(tmp_path / "moved")
    (entry,) = read_manifest(tmp_path / "moved" / "empty" / "manifest.jsonl")
    assert entry.video == tmp_path / "moved" / "empty" / "0000.mp4" and entry.video.is_file()


def test_existing_files_are_not_changed(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for place in (tmp_path / "full", tmp_path / "full" / "mine", tmp_path / "full" / "mine" / "below"):
        assert cli.main(["shapes", str(place), "--count", "1"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and str(tmp_path / "full") in err
    assert contents(tmp_path / "full") == {"mine": b"mine"}


def test_an_interrupt_leaves_no_files(tmp_path, monkeypatch, capsys):
    write, calls = shapes.write_video, []

    def interrupted(path, frames):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(path, frames)

    monkeypatch.setattr(shapes, "write_video", interrupted)
    assert cli.main(["shapes", str(tmp_path / "made"), "--count", "4"]) == 130
    assert len(calls) == 3 and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_ffmpeg_runs(tmp_path):
    """The signal reaches both processes, as in a terminal."""
    code = (
        # a background job ignores SIGINT
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from minivideococa.cli import main; sys.exit(main(['shapes', 'above/made', '--count', '999']))"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("above/.*/0001.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(writer.pid, signal.SIGINT)
    assert writer.communicate(timeout=20)[1] == b"" and writer.returncode == 130
    assert not list((tmp_path / "above").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_an_ffmpeg_that_fails(tmp_path, monkeypatch, capsys):
    executable = tmp_path / "ffmpeg"
    executable.write_text("#!/bin/sh\necho Unknown encoder >&2\necho more >&2\nexit 1\n")
    executable.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(executable))
    assert cli.main(["shapes", str(tmp_path / "made")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "0000.mp4: cannot be written: Unknown encoder" in err
    assert list(tmp_path.iterdir()) == [executable]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"frames": 1}])
def test_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} (is )?{next(iter(wrong.values()))}.*give"):
        shapes.write_shapes(tmp_path / "made", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    assert cli.main(["shapes", str(tmp_path / "a"), "--count", "2", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and str(tmp_path / "a" / "manifest.jsonl") in err and err.count("\n") == 1
    assert cli.main(["shapes", str(tmp_path / "b"), "--count", "2", "--seed", "7", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and json.loads(out) == {"manifest": str(tmp_path / "b" / "manifest.jsonl"), "clips": 2}
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_importing_the_world_does_not_import_evaluation():
    code = "import sys, minivideococa.world; print([name for name in sys.modules if 'evaluation' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
