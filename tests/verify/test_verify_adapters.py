"""`verify` on models that were tuned with another adapter than attentional pooling."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from verify_helpers import FORMS, edited, having, noise, noise_after, run, statuses

from minivideococa.model.config import ADAPTERS, FactorizedConfig
from minivideococa.model.hooks import replace_operations
from minivideococa.verify import as_json, text, verify
from minivideococa.verify.changes import without_residual

LAYERS = {"layers": 2, "heads": 2, "positions": 5}
POOLED = {
    "mean": ["pool.attended", "pool.tokens", "pool.latent"],
    "joint": ["pool.flat", "pool.attended", "pool.tokens", "pool.latent"],
    "factorized": [
        "pool.attended",
        "factorized.embed",
        "factorized.block.0",
        "factorized.block.1",
        "pool.tokens",
        "pool.latent",
    ],
}


@pytest.fixture(scope="module")
def tuned(tiny_model):
    """(adapter, form) -> (model in float64, its trace), made once."""

    @cache
    def make(adapter, form):
        model = tiny_model(vision=FORMS[form], video={"adapter": adapter, "factorized": LAYERS})
        return model, run(model)

    return lambda adapter, form="released": (make(adapter, form)[0], dict(make(adapter, form)[1]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("adapter", POOLED)
def test_our_own_trace_is_right(tuned, adapter, form):
    model, tape = tuned(adapter, form)
    report = verify(model, tape)
    assert set(statuses(report).values()) == {"ok"} and report.unknown == report.missing == []
    assert [name for name in statuses(report) if name.startswith(("pool", "fact"))] == POOLED[adapter]


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "joint"])
def test_a_trace_of_another_adapter_is_wrong(tuned, adapter):
    """Frames are encoded alike, and pooled in another way."""
    other = {"attentional": "mean", "mean": "factorized", "factorized": "attentional"}[adapter]
    model, _ = tuned(adapter)
    report = verify(model, tuned(other)[1])
    assert report.first_divergence.name.startswith(("pool.", "factorized."))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("adapter", "name"), [(adapter, name) for adapter, names in POOLED.items() for name in names]
)
def test_a_wrong_tensor_is_located(tuned, adapter, name, form):
    model, tape = tuned(adapter, form)
    assert verify(model, noise_after(tape, name, 1e-3)).first_divergence.name == name


@pytest.mark.parametrize("form", FORMS)
def test_the_latent_is_computed_from_the_caption_tokens(tuned, form):
    """Unlike that of the other adapters."""
    model, tape = tuned("factorized", form)
    assert having(verify(model, noise_after(tape, "pool.tokens", 1e-3)), "wrong") >= {
        "pool.tokens",
        "pool.latent",
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_propagated_error_reaches_the_latent_through_the_layers(tuned, form):
    model, tape = tuned("factorized", form)
    wrong = {"factorized.block.1": noise(tape["factorized.block.1"], 0.1)}
    report = verify(model, run(model, start=wrong))
    assert having(report, "wrong") == {"factorized.block.1"}
    assert having(report, "inherited") >= {"pool.tokens", "pool.latent"}


def test_a_mistake_in_the_queries_shows_in_the_embeddings(tuned):
    model, _ = tuned("factorized")
    with replace_operations({"pooling.split_queries": lambda split: lambda x: (x[..., -1, :], split(x)[1])}):
        tape = run(model)
    report = verify(model, tape)
    assert having(report, "wrong") == {"factorized.embed"} and report.mistake.name == "latent_last_query"


def test_the_index_of_the_largest_error(tuned):
    def at(adapter, name, index):
        model, tape = tuned(adapter)
        x = tape[name].copy()
        x[index] += 10
        return as_json(verify(model, tape | {name: x}))["faults"][0]["worst"]

    assert at("factorized", "factorized.block.1", (2, 5)) == {"frame": 2, "channel": 5}
    assert at("factorized", "pool.attended", (1, 2, 3)) == {"frame": 1, "query": 2, "channel": 3}
    assert at("mean", "pool.attended", (1, 2, 3)) == {"frame": 1, "query": 2, "channel": 3}
    where = at("joint", "vision.block.0", (0, 13, 4))  # ten tokens a frame
    assert where == {"frame": 1, "token": 3, "channel": 4} and next(iter(where)) == "frame"


BLOCK = "factorized.resblocks.1"
EDITS = [
    ("no_frame_positions", "factorized.embed", "factorized.positional_embedding", np.zeros_like),
    (
        "frame_positions_shifted",
        "factorized.embed",
        "factorized.positional_embedding",
        lambda x: np.roll(x, -1, axis=0),
    ),
    ("no_c_fc_bias", "factorized.block.1", f"{BLOCK}.mlp.c_fc.bias", np.zeros_like),
    ("no_in_proj_bias", "factorized.block.1", f"{BLOCK}.attn.in_proj_bias", np.zeros_like),
    ("out_proj_transposed", "factorized.block.1", f"{BLOCK}.attn.out_proj.weight", np.transpose),
    ("pool_proj_transposed", "pool.latent", "visual.proj", np.transpose),
]


@pytest.mark.parametrize(("mistake", "name", "path", "change"), EDITS, ids=[edit[0] for edit in EDITS])
def test_a_mistake_in_the_weights_is_named(tuned, mistake, name, path, change):
    model, _ = tuned("factorized")
    report = verify(model, run(edited(model, path, change)))
    assert having(report, "wrong") == {name} and report.mistake.name == mistake, text(report)
    assert report.remaining < report.first_divergence.local_allowed


def across(change):
    """A replacement of the residual blocks across the frames alone: change(block, x, p, config)."""

    def make(block):
        return lambda x, p, config, *rest, **options: (
            change(block, x, p, config)
            if isinstance(config, FactorizedConfig)
            else block(x, p, config, *rest, **options)
        )

    return make


@pytest.mark.parametrize("form", ["released", "parallel"])
@pytest.mark.parametrize(
    ("mistake", "change"),
    [
        ("frames_causal", lambda block, x, p, c: block(x, p, c, np.tri(len(x), dtype=bool))),
        ("frames_apart", lambda block, x, p, c: block(x[:, None], p, c)[:, 0]),
        ("factorized_heads", lambda block, x, p, c: block(x, p, replace(c, heads=4))),
        ("no_mlp_residual", lambda block, x, p, c: without_residual(mlp=False)(x, p, c)),
    ],
)
def test_a_mistake_across_the_frames_is_named(tuned, form, mistake, change):
    model, _ = tuned("factorized", form)
    with replace_operations({"transformer.residual_block": across(change)}):
        tape = run(model)
    report = verify(model, tape)
    assert having(report, "wrong") == {"factorized.block.0", "factorized.block.1"}, text(report)
    assert report.mistake.name == mistake and len(report.faults) == 1
    assert report.faults[0].also == ("factorized.block.1",)


def test_no_known_cause_says_where_to_look(tuned):
    model, tape = tuned("factorized")
    for name, place in (
        ("factorized.embed", "embed_frames (model/pooling.py)"),
        ("factorized.block.1", "residual_block (model/transformer.py)"),
    ):
        lines = text(verify(model, tape | {name: noise(tape[name], 0.1)}))
        assert f"First divergence: {name}." in lines and place in lines
    assert "To narrow it, also record factorized.block.1.q, " in lines


def test_what_is_inside_a_block_is_no_unknown_name(tuned):
    model, tape = tuned("factorized")
    report = verify(model, tape | {"factorized.block.0.mlp.hidden": np.zeros((3, 32))})
    assert "Not compared, inside a block: factorized.block.0.mlp.hidden." in text(report)


def test_frames_without_a_text(tuned):
    model, tape = tuned("factorized")
    video = {name: x for name, x in tape.items() if name.startswith(("frames", "factorized"))}
    report = verify(model, video)
    assert having(report, "ok") == {"factorized.embed", "factorized.block.0", "factorized.block.1"}
    with pytest.raises(ValueError, match="factorized.block.0 depends on the video: add the frames"):
        verify(model, {"factorized.block.0": tape["factorized.block.0"], "ids": tape["ids"]})
