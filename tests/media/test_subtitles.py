"""Captions as files. The oracle is ffmpeg, which reads SRT and WebVTT."""

import json
import subprocess

import pytest
from clips import ffmpeg
from imageio_ffmpeg import get_ffmpeg_exe

from minivideococa.media.subtitles import ENDINGS, caption_file, line

CAPTIONS = [
    (0.0, 10.0, "a red ring"),
    (10.0, 20.0005, "salt & pepper --> <b>1 < 2</b>"),
    (20.0005, 3599.9996, "two\n\nlines\tand “quotes”"),
    (3600.0, 360000.25, "after an hour"),
]


def written(folder, ending):
    path = folder / f"captions{ending}"
    with caption_file(path) as write:
        for caption in CAPTIONS:
            write(*caption)
        assert not path.exists()
    return path


def read_back(path):
    """(time in ms, duration in ms, text) of each entry, as ffmpeg understands a file of subtitles."""
    probe = subprocess.run([get_ffmpeg_exe(), "-i", path], stderr=subprocess.PIPE, text=True).stderr
    assert f"Input #0, {'webvtt' if path.suffix == '.vtt' else 'srt'}" in probe
    packets = ffmpeg("-i", path, "-map", "0", "-c", "copy", "-f", "framecrc", "-").decode().splitlines()
    times = [[int(x) for x in packet.split(",")[2:4]] for packet in packets if packet[0] != "#"]
    plain = ffmpeg("-i", path, "-f", "ass", "-").decode("utf-8-sig")  # decoded: entities, tags
    texts = [row.split(",", 9)[9] for row in plain.splitlines() if row.startswith("Dialogue:")]
    return [(*time, text) for time, text in zip(times, texts, strict=True)]


@pytest.mark.parametrize("ending", [".srt", ".vtt"])
def test_subtitles_are_read_back(tmp_path, ending):
    found = read_back(written(tmp_path, ending))
    times = [(0, 10_000), (10_000, 10_000), (20_000, 3_580_000), (3_600_000, 356_400_250)]
    assert [row[:2] for row in found] == times
    texts = [row[2] for row in found]
    assert texts[0] == "a red ring" and texts[2] == "two lines and “quotes”" and texts[3] == "after an hour"
    if ending == ".vtt":
        assert texts[1] == "salt & pepper --> <b>1 < 2</b>"


def test_vtt_escapes_what_it_must(tmp_path):
    text = written(tmp_path, ".vtt").read_text("utf-8")
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:10.000\na red ring\n\n")
    assert "salt &amp; pepper --&gt; &lt;b&gt;1 &lt; 2&lt;/b&gt;\n" in text
    assert text.count("-->") == len(CAPTIONS)


def test_json_and_text(tmp_path):
    data = json.loads(written(tmp_path, ".json").read_text("utf-8"))
    assert [(row["start"], row["end"], row["caption"]) for row in data] == CAPTIONS
    rows = written(tmp_path, ".txt").read_text("utf-8").splitlines()
    assert len(rows) == 4 and rows[0] == "[00:00.000 --> 00:10.000]  a red ring"


def test_lines_are_those_of_whisper():
    assert line(59.9996, 3599.9, "a") == "[01:00.000 --> 59:59.900]  a"
    assert line(3599.9, 3600, "a") == "[59:59.900 --> 01:00:00.000]  a"


def test_no_captions_are_valid_too(tmp_path):
    for ending in ENDINGS:
        with caption_file(tmp_path / f"empty{ending}"):
            pass
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    assert (tmp_path / "empty.vtt").read_text().startswith("WEBVTT\n")


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), caption_file(tmp_path / "a.srt") as write:
        write(0, 1, "a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
