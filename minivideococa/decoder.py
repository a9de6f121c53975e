"""The multimodal text decoder: from what has been read and what has been seen to the next token's logits."""

from __future__ import annotations

import numpy as np

from .ops import Params, activation, layer_norm
from .trace import record_texts
from .transformer import residual_block


def decode(features: np.ndarray, caption_tokens: np.ndarray, decoder: Params, config) -> np.ndarray:
    """Token features [B, L, E] and caption tokens [Q', E] or [B, Q', E] -> logits [B, L, V].

    Each layer is a causal self-attention block, then a cross-attention block on the caption tokens, with an MLP
    each. No positions and no padding mask of its own (arXiv 2205.01917, section 3.2).
    """
    x, causal = features, np.tri(features.shape[1], dtype=bool)
    act = activation(config.quick_gelu)
    for i, (self_block, cross_block) in enumerate(zip(decoder["resblocks"], decoder["cross_attn"], strict=True)):
        x = record_texts(f"decoder.block.{i}.self", residual_block(x, self_block, config.heads, act, mask=causal))
        x = record_texts(f"decoder.block.{i}.cross", residual_block(x, cross_block, config.heads, act, caption_tokens))
    to_vocabulary = decoder["text_projection"]                    # [E, V]; open_clip's name
    return record_texts("logits", layer_norm(x, **decoder["ln_final"]) @ to_vocabulary)
