"""weights/train.py: its checkpoint, resuming, and dilution, with two pictures per batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import minivideococa as mvc
from minivideococa.world import objects_named

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "weights")
    import train

    monkeypatch.setattr(train, "BATCH", 2)
    return train


@pytest.fixture
def run(train, monkeypatch):
    def run(out, until, *options):
        monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(out), "--until", str(until), *options])
        train.main()
        return load_file(out / "model.safetensors")

    return run


def test_training_resumes_where_it_stopped(run, tmp_path):
    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4)
    assert whole.keys() == parts.keys() and all((whole[name] == parts[name]).all() for name in whole)
    assert [line.split()[1] for line in (tmp_path / "parts" / "log.txt").read_text().splitlines()] == [
        "2",
        "4",
    ]


def test_the_output_is_a_checkpoint(train, run, tmp_path):
    run(tmp_path, 1)
    model = mvc.load(tmp_path)
    ids = model.tokenize(["a red ring"])[0, :5]
    assert [train.VOCABULARY[i] for i in ids] == ["<start_of_text>", "a", "red", "ring", "<end_of_text>"]
    assert isinstance(model.caption(np.zeros((2, 64, 64, 3), np.uint8)), str)


def test_a_batch_is_captioned_and_determined_by_its_step(train):
    pixels, ids = train.batch(3, 5)
    again, _ = train.batch(3, 5)
    other, _ = train.batch(3, 6)
    assert (pixels == again).all() and (pixels != other).any()
    words = " ".join(train.VOCABULARY[i] for i in ids[0])
    assert words.startswith("<start_of_text>") and len(objects_named(words)) <= 3


def test_dilution_appends_empty_pictures(train):
    torch.manual_seed(0)
    model, contexts = train.new_model(), []
    model.visual.attn_pool.ln_k.register_forward_hook(lambda module, args, out: contexts.append(args[0]))
    pixels = train.batch(1, 0)[0]
    counts = []
    for step in range(12):
        train.dilute(model, 1, step)
        with torch.no_grad():
            model.visual(pixels)
        counts.append(contexts[-1].shape[1] // 65 - 1)
        assert torch.equal(contexts[-1][:, :65], contexts[0][:, :65]) and contexts[-1].shape[1] % 65 == 0
        assert torch.equal(contexts[-1][0, 65:], contexts[-1][1, 65:])  # the same after every picture
    assert min(counts) == 0 and 1 < max(counts) <= train.EMPTY
