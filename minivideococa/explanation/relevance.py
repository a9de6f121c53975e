"""The formulas of the maps: the relevance of every frame token to every word.

There are two attentions between the tokens of the frames and a word: the pooler's, from its queries to the
frame tokens, and the decoder's cross-attention, from the word's position to the caption tokens. `gradient` is
the default. README.md compares it with others, and says why raw attention alone is not enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpoint.table import nest, unnest
from ..model.config import Array, Config, Params, Video
from ..model.hooks import Activations
from ..model.ops import split_heads
from ..model.transformer import residual_block
from ..training.backward import answer_logits, self_attention_blocks
from ..training.gradients import layer_norm, linear
from ..training.tape import Tape, keep, pop
from .word_gradients import EPS, FROZEN, caption_token_gradients, log_odds_gradient


@dataclass(frozen=True)
class Pass:
    """What a text and its video leave of the forward pass.

    With a classifier of answers there is one word, L = 1: the answer's class, predicted from all positions.
    """

    params: Params
    config: Config
    adapter: str
    video: Video
    pooling: Activations  # of the poolers, with the attention weights
    decoding: Activations  # of the decoder, teacher forced, with the attention weights
    tape: Tape  # of the decoder
    words: Array  # the ids [L] that the last L positions predict, or a class
    logits: Array  # of the words [L, V], or of the answers [1, answers]
    classified: bool = False  # whether the word is a class

    @property
    def positions(self) -> slice:
        """The positions of the decoder from which the words are predicted."""
        return slice(0 if self.classified else -len(self.words), None)


# Attention weights by name, whatever the adapter


def pooler_weights(run: Pass) -> Array:
    """Return the attention from the caption tokens to the frame tokens [H, Q', T, N]; each row sums to 1.

    Under mean pooling a caption token is the mean of one per frame, so each frame's weights are divided by T.
    Under factorized a caption token is one frame's output of the layers across the frames: that frame's row
    of their attention rollout (arXiv 2005.00928) times the weights of the query of the embedding.
    """
    used = embedding_weights(run) if run.adapter == "factorized" else caption_weights(run)
    if used.ndim == 3:  # [H, Q', T N]
        return used.reshape(*used.shape[:2], -1, run.config.vision.tokens_per_frame)
    T = len(used)
    if run.adapter == "mean":
        return np.asarray(used.transpose(1, 2, 0, 3) / T)  # [T, H, Q', N] -> [H, Q', T, N]
    return np.einsum("qt,thn->hqtn", frame_rollout(run, T), used[:, :, 0])


def caption_weights(run: Pass) -> Array:
    """Return the weights of the pooler's caption queries: [H, Q', T N], or one by one [T, H, Q', N]."""
    weights = run.pooling["pool.weights"]
    return weights[..., 1:, :] if run.config.vision.attentional_pool is True else weights


def embedding_weights(run: Pass) -> Array:
    """Return the weights of the query behind the latent: [H, 1, T N], or frame by frame [T, H, 1, N].

    In the form "cascade" that query attends to the pooled queries, averaged over the heads of the two.
    """
    weights, form = run.pooling["pool.weights"], run.config.vision.attentional_pool
    if form is True:
        return weights[..., :1, :]
    contrastive = run.pooling["pool.contrastive.weights"]
    return contrastive if form == "parallel" else contrastive @ weights.mean(axis=-3, keepdims=True)


def latent_weights(run: Pass) -> Array:
    """Return the attention of the latent's query to the frame tokens [H, T, N]; each head's sums to 1."""
    weights, N = embedding_weights(run), run.config.vision.tokens_per_frame
    if weights.ndim == 4:  # frame by frame, then averaged
        T = len(weights)
        share = frame_rollout(run, T).mean(axis=0) if run.adapter == "factorized" else np.full(T, 1 / T)
        return np.asarray(np.einsum("t,thn->htn", share.astype(weights.dtype), weights[:, :, 0]))
    return weights[:, 0].reshape(len(weights), -1, N)


def frame_rollout(run: Pass, T: int) -> Array:
    """Return how the outputs of the factorized layers depend on the frames [T, T], by attention rollout."""
    rollout: Any = np.eye(T, dtype=run.video.tokens.dtype)
    for i in range(len(run.params["factorized"]["resblocks"])):
        weights = run.pooling[f"factorized.block.{i}.weights"].mean(axis=0)
        rollout = (weights @ rollout + rollout) / 2  # half of a block's output is its residual connection
    return np.asarray(rollout)


def cross_weights(run: Pass) -> Array:
    """Return the decoder's cross-attention from each word to the caption tokens [layers, H, L, Q'].

    For a class, the mean over the question's positions, as the classifier's query attends to them.
    """
    layers, positions = range(run.config.decoder.layers), run.positions
    weights = np.stack([run.decoding[f"decoder.block.{i}.cross.weights"][:, positions] for i in layers])
    if run.classified:  # the tape's last softmax is the classifier's [1, H, 1, M]
        attended = next(arrays[0] for name, arrays in reversed(run.tape) if name == "softmax")
        weights = attended.mean(axis=1) @ weights  # [1, 1, M] @ [layers, H, M, Q']
    return weights


# The formulas: each returns the relevance [L, T, N], not negative


def attention(run: Pass) -> Array:
    """Compose the attention weights of the decoder and the pooler, averaged over layers and heads.

    r_l = mean_ih(A^cross_ihl) mean_h(A^pool_h): the product of attention weights of attention rollout (Abnar
    and Zuidema, arXiv 2005.00928, section 3), for the two attentions that lead from a word to the frames.
    """
    pooler = pooler_weights(run).mean(axis=0)  # [Q', T, N]
    return np.asarray(np.tensordot(cross_weights(run).mean(axis=(0, 1)), pooler, axes=1))


def gradient(run: Pass) -> Array:
    """Compose the attention weights as `attention` does, each times the gradient of the word.

    r_lm = sum_q R^cross_lq R^pool_lqm. R^pool_lqm = mean_h max(0, A_hqm dA_lhqm), where A_hqm is the
    attention weight of the pooler's head h from caption query q to frame token m, and dA_lhqm is the
    derivative of the log-odds of word l with respect to it. R^cross_lq is the same for the cross-attention
    from the word's position to caption token q, summed over layers. A weight counts as far as more of it
    would make the word more probable.

    Chefer et al., arXiv 2103.15679, equation 5, and their product of relevances along the way. Ours are the
    log-odds, where they take a logit, and that no relevance passes between positions, see `word_gradients`.
    """
    tape = list(run.tape)  # a copy: back-propagation takes its entries
    dx = hidden_gradients(run, tape)
    decoder, heads = run.params["text_decoder"], run.config.decoder.heads
    dtokens, cross = caption_token_gradients(dx, tape, run.video.tokens, decoder, heads, run.positions)
    if run.classified:  # all positions together
        dtokens, cross = dtokens.sum(axis=0, keepdims=True), cross.sum(axis=0, keepdims=True)
    return pooler_relevance(dtokens, cross, run)


FORMULAS: dict[str, Callable[[Pass], Array]] = {"gradient": gradient, "attention": attention}


# The gradient of a word, from its log-odds to the pooler's attention weights


def hidden_gradients(run: Pass, tape: Tape) -> Array:
    """Return the gradient of each position's word with respect to the decoder's hidden states [1, M, E]."""
    dlogits = log_odds_gradient(run.logits, run.words)
    if run.classified:
        head = run.params["question_head"]
        return answer_logits(dlogits, tape, run.config.vision.pooler_heads, frozen(head))
    x, weight = pop(tape, "linear")
    dx = np.zeros_like(x)
    dx[0, run.positions] = linear(dlogits, FROZEN, x, weight)
    return dx


def frozen(params: Params) -> Params:
    """Return a branch of gradients in which none is computed."""
    return nest(dict.fromkeys(unnest(params)))


def pooler_relevance(dtokens: Array, cross: Array, run: Pass) -> Array:
    """Return the r [L, T, N] of `gradient`.

    dtokens: the gradients of the caption tokens [L, Q', E]. cross: R^cross [L, Q'].
    """
    vision, (name, queries) = run.config.vision, queries_used(run)
    weights, values = run.pooling[f"{name}.weights"][..., queries, :], run.pooling[f"{name}.v"]
    if run.adapter == "factorized":  # a caption token is an output of the layers across the frames
        factors = (cross @ frame_rollout(run, len(weights)))[:, :, None]  # [L, T, 1]
    else:
        factors = cross[:, None] if run.adapter == "mean" else cross  # [L, 1, Q'] or [L, Q']
    d = pooled_gradients(dtokens, run)
    relevance = positive_part(d, weights, values, factors)  # [L, T N]; [L, T, N], of "cascade" [L, T, Q]
    if name == "pool.contrastive" and vision.attentional_pool == "cascade":
        relevance = np.einsum("ltq,tqn->ltn", relevance, run.pooling["pool.weights"].mean(axis=1))
    return relevance.reshape(len(dtokens), -1, vision.tokens_per_frame)


def queries_used(run: Pass) -> tuple[str, slice]:
    """Return the name in a trace of the pooler that makes the caption tokens, and which queries do."""
    by_embedding = run.adapter == "factorized"
    if run.config.vision.attentional_pool is True:
        return "pool", slice(0, 1) if by_embedding else slice(1, None)
    return "pool.contrastive" if by_embedding else "pool", slice(None)


def pooled_gradients(dtokens: Array, run: Pass) -> Array:
    """Back-propagate from the caption tokens [L, Q', E] to the pooler's heads, before they are projected.

    Return [L, X, E] of the X queries used, all heads side by side; where each frame is pooled separately,
    [L, T, X, E].
    """
    visual, (name, queries) = run.params["visual"], queries_used(run)
    T = len(run.pooling["pool.attended"])  # where each frame is pooled separately
    d = dtokens
    if run.adapter == "mean":
        d = np.repeat(d[:, None] / T, T, axis=1)
    elif run.adapter == "factorized":
        d = frame_gradients(d, run)[:, :, None]  # [L, T, 1, E]
    if run.config.vision.attentional_pool is True:
        pooled = np.broadcast_to(run.pooling["pool.attended"][..., queries, :], d.shape)
        d = layer_norm(d, FROZEN, pooled, visual["ln_post"]["weight"], visual["ln_post"]["bias"], EPS)
    pooler = visual["attn_pool" if name == "pool" else "attn_pool_contrastive"]
    return linear(d, FROZEN, d, pooler["attn"]["out_proj"]["weight"])


def frame_gradients(dtokens: Array, run: Pass) -> Array:
    """Back-propagate through the factorized layers: [L, T, E] -> [L, T, E], of the frames' embeddings."""
    config, layers = run.config.factorized, run.params["factorized"]["resblocks"]
    assert config is not None
    with keep() as tape:
        x = np.broadcast_to(run.pooling["factorized.embed"], dtokens.shape)
        for p in layers:
            x = residual_block(x, p, config)
    return self_attention_blocks(dtokens, tape, config.heads, [frozen(p) for p in layers])


def positive_part(d: Array, weights: Array, values: Array, factors: Array) -> Array:
    """Return sum_x factors_x mean_h max(0, A_hxm dA_hxm), dA_hxm = d_hx . V_hm, for each word: [L, ..., M].

    d: the gradients of the heads' outputs [L, ..., X, E]. weights: A [..., H, X, M]. values: V
    [..., H, M, D]. factors: [L, ..., X]. The product for all words and heads at once would take L times the
    memory of the weights.
    """
    heads = weights.shape[-3]
    d = split_heads(d, heads)  # [L, ..., H, X, D]
    relevance = np.zeros((len(d), *values.shape[:-3], values.shape[-2]), d.dtype)
    for word, h in np.ndindex(len(d), heads):
        gradient = d[word, ..., h, :, :] @ values[..., h, :, :].swapaxes(-1, -2)  # dA [..., X, M]
        gradient *= weights[..., h, :, :]
        np.maximum(gradient, 0, out=gradient)
        relevance[word] += (factors[word][..., None, :] @ gradient)[..., 0, :]
    return relevance / heads
