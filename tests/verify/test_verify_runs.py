"""The runs that a trace is judged by: what they cost, and that shortcuts change no number that matters."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from verify_helpers import FORMS, KIT_FOLDERS, rounded, run, statuses

from minivideococa.checkpoint import load
from minivideococa.checkpoint.folder import read_checkpoint, write_checkpoint
from minivideococa.model import videococa
from minivideococa.model.hooks import trace
from minivideococa.verify import compare, runs, verify
from minivideococa.verify.precision import in_float64


def by_name(report):
    return {row.name: row for row in report.rows}


def exactly(monkeypatch):
    """Judge every trace by the run in float64."""
    monkeypatch.setattr(compare, "step_length", lambda *_: None)


@pytest.fixture
def counted(monkeypatch):
    """The number of times that frames were encoded, and of exact runs that continued from a trace."""
    calls = {"frames": 0, "local": 0}
    encode, exact_run = videococa.frame_tokens, compare.exact_run

    def encoded(*arguments, **more):
        calls["frames"] += 1
        return encode(*arguments, **more)

    def exact(model, tested, patch=None):
        calls["local"] += patch is not None
        return exact_run(model, tested, patch)

    monkeypatch.setattr(videococa, "frame_tokens", encoded)
    monkeypatch.setattr(compare, "exact_run", exact)
    return calls


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_local_errors_of_a_right_trace_are_those_of_float64(tiny_model, monkeypatch, counted, form, dtype):
    model = tiny_model(5, "float32", vision=FORMS[form])
    tape = {name: rounded(x, dtype) for name, x in run(model).items()}
    quick = verify(model, tape, dtype)
    assert counted["local"] == 0
    exactly(monkeypatch)
    for row, expected in zip(quick.rows, verify(model, tape, dtype).rows, strict=True):
        assert abs(row.local_error - expected.local_error) < 0.02 * expected.local_allowed, row.name
        assert row.local_allowed == pytest.approx(expected.local_allowed, rel=0.02)
        assert (row.difference, row.allowed) == (expected.difference, expected.allowed)
    assert counted["local"] == 1


@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_a_trace_that_may_be_wrong_is_judged_in_float64(tiny_model, counted, factor):
    """An error near the allowed one: the float64 run decides."""
    model = tiny_model(5, "float32")
    tape = run(model)
    name = "vision.block.1"
    allowed = by_name(verify(model, tape))[name].local_allowed
    x = tape[name].astype(np.float64)
    moved = x + np.eye(*x.shape[-2:]) * factor * allowed * np.sqrt(np.mean(np.square(x).sum(-1)))
    report = verify(model, {**tape, name: moved}, "float32")
    assert counted["local"] == 1
    assert statuses(report)[name] == ("wrong" if factor > 1 else "ok")
    assert by_name(report)[name].local_error == pytest.approx(factor * allowed, rel=0.2)


def test_threads_change_no_more_than_rounding(tiny_model):
    model = tiny_model(5, "float32")
    tape = run(model)
    reports = []
    for threads in 1, 2:
        with threadpool_limits(threads, "blas"):
            reports.append(verify(model, tape))
    for row, other in zip(*(report.rows for report in reports), strict=True):
        assert row.allowed == pytest.approx(other.allowed, rel=0.1), row.name
        assert row.local_allowed == pytest.approx(other.local_allowed, rel=0.1), row.name
        assert row.status == other.status == "ok"


def test_many_frame_tokens_are_sampled_once(tiny_model, monkeypatch, counted):
    model = tiny_model(5, "float32")
    tape = run(model)
    counted["frames"] = 0
    thorough = verify(model, tape)
    assert counted["frames"] == 1 + 1 + 2 * 3  # reference, local, and rounding in both
    monkeypatch.setattr(runs, "MANY_ROWS", 1)
    counted["frames"] = 0
    report = verify(model, tape)
    assert counted["frames"] == 1 + 1 + 2
    for row, other in zip(report.rows, thorough.rows, strict=True):
        assert other.allowed / 4 < row.allowed < 4 * other.allowed, row.name
    assert report.ok


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("seed", range(4))
def test_some_frames_show_the_rounding_of_all(tiny_model, monkeypatch, seed, dtype):
    """Also where those that are encoded again are black. An error in another frame is still found."""
    monkeypatch.setattr(runs, "MANY_ROWS", 30)
    model = tiny_model(seed, "float32")
    frames = np.random.default_rng(seed).integers(0, 256, (9, 14, 14, 3), np.uint8)
    frames[::3] = 0
    assert 9 * model.config.vision.tokens_per_frame // 30 == 3
    with trace() as tape:
        video = model.encode_video(model.preprocess(frames))
        model.decode(video.tokens, np.array([[1, 5, 4, 2]]))
    tape = {name: rounded(x, dtype) for name, x in tape.items()}
    assert verify(model, tape, dtype).ok
    wrong = tape["vision.block.0"].copy()
    wrong[4, 3] *= 1.5
    assert verify(model, tape | {"vision.block.0": wrong}, dtype).first_divergence.name == "vision.block.0"


def test_matrices_are_not_copied_to_float64(tiny_model):
    model = tiny_model(dtype="float32")
    exact = in_float64(model)

    def weights(model):
        visual = model.params["visual"]
        mlp = visual["transformer"]["resblocks"][0]["mlp"]["c_fc"]
        return mlp["weight"], mlp["bias"], visual["class_embedding"]

    same = [np.shares_memory(a, b) for a, b in zip(weights(model), weights(exact), strict=True)]
    assert same == [True, False, False] and exact.dtype == np.float64


def test_a_checkpoint_is_loaded_as_it_is_stored(tmp_path):
    """Without loss, and no wider than needed: the embedded checkpoint is float16."""
    assert load(dtype="stored").dtype == np.float32
    config, tensors = read_checkpoint(KIT_FOLDERS[0])
    write_checkpoint(tmp_path / "fine", config, {name: x.astype(np.float64) for name, x in tensors.items()})
    assert load(tmp_path / "fine", dtype="stored").dtype == np.float64
