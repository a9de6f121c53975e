"""Building a library: what is added, what is not, what changes on disk, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from library_contents import contents
from PIL import Image
from platforms import posix
from safetensors.numpy import load_file, save_file

import minivideococa as mvc
from minivideococa import cache
from minivideococa.library import Clip, build, index, read_library, store
from minivideococa.media.video import read_timed
from minivideococa.output import LOCK_FILE
from minivideococa.progress import no_progress


def numbers(result):
    """The numbers of a result that are not 0."""
    return {name: value for name, value in result.items() if value and name != "unreadable"}


@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint", "factorized"])
def test_a_row_is_what_the_model_computes(tiny_model, tokenizer, library, clip, adapter):
    model = tiny_model(2, "float32", tokenizer, video={"factorized": {"layers": 1, "heads": 2}})
    index(model, [clip, Clip(clip, 2, 6.5)], library, num_frames=4, adapter=adapter, dtype="float32")
    found = contents(library)
    for part in Clip(clip), Clip(clip, 2.0, 6.5):
        latent, frames, times = found[part]
        assert np.array_equal(latent, model.encode(clip, 4, adapter, part.start, part.end).latent)
        pixels, expected = read_timed(clip, 4, part.start, part.end)
        assert times.tolist() == list(expected)
        for frame, pixel in zip(frames, pixels):
            alone = model.encode(pixel[None], adapter="mean").latent
            if adapter != "joint":  # where the tokens of a frame depend on the others
                np.testing.assert_allclose(frame, alone, atol=1e-6)
            assert np.linalg.norm(frame) == pytest.approx(1, abs=1e-6)


def test_latents_are_rounded_to_float16_unless_told_otherwise(model, library, pictures):
    index(model, pictures, library)
    for clip, (latent, frames, times) in contents(library).items():
        exact = model.encode(clip.path).latent
        assert latent.dtype == frames.dtype == np.float16 and np.isnan(times).all()
        assert np.array_equal(latent, exact.astype(np.float16))


def test_only_what_is_new_is_encoded(model, library, pictures, encoded):
    assert numbers(index(model, pictures[:2], library)) == {"clips": 2, "added": 2}
    assert numbers(index(model, pictures[:3], library)) == {"clips": 3, "added": 1, "known": 2}
    assert encoded == pictures[:3]
    assert [clip.path for clip in contents(library)] == pictures[:3]


@pytest.fixture
def hashed(monkeypatch):
    """The paths whose content is hashed. No file counts as just changed."""
    paths, hashes = [], build.content_hashes
    monkeypatch.setattr(build, "content_hashes", lambda path: paths.append(path) or hashes(path))
    monkeypatch.setattr(cache, "SETTLED", -1)
    return paths


def test_an_unchanged_file_is_not_read_again(model, library, pictures, hashed):
    for _ in range(2):
        index(model, pictures, library)
    assert hashed == pictures


def test_a_touched_file_is_read_once_and_not_encoded(model, library, pictures, encoded, hashed):
    index(model, pictures, library)
    os.utime(pictures[1], (1, 1))
    for _ in range(2):
        assert numbers(index(model, pictures, library)) == {"clips": 6, "known": 6}
    assert encoded == pictures and hashed == [*pictures, pictures[1]]


@pytest.mark.parametrize("in_place", [True, False])
def test_new_content_of_the_same_size_and_time_is_noticed(model, library, tmp_path, hashed, in_place):
    paths = [str(tmp_path / f"{name}.bmp") for name in "ab"]  # pictures of equal size
    for path, grey in zip(paths, (50, 200)):
        Image.fromarray(np.full((24, 24, 3), grey, np.uint8)).save(path)
        os.utime(path, ns=(10**18, 10**18))
    index(model, paths[:1], library)
    content = Path(paths[1]).read_bytes()
    if in_place:
        Path(paths[0]).write_bytes(content)
        os.utime(paths[0], ns=(10**18, 10**18))
    else:
        os.replace(paths[1], paths[0])
    assert numbers(index(model, paths[:1], library)) == {"clips": 1, "added": 1, "replaced": 1}


def test_a_restored_tree_is_read_once_and_not_encoded(model, library, pictures, encoded, hashed):
    folder = Path(pictures[0]).parent
    index(model, pictures, library)
    shutil.copytree(folder, folder.with_name("backup"))  # as `cp -p`
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("backup"), folder)
    for _ in range(2):
        assert numbers(index(model, pictures, library)) == {"clips": 6, "known": 6}
    assert encoded == pictures and hashed == 2 * pictures


def test_a_restored_file_stays_the_first_of_its_copies(model, library, pictures, tmp_path, encoded, hashed):
    index(model, pictures[:1], library)
    copy = shutil.copy(pictures[0], tmp_path / "copy.png")
    os.replace(shutil.copy(copy, tmp_path / "restored"), pictures[0])
    result = index(model, [copy, pictures[0]], library)
    assert numbers(result) == {"clips": 1, "known": 1, "copies": 1} and encoded == pictures[:1]


def test_a_library_with_times_in_place_of_hashes(model, library, pictures, encoded, hashed, monkeypatch):
    """As it was made before inodes counted: the files are read once, and not encoded."""
    with monkeypatch.context() as before:
        stats = (os.stat(path) for path in pictures)
        stamps = {path: (stat.st_size, stat.st_mtime_ns) for path, stat in zip(pictures, stats)}
        before.setattr(build, "_stamp", stamps.__getitem__)
        index(model, pictures, library)
    for _ in range(2):
        assert numbers(index(model, pictures, library)) == {"clips": 6, "known": 6}
    assert encoded == pictures and hashed == 2 * pictures


def test_a_file_that_has_just_changed_is_read_again(model, library, pictures, hashed, monkeypatch):
    """A second change within the resolution of the file system's times would not be seen."""
    monkeypatch.setattr(cache, "SETTLED", 60)
    for _ in range(2):
        index(model, pictures[:1], library)
    assert hashed.count(pictures[0]) > 2  # when it was looked up, after it was encoded, and in the second run
    monkeypatch.setattr(cache, "SETTLED", -1)
    index(model, pictures[:1], library)
    hashed.clear()
    index(model, pictures[:1], library)
    assert hashed == []


def test_a_folder_of_images_whose_order_changes_is_new(model, library, pictures):
    folder = Path(pictures[0]).parent
    assert numbers(index(model, [folder], library, num_frames=2)) == {"clips": 1, "added": 1}
    times = os.stat(folder)
    (folder / "a.png").rename(folder / "z.png")
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))  # clocks of files can be coarse
    assert numbers(index(model, [folder], library)) == {"clips": 1, "added": 1, "replaced": 1}


def test_parts_of_a_video_are_clips_of_their_own(model, library, clip, encoded):
    parts = [Clip(clip), Clip(clip, 1, 2), Clip(clip, 1, 3), Clip(clip, 1, 2)]
    assert numbers(index(model, parts, library, num_frames=1)) == {"clips": 3, "added": 3}
    assert numbers(index(model, [Clip(clip, "0:01", 2.0)], library)) == {"clips": 3, "known": 1}


def test_of_copies_the_first_counts(model, library, pictures, encoded, tmp_path):
    copy = shutil.copy(pictures[0], tmp_path / "copy.png")
    assert numbers(index(model, [pictures[0], copy], library)) == {"clips": 1, "added": 1, "copies": 1}
    assert [clip.path for clip in contents(library)] == encoded == [pictures[0]]


def test_a_moved_file_gets_its_new_path(model, library, pictures, encoded):
    index(model, pictures, library)
    before = contents(library)
    moved = str(Path(pictures[2]).with_name("moved.png"))
    os.rename(pictures[2], moved)
    result = index(model, [*pictures[:2], moved, *pictures[3:]], library)
    assert numbers(result) == {"clips": 6, "known": 5, "moved": 1} and len(encoded) == 6
    after = contents(library)
    assert [clip.path for clip in after] == [*pictures[:2], moved, *pictures[3:]]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(before.values(), after.values()))


def test_new_content_replaces_the_old(model, library, pictures, picture):
    index(model, pictures, library)
    picture(pictures[2], 77)
    assert numbers(index(model, pictures, library)) == {"clips": 6, "added": 1, "known": 5, "replaced": 1}
    latent, *_ = contents(library)[Clip(pictures[2])]
    assert np.array_equal(latent, model.encode(pictures[2]).latent.astype(np.float16))


def test_two_files_that_trade_places(model, library, pictures):
    index(model, pictures[:2], library)
    os.rename(pictures[0], "x.png")
    os.rename(pictures[1], pictures[0])
    os.rename("x.png", pictures[1])
    index(model, pictures[:2], library)
    for path in pictures[:2]:
        latent, *_ = contents(library)[Clip(path)]
        assert np.array_equal(latent, model.encode(path).latent.astype(np.float16))


def test_a_file_that_becomes_a_copy_of_another_leaves_the_library(model, library, pictures):
    index(model, pictures[:3], library)
    shutil.copy(pictures[0], pictures[1])
    result = index(model, pictures[:3], library)
    assert numbers(result) == {"clips": 2, "known": 2, "copies": 1, "replaced": 1}
    assert [clip.path for clip in contents(library)] == [pictures[0], pictures[2]]


def test_clips_without_their_files_stay_unless_pruned(model, library, pictures, small_shards):
    index(model, pictures, library, num_frames=1)
    for i in 0, 1, 2, 4:  # all of one shard, and one of another
        os.remove(pictures[i])
    left = [pictures[3], pictures[5]]
    assert numbers(index(model, left, library)) == {"clips": 6, "known": 2, "missing": 4}
    assert len(contents(library)) == 6
    assert numbers(index(model, left, library, prune=True)) == {"clips": 2, "known": 2, "pruned": 4}
    assert [clip.path for clip in contents(library)] == left


def test_what_cannot_be_read_is_reported_and_tried_again(model, library, pictures, picture, encoded):
    good = Path(pictures[1]).read_bytes()
    Path(pictures[1]).write_bytes(good[:60])
    paths = [*pictures[:3], "nowhere.mp4"]
    result = index(model, paths, library)
    assert numbers(result) == {"clips": 2, "added": 2}
    assert [clip["video"] for clip in result["unreadable"]] == [pictures[1], os.path.abspath("nowhere.mp4")]
    assert all(clip["video"] in clip["why"] and "\n" not in clip["why"] for clip in result["unreadable"])
    Path(pictures[1]).write_bytes(good)
    assert numbers(index(model, pictures[:3], library)) == {"clips": 3, "added": 1, "known": 2}


def test_a_damaged_new_version_leaves_the_old_one(model, library, pictures):
    index(model, pictures, library)
    Path(pictures[1]).write_bytes(b"half of it")
    result = index(model, pictures, library)
    assert numbers(result) == {"clips": 6, "known": 5} and len(result["unreadable"]) == 1


def test_a_file_that_changes_while_it_is_read_is_left_out(model, library, pictures, picture, monkeypatch):
    read = build.read_timed

    def read_and_change(path, *arguments):
        frames = read(path, *arguments)
        picture(path, 77)
        return frames

    monkeypatch.setattr(build, "read_timed", read_and_change)
    with pytest.raises(ValueError, match="a.png: has changed while it was read: index it again"):
        index(model, pictures[:1], library)


def test_shards_fill_up_and_the_order_is_that_of_adding(model, library, pictures, small_shards):
    for count in 2, 4, 6:
        index(model, pictures[:count], library, num_frames=1)
    opened = read_library(library)
    assert list(opened.shards.values()) == [3, 3]
    assert [clip.path for clip in contents(library)] == pictures
    assert sorted(os.listdir(library)) == ["library.json", *sorted(opened.shards)]


def test_a_long_run_saves_as_it_goes(model, library, pictures, monkeypatch):
    monkeypatch.setattr(build, "SAVE_AFTER", 0)
    saved = []
    monkeypatch.setattr(build, "encode_clip", _noting(saved, library, build.encode_clip))
    index(model, pictures, library)
    assert saved == [0, 1, 2, 3, 4, 5]


def _noting(saved, library, encode):
    def noted(*arguments):
        saved.append(len(read_library(library)))
        return encode(*arguments)

    return noted


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_run_keeps_what_it_has(model, library, pictures, monkeypatch, error):
    encode = build.encode_clip

    def interrupted(model, found, *arguments):
        if found.clip.path == pictures[3]:
            raise error
        return encode(model, found, *arguments)

    monkeypatch.setattr(build, "encode_clip", interrupted)
    with pytest.raises(error):
        index(model, pictures, library)
    assert [clip.path for clip in contents(library)] == pictures[:3]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_that_fails_is_not_tried_again(model, library, pictures, monkeypatch, error, moment):
    """Another one would add the same clips twice if the first one was interrupted at its end."""
    monkeypatch.setattr(build, "SAVE_AFTER", 0)
    write, calls = store.write_library, []

    def failing(library):
        calls.append(library)
        if len(calls) == 4 and moment == "before":
            raise error
        write(library)
        if len(calls) == 4:
            raise error

    monkeypatch.setattr(store, "write_library", failing)
    with pytest.raises(type(error)):
        index(model, pictures, library)
    assert [clip.path for clip in contents(library)] == pictures[: 2 if moment == "before" else 3]
    assert index(model, pictures, library)["clips"] == len(contents(library)) == 6


def killed_at(moment, function):
    """Run a function in a process that is killed before this change of a folder. Return whether it was."""
    if not (child := os.fork()):
        with pytest.MonkeyPatch.context() as patched:
            steps = iter(range(moment))

            def killer(change):
                def step(*arguments, **options):
                    if next(steps, None) is None:
                        os._exit(9)
                    return change(*arguments, **options)

                return step

            for owner, name in (os, "replace"), (Path, "unlink"), (Path, "mkdir"):
                patched.setattr(owner, name, killer(getattr(owner, name)))
            try:
                function()
            finally:
                os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.slow
@posix
def test_killed_at_any_step(model, library, pictures, picture, small_shards):
    """At any moment the library is the one before the run or after it, and the next run finishes the work."""
    index(model, pictures[:4], library, num_frames=1)
    before, whole = contents(library), shutil.copytree(library, f"{library}-before")
    picture(pictures[1], 77)
    os.remove(pictures[3])
    given, moment = [*pictures[:3], *pictures[4:]], 0

    def run():
        return index(model, given, library, num_frames=1, prune=True)

    while killed_at(moment, run):
        left = contents(library)
        assert left.keys() in (before.keys(), {Clip(path) for path in given})
        for clip, (latent, *_) in left.items():
            if left.keys() == before.keys():
                assert np.array_equal(latent, before[clip][0])
        assert run()["clips"] == 5
        after = contents(library)
        assert after.keys() == {Clip(path) for path in given}
        for clip, (latent, *_) in after.items():
            assert np.array_equal(latent, model.encode(clip.path, 1).latent.astype(np.float16))
        names = [name for name in os.listdir(library) if not LOCK_FILE.fullmatch(name)]
        assert set(names) == {"library.json", *read_library(library).shards}
        shutil.rmtree(library)
        shutil.copytree(whole, library)
        moment += 1
    assert moment > 10


@pytest.mark.slow
@posix
def test_killed_while_it_is_made(model, library, pictures):
    moment = 0
    while killed_at(moment, lambda: index(model, pictures[:2], library, num_frames=1)):
        assert not store.is_library(library) or len(contents(library)) in (0, 2)
        assert index(model, pictures[:2], library, num_frames=1)["clips"] == len(contents(library)) == 2
        shutil.rmtree(library)
        moment += 1
    assert moment > 3


# Refusals


@pytest.fixture
def refused(model, library, pictures):
    """Index with other arguments and return the message."""
    index(model, pictures[:1], library)

    def refused(model=model, videos=pictures, **options):
        before = Path(library, "library.json").read_bytes()
        with pytest.raises(ValueError) as error:
            index(model, videos, library, **options)
        assert Path(library, "library.json").read_bytes() == before and len(os.listdir(library)) == 2
        assert "\n" not in str(error.value)
        return str(error.value)

    return refused


def test_a_library_of_another_kind_is_refused_by_name(refused, library, tiny_model, tokenizer):
    assert "made with adapter attentional, not mean" in refused(adapter="mean")
    assert "made with 8 frames a clip, not 4" in refused(num_frames=4)
    assert "made with dtype float16, not float32" in refused(dtype="float32")
    other = tiny_model(3, dtype="float32", tokenizer=tokenizer)
    assert f"{library}: this library was made with other weights (a model in memory)" in refused(other)


def test_what_is_not_given_is_that_of_the_library(model, library, pictures):
    index(model, pictures[:1], library, num_frames=3, adapter="mean", dtype="float32")
    assert numbers(index(model, pictures, library)) == {"clips": 6, "added": 5, "known": 1}
    assert read_library(library).facts["frames"] == 3


def test_a_text_side_that_was_tuned_makes_no_other_library(model, library, pictures):
    index(model, pictures[:1], library)
    model.params["text"]["ln_final"] = {
        name: array + 1 for name, array in model.params["text"]["ln_final"].items()
    }
    assert index(model, pictures, library)["clips"] == 6


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"adapter": "x"}, "adapter is 'x'"),
        ({"dtype": "int8"}, "dtype is 'int8': give float16, float32"),
        ({"videos": "a.mp4"}, "videos is 'a.mp4': give a list of paths"),
        ({"videos": []}, "videos is empty"),
        ({"videos": [3]}, "a video is 3, not the name of a file"),
        ({"videos": [Clip("a.mp4", -1)]}, "start is -1"),
    ],
)
def test_invalid_arguments(refused, options, message):
    assert message in refused(**options)


def test_another_folder_is_left_alone(model, pictures, tmp_path):
    with pytest.raises(ValueError, match="exists and is not empty"):
        index(model, pictures, Path(pictures[0]).parent)
    assert len(os.listdir(Path(pictures[0]).parent)) == 6
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is a file"):
        index(model, pictures, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert index(model, pictures, tmp_path / "empty")["clips"] == 6


def test_nothing_readable_is_an_error(model, library):
    with pytest.raises(ValueError, match=r"none of the 2 videos can be read: .*a.mp4: no such file"):
        index(model, ["a.mp4", "b.mp4"], library)


def test_two_runs_do_not_write_together(model, library, pictures):
    index(model, pictures[:1], library)
    with (
        store.writing(library, read_library(library).facts),
        pytest.raises(ValueError, match="another process is writing there"),
    ):
        index(model, pictures, library)


def test_weights_that_are_not_finite_are_an_error_and_no_row(model, library, pictures):
    model.params["visual"]["proj"] = model.params["visual"]["proj"] * np.nan
    with pytest.raises(ValueError, match="the latent is not finite"):
        index(model, pictures, library)
    assert len(read_library(library)) == 0


DAMAGES = {
    "not JSON": lambda text: "{",
    "not a library": lambda text: "[]",
    "another version": lambda text: text.replace('"format": 1', '"format": 2'),
    "a fact missing": lambda text: text.replace('"adapter"', '"x"'),
    "a fact of another type": lambda text: text.replace('"frames": 8', '"frames": "8"'),
    "another dtype": lambda text: text.replace('"float16"', '"F8_E4M3"'),
    "a shard elsewhere": lambda text: text.replace('"shard-', '"../shard-'),
    "a count that is none": lambda text: text.replace('safetensors": 6', 'safetensors": true'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_json(model, library, pictures, damage):
    index(model, pictures, library)
    place = Path(library, "library.json")
    place.write_text(DAMAGES[damage](whole := place.read_text()))
    assert place.read_text() != whole
    with pytest.raises(ValueError, match="library.json") as error:
        read_library(library)
    assert "\n" not in str(error.value)


def test_a_shard_that_is_not_the_one_that_was_written(model, library, pictures):
    index(model, pictures, library)
    [shard] = read_library(library).shards
    whole = Path(library, shard).read_bytes()
    Path(library, shard).write_bytes(whole[:-8])
    with pytest.raises(ValueError, match=shard):
        mvc.search(model, "a red ring", library)
    content = json.loads(Path(library, "library.json").read_text())
    content["shards"][shard] = 5
    Path(library, shard).write_bytes(whole)
    Path(library, "library.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the library is damaged"):
        mvc.search(model, "a red ring", library)


def test_a_shard_with_other_tensors(model, library, pictures):
    index(model, pictures, library)
    [shard] = read_library(library).shards
    whole = load_file(Path(library, shard))
    for name, value in whole.items():
        wrong = [{}, {name: np.zeros(value.shape, np.float32 if value.dtype == np.uint8 else np.uint8)}]
        wrong += [{name: value[:-1]}] if name != "path" else []
        for change in wrong:
            save_file({key: x for key, x in whole.items() if key != name} | change, Path(library, shard))
            with pytest.raises(ValueError, match="the library is damaged"):
                mvc.search(model, "a red ring", library)


def test_progress_counts_every_video(model, library, pictures):
    counted = []

    def progress(total, unit):
        counted.append((total, unit))
        stage = no_progress(total, unit)
        return _counting(stage, counted)

    index(model, [*pictures, pictures[0], "nowhere.mp4"], library, progress=progress)
    assert counted == [(7, "videos"), *[1] * 7]


class _counting:
    def __init__(self, stage, counted):
        self.counted = counted

    def __enter__(self):
        return lambda count, note="": self.counted.append(count)

    def __exit__(self, *_):
        pass
