"""The report of `verify`: coverage, further faults, axes, precision, other weights, refused inputs."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conformance import jax_coca
from platforms import posix
from safetensors.numpy import load_file, save_file
from verify_helpers import (
    FOLDER,
    FRAMES,
    IDS,
    NAMES,
    TRUTH,
    edited,
    noise,
    noise_after,
    raises_one_line,
    run,
    statuses,
    write,
)

import minivideococa as mvc
from minivideococa import cli
from minivideococa.checkpoint import assemble
from minivideococa.model.hooks import replace_operations
from minivideococa.verify import as_json, text, verify, verify_file

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def truth():
    return load_file(TRUTH)


def names(report):
    return [fault.mistake and fault.mistake.name for fault in report.faults]


def said(report):
    """The sentences below the table."""
    return text(report).split("\n\n")[1]


def wide(tape, dtype="float64"):
    """A trace stored in more than it was computed in."""
    return {
        name: x if x.dtype.kind in "iu" else x.astype("float32").astype(dtype) for name, x in tape.items()
    }


# What was compared


def test_the_report_says_what_was_compared(right):
    model, tape = right()
    assert said(verify(model, tape)).startswith("18 of 18 computed tensors compared.")
    some = {name: x for name, x in tape.items() if not name.startswith("decoder.") and name != "text.latent"}
    report = verify(model, some)
    missing = ["text.latent", *(f"decoder.block.{i}.{block}" for i in (0, 1) for block in ("self", "cross"))]
    assert report.missing == missing and report.ok
    assert said(report).startswith(f"13 of 18 computed tensors compared; missing: {', '.join(missing)}.")
    data = as_json(report)
    assert (data["compared"], data["computed"], data["missing"], data["right"]) == (13, 18, missing, True)


@pytest.mark.parametrize(
    ("inputs", "count"), [(["frames"], 8), (["pixels"], 7), (["ids"], 5), (["pixels", "ids"], 17)]
)
def test_the_computed_tensors_follow_from_the_inputs(right, inputs, count):
    """By hand: pixels; 3 + 4 of the video; 5 of the text; 5 of the decoder, which needs both."""
    model, tape = right()
    name = "pool.latent" if inputs != ["ids"] else "text.latent"
    report = verify(model, {key: tape[key] for key in (*inputs, name)})
    assert as_json(report)["computed"] == count and len(report.missing) == count - 1


def test_the_nearest_name_is_suggested(right, call, tmp_path):
    model, tape = right()
    wrong = {
        "vision.blocks.0": "vision.block.0",
        "pool.latents": "pool.latent",
        "decoder.block.1_cross": "decoder.block.1.cross",
    }
    misspelt = (
        {name: x for name, x in tape.items() if name not in wrong.values()}
        | {unknown: tape[name] for unknown, name in wrong.items()}
        | {"zzz": np.ones(1)}
    )
    report = verify(model, misspelt)
    assert report.nearest == wrong and set(report.unknown) == {*wrong, "zzz"}
    assert all(f"{unknown} ({name}?)" in said(report) for unknown, name in wrong.items())
    assert as_json(report)["nearest"] == wrong
    raises_one_line(
        verify, model, {"frames": FRAMES, "vision.blocks.0": np.ones(3)}, match=r"\(vision\.block\.0\?\)"
    )


def test_a_trace_without_compared_activations_is_not_right(call, truth, tmp_path):
    """Frames and pixels that are right, and every tensor of the network under a name that is none."""
    path = tmp_path / "mine.safetensors"
    save_file(
        {name if name in ("frames", "pixels", "ids") else f"my.{name}": x for name, x in truth.items()}, path
    )
    status, out, err = call("verify", path, "--weights", FOLDER)
    assert (status, err) == (1, "") and "No tensor of the network was compared" in out and "1 of 18" in out
    assert "no error is larger" not in out
    status, out, _ = call("verify", path, "--weights", FOLDER, "--json")
    assert status == 1 and json.loads(out)["right"] is False
    save_file({name: truth[name] for name in ("frames", "pixels")}, path)
    assert call("verify", path, "--weights", FOLDER)[0] == 1


def test_strict_requires_every_tensor(call, truth, tmp_path):
    path = tmp_path / "mine.safetensors"
    assert call("verify", TRUTH, "--weights", FOLDER, "--strict")[0] == 0
    for left_out in "pixels", "vision.block.0", "logits":
        save_file({name: x for name, x in truth.items() if name != left_out}, path)
        assert call("verify", path, "--weights", FOLDER)[0] == 0
        status, out, err = call("verify", path, "--weights", FOLDER, "--strict")
        assert (status, err) == (1, "") and f"missing: {left_out}." in out
    save_file({name: x for name, x in truth.items() if name.startswith(("ids", "text."))}, path)
    assert call("verify", path, "--weights", FOLDER, "--strict")[0] == 0  # a text alone has no video


# The precision


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["float64", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_that_it_was_computed_in_is_recognized(port, dtype, stored):
    if dtype == stored:
        pytest.skip("it is stored in what it was computed in")
    tape = wide(port.trace(dtype), stored)
    report = verify(port.model, tape)
    assert report.coarser.dtype == dtype and not report.ok and as_json(report)["agrees_to"] == dtype
    assert f"agrees to {dtype} rounding: was it computed in {dtype}" in said(
        report
    ) and f"--dtype {dtype}" in said(report)
    assert "First divergence" not in said(report) and verify(port.model, tape, dtype).ok


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_is_recognized_by_the_size_of_the_errors(port, dtype):
    """The latents are normalized in float64, so that not all numbers are exact in the dtype."""
    for mistake in None, "no_ln_post":
        tape = wide(port.trace(dtype, *([mistake] if mistake else [])))
        for name in "pool.latent", "text.latent":
            tape[name] = tape[name] / np.linalg.norm(tape[name])
        report = verify(port.model, tape)
        assert report.coarser.dtype == dtype and names(report) == [mistake]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_mistake_is_found_in_a_trace_stored_in_a_wider_dtype(port, dtype):
    report = verify(port.model, wide(port.trace(dtype, "query_0_kept")))
    assert report.coarser.dtype == dtype and names(report) == ["query_0_kept"]
    assert "query 0 is among the caption tokens" in said(report) and f"--dtype {dtype}" in said(report)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["layer_norm_eps", "layer_norm_unbiased", "tanh_gelu", "quick_gelu"])
def test_a_small_mistake_is_not_mistaken_for_rounding(port, mistake):
    for dtype in "float64", "float32":
        report = port.report(dtype, mistake)
        assert names(report) == [mistake] and report.coarser is None


# Numbers, axes, ids


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_the_first_number_that_is_not_finite_is_reported(right, number):
    model, tape = right()
    wrong = tape["vision.block.1"].copy()
    wrong[2, 5, 7] = number
    report = verify(model, run(model, start={"vision.block.1": wrong}))
    assert report.not_finite == ("vision.block.1", {"frame": 2, "token": 5, "channel": 7})
    assert "vision.block.1, at frame 2, token 5, channel 7" in said(report)
    assert as_json(report)["not_finite"]["at"] == {"frame": 2, "token": 5, "channel": 7}
    json.dumps(as_json(report), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "index", "place"),
    [
        ("pixels", (1, 2, 3, 4), {"frame": 1, "channel": 2, "row": 3, "column": 4}),
        ("vision.embed", (2, 0, 11), {"frame": 2, "token": 0, "channel": 11}),
        ("pool.flat", (23, 4), {"frame": 2, "token": 3, "channel": 4}),  # 10 tokens a frame
        ("pool.attended", (3, 1), {"query": 3, "channel": 1}),
        ("pool.latent", (5,), {"channel": 5}),
        ("text.block.0", (6, 2), {"position": 6, "channel": 2}),
        ("logits", (4, 41), {"position": 4, "token id": 41}),
    ],
)
def test_the_largest_error_is_located(right, name, index, place):
    model, tape = right()
    wrong = noise(tape[name], 0.1)
    wrong[index] = tape[name][index] + 7
    fault = verify(model, tape | {name: wrong}).faults[0]
    assert fault.worst == place and fault.found == pytest.approx(fault.expected + 7)
    assert fault.expected == pytest.approx(tape[name][index])


def test_the_worst_of_several_texts(tiny_model):
    model = tiny_model()
    tape = run(model, ids=np.concatenate([IDS, [[1, 9, 3, 7, 8, 2]]]))
    tape["text.tokens"] = tape["text.tokens"].copy()
    tape["text.tokens"][1, 2, 3] += 1
    assert verify(model, tape).faults[0].worst == {"text": 1, "position": 2, "channel": 3}


LAYOUTS = {
    "sequence first": ("vision.block.0", lambda x: x.swapaxes(0, 1), "axes_transposed", "[N, T, W]"),
    "channels first": ("vision.embed", lambda x: x.transpose(0, 2, 1), "axes_transposed", "[T, W, N]"),
    "channels last": ("pixels", lambda x: x.transpose(0, 2, 3, 1), "axes_transposed", "[T, S, S, 3]"),
    "a text, sequence first": ("text.block.0", lambda x: x[:, None], "axes_transposed", "[L+1, 1, E]"),
    "transposed logits": ("logits", lambda x: x.T, "axes_transposed", "[V, L]"),
    "a batch of two": ("text.block.1", lambda x: np.stack([x[::-1], x]), "batch_axis", "[2, L+1, E]"),
    "a batch of two, sequence first": (
        "decoder.block.0.self",
        lambda x: np.stack([x, x[::-1]], 1),
        "batch_axis",
        "[L, 2, E]",
    ),
    "a batch of two in the frames": (
        "vision.block.1",
        lambda x: np.concatenate([x, x[::-1]]),
        "batch_axis",
        "[2 T, N, W]",
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_layout_is_recognized_and_named(port, case, dtype):
    """It is the only fault: all else is judged from the tensor with its axes put right."""
    name, change, mistake, axes = LAYOUTS[case]
    tape = port.trace(dtype)
    report = verify(port.model, tape | {name: np.ascontiguousarray(change(tape[name]))})
    assert (report.first_divergence.name, report.first_divergence.layout, names(report)) == (
        name,
        axes,
        [mistake],
    )
    assert f"Its axes are {axes}" in said(report) and not report.ok
    assert {key: status for key, status in statuses(report).items() if status != "ok"} == {name: "wrong"}


def test_a_transposed_square_tensor(tiny_model):
    """9 ids, 10 positions, and a batch axis of 10 frames of 10 tokens: the shape does not give it away."""
    model = tiny_model()
    tape = run(model, np.repeat(FRAMES, 4, axis=0)[:10])
    assert tape["vision.block.0"].shape[:2] == (10, 10)
    tape["vision.block.0"] = tape["vision.block.0"].swapaxes(0, 1)
    report = verify(model, tape)
    assert names(report) == ["axes_transposed"] and report.first_divergence.layout == "[N, T, W]"


def test_mistakes_are_found_beside_another_layout(port):
    report = verify(port.model, port.trace("float32", "axes_transposed", "tanh_gelu", "no_ln_post"))
    assert names(report) == ["axes_transposed", "tanh_gelu", "no_ln_post"]


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({"ids": np.array([1.0, 5.0, 2.0])}, "ids are float64, though whole numbers: write them as int64"),
        ({"ids": np.array([1.0, 5.0, 2.0], "float32")}, "ids are float32, though whole numbers"),
        ({"ids": np.array([[1], [5], [6], [2], [0], [0]])}, r"ids are \[6, 1\]: sequence first"),
        ({"pixels": np.zeros((3, 14, 14, 3))}, r"pixels are \[3, 14, 14, 3\]: channels last"),
        ({"pixels": np.zeros((2, 3, 3, 14, 14))}, r"pixels are \[2, 3, 3, 14, 14\]: a batch axis of 2"),
        ({"frames": np.stack([FRAMES] * 2)}, "frames are .*: a batch axis of 2"),
    ],
)
def test_inputs_of_another_layout_are_named(right, inputs, match):
    model, tape = right()
    tape = {name: tape[name] for name in NAMES if name not in ("frames", "pixels")} | {
        "pixels": tape["pixels"],
        "ids": IDS,
    }
    if "frames" in inputs:
        del tape["pixels"]
    raises_one_line(verify, model, tape | inputs, match=match)


# Axes that are not a batch


@pytest.mark.parametrize(
    ("name", "shape"),
    [("vision.block.0", (17, 3, 24)), ("text.embed", (4, 9, 16)), ("pool.attended", (2, 6, 16))],
)
def test_the_values_are_not_called_right_unless_they_are(port, name, shape):
    tape = port.trace("float64")
    shape = (4, *tape[name].shape) if name == "text.embed" else shape
    report = verify(port.model, tape | {name: np.random.default_rng(0).standard_normal(shape)})
    assert names(report)[0] in ("axes_transposed", "batch_axis")
    assert "the values are still wrong" in said(report) and "the values are right" not in said(report)


@pytest.mark.parametrize("case", ["sequence first", "a batch of two"])
def test_the_values_are_called_right_where_they_are(port, case):
    name, change, _, _ = LAYOUTS[case]
    tape = port.trace("float64")
    report = verify(port.model, tape | {name: np.ascontiguousarray(change(tape[name]))})
    start = "Transposed back" if case == "sequence first" else "For one item of the batch"
    assert f"{start}, the error is" in said(report) and "the values are right." in said(report)


def test_a_pooled_tensor_of_each_frame_is_not_a_batch(port):
    tape = port.trace("float64")
    noisy = np.random.default_rng(0).standard_normal((3, *tape["pool.attended"].shape))
    report = verify(port.model, tape | {"pool.attended": noisy})
    assert names(report) == [None] and as_json(report)["faults"][0]["hint"] in said(report)
    assert "was each frame pooled separately (mean pooling)?" in said(report)


@pytest.mark.parametrize("missing", [[], ["pool.attended"], ["pool.attended", "pool.tokens", "pool.flat"]])
def test_mean_pooling_is_named(port, missing):
    tape = port.trace("float32", "mean_pooling")
    report = verify(port.model, {name: x for name, x in tape.items() if name not in missing})
    assert names(report) == ["mean_pooling"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.roll(x, -1, axis=-2),
        lambda x: np.concatenate([np.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2),
        lambda x: np.concatenate([x[..., 1:, :], np.zeros_like(x[..., :1, :])], axis=-2),
        lambda x: x[..., 1:, :],
    ],
    ids=["rotated", "zeros first", "zeros last", "one less"],
)
@pytest.mark.parametrize("texts", [1, 2])
def test_logits_shifted_by_one_position(tiny_model, change, texts):
    model = tiny_model()
    tape = run(model, ids=np.concatenate([IDS, [[1, 9, 3, 7, 8, 2]]])[:texts])
    assert names(verify(model, tape | {"logits": change(tape["logits"])})) == ["logits_shifted"]


def test_mistakes_that_depend_on_the_padding_of_several_texts(tiny_model):
    """By hand: texts of 4 and 6 ids; the latent of the end token, and a decoder that masks padding."""
    model, ids = tiny_model(), np.concatenate([IDS, [[1, 9, 3, 7, 8, 2]]])
    tape, kept = run(model, ids=ids), (ids != 0)[:, None, None]
    end = {"text.transformer": lambda f: lambda x, *rest: (y := f(x, *rest)) * 0 + y[[[0], [1]], [[3], [5]]]}
    with replace_operations(end):
        tape["text.latent"] = run(model, ids=ids)["text.latent"]
    with replace_operations({"decoder.causal_mask": lambda f: lambda *rest: f(*rest) & kept}):
        masked = run(model, ids=ids)
    tape |= {name: x for name, x in masked.items() if name.startswith(("decoder", "logits"))}
    assert names(verify(model, tape)) == ["latent_of_end_token", "padding_mask_in_decoder"]


@pytest.mark.parametrize(("part", "heads"), [("vision", 1), ("vision", 12), ("decoder", 1), ("decoder", 8)])
def test_usual_numbers_of_heads(tiny_model, part, heads):
    model, name = tiny_model(), {"vision": "vision.block.0"}.get(part, "decoder.block.0.self")
    other = replace(model.config, **{part: replace(getattr(model.config, part), heads=heads)})
    report = verify(model, run(assemble(other, model.params)))
    assert names(report) == [f"{part}_heads"] and report.first_divergence.name == name


def test_pooled_tensors_averaged_before_the_norm(port):
    tape = port.trace("float64", "mean_pooling")
    tape["pool.attended"] = tape["pool.attended"].mean(axis=0)
    only_pooled = {name: tape[name] for name in ("frames", "pixels", "vision.block.1", "pool.attended")}
    assert names(verify(port.model, only_pooled)) == ["mean_pooling"]


@pytest.mark.parametrize("kept", [None, ["logits"], ["decoder.block.0.self", "logits"]])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_fewer_ids_than_positions(tiny_model, kept, dtype):
    """Twice as many positions as ids look like a batch of two texts."""
    model, ids = tiny_model(), np.arange(1, 9)[None]
    tape = run(model, ids=ids)
    tape = {name: x for name, x in tape.items() if not kept or name in ("frames", "pixels", *kept)}
    for given in ids[0, :4], np.arange(1, 10):
        report = verify(model, tape | {"ids": given}, dtype)
        assert names(report)[0] is None, kept
        assert f"It was computed from 8 ids; the trace holds {len(given)}." in said(report)


def test_fewer_frames_than_the_tensors(tiny_model):
    model = tiny_model()
    report = verify(model, run(model) | {"frames": FRAMES[:2], "pixels": model.preprocess(FRAMES[:2])})
    assert "It was computed from 3 frames; the trace holds 2." in said(report)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_trace_of_cached_generation(tiny_model, beams):
    model = tiny_model()
    with mvc.trace() as tape:
        tokens = model.encode_video(model.preprocess(FRAMES)).tokens
        model.generate(tokens, start_id=1, end_id=2, beams=beams, beam_groups=1, max_length=6)
    report = verify(model, tape)
    hint = as_json(report)["faults"][0]["hint"]
    assert "recorded during generation with a key-value cache?" in hint and "cache=False" in hint
    assert hint in said(report) and "No known cause" not in said(report)


def test_a_tensor_that_agrees_but_was_not_computed_from_the_trace(right):
    """It is wrong by its local error, but no fault: text and JSON say why."""
    model, tape = right()
    report = verify(model, noise_after(tape, "vision.block.0", 0.3), "float64")
    assert statuses(report)["vision.block.1"] == "wrong" and report.inconsistent == ["vision.block.1"]
    assert "not computed from the trace's own previous tensor: vision.block.1." in said(report)
    data = as_json(report)
    assert data["inconsistent"] == ["vision.block.1"]
    assert {x["name"] for x in data["tensors"] if x["status"] == "wrong" and x["agrees"]} == {
        "vision.block.1"
    }
    for x, row in zip(data["tensors"], report.rows):
        assert (x["local_error"], x["local_allowed"]) == (row.local_error, row.local_allowed)
        assert x["expected_shape"] == x["shape"] and x["axes"] is None


@pytest.mark.parametrize(("number", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_tensor_that_is_not_finite_is_not_off_by_inf(right, number, word):
    model, tape = right()
    wrong = tape["text.block.0"].copy()
    wrong[3, 2] = number
    sentences = said(verify(model, tape | {"text.block.0": wrong}))
    assert f"it holds {word} at position 3, channel 2." in sentences and "off by inf" not in sentences


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("vision.block.0", "residual_block (model/transformer.py)"),
        ("pool.attended", "attentional_pooler (model/pooling.py)"),
        ("text.latent", "encode_text (model/text.py)"),
        ("logits", "decode (model/decoder.py)"),
    ],
)
def test_an_unknown_cause_names_the_place_to_look(right, name, place):
    model, tape = right()
    sentences = said(verify(model, noise_after(tape, name, 0.3)))
    assert place in sentences
    assert ("To narrow it, also record" in sentences) == (name in ("vision.block.0", "pool.attended"))


# Where a tensor is wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("mask_in_class_row", "Wrong only at positions 7 and 8 of 10."),
        ("mask_shifted_back", "Wrong only at positions 5 to 9 of 10."),
        ("text_class_first", "Wrong only at positions 0 to 6 and 9 of 10."),
        ("no_class_embedding", "Wrong only at token 0 of 17."),
        ("logits_shifted", None),  # everywhere
    ],
)
def test_the_report_says_which_rows_are_wrong(port, mistake, sentence):
    lines = said(port.report("float32", mistake)).splitlines()
    assert [line for line in lines if line.startswith("Wrong")] == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("name", "index", "sentence", "data"),
    [
        ("vision.block.0", (1, 0), "frame 1 of 3, token 0 of 17", {"frame": [1], "token": [0]}),
        (
            "vision.block.1",
            (slice(2), 3),
            "frames 0 and 1 of 3, token 3 of 17",
            {"frame": [0, 1], "token": [3]},
        ),
        ("pool.flat", 40, "frame 2 of 3, token 6 of 17", {"frame": [2], "token": [6]}),
        ("pool.attended", slice(2, 6), "queries 2 to 5 of 6", {"query": [2, 3, 4, 5]}),
        ("text.tokens", [8], "position 8 of 9", {"position": [8]}),
        ("logits", [0, 3, 4], "positions 0, 3 and 4 of 9", {"position": [0, 3, 4]}),
        ("logits", [0, 2, 4, 6], None, {"position": [0, 2, 4, 6]}),  # too many to say
        ("text.latent", (), None, None),  # has no rows
        ("logits", slice(None), None, None),
    ],
)
def test_wrong_rows_are_told_by_axis(port, truth, name, index, sentence, data):
    wrong = truth | {name: truth[name].copy()}
    wrong[name][index] += 0.3
    report = verify(port.model, wrong)
    assert report.first_divergence.name == name and as_json(report)["faults"][0]["only_at"] == data
    lines = [line for line in said(report).splitlines() if line.startswith("Wrong")]
    assert lines == ([f"Wrong only at {sentence}."] if sentence else [])


def test_rows_near_the_tolerance_are_no_clear_part(port, truth):
    """A row that is off by about as much as rounding explains may be right or wrong."""
    row = next(row for row in verify(port.model, truth).rows if row.name == "logits")
    allowed = row.local_allowed * np.sqrt(np.mean(np.sum(truth["logits"] ** 2, axis=1)))
    for error, is_clear in (0.1, True), (0.9, False), (1.5, False), (5, True):
        logits = truth["logits"].copy()
        logits[3] += 0.3
        logits[5, 0] += error * allowed
        assert ("Wrong only" in said(verify(port.model, truth | {"logits": logits}))) == is_clear, error


# Another model's weights


@pytest.mark.parametrize("left", ["vision pool", "vision pool text decoder logits", "text", "pool text"])
def test_weights_of_another_model_are_recognized(port, left):
    tape = port.trace("float32", "other_weights")
    kept = {
        name: x
        for name, x in tape.items()
        if name.partition(".")[0] in ("frames", "pixels", "ids", *left.split())
    }
    report = verify(port.model, kept)
    assert (
        names(report) == ["other_weights"]
        and "--weights" in said(report)
        and "step by step" not in said(report)
    )


def test_finetuned_weights_are_recognized(port):
    rng = np.random.default_rng(0)
    weights = {name: (x * rng.normal(1, 0.1, x.shape)).astype("float32") for name, x in port.weights.items()}
    tape = jax_coca.trace(port.config, weights, ids=port.inputs["ids"], frames=port.inputs["frames"])
    assert names(verify(port.model, tape)) == ["other_weights"]


@pytest.mark.parametrize("path", ["visual.conv1.weight", "text.token_embedding.weight"])
def test_one_wrong_parameter_is_not_another_model(right, path):
    model, _ = right()
    assert names(verify(model, run(edited(model, path, lambda x: noise(x, 0.5))))) == [None]


# The next fault, too

THREE = {
    "one in each tower": ["post_norm", "text_class_first", "no_ln_1_kv"],
    "pixels, text and decoder": ["bgr", "no_padding_mask", "decoder_not_causal"],
    "pooler, text and vocabulary": ["query_0_kept", "ln_final_on_features", "no_decoder_ln_final"],
    "three in the image encoder": ["patches_by_column", "no_ln_pre", "attention_over_frames"],
    "three in every block": ["tanh_gelu", "no_out_proj_bias", "qk_swapped"],
    "three in attention": ["attention_unscaled", "heads_split_unmoved", "kv_swapped"],
    "three in the pooler": ["no_ln_q", "latent_last_query", "not_unit"],
    "three numbers of heads": ["vision_heads", "pooler_heads", "text_heads"],
    "three of the new ones": ["relu", "no_text_positions", "logits_shifted"],
    "three after the blocks": ["mean_pooling", "latent_of_end_token", "log_probabilities"],
    "the pooler's two splits": ["last_query_dropped", "latent_last_query", "padding_mask_in_decoder"],
    "three in the text": ["text_positions_shifted", "text_not_causal", "text_projection_transposed"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", THREE)
def test_three_faults_get_three_names(port, case):
    for dtype in "float64", "float32":
        report = port.report(dtype, *THREE[case])
        assert sorted(names(report)) == sorted(THREE[case]) and report.all_found, dtype
        order = [NAMES.index(fault.row.name) for fault in report.faults]
        assert order == sorted(order) and report.mistake.name == names(report)[0]
        sentences = said(report)
        assert all(fault.mistake.description in sentences for fault in report.faults)
        assert sentences.count("With that accounted for, ") == 2
        assert [fault["mistake"] for fault in as_json(report)["faults"]] == names(report)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["as_released", "smallest/as_released", "correct_cls_mask", "pad_ids"])
def test_a_mask_in_the_class_row_alone_is_named_however_it_is_shifted(ports, folder):
    for also in [], ["mask_not_shifted"]:
        assert names(ports[folder].report("float32", "mask_in_class_row", *also)) == ["mask_in_class_row"]
    assert names(ports[folder].report("float32", "mask_shifted_back")) == ["mask_shifted_back"]


# 30 triples, drawn at random from those of which each mistake changes the trace
TRIPLES = """
heads_interleaved mask_not_shifted pixels_to_255
layer_norm_eps no_in_proj_bias patch_transposed
ln_final_on_features mask_not_shifted no_text_ln_final
layer_norm_unbiased no_ln_q qkv_transposed
tanh_gelu no_c_fc_bias qk_swapped
qk_swapped heads_interleaved text_positions_shifted
heads_split_unmoved query_0_kept attention_over_frames
pixels_raw layer_norm_unbiased no_in_proj_bias
heads_interleaved pixels_not_moved quick_gelu
pixels_not_moved not_unit bgr
layer_norm_eps no_ln_pre no_ln_q
patch_channels_last no_ln_pre layer_norm_eps
no_ln_k query_0_kept no_ln_pre
quick_gelu no_ln_post patch_transposed
heads_merged_unmoved no_ln_1 ln_final_on_features
no_c_proj_bias axes_transposed no_ln_post
no_c_proj_bias no_ln_k pool_proj_transposed
post_norm patch_transposed no_in_proj_bias
tanh_gelu pixels_raw text_not_causal
no_ln_q quick_gelu attention_scaled_twice
patches_by_column imagenet_mean mask_not_shifted
no_out_proj_bias no_ln_k tanh_gelu
no_decoder_ln_final pixels_raw bgr
latent_last_query no_in_proj_bias layer_norm_unbiased
pool_proj_transposed class_token_last no_ln_k
no_ln_k bgr_kernel text_class_first
no_decoder_ln_final text_projection_transposed no_ln_pre
patches_not_moved no_ln_2 no_ln_1_kv
patches_by_column attention_scaled_twice heads_merged_unmoved
no_padding_mask heads_split_unmoved post_norm
"""


@pytest.mark.slow
def test_random_triples_get_their_names(port):
    for line in TRIPLES.split("\n")[1:-1]:
        assert sorted(filter(None, names(port.report("float32", *line.split())))) == sorted(line.split())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_three_faults_in_half_precision(port, dtype):
    """What is above rounding is named, nothing else is."""
    for three in THREE.values():
        found = names(port.report(dtype, *three))
        assert set(found) - {None} <= set(three)
        assert set(three) - set(found) <= {"tanh_gelu", "relu"}, (three, found)


def test_the_search_continues_after_an_unknown_fault(right):
    """An unknown fault, a known one after it, and one in the text."""
    model, _ = right()
    wrong = edited(model, "visual.transformer.resblocks.0.mlp.c_fc.weight", lambda x: noise(x, 0.5))
    wrong = edited(wrong, "visual.proj", np.transpose) if wrong.config.vision.width == 8 else wrong
    wrong = edited(wrong, "text.transformer.resblocks.1.attn.out_proj.weight", np.transpose)
    wrong = edited(wrong, "text_decoder.cross_attn.1.mlp.c_fc.bias", np.zeros_like)
    report = verify(model, run(wrong), "float64")
    found = [(fault.row.name, name) for fault, name in zip(report.faults, names(report))]
    assert found == [
        ("vision.block.0", None),
        ("text.block.1", "out_proj_transposed"),
        ("decoder.block.1.cross", "no_c_fc_bias"),
    ]
    assert "The next divergence is text.block.1" in said(report)


def test_a_tensor_that_only_the_file_has_wrong_is_the_only_fault(right):
    """Later tensors agree with the reference, so they were not computed from the wrong one."""
    model, tape = right()
    for name in "vision.block.0", "text.embed", "decoder.block.0.cross":
        report = verify(model, noise_after(tape, name, 0.3), "float64")
        assert [fault.row.name for fault in report.faults] == [name]


def test_the_search_stops_at_eight_faults(tiny_model):
    """A fault in each of ten tensors: 8 are reported, and that there are more."""
    model = tiny_model()
    wrong, rng = model, np.random.default_rng(0)
    for path in (
        "visual.conv1.weight",
        "visual.transformer.resblocks.0.mlp.c_fc.weight",
        "visual.attn_pool.query",
        "visual.ln_post.weight",
        "visual.proj",
        "text.transformer.resblocks.0.mlp.c_fc.weight",
        "text.text_projection",
        "text_decoder.resblocks.0.mlp.c_fc.weight",
        "text_decoder.cross_attn.0.mlp.c_fc.weight",
        "text_decoder.text_projection",
    ):
        wrong = edited(wrong, path, lambda x: x + rng.standard_normal(x.shape))
    report = verify(model, run(wrong), "float64")
    assert len(report.faults) == 8 and not report.all_found and "the search stops at 8 faults" in said(report)
    assert as_json(report)["all_found"] is False


# What is refused before it begins


@pytest.mark.parametrize(
    ("name", "shape"),
    [("frames", (10**6, 1, 1, 3)), ("frames", (1, 1, 2 * 10**6, 3)), ("pixels", (40_000, 3, 20, 20))],
)
def test_a_trace_that_needs_too_much_memory(refused, truth, tmp_path, monkeypatch, name, shape):
    """The message gives the figure, and nothing is computed: the pixels in float64 alone take all memory."""
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**8)
    path, size = tmp_path / "mine.safetensors", int(np.prod(shape)) * (1 if name == "frames" else 4)
    with path.open("wb") as file:  # a file of zeros, mostly holes
        header = json.dumps(
            {
                name: {
                    "dtype": "U8" if name == "frames" else "F32",
                    "shape": shape,
                    "data_offsets": [0, size],
                },
                "pool.latent": {"dtype": "F32", "shape": [16], "data_offsets": [size, size + 64]},
            }
        ).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size + 64)

    def asked(*_, **__):
        raise AssertionError("it was computed first")

    monkeypatch.setattr("minivideococa.model.videococa.VideoCoCa.preprocess", asked)
    monkeypatch.setattr("minivideococa.model.videococa.VideoCoCa.encode_frames", asked)
    err = refused("verify", path, "--weights", FOLDER)
    assert str(path) in err and "of memory" in err and "100 MB" in err and "fewer or smaller frames" in err


def test_a_trace_that_fits_is_not_refused(call, monkeypatch):
    monkeypatch.setattr("minivideococa.resources.available_memory", lambda: 10**8)
    assert call("verify", TRUTH, "--weights", FOLDER)[0] == 0


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0, 4], [0] * 70, [0, 2**63], [2**63 - 1, 0]], ids=str)
@pytest.mark.parametrize("name", ["text.embed", "frames", "pixels", "ids"])
def test_absurd_shapes_are_refused_in_one_line(refused, truth, tmp_path, name, shape):
    ids, dtype = truth["ids"], {"frames": "U8", "ids": "I64"}.get(name, "F64")
    path = write(
        tmp_path / "mine",
        {
            "ids": ("I64", ids.shape, ids.tobytes()),
            "text.tokens": ("F64", [0], b""),
            name: (dtype, shape, b""),
        },
    )
    assert str(path) in refused("verify", path, "--weights", FOLDER)


@posix
def test_files_that_are_not_regular_are_refused(refused, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in os.devnull, "/dev/zero", tmp_path / "fifo":
        err = refused("verify", path, "--weights", FOLDER)
        assert str(path) in err and "not a regular file" in err and "no such file" not in err
    assert "not the name of a file" in refused("verify", "a\0b", "--weights", FOLDER)
    assert "TRACE is empty" in refused("verify", "", "--weights", FOLDER)


@posix
def test_a_trace_without_permission(refused, truth, tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    save_file(truth, path)
    path.chmod(0)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read it
    err = refused("verify", path, "--weights", FOLDER)
    assert str(path) in err and "permission" in err and "no such file" not in err


def test_damaged_files_are_refused_in_one_line(truth, tmp_path):
    """Random bytes in the header: the trace is verified, or refused in one line with the file's name."""
    whole, rng, path = Path(TRUTH).read_bytes(), np.random.default_rng(0), tmp_path / "mine.safetensors"
    end, lines = 8 + int.from_bytes(whole[:8], "little"), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for i in rng.integers(0, end, 2):
            damaged[i] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            verify_file(path, FOLDER)
        except (ValueError, OSError) as error:
            assert str(path) in str(error) and "\n" not in str(error)
            lines += 1
    assert lines > 30


@pytest.mark.parametrize(
    "config",
    ["[" * 10**5, "1e999", '{"model_cfg": {"embed_dim": ' + "9" * 400 + "}}", "\0", "words"],
    ids=["nested", "infinite", "400 digits", "NUL", "words"],
)
def test_metadata_without_a_configuration_is_ignored(truth, tmp_path, config):
    save_file({name: truth[name] for name in ("ids", "text.embed")}, tmp_path / "mine", {"config": config})
    assert verify_file(tmp_path / "mine", FOLDER).ok


def test_frames_of_size_zero_are_refused_in_one_line(refused, truth, tmp_path):
    for shape in (2, 0, 0, 3), (0, 0, 0, 3):
        save_file({**truth, "frames": np.zeros(shape, np.uint8)}, tmp_path / "empty.safetensors")
        refused("verify", tmp_path / "empty.safetensors", "--weights", FOLDER)


def test_tensors_that_are_not_judged_do_not_count_as_compared(truth, tmp_path, capsys):
    """Pixels that overflow float64: its rounding would explain anything."""
    tape = {name: x for name, x in truth.items() if name != "frames"}
    save_file({**tape, "pixels": tape["pixels"].astype(np.float64) * 1e160}, tmp_path / "huge.safetensors")
    command = ["verify", str(tmp_path / "huge.safetensors"), "--weights", str(FOLDER)]
    assert cli.main([*command, "--strict"]) == 1
    assert "17 of 17" not in capsys.readouterr().out


def test_the_rest_is_not_called_right_after_an_unknown_fault(right):
    model, tape = right()
    rng = np.random.default_rng(0)
    noisy = {
        name: tape[name] + rng.standard_normal(tape[name].shape)
        for name in ("vision.block.0", "text.block.0")
    }
    report = verify(model, tape | noisy)
    assert len(report.faults) >= 2 and "the rest is right" not in text(report)


def test_a_trace_of_more_frames_than_its_input(tiny_model):
    """It looks like a batch of two videos, and the report says what else it may be."""
    model = tiny_model()
    tape = run(model, np.concatenate([FRAMES, FRAMES[::-1]]))
    report = verify(model, tape | {"frames": FRAMES})
    assert names(report)[0] == "batch_axis" and "computed from more frames than the trace holds" in said(
        report
    )


def test_activations_inside_a_block_are_not_compared(tiny_model):
    model = tiny_model()
    with mvc.trace(weights=True) as tape:
        model.decode(model.encode_video(model.preprocess(FRAMES)).tokens, IDS)
    report = verify(model, tape)
    assert report.ok and "vision.block.0.weights" in report.unknown and report.nearest == {}
    line = next(line for line in said(report).split("\n") if "inside a block" in line)
    assert line.startswith("Not compared, inside a block: ") and line.count(",") == 3
    assert line.endswith(f" and {len(report.unknown) - 3} more.") and "no such name" not in said(report)


def test_frames_are_resized_once(tiny_model, monkeypatch):
    """With every candidate of the diagnosis, frames of extreme shapes would take minutes."""
    model = tiny_model()
    frames = np.random.default_rng(0).integers(0, 256, (2, 15, 300, 3), np.uint8)
    tape = run(model, frames, start={"pixels": model.preprocess(frames[..., ::-1])})
    shapes, preprocess = [], model.media["preprocess"]

    def counted(frames, config):
        shapes.append(frames.shape)
        return preprocess(frames, config)

    monkeypatch.setitem(model.media, "preprocess", counted)
    assert names(verify(model, tape)) == ["bgr"]
    assert shapes.count(frames.shape) == 1 and set(shapes[1:]) == {(2, 14, 14, 3)}


def test_progress_is_reported(right):
    model, tape = right()
    stages = {}

    @contextmanager
    def progress(total, unit):
        stages[unit] = [total, 0]

        def update(count):
            stages[unit][1] += count

        yield update

    assert not verify(model, noise_after(tape, "logits", 0.1), progress=progress).ok
    assert stages.keys() == {"runs", "known mistakes"}
    assert all(total == done for total, done in stages.values())
