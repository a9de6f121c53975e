"""Manifests: written and read again, and errors that name the line."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from platforms import posix

from minivideococa.evaluation.manifest import Entry, read_manifest, write_manifest

words = st.text(max_size=8).map(str.strip).filter(bool)  # surrogates too
names = st.text("abcé ü7-", min_size=1, max_size=8).filter(str.strip)


@st.composite
def entries(draw, folder: Path = Path("/videos")) -> Entry:
    entry = Entry(
        folder / (draw(names) + ".mp4"),
        tuple(draw(st.lists(words, max_size=3))),
        tuple(draw(st.lists(words, max_size=3))),
    )
    if not (question := draw(st.none() | words)):
        return entry
    answers = tuple(draw(st.lists(words, max_size=3)))
    answer = Counter(answers).most_common(1)[0][0] if answers else draw(st.none() | words)
    choices = tuple(draw(st.lists(words, max_size=3)))
    return replace(
        entry,
        question=question,
        answer=answer,
        answers=answers,
        choices=(*choices, answer) if answer and choices else choices,
        question_type=draw(st.none() | words),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries(), min_size=1, max_size=4))
def test_write_and_read_round_trip(tmp_path: Path, some: list[Entry]) -> None:
    write_manifest(tmp_path / "m.jsonl", some)
    assert read_manifest(tmp_path / "m.jsonl") == some


def test_a_manifest_moves_with_its_videos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    elsewhere = tmp_path / "elsewhere.mp4"
    write_manifest(tmp_path / "a" / "m.jsonl", [Entry(tmp_path / "a" / "clips" / "1.mp4"), Entry(elsewhere)])
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_manifest(tmp_path / "b" / "m.jsonl") == [
        Entry(tmp_path / "b" / "clips" / "1.mp4"),
        Entry(elsewhere),
    ]


def test_formats_that_people_write(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"video": "x.mp4", "captions": ["one", "two"], "label": "sing", "url": 7}\n\n'
        '  {"video": "/y.mp4", "labels": ["a", "b"], "question": "why?", "answer": "so"}',
        "utf-8",
    )
    assert read_manifest(manifest) == [
        Entry(tmp_path / "x.mp4", ("one", "two"), ("sing",)),
        Entry(Path("/y.mp4"), (), ("a", "b"), "why?", "so"),
    ]


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not a JSON object.*--format"),
        ('{"label": "a"}', '"video" is missing'),
        ('{"video": 3}', '"video" is 3'),
        ('{"video": ""}', "\"video\" is ''"),
        ('{"video": "x", "captions": "a"}', "\"captions\" is 'a': give a list"),
        ('{"video": "x", "labels": [1]}', '"labels" is \\[1\\]'),
        ('{"video": "x", "label": "a", "labels": ["b"]}', 'both "label" and "labels"'),
        ('{"video": "x", "answer": "a"}', 'needs its "question"'),
        ('{"video": "x", "answers": ["a"]}', '"answer" needs its "question"'),
        ('{"video": "x", "choices": ["a"]}', '"choices" needs its "question"'),
        ('{"video": "x", "question_type": "a"}', '"question_type" needs its "question"'),
        ('{"video": "x", "question": "q", "answer": "a", "answers": ["b"]}', 'both "answer" and "answers"'),
        ('{"video": "x", "question": "q", "answer": "a", "choices": ["b"]}', "answer 'a' is not among the"),
        ('{"video": "x", "question": "q", "answers": "a"}', "\"answers\" is 'a': give a list"),
        ('{"video": "x", "caption": "a"}', 'says "captions"'),
        ('{"video": "a\\u0000b"}', '"video" is'),
        ('{"video": "a\\ud83d.mp4"}', '"video" is'),
        ('{"video": "x", "start": "soon"}', "\"start\" is 'soon'"),
        ('{"video": "x", "start": 3, "end": 3}', '"end" is 3 and "start" 3'),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: str, complaint: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"video": "x.mp4"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"m.jsonl: line 2: .*{complaint}"):
        read_manifest(manifest)


def test_white_space_around_labels_is_ignored(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '\ufeff{"video": "x", "label": "a ring "}\r\n{"video": "y", "labels": ["\\ta ring", "b"]}', "utf-8"
    )
    assert [entry.labels for entry in read_manifest(manifest)] == [("a ring",), ("a ring", "b")]


def test_an_entry_refuses_a_string_for_a_list() -> None:
    for wrong in ({"captions": "a ring"}, {"labels": "ring"}):
        with pytest.raises(ValueError, match="give a list of texts"):
            Entry(Path("x.mp4"), **wrong)
    with pytest.raises(ValueError, match="needs its"):
        Entry(Path("x.mp4"), answer="a")


@posix
def test_videos_are_named_from_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_manifest(
        tmp_path / "link" / "m.jsonl",
        [Entry(tmp_path / "link" / "1.mp4"), Entry(tmp_path / "real" / "2.mp4")],
    )
    lines = (tmp_path / "real" / "m.jsonl").read_text().strip().split("\n")
    assert [json.loads(line)["video"] for line in lines] == ["1.mp4", "2.mp4"]


def test_a_manifest_replaces_no_video_and_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "1.mp4").write_text("video")
    with pytest.raises(ValueError, match="would overwrite an input"):
        write_manifest(tmp_path / "1.mp4", [Entry(tmp_path / "1.mp4")])
    with pytest.raises(ValueError, match="no entry"):
        write_manifest(tmp_path / "m.jsonl", [])
    assert [path.name for path in tmp_path.iterdir()] == ["1.mp4"]


def test_files_that_are_not_manifests(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(IsADirectoryError, match="a folder"):
        read_manifest(tmp_path)
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="m.jsonl: "):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no entry"):
        read_manifest(tmp_path / "m.jsonl")
