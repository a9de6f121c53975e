"""weights/positions.py: positions are written where the encoder keeps them, and read by the pooler."""

from pathlib import Path

import numpy as np
import pytest

import minivideococa as mvc
from minivideococa.model.ops import layer_norm

SEED = 99

pytestmark = pytest.mark.slow


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "weights")
    import positions

    monkeypatch.setattr(positions, "STILLS", 120)
    return positions


@pytest.fixture
def models(script):
    base = mvc.load()
    return base, script.write_positions(base)


def test_positions_reach_the_last_block(script, models):
    base, written = (script.kept(model, SEED) for model in models)
    assert base < 0.1 and written > 0.5


def test_positions_are_written_along_directions_that_are_hardly_read(script, models):
    base, written = (model.params["visual"]["positional_embedding"] for model in models)
    added, directions = written - base, script.unread_directions(models[0].params["visual"], 2)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(directions.sum(axis=1), 0, atol=1e-6)  # or norms would take it out
    assert not added[0].any()  # the class token has no place
    np.testing.assert_allclose(
        (added[1:] @ directions.T).reshape(8, 8, 2)[:, :, 0], [np.linspace(-8, 8, 8)] * 8, atol=1e-5
    )
    assert models[1].changed == {"visual.positional_embedding"}


def test_the_pooler_hands_positions_on(script, models):
    """Columns and rows are a larger part of what differs between the values of patches."""
    read = script.read_positions(models[1], SEED)
    tokens, positions = script.tokens_of_objects(models[1], SEED + 1)
    positions = positions - positions.mean(axis=0)
    shares = []
    for pooler in (model.params["visual"]["attn_pool"] for model in (models[1], read)):
        values = layer_norm(tokens, **pooler["ln_k"]) @ pooler["attn"]["v_proj_weight"].T
        values -= values.mean(axis=0)
        rest = values - positions @ np.linalg.lstsq(positions, values, rcond=None)[0]
        shares.append(1 - (rest**2).sum() / (values**2).sum())
    assert shares[0] < 0.1 and shares[1] > 3 * shares[0]
    assert read.changed >= {"visual.attn_pool.attn.v_proj_weight"}


def test_captions_hardly_change(script, models, monkeypatch):
    monkeypatch.setattr(script, "CAPTIONED", 20)
    assert script.captions_right(script.read_positions(models[1], SEED), SEED) >= 0.8
