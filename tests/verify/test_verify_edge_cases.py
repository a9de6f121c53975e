"""Edge cases of `trace` and `verify`: dtypes, shapes, overflow, malformed inputs, targets, side effects."""

import json
import os
import re
import stat
from math import isnan
from pathlib import Path
from unicodedata import category

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from verify_helpers import (
    CLIP_MEAN,
    CLIP_STD,
    DTYPES,
    FEW,
    FOLDER,
    FORMS,
    FRAMES,
    IDS,
    INPUTS,
    NAMES,
    PAIR,
    edited,
    follow,
    having,
    noise,
    noise_after,
    only,
    raises_one_line,
    rounded,
    run,
    statuses,
    write,
)

import minivideococa as mvc
from minivideococa.checkpoint import assemble
from minivideococa.verify import as_json, text, verify, verify_file, write_trace

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # none is emitted, whatever comes

TEXTS = ["ids", *(name for name in NAMES if name.startswith("text."))]
UP_TO = ["ids", "text.embed", "text.block.0", "text.block.1"]
SAFETENSORS = {"float16": "F16", "float32": "F32", "float64": "F64", "uint8": "U8", "int64": "I64"}


def stored(x):
    """An array as `write` takes it."""
    return SAFETENSORS[str(x.dtype)], x.shape, np.ascontiguousarray(x).tobytes()


def bfloat16(x):
    """The same, in bfloat16."""
    return "BF16", x.shape, (rounded(x, "bfloat16").view(np.uint32) >> 16).astype("<u2").tobytes()


def row(report, name):
    return next(row for row in report.rows if row.name == name)


def misshapen(x):
    return x[..., :-1]


def sentences(report, name):
    """What the report says of a tensor outside its table, where each line has the shape."""
    shape = str(list(row(report, name).shape))
    return [line for line in text(report).split("\n") if name in line and shape not in line]


def says(*words):
    """A pattern: these, in any order."""
    return "".join(f"(?=.*{word})" for word in words)


# The dtype that rounding is judged by


@pytest.mark.parametrize("unknown", ["loss", "vision.block.9", "pool.latents", "Logits"])
def test_unknown_tensors_do_not_affect_the_dtype(kit, tmp_path, unknown):
    folder, truth = kit
    more = {unknown: np.ones(3, "float16")}
    save_file(truth | more, tmp_path / "trace")
    report = verify_file(tmp_path / "trace", folder)
    assert (report.dtype, report.first_divergence, report.unknown) == ("float64", None, [unknown])
    model = mvc.load(folder, dtype="float64")
    assert as_json(verify(model, truth | more)) == as_json(report)
    write(
        tmp_path / "trace", {name: stored(x) for name, x in truth.items()} | {unknown: bfloat16(np.ones(3))}
    )
    assert verify_file(tmp_path / "trace", folder).dtype == "float64"


@pytest.mark.parametrize("name", FEW)
def test_a_small_mistake_is_found_beside_a_coarse_unknown_tensor(kit, tmp_path, name):
    folder, truth = kit
    save_file(noise_after(truth, name, 1e-9) | {"loss": np.ones(3, "float16")}, tmp_path / "trace")
    report = verify_file(tmp_path / "trace", folder)
    assert (report.dtype, report.first_divergence.name) == ("float64", name)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_tensor_of_a_trace_affects_the_dtype(right, name, dtype):
    model, tape = right()
    assert verify(model, tape | {name: tape[name].astype(dtype)}).dtype == dtype


@pytest.mark.parametrize("name", FEW)
def test_our_own_float64_trace_is_judged_as_float64(right, name):
    """Its pixels are float32, as preprocessing makes them."""
    model, tape = right()
    assert tape["pixels"].dtype == "float32"
    report = verify(model, tape)
    assert (report.dtype, report.first_divergence) == ("float64", None)
    report = verify(model, noise_after(tape, name, 1e-9))
    assert (report.dtype, report.first_divergence.name) == ("float64", name)


def test_arrays_and_files_give_the_same_report(kit, tmp_path):
    folder, truth = kit
    model = mvc.load(folder, dtype="float64")
    for tape in (
        truth,
        {name: x for name, x in truth.items() if name != "pixels"},
        noise_after(truth, "logits", 1e-9),
    ):
        save_file(tape, tmp_path / "trace")
        in_memory, in_file = verify(model, tape), verify_file(tmp_path / "trace", folder)
        assert in_memory.dtype == in_file.dtype and as_json(in_memory) == as_json(in_file)


def test_frames_without_pixels_are_judged_as_float32(tiny_model):
    """Ours are rounded to float32, and a port that computes its own in float64 is none the worse for it."""
    model, frames = tiny_model(), FRAMES[:, :14, :14]
    exact = ((frames / 255 - CLIP_MEAN) / CLIP_STD).transpose(0, 3, 1, 2)
    for start in {}, {"pixels": exact}:
        tape = run(model, frames, start=start)
        del tape["pixels"]
        report = verify(model, tape)
        assert (report.dtype, report.first_divergence) == ("float32", None)
        assert (
            verify(model, noise_after(tape, "vision.block.0", 0.01)).first_divergence.name == "vision.block.0"
        )
        assert verify(model, tape, "float64").dtype == "float64"  # unless it is told
    half = {name: x for name, x in tape.items() if not name.startswith("vision")} | {
        "vision.embed": tape["vision.embed"].astype("float16")
    }
    assert verify(model, half).dtype == "float16"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_frames_and_pixels_of_a_float64_trace(tiny_model, dtype):
    """Made by hand, in float64 or rounded to float32: both right, and what follows is compared exactly."""
    model, frames = tiny_model(), FRAMES[:, :14, :14]
    pixels = ((frames / 255 - CLIP_MEAN) / CLIP_STD).transpose(0, 3, 1, 2).astype(dtype)
    tape = run(model, frames, start={"pixels": pixels})
    report = verify(model, tape)
    assert report.dtype == "float64" and set(statuses(report).values()) == {"ok"}
    assert verify(model, noise_after(tape, "vision.embed", 1e-9)).first_divergence.name == "vision.embed"


def test_frames_and_pixels_alone(right):
    model, tape = right()
    inputs = {name: tape[name] for name in ("frames", "pixels")}
    assert statuses(verify(model, inputs)) == {"pixels": "ok"}
    assert verify(model, noise_after(inputs, "pixels", 0.01)).first_divergence.name == "pixels"


# Pixels in their own dtype


@pytest.fixture(scope="module")
def coarse(kit):
    """dtype -> a float64 trace by the kit's model, computed from pixels that were rounded to the dtype."""
    folder, truth = kit
    model = mvc.load(folder, dtype="float64")
    return {
        dtype: run(model, truth["frames"], truth["ids"][None], {"pixels": rounded(truth["pixels"], dtype)})
        for dtype in ("float16", "bfloat16")
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_coarse_pixels_in_a_float64_trace_are_right(call, kit, coarse, tmp_path, dtype):
    folder, _ = kit
    tape = coarse[dtype]

    def file(tape):
        pixels = bfloat16(tape["pixels"]) if dtype == "bfloat16" else stored(tape["pixels"])
        return write(tmp_path / "trace", {name: stored(x) for name, x in tape.items()} | {"pixels": pixels})

    report = verify_file(file(tape), folder)
    assert report.dtype == "float64" and set(statuses(report).values()) == {"ok"}, text(report)
    assert row(report, "pixels").difference.rel > 1e-6  # in float32 they would be wrong
    assert max(x.difference.rel for x in report.rows if x.name != "pixels") < 1e-12
    assert call("verify", tmp_path / "trace", "--weights", folder)[0] == 0
    for name in "vision.embed", "pool.latent", "logits":  # what follows is judged from them, in float64
        assert verify_file(file(noise_after(tape, name, 1e-9)), folder).first_divergence.name == name
    wrong = noise(tape["pixels"].astype("float32"), 0.2).astype(tape["pixels"].dtype)
    assert verify_file(file(tape | {"pixels": wrong}), folder).first_divergence.name == "pixels"


def test_coarse_pixels_stored_in_a_finer_dtype_are_wrong(kit, coarse):
    """The same numbers, stored in float32."""
    folder, _ = kit
    tape = coarse["float16"] | {"pixels": coarse["float16"]["pixels"].astype("float32")}
    report = verify(mvc.load(folder, dtype="float64"), tape)
    assert report.first_divergence.name == "pixels" and having(report, "wrong") == {"pixels"}


# What a misshapen tensor hides


@settings(max_examples=examples(25))
@given(form=st.sampled_from(list(FORMS)), kept=st.sets(st.sampled_from(NAMES), min_size=2), data=st.data())
def test_a_misshapen_tensor_hides_only_what_is_computed_from_it(right, form, kept, data):
    """One tensor is misshapen, another wrong and propagated. It is inherited if it depends on the first.

    It does not depend on it if the trace has every tensor in between that it is computed from.
    """
    model, tape = right(form)
    cut, wrong = data.draw(st.lists(st.sampled_from(sorted(kept)), min_size=2, max_size=2, unique=True))
    tape = run(model, start={wrong: noise(tape[wrong], 0.3)})
    tape[cut] = misshapen(tape[cut])
    report = verify(model, only(tape, kept), "float64")
    culprits = {cut, wrong} - follow(form, cut, stop=kept)
    off = {cut, wrong} | follow(form, wrong)
    assert statuses(report) == {
        name: "wrong" if name in culprits else "inherited" if name in off else "ok" for name in kept
    }, (cut, wrong)
    assert report.first_divergence.name == min(culprits, key=NAMES.index)


def test_the_text_is_judged_after_a_misshapen_vision_tensor(right):
    model, tape = right()
    tape = run(model, start={"text.block.0": noise(tape["text.block.0"], 0.3)})
    tape["vision.block.0"] = misshapen(tape["vision.block.0"])
    report = verify(model, tape, "float64")
    assert having(report, "wrong") == {"vision.block.0", "text.block.0"}
    assert having(report, "inherited") == follow("released", "text.block.0")
    assert report.first_divergence.name == "vision.block.0"


@pytest.mark.parametrize("form", FORMS)
def test_the_latent_does_not_need_the_caption_tokens(right, form):
    model, tape = right(form)
    report = verify(
        model, noise_after(tape, "pool.latent", 0.3) | {"pool.tokens": misshapen(tape["pool.tokens"])}
    )
    assert having(report, "wrong") == {"pool.tokens", "pool.latent"} and having(report, "inherited") == set()


def test_a_block_after_a_misshapen_one_is_inherited_and_the_next_is_judged(tiny_model):
    """Block 0 is misshapen, so 1 cannot be judged; 2 is wrong given 1."""
    model = tiny_model(vision={"layers": 3})
    tape = run(model)
    tape = run(
        model,
        start={
            name: noise(tape[name], 0.3, seed)
            for seed, name in enumerate(["vision.block.1", "vision.block.2"])
        },
    )
    tape["vision.block.0"] = misshapen(tape["vision.block.0"])
    report = verify(model, tape)
    assert (
        having(report, "wrong") == {"vision.block.0", "vision.block.2"}
        and report.first_divergence.name == "vision.block.0"
    )
    found = statuses(report)
    assert [found[f"vision.{name}"] for name in ("embed", "block.0", "block.1", "block.2")] == [
        "ok",
        "wrong",
        "inherited",
        "wrong",
    ]
    assert found["pool.flat"] == found["pool.tokens"] == found["logits"] == "inherited"
    assert found["text.latent"] == found["decoder.block.0.self"] == "ok"


# What cannot be judged


def hidden(path, weights, bias=0.0):
    """model -> the model, whose MLP's hidden numbers there are larger by much, and its output by little."""

    def change(model):
        model = edited(model, f"{path}.c_fc.weight", lambda x: x * (weights / np.abs(x).max()))
        model = edited(model, f"{path}.c_fc.bias", lambda x: x + bias)
        return edited(model, f"{path}.c_proj.weight", lambda x: x * 1e-4)

    return change


BEYOND = {
    "weights": hidden("text.transformer.resblocks.1.mlp", 1e6),
    "activations": hidden("text.transformer.resblocks.1.mlp", 6e4, 6e4),
}


@pytest.fixture(scope="module", params=BEYOND)
def beyond(request, tiny_model):
    """A model whose text.block.1 overflows inside in float16; and its text tensors, rounded to float16."""
    model = BEYOND[request.param](tiny_model())
    return model, {name: rounded(x, "float16") for name, x in run(model).items() if name in TEXTS}


def test_a_right_trace_is_ok_where_float16_overflows(beyond):
    model, tape = beyond
    report = verify(model, tape)
    assert report.dtype == "float16" and set(statuses(report).values()) == {"ok"}, text(report)


def test_a_wrong_tensor_is_not_judged_where_float16_overflows(beyond):
    model, tape = beyond
    tape = noise_after({name: tape[name] for name in UP_TO}, "text.block.1", 0.3)
    report = verify(model, tape)
    assert statuses(report) == {"text.embed": "ok", "text.block.0": "ok", "text.block.1": "not judged"}
    assert report.first_divergence is None and report.mistake is None
    entry = json.loads(json.dumps(as_json(report), allow_nan=False))["tensors"][-1]
    assert (entry["name"], entry["status"], entry["allowed"]) == ("text.block.1", "not judged", None)
    assert any("judge" in line for line in sentences(report, "text.block.1")), text(report)
    assert "First divergence" not in text(report)


@pytest.mark.parametrize("name", TEXTS[3:])
def test_a_wrong_tensor_is_never_ok_where_float16_overflows(beyond, name):
    """Of text.block.1 and what comes after it."""
    model, tape = beyond
    report = verify(model, noise_after(tape, name, 0.3))
    assert row(report, name).status in ("wrong", "not judged")
    assert statuses(report)["text.block.0"] == "ok"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_without_overflow_are_judged(beyond, dtype):
    model, tape = beyond
    tape = noise_after(
        {name: x.astype("float64") if x.dtype == "float16" else x for name, x in tape.items()},
        "text.block.1",
        0.3,
    )
    assert row(verify(model, tape, dtype), "text.block.1").status == "wrong"


@pytest.mark.parametrize("name", ["text.embed", "text.block.0", "vision.block.1", "pool.latent"])
def test_tensors_without_overflow_are_judged(beyond, name):
    model, _ = beyond
    tape = {key: rounded(x, "float16") for key, x in run(model).items()}
    report = verify(model, noise_after(tape, name, 0.3))
    assert report.first_divergence.name == name and row(report, name).status == "wrong"


def test_an_infinity_that_float16_explains_is_not_judged(tiny_model):
    """The tensor itself is larger than float16's largest number."""
    model = edited(tiny_model(), "text.positional_embedding", lambda x: x + 1e5)
    tape = {name: x for name, x in run(model).items() if name in ("ids", "text.embed")}
    assert statuses(verify(model, tape, "float16")) == {"text.embed": "ok"}  # in float64, and right
    with np.errstate(over="ignore"):
        tape = {name: rounded(x, "float16") for name, x in tape.items()}
    report = verify(model, tape)
    assert np.isinf(tape["text.embed"]).all() and statuses(report) == {"text.embed": "not judged"}
    assert report.first_divergence is None and sentences(report, "text.embed")
    json.dumps(as_json(report), allow_nan=False)


def test_not_judged_is_status_0_and_reported(call, kit, tmp_path):
    folder, truth = kit
    path, checkpoint = tmp_path / "mine.safetensors", tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights, mlp = load_file(folder / "model.safetensors"), "text.transformer.resblocks.1.mlp"
    weights[f"{mlp}.c_fc.weight"] *= 1e6
    weights[f"{mlp}.c_proj.weight"] *= 1e-6
    save_file(weights, checkpoint / "model.safetensors")
    with mvc.trace() as tape:
        mvc.load(checkpoint, dtype="float64").encode_text(truth["ids"][None])
    tape = {name: rounded(tape[name], "float16") for name in UP_TO}
    save_file(noise_after(tape, "text.block.1", 0.3), path)
    status, out, err = call("verify", path, "--weights", checkpoint)
    assert (status, err) == (0, "") and "not judged" in out and "First divergence" not in out
    assert sum("text.block.1" in line for line in out.split("\n")) > 1  # in the table, and in a sentence
    status, out, _ = call("verify", path, "--weights", checkpoint, "--json")
    data = json.loads(out)
    assert (status, data["first_divergence"], data["diagnosis"]) == (0, None, None)
    assert [(x["status"], x["allowed"]) for x in data["tensors"]][-1] == ("not judged", None)
    save_file(noise_after(noise_after(tape, "text.block.1", 0.3), "text.embed", 0.3), path)
    assert call("verify", path, "--weights", checkpoint)[0] == 1  # something else is wrong


# Inputs that are none


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_pixels_that_are_not_finite_are_refused(right, number, dtype):
    """Where they are the input; made of frames, they are a mistake like any other."""
    model, tape = right()
    pixels = tape["pixels"].astype(dtype)
    pixels[1, 2, 3, 4] = number
    tape = tape | {"pixels": pixels}
    assert verify(model, tape).first_divergence.name == "pixels"
    del tape["frames"]
    raises_one_line(verify, model, tape, match=says("pixels", "finite"))


def test_pixels_that_are_not_finite_are_status_2(refused, kit, tmp_path):
    folder, truth = kit
    path = tmp_path / "mine.safetensors"
    for dtype in "float32", "float16":
        pixels = truth["pixels"].astype(dtype)
        pixels[0, 0, 0, 0] = np.nan
        save_file({name: x for name, x in truth.items() if name != "frames"} | {"pixels": pixels}, path)
        err = refused("verify", path, "--weights", folder)
        assert str(path) in err and "pixels" in err and "finite" in err


@pytest.mark.parametrize(
    "pixels",
    [
        FRAMES[:, :14, :14].transpose(0, 3, 1, 2),
        np.ones((3, 3, 14, 14), "int64"),
        np.full((3, 3, 14, 14), 2**62),
        np.full((3, 3, 14, 14), -(2**63)),
        np.full((3, 3, 14, 14), 2**64 - 1, "uint64"),
        np.zeros((3, 3, 14, 14), "int8"),
    ],
    ids=lambda x: f"{x.dtype} {x.flat[0]}",
)
def test_pixels_of_whole_numbers_are_refused(right, pixels):
    model, tape = right()
    tape = {name: x for name, x in tape.items() if name != "frames"} | {"pixels": pixels}
    raises_one_line(verify, model, tape, match=says("pixels", "floating.point"))


@pytest.mark.parametrize(
    "frames",
    [
        FRAMES / 255,
        FRAMES.astype("float32"),
        FRAMES.astype("float16"),
        np.full(FRAMES.shape, np.nan),
        np.full(FRAMES.shape, 1e300),
    ],
    ids=["to 1", "float32", "float16", "nan", "huge"],
)
@pytest.mark.parametrize("pixels", [False, True])
def test_frames_of_floats_are_refused(right, frames, pixels):
    model, tape = right()
    tape = {name: x for name, x in tape.items() if pixels or name != "pixels"} | {"frames": frames}
    raises_one_line(verify, model, tape, match="frames")


# Where a trace goes

PLACES = {
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to(os.devnull),
    "a named pipe": os.mkfifo,
    "a link to a folder": lambda path: path.symlink_to(path.parent),
}


@pytest.fixture
def idle(monkeypatch):
    """A model that fails the test as soon as it is asked for anything."""

    def asked(*_, **__):
        raise AssertionError("it was computed first")

    for name in (
        "encode",
        "preprocess",
        "encode_frames",
        "encode_video",
        "pool",
        "generate",
        "decode",
        "encode_text",
    ):
        monkeypatch.setattr(f"minivideococa.model.videococa.VideoCoCa.{name}", asked)


@pytest.mark.parametrize("kind", PLACES)
def test_a_target_that_is_not_a_file_is_refused_at_once(refused, idle, tmp_path, kind):
    path = tmp_path / "t.safetensors"
    PLACES[kind](path)
    before = path.lstat()
    assert str(path) in refused("trace", PAIR, "-o", path, "--weights", FOLDER)
    after = path.lstat()
    assert (after.st_mode, after.st_ino, after.st_mtime_ns) == (
        before.st_mode,
        before.st_ino,
        before.st_mtime_ns,
    )
    assert [x.name for x in tmp_path.iterdir()] == [path.name] and (
        not stat.S_ISDIR(after.st_mode) or not os.listdir(path)
    )


def test_the_null_device_is_refused_at_once(refused, idle):
    assert os.devnull in refused("trace", PAIR, "-o", os.devnull, "--weights", FOLDER)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_target_in_a_missing_folder_is_refused_at_once(refused, idle, tmp_path):
    (tmp_path / "file").write_text("")
    for path in tmp_path / "none" / "t.safetensors", tmp_path / "file" / "t.safetensors":
        assert str(path.parent) in refused("trace", PAIR, "-o", path, "--weights", FOLDER)
    assert [x.name for x in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("before", [None, "before"])
def test_a_full_disk_is_one_line(refused, right, tmp_path, monkeypatch, before):
    path = tmp_path / "t.safetensors"
    if before:
        path.write_text(before)

    def full(tensors, filename, *_, **__):
        Path(filename).write_bytes(b"the first half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    err = refused("trace", PAIR, "-o", path, "--weights", FOLDER, "--frames", 1)
    assert str(tmp_path) in err and path.name in err and "No space left" in err
    model, tape = right()
    raises_one_line(write_trace, path, tape, model, match="t.safetensors", error=OSError)
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == ({path.name: before} if before else {})


# What verify takes


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.float32, np.float16, np.dtype("float64"), np.dtype("float32"), np.dtype("float16")],
    ids=repr,
)
def test_dtype_accepts_numpy_types(right, dtype):
    model, tape = right()
    report, same = verify(model, tape, dtype=dtype), verify(model, tape, np.dtype(dtype).name)
    assert report.dtype == same.dtype == np.dtype(dtype).name
    assert as_json(report) == as_json(same) and text(report) == text(same)


@pytest.mark.parametrize("dtype", [np.int8, np.dtype("int64"), np.complex128, np.dtype("bool")], ids=repr)
def test_dtype_refuses_other_numpy_types(right, dtype):
    raises_one_line(verify, *right(), dtype=dtype, match=f"{np.dtype(dtype).name}.*bfloat16")


def test_lists_and_numbers_are_arrays(right):
    model, tape = right()
    tape = {name: x for name, x in tape.items() if name != "frames"}
    lists = {name: x.tolist() for name, x in tape.items()}
    report = verify(model, lists)
    assert report.dtype == "float64" and as_json(report) == as_json(
        verify(model, tape | {"pixels": tape["pixels"].astype("float64")})
    )
    assert verify(model, lists | {"pool.latent": tuple(lists["pool.latent"])}).first_divergence is None
    wrong = verify(model, lists | {"text.latent": 0.5, "loss": 2.5})
    assert (wrong.first_divergence.name, wrong.first_divergence.shape, wrong.unknown) == (
        "text.latent",
        (),
        ["loss"],
    )


def test_the_first_decoder_block_depends_on_the_text_alone(right):
    """Its first self-attention comes before any cross-attention."""
    model, tape = right()
    name = "decoder.block.0.self"
    alone = {key: tape[key] for key in ("ids", name)}
    report = verify(model, alone)
    assert (report.dtype, statuses(report)) == ("float64", {name: "ok"})
    report = verify(model, noise_after(alone, name, 1e-9))
    assert (report.first_divergence.name, report.computed_from) == (name, "ids")
    report = verify(model, noise_after(only(tape, ["text.tokens", name]), name, 1e-9), "float64")
    assert (report.first_divergence.name, report.computed_from) == (name, "text.tokens")
    wrong = run(edited(model, "text_decoder.resblocks.0.mlp.c_fc.bias", np.zeros_like))
    report = verify(model, {key: wrong[key] for key in ("ids", "text.tokens", name)})
    assert (report.first_divergence.name, report.mistake.name) == (name, "no_c_fc_bias")


def test_later_decoder_blocks_depend_on_the_video(right):
    model, tape = right()
    for name in "decoder.block.0.cross", "decoder.block.1.self", "decoder.block.1.cross", "logits":
        alone = {key: tape[key] for key in ("ids", "decoder.block.0.self", name)}
        raises_one_line(verify, model, alone, match=f"{re.escape(name)}.*(frames|pixels)")
    for inputs in {}, {"frames": FRAMES}:
        raises_one_line(
            verify,
            model,
            {"decoder.block.0.self": tape["decoder.block.0.self"]} | inputs,
            match=r"decoder\.block\.0\.self.*ids",
        )


def test_several_texts_and_no_video(tiny_model):
    model = tiny_model()
    ids = np.concatenate([IDS, [[1, 9, 3, 7, 8, 2]]])
    tape = {name: x for name, x in run(model, ids=ids).items() if name in (*TEXTS, "decoder.block.0.self")}
    assert set(statuses(verify(model, tape)).values()) == {"ok"}
    assert (
        verify(model, noise_after(tape, "decoder.block.0.self", 1e-9)).first_divergence.name
        == "decoder.block.0.self"
    )


def test_a_text_in_a_file_and_no_video(call, kit, tmp_path):
    folder, truth = kit
    tape = {name: truth[name] for name in ("ids", "decoder.block.0.self")}
    for size, status in (0, 0), (1e-9, 1):
        save_file(noise_after(tape, "decoder.block.0.self", size), tmp_path / "trace")
        ended, out, err = call("verify", tmp_path / "trace", "--weights", folder)
        assert (ended, err) == (status, "") and "decoder.block.0.self" in out


@pytest.mark.parametrize("dtype", ["BOOL", "I8", "I16", "U16", "I32", "U64", "F8_E4M3", "F8_E5M2", "BF16"])
def test_unknown_tensors_of_any_dtype_are_named(call, kit, tmp_path, dtype):
    folder, truth = kit
    size = {"BOOL": 8, "U64": 64}.get(dtype) or int(re.search(r"\d+", dtype)[0])
    path = write(
        tmp_path / "trace",
        {name: stored(x) for name, x in truth.items()}
        | {"step": (dtype, (4,), b"\0" * (size // 2)), "nothing": (dtype, (0, 3), b"")},
    )
    report = verify_file(path, folder)
    assert set(report.unknown) == {"step", "nothing"} and report.dtype == "float64"
    assert set(statuses(report).values()) == {"ok"}
    status, out, err = call("verify", path, "--weights", folder)
    assert (status, err) == (0, "") and "step" in out and "nothing" in out


@pytest.mark.parametrize(
    "x",
    [np.array([True]), np.ones(2, "int16"), np.ones(2, "complex64"), np.array("words")],
    ids=lambda x: str(x.dtype),
)
def test_unknown_arrays_of_any_dtype_are_named(right, x):
    model, tape = right()
    report = verify(model, tape | {"step": x})
    assert (report.unknown, report.dtype, report.first_divergence) == (
        ["step"],
        "float64",
        None,
    ) and "step" in text(report)


@pytest.mark.parametrize("frames", [FRAMES, FRAMES[:1]], ids=["frames", "one frame"])
def test_a_batch_axis_of_one_on_an_input_is_ignored(right, kit, tmp_path, frames):
    model, _ = right()
    tape = run(model, frames)
    tape["ids"] = tape["ids"].reshape(-1)
    for left in (
        tape,
        {name: x for name, x in tape.items() if name != "frames"},
        {name: x for name, x in tape.items() if name != "pixels"},
    ):
        report = as_json(verify(model, left))
        assert report["first_divergence"] is None
        for name in {"frames", "pixels", "ids"} & left.keys():
            assert as_json(verify(model, left | {name: left[name][None]})) == report, name
    folder, truth = kit
    save_file(truth | {name: truth[name][None] for name in ("frames", "pixels", "ids")}, tmp_path / "trace")
    assert verify_file(tmp_path / "trace", folder).first_divergence is None


def test_a_batch_axis_of_two_on_an_input_is_refused(right):
    model, tape = right()
    for name in "frames", "pixels":
        raises_one_line(
            verify,
            model,
            {"vision.embed": tape["vision.embed"], name: np.stack([tape[name]] * 2)},
            match=name,
        )


# What is said


def test_folders_and_empty_files_are_refused(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    save_file({}, tmp_path / "none")
    for path, word in (tmp_path / "folder", "folder|directory"), (tmp_path / "none", "nothing to compare"):
        err = refused("verify", path, "--weights", FOLDER)
        said = err.replace(str(path), "")
        assert str(path) in err and re.search(word, said)
        assert "Errno" not in said and len(said.split()) > 6  # what is wrong, and what to do
    err = refused("verify", "", "--weights", FOLDER)
    assert "Errno" not in err and len(err.split()) > 6
    assert not err.startswith("minivideococa: :")  # as if nothing had no name
    for path in "", tmp_path / "folder", tmp_path / "none":
        raises_one_line(verify_file, path, FOLDER, match=".", error=(ValueError, OSError))


NAUGHTY = [
    "loss\nlogits",
    "\x1b[2Jloss",
    "loss\rgone",
    "lo\x00ss",
    "loss\x07",
    "\x9b31mloss",
    "loss\x85next",
    "\tloss\x7f",
]


def controls(said):
    return [x for x in said if category(x) == "Cc" and x != "\n"]


@pytest.mark.parametrize("name", NAUGHTY, ids=ascii)
def test_a_name_cannot_break_the_report(call, kit, tmp_path, name):
    folder, truth = kit
    few = {key: truth[key] for key in ("ids", "text.embed")}
    lines = []
    for unknown in "plain", name:
        path = write(tmp_path / "trace", {key: stored(x) for key, x in (few | {unknown: np.ones(1)}).items()})
        status, out, err = call("verify", path, "--weights", folder)
        assert (status, err, controls(out)) == (0, "", [])
        lines.append(out.count("\n"))
        assert not controls(text(verify_file(path, folder)))
    assert lines[0] == lines[1] and "\\" in out  # escaped, and on one line
    write(tmp_path / "trace", {"ids": stored(truth["ids"]), name: stored(np.ones(1))})
    status, out, err = call("verify", path, "--weights", folder)
    assert (status, out, controls(err), err.count("\n")) == (2, "", [], 1)  # nothing to compare but it


@settings(max_examples=examples(50))
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), st.just(np.ones(1)), max_size=3))
def test_no_name_can_break_the_report(right, unknown):
    model, tape = right()
    tape = {name: tape[name] for name in ("ids", "text.embed")}
    said = text(verify(model, tape | {f"?{name}": x for name, x in unknown.items()}))
    plain = text(verify(model, tape | {f"?{i}": np.ones(1) for i in range(len(unknown))}))
    assert not controls(said) and said.count("\n") == plain.count("\n")


def test_trace_warns_of_unknown_words(call, tmp_path):
    """On standard error, in the words of `classify`."""
    path = tmp_path / "t.safetensors"

    def warned(err):
        return [line for line in err.split("\n") if "zebra" in line]

    status, out, err = call(
        "trace", PAIR, "-o", path, "--text", "a zebra", "--frames", 1, "--json", "--force"
    )
    assert status == 0 and json.loads(out)["tensors"] and "logits" in load_file(path)
    assert len(warned(err)) == 1
    assert warned(err) == warned(call("classify", PAIR, "--labels", "a zebra", "--frames", 1, "--force")[2])
    status, _, err = call("trace", PAIR, "-o", path, "--text", "a red ring", "--frames", 1)
    assert status == 0 and "lacks" not in err


# Nothing is left behind


def test_verify_records_nothing_in_an_active_trace(right, kit):
    model, tape = right()
    folder, _ = kit
    reports = [as_json(verify(model, x)) for x in (tape, noise_after(tape, "text.block.0", 0.1))]
    with mvc.trace() as t:
        assert [as_json(verify(model, x)) for x in (tape, noise_after(tape, "text.block.0", 0.1))] == reports
        verify(model, {"frames": FRAMES, "vision.embed": tape["vision.embed"]})
        verify_file(folder / "truth.safetensors", folder)
        with pytest.raises(ValueError, match="ids"):
            verify(model, tape | {"ids": np.array([1, -1])})
    assert t == {}


def test_an_active_trace_continues_after_verify(right):
    model, tape = right()
    with mvc.trace() as t:
        model.encode_text(IDS)
        before = dict(t)
        verify(model, noise_after(tape, "text.block.0", 0.1))
        assert t.keys() == before.keys() and all(t[name] is x for name, x in before.items())
        model.preprocess(FRAMES)
    assert set(t) - set(before) == {"frames"}


# Numbers


def nowhere(model, *begins):
    """The model with all parameters that begin so at zero."""

    def zeroed(branch, path):
        if isinstance(branch, dict):
            return {key: zeroed(x, f"{path}.{key}" if path else key) for key, x in branch.items()}
        if isinstance(branch, list):
            return [zeroed(x, f"{path}.{i}") for i, x in enumerate(branch)]
        return np.zeros_like(branch) if path.startswith(begins) else branch

    return assemble(model.config, zeroed(model.params, ""))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_reference_of_zeros(tiny_model, form, dtype):
    """A pooler that is nought: its outputs are measured absolutely, and have no cosine."""
    model = nowhere(tiny_model(vision=FORMS[form]), "visual.attn_pool.")
    tape = {name: rounded(x, dtype) for name, x in run(model).items()}
    assert not tape["pool.attended"].any()
    report = verify(model, tape, dtype)
    assert row(report, "pool.attended").status == "ok" and report.first_divergence is None
    zeros = row(report, "pool.attended").difference
    assert (zeros.max_abs, zeros.rel) == (0, 0) and isnan(zeros.cosine)
    off = tape["pool.attended"] + tape["pool.attended"].dtype.type(0.25)
    report = verify(model, tape | {"pool.attended": off}, dtype)
    found = row(report, "pool.attended")
    assert found.status == "wrong" and report.first_divergence.name == "pool.attended"
    assert found.difference.max_abs == 0.25 and isnan(found.difference.cosine)
    assert (
        0.25 <= found.difference.rel <= 0.25 * off.size**0.5
    )  # of one number, or of all: nothing divides it
    entry = next(
        x
        for x in json.loads(json.dumps(as_json(report), allow_nan=False))["tensors"]
        if x["name"] == "pool.attended"
    )
    assert (entry["rel"], entry["cosine"]) == (found.difference.rel, None)
    text(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_latent_of_length_zero(tiny_model, dtype):
    """Even where the truth itself is not a number, the report is one, and the others are judged."""
    model = nowhere(tiny_model(), "visual.attn_pool.", "visual.ln_post.", "visual.proj")
    with np.errstate(invalid="ignore"):
        tape = {
            name: rounded(x, dtype) for name, x in run(model, start={}).items()
        }  # {}: unchecked, as a port's
    report = verify(model, tape, dtype)
    assert {name for name, status in statuses(report).items() if status != "ok"} <= {"pool.latent"}
    text(report), json.dumps(as_json(report), allow_nan=False)


@settings(max_examples=examples(15))
@given(
    form=st.sampled_from(list(FORMS)),
    times=st.sampled_from([1, 3, -1, -0.7, 1e-3]),
    kept=st.sets(st.sampled_from(NAMES[1:]), min_size=1),
    dtype=st.sampled_from(DTYPES),
)
def test_cosines_are_between_minus_one_and_one(right, form, times, kept, dtype):
    """Of tensors that point the same way or the opposite one, where rounding would go beyond 1."""
    model, tape = right(form)
    tape = {name: tape[name] * times for name in kept} | {name: tape[name] for name in INPUTS}
    for found in verify(model, tape, dtype).rows:
        assert -1 <= found.difference.cosine <= 1
        assert found.difference.cosine == pytest.approx(np.sign(times), abs=1e-6)


@pytest.mark.parametrize("size", [1e300, 1e-300, 0])
@pytest.mark.parametrize("name", FEW)
def test_numbers_of_any_size_raise_no_warning(right, size, name):
    model, tape = right()
    report = verify(model, tape | {name: tape[name] * size})
    assert report.first_divergence.name == name
    for found in report.rows:
        assert -1 <= found.difference.cosine <= 1 or isnan(found.difference.cosine)
    text(report), json.dumps(as_json(report), allow_nan=False)
