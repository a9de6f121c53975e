"""Searching a library: the same as `tasks.retrieve`, exact, in order, with the time of the best frame."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.library import Clip, Hit, find, index, read_library, search, search_latents, store
from minivideococa.library.store import identity

E = 8


@pytest.fixture
def make(library):
    """Write a library of given latents `[n, E]`, of clips 0.mp4, 1.mp4, ... with `frames` and `times`."""

    def make(latents, dtype="float32", frames=None, times=None, facts=None):
        n, T = len(latents), 2
        facts = {
            "model": "x",
            "weights": "x",
            "adapter": "mean",
            "frames": T,
            "dtype": dtype,
            "width": latents.shape[1],
            "sampling": "x",
            **(facts or {}),
        }
        rows = [identity(i.to_bytes(32, "big"), Clip(f"/v/{i}.mp4"), (0, 0)) for i in range(n)]
        with store.writing(library, facts) as writer:
            writer.add(
                store.concatenate(rows)
                | {
                    "latent": latents,
                    "frames": np.stack([latents, -latents], 1) if frames is None else frames,
                    "times": np.tile([1.5, 2.5], (n, 1)) if times is None else times,
                }
            )
        return library

    return make


def unit(n, width=E, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float16", 1e-3)])
def test_the_same_as_retrieve(model, library, pictures, clip, small_shards, dtype, tolerance):
    videos = [*pictures, clip]
    index(model, videos, library, num_frames=4, dtype=dtype)
    for text in "a red ring", "two blue stars", "a green square":
        expected = mvc.retrieve(model, text, list(map(Path, videos)), num_frames=4)
        hits = search(model, text, library, top=100)
        assert sorted(hit.video for hit in hits) == sorted(videos)
        cosines = {videos[i]: cosine for i, cosine in expected}
        assert {hit.video: hit.cosine for hit in hits} == pytest.approx(cosines, abs=tolerance)
        if dtype == "float32":
            assert [hit.video for hit in hits] == [videos[i] for i, _ in expected]


@pytest.mark.parametrize("query", [str, Path, "frames", "encoded"])
def test_a_video_finds_itself(model, library, pictures, clip, query):
    index(model, [*pictures, clip], library, num_frames=8, adapter="mean", dtype="float32")
    if query is str:
        with pytest.warns(UserWarning, match="ids"):  # a str is a text
            search(model, clip + " a" * 20, library)
        return
    given = {Path: Path(clip), "frames": mvc.read_video(clip), "encoded": model.encode(clip, adapter="mean")}
    best = search(model, given[query], library)[0]
    assert best.video == clip and best.cosine == pytest.approx(1, abs=1e-6)


def test_a_part_of_a_video_as_the_query(model, library, clip):
    index(model, [Clip(clip, 0, 4), Clip(clip, 4, 8)], library, num_frames=4)
    best, other = search(model, Path(clip), library, start=4, end="0:08")
    assert (best.start, best.end, other.start, other.end) == (4, 8, 0, 4)
    assert best.cosine == pytest.approx(1, abs=1e-3)


def test_the_time_is_that_of_the_most_similar_frame(model, library, clip):
    index(model, [clip], library, dtype="float32")
    pixels = mvc.read_video(clip)
    for t in range(8):
        [hit] = search(model, pixels[t : t + 1], library)
        assert hit.time == t + 0.5
    text = model.encode_text("a red ring")[0]
    cosines = [model.encode(pixels[t : t + 1], adapter="mean").latent @ text for t in range(8)]
    assert search(model, "a red ring", library)[0].time == np.argmax(cosines) + 0.5


def test_a_still_has_no_time(model, library, pictures):
    index(model, pictures[:1], library)
    assert search(model, "a red ring", library)[0].time is None


@pytest.mark.parametrize("dtype", store.DTYPES)
@pytest.mark.parametrize("top", [1, 10, 999, 5000])
def test_exact_over_many_shards(make, monkeypatch, dtype, top):
    """The best of all, as one product in float64 finds them."""
    monkeypatch.setattr(store, "SHARD_BYTES", 10_000)
    latents, query = unit(2000).astype(dtype), unit(1, seed=1)[0]
    library = make(latents, dtype)
    assert len(read_library(library).shards) > 3
    cosines = latents.astype(np.float64) @ query.astype(np.float64)
    hits = search_latents(library, query, top)
    found = [int(Path(hit.video).stem) for hit in hits]
    assert len(set(found)) == len(found) == min(top, 2000)
    for values in [hit.cosine for hit in hits], cosines[found]:
        np.testing.assert_allclose(values, np.sort(cosines)[::-1][:top], rtol=0, atol=3e-7)


@pytest.mark.parametrize("width", [8, 67, 512])
def test_ties_keep_their_order(make, monkeypatch, width):
    """Equal latents have equal cosines wherever they stand in a shard."""
    monkeypatch.setattr(store, "SHARD_BYTES", 300 * 3 * width * 2)
    latents = np.repeat(unit(1, width), 1000, axis=0)
    latents[7] = unit(1, width, seed=3)
    library = make(latents.astype(np.float16), "float16")
    hits = search_latents(library, unit(1, width)[0], 1000)
    assert [hit.video for hit in hits] == [f"/v/{i}.mp4" for i in [*range(7), *range(8, 1000), 7]]
    assert len({hit.cosine for hit in hits}) == 2


def test_sums_are_in_float32(make):
    """A sum in float16 would lose all but the first number."""
    latent = np.full((1, 4096), 2.0**-6)
    latent[0, 0] = 1
    library = make(latent.astype(np.float16), "float16")
    [hit] = search_latents(library, np.ones(4096, np.float32))
    assert hit.cosine == 1 + 4095 * 2.0**-6


def test_float16_is_widened_exactly():
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)]
    widened = find.widen(numbers)
    assert widened.dtype == np.float32 and np.array_equal(widened, numbers.astype(np.float32))
    assert np.array_equal(np.signbit(widened), np.signbit(numbers))


def test_frames_are_read_for_the_hits_alone(make, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 3000)
    library, read = make(unit(200)), []
    monkeypatch.setattr(
        store.Library,
        "rows",
        lambda self, shard, rows=store.Library.rows: read.append(shard) or rows(self, shard),
    )
    assert len(read_library(library).shards) > 4
    search_latents(library, unit(1, seed=1)[0], top=1)
    assert len(read) == 1


def test_a_library_whose_files_are_gone_answers(model, library, pictures):
    index(model, pictures, library)
    before = search(model, "a red ring", library)
    shutil.rmtree(Path(pictures[0]).parent)
    assert search(model, "a red ring", library) == before


def test_a_library_can_be_moved(model, library, pictures, tmp_path):
    index(model, pictures, library)
    before = search(model, "a red ring", library)
    os.rename(library, tmp_path / "elsewhere")
    assert search(model, "a red ring", tmp_path / "elsewhere") == before


def test_a_search_while_the_library_is_written_to(model, library, pictures, monkeypatch):
    """The shard that library.json named has been replaced: it is read again."""
    index(model, pictures[:2], library)
    search_once, changes = find._search, [lambda: index(model, pictures, library)]

    def late(*arguments):
        for change in changes:
            changes.remove(change)
            change()
        return search_once(*arguments)

    monkeypatch.setattr(find, "_search", late)
    assert len(search(model, "a red ring", library)) == 6
    [shard] = read_library(library).shards
    os.remove(Path(library, shard))
    with pytest.raises(FileNotFoundError, match=shard):
        search(model, "a red ring", library)


def test_paths_that_are_no_text(model, library, tmp_path, picture, pictures):
    if os.name != "posix":
        pytest.skip("file names are bytes on POSIX alone")
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    os.rename(pictures[0], path)
    index(model, [os.fsdecode(path)], library)
    assert search(model, "a red ring", library)[0].video == os.fsdecode(path)


def test_a_hit_is_a_tuple_that_prints_itself():
    assert Hit("a.mp4", 0.5) == ("a.mp4", 0.5, None, None, None)
    assert repr(Hit("a.mp4", 0.5, 3.0)).startswith("Hit(video='a.mp4', cosine=0.5, time=3.0")


# Refusals


def test_other_weights_are_refused_by_name(model, library, pictures, tiny_model, tokenizer):
    index(model, pictures, library)
    other = tiny_model(3, dtype="float32", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"library: this library was made with other weights \(a model"):
        search(other, "a red ring", library)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.ones(7, np.float32),), r"latent must be a float array \[8\], not ndarray of shape \[7\]"),
        ((np.ones(8, np.int64),), r"latent must be a float array \[8\]"),
        (([1.0] * 8,), r"latent must be a float array \[8\], not list"),
        ((np.ones(8, np.float32), 0), "top is 0"),
    ],
)
def test_invalid_arguments(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        search_latents(make(unit(3)), *arguments)


def test_blank_texts_and_empty_libraries(model, library, pictures, tmp_path):
    index(model, pictures, library)
    with pytest.raises(ValueError, match="query"):
        search(model, " ", library)
    with pytest.raises(FileNotFoundError, match="there is no library here"):
        search(model, "a red ring", tmp_path)
    shutil.rmtree(Path(pictures[0]).parent)
    with pytest.raises(ValueError, match="nowhere.mp4: no such file"):
        index(model, ["nowhere.mp4"], library, prune=True)
    with pytest.raises(ValueError, match="no clip is in this library yet"):
        search(model, "a red ring", library)
