"""weights/tuning_table.py: its cells, measures and tables, and that it goes on where it was interrupted."""

import json
from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.world import objects_named
from minivideococa.world.questions import ASKED, QUESTION_KINDS

SMALL = {"steps": 2, "batch": 2, "seeds": 1, "clips": 10, "tested": 10}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "weights")
    import tuning_table

    return tuning_table


def test_cells(script):
    """Four tunings of four adapters on two tasks, and the order of frames, with each seed after the other."""
    cells = script.cells_of(script.Settings())
    assert len(set(cells)) == len(cells) == 6 + 3 * (4 * 4 * 2 + 5)
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert all(cell.tune == "zero-shot" for cell in cells[:6])
    names = [script.run_folder(Path("work"), cell) for cell in cells]
    assert len(set(names)) == len(names)


def test_captions_name_exactly_the_objects_shown(script):
    texts = ["a blue star and a red circle", "a small red circle", "a red circle", "nothing"]
    truths = ["a red circle and a blue star", "a red circle", "a red circle and a blue star", "a red circle"]
    assert script.is_exact(texts, truths) == [True, True, False, False]


def test_recall_counts_both_directions(script):
    texts = np.eye(3)
    videos = np.array([[1, 0.9, 0], [0, 0.8, 0], [0, 0, 1]])  # text 1 finds video 0; every video its text
    assert script.recalls(texts, videos) == {"text-to-video": [2, 3], "video-to-text": [3, 3]}


def test_intervals(script):
    assert script.wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)  # Brown, Cai and DasGupta 2001
    assert script.wilson(0, 10)[0] == 0 and script.wilson(10, 10)[1] == pytest.approx(1)
    assert script.rate_text([]) == ""
    assert script.rate_text([[8, 10]]) == "0.800 [0.49-0.94]"
    assert script.rate_text([[8, 10], [9, 10], [4, 10]]) == "0.700 (0.40-0.90)"


def test_a_table_has_the_finished_cells(script):
    cells = [script.Cell(seed, "lit", "mean", "first") for seed in (0, 1)]
    results = {cell: {"first": [5 + cell.seed, 10], "question only": [1, 10]} for cell in cells}
    results[script.Cell(0, "full", "mean", "first")] = {"first": [0, 10], "question only": [0, 10]}
    table = script.table(results, "first", ["lit"], ["attentional", "mean"], ["first", "question only"])
    assert table.split("\n") == [
        "| tuning | adapter | seeds | first | question only |",
        "|---|---|---|---|---|",
        "| lit | mean | 2 | 0.550 (0.50-0.60) | 0.100 (0.10-0.10) |",
    ]
    assert "3 of 117 cells" in script.report(results, script.Settings())


def test_a_finished_cell_is_never_computed_again(script, tmp_path, monkeypatch):
    settings, computed = script.Settings(**SMALL), []

    def compute(cell, settings, work):
        computed.append(cell)
        script.run_folder(work, cell).mkdir(parents=True)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return {"captions": [1, 2]}

    monkeypatch.setattr(script, "compute", compute)
    with pytest.raises(KeyboardInterrupt):
        script.run(tmp_path, settings)
    cells = script.cells_of(settings)
    assert list(script.read_results(tmp_path)) == cells[:2]
    script.run_folder(tmp_path, cells[2]).rmdir()
    script.run_folder(tmp_path, cells[0]).mkdir()  # as if it had been killed before removing it
    script.run(tmp_path, settings)
    assert computed == [*cells[:3], *cells[2:]]
    assert script.read_results(tmp_path) == {cell: {"captions": [1, 2]} for cell in cells}
    assert not list((tmp_path / "runs").iterdir())
    lines = (tmp_path / script.RESULTS).read_text().splitlines()
    assert json.loads(lines[0]).keys() == {"seed", "tune", "adapter", "task", "seconds", "scores"}


def test_other_settings_are_refused(script, tmp_path):
    script.require_same(tmp_path, script.Settings(**SMALL))
    script.require_same(tmp_path, script.Settings(**SMALL))
    with pytest.raises(ValueError, match='"steps": 2.*another folder'):
        script.require_same(tmp_path, script.Settings(**SMALL | {"steps": 3}))


def test_there_are_only_so_many_different_clips(script):
    with pytest.raises(ValueError, match="at most 400"):
        script.Settings(tested=401)


def test_clips(script, tmp_path):
    settings = script.Settings(**SMALL)
    entries = script.clips(tmp_path, settings, "caption", "test")
    shown = [frozenset(objects_named(entry.captions[0])) for entry in entries]
    assert len(set(shown)) == len(shown) == 10
    assert [len(objects) for objects in shown] == [1, 2, 2, 2, 2] * 2
    entries = script.clips(tmp_path, settings, "qa", "test")
    assert len({entry.video for entry in entries}) == len(entries) == 10
    assert [entry.question_type for entry in entries] == [*ASKED, *ASKED][:10]  # that it was drawn for
    entries = script.clips(tmp_path, settings, "first", "test")
    assert {entry.question for entry in entries} == {QUESTION_KINDS["first"].training[0]}  # canonical


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["attentional", "joint"])
def test_tokens_of_the_cache_encode_as_pixels_do(script, tmp_path, adapter):
    model, settings = mvc.load(), script.Settings(**SMALL)
    entries = script.clips(tmp_path, settings, "caption", "test")
    frozen, full = (script.Cell(0, tune, adapter, "caption") for tune in ("lit", "frozen-then-full"))
    tokens, pixels = (script.encode(model, entries, 8, cell, tmp_path, 2) for cell in (frozen, full))
    assert len(tokens) == len(pixels) == 2
    for a, b in zip(tokens, pixels, strict=True):
        assert np.abs(a.latent - b.latent).max() < 2e-3  # the cache is in float16
        assert np.abs(a.tokens - b.tokens).max() < 2e-2 * np.abs(b.tokens).max()


@pytest.mark.slow
def test_a_cell_is_tuned_and_measured(script, tmp_path, monkeypatch, capsys):
    """The order of frames by the factorized adapter with positions; then captions from the command line."""
    settings = script.Settings(**SMALL)
    scores = script.compute(script.Cell(0, "lit", script.POSITIONS, "first"), settings, tmp_path / "order")
    assert scores.keys() == {"questions", "question only", "first"} and scores["first"][1] == 10
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    arguments = ["tuning_table.py", str(tmp_path / "work"), *options, "--most=1"]
    monkeypatch.setattr("sys.argv", arguments)
    assert script.main() == 0
    assert "| zero-shot | attentional | 1 |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "--steps=3"])
    assert script.main() == 2
    assert "give these, or another folder" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*arguments[:2], "--print"])
    assert script.main() == 0
    assert "2 steps of 2 clips" in capsys.readouterr().out
