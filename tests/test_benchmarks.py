"""The benchmarks' own machinery: what they count, the order of a race, and processes that stand still."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import race
from encoder import flops
from generate import step_weights

from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.table import parameter_shapes


@pytest.mark.parametrize(
    "patch_size, layers, width, published",
    [(32, 12, 768, 4.409), (16, 12, 768, 17.564), (32, 24, 1024, 15.378), (16, 24, 1024, 61.555)],
)
def test_operations_are_those_that_torchvision_gives(patch_size, layers, width, published):
    """Its vit_b_32, vit_b_16, vit_l_32 and vit_l_16, in 10^9 multiplications, a classifier included."""
    config = SimpleNamespace(
        patch_size=patch_size,
        tokens=1 + (224 // patch_size) ** 2,
        layers=layers,
        width=width,
        mlp_width=4 * width,
    )
    classifier = 1000 * width
    assert sum(flops(config, frames=8)) / 16 + classifier == pytest.approx(published * 1e9, abs=0.5e6)


def test_a_step_reads_both_text_towers_once(tiny_model):
    shapes = parameter_shapes(parse_config(tiny_model().config.source))
    E, V = shapes["text_decoder.text_projection"]
    norm, attention, mlp = 2 * E, 4 * (E * E + E), 8 * E * E + 5 * E
    block = 2 * norm + attention + mlp
    text, decoder = 2 * block, 2 * block + 2 * (block - 2 * E * E)  # in these no keys and values
    assert sum(w.size for w in step_weights(tiny_model().params)) == text + decoder + norm + E * V


def test_rounds_rotate_and_disturbed_turns_are_repeated(monkeypatch):
    log, busy = [], iter([0, 1, 0, 1, 0, 9, 0, 1, 0, 1])  # others take much of the third turn

    def competitor(name):
        return lambda: log.append(name) or {"seconds": 1, "cpu": 1}

    monkeypatch.setattr(race, "wait_for_quiet", lambda: None)
    monkeypatch.setattr(race, "busy_seconds", lambda: next(busy))
    turns = race.race({"a": competitor("a"), "b": competitor("b")}, rounds=2)
    assert log == ["a", "b", "a", "b", "b", "b", "a"]  # warm-up, round 1, round 2
    assert [len(turns[name]) for name in "ab"] == [2, 2]
    assert all(turn["others"] == 0 for turn in turns["a"] + turns["b"])


def test_of_disturbed_turns_the_quietest_counts(monkeypatch):
    busy, seconds = iter([0, 9, 0, 1, 0, 9]), iter([1, 2, 3])
    monkeypatch.setattr(race, "wait_for_quiet", lambda: None)
    monkeypatch.setattr(race, "busy_seconds", lambda: next(busy))
    assert race.quiet_turn(lambda: {"seconds": next(seconds), "cpu": 0})["seconds"] == 2


def test_a_racer_answers_and_stands_still():
    with race.Racer("operator.itemgetter", "a", threads=1) as racer:
        for _ in range(2):
            assert racer({"a": {"figure": 3}})["figure"] == 3
            time.sleep(0.1)
            stopped = os.waitid(os.P_PID, racer.process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG)
            assert stopped and stopped.si_status == signal.SIGSTOP
    assert racer.process.returncode == -signal.SIGKILL


def test_a_racer_that_fails_says_so(capfd):
    with pytest.raises(RuntimeError, match="operator.nothing failed with status 1; see above"):
        race.Racer("operator.nothing", threads=1)
    assert "AttributeError" in capfd.readouterr().err
