"""`trace` and `verify` as commands: what they write and print, the exit status, one line for any mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from verify_helpers import FOLDER, KIT, PAIR, TRUTH

import minivideococa as mvc


def metadata(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


# trace


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trace_then_verify(call, tmp_path, dtype):
    """By the embedded checkpoint, of its own caption; what is written is what Python's trace collects."""
    path = tmp_path / "t.safetensors"
    status, out, err = call("trace", PAIR, "-o", path, "--dtype", dtype, "--frames", 2)
    assert (status, err) == (0, "") and all(name in out for name in ("frames", "pool.latent", "logits"))
    assert [x.name for x in tmp_path.iterdir()] == ["t.safetensors"]
    model, written = mvc.load(dtype=dtype), load_file(path)
    ids = written["ids"]
    assert ids.shape == (model.config.text.context_length,) and ids.dtype == np.int64
    caption = model.generate(model.encode(PAIR, 2).tokens)
    assert ids[: len(caption)].tolist() == caption.tolist()
    assert set(ids[len(caption) :]) <= {model.config.text.pad_id}
    with mvc.trace() as tape:
        video = model.encode(PAIR, 2)
        model.decode(video.tokens, ids[None])
    assert written.keys() == tape.keys() and len(written["frames"]) == 2
    for name, x in tape.items():
        np.testing.assert_allclose(written[name], x, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-5)
        assert written[name].dtype == x.dtype
    status, out, err = call("verify", path)
    assert (status, err) == (0, "") and "breaks" not in out and dtype in out and "logits" in out
    status, out, err = call("verify", path, "--json")
    assert (status, err) == (0, "") and json.loads(out)["first_divergence"] is None
    assert {x["status"] for x in json.loads(out)["tensors"]} == {"ok"}


def test_the_text_that_is_traced(call, tmp_path):
    path = tmp_path / "t.safetensors"
    assert call("trace", PAIR, "-o", path, "--text", "a red ring", "--frames", 1)[0] == 0
    model = mvc.load()
    np.testing.assert_array_equal(load_file(path)["ids"], model.tokenize(["a red ring"])[0])
    assert call("verify", path)[0] == 0


@pytest.mark.parametrize("name", ["as_released", "cascade", "one_frame", "odd_sizes", "pad_ids"])
def test_trace_then_verify_of_every_form(call, tmp_path, name):
    """Checkpoints without a tokenizer: the caption is ids all the same."""
    path = tmp_path / "t.safetensors"
    status, out, _ = call("trace", PAIR, "-o", path, "--weights", KIT / name, "--frames", 2, "--json")
    tensors, written = json.loads(out)["tensors"], load_file(path)
    assert status == 0 and {x["name"] for x in tensors} == set(written)
    for x in tensors:
        assert (x["shape"], x["dtype"]) == (list(written[x["name"]].shape), str(written[x["name"]].dtype))
    assert tensors[0]["name"] == "frames" and tensors[-1]["name"] == "logits"
    assert (
        json.loads(metadata(path)["config"])["model_cfg"]
        == json.loads((KIT / name / "config.json").read_text())["model_cfg"]
    )
    assert metadata(path)["version"] == mvc.__version__ and metadata(path)["made_by"]
    assert call("verify", path, "--weights", KIT / name)[0] == 0
    assert call("verify", KIT / name / "truth.safetensors", "--weights", KIT / name)[0] == 0


def test_trace_writes_over_an_older_one(call, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_text("older")
    assert call("trace", PAIR, "-o", path, "--weights", FOLDER)[0] == 0
    assert "logits" in load_file(path) and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_trace_into_the_current_folder(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("trace", PAIR, "-o", "t.safetensors", "--weights", FOLDER)[0] == 0
    assert os.listdir() == ["t.safetensors"]


def test_trace_refuses(refused, call, tmp_path):
    path = tmp_path / "t.safetensors"
    assert "nothing.mp4" in refused("trace", "nothing.mp4", "-o", path)
    assert "test_verify_cli.py" in refused("trace", __file__, "-o", path)
    assert "nowhere" in refused("trace", PAIR, "-o", path, "--weights", "nowhere")
    assert "tokenizer" in refused("trace", PAIR, "-o", path, "--weights", FOLDER, "--text", "a ring")
    for place in tmp_path / "none" / "t.safetensors", tmp_path:
        assert str(place.parent) in refused("trace", PAIR, "-o", place, "--weights", FOLDER)
    assert call("trace", PAIR)[0] == 2  # argparse's own two lines
    assert call("trace", PAIR, "-o", path, "--dtype", "float16")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (OSError, 2)])
@pytest.mark.parametrize("before", [None, "before"])
def test_an_interrupted_trace_leaves_no_file(call, tmp_path, monkeypatch, error, status, before):
    path = tmp_path / "t.safetensors"
    if before:
        path.write_text(before)

    def fail(*_):
        raise error("no room")

    monkeypatch.setattr("os.replace", fail)
    ended, out, err = call("trace", PAIR, "-o", path, "--weights", FOLDER)
    assert (ended, out) == (status, "") and "Traceback" not in err
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == ({path.name: before} if before else {})


# verify


def moved(truth, name, size=0.1):
    return truth | {name: truth[name] + size * np.random.default_rng(0).standard_normal(truth[name].shape)}


@pytest.mark.parametrize("name", ["vision.embed", "pool.tokens", "text.block.1", "logits"])
def test_a_divergence_is_status_1(call, tmp_path, truth, name):
    path = tmp_path / "mine.safetensors"
    save_file(moved(truth, name), path)
    status, out, err = call("verify", path, "--weights", FOLDER)
    assert (status, err) == (1, "") and f"First divergence: {name}. Recomputed from your " in out
    status, out, err = call("verify", path, "--weights", FOLDER, "--json")
    report = json.loads(out)
    assert (status, err) == (1, "") and (report["first_divergence"], report["diagnosis"]) == (name, None)
    assert {"first_divergence", "diagnosis", "tensors", "unknown"} < set(report)
    assert {x["name"] for x in report["tensors"]} == set(truth) - {"frames", "ids"}
    keys = {"name", "shape", "expected_shape", "axes", "max_abs", "rel", "cosine", "allowed"}
    keys |= {"local_error", "local_allowed", "agrees", "status", "sqnr"}
    assert all(set(x) == keys for x in report["tensors"])


def test_a_known_mistake_is_printed(call, tmp_path, truth):
    path = tmp_path / "mine.safetensors"
    mean, std = np.array([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
    bgr = ((truth["frames"][..., ::-1] / 255 - mean) / std).transpose(0, 3, 1, 2)
    save_file({"frames": truth["frames"], "pixels": np.ascontiguousarray(bgr, "float32")}, path)
    status, out, _ = call("verify", path, "--weights", FOLDER)
    assert status == 1 and "First divergence: pixels. Recomputed from your frames," in out
    assert "Likely cause:" in out and "BGR" in out
    status, out, _ = call("verify", path, "--weights", FOLDER, "--json")
    assert status == 1 and "BGR" in json.loads(out)["diagnosis"]


def test_nan_is_null_in_json(call, tmp_path, truth):
    path = tmp_path / "mine.safetensors"
    save_file(truth | {"text.block.0": truth["text.block.0"] * np.nan}, path)

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    status, out, _ = call("verify", path, "--weights", FOLDER, "--json")
    report = json.loads(out, parse_constant=no_constant)
    assert status == 1 and report["first_divergence"] == "text.block.0"
    assert [x["rel"] for x in report["tensors"] if x["name"] == "text.block.0"] == [None]


def test_the_dtype_that_it_was_computed_in(call, tmp_path, truth):
    """Half precision stored in float64 is wrong, unless --dtype says so."""
    path = tmp_path / "mine.safetensors"
    save_file(
        {
            name: x.astype("float16").astype("float64") if x.dtype == "float64" else x
            for name, x in truth.items()
        },
        path,
    )
    assert call("verify", path, "--weights", FOLDER)[0] == 1
    assert call("verify", path, "--weights", FOLDER, "--dtype", "float32")[0] == 1
    assert call("verify", path, "--weights", FOLDER, "--dtype", "float16")[0] == 0
    status, out, _ = call("verify", path, "--weights", FOLDER, "--dtype", "bfloat16")
    assert status == 0 and "bfloat16" in out


def test_part_of_a_trace_and_unknown_names(call, tmp_path, truth):
    path = tmp_path / "mine.safetensors"
    save_file({name: truth[name] for name in ("ids", "text.latent")} | {"loss": np.ones(1)}, path)
    status, out, err = call("verify", path, "--weights", FOLDER)
    assert (status, err) == (0, "") and "loss" in out and "text.latent" in out and "vision" not in out


def test_verify_refuses(refused, call, tmp_path, truth):
    whole, path = Path(TRUTH).read_bytes(), tmp_path / "mine.safetensors"
    for data in b"", b"no trace", whole[:5], whole[: len(whole) // 2], whole + b"\0", b"\xff" * 99:
        path.write_bytes(data)
        assert str(path) in refused("verify", path, "--weights", FOLDER)
        assert str(path) in refused("verify", path, "--weights", FOLDER, "--json")
    assert "nowhere" in refused("verify", "nowhere", "--weights", FOLDER)
    assert str(tmp_path) in refused("verify", tmp_path, "--weights", FOLDER)
    assert "pair.gif" in refused("verify", PAIR)
    assert "nowhere" in refused("verify", TRUTH, "--weights", "nowhere")
    assert "truth.safetensors" in refused("verify", TRUTH)  # of another model than the embedded
    assert "truth.safetensors" in refused("verify", TRUTH, "--weights", KIT / "cascade")
    assert "model.safetensors" in refused("verify", f"{FOLDER}/model.safetensors", "--weights", FOLDER)
    for arguments in [], [TRUTH, "--dtype", "int8"], [TRUTH, TRUTH], [TRUTH, "--frames", "3"]:
        assert call("verify", *arguments)[0] == 2


@pytest.mark.parametrize(
    ("left", "more"),
    [
        ([], {}),
        (["pixels", "ids"], {}),
        (["ids", "vision.embed"], {}),
        (["frames", "text.embed"], {}),
        (["frames"], {"vision.embed": np.zeros((3, 26, 24), "int8")}),
        (["ids"], {"text.embed": np.zeros(3, bool)}),
        (["text.embed"], {"ids": np.array([1, 40])}),
        (["text.embed"], {"ids": np.array([-1])}),
        (["text.embed"], {"ids": np.array([1.0])}),
        (["text.embed"], {"ids": np.zeros((2, 2, 2), int)}),
        (["vision.embed"], {"frames": np.zeros((3, 20, 20), "uint8")}),
        (["vision.embed"], {"frames": np.zeros((3, 20, 20, 3), "float32")}),
        (["vision.embed"], {"pixels": np.zeros((3, 20, 20, 3), "float32")}),
        (["vision.embed"], {"pixels": np.zeros((0, 3, 20, 20), "float32")}),
    ],
)
def test_incomplete_and_malformed_traces_are_refused(refused, tmp_path, truth, left, more):
    path = tmp_path / "mine.safetensors"
    save_file({name: truth[name] for name in left} | more, path)
    assert str(path) in refused("verify", path, "--weights", FOLDER)


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x[:-1],
        lambda x: np.stack([x, x]),
        lambda x: x.ravel()[:0],
        lambda x: x.ravel()[0],
        lambda x: np.moveaxis(x, 0, -1),
    ],
)
def test_wrong_shapes_are_a_divergence(call, tmp_path, truth, reshape):
    path = tmp_path / "mine.safetensors"
    wrong = np.ascontiguousarray(reshape(truth["pool.flat"])).reshape(reshape(truth["pool.flat"]).shape)
    save_file(truth | {"pool.flat": wrong}, path)
    status, out, err = call("verify", path, "--weights", FOLDER)
    assert (status, err) == (1, "") and "First divergence: pool.flat." in out
    assert str(list(wrong.shape)) in out and str(list(truth["pool.flat"].shape)) in out


def test_as_a_program(tmp_path, truth):
    """The commands as a shell sees them: three statuses, and Python's own words never."""
    wrong = tmp_path / "wrong.safetensors"
    save_file(moved(truth, "pool.flat"), wrong)
    for path, status in (TRUTH, 0), (wrong, 1), (__file__, 2):
        result = subprocess.run(
            [sys.executable, "-m", "minivideococa", "verify", path, "--weights", FOLDER],
            capture_output=True,
            text=True,
        )
        assert result.returncode == status and (result.stdout == "") == (status == 2)
        assert result.stderr.count("\n") == (status == 2) and "Traceback" not in result.stderr


def test_help_mentions_both_commands(call):
    status, out, _ = call("--help")
    assert status == 0 and "trace" in out and "verify" in out
    status, out, _ = call("verify", "--help")
    assert status == 0 and all(word in out for word in ("0", "1", "2", "--weights", "--json", "bfloat16"))
    status, out, _ = call("trace", "--help")
    assert status == 0
    assert all(word in out for word in ("-o", "--text", "--dtype", "--frames", "--weights", "float64"))
