"""The multimodal text decoder: from token features and caption tokens to the logits of the next token."""

import numpy as np

from . import transformer
from .config import Array, DecoderConfig, Params
from .hooks import block, record_texts, replaceable
from .ops import layer_norm, linear
from .transformer import KV, KVCaches, cache_length, residual_block


def cross_attention_kv(caption_tokens: Array, decoder: Params, config: DecoderConfig) -> list[KV]:
    """Return each layer's keys and values of caption tokens [B, Q', E], computed once for a text."""
    kv = []
    for i, p in enumerate(decoder["cross_attn"]):
        with block(f"decoder.block.{i}.cross"):
            kv.append(transformer.cross_attention_kv(caption_tokens, p, config.heads))
    return kv


@replaceable
def causal_mask(length: int, before: int) -> Array:
    """Return the mask of `length` positions after `before` cached ones: bool [length, before + length]."""
    return np.tri(length, before + length, before, dtype=bool)


def hidden_states(
    features: Array, kv: list[KV], decoder: Params, config: DecoderConfig, caches: KVCaches = None
) -> Array:
    """Decode token features [R, L, E] -> hidden states [R, L, E], after `ln_final`.

    kv: the `cross_attention_kv` of B videos, each of which has R / B texts.

    Each layer is a causal self-attention block, then a cross-attention block to the caption tokens, each with
    an MLP. There are no positions and no padding mask (arXiv 2205.01917, section 3.2). caches: one per layer,
    of the self-attention; their positions come before the features'.
    """
    x, mask = features, causal_mask(features.shape[1], cache_length(caches))
    layers = zip(decoder["resblocks"], decoder["cross_attn"], strict=True)
    for i, (self_block, cross_block) in enumerate(layers):
        with block(f"decoder.block.{i}.self"):
            x = residual_block(x, self_block, config, mask, cache=caches[i] if caches else None)
        x = record_texts(f"decoder.block.{i}.self", x)
        with block(f"decoder.block.{i}.cross", texts=len(x)):
            by_video = x.reshape(len(kv[i][0]), -1, x.shape[-1])  # [B, (R / B) L, E]
            x = residual_block(by_video, cross_block, config, kv=kv[i]).reshape(features.shape)
        x = record_texts(f"decoder.block.{i}.cross", x)
    return layer_norm(x, **decoder["ln_final"])


def decode(
    features: Array, kv: list[KV], decoder: Params, config: DecoderConfig, caches: KVCaches = None
) -> Array:
    """Decode token features [R, L, E] -> logits [R, L, V] of the next tokens, as `hidden_states` does."""
    x = hidden_states(features, kv, decoder, config, caches)
    return record_texts("logits", linear(x, decoder["text_projection"].T))  # stored as [E, V]
