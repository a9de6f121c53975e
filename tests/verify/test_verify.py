"""`verify` from Python: right traces, wrong tensors, known mistakes, the report, files, refused inputs."""

import copy
import json
import sys
from dataclasses import replace
from functools import partial
from itertools import cycle, pairwise
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from verify_helpers import (
    CLIP_MEAN,
    CLIP_STD,
    DTYPES,
    EPSILON,
    FEW,
    FORMS,
    FRAMES,
    IDS,
    INPUTS,
    KIT_FOLDERS,
    NAMES,
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
from minivideococa import trace as collect
from minivideococa.checkpoint import assemble
from minivideococa.checkpoint.config import parse_config
from minivideococa.model.hooks import replace_operations
from minivideococa.verify import MISTAKES, as_json, text, verify, verify_file, write_trace
from minivideococa.verify.formatting import KNOWN

# Right traces


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_our_own_trace_is_right(tiny_model, form, dtype):
    model = tiny_model(vision=FORMS[form], dtype=dtype)
    report = verify(model, run(model), dtype)
    assert statuses(report) == dict.fromkeys(NAMES, "ok") and [row.name for row in report.rows] == NAMES
    assert report.dtype == dtype and report.unknown == [] and report.first_divergence is None
    assert (report.computed_from, report.mistake, report.remaining) == (None, None, None)


@pytest.mark.parametrize("folder", KIT_FOLDERS, ids=lambda folder: folder.name)
def test_open_clip_and_our_model_agree(folder):
    """The kit's truth is open_clip's: ours, which it is compared with, must be the same in float64."""
    report = verify_file(folder / "truth.safetensors", folder)
    assert report.dtype == "float64" and report.first_divergence is None
    assert having(report, "ok") == set(statuses(report))
    assert len(report.rows) == len(load_file(folder / "truth.safetensors")) - 2
    assert max(row.difference.rel for row in report.rows if row.name != "pixels") < 1e-13


@settings(max_examples=examples(20))
@given(
    form=st.sampled_from(list(FORMS)),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(DTYPES[1:]),
    kept=st.sets(st.sampled_from(NAMES), min_size=1),
    padded=st.integers(0, 4),
)
def test_a_rounded_trace_is_right(tiny_model, form, seed, dtype, kept, padded):
    """Random models and tensors left out: a trace stored in a coarser dtype is right."""
    model = tiny_model(seed, "float32", vision=FORMS[form])
    ids = np.random.default_rng(seed).integers(1, 42, (1, 6)) * (np.arange(6) < 6 - padded)
    tape = {name: rounded(x, dtype) for name, x in only(run(model, ids=ids), kept).items()}
    report = verify(model, tape, dtype)
    assert report.first_divergence is None and set(statuses(report).values()) == {"ok"}, text(report)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        ("released", "bfloat16"),
        ("released", "float16"),
        ("same width", "float32"),
        ("parallel", "bfloat16"),
        ("cascade", "float16"),
    ],
)
def test_a_trace_that_rounds_after_every_step_is_right(tiny_model, form, dtype):
    """Each tensor is rounded and continued from, so that errors accumulate."""
    model, tape = tiny_model(7, vision=FORMS[form]), {}
    for name in NAMES:
        tape[name] = rounded(run(model, start=tape)[name], dtype).astype(np.float64)
    report = verify(model, tape | {"frames": FRAMES, "ids": IDS}, dtype)
    assert set(statuses(report).values()) == {"ok"}, text(report)
    assert max(row.difference.rel for row in report.rows) > 0


@pytest.mark.parametrize("form", ["released", "cascade"])
@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_a_port_in_half_precision_is_right(tiny_model, form, dtype):
    """Weights, pixels and what every operation takes and makes, rounded to it."""

    def narrow(x):
        if isinstance(x, dict):
            return {key: narrow(branch) for key, branch in x.items()}
        if isinstance(x, list):
            return [narrow(branch) for branch in x]
        return rounded(x, dtype).astype("float32")

    def rounding(function):
        return lambda x, *rest, **more: narrow(function(narrow(x), *rest, **more))

    model = tiny_model(3, "float32", vision=FORMS[form])
    model = edited(model, "text.positional_embedding", lambda x: x + 99)
    port = assemble(model.config, narrow(model.params))
    names = [f"ops.{name}" for name in ("linear", "layer_norm", "softmax", "gelu", "normalize")]
    with replace_operations(dict.fromkeys(names, rounding)):
        tape = run(port, start={"pixels": narrow(model.preprocess(FRAMES))})
    report = verify(model, tape, dtype)
    assert set(statuses(report).values()) == {"ok"}, text(report)
    report = verify(model, only(tape, ["text.latent", "logits"]), dtype)
    assert set(statuses(report).values()) == {"ok"}
    assert report.rows[0].difference.rel > 8 * EPSILON[dtype]  # for a norm takes the 99 away again
    assert verify(model, tape, "float32").first_divergence.name == "pixels"


def test_the_reference_is_float64_for_any_model(tiny_model):
    """The same numbers as float32 and float64 weights: the same report."""
    tape = noise_after(run(tiny_model(dtype="float32")), "text.block.1", 0.1)
    reports = [as_json(verify(tiny_model(dtype=dtype), tape)) for dtype in ("float32", "float64")]
    assert reports[0] == reports[1]
    exact = run(tiny_model())
    row = verify(tiny_model(dtype="float32"), exact, "float64").rows[-1]
    assert row.difference.rel < 1e-15


def test_the_dtype_is_the_coarsest_of_the_tensors(right):
    model, tape = right()
    stored = {name: x for name, x in tape.items() if name != "frames"}
    stored["pixels"] = tape["pixels"].astype("float64")
    assert verify(model, stored).dtype == "float64"
    assert verify(model, stored | {"text.latent": tape["text.latent"].astype("float32")}).dtype == "float32"
    assert (
        verify(
            model,
            stored
            | {
                "text.latent": tape["text.latent"].astype("float32"),
                "logits": tape["logits"].astype("float16"),
            },
        ).dtype
        == "float16"
    )
    assert verify(model, stored, "bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize("form", FORMS)
def test_the_allowed_error_grows_with_epsilon(right, form):
    model, tape = right(form)
    allowed = [{row.name: row.allowed for row in verify(model, tape, dtype).rows} for dtype in DTYPES]
    for finer, coarser in pairwise(allowed):
        for name in NAMES:
            assert finer[name] < coarser[name] or (name == "pixels" and finer[name] <= coarser[name]), name
    for by_name, epsilon in zip(allowed, EPSILON.values()):  # 8 times one rounding, or more
        assert all(8 * epsilon / 2 <= by_name[name] < 1000 * epsilon for name in NAMES if name != "pixels")


# Wrong tensors

some_names = st.sets(st.sampled_from(NAMES), min_size=1)


@settings(max_examples=examples(15))
@given(form=st.sampled_from(list(FORMS)), kept=some_names, data=st.data())
def test_an_error_that_is_not_propagated_shows_in_the_tensors_computed_from_it(right, form, kept, data):
    """One tensor is wrong, the others as they should be: then those computed from it do not fit it."""
    model, tape = right(form)
    name = data.draw(st.sampled_from(sorted(kept)))
    report = verify(model, only(noise_after(tape, name, 0.3), kept), "float64")
    assert report.first_divergence.name == name and report.mistake is None
    assert having(report, "wrong") == {name} | follow(form, name, stop=kept) & kept
    assert having(report, "inherited") == set() and set(statuses(report)) == kept


@settings(max_examples=examples(15))
@given(form=st.sampled_from(list(FORMS)), name=st.sampled_from(NAMES), kept=some_names)
def test_a_propagated_error_is_blamed_on_the_first_wrong_tensor(right, form, name, kept):
    """All that follows is wrong, none of it is to blame. Where the culprit is left out its readers are."""
    model, tape = right(form)
    tape = run(model, start={name: noise(tape[name], 0.3)})
    report = verify(model, only(tape, kept), "float64")
    culprits = {name} if name in kept else follow(form, name, stop=kept) & kept
    assert having(report, "wrong") == culprits
    assert having(report, "inherited") == follow(form, name) & kept - culprits
    assert (
        report.first_divergence is None
        if not culprits
        else report.first_divergence.name == min(culprits, key=NAMES.index)
    )


@settings(max_examples=examples(6))
@given(
    name=st.sampled_from(NAMES[1:]),
    dtype=st.sampled_from(DTYPES),
    times=st.floats(1.2, 1e6),
    below=st.floats(0, 0.8),
    seed=st.integers(0, 99),
)
def test_errors_just_below_and_above_the_allowed_one(right, name, dtype, times, below, seed):
    """A tensor off by a little less than what is allowed is right, by a little more, or by much, wrong."""
    model, tape = right()
    error = noise(tape[name], 1, seed) - tape[name]
    row = verify(model, only(tape | {name: tape[name] + error}, [name]), dtype).rows[0]
    assert row.local_error == pytest.approx(row.difference.rel)
    assert row.local_allowed == pytest.approx(row.allowed)
    most = row.allowed / row.difference.rel * error  # the relative error grows in proportion
    for part, status in (below, "ok"), (times, "wrong"):
        report = verify(model, only(tape | {name: tape[name] + part * most}, [name]), dtype)
        assert report.rows[0].status == status
        assert (report.first_divergence is None) == (status == "ok")
        assert report.rows[0].difference.rel == pytest.approx(part * row.allowed, rel=1e-3, abs=1e-14)


def test_the_differences_in_numbers(right):
    model, tape = right()
    for name in FEW:
        wrong = noise(tape[name], 0.2)
        (row,) = verify(model, only(tape | {name: wrong}, [name])).rows
        assert row.shape == row.expected_shape == tape[name].shape
        assert row.difference.max_abs == pytest.approx(np.abs(wrong - tape[name]).max())
        a, b = wrong.ravel(), tape[name].ravel()
        assert row.difference.cosine == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)))
        (doubled,) = verify(model, only(tape | {name: 2 * wrong - tape[name]}, [name])).rows
        assert doubled.difference.rel == pytest.approx(2 * row.difference.rel)


def test_one_wrong_number_is_enough(right):
    model, tape = right()
    for name in FEW:
        wrong = tape[name].copy()
        wrong.flat[-1] += 1e-3 * np.abs(wrong).max()
        assert verify(model, tape | {name: wrong}, "float32").first_divergence.name == name


def test_the_report_names_the_source_of_a_divergence(right):
    model, tape = right()
    for name, kept, source in [
        ("pixels", NAMES, "frames"),
        ("vision.embed", NAMES, "pixels"),
        ("vision.embed", [], "frames"),
        ("pool.attended", ["vision.embed", "pool.attended", "logits"], "vision.embed"),
        ("text.embed", NAMES, "ids"),
        ("text.block.1", ["text.embed", "text.block.1"], "text.embed"),
        ("pool.latent", NAMES, "pool.attended"),
        ("text.latent", NAMES, "text.block.1"),
        ("decoder.block.0.self", NAMES, "text.tokens"),
        ("decoder.block.1.self", NAMES, "decoder.block.0.cross"),
        ("logits", NAMES, "decoder.block.1.cross"),
    ]:
        report = verify(model, only(noise_after(tape, name, 0.3), [*kept, name]), "float64")
        assert (report.first_divergence.name, report.computed_from) == (name, source)
        assert f"First divergence: {name}. Recomputed from your {source}," in text(report)


# Wrong shapes, not-a-numbers, names


@pytest.mark.parametrize("name", ["pixels", "pool.latent", "text.block.0"])
@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: np.concatenate([x, x[:1]]),
        lambda x: x[1:],
        lambda x: np.stack([x, x]),
        lambda x: x.ravel()[:-1],
        lambda x: x.reshape(*x.shape, 1),
        lambda x: x.ravel()[0],
        lambda x: x[..., :0],
    ],
    ids=["one more", "one less", "batch axis", "flat", "axis behind", "a number", "nothing"],
)
def test_another_shape_is_wrong(right, name, reshape):
    model, tape = right()
    wrong = np.asarray(reshape(tape[name]))
    report = verify(model, tape | {name: wrong})
    row = report.first_divergence
    assert (row.name, row.shape, row.expected_shape) == (name, wrong.shape, tape[name].shape)
    named = report.mistake and report.mistake.name
    assert named == ("batch_axis" if wrong.shape == (2, *tape[name].shape) else None)
    assert having(report, "inherited") == set()
    said = text(report)
    assert str(list(row.shape)) in said and str(list(row.expected_shape)) in said
    json.dumps(as_json(report), allow_nan=False)


def test_a_batch_axis_of_one_is_ignored(right):
    model, tape = right()
    report = verify(model, {name: x if name == "frames" else x[None] for name, x in tape.items()}, "float64")
    assert set(statuses(report).values()) == {"ok"}
    assert [row.shape for row in report.rows] == [tape[row.name].shape for row in report.rows]


@pytest.mark.parametrize(("name", "number"), list(zip(NAMES[1::2], cycle([np.nan, np.inf, -np.inf]))))
def test_nan_and_infinity_are_wrong(right, name, number):
    model, tape = right()
    wrong = tape[name].copy()
    wrong.flat[wrong.size // 2] = number
    report = verify(model, tape | {name: wrong})
    assert report.first_divergence.name == name and report.mistake is None
    assert not np.isfinite(report.first_divergence.difference.rel) and isnan(
        report.first_divergence.difference.cosine
    )
    entry = json.loads(json.dumps(as_json(report), allow_nan=False))["tensors"][NAMES.index(name)]
    assert (entry["rel"], entry["cosine"], entry["status"]) == (None, None, "wrong")
    assert entry["allowed"] == report.first_divergence.allowed
    assert f"First divergence: {name}." in text(report)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the model's own, as it goes on from the inf
@pytest.mark.parametrize("name", ["vision.block.0", "text.block.0", "decoder.block.0.self"])
def test_a_propagated_overflow_is_blamed_on_the_first_wrong_tensor(right, name):
    model, tape = right()
    overflown = tape[name].copy()
    overflown.flat[3] = np.inf
    report = verify(model, run(model, start={name: overflown}), "float32")
    assert report.first_divergence.name == name and having(report, "wrong") == {name}
    assert having(report, "inherited") == follow("released", name)
    json.dumps(as_json(report), allow_nan=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_overflow_in_one_frame_hides_no_error_in_another(right):
    model, tape = right()
    overflown = tape["vision.block.0"].copy()
    overflown[0, 3, 3] = np.inf
    tape = run(model, start={"vision.block.0": overflown})
    tape["vision.block.1"][2] = noise(tape["vision.block.1"][2], 0.3)
    report = verify(model, tape, "float64")
    assert {"vision.block.0", "vision.block.1"} <= having(report, "wrong")


def test_unknown_names_are_reported(right):
    model, tape = right()
    unknown = {"vision.block.2": tape["vision.block.1"], "Logits": tape["logits"], "step": np.array(7)}
    report = verify(model, tape | unknown)
    assert set(report.unknown) == set(unknown) and [row.name for row in report.rows] == NAMES
    assert report.first_divergence is None and all(name in text(report) for name in unknown)
    half = {name: x for name, x in tape.items() if name.startswith(("frames", "pool"))}
    assert verify(model, half | {"text.cls_emb": np.zeros(8)}).unknown == ["text.cls_emb"]


# The inputs


@pytest.mark.parametrize("names", [("frames",), ("pixels",), ("frames", "pixels")])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_frames_or_pixels_or_both(tiny_model, names, dtype):
    model = tiny_model(dtype=dtype)
    tape = run(model)
    left = {name: x for name, x in tape.items() if name in names or name not in ("frames", "pixels")}
    for wrong in False, True:
        report = verify(model, noise_after(left, "vision.embed", 0.1) if wrong else left, dtype)
        assert ("pixels" in statuses(report)) == (len(names) == 2)  # else the truth is made from them
        assert (report.first_divergence and report.first_divergence.name) == (
            "vision.embed" if wrong else None
        )
        assert report.computed_from == (names[-1] if wrong else None)


def test_pixels_in_float64_are_not_rounded(tiny_model):
    """Not rounded to float32 on the way: the truth is made from them."""
    model = tiny_model()
    pixels = np.random.default_rng(3).standard_normal((2, 3, 14, 14))
    with collect() as tape:
        model.encode_video(pixels)
    report = verify(model, dict(tape))
    assert report.dtype == "float64" and report.first_divergence is None


def test_pixels_computed_in_float64(tiny_model):
    """They differ from ours, which are float32; that is no mistake, and what follows is compared exactly."""
    model, frames = tiny_model(), FRAMES[:, :14, :14]
    exact = ((frames / 255 - CLIP_MEAN) / CLIP_STD).transpose(0, 3, 1, 2)
    report = verify(model, run(model, frames, start={"pixels": exact}), "float64")
    assert set(statuses(report).values()) == {"ok"}
    assert 0 < report.rows[0].difference.rel < 1e-6
    assert max(row.difference.rel for row in report.rows[1:]) < 1e-14


@pytest.mark.parametrize("frames", [FRAMES[:1], FRAMES[:2], np.repeat(FRAMES, 4, axis=0)], ids=len)
def test_any_number_of_frames(tiny_model, frames):
    model = tiny_model()
    tape = run(model, frames)
    assert verify(model, tape, "float64").first_divergence is None
    assert verify(model, noise_after(tape, "pool.flat", 0.1)).first_divergence.name == "pool.flat"


def test_several_texts(tiny_model):
    model = tiny_model()
    ids = np.concatenate([IDS, [[1, 9, 3, 7, 8, 2]], [[1, 2, 0, 0, 0, 0]]])
    tape = run(model, ids=ids)
    assert tape["logits"].shape[0] == 3
    for dtype in DTYPES:
        assert verify(model, tape, dtype).first_divergence is None
    for name in "text.embed", "text.latent", "decoder.block.1.cross":
        wrong = tape[name].copy()
        wrong[2] = noise(wrong[2], 0.1)  # in one of the texts only
        assert verify(model, tape | {name: wrong}).first_divergence.name == name
        report = verify(model, tape | {name: tape[name][0]})
        assert (report.first_divergence.name, report.first_divergence.expected_shape) == (
            name,
            tape[name].shape,
        )


@pytest.mark.parametrize(
    ("inputs", "begins"),
    [(("ids",), "text."), (("frames",), ("vision.", "pool.")), (("pixels",), ("vision.", "pool."))],
)
def test_a_text_or_a_video_alone(right, inputs, begins):
    model, tape = right()
    half = {name: x for name, x in tape.items() if name in inputs or name.startswith(begins)}
    report = verify(model, half)
    assert report.first_divergence is None
    assert [row.name for row in report.rows] == [name for name in NAMES if name.startswith(begins)]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_ids_of_any_integer_dtype(right, dtype):
    model, tape = right()
    assert verify(model, tape | {"ids": tape["ids"].astype(dtype)}).first_divergence is None


def test_inputs_other_than_those_it_was_computed_from(right):
    model, tape = right()
    for inputs, name in (
        ({"frames": FRAMES[::-1]}, "pixels"),
        ({"frames": FRAMES[:2]}, "pixels"),
        ({"ids": np.array([1, 5, 7, 2, 0, 0])}, "text.embed"),
        ({"ids": tape["ids"][:5]}, "text.embed"),
    ):
        assert verify(model, tape | inputs).first_divergence.name == name


BAD = {
    "nothing": ((), {}, "nothing to compare"),
    "inputs only": (INPUTS, {}, "nothing to compare"),
    "pixels only": (["ids"], {"pixels": np.zeros((1, 3, 14, 14), "float32")}, "nothing to compare"),
    "unknown only": (INPUTS, {"vision.blocks.0": np.zeros(3)}, r"nothing to compare.*vision\.blocks\.0"),
    "no video": (["ids", "vision.embed"], {}, "vision.embed.*(frames|pixels)"),
    "no video, decoder": (["ids", "logits"], {}, "logits.*(frames|pixels)"),
    "no text": (["frames", "text.embed"], {}, "text.embed.*ids"),
    "no text, decoder": (["frames", "logits"], {}, "logits.*ids"),
    "whole numbers": (["frames"], {"vision.embed": np.zeros((3, 10, 12), int)}, "vision.embed.*int64"),
    "truth values": (["frames"], {"vision.embed": np.zeros((3, 10, 12), bool)}, "vision.embed.*bool"),
    "complex": (["frames"], {"vision.embed": np.zeros((3, 10, 12), complex)}, "vision.embed.*complex"),
    "frames of floats": (["vision.embed"], {"frames": FRAMES / 255}, "frames.*uint8"),
    "one frame without its axis": (["vision.embed"], {"frames": FRAMES[0]}, "frames"),
    "frames channels first": (["vision.embed"], {"frames": FRAMES.transpose(0, 3, 1, 2)}, "frames"),
    "no frame": (["vision.embed"], {"frames": FRAMES[:0]}, "."),
    "pixels channels last": (["vision.embed"], {"pixels": np.zeros((3, 14, 14, 3))}, "pixels"),
    "pixels of another size": (["vision.embed"], {"pixels": np.zeros((3, 3, 15, 15))}, "pixels"),
    "pixels without an axis": (["vision.embed"], {"pixels": np.zeros((3, 14, 14))}, "pixels"),
    "no pixels": (["vision.embed"], {"pixels": np.zeros((0, 3, 14, 14))}, "pixels"),
    "ids of floats": (["text.embed"], {"ids": np.ones(6)}, "ids"),
    "ids that are no numbers": (["text.embed"], {"ids": np.full(6, np.nan)}, "ids"),
    "ids below 0": (["text.embed"], {"ids": np.array([1, -1])}, "ids.*-1"),
    "ids beyond the vocabulary": (["text.embed"], {"ids": np.array([1, 42])}, "ids.*42"),
    "no ids": (["text.embed"], {"ids": np.zeros(0, int)}, "ids"),
    "too many ids": (["text.embed"], {"ids": np.ones(10, int)}, "ids"),
    "ids of three axes": (["text.embed"], {"ids": np.ones((2, 1, 6), int)}, "ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_malformed_traces_are_refused_in_one_line(right, case):
    model, tape = right()
    names, more, match = BAD[case]
    raises_one_line(verify, model, {name: tape[name] for name in names} | more, match=match)


def test_other_dtypes_are_refused(right):
    raises_one_line(verify, *right(), "int8", match="int8.*bfloat16")


# Known mistakes. All of them, carried through by a port, in every dtype: test_verify_port.py


def configured(model, part, **fields):
    """The model with some fields of one part of its configuration changed."""
    other = replace(getattr(model.config, part), **fields)
    return assemble(replace(model.config, **{part: other}), model.params)


BLOCKS = {
    f"{branch}.{i}": name.format(i)
    for i in (0, 1)
    for branch, name in [
        ("visual.transformer.resblocks", "vision.block.{}"),
        ("text.transformer.resblocks", "text.block.{}"),
        ("text_decoder.resblocks", "decoder.block.{}.self"),
        ("text_decoder.cross_attn", "decoder.block.{}.cross"),
    ]
}
A_BLOCK_OF_EACH_KIND = list(BLOCKS.items())[4:]


def by_third(change):
    """in_proj's thirds, for queries, keys and values, changed: change([q, k, v]) -> [q, k, v]."""
    return lambda x: np.concatenate(change(np.split(x, 3)))


IN_PROJ = ["attn.in_proj_weight", "attn.in_proj_bias"]
IN_AN_MLP = [
    ("no_c_fc_bias", ["mlp.c_fc.bias"], np.zeros_like),
    ("no_c_proj_bias", ["mlp.c_proj.bias"], np.zeros_like),
]
IN_ATTENTION = [
    ("no_in_proj_bias", ["attn.in_proj_bias"], np.zeros_like),
    ("no_out_proj_bias", ["attn.out_proj.bias"], np.zeros_like),
    ("out_proj_transposed", ["attn.out_proj.weight"], np.transpose),
    ("qkv_transposed", ["attn.in_proj_weight"], by_third(lambda qkv: [x.T for x in qkv])),
    ("kv_swapped", IN_PROJ, by_third(lambda qkv: [qkv[0], qkv[2], qkv[1]])),
    ("qv_swapped", IN_PROJ, by_third(lambda qkv: qkv[::-1])),
    ("attention_unscaled", IN_PROJ, by_third(lambda qkv: [2 * qkv[0], *qkv[1:]])),
]


@pytest.mark.parametrize(
    ("path", "name", "mistake", "leaves", "change"),
    [
        *((*block, *mistake) for block in A_BLOCK_OF_EACH_KIND for mistake in IN_AN_MLP),
        *(
            (*block, *mistake)
            for block in [A_BLOCK_OF_EACH_KIND[3], ("visual.attn_pool", "pool.attended")]
            for mistake in IN_ATTENTION
        ),
    ],
)
def test_a_mistake_in_one_block_is_named(right, path, name, mistake, leaves, change):
    """Its block is wrong; later ones are right by themselves. A head is 4 wide, so its square root is 2."""
    model, _ = right("same width")
    wrong = model
    for leaf in leaves:
        wrong = edited(wrong, f"{path}.{leaf}", change)
    report = verify(model, run(wrong), "float64")
    assert having(report, "wrong") == {name} and report.mistake and report.mistake.name == mistake
    assert report.remaining < report.first_divergence.local_allowed
    assert as_json(report)["diagnosis"].startswith(report.mistake.description)
    assert f"Likely cause: {report.mistake.description}" in text(report)


@pytest.mark.parametrize(
    ("mistake", "expected", "change"),
    [
        ("bgr_kernel", "vision.embed", lambda m: edited(m, "visual.conv1.weight", lambda x: x[:, ::-1])),
        (
            "patch_transposed",
            "vision.embed",
            lambda m: edited(m, "visual.conv1.weight", lambda x: x.swapaxes(2, 3)),
        ),
        (
            "patch_channels_last",
            "vision.embed",
            lambda m: edited(
                m, "visual.conv1.weight", lambda x: x.reshape(len(x), 4, 4, 3).transpose(0, 3, 1, 2)
            ),
        ),
        (
            "positions_shifted",
            "vision.embed",
            lambda m: edited(m, "visual.positional_embedding", lambda x: np.roll(x, 1, 0)),
        ),
        (
            "text_positions_shifted",
            "text.embed",
            lambda m: edited(m, "text.positional_embedding", lambda x: np.roll(x, -1, 0)),
        ),
        ("pool_proj_transposed", "pool.latent", lambda m: edited(m, "visual.proj", np.transpose)),
        (
            "text_projection_transposed",
            "text.latent",
            lambda m: edited(m, "text.text_projection", np.transpose),
        ),
        ("quick_gelu", "vision.block.0", lambda m: configured(m, "vision", quick_gelu=True)),
        ("quick_gelu", "text.block.0", lambda m: configured(m, "text", quick_gelu=True)),
        ("quick_gelu", "decoder.block.0.self", lambda m: configured(m, "decoder", quick_gelu=True)),
        ("mask_not_shifted", "text.block.0", lambda m: configured(m, "text", correct_cls_mask=True)),
        ("no_padding_mask", "text.block.0", lambda m: configured(m, "text", pad_id=41)),
        ("no_ln_pre", "vision.embed", lambda m: configured(m, "vision", ln_pre=False)),
    ],
)
def test_a_mistake_is_named(right, mistake, expected, change):
    model, _ = right("same width")
    report = verify(model, run(change(model)), "float32")
    assert (report.first_divergence.name, report.mistake and report.mistake.name) == (expected, mistake)
    assert as_json(report)["first_divergence"] == expected


def tanh_gelu(x):
    return x / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("mistake", "expected", "name", "function"),
    [
        (
            "layer_norm_eps",
            "vision.embed",
            "ops.layer_norm",
            lambda norm: partial(norm, eps=1e-6),
        ),
        ("not_unit", "pool.latent", "ops.normalize", lambda normalize: lambda x: x),
        ("tanh_gelu", "vision.block.0", "ops.gelu", lambda gelu: tanh_gelu),
        ("query_0_kept", "pool.tokens", "pooling.split_queries", lambda split: lambda x: (x[0], x)),
        (
            "latent_last_query",
            "pool.latent",
            "pooling.split_queries",
            lambda split: lambda x: (x[-1], x[1:]),
        ),
        (
            "last_query_dropped",
            "pool.tokens",
            "pooling.split_queries",
            lambda split: lambda x: (x[0], x[:-1]),
        ),
        (
            "no_class_embedding",
            "vision.embed",
            "vision.embed",
            lambda embed: lambda *rest: (lambda x: np.concatenate([x[:, 1:], x[:, :0]], 1))(embed(*rest)),
        ),
    ],
)
def test_a_mistake_in_an_operation_is_named(right, mistake, expected, name, function):
    model, _ = right()
    with replace_operations({name: function}):
        tape = run(model)
    report = verify(model, tape, "float64")
    assert (report.first_divergence.name, report.mistake and report.mistake.name) == (expected, mistake)


def test_exact_gelu_instead_of_quick_gelu(tiny_model):
    model = tiny_model(quick_gelu=True)
    report = verify(model, run(configured(model, "vision", quick_gelu=False)))
    assert (report.first_divergence.name, report.mistake.name) == ("vision.block.0", "no_quick_gelu")


def pixels_of(mean, std, scale=255.0):
    """Frames of the right size -> pixels."""
    return lambda frames: ((frames / scale - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.mark.parametrize("without", [[], ["pixels"], NAMES[:4]], ids=["pixels", "no pixels", "no vision"])
@pytest.mark.parametrize(
    ("mistake", "pixels"),
    [
        ("bgr", lambda frames: pixels_of(CLIP_MEAN, CLIP_STD)(frames[..., ::-1])),
        ("pixels_not_normalized", pixels_of(0, 1)),
        ("pixels_to_255", pixels_of(CLIP_MEAN, CLIP_STD, 1)),
        ("pixels_raw", pixels_of(0, 1, 1)),
        ("imagenet_mean", pixels_of((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ],
)
def test_wrong_pixels_are_named(tiny_model, mistake, pixels, without):
    """Computed by hand from frames that need no resizing, and propagated; pixels may be left out."""
    model, frames = tiny_model(), FRAMES[:, :14, :14]
    np.testing.assert_allclose(pixels_of(CLIP_MEAN, CLIP_STD)(frames), model.preprocess(frames), atol=1e-5)
    tape = run(model, frames, start={"pixels": pixels(frames)})
    for name in without:
        del tape[name]
    report = verify(model, tape, "float32")
    assert report.mistake and report.mistake.name == mistake
    assert report.first_divergence.name == next(name for name in NAMES if name in tape)
    assert report.computed_from == "frames"
    assert mistake != "bgr" or ("BGR" in report.mistake.description and "BGR" in text(report))


def owner(path):
    """The first tensor of a trace that a parameter changes."""
    for block, name in BLOCKS.items():
        if path.startswith(f"{block}."):
            return name
    begins = {
        "visual.attn_pool.": "pool.attended",
        "visual.ln_post": "pool.tokens",
        "visual.proj": "pool.latent",
        "visual.": "vision.embed",
        "text.ln_final": "text.latent",
        "text.text_projection": "text.latent",
        "text.": "text.embed",
        "text_decoder.": "logits",
    }
    return next((name for begin, name in begins.items() if path.startswith(begin)), None)


def paths(branch, before=""):
    for key, x in enumerate(branch) if isinstance(branch, list) else branch.items():
        if isinstance(x, (dict, list)):
            yield from paths(x, f"{before}{key}.")
        else:
            yield f"{before}{key}"


@settings(max_examples=examples(15))
@given(data=st.data())
def test_a_perturbed_parameter_is_located_and_has_no_known_cause(right, data):
    """The first tensor that shows an unknown error is reported, without a diagnosis."""
    model, _ = right()
    path = data.draw(st.sampled_from(sorted(paths(model.params))))
    report = verify(model, run(edited(model, path, lambda x: noise(x, 0.1))), "float64")
    if path == "logit_scale":  # comes after all that is traced
        assert report.first_divergence is None
        return
    assert report.first_divergence.name == owner(path) and report.mistake is None and report.remaining is None
    assert as_json(report)["diagnosis"] is None and "Likely cause:" not in text(report)
    if not path.startswith("visual.ln_post"):  # which makes the tokens and the latent
        assert having(report, "wrong") == {owner(path)}


def test_other_weights_are_recognized(tiny_model):
    report = verify(tiny_model(), run(tiny_model(seed=1)), "float64")
    assert report.first_divergence.name == "vision.embed" and [
        fault.mistake.name for fault in report.faults
    ] == ["other_weights"]
    assert statuses(report)["text.embed"] == "wrong" and statuses(report)["pixels"] == "ok"


def test_the_catalogue():
    names = [mistake.name for mistake in MISTAKES]
    assert isinstance(MISTAKES, tuple) and len(set(names)) == len(names) >= 15
    assert {
        "tanh_gelu",
        "quick_gelu",
        "no_quick_gelu",
        "layer_norm_eps",
        "no_ln_pre",
        "no_ln_q",
        "no_ln_k",
        "attention_unscaled",
        "attention_scaled_twice",
        "heads_interleaved",
        "qk_swapped",
        "kv_swapped",
        "qkv_transposed",
        "class_token_last",
        "positions_shifted",
        "patches_by_column",
        "bgr",
        "pixels_not_normalized",
        "pixels_to_255",
        "mask_not_shifted",
        "text_class_first",
        "ln_final_on_features",
        "query_0_kept",
        "no_c_fc_bias",
    } <= set(names)
    readme = (Path(mvc.__file__).parent / "verify" / "README.md").read_text()
    assert f"each of {KNOWN} known mistakes" in readme and len(names) - 3 == KNOWN
    words = [mistake.description for mistake in MISTAKES]
    assert len(set(words)) == len(words) and all(w and "\n" not in w and not w.endswith(".") for w in words)
    assert [mistake.name for mistake in MISTAKES if not mistake.changes] == [
        "axes_transposed",
        "batch_axis",
        "other_weights",
    ]


# It leaves no trace of itself


def everything():
    """Every attribute of every module of the package."""
    return {
        (key, name): x
        for key, module in list(sys.modules.items())
        if key.startswith("minivideococa")
        for name, x in vars(module).items()
        if not name.startswith("__")
    }


def same(before, after):
    return before.keys() == after.keys() and all(after[key] is x for key, x in before.items())


def test_verify_changes_nothing(right):
    model, tape = right()
    tape = noise_after(tape, "text.block.1", 0.1) | {"pool.tokens": np.zeros((4, 8)), "foo": np.zeros(2)}
    verify(model, tape)  # the modules it needs are now there
    copies, parameters, config = copy.deepcopy(tape), model.params, model.config
    values = copy.deepcopy(parameters)
    before = everything()
    for dtype in DTYPES:
        verify(model, tape, dtype)
    assert same(before, everything())
    assert model.params is parameters and model.config is config
    np.testing.assert_equal(parameters, values)
    np.testing.assert_equal(tape, copies)
    np.testing.assert_equal(run(model), right()[1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_verify_changes_nothing_when_interrupted(right, monkeypatch, error):
    """An exception at any point is raised; nothing stays replaced, and no trace stays active."""
    from minivideococa.model import transformer

    model, tape = right()
    tape = noise_after(tape, "text.block.1", 0.1)
    genuine, calls = transformer.mlp, [0, 0]

    def counted(*arguments):
        calls[0] += 1
        if calls[0] == calls[1]:
            raise error("stop")
        return genuine(*arguments)

    monkeypatch.setattr(transformer, "mlp", counted)
    verify(model, tape)  # how many calls there are
    total, before = calls[0], everything()
    assert total > 60  # the catalogue's runs among them
    for stop in [*range(1, total, 23), total]:
        calls[:] = 0, stop
        with pytest.raises(error, match="stop"):
            verify(model, tape)
        assert same(before, everything()), stop
        with collect() as after:
            pass
        assert after == {}
    calls[:] = 0, 0
    np.testing.assert_equal(run(model), right()[1])  # goes on from nothing that was given


def test_the_report_is_deterministic(right):
    model, tape = right()
    tape = noise_after(tape, "text.block.1", 0.1)
    shuffled = dict(sorted(tape.items(), reverse=True))
    first, again, other = (verify(model, x) for x in (tape, tape, shuffled))
    assert text(first) == text(again) == text(other) and as_json(first) == as_json(again) == as_json(other)


@pytest.mark.filterwarnings("error")
def test_no_warnings(right):
    model, tape = right()
    for wrong in {}, {"text.block.0": tape["text.block.0"] * np.inf}, {"logits": 0 * tape["logits"]}:
        for dtype in "float64", "float16":
            text(verify(model, tape | wrong, dtype))


def test_arrays_of_any_layout(right):
    model, tape = right()
    tape = {name: np.asfortranarray(x)[::-1][::-1] for name, x in tape.items()}
    assert verify(model, tape, "float64").first_divergence is None


# The report


def test_the_report_in_words_and_as_json(right):
    model, tape = right()
    tape = run(model, start={"vision.block.1": noise(tape["vision.block.1"], 0.1)})
    report = verify(model, tape, "float32")
    lines = text(report).splitlines()
    table = [line for line in lines if line.split(" ")[0] in NAMES]
    assert [line.split()[0] for line in table] == NAMES  # in path order, a line each
    for line, row in zip(table, report.rows):
        assert str(list(row.shape)) in line and row.status in line
    assert (
        sum(
            "First divergence: vision.block.1. Recomputed from your vision.block.0," in line for line in lines
        )
        == 1
    )
    data = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert {"first_divergence", "diagnosis", "tensors", "unknown"} < set(data)
    assert data["first_divergence"] == "vision.block.1" and data["diagnosis"] is None
    for entry, row in zip(data["tensors"], report.rows, strict=True):
        assert entry == {
            "name": row.name,
            "shape": list(row.shape),
            "expected_shape": list(row.expected_shape),
            "axes": None,
            "max_abs": row.difference.max_abs,
            "rel": row.difference.rel,
            "cosine": row.difference.cosine,
            "sqnr": None if np.isinf(row.difference.sqnr) else row.difference.sqnr,
            "allowed": row.allowed,
            "local_error": row.local_error,
            "local_allowed": row.local_allowed,
            "agrees": row.difference.rel <= row.allowed,
            "status": row.status,
        }


def test_the_report_of_a_right_trace(right):
    model, tape = right()
    report = verify(model, only(tape, ["logits"]), "float16")
    said = text(report)
    assert (
        "First divergence" not in said
        and "Likely cause" not in said
        and "float16" in said
        and "logits" in said
    )
    assert as_json(report)["first_divergence"] is None and as_json(report)["diagnosis"] is None
    assert [entry["status"] for entry in as_json(report)["tensors"]] == ["ok"]


# Files


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_of_each_dtype(kit, tmp_path, dtype):
    folder, truth = kit
    names = {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "uint8": "U8",
        "int64": "I64",
    }

    def stored(x):
        if x.dtype.kind != "f":
            return names[str(x.dtype)], x.shape, x.tobytes()
        x = rounded(x, dtype)
        data = (x.view(np.uint32) >> 16).astype("<u2") if dtype == "bfloat16" else x
        return names[dtype], x.shape, data.tobytes()

    path = write(tmp_path / "trace", {name: stored(x) for name, x in truth.items() if name != "frames"})
    report = verify_file(path, folder)
    assert report.dtype == dtype and report.first_divergence is None, text(report)
    assert verify_file(str(path), str(folder)).first_divergence is None
    wrong = truth["text.block.1"] + np.random.default_rng(0).standard_normal(truth["text.block.1"].shape)
    report = verify_file(
        write(path, {name: stored(wrong if name == "text.block.1" else x) for name, x in truth.items()}),
        folder,
    )
    assert report.dtype == dtype and report.first_divergence.name == "text.block.1"


def test_a_file_of_the_embedded_checkpoint(tmp_path):
    model = mvc.load()
    tape = run(model, ids=model.tokenize(["a red ring"]))
    write_trace(tmp_path / "trace", tape, model)
    assert verify_file(tmp_path / "trace").first_divergence is None
    report = verify_file(tmp_path / "trace", dtype="float64")  # float32 is no float64
    assert (
        report.dtype == "float64"
        and report.first_divergence.name == "vision.embed"
        and report.mistake is None
    )


def test_write_trace_writes_tensors_and_metadata(right, tmp_path):
    model, tape = right()
    write_trace(tmp_path / "trace", tape, model)
    with safe_open(tmp_path / "trace", "numpy") as file:
        metadata = file.metadata()
    written = load_file(tmp_path / "trace")
    assert written.keys() == tape.keys() and [x.name for x in tmp_path.iterdir()] == ["trace"]
    for name, x in tape.items():
        np.testing.assert_array_equal(written[name], x, strict=True)
    config = parse_config(json.loads(metadata["config"]))
    assert config == model.config
    assert metadata["version"] == mvc.__version__ and metadata["made_by"] == "minivideococa"
    assert as_json(verify(model, written, "float64")) == as_json(verify(model, tape, "float64"))


def test_any_arrays_are_written_as_they_are(right, tmp_path):
    model, _ = right()
    x = np.arange(24.0).reshape(2, 3, 4)
    tape = {
        "F": np.asfortranarray(x),
        "turned": x.transpose(2, 0, 1),
        "every second": x[..., ::2],
        "backwards": x[::-1],
    }
    write_trace(tmp_path / "trace", tape, model)
    np.testing.assert_equal(load_file(tmp_path / "trace"), tape)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_keeps_the_old_file(right, tmp_path, monkeypatch, error):
    model, tape = right()
    (tmp_path / "trace").write_text("before")

    def fail(*_):
        raise error("no")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(error, match="no"):
        write_trace(tmp_path / "trace", tape, model)
    assert [x.name for x in tmp_path.iterdir()] == ["trace"] and (tmp_path / "trace").read_text() == "before"


def test_files_that_are_not_traces(kit, tmp_path):
    folder, truth = kit
    whole = (folder / "truth.safetensors").read_bytes()
    for name, data in {
        "empty": b"",
        "short": b"abc",
        "words": b"a trace, perhaps\n" * 9,
        "header": whole[:200],
        "half": whole[: len(whole) // 2],
        "more": whole + b"more",
        "long": b"\xff" * 64,
    }.items():
        (tmp_path / name).write_bytes(data)
        raises_one_line(verify_file, tmp_path / name, folder, match=str(tmp_path / name))
    raises_one_line(verify_file, tmp_path / "nowhere", folder, match="nowhere", error=FileNotFoundError)
    raises_one_line(
        verify_file,
        folder / "truth.safetensors",
        tmp_path / "nothing",
        match="nothing",
        error=FileNotFoundError,
    )
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        verify_file(tmp_path, folder)
    save_file({}, tmp_path / "none")
    raises_one_line(verify_file, tmp_path / "none", folder, match="none.*nothing to compare")
    raises_one_line(verify_file, folder / "model.safetensors", folder, match="model.safetensors")
    for name, x in (
        ("text.embed", truth["text.embed"].astype("int8")),
        ("ids", truth["ids"] + 99),
        ("ids", truth["ids"] / 2),
        ("frames", truth["frames"][0]),
    ):
        save_file(truth | {name: np.ascontiguousarray(x)}, tmp_path / "bad")
        raises_one_line(verify_file, tmp_path / "bad", folder, match=f"{tmp_path / 'bad'}.*{name}")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I16", "BOOL"])
def test_dtypes_that_are_not_read(kit, tmp_path, dtype):
    folder, truth = kit
    path = write(
        tmp_path / "trace",
        {
            "ids": ("I64", truth["ids"].shape, truth["ids"].tobytes()),
            "text.embed": (dtype, (4,), b"\0" * (8 if dtype == "I16" else 4)),
        },
    )
    raises_one_line(verify_file, path, folder, match=f"{path}.*text.embed")


def test_a_trace_of_another_model(kit, tmp_path):
    """Recognized by the configuration in the file; a file without one is accepted."""
    folder, truth = kit
    config = json.loads((folder / "config.json").read_text())
    path = tmp_path / "trace"
    for metadata in None, {"config": json.dumps(config)}, {"made_by": "somebody"}:
        save_file(truth, path, metadata)
        assert verify_file(path, folder).first_divergence is None
    for part, field, value in (
        ("vision_cfg", "layers", 9),
        ("text_cfg", "heads", 1),
        ("vision_cfg", "head_width", 4),
    ):
        other = copy.deepcopy(config)
        other["model_cfg"][part][field] = value
        save_file(truth, path, {"config": json.dumps(other)})
        raises_one_line(verify_file, path, folder, match=f"{path}.*configuration")
    raises_one_line(verify_file, folder / "truth.safetensors", match="truth.safetensors.*--weights")
