"""VideoCoCa's step: all frames' tokens in one long row, and CoCa's own attentional poolers applied to it.

The poolers were trained on the N tokens of one image. Attention does not mind how many keys there are, so they
take the T x N tokens of a video as they are (arXiv 2212.04979, section 3): no new weights, and no order of frames.
"""

from __future__ import annotations

import numpy as np

from .hooks import record
from .ops import Params, attention, keys_and_values, layer_norm, unit


def flatten(tokens: np.ndarray) -> np.ndarray:
    """[T, N, W] -> [T N, W]."""
    return tokens.reshape(-1, tokens.shape[-1])


def attend(context: np.ndarray, pooler: Params, heads: int) -> np.ndarray:
    """Learned queries look at the context [..., M, W] -> [..., Q, E] (arXiv 2205.01917, section 3.2)."""
    queries = layer_norm(pooler["query"], **pooler["ln_q"])
    context = layer_norm(context, **pooler["ln_k"])
    return attention(queries, *keys_and_values(context, pooler["attn"], heads), pooler["attn"], heads)


def split_queries(normed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the queries saw [..., Q, E] -> [..., E] and [..., Q - 1, E]: query 0 compares, the others caption."""
    return normed[..., 0, :], normed[..., 1:, :]


def attentional_pool(tokens: np.ndarray, visual: Params, config) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [..., M, W] -> a latent [..., E], not yet of unit length, and the caption tokens [..., Q', E].

    Three forms, by `config.attentional_pool`:
    True: the released weights'. One pooler; `ln_post` after it; query 0 makes the latent, so Q' = Q - 1.
    "parallel", "cascade": the paper's. `ln_post` before; Q' = Q; a second pooler with one query makes the latent,
    from the frame tokens (parallel) or from the caption tokens (cascade).
    """
    heads, ln_post = config.pooler_heads, visual["ln_post"]
    if config.attentional_pool is True:
        attended = record("pool.attended", attend(tokens, visual["attn_pool"], heads))
        latent, caption_tokens = split_queries(layer_norm(attended, **ln_post))
    else:
        tokens = layer_norm(tokens, **ln_post)
        caption_tokens = record("pool.attended", attend(tokens, visual["attn_pool"], heads))
        source = tokens if config.attentional_pool == "parallel" else caption_tokens
        latent = attend(source, visual["attn_pool_contrastive"], heads)[..., 0, :]
    return latent @ visual["proj"], caption_tokens


def pool(tokens: np.ndarray, visual: Params, config) -> tuple[np.ndarray, np.ndarray]:
    """Frame tokens [T, N, W] -> the video's latent [E], of unit length, and its caption tokens [Q', E]."""
    latent, caption_tokens = attentional_pool(record("pool.flat", flatten(tokens)), visual, config)
    caption_tokens = record("pool.tokens", caption_tokens)
    return record("pool.latent", unit(latent)), caption_tokens


def mean_pool(tokens: np.ndarray, visual: Params, config) -> tuple[np.ndarray, np.ndarray]:
    """The same as `pool`, but of each frame by itself, and then averaged: the latents before they get unit length.

    The mean pooling that VideoCoCa compares itself with (arXiv 2212.04979, section 3).
    """
    latents, caption_tokens = attentional_pool(tokens, visual, config)  # [T, E] and [T, Q', E]
    caption_tokens = record("pool.tokens", caption_tokens.mean(axis=0))
    return record("pool.latent", unit(latents.mean(axis=0))), caption_tokens
