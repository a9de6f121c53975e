"""The first wrong tensor inside a block, where a trace holds the block's finer tensors."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from verify_helpers import FOLDER, FRAMES, IDS, KIT, PAIR, noise, raises_one_line, rounded

import minivideococa as mvc
from minivideococa.model.hooks import replace_operations
from minivideococa.verify import as_json, search, text, verify, verify_file
from minivideococa.verify.changes import constant, tanh_gelu

PARTS = ["q", "k", "v", "weights", "attention", "mlp.hidden", "mlp"]
FAULTS = {
    "q": lambda x: 1.5 * x,
    "k": lambda x: -x,
    "v": lambda x: x + 1,
    "weights": lambda x: x**1.5,
    "attention": lambda x: x[..., ::-1],
    "mlp.hidden": lambda x: x + 1,
    "mlp": lambda x: 2 * x,
}


@pytest.fixture(autouse=True)
def one_known_mistake(monkeypatch):
    """To try all of them on each unknown fault would take seconds a test."""
    monkeypatch.setattr(search, "CATALOGUE", [x for x in search.CATALOGUE if x[0].name == "tanh_gelu"])


@pytest.fixture(scope="module")
def model():
    return mvc.load(FOLDER, dtype="float64")


def faulty(model, block, part=None, form="as_released", dtype="float64"):
    """A trace with a block's finer tensors, in which one of them is wrong and the model goes on from it."""
    tensors = load_file(KIT / form / "truth.safetensors")
    name = f"{block}.{part}"
    with mvc.trace({name: FAULTS[part]} if part else None, weights=block) as seen:
        model.decode(model.encode_video(tensors["pixels"]).tokens, tensors["ids"][None])
    tape = seen | ({name: FAULTS[part](seen[name])} if part else {})
    return {key: rounded(x, dtype) for key, x in tape.items()}


def without(tape, *names):
    return {name: x for name, x in tape.items() if name not in names}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        *(("vision.block.1", part) for part in PARTS),
        ("text.block.0", "weights"),
        ("text.block.0", "mlp"),
        ("decoder.block.0.self", "q"),
        ("decoder.block.1.cross", "k"),
        ("decoder.block.1.cross", "attention"),
    ],
)
def test_the_first_wrong_tensor_inside_a_block(model, block, part):
    report = verify(model, faulty(model, block, part))
    fault = report.faults[0]
    assert fault.row.name == block and fault.narrowed == f"{block}.{part}" and fault.wanted == ()
    statuses = {row.name: row.status for row in fault.inside}
    assert statuses == {f"{block}.{name}": "wrong" if name == part else "ok" for name in PARTS}
    assert f"Inside it, the first wrong tensor is {block}.{part}. Recomputed from your" in str(report)
    assert report.unknown == [] and len(report.faults) == 1


@pytest.mark.parametrize("part", ["q", "weights", "mlp.hidden"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_in_other_precisions(model, part, dtype):
    """Rounded tensors are right, and wrong ones are wrong."""
    tape = faulty(model, "vision.block.1", part, dtype=dtype)
    fault = verify(model, tape, dtype).faults[0]
    assert [row.name for row in fault.inside if row.status == "wrong"] == [f"vision.block.1.{part}"]


@pytest.mark.parametrize("part", ["q", "k", "v", "weights"])
def test_inside_the_pooler(model, part):
    fault = verify(model, faulty(model, "pool", part)).faults[0]
    assert (fault.row.name, fault.narrowed) == ("pool.attended", f"pool.{part}")
    assert [row.name for row in fault.inside] == ["pool.q", "pool.k", "pool.v", "pool.weights"]


@pytest.mark.parametrize("form", ["parallel", "cascade"])
@pytest.mark.parametrize("part", ["k", "attention"])
def test_inside_the_second_pooler(form, part):
    model = mvc.load(KIT / form, dtype="float64")
    fault = verify(model, faulty(model, "pool.contrastive", part, form)).faults[0]
    assert (fault.row.name, fault.narrowed) == ("pool.latent", f"pool.contrastive.{part}")


def test_inside_a_block_across_the_frames():
    model = mvc.load(KIT / "factorized", dtype="float64")
    fault = verify(model, faulty(model, "factorized.block.1", "v", "factorized")).faults[0]
    assert (fault.row.name, fault.narrowed) == ("factorized.block.1", "factorized.block.1.v")


def test_the_names_that_are_asked_for(model):
    """Without finer tensors all of them; then those between the last right one and the first wrong one."""
    block, tape = "vision.block.1", faulty(model, "vision.block.1", "weights")
    names = [f"{block}.{part}" for part in PARTS]
    report = verify(model, without(tape, *names))
    assert report.faults[0].wanted == tuple(names) and report.faults[0].narrowed == ""
    assert f"To narrow it, also record {', '.join(names)}." in str(report)
    fault = verify(model, without(tape, f"{block}.weights")).faults[0]
    assert (fault.narrowed, fault.wanted) == (f"{block}.attention", (f"{block}.weights",))
    fault = verify(model, without(tape, *names[:4])).faults[0]
    assert (fault.narrowed, fault.wanted) == (f"{block}.attention", tuple(names[:4]))
    fault = verify(model, without(faulty(model, block, "k"), *names[:2])).faults[0]  # v says nothing of them
    assert (fault.narrowed, fault.wanted) == (f"{block}.weights", tuple(names[:2]))
    tape = faulty(model, block, "mlp")
    fault = verify(model, without(tape, *names[:4], names[6])).faults[0]
    assert (fault.narrowed, fault.wanted) == ("", (f"{block}.mlp",))


def test_what_is_asked_for_leads_to_the_fault(model):
    """As a user goes on: each run records what the last one asked for."""
    whole = faulty(model, "text.block.0", "v")
    tape = {name: x for name, x in whole.items() if not name.startswith("text.block.0.")}
    while (fault := verify(model, tape).faults[0]).wanted:
        tape |= {name: whole[name] for name in fault.wanted}
    assert fault.narrowed == "text.block.0.v"


def test_only_the_last_sum_is_wrong(model):
    tape = faulty(model, "vision.block.1")
    tape = run_on(model, tape, "vision.block.1", tape["vision.block.0"] + 0.5 * tape["vision.block.1.mlp"])
    report = verify(model, tape)
    assert report.faults[0].narrowed == "vision.block.1"
    assert "So the fault is in what follows these: the last residual sum" in str(report)
    tape = faulty(model, "pool")
    report = verify(model, run_on(model, tape, "pool.attended", 2 * tape["pool.attended"]))
    assert report.faults[0].narrowed == "pool.attended" and "output projection" in str(report)


def run_on(model, tape, name, x):
    """The trace with another tensor, from which the model continues."""
    with mvc.trace({name: x}) as seen:
        model.decode(model.encode_video(tape["pixels"]).tokens, np.atleast_2d(tape["ids"]))
    return tape | seen | {name: x}


def test_a_known_mistake_is_narrowed_too(model):
    """GELU by tanh: the hidden activations. Nothing is asked for once the cause is known."""
    tensors = load_file(KIT / "as_released" / "truth.safetensors")
    with replace_operations({"ops.gelu": constant(tanh_gelu)}), mvc.trace(weights="vision.block.0") as tape:
        model.encode_video(tensors["pixels"])
    report = verify(model, tape)
    assert report.mistake.name == "tanh_gelu" and report.faults[0].narrowed == "vision.block.0.mlp.hidden"
    report = verify(model, {name: x for name, x in tape.items() if not name.startswith("vision.block.0.")})
    assert report.mistake.name == "tanh_gelu" and "To narrow it" not in str(report)


def test_queries_that_are_stored_scaled_are_not_the_fault(model):
    """The port goes on from them rightly: its attention weights agree."""
    tape = faulty(model, "vision.block.1", "mlp")
    tape["vision.block.1.q"] = tape["vision.block.1.q"] / np.sqrt(8)
    assert verify(model, tape).faults[0].narrowed == "vision.block.1.mlp"


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x[None],
        lambda x: x.swapaxes(-2, -3).reshape(
            *x.shape[:-3], x.shape[-2], -1
        ),  # [T, N, W], as a layer gives it
        lambda x: x.reshape(-1, *x.shape[-2:]),  # [T H, N, D], as PyTorch's attention has it
    ],
)
def test_heads_in_other_axes(model, reshape):
    block, tape = "vision.block.1", faulty(model, "vision.block.1", "k")
    for part in "qkv":
        tape[f"{block}.{part}"] = reshape(tape[f"{block}.{part}"])
    fault = verify(model, tape).faults[0]
    assert fault.narrowed == f"{block}.k" and len(fault.inside) == 7


def test_a_tensor_of_another_shape_is_mentioned(model):
    block, tape = "vision.block.1", faulty(model, "vision.block.1", "mlp")
    tape[f"{block}.mlp"] = tape[f"{block}.mlp"][:, :3]
    report = verify(model, tape)
    assert report.faults[0].narrowed == "" and report.faults[0].wanted == (f"{block}.mlp",)
    assert f"Not compared: {block}.mlp, whose shape is [3, 3, 24], not [3, 17, 24]." in str(report)


def test_other_than_floating_point_is_refused(model):
    tape = faulty(model, "vision.block.1", "mlp")
    tape["vision.block.1.q"] = tape["vision.block.1.q"].astype(int)
    raises_one_line(verify, model, tape, match="vision.block.1.q is int64: give float64")


def test_nan_inside_a_block(model):
    tape = faulty(model, "vision.block.1", "mlp")
    tape["vision.block.1.weights"] = tape["vision.block.1.weights"] * np.nan
    fault = verify(model, tape).faults[0]
    assert fault.narrowed == "vision.block.1.mlp"  # the attention was not computed from them


def test_of_several_texts(tiny_model):
    """The finer tensors of a batch have its axis."""
    model, ids = tiny_model(), np.concatenate([IDS, IDS + 1, IDS + 2])
    block = "decoder.block.0.cross"
    for part in "k", "weights", "mlp":
        with mvc.trace({f"{block}.{part}": FAULTS[part]}, weights=block) as seen:
            tokens = model.encode_video(model.preprocess(FRAMES)).tokens
            model.decode(tokens, ids)
        tape = {**seen, f"{block}.{part}": FAULTS[part](seen[f"{block}.{part}"])}
        assert verify(model, tape).faults[0].narrowed == f"{block}.{part}"


def test_the_second_fault_has_its_own(model):
    """Each fault is looked into: two blocks, with the finer tensors of both."""
    tensors = load_file(KIT / "as_released" / "truth.safetensors")
    names = ["vision.block.0.mlp", "text.block.1.v"]
    with mvc.trace({name: FAULTS[name.split(".", 3)[3]] for name in names}, weights=True) as seen:
        model.decode(model.encode_video(tensors["pixels"]).tokens, tensors["ids"][None])
    tape = seen | {name: FAULTS[name.split(".", 3)[3]](seen[name]) for name in names}
    report = verify(model, tape)
    assert [fault.narrowed for fault in report.faults] == names
    assert "Not compared, inside a block: " in str(report)  # those of other blocks
    assert not set(report.inside) & set(report.unknown)


def test_a_block_that_is_off_for_no_reason_inside(model):
    """The whole was not computed from its parts, which are all right."""
    tape = faulty(model, "vision.block.1")
    report = verify(model, tape | {"vision.block.1": noise(tape["vision.block.1"], 0.1)})
    assert report.faults[0].narrowed == "vision.block.1" and text(report) == str(report)


def test_as_a_program_and_as_json(call, model, tmp_path):
    """Through a file, whose tensors inside other blocks are not read."""
    tape = faulty(model, "vision.block.1", "weights")
    tape["vision.block.0.q"] = np.zeros(3, bool)
    path = tmp_path / "t.safetensors"
    save_file({name: np.ascontiguousarray(x) for name, x in tape.items()}, path)
    status, out, err = call("verify", path, "--weights", FOLDER)
    assert (status, err) == (1, "") and "Inside it, the first wrong tensor is vision.block.1.weights." in out
    status, out, _ = call("verify", path, "--weights", FOLDER, "--json")
    fault = json.loads(out)["faults"][0]
    assert (fault["narrowed"], fault["wanted"]) == ("vision.block.1.weights", [])
    assert [x["status"] for x in fault["inside"]].count("wrong") == 1 and len(fault["inside"]) == 7
    assert as_json(verify_file(path, FOLDER))["unknown"] == ["vision.block.0.q"]


# trace --inside


@pytest.mark.parametrize("block", ["vision.block.1", "pool", "decoder.block.0.cross"])
def test_trace_writes_the_inside_of_one_block(call, tmp_path, block):
    path, plain = tmp_path / "t.safetensors", tmp_path / "plain.safetensors"
    command = ["trace", PAIR, "--weights", FOLDER, "--frames", 2, "-o"]
    status, out, err = call(*command, path, "--inside", block)
    assert call(*command, plain)[0] == 0 and (status, err) == (0, "")
    parts = [*PARTS[:5], *(PARTS[5:] if block != "pool" else [])]
    assert load_file(path).keys() - load_file(plain).keys() == {f"{block}.{part}" for part in parts}
    assert f"{block}.weights" in out and call("verify", path, "--weights", FOLDER)[0] == 0


@pytest.mark.parametrize(
    "block", ["vision.block.2", "vision", "vision.block.0.q", "logits", "pool.contrastive", ""]
)
def test_trace_refuses_other_blocks(refused, tmp_path, block):
    path = tmp_path / "t.safetensors"
    message = refused("trace", PAIR, "--weights", FOLDER, "--inside", block, "-o", path)
    assert "--inside" in message and " such as " in message and not path.exists()


@pytest.mark.parametrize("weights", ["vision.block", "logits", "vision.block.0.q", ""])
def test_only_blocks_have_an_inside(weights):
    raises_one_line(mvc.trace(weights=weights).__enter__, match="give True or the name of a block")
