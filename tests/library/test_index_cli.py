"""The commands `index` and `retrieve --index`: what they print, their exit status, one line for a mistake."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa import cli
from minivideococa.cli import retrieve
from minivideococa.demo import CLIPS

BROKEN = Path(__file__).parents[1] / "cases" / "broken.mp4"
TEXT = "a red ring and a green diamond"


@pytest.fixture
def run(capsys):
    """Run a command and return its exit status, standard output and standard error."""

    def run(*arguments):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run):
    """Run a command that must end with status 2 and one line, and return the line."""

    def refused(*arguments):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "") and err.startswith("minivideococa: ") and err.count("\n") == 1
        return err

    return refused


@pytest.fixture
def folder(tmp_path):
    """Clips in a folder and its subfolders; one is a folder of images, one is hidden, one is no video."""
    folder = tmp_path / "clips"
    for place, names in ("", ["pair", "single"]), ("more/deep", ["split"]), (".hidden", ["mixed"]):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(CLIPS / f"{name}.gif", folder / place)
    shutil.copytree(Path(__file__).parents[1] / "cases" / "img" / "fold_upright", folder / "images")
    (folder / "more" / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def library(run, folder, tmp_path):
    library = tmp_path / "library"
    assert run("index", folder, "-o", library, "--frames", 2)[0] == 0
    return library


def test_index_prints_how_many(run, folder, tmp_path):
    library = tmp_path / "library"
    line = f"{library}: 4 clips: 4 added, 0 there already\n"
    assert run("index", folder, "-o", library, "--frames", 2) == (0, line, "")
    assert run("index", folder, "-o", library)[1] == f"{library}: 4 clips: 0 added, 4 there already\n"
    (folder / "pair.gif").rename(folder / "moved.gif")
    (folder / "single.gif").unlink()
    line = "0 added, 2 there already, 1 moved, 1 whose files are gone: --prune removes them"
    assert run("index", folder, "-o", library)[1] == f"{library}: 4 clips: {line}\n"
    line = "0 added, 3 there already, 1 removed, their files are gone"
    assert run("index", folder, "-o", library, "--prune")[1] == f"{library}: 3 clips: {line}\n"


def test_index_as_json(run, folder, tmp_path):
    library = tmp_path / "library"
    shutil.copy(BROKEN, folder)
    status, out, err = run("index", folder, "-o", library, "--json", "--frames", 2)
    result = json.loads(out)
    [unreadable] = result.pop("unreadable")
    assert status == 3 and err == f"minivideococa: left out: {unreadable['why']}\n"
    assert unreadable["video"] == str(folder / "broken.mp4") in unreadable["why"]
    numbers = dict.fromkeys(("known", "copies", "moved", "replaced", "missing", "pruned"), 0)
    assert result == {"library": str(library), "clips": 4, "added": 4, **numbers}


def test_subfolders_that_cannot_be_used_are_left_out(run, folder, tmp_path):
    shutil.copy(folder / "pair.gif", folder / "images")
    status, out, err = run("index", folder, "-o", tmp_path / "library", "--frames", 2)
    assert status == 3 and "3 clips" in out
    assert f"left out: {folder / 'images'}: a folder of both videos and images" in err


def test_a_manifest(run, tmp_path):
    lines = [{"video": str(CLIPS / "pair.gif")}, {"video": str(CLIPS / "split.gif"), "start": 0.5, "end": 2}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]))
    assert run("index", tmp_path / "m.jsonl", "-o", tmp_path / "library", "--frames", 2)[0] == 0
    found = json.loads(run("retrieve", TEXT, "--index", tmp_path / "library", "--json")[1])["videos"]
    assert [(hit["video"], hit.get("start"), hit.get("end")) for hit in found] == [
        (str(CLIPS / "pair.gif"), None, None),
        (str(CLIPS / "split.gif"), 0.5, 2.0),
    ]


def test_retrieve(run, library, folder):
    """The order and, to float16 rounding, the cosines of `retrieve` without a library."""
    status, out, err = run("retrieve", TEXT, "--index", library, "--json")
    result, plain = json.loads(out), json.loads(run("retrieve", TEXT, folder, "--frames", 2, "--json")[1])
    assert status == 0 and "coloured shapes only" in err
    assert (result["text"], result["library"]) == (TEXT, str(library)) and len(result["videos"]) == 4
    best = result["videos"][0]
    assert best["video"] == str(folder / "pair.gif") == plain["videos"][0]["video"]
    assert best["cosine"] == pytest.approx(plain["videos"][0]["cosine"], abs=1e-3)
    assert best.keys() == {"video", "cosine", "time"} and 0 < best["time"] < 3
    lines = run("retrieve", TEXT, "--index", library)[1].splitlines()
    for line, hit in zip(lines, result["videos"], strict=True):
        cosine, path, *time = line.split("  ")[-3 if hit["time"] is not None else -2 :]
        assert (float(cosine), path) == (pytest.approx(hit["cosine"], abs=6e-4), hit["video"])
        assert time == ([] if hit["time"] is None else [retrieve.shown(hit["time"]).strip()])
    assert sum("images" in line for line in lines) == 1
    assert run("retrieve", TEXT, "--index", library, "--top", 2)[1].splitlines() == lines[:2]


def test_ten_hits_unless_told_otherwise(run, tmp_path, picture):
    (tmp_path / "many").mkdir()
    for i in range(12):
        (tmp_path / "many" / str(i)).mkdir()
        picture(tmp_path / "many" / str(i) / "1.png", i)
    run("index", tmp_path / "many", "-o", tmp_path / "library", "--frames", 1)
    for options, count in ([], 10), (["--top", 11], 11), (["--top", 99], 12):
        assert len(run("retrieve", TEXT, "--index", tmp_path / "library", *options)[1].splitlines()) == count


def test_a_video_as_the_query(run, library, folder):
    status, out, _ = run("retrieve", folder / "single.gif", "--index", library, "--json")
    result = json.loads(out)
    assert status == 0 and result["video"] == str(folder / "single.gif") and "text" not in result
    assert result["videos"][0]["video"] == str(folder / "single.gif")
    assert result["videos"][0]["cosine"] == pytest.approx(1, abs=1e-3)
    images = json.loads(run("retrieve", folder / "images", "--index", library, "--json")[1])["videos"][0]
    assert images["video"] == str(folder / "images") and images["time"] is None
    part = run("retrieve", folder / "pair.gif", "--index", library, "--start", "1", "--end", "2", "--top", 1)
    assert part[0] == 0 and part[1].startswith("0.9") and "pair.gif" in part[1]


def test_the_library_decides_adapter_and_frames(run, folder, tmp_path):
    library = tmp_path / "library"
    run("index", folder, "-o", library, "--adapter", "mean", "--frames", 3, "--dtype", "float32")
    best = json.loads(run("retrieve", folder / "pair.gif", "--index", library, "--json")[1])["videos"][0]
    assert best["cosine"] == pytest.approx(1, abs=1e-6)


def test_top_without_a_library(run, folder):
    whole = run("retrieve", TEXT, folder, "--frames", 1)[1].splitlines()
    assert run("retrieve", TEXT, folder, "--frames", 1, "--top", 1)[1].splitlines() == whole[:1]


def test_files_that_have_gone(run, library, folder):
    before = run("retrieve", TEXT, "--index", library)
    shutil.rmtree(folder)
    assert run("retrieve", TEXT, "--index", library) == before


@pytest.mark.parametrize(
    "time, text",
    [
        (None, ""),
        (0.0, "0:00.0"),
        (1.25, "0:01.2"),
        (59.96, "1:00.0"),
        (125.31, "2:05.3"),
        (3725.0, "1:02:05.0"),
    ],
)
def test_times_can_be_given_to_start(time, text):
    from minivideococa.media.sampling import seconds

    assert retrieve.shown(time).strip() == text
    assert time is None or seconds(text) == pytest.approx(time, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".faiss", ".parquet"])
def test_export_and_import(run, library, tmp_path, suffix):
    if suffix != ".npy":
        pytest.importorskip({".faiss": "faiss", ".parquet": "pyarrow"}[suffix])
    file, back = tmp_path / f"v{suffix}", tmp_path / "back"
    assert run("index", library, "-o", file) == (0, f"4 vectors of {library} in {file}\n", "")
    told = json.loads(run("index", library, "-o", file, "--json")[1])
    assert told == {"library": str(library), "clips": 4, "file": str(file)}
    assert run("index", file, "-o", back) == (0, f"{back}: 4 clips: 4 added, 0 there already\n", "")
    told = json.loads(run("index", file, "-o", back, "--json")[1])
    assert told == {"library": str(back), "clips": 4, "added": 0, "known": 4}
    hits = [json.loads(run("retrieve", TEXT, "--index", x, "--json")[1])["videos"] for x in (library, back)]
    assert hits[1] == [hit | {"time": None} for hit in hits[0]]


def test_options_without_effect_are_said(run, library, tmp_path):
    err = run("index", library, "-o", tmp_path / "v.npy", "--prune", "--frames", 3)[2]
    assert err == "minivideococa: --prune and --frames have no effect for an export\n"
    assert (
        "--prune has no effect for an import"
        in run("index", tmp_path / "v.npy", "-o", tmp_path / "back", "--prune")[2]
    )


# Mistakes


def test_a_library_of_another_kind(refused, library, folder, monkeypatch):
    for command in ["index", folder, "-o", library], ["retrieve", TEXT, "--index", library]:
        assert "made with adapter attentional, not mean" in refused(*command, "--adapter", "mean")
        assert "made with 2 frames a clip, not 3" in refused(*command, "--frames", 3)
    assert "made with dtype float16, not float32" in refused(
        "index", folder, "-o", library, "--dtype", "float32"
    )
    load = mvc.load

    def other(*arguments, **options):
        model = load()
        model.params["visual"]["proj"] = model.params["visual"]["proj"] * np.float32(2)
        return model

    monkeypatch.setattr("minivideococa.checkpoint.load", other)
    for command in ["index", folder, "-o", library], ["retrieve", TEXT, "--index", library]:
        assert f"{library}: this library was made with other weights (" in refused(*command)


def test_mistakes_of_index(refused, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("minivideococa.checkpoint.load", lambda *_, **__: pytest.fail("weights are loaded"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no videos in this folder or below it" in refused("index", empty, "-o", tmp_path / "x")
    assert "nowhere: no such file" in refused("index", "nowhere", "-o", tmp_path / "x")
    assert "a manifest has one JSON object" in refused("index", CLIPS / "pair.gif", "-o", tmp_path / "x")
    assert "broken.mp4: a video: give the folder" in refused("index", BROKEN, "-o", tmp_path / "x")
    assert "exists and is not empty" in refused("index", folder, "-o", folder)
    assert "pair.gif: exists and is a file" in refused("index", folder, "-o", folder / "pair.gif")
    assert "not a library: " in refused("index", folder, "-o", tmp_path / "v.npy")
    assert "v.npy: no such file" in refused("index", tmp_path / "v.npy", "-o", tmp_path / "x")
    assert "-o" in refused("index", folder)
    assert not (tmp_path / "x").exists()


def test_mistakes_of_retrieve(refused, library, folder, monkeypatch):
    monkeypatch.setattr("minivideococa.checkpoint.load", lambda *_, **__: pytest.fail("weights are loaded"))
    assert "VIDEO ... is missing, or --index LIBRARY" in refused("retrieve", TEXT)
    assert "with --index there is no VIDEO: 'x.mp4'" in refused("retrieve", TEXT, "x.mp4", "--index", library)
    assert "there is no library here" in refused("retrieve", TEXT, "--index", folder)
    assert "there is no library here" in refused("retrieve", TEXT, "--index", "nowhere")
    assert "x.mp4: there is no such file" in refused("retrieve", "x.mp4", "--index", library)
    assert "--start and --end" in refused("retrieve", TEXT, "--index", library, "--start", 1)
    assert "a folder of videos" in refused("retrieve", folder / "more" / "deep", "--index", library)
    assert "--top" in refused("retrieve", TEXT, "--index", library, "--top", 0)


def test_words_that_are_not_known(refused, library):
    assert "vocabulary lacks wrestling" in refused("retrieve", "wrestling", "--index", library)
