"""No input makes a reader run code, open other files, use the network, fail otherwise or fill the memory."""

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from clips import make
from found import FOUND, nested
from guard import Forbidden, guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from imageio_ffmpeg import get_ffmpeg_exe
from mutate import any_bytes, several
from PIL import Image
from platforms import linux, posix
from properties import examples
from targets import CONFIG, TARGETS, check, check_command, warm_up

from minivideococa import resources
from minivideococa.checkpoint.unpickler import read_pickle
from minivideococa.evaluation import read_annotations, read_manifest
from minivideococa.evaluation.annotations import ENTRY_BYTES
from minivideococa.inputs import JSON_GROWTH, read_json
from minivideococa.media.video import read_video

pytestmark = posix  # Windows has other audit events
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = sorted(path for path in (HERE / "cases").glob("*/*"))
PICKLE_GROWTH = 80  # bytes of memory for a byte of a pickle
every_target = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("trace", "tuned") else ()) for name in TARGETS],
)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A function that returns a target and an empty folder; the modules that it needs are loaded once."""
    folders: dict[str, Path] = {}

    def prepare(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            warm_up(TARGETS[name], folders[name])
        return TARGETS[name], folders[name]

    return prepare


def damaged(name: str, seed: int) -> bytes:
    """A valid file with a few changes."""
    random = Random(seed)
    return several(TARGETS[name].mutate, random.choice(TARGETS[name].seeds()), random)


# Inputs


@every_target
def test_valid_files_are_accepted(name, place):
    target, folder = place(name)
    assert None in [check(target, seed, folder) for seed in target.seeds()]


@every_target
@settings(max_examples=examples(150), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damaged_files(name, place, seed):
    target, folder = place(name)
    check(target, damaged(name, seed), folder)


@every_target
@settings(max_examples=examples(50), deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(name, place, data):
    target, folder = place(name)
    check(target, data, folder)


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found(what, place):
    name, data, words = FOUND[what]
    target, folder = place(name)
    assert re.search(words, check(target, data, folder) or "accepted")


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_atheris_found(path, place):
    target, folder = place(path.parent.name)
    check(target, path.read_bytes(), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.command])
def test_commands(name, place):
    """One line on standard error, no traceback and no file for what a command refuses."""
    target, folder = place(name)
    statuses = {check_command(target, seed, folder) for seed in target.seeds()}
    found = [data for which, data, _ in FOUND.values() if which == name and len(data) < 10**6]
    for data in (b"", *found, *(damaged(name, seed) for seed in range(examples(40)))):
        statuses.add(check_command(target, data, folder))
    assert 2 in statuses and statuses <= {0, 1, 2, 3}


# Memory


def peak(read, path: Path) -> int:
    """The most memory that a reader takes, in bytes, when it is called a second time."""
    read(path)
    tracemalloc.start()
    try:
        read(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["[" + "{}," * 2000 + "{}]", "[" + "[]," * 2000 + "[]]", "[" + '{"a":1},' * 2000 + "0]"]
)
def test_json_grows_less_than_is_assumed(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    assert peak(lambda path: read_json(path, ""), tmp_path / "a.json") < JSON_GROWTH * len(text)


@pytest.mark.slow
def test_memory_is_bounded_by_the_size_of_a_file(tmp_path):
    """The shortest lines of each text format, of a manifest, and the objects of a pickle."""
    path = tmp_path / "lines"
    for format, header, line in [
        ("ucf101", "", "A/b.c"),
        ("kinetics", "label,youtube_id,time_start,time_end,split\n", "l,y,1,2,t"),
        ("msrvtt-1ka", "video_id,sentence\n", "v,s"),
        (
            "ivqa",
            "video_id,start,end,question,answer1,answer2,answer3,answer4,answer5\n",
            "a,1,2,q,a,b,c,d,e",
        ),
        ("next-qa", "video,answer,type,question,a0,a1,a2,a3,a4\n", "1,0,CW,q,a,b,c,d,e"),
    ]:
        path.write_text(header + f"{line}\n" * 200)
        assert peak(lambda path: read_annotations(format, path, tmp_path), path) < 200 * ENTRY_BYTES, format
    path.write_text('{"video":"a"}\n' * 200)
    assert peak(read_manifest, path) < JSON_GROWTH * path.stat().st_size
    for opcodes in (b"}", b"(", b"]", b"h\0)R"):
        path.write_bytes(b"\x80\x02ccollections\nOrderedDict\nq\0" + opcodes * 1000)
        assert peak(unfinished, path) < 1000 * PICKLE_GROWTH * len(opcodes), opcodes


def unfinished(path: Path) -> None:
    with pytest.raises(ValueError, match="ends too early"):
        read_pickle(path)


@pytest.mark.parametrize("name", ["configuration", "tokenizer", "manifest", "annotations"])
def test_files_that_would_fill_the_memory(name, place, monkeypatch):
    """They are refused before they are read."""
    target, folder = place(name)
    monkeypatch.setattr(resources, "available_memory", lambda: 2000)
    for seed in target.seeds():
        assert re.search(r"needs \d+ (kB|bytes|MB) of memory", check(target, seed, folder) or "accepted")


# The guard


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: subprocess.run(["true"], check=False),
        lambda folder: __import__("os").system("true"),
        lambda folder: socket.create_connection(("localhost", 9)),
        lambda folder: exec("1"),
        lambda folder: __import__("this"),
        lambda folder: Path(__file__).read_bytes(),
        lambda folder: Path("../other").read_bytes(),
        lambda folder: (folder.parent / "other").write_text(""),
        lambda folder: (folder.parent / "other").mkdir(),
        lambda folder: __import__("pickle").loads(b"cos\ngetcwd\n."),
        pytest.param(lambda folder: bytearray(2**34), marks=linux),
    ],
)
def test_the_guard_sees(act, tmp_path, monkeypatch):
    """Also where the error is caught."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    sys.modules.pop("this", None)
    with pytest.raises((Forbidden, MemoryError)), guarded(folder), contextlib.suppress(Forbidden):
        act(folder)
    assert not (tmp_path / "other").exists()


def test_no_depth_exhausts_the_stack(place):
    """Python's parser reads what its writer cannot write, if that is called a little deeper."""
    target, folder = place("configuration")
    for depth in range(850, 1000):
        data = CONFIG.read_bytes().replace(b'"embed_dim": 2', b'"embed_dim": ' + nested(depth))
        assert "nested too deeply" in check(target, data, folder)


# Files that name others


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{url}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{url}'\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("clip") / "clip.mp4", "-c:v", "libx264", source="testsrc2=s=64x48:r=25:d=1"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_connection(kind, tmp_path):
    """ffmpeg alone, which may use all protocols, connects; as this package runs it, it does not."""
    path = tmp_path / f"list.{kind}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        path.write_text(PLAYLISTS[kind].format(url=f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"))
        with pytest.raises(ValueError, match="ffmpeg finds no video in it"):
            read_video(path)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        allowed = ["-protocol_whitelist", "file,http,tcp,crypto,data", "-safe", "0"][
            : 4 if kind == "ffconcat" else 2
        ]
        alone = subprocess.Popen(
            [get_ffmpeg_exe(), *allowed, "-i", path, "-f", "null", "-"], stderr=subprocess.DEVNULL
        )
        try:
            server.settimeout(10)
            server.accept()[0].close()
        finally:
            alone.kill()
            alone.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["m3u8", "ffconcat"])
@pytest.mark.parametrize("url", ["{clip}", "file:{clip}", "clip.mp4"])
def test_a_playlist_opens_no_other_file(kind, url, clip):
    path = clip.parent / f"list.{kind}"
    path.write_text(PLAYLISTS[kind].format(url=url.format(clip=clip)))
    with pytest.raises(ValueError, match="ffmpeg finds no video in it"):
        read_video(path)


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow decodes it by Ghostscript."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{tmp_path}/called'\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "picture.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError):
        read_video(path)
    assert not (tmp_path / "called").exists()


@pytest.mark.slow
def test_what_pillow_logs_is_not_printed(tmp_path):
    """It logs an error of its own before it raises one."""
    path, tag = tmp_path / "many.tif", struct.pack("<HHI", 277, 3, 1)  # samples per pixel
    Image.new("RGB", (6, 4)).save(path)
    before, found, after = path.read_bytes().partition(tag)
    path.write_bytes(before + found + struct.pack("<H", 768) + after[2:])
    command = [sys.executable, "-m", "minivideococa", "caption", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and done.stderr.startswith(f"minivideococa: {path}: ")
    assert done.stderr.count("\n") == 1


# The page


def test_the_page_names_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 10
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_page_names_every_target():
    page = (HERE / "README.md").read_text()
    assert all(f"| {name} |" in page for name in TARGETS)


def test_targets_of_the_command():
    import fuzz

    assert tuple(TARGETS) == fuzz.NAMES


def test_without_atheris_the_command_fails():
    hidden = f"import sys; sys.modules['atheris'] = None; sys.path.insert(0, {str(HERE)!r})"
    code = f"{hidden}; import fuzz; sys.exit(fuzz.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install -e '.[fuzz]'" in done.stdout


def test_any_bytes_changes():
    assert any_bytes(b"abc", Random(0)) != b"abc"
