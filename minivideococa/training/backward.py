"""Back-propagation through the blocks and stages of the model: the forward pass in the opposite order.

Each function takes the gradients of a stage's results and the tape, whose last entries are the stage's. It
adds the gradients of the parameters to `grads`, a branch of `Parameters.grads`, and returns the gradients of
the stage's inputs. So the gradient flows from the logits and the latents back to the poolers, whose queries
attend to the tokens of all frames, and in full tuning to the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checkpoint.table import unnest
from ..model import ops, transformer
from ..model.config import Array, Config, DecoderConfig, Params, TextConfig, VisionConfig
from . import gradients
from .gradients import (
    attention,
    embedding,
    in_projection,
    keys_and_values,
    layer_norm,
    linear,
    linear_parameters,
    merge_heads,
    normalize,
    projection,
    rows,
)
from .kernels import frozen_projections
from .tape import Tape, keep, pop

KV = tuple[Array, Array]  # gradients of keys and values, each [..., H, M, D]


# Blocks


def mlp(dy: Array, tape: Tape, grads: Params) -> Array:
    """Back-propagate through y = W_2 gelu(W_1 x + b_1) + b_2: dy [..., C] -> dx [..., C]."""
    hidden, weight = pop(tape, "linear")  # [..., mlp_width], the activation's result
    dhidden = linear(dy, grads["c_proj"], hidden, weight)
    name = tape[-1][0]
    activation = gradients.quick_gelu if name == "quick_gelu" else gradients.gelu
    (x,) = pop(tape, name)
    return linear(activation(dhidden, x, hidden), grads["c_fc"], *pop(tape, "linear"))


def residual_block(dy: Array, tape: Tape, heads: int, grads: Params, cross: bool = False) -> tuple[Array, KV]:
    """Back-propagate through h = x + attention(ln_1(x)), y = h + mlp(ln_2(h)): dy -> dx [..., L, C].

    A residual connection adds its input to the result of its branch, so the gradient is the sum of both ways:
    dh = dy + the gradient through the MLP. Return also the gradients of the keys and values. In
    self-attention they come from ln_1(x), so they are part of dx; with `cross` they are inputs of the block.
    """
    if tape[-1][0] == "residual_block":  # only the inputs were kept
        args, keywords = pop(tape, "residual_block")
        with keep() as tape:
            transformer.residual_block(*args, **keywords)
    dh = dy + layer_norm(mlp(dy, tape, grads["mlp"]), grads["ln_2"], *pop(tape, "layer_norm"))
    dnormed, dkeys, dvalues = attention(dh, tape, heads, grads["attn"])
    if not cross:
        dnormed = dnormed + keys_and_values(dkeys, dvalues, tape, grads["attn"])
    return dh + layer_norm(dnormed, grads["ln_1"], *pop(tape, "layer_norm")), (dkeys, dvalues)


def self_attention_blocks(dx: Array, tape: Tape, heads: int, grads: list[Params]) -> Array:
    """Back-propagate through a stack of self-attention blocks, the last one first: dx [..., L, C]."""
    for block in reversed(grads):
        dx, _ = residual_block(dx, tape, heads, block)
    return dx


# The multimodal text decoder


def decode(dlogits: Array, tape: Tape, config: DecoderConfig, grads: Params) -> tuple[Array, list[KV]]:
    """Back-propagate through `decoder.decode`: dlogits [B, L, V] -> as `hidden_states`."""
    x, weight = pop(tape, "linear")
    dx = projection(dlogits, x, weight.T, grads["text_projection"])
    return hidden_states(dx, tape, config, grads)


def hidden_states(dx: Array, tape: Tape, config: DecoderConfig, grads: Params) -> tuple[Array, list[KV]]:
    """Back-propagate through `decoder.hidden_states`: dx [B, L, E] -> dfeatures [B, L, E].

    Return also the gradients of each layer's keys and values of the caption tokens, the last layer first.
    """
    dx = layer_norm(dx, grads["ln_final"], *pop(tape, "layer_norm"))
    dkv = []
    layers = zip(grads["resblocks"], grads["cross_attn"], strict=True)
    for self_block, cross_block in reversed(list(layers)):
        dx, kv = residual_block(dx, tape, config.heads, cross_block, cross=True)
        dx, _ = residual_block(dx, tape, config.heads, self_block)
        dkv.append(kv)
    return dx, dkv


def cross_attention_kv(dkv: list[KV], tape: Tape, grads: Params) -> Array:
    """Back-propagate to the caption tokens [B, Q', E], to which every layer of the decoder attends.

    Their gradient, the sum over the layers, is how the captioning loss trains the pooler.
    """
    dtokens: Any = 0.0
    for kv, block in zip(dkv, reversed(grads["cross_attn"]), strict=True):
        dnormed = keys_and_values(*kv, tape, block["attn"])
        dtokens = dtokens + layer_norm(dnormed, block["ln_1_kv"], *pop(tape, "layer_norm"))
    return dtokens


# The unimodal text decoder


def encode_text(
    dlatents: Array | None, dfeatures: Array, tape: Tape, text: Params, config: TextConfig, grads: Params
) -> Array:
    """Back-propagate through `text.encode_text` except its look-ups: dlatents [B, E], dfeatures [B, L, E].

    The latent is that of the last position, the class token; the features are all positions before it.
    dlatents is None if the loss does not depend on them. Return the gradient of `text.embed`'s result, dx
    [B, L + 1, E].
    """
    latents, normed = pop(tape, "normalize"), pop(tape, "layer_norm")
    dclass = np.zeros_like(dfeatures[:, :1])
    if dlatents is not None:
        x = ops.layer_norm(*normed)  # [B, E], a second time: it is small
        d = projection(normalize(dlatents, *latents), x, text["text_projection"], grads["text_projection"])
        dclass = layer_norm(d, grads["ln_final"], *normed)[:, None]
    dx = np.concatenate([dfeatures, dclass], axis=1)
    return self_attention_blocks(dx, tape, config.heads, grads["transformer"]["resblocks"])


def embed_text(dx: Array, ids: Array, grads: Params) -> None:
    """Back-propagate through `text.embed`: dx [B, L + 1, E], ids [B, L].

    The tokens' embeddings, the class embedding after them and the positions were added or copied.
    """
    embedding(dx[:, :-1], ids, grads["token_embedding"]["weight"])
    if grads["cls_emb"] is not None:
        grads["cls_emb"] += dx[:, -1].sum(axis=0)
    if grads["positional_embedding"] is not None:
        grads["positional_embedding"][: dx.shape[1]] += dx.sum(axis=0)


# The attentional poolers


def attentional_pooler(dpooled: Array, tape: Tape, heads: int, grads: Params) -> Array:
    """Back-propagate through `pooling.attentional_pooler`: dpooled [..., Q, E] -> dcontext [..., M, C]."""
    dqueries, dkeys, dvalues = attention(dpooled, tape, heads, grads["attn"])
    dcontext = keys_and_values(dkeys, dvalues, tape, grads["attn"])
    dcontext = layer_norm(dcontext, grads["ln_k"], *pop(tape, "layer_norm"))
    queries(dqueries, tape, grads)
    return dcontext


def queries(dqueries: Array, tape: Tape, grads: Params) -> None:
    """Back-propagate through `ln_q` to the learned queries [Q, E]."""
    dqueries = layer_norm(dqueries, grads["ln_q"], *pop(tape, "layer_norm"))
    if grads["query"] is not None:
        grads["query"] += dqueries


def frozen_context_pooler(dpooled: Array, tape: Tape, heads: int, grads: Params) -> None:
    """Back-propagate as `attentional_pooler` does, but not to the context, which is frozen."""
    dqueries, dkeys, dvalues = attention(dpooled, tape, heads, grads["attn"])
    projections = []
    for name, d in ("v", dvalues), ("k", dkeys):
        pop(tape, "split_heads")
        _, weight = pop(tape, "linear")
        projections.append((rows(merge_heads(d)), weight, in_projection(grads["attn"], name)))
    frozen_projections(projections, grads["ln_k"], *pop(tape, "layer_norm"))
    queries(dqueries, tape, grads)


def pool_tokens(
    dembedding: Array, dtokens: Array, tape: Tape, config: VisionConfig, grads: Params
) -> Array | None:
    """Back-propagate through `pooling.pool_tokens`: dembedding [..., E], dtokens [..., Q', E] -> [..., M, W].

    Where the image encoder, which makes the tokens, is frozen, their gradient may be left out: None.
    """
    heads = config.pooler_heads
    if config.attentional_pool is True:
        d = np.concatenate([dembedding[..., None, :], dtokens], axis=-2)  # [..., Q, E]
        d = layer_norm(d, grads["ln_post"], *pop(tape, "layer_norm"))
        if not is_encoder_tuned(grads):
            frozen_context_pooler(d, tape, heads, grads["attn_pool"])
            return None
        return attentional_pooler(d, tape, heads, grads["attn_pool"])
    dcontext = attentional_pooler(dembedding[..., None, :], tape, heads, grads["attn_pool_contrastive"])
    if config.attentional_pool == "cascade":  # the context of the contrastive pooler is the pooled queries
        d = attentional_pooler(dtokens + dcontext, tape, heads, grads["attn_pool"])
    else:
        d = attentional_pooler(dtokens, tape, heads, grads["attn_pool"]) + dcontext
    return layer_norm(d, grads["ln_post"], *pop(tape, "layer_norm"))


def pooled_embedding(tape: Tape, visual: Params, config: VisionConfig) -> Array:
    """Compute again the embedding [..., E] that `pooling.pool_tokens` returned: the tape does not hold it."""
    if config.attentional_pool is True:
        pooled, *norm = tape[-1][1]  # [..., Q, E]
        return ops.layer_norm(pooled[..., 0, :], *norm)
    x, _ = tape[-2][1]  # input of the contrastive pooler's output projection; tape[-1] is its attention
    return ops.linear(x, **visual["attn_pool_contrastive"]["attn"]["out_proj"])[..., 0, :]


def pool(
    dlatent: Array, dtokens: Array, tape: Tape, params: Params, config: Config, grads: Params
) -> Array | None:
    """Back-propagate through `pooling.pool`: dlatent [B, E], dtokens [B, Q', E] -> the tokens [B, T N, W]."""
    visual = params["visual"]
    dlatent = normalize(dlatent, *pop(tape, "normalize"))
    x = pooled_embedding(tape, visual, config.vision)
    dembedding = projection(dlatent, x, visual["proj"], grads["visual"]["proj"])
    return pool_tokens(dembedding, dtokens, tape, config.vision, grads["visual"])


def mean_pool(
    dlatent: Array, dtokens: Array, tape: Tape, params: Params, config: Config, grads: Params
) -> Array | None:
    """Back-propagate through `pooling.mean_pool`: dlatent [B, E], dtokens [B, Q', E] -> [B, T, N, W].

    In a mean over T frames, the gradient of each frame is 1 / T of the mean's.
    """
    visual = params["visual"]
    dlatent = normalize(dlatent, *pop(tape, "normalize"))
    x = pooled_embedding(tape, visual, config.vision)  # [B, T, E]
    dlatents = np.repeat(dlatent[:, None] / x.shape[1], x.shape[1], axis=1)
    dtokens = np.repeat(dtokens[:, None] / x.shape[1], x.shape[1], axis=1)
    dembedding = projection(dlatents, x, visual["proj"], grads["visual"]["proj"])
    return pool_tokens(dembedding, dtokens, tape, config.vision, grads["visual"])


def factorized_pool(
    dlatent: Array, dtokens: Array, x: Array, tape: Tape, params: Params, config: Config, grads: Params
) -> Array | None:
    """Back-propagate through `pooling.factorized_pool`: dlatent [B, E], dtokens [B, T, E] -> [B, T, N, W].

    x [B, T, E]: the caption tokens, which are the last layer's outputs. The generative queries' outputs for
    each frame are not used, so their gradient is zero.
    """
    assert config.factorized is not None
    visual, factorized, T = params["visual"], grads["factorized"], x.shape[1]
    dlatent = normalize(dlatent, *pop(tape, "normalize"))
    dmean = projection(dlatent, x.mean(axis=1), visual["proj"], grads["visual"]["proj"])  # [B, E]
    dx = dtokens + dmean[:, None] / T
    dx = self_attention_blocks(dx, tape, config.factorized.heads, factorized["resblocks"])
    if factorized.get("positional_embedding") is not None:
        factorized["positional_embedding"][:T] += dx.sum(axis=0)
    queries = len(visual["attn_pool"]["query"]) - (config.vision.attentional_pool is True)
    unused = np.zeros((*dx.shape[:2], queries, dx.shape[-1]), dx.dtype)
    return pool_tokens(dx, unused, tape, config.vision, grads["visual"])


# The image encoder, in full tuning or where some of its tensors are tuned too


EMBEDDINGS = ("conv1", "class_embedding", "positional_embedding", "ln_pre")


def is_encoder_tuned(grads: Params) -> bool:
    """Return whether a gradient must flow into the image encoder, given the branch "visual"."""
    return is_embedding_tuned(grads) or is_any_tuned(grads["transformer"])


def is_embedding_tuned(grads: Params) -> bool:
    """Return whether a gradient must flow to the first block's inputs."""
    return any(is_any_tuned({name: grads[name]}) for name in EMBEDDINGS if name in grads)


def is_any_tuned(grads: Params) -> bool:
    """Return whether a branch of gradients has an array in it."""
    return any(grad is not None for grad in unnest(grads).values())


def encode_images(dtokens: Array, tape: Tape, config: VisionConfig, grads: Params) -> Array | None:
    """Back-propagate through `vision.transformer`: dtokens [..., L, W] -> the embedded patches' gradient.

    Stop above the lowest tensor that is tuned. Return None if that is in a block.
    """
    blocks = grads["transformer"]["resblocks"]
    lowest = 0
    if not is_embedding_tuned(grads):
        lowest = next(i for i, block in enumerate(blocks) if is_any_tuned(block))
    dx = self_attention_blocks(dtokens, tape, config.heads, blocks[lowest:])
    return dx if is_embedding_tuned(grads) else None


def embed_images(dx: Array, tape: Tape, config: VisionConfig, grads: Params) -> None:
    """Back-propagate through `vision.embed`: dx [R, N, W], of R frames. Pixels need no gradient."""
    if config.ln_pre:
        dx = layer_norm(dx, grads["ln_pre"], *pop(tape, "layer_norm"))
    if grads["positional_embedding"] is not None:
        grads["positional_embedding"] += dx.sum(axis=0)
    if grads["class_embedding"] is not None:
        grads["class_embedding"] += dx[:, 0].sum(axis=0)
    if grads["conv1"]["weight"] is not None:
        patches, kernel = pop(tape, "linear")
        weight = grads["conv1"]["weight"].reshape(kernel.shape)  # a view [W, 3 P P]
        linear_parameters(dx[:, 1:], {"weight": weight}, patches)


# The classifier of answers


def answer_logits(dlogits: Array, tape: Tape, heads: int, grads: Params) -> Array:
    """Back-propagate through `question_head.answer_logits`: dlogits [B, answers] -> dhidden [B, L, E]."""
    dpooled = linear(dlogits, grads["classifier"], *pop(tape, "linear"))  # [B, E]
    return attentional_pooler(dpooled[:, None], tape, heads, grads["pooler"])
