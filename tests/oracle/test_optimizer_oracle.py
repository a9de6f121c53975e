"""The optimizer against PyTorch's and open_clip's, in float64 and float32."""

import math

import numpy as np
import pytest
import torch
from open_clip_train import scheduler

from minivideococa.training.optimizer import AdamW, clip, learning_rate

SHAPES = [(40, 30), (7,), (13, 11), (), (64,)]
SIZES = [math.prod(shape) for shape in SHAPES]
DECAYED = [0, 2]  # of the shapes
STEPS, WARMUP, PEAK = 50, 7, 0.01


def flat(tensors):
    """The tensors in the order of `Parameters`, as one vector."""
    order = sorted(range(len(SHAPES)), key=lambda i: i not in DECAYED)
    return torch.cat([tensors[i].detach().reshape(-1) for i in order]).numpy()


@pytest.mark.parametrize("betas, eps", [((0.9, 0.98), 1e-6), ((0.9, 0.999), 1e-8), ((0.5, 0.7), 1e-3)])
@pytest.mark.parametrize("max_norm", [1.0, 1e9])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_fifty_steps_are_those_of_pytorch(betas, eps, max_norm, dtype, tolerance):
    """Random gradients of changing size, clipped; the schedule; two groups of which one has weight decay."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in SHAPES]
    groups = [
        {"params": [x for i, x in enumerate(tensors) if i not in DECAYED], "weight_decay": 0.0},
        {"params": [tensors[i] for i in DECAYED], "weight_decay": 0.1},
    ]
    theirs = torch.optim.AdamW(groups, lr=PEAK, betas=betas, eps=eps)
    assign = scheduler.cosine_lr(theirs, PEAK, WARMUP, STEPS)
    values = flat(tensors)
    decayed = sum(SIZES[i] for i in DECAYED)
    ours = AdamW(np.zeros_like(values), np.zeros_like(values), decayed, 0.1, betas, eps)
    norms = []
    for step in range(STEPS):
        size = 10 ** torch.empty(1).uniform_(-3, 1, generator=generator).item()
        for x in tensors:
            x.grad = size * torch.randn(x.shape, generator=generator, dtype=dtype)
        gradients = flat([x.grad for x in tensors])

        norm = torch.nn.utils.clip_grad_norm_(tensors, max_norm).item()
        rate = assign(step)
        theirs.step()

        norms.append(norm)
        assert clip(gradients, max_norm) == pytest.approx(norm, rel=tolerance)
        np.testing.assert_allclose(gradients, flat([x.grad for x in tensors]), rtol=tolerance)
        assert learning_rate(step, STEPS, WARMUP, PEAK) == pytest.approx(rate, rel=1e-12)
        ours.update(values, gradients, rate)
        expected = flat(tensors)
        assert (abs(values - expected) <= tolerance * np.maximum(abs(expected), PEAK)).all()
    assert max_norm > 1e6 or min(norms) < max_norm < max(norms)
    state = [theirs.state[x] for x in tensors]
    for name, moment in (("exp_avg", ours.first), ("exp_avg_sq", ours.second)):
        expected = flat([s[name] for s in state])
        np.testing.assert_allclose(moment, expected, rtol=tolerance, atol=tolerance * abs(expected).max())


@pytest.mark.parametrize("warmup", [0, 1, 10, 50])
def test_the_schedule_is_open_clips(warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
    assign = scheduler.cosine_lr(optimizer, 3e-4, warmup, 50)
    for step in range(50):
        assert learning_rate(step, 50, warmup, 3e-4) == pytest.approx(assign(step), rel=1e-12, abs=0)
