"""AdamW, learning rate and clipping against their formulas, and to the bit against themselves."""

import math
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivideococa.training import kernels
from minivideococa.training.optimizer import AdamW, clamp_logit_scale, clip, learning_rate
from minivideococa.training.parameters import Parameters

rates = st.floats(0, 1)
betas = st.floats(0, 0.9999)


def adamw(n=7, decayed=4, dtype="float64", weight_decay=0.1, betas=(0.9, 0.98), eps=1e-6):
    return AdamW(np.zeros(n, dtype), np.zeros(n, dtype), decayed, weight_decay, betas, eps)


@contextmanager
def limits(block=None, threads=None):
    """Other sizes of blocks, another number of threads."""

    @contextmanager
    def frame_threads(blocks):
        yield threads

    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(kernels, "BLOCK", block)
        if threads:
            patch.setattr(kernels, "frame_threads", frame_threads)
        yield


def steps(optimizer, values, seed, count):
    """Take steps with random gradients and rates."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        gradients = rng.standard_normal(len(values)).astype(values.dtype)
        optimizer.update(values, gradients, rng.uniform(0, 0.1))


# AdamW


@given(rates, betas, betas, st.floats(1e-9, 1e-3), st.integers(0, 2**32))
def test_adamw_is_the_papers(decay, beta1, beta2, eps, seed):
    """Algorithm 2, one number at a time. With decay on the first 4 numbers of 7."""
    rng, optimizer = np.random.default_rng(seed), adamw(7, 4, "f8", decay, (beta1, beta2), eps)
    values = rng.standard_normal(7)
    theta, m, v = values.tolist(), [0.0] * 7, [0.0] * 7
    for t in range(1, 5):
        gradients, rate = rng.standard_normal(7), rng.uniform(0, 0.1)
        kept = gradients.copy()
        optimizer.update(values, gradients, rate)
        np.testing.assert_array_equal(gradients, kept)
        for i, g in enumerate(gradients.tolist()):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            m_hat, v_hat = m[i] / (1 - beta1**t), v[i] / (1 - beta2**t)
            theta[i] -= rate * (m_hat / (math.sqrt(v_hat) + eps) + (decay if i < 4 else 0) * theta[i])
        np.testing.assert_allclose(values, theta, rtol=1e-10, atol=1e-12)
    assert optimizer.step == 4


def test_the_first_step_is_the_rate_times_the_sign():
    """Whatever the gradient's size: both moments are corrected for starting at 0."""
    optimizer, values = adamw(3, 0, eps=0), np.zeros(3)
    optimizer.update(values, np.array([1e-3, -5, 1e4]), 0.01)
    np.testing.assert_allclose(values, [-0.01, 0.01, -0.01], rtol=1e-12)


def test_without_gradients_only_the_decayed_shrink():
    optimizer, values = adamw(5, 2, weight_decay=0.5), np.ones(5)
    for _ in range(3):
        optimizer.update(values, np.zeros(5), 0.1)
    np.testing.assert_allclose(values, [0.95**3] * 2 + [1] * 3, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 3, 20])
@pytest.mark.parametrize("block", [1, 16, 333, 10**6])
def test_blocks_and_threads_change_no_bit(dtype, threads, block):
    n = 1000
    start = np.random.default_rng(0).standard_normal(n).astype(dtype)
    expected, values = start.copy(), start.copy()
    steps(adamw(n, 601, dtype), expected, 1, 3)
    with limits(block, threads):
        steps(adamw(n, 601, dtype), values, 1, 3)
    assert (values != start).all()
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("decayed", [0, 10])
def test_all_or_nothing_is_decayed(decayed):
    values = np.ones(10)
    with limits(block=4):
        adamw(10, decayed, weight_decay=1).update(values, np.zeros(10), 0.5)
    assert (values == (0.5 if decayed else 1)).all()


def test_nothing_large_is_allocated_by_an_update():
    """Blocks, not vectors."""
    import tracemalloc

    n = 4 * 10**6
    optimizer, values, gradients = adamw(n, n, "f4"), np.ones(n, "f4"), np.ones(n, "f4")
    with limits(threads=2):
        tracemalloc.start()
        optimizer.update(values, gradients, 0.1)
        clip(gradients, 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * n / 4


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_restored_state_continues_to_the_same_bits(dtype, tmp_path):
    n, half = 500, 5
    whole = np.random.default_rng(0).standard_normal(n).astype(dtype)
    parted = whole.copy()
    uninterrupted, first = adamw(n, 300, dtype), adamw(n, 300, dtype)
    steps(uninterrupted, whole, 1, half), steps(first, parted, 1, half)
    np.savez(tmp_path / "state.npz", **first.state())
    second = adamw(n, 300, dtype)
    with np.load(tmp_path / "state.npz") as stored:
        second.restore(stored)
    steps(uninterrupted, whole, 2, half), steps(second, parted, 2, half)
    np.testing.assert_array_equal(parted, whole)
    assert second.step == uninterrupted.step == 2 * half


def test_a_restored_state_is_a_copy():
    source, target = adamw(), adamw()
    target.restore(source.state())
    target.update(np.ones(7), np.ones(7), 0.1)
    assert not source.first.any() and source.step == 0


@pytest.mark.parametrize("other", [adamw(8), adamw(7, dtype="float32")])
def test_the_state_of_other_tensors_is_refused(other):
    optimizer = adamw(7)
    with pytest.raises(ValueError, match="first is float(32|64) .[78].*, not float64 .7.: .* other tuned"):
        optimizer.restore(other.state())
    state = optimizer.state() | {"second": np.zeros(3)}
    with pytest.raises(ValueError, match="second"):
        optimizer.restore(state)
    assert not optimizer.first.any() and optimizer.step == 0


def test_of_parameters(tiny_model):
    parameters = Parameters.of(tiny_model(dtype="float32").params, "lit")
    optimizer = AdamW.of(parameters, weight_decay=0.5)
    assert optimizer.first.shape == optimizer.second.shape == parameters.values.shape
    assert optimizer.first.dtype == optimizer.second.dtype == np.float32
    before = {name: x.copy() for name, x in parameters.tensors().items()}
    optimizer.update(parameters.values, parameters.gradients, 0.2)
    for name, x in parameters.tensors().items():
        factor = 0.9 if x.ndim > 1 else 1
        np.testing.assert_allclose(x, factor * before[name], rtol=1e-6)


# Learning rate


@given(st.integers(1, 1000), st.data(), st.floats(1e-8, 1))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps, data, peak):
    warmup = data.draw(st.integers(0, steps - 1))
    rate = [learning_rate(step, steps, warmup, peak) for step in range(steps + 1)]
    top = max(0, warmup - 1)
    assert all(a < b for a, b in pairwise(rate[: top + 1]))  # strictly, up to the end of the warm-up
    assert all(a >= b for a, b in pairwise(rate[top:]))
    assert all(0 < r <= peak for r in rate[:-1]) and rate[-1] == pytest.approx(0, abs=1e-15)
    assert max(rate) == pytest.approx(peak)


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(1e-8, 1))
def test_both_parts_of_the_rate_are_symmetric(warmup, rest, peak):
    """The warm-up is a straight line through 0 at step -1; the cosine is odd around its middle."""
    steps = warmup + rest
    for step in range(warmup):
        line = peak * (step + 1) / warmup
        assert learning_rate(step, steps, warmup, peak) == pytest.approx(line)
    for step in range(rest + 1):
        a, b = (learning_rate(s, steps, warmup, peak) for s in (warmup + step, steps - step))
        assert a + b == pytest.approx(peak)


def test_the_rate_in_numbers():
    """Half at the middle of the cosine, (1 + cos 60 degrees) / 2 after a third."""
    got = [learning_rate(step, 14, 2, 8.0) for step in range(15)]
    assert [got[i] for i in (0, 1, 2, 6, 8, 10, 14)] == pytest.approx([4, 8, 8, 6, 4, 2, 0])
    assert learning_rate(20, 14, 2, 8.0) == pytest.approx(0)
    assert learning_rate(3, 3, 3, 8.0) == pytest.approx(8)


# Clipping


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.integers(1, 300), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 2**32))
def test_clip(dtype, n, size, max_norm, seed):
    gradients = (size * np.random.default_rng(seed).standard_normal(n)).astype(dtype)
    before, eps = gradients.copy(), float(np.finfo(dtype).eps)
    expected = math.sqrt(math.fsum(float(g) ** 2 for g in before))
    assert clip(gradients, max_norm) == pytest.approx(expected, rel=1e-13)
    if expected <= max_norm:
        np.testing.assert_array_equal(gradients, before)
    else:
        factor = max_norm / (expected + 1e-6)
        np.testing.assert_allclose(gradients, before * factor, rtol=4 * eps)


@pytest.mark.parametrize("threads", [1, 2, 3, 20])
def test_threads_change_no_bit_of_the_norm(threads):
    start = np.random.default_rng(0).standard_normal(1000).astype("f4")
    with limits(7, 1):
        expected = start.copy()
        norm = clip(expected, 1)
    with limits(7, threads):
        gradients = start.copy()
        assert clip(gradients, 1) == norm
    np.testing.assert_array_equal(gradients, expected)


def test_the_norm_of_float32_is_summed_in_float64():
    """Squares of 1e-30 are 0 in float32, and ten million ones are not summed exactly."""
    assert clip(np.full(100, 1e-30, "f4"), 1) == pytest.approx(1e-29, rel=1e-6)
    assert clip(np.full(100, 1e30, "f4"), 1) == pytest.approx(1e31, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_returned(bad):
    gradients = np.ones(10)
    gradients[3] = bad
    norm = clip(gradients, np.inf)
    assert str(norm) == str(bad)


# The temperature


@pytest.mark.parametrize("value, clamped", [(-0.5, 0), (0.3, 0.3), (4.6, 4.6), (5, math.log(100))])
def test_the_logit_scale_is_clamped(tiny_model, value, clamped):
    model = tiny_model()
    model.params["logit_scale"][()] = value
    tuned, frozen = Parameters.of(model.params, "lit"), Parameters.of(model.params, "frozen")
    clamp_logit_scale(tuned), clamp_logit_scale(frozen)
    assert tuned.params["logit_scale"] == tuned.values[-1] == clamped
    assert frozen.params["logit_scale"] == model.params["logit_scale"] == value
