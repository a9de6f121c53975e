"""The cache of the commands: what one has encoded the others find, and nothing that is out of date."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from platforms import posix

import minivideococa as mvc
from minivideococa import cache, cli
from minivideococa.cache import LARGE
from minivideococa.checkpoint import with_tensors
from minivideococa.checkpoint.folder import WEIGHTS, embedded_checkpoint, open_safetensors
from minivideococa.checkpoint.table import unnest
from minivideococa.checkpoint.tuned import write_tuned
from minivideococa.demo import CLIPS
from minivideococa.eviction import keep_frames, list_files
from minivideococa.tasks import encode_stretches

CLIP_NAMES = ("pair.gif", "single.gif", "split.gif")
TEXT = "a red ring"
QUICK = ["--frames", "2", "--quiet"]
COMMANDS = ("caption", "retrieve", "classify", "answer", "evaluate")


@pytest.fixture
def clips(tmp_path):
    """The paths of three clips, and beside them a manifest of the first."""
    for name in CLIP_NAMES:
        shutil.copy(CLIPS / name, tmp_path / name)
    entry = {"video": "pair.gif", "captions": [TEXT], "label": TEXT}
    (tmp_path / "m.jsonl").write_text(json.dumps(entry))
    return [str(tmp_path / name) for name in CLIP_NAMES]


@pytest.fixture
def weights(tmp_path):
    """A copy of the embedded checkpoint."""
    shutil.copytree(embedded_checkpoint(), tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def folder():
    """The cache of this test."""
    return cache.default_folder()


@pytest.fixture
def run(capsys):
    """Run a command that must succeed, and return its standard output."""

    def run(*arguments, quick=QUICK):
        assert cli.main([*map(str, arguments), *quick]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must end with status 2 and one line, and return the line."""

    def refused(*arguments):
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err

    return refused


@pytest.fixture
def encoded(monkeypatch):
    """The pixels of each call of encode_video."""
    seen, encode = [], mvc.VideoCoCa.encode_video

    def counted(self, pixels, *arguments, **keywords):
        seen.append(pixels)
        return encode(self, pixels, *arguments, **keywords)

    monkeypatch.setattr(mvc.VideoCoCa, "encode_video", counted)
    return seen


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files whose content is hashed. All are large, and none has just been changed."""
    seen, digest = [], cache.hashlib.file_digest

    def counted(file, name):
        seen.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(cache.hashlib, "file_digest", counted)
    monkeypatch.setattr(cache, "LARGE", 0)
    monkeypatch.setattr(cache, "SETTLED", -1)
    return seen


def command(name, clip, *more):
    """A command that encodes a clip with the embedded checkpoint."""
    rest = {
        "caption": [clip],
        "retrieve": [TEXT, clip],
        "classify": [clip, "--labels", "a red ring,a blue star"],
        "answer": [clip, "there is", "--weights", embedded_checkpoint()],
        "evaluate": [Path(clip).with_name("m.jsonl"), "--tasks", "classify"],
    }
    return [name, *rest[name], *more]


def replaced_same_size(path, content):
    """Replace a file by another one of the same size and time of modification."""
    stat = os.stat(path)
    assert len(content) == stat.st_size
    other = Path(path).with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)


# One cache for all


@pytest.mark.slow
@pytest.mark.parametrize("first", COMMANDS)
def test_what_one_command_has_encoded_the_others_find(run, clips, encoded, monkeypatch, first):
    expected = {name: run(*command(name, clips[0], "--no-cache")) for name in COMMANDS}
    assert len(encoded) == len(COMMANDS)
    assert run(*command(first, clips[0])) == expected[first] and len(encoded) == len(COMMANDS) + 1
    for reader in ("media.video.read_timed", "evaluation.run.read_video"):
        monkeypatch.setattr(f"minivideococa.{reader}", lambda *_, **__: pytest.fail("a video is read"))
    for name in COMMANDS:
        assert run(*command(name, clips[0])) == expected[name]
    assert len(encoded) == len(COMMANDS) + 1


@pytest.mark.slow
def test_the_place_of_a_video_does_not_count(run, clips, encoded, tmp_path):
    run("caption", clips[0])
    (tmp_path / "other").mkdir()
    shutil.move(clips[0], tmp_path / "other" / "name.gif")
    run("retrieve", TEXT, tmp_path / "other" / "name.gif")
    assert len(encoded) == 1


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--adapter mean", "--start 0.5", "--frames 3"])
def test_an_option_of_the_encoding_counts(run, clips, encoded, option):
    for _ in range(2):
        run("caption", clips[0], quick=QUICK)
        run("caption", clips[0], quick=[*QUICK, *option.split()])
    assert len(encoded) == 2


@pytest.mark.slow
def test_answer_asks_the_embedded_checkpoint_too(run, clips, encoded):
    """Its part for questions encodes the clip, and the rest of it says whether it looks like its shapes."""
    for _ in range(2):
        assert run("answer", clips[0], "what colour is the ring?", quick=[]) == "red\n"
        assert len(encoded) == 2


@pytest.mark.slow
def test_no_cache_reads_and_writes_none(run, clips, encoded, folder):
    run("caption", clips[0], "--no-cache")
    assert not folder.exists()
    run("caption", clips[0])
    run("caption", clips[0], "--no-cache")
    assert len(encoded) == 3


def test_the_cache_can_be_elsewhere(run, clips, encoded, folder, tmp_path):
    run("caption", clips[0], "--cache", tmp_path / "elsewhere")
    run("retrieve", TEXT, clips[0], "--cache", tmp_path / "elsewhere")
    assert len(encoded) == 1 and list_files(tmp_path / "elsewhere") and not folder.exists()


def test_the_library_writes_nothing(clips, folder):
    model = mvc.load()
    model.caption(clips[0], 2)
    mvc.retrieve(model, TEXT, clips, num_frames=2)
    mvc.classify(model, clips[0], [TEXT], num_frames=2)
    assert not folder.parent.exists()


# Labels


def test_labels_are_encoded_once_whatever_their_order(run, clips, monkeypatch):
    first = run("classify", clips[0], "--labels", "a red ring,a blue star")
    monkeypatch.setattr(mvc.VideoCoCa, "encode_text", lambda *_: pytest.fail("a label is encoded"))
    assert run("classify", clips[0], "--labels", "a blue star,a red ring,a red ring") != first
    assert run("classify", clips[0], "--labels", "a blue star,a red ring") == first


def test_labels_of_evaluate_are_those_of_classify(run, clips, monkeypatch):
    run("evaluate", Path(clips[0]).with_name("m.jsonl"), "--tasks", "classify")
    monkeypatch.setattr(mvc.VideoCoCa, "encode_text", lambda *_: pytest.fail("a label is encoded"))
    assert run("classify", clips[0], "--label", TEXT).endswith(f"100.0%  {TEXT}\n")


def test_other_templates_are_encoded(run, clips, tmp_path):
    (tmp_path / "templates.txt").write_text("there is {}")
    labels = ["--labels", "a red ring,a green diamond"]
    other = ["--templates-file", tmp_path / "templates.txt"]
    assert run("classify", clips[0], *labels) != run("classify", clips[0], *labels, *other)


# Files that change


def test_a_large_file_is_hashed_once_and_again_when_it_has_changed(run, clips, encoded, hashed):
    for name in ("caption", "retrieve"):
        run(*command(name, clips[0]))
        assert (len(hashed), len(encoded)) == (1, 1)
    os.utime(clips[0])  # the same content
    run("caption", clips[0])
    assert (len(hashed), len(encoded)) == (2, 1)


@pytest.mark.parametrize("restored", [False, True])
def test_a_changed_file_of_the_same_size(run, clips, hashed, restored):
    """With its old modification time too, as `cp -p` and `touch -r` leave it."""
    a, b = (np.full((24, 24, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 0, 250)))
    picture = Path(clips[0]).with_name("picture.bmp")
    Image.fromarray(a).save(picture)
    first, stat = run("retrieve", TEXT, picture), picture.stat()
    Image.fromarray(b).save(picture)
    assert picture.stat().st_size == stat.st_size
    if restored:
        os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run("retrieve", TEXT, picture) == run("retrieve", TEXT, picture, "--no-cache") != first


def test_a_replaced_file_of_the_same_size_and_time(run, clips, hashed):
    pictures = [Path(clips[0]).with_name(f"{name}.bmp") for name in "ab"]
    for picture, colour in zip(pictures, ((250, 0, 0), (0, 0, 250)), strict=True):
        Image.fromarray(np.full((24, 24, 3), colour, np.uint8)).save(picture)
    first = run("retrieve", TEXT, pictures[0])
    replaced_same_size(pictures[0], pictures[1].read_bytes())
    assert run("retrieve", TEXT, pictures[0]) == run("retrieve", TEXT, pictures[0], "--no-cache") != first


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, hashed, monkeypatch, folder):
    """A second change within the resolution of the file system's times would not be seen."""
    monkeypatch.setattr(cache, "SETTLED", 60)
    (tmp_path / "new").write_bytes(bytes(10))
    for _ in range(2):
        cache.file_hash(str(tmp_path / "new"), folder)
    assert len(hashed) == 2
    now = time.time()
    monkeypatch.setattr(cache.time, "time", lambda: now + 61)
    for _ in range(2):
        cache.file_hash(str(tmp_path / "new"), folder)
    assert len(hashed) == 3


def test_small_files_are_not_remembered(tmp_path, folder, hashed, monkeypatch):
    monkeypatch.setattr(cache, "LARGE", LARGE)
    for size in (LARGE - 1, LARGE):
        (tmp_path / "file").write_bytes(bytes(size))
        cache.file_hash(str(tmp_path / "file"), folder)
        assert len(list_files(folder)) == (size == LARGE)


def test_a_file_that_changes_while_it_is_encoded_is_not_kept(run, clips, encoded, monkeypatch):
    encode = mvc.VideoCoCa.encode

    def other_meanwhile(self, path, *arguments, **keywords):
        video = encode(self, path, *arguments, **keywords)
        shutil.copy(clips[1], path)
        return video

    monkeypatch.setattr(mvc.VideoCoCa, "encode", other_meanwhile)
    content = Path(clips[0]).read_bytes()
    run("caption", clips[0])
    monkeypatch.setattr(mvc.VideoCoCa, "encode", encode)
    Path(clips[0]).write_bytes(content)
    run("caption", clips[0])
    assert len(encoded) == 2


@pytest.mark.slow
def test_stretches_are_kept_and_found(run, clips, encoded):
    stretches = ["caption", clips[0], "--every", "0.5"]
    first = run(*stretches)
    count = len(encoded)
    assert run(*stretches) == first and len(encoded) == count == len(first.splitlines()) > 1
    run("caption", clips[0], "--start", "0.5", "--end", "1")  # the same part
    assert len(encoded) == count
    assert run(*stretches, "--no-cache") == first and len(encoded) == 2 * count
    other = run("caption", clips[1], "--every", "0.5")
    shutil.copy(clips[1], clips[0])
    assert run(*stretches) == other != first


def test_stretches_of_a_file_that_changes_are_not_kept(clips, folder):
    model = mvc.load()
    options = {"num_frames": 1, "folder": folder, "model_key": "model"}
    stretches = encode_stretches(model, clips[0], 0.5, **options)
    next(stretches)
    os.replace(clips[1], clips[0])
    assert len(list(stretches)) > 1
    assert [file.kind for file in list_files(folder)] == ["video"]


@pytest.mark.slow
def test_weights_are_hashed_once_and_again_when_they_have_changed(run, clips, weights, hashed, monkeypatch):
    keys, model_hash = [], cache.model_hash
    monkeypatch.setattr(cache, "model_hash", lambda model: keys.append(model_hash(model)) or keys[-1])
    first = [run("retrieve", TEXT, *clips, "--weights", weights) for _ in range(2)]
    assert len(keys) == 1 and first[0] == first[1]
    content = bytearray((weights / WEIGHTS).read_bytes())
    proj = open_safetensors(weights / WEIGHTS)["visual.proj"].read()
    at = content.index(np.ascontiguousarray(proj).tobytes())
    content[at : at + proj.nbytes] = np.ascontiguousarray(np.roll(proj, 1, 0)).tobytes()
    replaced_same_size(weights / WEIGHTS, bytes(content))
    changed = run("retrieve", TEXT, *clips, "--weights", weights)
    assert changed == run("retrieve", TEXT, *clips, "--weights", weights, "--no-cache") != first[0]
    assert len(keys) == 2 and keys[0] != keys[1]


@pytest.mark.slow
def test_evaluate_and_a_search_use_the_hashes_of_weights_that_are_remembered(
    run, clips, tmp_path, hashed, monkeypatch
):
    library = tmp_path / "library"
    run("index", Path(clips[0]).parent, "-o", library)
    commands = command("evaluate", clips[0]), ["retrieve", TEXT, "--index", library]
    first = [run(*arguments) for arguments in commands]
    for place in "cache.model_hash", "evaluation.tasks.task.model_hash", "cache.visual_hash":
        monkeypatch.setattr(f"minivideococa.{place}", lambda model: pytest.fail("the weights are hashed"))
    monkeypatch.setattr("minivideococa.library.find.visual_hash", lambda model: "another")
    assert [run(*arguments) for arguments in commands] == first


@pytest.mark.slow
def test_a_tuned_part_counts_and_so_does_its_content(run, clips, tmp_path, hashed):
    model, part = mvc.load(), tmp_path / "tuned.safetensors"
    proj = unnest(model.params)["visual.proj"]
    retrieve, results = ["retrieve", TEXT, *clips], []
    for tuned in (None, np.roll(proj, 1, 0), np.roll(proj, 2, 0)):
        if tuned is not None:
            write_tuned(part, with_tensors(model, {"visual.proj": tuned}, tuned_for="caption"))
        more = [] if tuned is None else ["--tuned", part]
        results.append(run(*retrieve, *more))
        assert results[-1] == run(*retrieve, *more) == run(*retrieve, *more, "--no-cache")
    assert len({*results}) == 3 and run(*retrieve) == results[0]


# Interrupted, full, read-only, damaged


def test_an_interrupted_caption_loses_no_encoded_video(clips, encoded, monkeypatch, capsys):
    """Captions are written 16 at a time; the videos that wait for theirs are in the cache."""
    encode = mvc.VideoCoCa.encode_video

    def interrupted(self, pixels, *arguments, **keywords):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return encode(self, pixels, *arguments, **keywords)

    monkeypatch.setattr(mvc.VideoCoCa, "encode_video", interrupted)
    assert cli.main(["caption", *clips, *QUICK]) == 130 and len(encoded) == 2
    monkeypatch.setattr(mvc.VideoCoCa, "encode_video", encode)
    assert cli.main(["caption", *clips, *QUICK]) == 0 and len(encoded) == 3
    assert capsys.readouterr().out.count("\n") == 3


def warned_of_cache(err):
    return [line for line in err.splitlines() if "the cache cannot be written" in line]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is read-only even for the superuser")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_cache_that_cannot_be_written_loses_no_result(run, clips, capsys, monkeypatch, name):
    expected = run(*command(name, clips[0], "--no-cache"))
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE", "/proc/cache")
    assert cli.main([*map(str, command(name, clips[0])), "--frames", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == expected
    [line] = warned_of_cache(err)
    assert "/proc/cache/videos: " in line and "--cache" in line and "--no-cache" in line
    assert run(*command(name, clips[0])) == expected


@pytest.mark.slow
@posix
def test_a_full_disk_loses_no_caption(run, clips, tmp_path):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    arguments = [sys.executable, "-m", "minivideococa", "caption", *clips, "--frames", "2"]
    path = str(Path(mvc.__file__).parents[1])
    result = subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, preexec_fn=limit
    )
    assert result.returncode == 0 and result.stdout == run("caption", *clips)
    [line] = warned_of_cache(result.stderr)
    assert "File too large" in line


def test_a_damaged_file_is_encoded_again(run, clips, encoded, folder):
    first = run("caption", clips[0])
    for file in list_files(folder):
        content = bytearray(file.path.read_bytes())
        content[-1] ^= 1
        file.path.write_bytes(content)
    assert run("caption", clips[0]) == first and len(encoded) == 2


# The command


def test_info(run, clips, folder):
    run("classify", clips[0], "--label", "a ring")
    run("retrieve", TEXT, *clips)
    told = json.loads(run("cache", "info", "--json", quick=[]))
    files = list_files(folder)
    assert told["folder"] == str(folder) and told["limit"] == 10**10 and told["checkpoints"] == []
    assert (told["files"], told["bytes"]) == (
        len(files),
        sum(path.stat().st_size for path in folder.iterdir()),
    )
    kinds = {kind: counts["files"] for kind, counts in told["kinds"].items()}
    assert kinds == {"video": 3, "labels": 1} | ({"hash": 1} if "hash" in kinds else {})
    text = run("cache", "info", quick=[])
    assert text.startswith(f"{folder}\n") and "encoded videos  " in text and "of 10 GB\n" in text


def test_info_of_no_cache(run, folder):
    assert run("cache", "info", quick=[]).splitlines() == [str(folder), "total  0 files, 0 bytes of 10 GB"]
    assert run("cache", "clear", quick=[]) == "removed 0 files, 0 bytes\n" and not folder.exists()


def test_clear_leaves_checkpoints_and_files_of_others(run, clips, folder):
    run("caption", *clips)
    checkpoint = folder.parent / "owner--name"
    shutil.copytree(embedded_checkpoint(), checkpoint)
    (folder / "notes.txt").write_text("mine")
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    [told] = json.loads(run("cache", "info", "--json", quick=[]))["checkpoints"]
    assert told == {"folder": str(checkpoint), "bytes": size}
    assert f"{checkpoint}: a checkpoint, " in run("cache", "info", quick=[])
    count = len(list_files(folder))
    told = json.loads(run("cache", "clear", "--json", quick=[]))
    assert told["removed"]["files"] == count and told["kept"] == {"files": 0, "bytes": 0}
    assert [path.name for path in folder.iterdir()] == ["notes.txt"] and checkpoint.is_dir()


def test_clear_what_has_not_been_used_for_days(run, clips, folder):
    run("caption", *clips)
    old = list_files(folder)[0]
    then = time.time() - 3 * 86400
    os.utime(old.path, (then, then))
    assert run("cache", "clear", "--older-than", "3.5", quick=[]).startswith("removed 0 files")
    assert run("cache", "clear", "--older-than", "2.5", quick=[]).startswith("removed 1 file, ")
    assert not old.path.exists() and list_files(folder)


@posix
def test_clear_keeps_what_finetuning_reads(run, folder, capsys):
    for kind in ("tokens", "video"):
        cache.put(folder, [kind], {"x": np.zeros(5)})
    reader = mvc.VideoCoCa(None, {"logit_scale": np.zeros(1)})  # any object
    keep_frames(folder, reader)
    assert cli.main(["cache", "clear"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("removed 1 file, ") and "kept, in use or not removable: 1 file, " in err
    assert [file.kind for file in list_files(folder)] == ["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache"], "action"),
        (["cache", "remove"], "'remove'"),
        (["cache", "info", "--older-than", "0"], "--older-than goes with cache clear"),
        (["cache", "clear", "--older-than", "-1"], "--older-than must be 0 or more"),
        (["cache", "clear", "--older-than", "week"], "'week' is not a finite number"),
        (["cache", "info", "--cache", __file__], f"{__file__}: is not a folder"),
        (["caption", "a.gif", "--cache", __file__], f"{__file__}: is not a folder"),
        (["caption", "a.gif", "--cache", "a", "--no-cache"], "not allowed with argument"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize("arguments", [["caption", "a.gif"], ["cache", "info"]], ids=" ".join)
def test_an_impossible_limit_is_refused_before_the_work(refused, monkeypatch, arguments):
    monkeypatch.setenv("MINIVIDEOCOCA_CACHE_LIMIT", "lots")
    assert "MINIVIDEOCOCA_CACHE_LIMIT is 'lots': give a size" in refused(*arguments)
