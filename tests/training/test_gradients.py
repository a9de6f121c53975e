"""Gradients by hand against central differences, which need nothing but the forward pass."""

import numpy as np
import pytest
from conftest import make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from minivideococa.checkpoint.table import nest, unnest
from minivideococa.model import ops
from minivideococa.training import gradients
from minivideococa.training.data import Batch
from minivideococa.training.parameters import Parameters
from minivideococa.training.step import Objective, accumulate, losses_of
from minivideococa.training.tape import keep

ADAPTERS = ("attentional", "mean", "joint", "factorized")
TASKS = {"caption": ("caption",), "contrastive": ("contrastive",), "both": ("caption", "contrastive"), "qa": ("answer",)}
POOLS = (True, "parallel", "cascade")
VIDEO = {"factorized": {"layers": 2, "heads": 2, "positions": 3}, "answers": ["red", "blue", "green"]}
STEP = 1e-5


def model_with(pool=True, quick=False, correct=False):
    """A small model in float64, with the layers of all adapters and tasks."""
    vision = {"attentional_pool": pool} | ({"width": 8, "head_width": 4} if pool is not True else {})
    return make_model(
        vision=vision, text={"correct_cls_mask": correct}, video=VIDEO, **({"quick_gelu": True} if quick else {})
    )


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


@pytest.mark.parametrize("tuning", ["lit", "frozen", "full"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_every_tensor_by_central_differences(pool, adapter, task, tuning):
    """Along a random direction of each tuned tensor by itself."""
    model = model_with(pool, quick=adapter == "mean", correct=task == "both")
    rng = np.random.default_rng(0)
    batch = random_batch(model, rng, pixels=tuning == "full")
    objective = Objective(model.config, adapter, TASKS[task])
    parameters = Parameters.of(model.params, tuning)
    accumulate(batch, parameters, objective)
    scale = np.abs(parameters.gradients).max()
    for name in parameters.names:
        where = parameters.segment(name)
        direction = np.zeros_like(parameters.values)
        direction[where] = rng.standard_normal(where.stop - where.start)
        got, want = parameters.gradients @ direction, slope(batch, parameters, objective, direction)
        assert abs(got - want) <= 1e-6 * max(abs(want), scale), name
