"""A library's vectors to NumPy, FAISS and Parquet files and back."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from library_contents import contents

from minivideococa.library import Clip, export_vectors, import_vectors, index, read_library, search, vectors
from minivideococa.library.vectors import SUFFIXES

NEEDS = {".faiss": "faiss", ".parquet": "pyarrow"}


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return request.param


@pytest.fixture
def full(model, library, pictures, clip, small_shards):
    """A library of several shards, with parts of a video."""
    index(model, [*pictures, clip, Clip(clip, 1, 4.5), Clip(clip, None, 6)], library, num_frames=2)
    assert len(read_library(library).shards) > 2
    return library


def latents(library):
    return {clip: arrays[0] for clip, arrays in contents(library).items()}


def test_there_and_back(model, full, tmp_path, suffix):
    """The same numbers, in the same order; what is there is not added twice."""
    file, back = tmp_path / f"vectors{suffix}", tmp_path / "back"
    assert export_vectors(full, file) == 9
    assert import_vectors(model, file, back, dtype="float32") == {"clips": 9, "added": 9, "known": 0}
    before, after = latents(full), latents(back)
    assert list(after) == list(before)
    assert all(np.array_equal(after[clip], before[clip]) for clip in before)
    assert import_vectors(model, file, back) == {"clips": 9, "added": 0, "known": 9}
    hits = search(model, "a red ring", full)
    assert search(model, "a red ring", back) == [hit._replace(time=None) for hit in hits]


def test_as_other_programs_read_them(full, tmp_path, suffix):
    """Each file, read by its own library, holds the latents, and names each clip."""
    file = tmp_path / f"vectors{suffix}"
    export_vectors(full, file)
    clips, expected = list(latents(full)), np.stack(list(latents(full).values())).astype(np.float32)
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(file).to_pylist()
        found = np.array([row.pop("latent") for row in rows], np.float32)
        assert [Clip(row["video"], row["start"], row["end"]) for row in rows] == clips
    else:
        rows = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
        assert [Clip(row["video"], row.get("start"), row.get("end")) for row in rows] == clips
        if suffix == ".npy":
            found = np.load(file)
        else:
            import faiss

            opened = faiss.read_index(str(file))
            found = opened.reconstruct_n(0, opened.ntotal)
            _, [nearest] = opened.search(expected[2:3], 1)
            assert nearest == [2]
    assert found.dtype == np.float32 and np.array_equal(found, expected)


def test_the_names_are_a_manifest(full, tmp_path):
    from minivideococa.evaluation import read_manifest

    export_vectors(full, tmp_path / "v.npy")
    entries = read_manifest(tmp_path / "v.jsonl")
    assert [Clip(str(entry.video), entry.start, entry.end) for entry in entries] == list(latents(full))


def write_npy(folder, array, names=None):
    np.save(folder / "v.npy", array)
    lines = names or [json.dumps({"video": f"{i}.mp4"}) for i in range(len(array))]
    (folder / "v.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "v.npy"


def unit(n):
    x = np.random.default_rng(0).standard_normal((n, 8))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_vectors_of_other_programs(model, library, tmp_path):
    """Of any length and kind of float; paths are relative to the file."""
    import_vectors(model, write_npy(tmp_path, 7 * unit(3)), library, dtype="float32")
    found = latents(library)
    assert list(found) == [Clip(str(tmp_path / f"{i}.mp4")) for i in range(3)]
    np.testing.assert_allclose(np.stack(list(found.values())), unit(3), atol=1e-6)


def test_imported_clips_are_not_encoded_again_nor_pruned(model, library, pictures, tmp_path, encoded):
    lines = [json.dumps({"video": path}) for path in [*pictures[:2], "/nowhere/x.mp4"]]
    import_vectors(model, write_npy(tmp_path, unit(3), lines), library, num_frames=1)
    result = index(model, pictures, library, prune=True)
    assert (result["known"], result["added"], result["clips"], result["pruned"]) == (2, 4, 7, 0)
    assert encoded == pictures[2:] and len(contents(library)) == 7
    assert len(search(model, "a red ring", library)) == 7


def test_a_clip_that_a_file_names_twice_is_added_once(model, library, tmp_path):
    lines = [json.dumps({"video": name}) for name in ("a.mp4", "b.mp4", "./a.mp4")]
    result = import_vectors(model, write_npy(tmp_path, unit(3), lines), library, dtype="float32")
    assert result == {"clips": 2, "added": 2, "known": 1}
    np.testing.assert_allclose(np.stack(list(latents(library).values())), unit(3)[:2], atol=1e-6)


def test_many_rows_are_read_in_parts(model, library, tmp_path, suffix, monkeypatch, small_shards):
    monkeypatch.setattr(vectors, "ROWS", 7)
    import_vectors(model, write_npy(tmp_path, unit(40)), library)
    export_vectors(library, tmp_path / f"w{suffix}")
    import_vectors(model, tmp_path / f"w{suffix}", tmp_path / "back")
    before, after = latents(library), latents(tmp_path / "back")
    assert list(after) == list(before) and len(after) == 40
    assert all(np.array_equal(after[clip], before[clip]) for clip in before)


def test_a_file_is_never_beside_the_names_of_another(model, full, tmp_path, monkeypatch):
    """Killed between the two moves, there is no vectors file rather than a wrong one."""
    file = write_npy(tmp_path, unit(9))
    replace = os.replace

    def failing(source, destination):
        if Path(destination).suffix == ".npy":
            raise OSError(28, "No space left on device")
        return replace(source, destination)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            export_vectors(full, file)
    assert not file.exists()
    export_vectors(full, file)
    assert import_vectors(model, file, tmp_path / "back")["clips"] == 9


# Refusals


def wrong(message, array=None, names=None):
    return pytest.param(unit(3) if array is None else array, names, message, id=message[:30])


ONE = '{"video": "a.mp4"}'
WRONG = [
    wrong(r"floats \[n, 8\]", np.ones((3, 9))),
    wrong(r"holds int64 of shape \[3, 8\]", np.ones((3, 8), np.int64)),
    wrong(r"shape \[3\]", np.ones(3)),
    wrong("row 1 is zero or not finite", unit(3) * [[1], [0], [1]]),
    wrong("row 2 is zero or not finite", unit(3) * [[1], [1], [np.nan]]),
    wrong("not a NumPy array of numbers", np.array([{}, {}, {}])),
    wrong("v.jsonl: names 1 videos, and v.npy has 3 vectors", names=[ONE]),
    wrong("v.jsonl: line 2: not JSON", names=[ONE, "{", ONE]),
    wrong('row 2: "video" is missing', names=[ONE, "{}", ONE]),
    wrong('row 1: "video" is missing', names=["3", ONE, ONE]),
    wrong("start is 'x'", names=[ONE, '{"video": "b.mp4", "start": "x"}', ONE]),
]


@pytest.mark.parametrize("array, names, message", WRONG)
def test_files_that_do_not_fit(model, library, tmp_path, array, names, message):
    file = write_npy(tmp_path, array, names)
    with pytest.raises(ValueError, match=message) as error:
        import_vectors(model, file, library)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_names_that_are_missing(model, library, tmp_path):
    file = write_npy(tmp_path, unit(3))
    file.with_suffix(".jsonl").unlink()
    with pytest.raises(
        FileNotFoundError, match="v.jsonl: no such file; it names the video of each row of v.npy"
    ):
        import_vectors(model, file, library)


def test_pickles_are_not_opened(model, library, tmp_path):
    class Opened:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "opened"),)

    array = io.BytesIO()
    np.save(array, np.array([Opened()]), allow_pickle=True)
    for content in pickle.dumps(Opened()), array.getvalue():
        (tmp_path / "v.npy").write_bytes(content)
        with pytest.raises(ValueError, match="not a NumPy array of numbers"):
            import_vectors(model, tmp_path / "v.npy", library)
        assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("content", [b"", b"something else", b"PAR1"])
def test_files_that_are_something_else(model, library, tmp_path, suffix, content):
    (tmp_path / f"v{suffix}").write_bytes(content)
    (tmp_path / "v.jsonl").write_text(ONE)
    with pytest.raises(ValueError, match=f"v{suffix}: no") as error:
        import_vectors(model, tmp_path / f"v{suffix}", library)
    assert "\n" not in str(error.value)


def test_a_table_without_the_columns(model, library, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a"], "latent": [[1.0] * 8]}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="has the columns path, latent: it needs video and latent"):
        import_vectors(model, tmp_path / "v.parquet", library)
    for latent in [[1.0], [1.0, 2.0]], ["x", "y"], [None, [1.0] * 8]:
        pq.write_table(pa.table({"video": ["a", "b"], "latent": latent}), tmp_path / "v.parquet")
        with pytest.raises(ValueError, match="v.parquet: "):
            import_vectors(model, tmp_path / "v.parquet", library)
    pq.write_table(pa.table({"video": ["a"], "latent": pa.array([[2.0] * 8])}), tmp_path / "v.parquet")
    assert import_vectors(model, tmp_path / "v.parquet", library)["added"] == 1


@pytest.mark.parametrize("kind", ["IDMap,Flat", "IVF1,Flat", "LSH", "HNSW"])
def test_an_index_that_is_not_flat(model, library, tmp_path, kind):
    """Some of them would end the process when they are asked for their vectors."""
    faiss = pytest.importorskip("faiss")
    faiss.write_index(faiss.index_factory(8, kind), str(tmp_path / "v.faiss"))
    with pytest.raises(ValueError, match="v.faiss: holds an Index.*: give an IndexFlat"):
        import_vectors(model, tmp_path / "v.faiss", library)


@pytest.mark.parametrize("suffix, package", [(".faiss", "faiss"), (".parquet", "pyarrow.parquet")])
def test_a_package_that_is_not_installed(model, full, tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ValueError, match=rf'pip install "minivideococa\[{suffix[1:]}\]"'):
        export_vectors(full, tmp_path / f"v{suffix}")
    assert os.listdir(tmp_path / "pictures") and not list(tmp_path.glob("v.*"))


def test_places_that_cannot_be_written(full, tmp_path):
    with pytest.raises(ValueError, match=r"give a file of vectors: .npy, .faiss, .parquet"):
        export_vectors(full, tmp_path / "v.txt")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_vectors(full, tmp_path / "no" / "v.npy")
    with pytest.raises(ValueError, match="would overwrite an input"):
        export_vectors(full, Path(full) / "v.npy")
