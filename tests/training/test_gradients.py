"""Gradients by hand against central differences, which need nothing but the forward pass."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import examples

from minivideococa.model import ops
from minivideococa.model.decoder import cross_attention_kv, decode
from minivideococa.model.hooks import trace
from minivideococa.model.text import encode_text
from minivideococa.training import backward, gradients, step
from minivideococa.training.data import Batch
from minivideococa.training.parameters import Parameters, is_reached
from minivideococa.training.step import (
    Objective,
    accumulate,
    differentiated,
    forward,
    losses_of,
    mean_losses,
)

ADAPTERS = ("attentional", "mean", "joint", "factorized")
TASKS = {  # the losses with their weights
    "caption": {"caption": 2.0},
    "contrastive": {"contrastive": 1.0},
    "both": {"caption": 2.0, "contrastive": 1.0},
    "qa": {"answer": 1.0},
}
POOLS = (True, "parallel", "cascade")
VIDEO = {"factorized": {"layers": 2, "heads": 2, "positions": 3}, "answers": ["red", "blue", "green"]}
STEP = 1e-5


@pytest.fixture(scope="session")
def model_with(tiny_model):
    """A function that makes a small model in float64, with the layers of all adapters and tasks."""

    def make(pool=True, quick=False, correct=False):
        vision = {"attentional_pool": pool} | ({"width": 8, "head_width": 4} if pool is not True else {})
        return tiny_model(
            vision=vision,
            text={"correct_cls_mask": correct},
            video=VIDEO,
            **({"quick_gelu": True} if quick else {}),
        )

    return make


def random_batch(model, rng, clips=3, frames=3, pixels=True):
    """Clips with texts of different lengths, in the order of start, words, end and padding."""
    config = model.config
    S, L = config.vision.image_size, config.text.context_length
    inputs = rng.standard_normal((clips, frames, 3, S, S))
    if not pixels:
        inputs = rng.standard_normal((clips, frames, config.vision.tokens_per_frame, config.vision.width))
    lengths = rng.integers(4, L + 1, clips)
    ids = rng.integers(1, config.text.vocab_size, (clips, L))
    positions = np.arange(L)
    ids[positions >= lengths[:, None]] = config.pad_id
    targets = (positions > 0) & (positions < lengths[:, None])
    return Batch(inputs, ids, targets, rng.integers(0, 3, clips))


def slope(batch, parameters, objective, direction):
    """The derivative of the loss along a direction of the parameters, by central differences."""
    values = parameters.values.copy()
    losses = []
    for sign in (1, -1):
        parameters.values[:] = values + sign * STEP * direction
        losses.append(losses_of(batch, parameters.params, objective)["loss"])
    parameters.values[:] = values
    return (losses[0] - losses[1]) / (2 * STEP)


def reached(model, task, adapter):
    """Whether the losses of a task depend on a tensor."""
    name = {"both": "caption+contrastive"}.get(task, task)
    return lambda tensor: is_reached(tensor, model.config, name, adapter)


@pytest.fixture(scope="session")
def setting(model_with):
    """A function that makes a random batch and all that its gradients need, with the gradients computed."""

    def make(pool, adapter, task, tuning):
        model = model_with(pool, quick=adapter == "mean", correct=task == "both")
        rng = np.random.default_rng(0)
        batch = random_batch(model, rng, pixels=tuning == "full")
        objective = Objective(model.config, adapter, TASKS[task])
        parameters = Parameters.of(model.params, tuning, reached(model, task, adapter))
        accumulate(batch, parameters, objective)
        return batch, parameters, objective, rng

    return make


@pytest.mark.parametrize("tuning", ["lit", "frozen", "full"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_the_slope_along_the_parameters(setting, pool, adapter, task, tuning):
    """Along a random direction of all tuned parameters."""
    batch, parameters, objective, rng = setting(pool, adapter, task, tuning)
    direction = rng.standard_normal(len(parameters.values))
    got, want = parameters.gradients @ direction, slope(batch, parameters, objective, direction)
    assert abs(got - want) <= 1e-6 * np.linalg.norm(parameters.gradients)


@pytest.mark.slow
@pytest.mark.parametrize("task, adapter", [("both", "joint"), ("both", "mean"), ("qa", "factorized")])
def test_every_tensor_by_itself(setting, task, adapter):
    """Along a random direction of each tensor; no loss depends on those that are not tuned."""
    batch, parameters, objective, rng = setting(True, adapter, task, "full")
    largest = np.abs(parameters.gradients).max()
    for name in parameters.names:
        where = parameters.segment(name)
        direction = np.zeros_like(parameters.values)
        direction[where] = rng.standard_normal(where.stop - where.start)
        got, want = parameters.gradients @ direction, slope(batch, parameters, objective, direction)
        assert abs(got - want) <= 1e-6 * max(abs(want), largest), name
        assert np.abs(parameters.gradients[where]).max() > 0 or name.endswith("in_proj_bias"), name


@pytest.mark.parametrize(
    "task, adapter", [("both", "attentional"), ("caption", "factorized"), ("qa", "mean")]
)
def test_tensors_that_are_not_used_change_no_loss(setting, task, adapter):
    batch, parameters, objective, _ = setting(True, adapter, task, "full")
    everything = Parameters.of(parameters.params, "full")
    before = losses_of(batch, everything.params, objective)
    for name in set(everything.names) - set(parameters.names):
        everything.values[everything.segment(name)] += 1
    assert losses_of(batch, everything.params, objective) == before


@pytest.mark.parametrize("tuning", ["lit", "full"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_training_forward_is_the_models(model_with, adapter, tuning):
    """Bit for bit, with the tape and without it; and for one clip what the model itself returns."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(1), clips=1, frames=3)
    objective = Objective(model.config, adapter, TASKS["both"])
    stages = differentiated(Parameters.of(model.params, tuning).grads)
    done = forward(batch, model.params, objective, stages)
    plain = forward(batch, model.params, objective)
    video = model.encode_video(batch.inputs[0], adapter)
    n = batch.lengths[0] - 1
    for run in (done, plain):
        np.testing.assert_array_equal(run.latents[0][0], video.latent)
        np.testing.assert_array_equal(run.caption_tokens[0], video.tokens)
        with trace():  # without one, positions that have no effect are left out
            np.testing.assert_array_equal(run.latents[1], model.encode_text(batch.ids))
        np.testing.assert_array_equal(run.logits, decoded(model, batch, video, n))
    assert done.tapes.keys() == set(stages) and not plain.tapes


def decoded(model, batch, video, n):
    """The model's logits at the first n of a padded text's positions."""
    features = encode_text(batch.ids, model.params["text"], model.config.text)[1][:, :n]
    kv = cross_attention_kv(video.tokens[None], model.params["text_decoder"], model.config.decoder)
    return decode(features, kv, model.params["text_decoder"], model.config.decoder)


@settings(max_examples=examples(12))
@given(
    adapter=st.sampled_from(ADAPTERS),
    task=st.sampled_from(list(TASKS)),
    tuning=st.sampled_from(["lit", "frozen", "full"]),
    micro=st.integers(1, 5),
    recompute=st.booleans(),
)
def test_micro_batches_and_recomputing_change_nothing(model_with, adapter, task, tuning, micro, recompute):
    """Not the losses and not the gradients: the contrastive loss is that of the whole batch."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(2), clips=4, pixels=tuning == "full")
    objective = Objective(model.config, adapter, TASKS[task])
    whole, parts = (Parameters.of(model.params, tuning) for _ in range(2))
    expected = accumulate(batch, whole, objective)
    got = accumulate(batch, parts, objective, micro_batch=micro, recompute=recompute)
    assert got == pytest.approx(expected, rel=1e-12)
    assert losses_of(batch, model.params, objective, micro) == pytest.approx(expected, rel=1e-12)
    largest = np.abs(whole.gradients).max()
    np.testing.assert_allclose(parts.gradients, whole.gradients, rtol=0, atol=1e-12 * largest)


@pytest.mark.parametrize("task", ["caption", "qa"])
def test_losses_of_several_batches_are_those_of_one(model_with, task):
    """Though the batches differ in size, in the lengths of their texts, and in answers that are no class."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(5), clips=5, pixels=False)
    batch.labels[1] = -1
    objective = Objective(model.config, "attentional", TASKS[task])
    found = mean_losses([batch.part(slice(0, 2)), batch.part(slice(2, 5))], model.params, objective)
    assert found == pytest.approx(losses_of(batch, model.params, objective), rel=1e-12)


ALSO = {  # beginnings of names, and how many blocks the gradient goes through
    "visual.positional_embedding": 2,
    "visual.ln_pre.bias": 2,
    "visual.class_embedding": 2,
    "visual.conv1.weight": 2,
    "visual.transformer.resblocks.0.attn.in_proj_weight": 2,
    "visual.transformer.resblocks.1.ln_1.weight": 1,
    "visual.transformer.resblocks.1.mlp": 1,
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("phase", ["lit", "frozen"])
@pytest.mark.parametrize("also", ALSO)
def test_what_is_tuned_too_has_the_gradient_of_full_tuning(also, phase, recompute, model_with, monkeypatch):
    """And the gradient goes through no block below it, and adds up nothing for what is frozen."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(2))
    objective = Objective(model.config, "attentional", TASKS["both"])
    full, some = (
        Parameters.of(model.params, "full"),
        Parameters.of(model.params, phase, also=(also, "text.cls")),
    )
    lit = Parameters.of(model.params, phase)
    assert set(some.names) - set(lit.names) >= {name for name in full.names if name.startswith(also)}
    expected = accumulate(batch, full, objective)
    blocks, encode_images = [], backward.encode_images

    def encode(dtokens, tape, config, grads):
        monkeypatch.setattr(
            backward, "residual_block", lambda *args: blocks.append(1) or residual_block(*args)
        )
        dx = encode_images(dtokens, tape, config, grads)
        monkeypatch.setattr(backward, "residual_block", residual_block)
        return dx

    residual_block = backward.residual_block
    monkeypatch.setattr(backward, "encode_images", encode)
    monkeypatch.setattr(step, "_threads", one_thread)
    assert accumulate(batch, some, objective, recompute=recompute) == pytest.approx(expected, rel=1e-12)
    assert len(blocks) == ALSO[also]
    for name in some.names:
        got, want = some.gradients[some.segment(name)], full.gradients[full.segment(name)]
        largest = np.abs(full.gradients).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * largest, err_msg=name)


@contextmanager
def one_thread(batch, micro_batch):
    yield [[batch]], lambda function, *arguments: list(map(function, *arguments))


def test_what_recomputing_keeps(model_with):
    """The inputs of the blocks, and nothing inside them."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(3))
    objective = Objective(model.config, "attentional", TASKS["both"])
    tapes = forward(batch, model.params, objective, ["vision", "text", "decoder"], recompute=True).tapes
    assert [name for name, _ in tapes["vision"]] == ["linear", "layer_norm"] + 2 * ["residual_block"]
    assert sum(name == "residual_block" for name, _ in tapes["decoder"]) == 4


def test_padding_is_in_no_loss(model_with):
    """Other ids after the end change neither the captioning loss nor a gradient of the decoder."""
    model = model_with()
    batch = random_batch(model, np.random.default_rng(4))
    objective = Objective(model.config, "attentional", TASKS["caption"])
    results = []
    for padding in (model.config.pad_id, 7):
        ids = np.where(np.arange(batch.ids.shape[1]) < batch.lengths[:, None], batch.ids, padding)
        parameters = Parameters.of(model.params, "lit", reached(model, "caption", "attentional"))
        loss = accumulate(Batch(batch.inputs, ids, batch.targets), parameters, objective)
        results.append((loss, parameters.gradients[parameters.segment("text_decoder.text_projection")]))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


# The formulas by themselves

ROWS = st.integers(1, 4)


@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(ROWS, ROWS, st.integers(2, 6)))
def test_formulas_of_rows(seed, shape):
    rng = np.random.default_rng(seed)
    x, dy, v = (rng.standard_normal(shape) for _ in range(3))
    weight, bias = rng.standard_normal((2, shape[-1]))
    frozen = {"weight": None, "bias": None}
    cases = {
        "layer_norm": (lambda x: ops.layer_norm(x, weight, bias), lambda: (frozen, x, weight, bias, 1e-5)),
        "gelu": (ops.gelu, lambda: (x, ops.gelu(x))),
        "quick_gelu": (ops.quick_gelu, lambda: (x, ops.quick_gelu(x))),
        "softmax": (ops.softmax, lambda: (ops.softmax(x),)),
        "normalize": (ops.normalize, lambda: (x,)),
    }
    for name, (formula, kept) in cases.items():
        got = (getattr(gradients, name)(dy, *kept()) * v).sum()
        h = 1e-6
        want = (dy * (formula(x + h * v) - formula(x - h * v))).sum() / (2 * h)
        scale = np.linalg.norm(dy) * np.linalg.norm(v) * (1 + 1 / np.linalg.norm(x, axis=-1).min())
        spread = 1 / (x.std(axis=-1).min() + 1e-3) if name == "layer_norm" else 1
        assert abs(got - want) <= 1e-6 * scale * spread**3 * (1 + np.abs(weight).max()), name


@pytest.mark.parametrize("name", ["gelu", "quick_gelu"])
def test_gradients_of_activations_at_0_and_far_from_it(name):
    """At 0, y / x is not defined: the derivative is 1/2 there. Far below 0 it is 0, far above it 1."""
    x = np.array([0.0, -0.0, -300.0, 300.0], np.float32)
    dx = getattr(gradients, name)(np.ones_like(x), x, getattr(ops, name)(x))
    np.testing.assert_array_equal(dx, np.array([0.5, 0.5, 0, 1], np.float32))
