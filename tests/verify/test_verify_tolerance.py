"""`verify --tolerance`: a quantized port is judged by its signal-to-quantization-noise ratio."""

import json

import numpy as np
import pytest
from verify_helpers import FOLDER, TRUTH, statuses

from minivideococa.verify import as_json, text, verify
from minivideococa.verify.report import difference


def with_noise(x, decibels):
    """x plus noise of exactly that ratio."""
    moves = np.random.default_rng(0).standard_normal(x.shape)
    return x + moves * np.linalg.norm(x) / np.linalg.norm(moves) * 10 ** (-decibels / 20)


def test_the_ratio_and_the_cosine():
    x = np.random.default_rng(1).standard_normal((7, 5))
    found = difference(with_noise(x, 30), x)
    assert found.sqnr == pytest.approx(30, abs=1e-9)
    assert found.cosine == pytest.approx(1 / np.sqrt(1 + 10**-3), abs=0.01)
    assert difference(x, x).sqnr == np.inf == difference(0 * x, 0 * x).sqnr
    assert difference(np.where(x == x[0, 0], np.nan, x), x).sqnr == -np.inf


def test_the_first_tensor_below_the_tolerance(right):
    model, tape = right()
    tape |= {"vision.block.0": with_noise(tape["vision.block.0"], 35)}
    tape |= {"text.block.1": with_noise(tape["text.block.1"], 25)}
    report = verify(model, tape, tolerance=30)
    assert {name for name, status in statuses(report).items() if status != "ok"} == {"text.block.1"}
    assert report.first_divergence.name == "text.block.1" and not report.ok and report.faults == []
    assert text(report).splitlines()[-1] == "First tensor below 30 dB: text.block.1, 25.0 dB."
    assert "first below the tolerance: text.block.1, 25.0 dB" in repr(report)
    report = verify(model, tape, tolerance=36)
    assert [row.name for row in report.below] == ["vision.block.0", "text.block.1"]
    assert "below 36 dB: vision.block.0, 35.0 dB. 1 more is below it." in text(report)
    report = verify(model, tape, tolerance=20)
    assert report.ok and text(report).endswith("the lowest is text.block.1, 25.0 dB.")


def test_nothing_but_the_reference_is_run(right, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("a run with rounding, or a search")

    for name in "judged", "rounding_errors", "diagnosed":
        monkeypatch.setattr(f"minivideococa.verify.compare.{name}", asked)
    model, tape = right()
    assert not verify(model, tape | {"logits": -tape["logits"]}, tolerance=0).ok


def test_another_shape_is_below_any_tolerance(right):
    model, tape = right()
    for x in tape["logits"][:-1], tape["logits"].T:
        assert verify(model, tape | {"logits": x}, tolerance=-300).first_divergence.name == "logits"


def test_as_json(right):
    model, tape = right()
    report = verify(model, tape | {"logits": with_noise(tape["logits"], 12.5)}, tolerance=20)
    data = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert (data["tolerance"], data["right"], data["first_divergence"]) == (20, False, "logits")
    last = data["tensors"][-1]
    assert last["sqnr"] == pytest.approx(12.5) and last["status"] == "below" and last["agrees"] is False
    assert last["allowed"] is last["local_error"] is last["local_allowed"] is None
    assert as_json(verify(model, tape))["tolerance"] is None


@pytest.mark.parametrize(("given", "status"), [("30dB", 0), ("30", 0), ("12.5 db", 0), ("400dB", 1)])
def test_the_command(call, given, status):
    returned, out, _ = call("verify", TRUTH, "--weights", FOLDER, "--tolerance", given)
    assert returned == status and f"below {float(given.lower().removesuffix('db')):g} dB" in out


@pytest.mark.parametrize("given", ["loud", "nan", "inf", "30 watts", ""])
def test_what_is_no_ratio_is_refused(refused, given):
    assert "such as 30dB" in refused("verify", TRUTH, "--weights", FOLDER, f"--tolerance={given}")
