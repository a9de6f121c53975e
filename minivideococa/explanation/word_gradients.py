"""The gradient of each word with respect to the caption tokens, for all words in one backward pass.

A word is predicted at one position of the decoder. Its gradient flows back through that position alone: the
keys and values of self-attention, by which positions depend on each other, are held constant. So the
gradients of different words do not mix, and one pass gives all of them, where L passes would be needed
otherwise. What is left out is what a word owes to the video by way of the words before it.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from ..model.config import Array, Params
from ..model.ops import in_projection, merge_heads, softmax, split_heads
from ..training.backward import mlp
from ..training.gradients import layer_norm, linear
from ..training.gradients import softmax as softmax_gradient
from ..training.tape import Tape, pop

FROZEN: Params = {"weight": None, "bias": None}  # no gradient of a parameter is computed
FROZEN_MLP: Params = {"c_fc": FROZEN, "c_proj": FROZEN}
EPS = 1e-5  # of `ops.layer_norm`


def log_odds_gradient(logits: Array, words: Array) -> Array:
    """Return the gradient of the log-odds of words [L] with respect to logits [L, V].

    The log-odds, log(p / (1 - p)), are the word's logit minus the log-sum-exp of the others. Their gradient
    points where that of log p does, but does not vanish where the model is certain.
    """
    rows = np.arange(len(words))
    others = logits.copy()
    others[rows, words] = -np.inf
    gradient = -softmax(others)
    gradient[rows, words] = 1
    return gradient


def caption_token_gradients(
    dlogits: Array, tape: Tape, tokens: Array, decoder: Params, heads: int, first: int = 0
) -> tuple[Array, Array]:
    """Back-propagate the logits of each position from `first` on to the caption tokens: [L, Q', E].

    Return also the relevance of the caption tokens [L, Q']: the sum over layers of the cross-attention's
    mean_h max(0, A dA).

    dlogits: [1, M, V], the gradient of each position's word with respect to its logits. tape: ends with
    `decoder.decode`. tokens: the caption tokens [Q', E].

    The caption tokens pass through the same LayerNorm in every layer up to its scale, so the layers'
    gradients are added before it, with the scales in their factors.
    """
    dx = linear(dlogits, FROZEN, *pop(tape, "linear"))
    dx = layer_norm(dx, FROZEN, *pop(tape, "layer_norm"))  # [1, M, E]
    relevance: Any = 0.0
    weights, vectors = [], []
    for p in reversed(decoder["cross_attn"]):
        dx, block = cross_block(dx, tape, p, heads)
        relevance = relevance + block.relevance[first:]
        weights.append(block.coefficients[:, first:])  # [2 H, L, Q']
        vectors.append(block.vectors[:, first:] * p["ln_1_kv"]["weight"])  # [2 H, L, E]
        dx = self_block(dx, tape, heads)
    coefficients, directions = np.concatenate(weights), np.concatenate(vectors)  # of all layers
    dnormed = coefficients.transpose(1, 2, 0) @ directions.swapaxes(0, 1)  # [L, Q', E]
    one = np.ones((), tokens.dtype)
    dtokens = layer_norm(dnormed, FROZEN, np.broadcast_to(tokens, dnormed.shape), one, one, EPS)
    return dtokens, relevance


class Cross(NamedTuple):
    """What a cross-attention block gives to the caption tokens, see `cross_block`."""

    relevance: Array  # [M, Q']
    coefficients: Array  # [2 H, M, Q']
    vectors: Array  # [2 H, M, E]


def cross_block(dy: Array, tape: Tape, p: Params, heads: int) -> tuple[Array, Cross]:
    """Back-propagate through a cross-attention block: dy [1, M, E] -> dx [1, M, E], and to its context.

    The relevance of its context is mean_h max(0, A dA).

    With dO the gradient of a head's output, dV = A^T dO and dK = dS^T Q / sqrt D are sums over positions.
    The share of position l in the gradient of a normed caption token q is the sum over heads of
    A_lq (dO_l W_V) and dS_lq (Q_l W_K) / sqrt D. Its coefficients and vectors need much less memory than
    their products.
    """
    dh, (weights, dweights, dscores, queries, d, dx) = attention_block(dy, tape, heads)
    relevance = np.maximum(weights * dweights, 0)[0].mean(axis=0)
    w_k, w_v = (in_projection(p["attn"], name)[0].reshape(heads, -1, dy.shape[-1]) for name in "kv")
    coefficients = np.concatenate([weights[0], dscores[0] / sqrt(queries.shape[-1])])
    vectors = np.concatenate([d[0] @ w_v, queries[0] @ w_k])  # [H, M, D] @ [H, D, E], twice
    dx = dh + layer_norm(dx, FROZEN, *pop(tape, "layer_norm"))
    return dx, Cross(relevance, coefficients, vectors)


def self_block(dy: Array, tape: Tape, heads: int) -> Array:
    """Back-propagate through a self-attention block with constant keys and values: dy -> dx [1, M, E]."""
    dh, (*_, dx) = attention_block(dy, tape, heads)
    for _ in "vk":
        pop(tape, "split_heads")
        pop(tape, "linear")
    return dh + layer_norm(dx, FROZEN, *pop(tape, "layer_norm"))


def attention_block(dy: Array, tape: Tape, heads: int) -> tuple[Array, tuple[Array, ...]]:
    """Back-propagate through the MLP and the attention of a block: dy [1, M, E] -> dh [1, M, E] between them.

    Return also the attention's A, dA and dS [1, H, M, K], Q and dO [1, H, M, D], named as in
    `training.gradients.attention`, and the gradient [1, M, E] of what the queries were projected from.
    """
    dh = dy + layer_norm(mlp(dy, tape, FROZEN_MLP), FROZEN, *pop(tape, "layer_norm"))
    keys, values = pop(tape, "attention")
    d = split_heads(linear(dh, FROZEN, *pop(tape, "linear")), heads)
    (weights,), (queries,) = pop(tape, "softmax"), pop(tape, "split_heads")
    dweights = d @ values.swapaxes(-1, -2)
    dscores = softmax_gradient(dweights, weights)
    dqueries = dscores @ keys / sqrt(queries.shape[-1])
    dx = linear(merge_heads(dqueries), FROZEN, *pop(tape, "linear"))
    return dh, (weights, dweights, dscores, queries, d, dx)
