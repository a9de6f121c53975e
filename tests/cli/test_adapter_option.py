"""The commands on a checkpoint that was tuned with an adapter, and --adapter on one that was not."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from minivideococa import cli, load
from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.folder import embedded_checkpoint, read_checkpoint, write_checkpoint
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.demo import CLIPS
from minivideococa.evaluation import Entry, evaluate

PAIR, BRIEF = CLIPS / "pair.gif", CLIPS / "brief.gif"
VIDEO = {"factorized": {"layers": 1, "heads": 4, "positions": 8}}


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


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """adapter -> a checkpoint folder: the embedded one, as if tuned with that adapter."""
    base, tensors = read_checkpoint(embedded_checkpoint())
    tokenizer = (embedded_checkpoint() / "tokenizer.json").read_text(encoding="utf-8")
    rng = np.random.default_rng(0)

    def make(adapter):
        config = parse_config(base.source | {"video_cfg": {"adapter": adapter} | VIDEO})
        new = {
            name: rng.normal(0, 0.05, shape).astype("float32")
            for name, shape in parameter_shapes(config).items()
            if name.startswith("factorized.")
        }
        return write_checkpoint(tmp_path_factory.mktemp(adapter) / "tuned", config, tensors | new, tokenizer)

    return {adapter: make(adapter) for adapter in ("mean", "joint", "factorized")}


@pytest.mark.parametrize(
    "command",
    [
        ["caption", PAIR, BRIEF],
        ["classify", PAIR, "--labels", "star,ring"],
        ["retrieve", "a red star", PAIR, BRIEF],
        ["answer", PAIR, "star"],
    ],
    ids=lambda command: command[0],
)
def test_factorized_without_its_layers_is_refused_once(run, command):
    status, out, err = run(*command, "--adapter", "factorized")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("minivideococa: adapter is factorized: ") and "finetune --adapter factorized" in err


def test_more_frames_than_positions_are_refused(run, tuned):
    command = ["caption", BRIEF, "--weights", tuned["factorized"], "--frames", "9"]
    status, out, err = run(*command)
    assert (status, out) == (2, "") and err == (
        "minivideococa: 9 frames: the factorized layers have positions for 8: take fewer\n"
    )
    assert run(*command, "--adapter", "mean", "--beams", "1")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["mean", "joint", "factorized"])
def test_the_default_is_the_checkpoints_own(run, tuned, adapter):
    command = ["classify", BRIEF, "--labels", "red star,blue ring", "--json", "--no-cache"]
    own = run(*command, "--weights", tuned[adapter])
    assert own[0] == 0 and own == run(*command, "--weights", tuned[adapter], "--adapter", adapter)
    if adapter != "factorized":  # the same weights, pooled in this way
        mine, base = (json.loads(x[1]) for x in (own, run(*command, "--adapter", adapter)))
        assert mine["labels"] == base["labels"]
    other = run(*command, "--weights", tuned[adapter], "--adapter", "attentional")
    assert json.loads(own[1])["labels"] != json.loads(other[1])["labels"]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["mean", "joint", "factorized"])
def test_trace_and_verify_take_it_too(run, tuned, adapter, tmp_path):
    file = tmp_path / "trace.safetensors"
    assert run("trace", BRIEF, "--text", "a red star", "-o", file, "--weights", tuned[adapter])[0] == 0
    names = load_file(file).keys()
    assert ("pool.flat" in names) == (adapter == "joint")
    assert ("factorized.block.0" in names) == (adapter == "factorized")
    status, out, _ = run("verify", file, "--weights", tuned[adapter], "--strict")
    assert status == 0 and "no error is larger than float32 rounding explains" in out


def test_converting_keeps_the_layers(run, tuned, tmp_path):
    assert run("convert", tuned["factorized"], tmp_path / "again")[0] == 0
    before, after = (read_checkpoint(folder) for folder in (tuned["factorized"], tmp_path / "again"))
    assert before[0] == after[0] and before[0].source == after[0].source
    assert before[1].keys() == after[1].keys()
    assert all(np.array_equal(x, after[1][name]) for name, x in before[1].items())


@pytest.mark.slow
def test_evaluate_takes_the_checkpoints_own(tuned, monkeypatch):
    entries = [Entry(BRIEF, ("a red star",)), Entry(PAIR, ("a blue ring",))]
    own, base = load(tuned["mean"]), load()
    found, expected = evaluate(own, entries), evaluate(base, entries, adapter="mean")
    assert found.pop("setting")["adapter"] == expected.pop("setting")["adapter"] == "mean"
    assert found == expected
    monkeypatch.setattr("minivideococa.evaluation.run.read_video", None)  # it is said before any is read
    with pytest.raises(ValueError, match="9 frames: the factorized layers have positions for 8"):
        evaluate(load(tuned["factorized"]), entries, num_frames=9)
