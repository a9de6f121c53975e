"""site/: what the page asks of the package, run natively, and what build.py packs."""

import hashlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.demo import CLIPS

SITE = Path(__file__).parents[1] / "site"
if not SITE.is_dir():
    pytest.skip("not a checkout", allow_module_level=True)


def module(name, folder):
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


session, build = module("session", SITE), module("build", SITE)
sys.path.remove(str(SITE))  # build.py finds session.py there
solutions = module("solutions", Path(__file__).parent / "exercises")


@pytest.fixture(scope="module")
def opened():
    """A session with an open clip."""
    running = session.Session()
    running.open_file(str(CLIPS / "brief.gif"))
    return running


def asked(opened, method, *arguments):
    return json.loads(session.call(opened, method, *arguments))


# The session


@pytest.mark.slow
def test_results_are_those_of_the_package(opened):
    model = mvc.load()
    video = model.encode(CLIPS / "brief.gif")
    looked = asked(opened, "look")
    assert looked["caption"] == model.caption(video)
    assert np.abs(np.array(looked["latent"]) - video.latent).max() < 1e-6
    assert asked(opened, "classify")["labels"][0][0] == "a yellow crescent"
    assert asked(opened, "answer", "what colour is the crescent?")["answer"] == "yellow"
    assert asked(opened, "answer", "is there a zebra?")["notes"] == ["The model does not know zebra."]


def test_a_map_for_each_word_and_two_more(opened):
    maps = asked(opened, "look")["maps"]
    words = "a photo of a yellow crescent".split()
    assert [x["name"] for x in maps] == [*words, "caption", "latent"]
    assert [x["word"] for x in maps] == [True] * 6 + [False] * 2
    for x in maps:
        assert np.shape(x["map"]) == (8, 64)
        assert sum(x["frames"]) == pytest.approx(1, abs=1e-3)
    assert sorted(np.argsort(maps[5]["frames"])[-2:]) == [3, 4]  # where the crescent is


def test_frames_of_the_browser_are_rgba(opened):
    other = session.Session()
    frames = mvc.read_video(CLIPS / "pair.gif")
    rgba = np.concatenate([frames, np.full((*frames.shape[:3], 1), 255, np.uint8)], axis=3)
    other.open_frames(memoryview(rgba.tobytes()), 64, 64)
    assert np.array_equal(other.frames, frames)


@pytest.mark.parametrize("name", session.FORMULAS)
def test_the_source_of_a_formula_runs_as_it_is_shown(opened, name):
    source = session.source_of(name)
    said = asked(opened, "edit", name, source)
    assert said["caption"] == said["original"]["caption"] and said["label"] == said["original"]["label"]


@pytest.mark.slow
def test_the_verdict_is_that_of_verify(opened):
    name = "pooling.attentional_pooler"
    source = session.source_of(name)
    assert asked(opened, "verdict", name, source)["right"]
    broken = source.replace('    context = layer_norm(context, **pooler["ln_k"])\n', "")
    assert broken != source
    said, verdict = asked(opened, "edit", name, broken), asked(opened, "verdict", name, broken)
    assert said["caption"] != said["original"]["caption"]
    assert not verdict["right"] and any("ln_k" in sentence for sentence in verdict["sentences"])
    assert [row for row in verdict["rows"] if row[1] == "wrong"][0][0] == "pool.attended"  # noqa: RUF015
    assert asked(opened, "verdict", name, source)["right"]  # nothing is left behind


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "def gelu(x):\n    return x.foo",
            "Line 2: AttributeError: 'numpy.ndarray' object has no attribute 'foo'",
        ),
        ("def gelu(x):\n    retrn x", "Line 2: invalid syntax."),
        ("x = 1 / 0", "Line 1: ZeroDivisionError: division by zero"),
        ("y = 1", "The model cannot go on: ValueError: the code defines no function gelu"),
    ],
)
def test_an_error_of_edited_code_is_one_line(opened, source, error):
    said = asked(opened, "edit", "ops.gelu", source)
    assert said["error"] == error
    assert asked(opened, "edit", "ops.gelu", session.source_of("ops.gelu"))["caption"]


def test_what_is_printed_is_shown(opened):
    said = asked(opened, "edit", "ops.gelu", "def gelu(x):\n    print('here')\n    return x")
    assert said["printed"].startswith("here\nhere\n")


def test_an_exercise_is_checked(opened):
    sources = {one["name"]: one["source"] for one in session.exercise_sources()}
    assert list(sources)[:3] == ["patchify", "attention", "pooler"]
    assert asked(opened, "check", "patchify", json.dumps(sources))["status"] == "not written yet"
    wrong = sources | {"patchify": "def patchify(pixels, patch_size):\n    return pixels.foo"}
    assert "patchify.py, line 2, in patchify: return pixels.foo" in " ".join(
        asked(opened, "check", "patchify", json.dumps(wrong))["lines"]
    )
    torn = sources | {"patchify": "def patchify(pixels, patch_size):\n    retrn pixels"}
    assert asked(opened, "check", "patchify", json.dumps(torn))["error"].startswith("Line 2: ")


@pytest.mark.slow
def test_a_later_exercise_may_call_an_earlier_one(opened):
    sources = {one["name"]: one["source"] for one in session.exercise_sources()}
    sources["patchify"] = "def patchify(: this one is not even Python"
    sources["attention"] = inspect.getsource(solutions.softmax) + inspect.getsource(solutions.attention)
    sources["pooler"] = inspect.getsource(solutions.pooler)
    assert asked(opened, "check", "pooler", json.dumps(sources))["status"] == "right"


def test_a_file_that_is_no_clip(opened, tmp_path):
    path = tmp_path / "torn.gif"
    path.write_bytes(b"GIF89a")
    assert asked(opened, "open_file", str(path))["error"].startswith(f"{path}: ")


# The build


@pytest.mark.slow
def test_the_build_is_complete_and_names_what_it_loads(tmp_path):
    wheel = tmp_path / "minivideococa-1-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    line = build.build(tmp_path / "out" / "site", wheel=wheel)
    folder, pinned = tmp_path / "out" / "site", json.loads((SITE / "runtime.json").read_text())
    settings = json.loads((folder / "site.json").read_text())
    assert pinned["base"] in line and settings["base"] == pinned["base"]
    assert settings["wheel"] == {wheel.name: [7, hashlib.sha256(b"a wheel").hexdigest()]}
    assert {x["file_name"] for x in settings["lock"]["packages"].values()} == set(pinned["packages"])
    assert sorted(path.name for path in (folder / "clips").iterdir()) == sorted(
        path.name for path in CLIPS.glob("*.gif")
    )
    index = json.loads((folder / "examples.json").read_text())
    for clip in index["clips"]:
        example = json.loads((folder / "examples" / clip["clip"].replace(".gif", ".json")).read_text())
        assert example["caption"] and example["answer"] and example["strip"].startswith("data:image/png")
    scripts = list(folder.glob("*.js"))
    imported = {name for path in scripts for name in path.read_text().split('"') if name.startswith("./")}
    assert imported and all((folder / name).is_file() for name in imported)


def test_another_runtime_is_refused(tmp_path):
    for name in build.runtime_files(json.loads((SITE / "runtime.json").read_text())):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"pyodide\.mjs: not the file of Pyodide"):
        build.build(tmp_path / "out", tmp_path, tmp_path / "pyodide.mjs")
    assert not (tmp_path / "out").exists()
