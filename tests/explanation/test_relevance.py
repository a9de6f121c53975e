"""The formulas of the maps: laws, and the gradients against finite differences."""

from dataclasses import replace

import numpy as np
import pytest

from minivideococa.checkpoint import with_tensors
from minivideococa.explanation.explain import forward, forward_classified
from minivideococa.explanation.relevance import (
    FORMULAS,
    attention,
    cross_weights,
    gradient,
    hidden_gradients,
    latent_weights,
    pooled_gradients,
    pooler_weights,
    queries_used,
)
from minivideococa.explanation.word_gradients import caption_token_gradients, log_odds_gradient
from minivideococa.model.config import Video
from minivideococa.model.generation import DecodingOptions
from minivideococa.model.hooks import trace
from minivideococa.model.ops import softmax
from minivideococa.model.videococa import frame_tokens
from minivideococa.tasks import class_logits
from minivideococa.training.parameters import new_question_head

T, N = 3, 10  # 3 x 3 patches and the class token
FORMS = (True, "parallel", "cascade")
ADAPTERS = ("attentional", "mean", "joint", "factorized")


def make_run(tiny_model, tokenizer, adapter="attentional", form=True, seed=0):
    """A model of random weights, the pass of the decoder over a text of its own, and the frame tokens."""
    # the paper's two poolers take tokens of width E
    vision = {"attentional_pool": form} | ({} if form is True else {"width": 8, "head_width": 4})
    model = tiny_model(
        seed, tokenizer=tokenizer, vision=vision, video={"factorized": {"layers": 2, "heads": 2}}
    )
    pixels = np.random.default_rng(seed).standard_normal((T, 3, 14, 14))
    run = forward(model, pixels, adapter, DecodingOptions(prompt="a red"))
    return model, run, frame_tokens(pixels, model.params, model.config, adapter)


@pytest.fixture(params=[(adapter, form) for adapter in ADAPTERS for form in FORMS], ids=str)
def model_and_run(request, tiny_model, tokenizer):
    return make_run(tiny_model, tokenizer, *request.param)


@pytest.mark.parametrize("formula", FORMULAS)
def test_relevance_is_not_negative_and_finite(model_and_run, formula):
    _, run, _ = model_and_run
    relevance = FORMULAS[formula](run)
    assert relevance.shape == (len(run.words), T, N)
    assert (relevance >= 0).all() and np.isfinite(relevance).all() and relevance.any()


def test_attention_weights_sum_to_one(model_and_run):
    model, run, _ = model_and_run
    pooler, latent, cross = pooler_weights(run), latent_weights(run), cross_weights(run)
    H, heads = model.config.vision.pooler_heads, model.config.decoder.heads
    assert pooler.shape == (H, len(run.video.tokens), T, N) and latent.shape == (H, T, N)
    assert cross.shape == (model.config.decoder.layers, heads, len(run.words), len(run.video.tokens))
    for weights, axes in (pooler, (2, 3)), (latent, (1, 2)), (cross, 3):
        np.testing.assert_allclose(weights.sum(axis=axes), 1)


def test_attention_is_the_product_of_the_two(tiny_model, tokenizer):
    _, run, _ = make_run(tiny_model, tokenizer)
    L = len(run.words)
    cross = [run.decoding[f"decoder.block.{i}.cross.weights"].mean(axis=0)[-L:] for i in range(2)]
    expected = (cross[0] + cross[1]) / 2 @ run.pooling["pool.weights"].mean(axis=0)[1:]
    np.testing.assert_allclose(attention(run), expected.reshape(L, T, N))


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("adapter", ["attentional", "mean", "joint", "factorized"])
def test_a_frame_without_attention_has_no_relevance(tiny_model, tokenizer, adapter, formula):
    _, run, _ = make_run(tiny_model, tokenizer, adapter)
    masked = run.pooling["pool.weights"].copy()
    if adapter in ("mean", "factorized"):  # [T, H, Q, N]
        masked[1] = 0
    else:
        masked[..., N : 2 * N] = 0  # [H, Q, T N]
    relevance = FORMULAS[formula](replace(run, pooling=run.pooling | {"pool.weights": masked}))
    assert (relevance[:, 1] == 0).all() and (relevance[:, [0, 2]] > 0).any()


# Gradients


def log_odds(logits, words):
    p = softmax(logits[-len(words) :])[np.arange(len(words)), words]
    return np.log(p / (1 - p))


def test_the_gradient_of_the_log_odds():
    rng = np.random.default_rng(0)
    logits, words, step = rng.standard_normal((3, 7)), np.array([2, 0, 6]), rng.standard_normal((3, 7))
    change = (log_odds(logits + 1e-6 * step, words) - log_odds(logits - 1e-6 * step, words)) / 2e-6
    np.testing.assert_allclose((log_odds_gradient(logits, words) * step).sum(axis=1), change, rtol=1e-6)


def test_a_certain_word_has_a_gradient():
    """The probability is 1 in float32, and the gradient of its logarithm would be 0."""
    logits = np.array([[60, 1, 2]], np.float32)
    assert softmax(logits)[0, 0] == 1
    assert log_odds_gradient(logits, np.array([0]))[0, 0] == 1


def make_classified(tiny_model, tokenizer):
    """As `make_run`, but a classifier answers a question."""
    model, _, tokens = make_run(tiny_model, tokenizer)
    config = replace(model.config, answers=("red", "blue", "none"))
    head = new_question_head(config, 0, model.dtype)
    head["question_head.classifier.weight"] += np.random.default_rng(2).standard_normal((3, 8))
    model = with_tensors(model, head, config=config)
    pixels = np.random.default_rng(0).standard_normal((T, 3, 14, 14))
    return model, forward_classified(model, pixels, "attentional", "a red circle"), tokens


def test_the_gradients_of_a_class_agree_with_finite_differences(tiny_model, tokenizer):
    test_the_gradients_agree_with_finite_differences(make_classified(tiny_model, tokenizer))


def test_the_gradients_agree_with_finite_differences(model_and_run):
    """Of the words' log-odds by the pooler's weights, with constant keys and values of self-attention."""
    model, run, tokens = model_and_run
    name, queries = queries_used(run)
    weights, values = run.pooling[f"{name}.weights"], run.pooling[f"{name}.v"]
    step = np.zeros_like(weights)
    chosen = step[..., queries, :]
    chosen[:] = np.random.default_rng(1).standard_normal(chosen.shape) / 100

    tape = list(run.tape)
    dx = hidden_gradients(run, tape)
    decoder, heads = model.params["text_decoder"], model.config.decoder.heads
    dtokens, _ = caption_token_gradients(dx, tape, run.video.tokens, decoder, heads, run.positions)
    d = pooled_gradients(dtokens, run)  # [L, ..., X, E]
    d = d.reshape(*d.shape[:-1], weights.shape[-3], -1).swapaxes(-2, -3)  # [L, ..., H, X, D]
    found = (d @ values.swapaxes(-1, -2) * chosen).reshape(len(d), -1).sum(axis=1)
    found = found.sum(keepdims=True) if run.classified else found

    change = (
        log_odds_after(model, run, tokens, name, step) - log_odds_after(model, run, tokens, name, -step)
    ) / 2e-5
    np.testing.assert_allclose(found, change, rtol=1e-5, atol=1e-8)


def log_odds_after(model, run, tokens, name, step):
    """The log-odds of the words after a small step of the pooler's weights."""
    constant = {
        f"decoder.block.{i}.self.{which}": run.decoding[f"decoder.block.{i}.self.{which}"]
        for i in range(model.config.decoder.layers)
        for which in "kv"
    }
    patch = {f"{name}.weights": run.pooling[f"{name}.weights"] + 1e-5 * step}
    with trace(patch=patch, weights=True):
        pooled = model.pool(tokens, run.adapter).tokens
    with trace(patch=constant, weights=True):
        if run.classified:
            logits = class_logits(model, Video(run.video.latent, pooled), "a red circle")[None]
        else:
            logits = model.decode(pooled, run.decoding["ids"][None])[0]
    return log_odds(logits, run.words)


def test_the_tape_can_be_used_again(tiny_model, tokenizer):
    _, run, _ = make_run(tiny_model, tokenizer)
    np.testing.assert_array_equal(gradient(run), gradient(run))
