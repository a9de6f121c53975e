"""The machinery of the benchmarks: counts of operations, order of turns, stopped processes, comparisons."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

if os.name != "posix":
    pytest.skip("the benchmarks stop processes by signals", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import compare
import models
import race
import search
import train_step
import verify_trace
from encoder import flops
from generate import step_weights

from minivideococa.checkpoint.config import parse_config
from minivideococa.checkpoint.folder import embedded_checkpoint
from minivideococa.checkpoint.table import parameter_shapes
from minivideococa.library import read_library, search_latents, store


@pytest.mark.parametrize(
    "patch_size, layers, width, published",
    [(32, 12, 768, 4.409), (16, 12, 768, 17.564), (32, 24, 1024, 15.378), (16, 24, 1024, 61.555)],
)
def test_operations_are_those_that_torchvision_publishes(patch_size, layers, width, published):
    """vit_b_32, vit_b_16, vit_l_32 and vit_l_16, in 10^9 multiplications, including a classifier."""
    config = SimpleNamespace(
        patch_size=patch_size,
        tokens_per_frame=1 + (224 // patch_size) ** 2,
        layers=layers,
        width=width,
        mlp_width=4 * width,
    )
    classifier = 1000 * width
    assert sum(flops(config, frames=8)) / 16 + classifier == pytest.approx(published * 1e9, abs=0.5e6)


def test_a_step_reads_both_text_decoders_once(tiny_model):
    shapes = parameter_shapes(parse_config(tiny_model().config.source))
    E, V = shapes["text_decoder.text_projection"]
    norm, attention, mlp = 2 * E, 4 * (E * E + E), 8 * E * E + 5 * E
    block = 2 * norm + attention + mlp
    text, decoder = 2 * block, 2 * block + 2 * (block - 2 * E * E)  # without keys and values
    assert sum(w.size for w in step_weights(tiny_model().params)) == text + decoder + norm + E * V


def test_rounds_rotate_and_disturbed_turns_are_repeated(monkeypatch):
    log, busy = [], iter([0, 1, 0, 1, 0, 9, 0, 1, 0, 1])  # other processes disturb the third turn

    def competitor(name):
        return lambda: log.append(name) or {"seconds": 1, "cpu": 1}

    monkeypatch.setattr(race, "wait_for_quiet", lambda: None)
    monkeypatch.setattr(race, "busy_seconds", lambda: next(busy))
    turns = race.race({"a": competitor("a"), "b": competitor("b")}, rounds=2)
    assert log == ["a", "b", "a", "b", "b", "b", "a"]  # warm-up, round 1, round 2
    assert [len(turns[name]) for name in "ab"] == [2, 2]
    assert all(turn["others"] == 0 for turn in turns["a"] + turns["b"])


def test_the_least_disturbed_turn_counts(monkeypatch):
    busy, seconds = iter([0, 9, 0, 1, 0, 9]), iter([1, 2, 3])
    monkeypatch.setattr(race, "wait_for_quiet", lambda: None)
    monkeypatch.setattr(race, "busy_seconds", lambda: next(busy))
    assert race.quiet_turn(lambda: {"seconds": next(seconds), "cpu": 0})["seconds"] == 2


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="this system has no waitid")
def test_a_racer_is_stopped_between_turns():
    with race.Racer("operator.itemgetter", "a", threads=1) as racer:
        for _ in range(2):
            assert racer({"a": {"figure": 3}})["figure"] == 3
            time.sleep(0.1)
            stopped = os.waitid(os.P_PID, racer.process.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG)
            assert stopped and stopped.si_status == signal.SIGSTOP
    assert racer.process.returncode == -signal.SIGKILL


def test_a_failing_racer_raises(capfd):
    with pytest.raises(RuntimeError, match="operator.nothing failed with status 1; see above"):
        race.Racer("operator.nothing", threads=1)
    assert "AttributeError" in capfd.readouterr().err


def test_a_comparison_is_of_medians():
    turns = {
        "import (here)": [{"seconds": t, "others": 0.0} for t in (1.0, 2.0, 9.0)],
        "import (there)": [{"seconds": t, "others": 0.1} for t in (4.0, 4.0, 3.0)],
    }
    table = compare.table("Import", ["import"], ["here", "there"], turns)
    assert "| import | 2.000 | 1.000 - 9.000 | 4.000 | 3.000 - 4.000 | 0.50 (0.25 - 3.00) |" in table
    assert "at most 10% of the machine" in table


@pytest.mark.skipif(
    not shutil.which("git") or not (race.ROOT / ".git").exists(), reason="needs git and a checkout"
)
def test_a_commit_is_extracted_and_an_unknown_one_is_an_error(tmp_path):
    assert (compare.extract("HEAD", tmp_path) / "minivideococa" / "__init__.py").is_file()
    with pytest.raises(SystemExit, match="compare: git archive no-such-commit: "):
        compare.extract("no-such-commit", tmp_path)


def test_the_losses_of_a_step_must_be_the_same():
    losses = {"caption": 2.0, "contrastive": 1.0}
    train_step.check_same_losses("torch", losses, losses | {"loss": 5.0})
    with pytest.raises(RuntimeError, match="torch: the contrastive loss is 1.0, not 1.01"):
        train_step.check_same_losses("torch", losses, losses | {"contrastive": 1.01})


def test_a_step_has_captions_of_two_lengths():
    given = train_step.batches("", "tiny")
    for texts, shortest, longest in (train_step.CAPTION, 10, 14), (train_step.FULL, 20, 20):
        inputs, ids, targets = given[texts]
        assert inputs.shape == (32, 8, 65, 160) and ids.shape == targets.shape == (32, 20)
        lengths = (ids > 0).sum(axis=1)
        assert (lengths.min(), lengths.max()) == (shortest, longest)
        assert np.array_equal(targets[:, 1:], ids[:, 1:] > 0) and not targets[:, 0].any()


def test_the_synthetic_library_is_one_and_a_bare_read_reads_its_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "CLIPS", 50)
    monkeypatch.setattr(store, "SHARD_BYTES", 20 * 9 * 512 * 2)
    search.write_library(tmp_path)
    library = read_library(tmp_path)
    assert list(library.shards.values()) == [20, 20, 10]
    rows = library.rows("shard-000001.safetensors")
    query = rows["latent"][3].astype(np.float32)
    best = search_latents(tmp_path, query)[0]
    assert best.video == "/videos/000000023.mp4" and best.cosine == pytest.approx(1, abs=1e-3)
    found = []
    monkeypatch.setattr(search, "bytearray", lambda n: found.append(bytearray(n)) or found[-1], raising=False)
    search.reader(str(tmp_path), threads=1)()
    latents = library.rows("shard-000000.safetensors")["latent"].tobytes()
    assert len(found) == 3 and bytes(found[0][: len(latents)]) == latents


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_private_memory_is_measured():
    before = search.private_memory()
    with search.watched() as found:
        filled = np.ones(4_000_000)
        time.sleep(0.1)
    assert filled.nbytes * 0.9 < max(found) - before < filled.nbytes * 1.5


@pytest.mark.slow
def test_the_trace_that_is_verified_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "tune", lambda: None)
    monkeypatch.setattr(verify_trace, "tune", lambda: None)
    monkeypatch.setattr(verify_trace, "TEXT", "a red ring moves left")
    shutil.copytree(embedded_checkpoint(), tmp_path / models.CHECKPOINT)
    verify_trace.write(str(tmp_path))()
    assert verify_trace.verify(str(tmp_path))()["compared"] > 10
