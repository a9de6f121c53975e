"""Manifests: what is written is read again, and what is wrong is said with its line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minivideococa.evaluation.manifest import Entry, read_manifest, write_manifest

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
names = st.text("abcé ü7-", min_size=1, max_size=8).filter(str.strip)


@st.composite
def entries(draw, folder: Path = Path("/videos")) -> Entry:
    question = draw(st.none() | words)
    return Entry(folder / (draw(names) + ".mp4"), tuple(draw(st.lists(words, max_size=3))),
                 tuple(draw(st.lists(words, max_size=3))), question, draw(st.none() | words) if question else None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries(), min_size=1, max_size=4))
def test_what_is_written_is_read_again(tmp_path: Path, some: list[Entry]) -> None:
    write_manifest(tmp_path / "m.jsonl", some)
    assert read_manifest(tmp_path / "m.jsonl") == some


def test_a_manifest_moves_with_its_videos(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    elsewhere = tmp_path / "elsewhere.mp4"
    write_manifest(tmp_path / "a" / "m.jsonl", [Entry(tmp_path / "a" / "clips" / "1.mp4"), Entry(elsewhere)])
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_manifest(tmp_path / "b" / "m.jsonl") == [Entry(tmp_path / "b" / "clips" / "1.mp4"), Entry(elsewhere)]


def test_what_people_write(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"video": "x.mp4", "captions": ["one", "two"], "label": "sing", "url": 7}\n\n'
                        '  {"video": "/y.mp4", "labels": ["a", "b"], "question": "why?", "answer": "so"}', "utf-8")
    assert read_manifest(manifest) == [
        Entry(tmp_path / "x.mp4", ("one", "two"), ("sing",)), Entry(Path("/y.mp4"), (), ("a", "b"), "why?", "so")]


@pytest.mark.parametrize("line, complaint", [
    ("{", "Expecting"), ("[1]", "not a JSON object"), ('{"label": "a"}', '"video" is missing'),
    ('{"video": 3}', '"video" is 3'), ('{"video": ""}', '"video" is \'\''),
    ('{"video": "x", "captions": "a"}', '"captions" is \'a\': give a list'),
    ('{"video": "x", "labels": [1]}', '"labels" is \\[1\\]'),
    ('{"video": "x", "label": "a", "labels": ["b"]}', 'both "label" and "labels"'),
    ('{"video": "x", "answer": "a"}', 'needs its "question"'),
])
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"video": "x.mp4"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=f"m.jsonl: line 2: .*{complaint}"):
        read_manifest(manifest)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="m.jsonl: "):
        read_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no entry"):
        read_manifest(tmp_path / "m.jsonl")
