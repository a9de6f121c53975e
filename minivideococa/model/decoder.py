"""The multimodal text decoder: from what has been read and what has been seen to the next token's logits."""

from __future__ import annotations

import numpy as np

from .hooks import record_texts
from .ops import Params, activation, layer_norm, linear
from .transformer import Past, look_at, past_length, residual_block


def watch(caption_tokens: np.ndarray, decoder: Params, config) -> list[tuple[np.ndarray, np.ndarray]]:
    """Caption tokens [B, Q', E] -> each layer's keys and values of them: computed once, however long the text."""
    return [look_at(caption_tokens, block, config.heads) for block in decoder["cross_attn"]]


def decode(
    features: np.ndarray,
    seen: list[tuple[np.ndarray, np.ndarray]],
    decoder: Params,
    config,
    past: list[Past] | None = None,
) -> np.ndarray:
    """Token features [R, L, E] and `watch` of B videos -> logits [R, L, V]: R / B rows of text a video.

    Each layer is a causal self-attention block, then a cross-attention block on the caption tokens, with an MLP
    each. No positions and no padding mask of its own (arXiv 2205.01917, section 3.2). past: a cache of the
    self-attention; its positions come before the features'.
    """
    x, act = features, activation(config.quick_gelu)
    before = past_length(past) if past else 0
    causal = np.tri(x.shape[1], before + x.shape[1], before, dtype=bool)
    for i, (self_block, cross_block) in enumerate(
        zip(decoder["resblocks"], decoder["cross_attn"], strict=True)
    ):
        x = residual_block(x, self_block, config.heads, act, causal, past=past[i] if past else None)
        x = record_texts(f"decoder.block.{i}.self", x)
        videos = len(seen[i][0])
        x = x.reshape(videos, -1, x.shape[-1])  # a video's texts ask together
        x = residual_block(x, cross_block, config.heads, act, context=seen[i]).reshape(features.shape)
        x = record_texts(f"decoder.block.{i}.cross", x)
    to_vocabulary = decoder["text_projection"].T  # [V, E]; open_clip's name
    return record_texts("logits", linear(layer_norm(x, **decoder["ln_final"]), to_vocabulary))
