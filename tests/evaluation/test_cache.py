"""The cache of `evaluate`: keys, damaged files, folders that cannot be written, and concurrent processes."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import cache, cli
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, evaluate, write_manifest

TREE = Path(__file__).parents[2]


@pytest.fixture
def encoded(monkeypatch):
    """The pixels of each call of encode_video."""
    seen, encode = [], mvc.VideoCoCa.encode_video

    def counted(self, pixels, *rest):
        seen.append(pixels)
        return encode(self, pixels, *rest)

    monkeypatch.setattr(mvc.VideoCoCa, "encode_video", counted)
    return seen


# The key


def test_the_key_contains_the_sampling_rule(model, pictures, tmp_path, monkeypatch, encoded):
    for rule, count in (("by index", 1), ("by index", 1), ("by time", 2), ("by time", 2), ("by index", 2)):
        monkeypatch.setattr(cache, "RULE", rule)
        evaluate(model, [Entry(pictures[0], labels=("x",))], cache=tmp_path / "cache")
        assert len(encoded) == count, rule


def test_the_rule_in_the_key_is_that_of_the_sampling_module():
    from minivideococa.media import sampling

    assert cache.RULE is sampling.RULE


@pytest.mark.parametrize(
    "part", [{"start": 0.9}, {"end": 0.9}, {"start": 0.9, "end": 1.5}, {"start": 0.9, "end": 1.6}]
)
def test_a_part_has_its_own_encoding(model, tmp_path, encoded, part):
    """The encoded frames of a GIF are those of the part, not those of the whole clip."""
    clip = CLIPS / "brief.gif"
    evaluate(model, [Entry(clip, labels=("x",))], cache=tmp_path / "cache")
    for _ in range(2):
        evaluate(model, [Entry(clip, labels=("x",), **part)], cache=tmp_path / "cache")
    assert len(encoded) == 2
    np.testing.assert_array_equal(encoded[1], model.preprocess(mvc.read_video(clip, 8, **part)))
    assert not np.array_equal(encoded[0], encoded[1])


# Damaged files


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
def test_a_fifo_in_place_of_a_file_does_not_block(tmp_path):
    """In another process, which can be killed."""
    write_manifest(tmp_path / "m.jsonl", [Entry(CLIPS / "single.gif", labels=("a red circle",))])
    command = [
        sys.executable,
        "-m",
        "minivideococa",
        "evaluate",
        "m.jsonl",
        "--cache",
        "cache",
        "--frames",
        "1",
    ]
    first, again = [], []
    for ended in first, again:
        ended.append(
            subprocess.run(
                command,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=20,
                env=os.environ | {"PYTHONPATH": str(TREE)},
            )
        )
        if ended is first:
            for path in list((tmp_path / "cache").iterdir()):
                path.unlink()
                os.mkfifo(path)
    assert again[0].returncode == 0 and again[0].stdout == first[0].stdout
    assert all(path.is_file() for path in (tmp_path / "cache").iterdir())


def test_a_folder_in_place_of_a_file_is_a_warning(model, pictures, tmp_path):
    first = evaluate(model, [Entry(pictures[0], labels=("x",))], cache=tmp_path / "cache")
    for path in list((tmp_path / "cache").iterdir()):
        path.unlink()
        path.mkdir()
    with pytest.warns(UserWarning, match="^[^\n]*cache cannot be written[^\n]*--cache[^\n]*$"):
        assert evaluate(model, [Entry(pictures[0], labels=("x",))], cache=tmp_path / "cache") == first


@pytest.mark.parametrize(
    "header",
    [
        b'{"latent":{"dtype":"F64","shape":[8],"data_offsets":[0,63]}}',
        b'{"latent":{"dtype":"X","shape":[1],"data_offsets":[0,1]}}',
        b'{"latent":[]}',
        b'{"latent":{}}',
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,1]}}',
        b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}' % (b"9" * 400),
        b"\xff\xfe",
        b"",
    ],
    ids=lambda header: header[:20].decode("latin1"),
)
def test_a_file_with_a_damaged_header_counts_as_missing(model, pictures, tmp_path, encoded, header):
    entries, folder = [Entry(pictures[0], labels=("x",))], tmp_path / "cache"
    first = evaluate(model, entries, cache=folder)
    for path in folder.iterdir():
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    assert evaluate(model, entries, cache=folder) == first and len(encoded) == 2


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OverflowError("too large"), RecursionError(), KeyError("dtype"), TypeError("x")],
    ids=repr,
)
def test_any_error_of_reading_a_file_counts_as_missing(model, pictures, tmp_path, monkeypatch, error):
    entries = [Entry(pictures[0], labels=("x",))]
    first = evaluate(model, entries, cache=tmp_path / "cache")

    def damaged(path):
        raise error

    monkeypatch.setattr(cache, "open_safetensors", damaged)
    assert evaluate(model, entries, cache=tmp_path / "cache") == first


# A cache that cannot be written


def test_a_warning_of_a_read_only_cache_names_the_alternatives_once(tmp_path, capsys, monkeypatch):
    """The result is not lost. /proc is read-only even for the superuser."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc")
    entries = [Entry(CLIPS / f"{name}.gif", labels=("a red circle",)) for name in ("single", "pair")]
    write_manifest(tmp_path / "m.jsonl", entries)
    command = ["evaluate", str(tmp_path / "m.jsonl"), "--frames", "1"]
    assert cli.main([*command, "--no-cache"]) == 0
    result = capsys.readouterr().out
    for arguments, home in (["--cache", "/proc/cache"], str(tmp_path)), ([], "/proc"):
        monkeypatch.setenv("MINIVIDEOCOCA_CACHE", home)
        assert cli.main([*command, *arguments]) == 0
        out, err = capsys.readouterr()
        [warning] = [line for line in err.split("\n") if "the cache cannot be written" in line]
        assert out == result and "/proc" in warning
        assert all(way in warning for way in ("--cache", "MINIVIDEOCOCA_CACHE", "--no-cache"))


def test_a_complete_read_only_cache_can_be_used(model, pictures, tmp_path, monkeypatch, encoded):
    entries = [Entry(pictures[0], ("a red star",), ("x",))]
    first = evaluate(model, entries, ["classify", "retrieve"], cache=tmp_path / "cache")

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache, "save_tensors", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = evaluate(model, entries, ["classify", "retrieve"], cache=tmp_path / "cache")
    assert again == first and len(encoded) == 1
    with pytest.warns(UserWarning, match="cannot be written .*Permission denied.*MINIVIDEOCOCA_CACHE"):
        evaluate(model, entries, ["classify"], num_frames=2, cache=tmp_path / "cache")


# Concurrent processes


def test_two_writers_of_the_same_file_both_succeed(tmp_path, monkeypatch):
    """The second one writes the whole file while the first is writing; both have the same process id."""
    save, arrays = cache.save_tensors, {"latent": np.arange(4.0)}

    def other_first(path, tensors):
        monkeypatch.setattr(cache, "save_tensors", save)
        save(path, tensors)
        cache.put(tmp_path, ["facts"], arrays)

    monkeypatch.setattr(cache, "save_tensors", other_first)
    cache.put(tmp_path, ["facts"], arrays)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    np.testing.assert_array_equal(cache.get(tmp_path, ["facts"])["latent"], arrays["latent"])


@pytest.mark.slow
def test_two_processes_with_one_process_id_fill_one_cache(tmp_path):
    """As in two containers: they start at the same time and evaluate the same entries."""
    write_manifest(
        tmp_path / "m.jsonl", [Entry(path, labels=(path.stem,)) for path in sorted(CLIPS.glob("*.gif"))]
    )
    code = (
        "import os, sys; os.getpid = lambda: 7\n"
        "from minivideococa.cli import main\n"
        "import minivideococa.evaluation\n"
        "print('ready', file=sys.stderr, flush=True); sys.stdin.readline()\n"
        "sys.exit(main(['evaluate', 'm.jsonl', '--cache', 'cache', '--json', '--frames', '2']))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TREE)},
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stderr.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert ended[0][0] == ended[1][0] and {path.suffix for path in (tmp_path / "cache").iterdir()} == {
        ".safetensors"
    }
