"""The unimodal text decoder: a causal transformer that reads a text without seeing the video.

A class embedding stands after the last position, padding included; what becomes of it is the text's latent. The
positions before it are the token features that the multimodal decoder goes on from (arXiv 2205.01917, section 3.2).
"""

from __future__ import annotations

import numpy as np

from .hooks import record_texts
from .ops import Params, activation, layer_norm, unit
from .transformer import Past, past_length, residual_block


def embed(ids: np.ndarray, text: Params) -> np.ndarray:
    """Ids [B, L] -> [B, L + 1, E]: token embeddings, the class embedding after all of them, positions."""
    words = text["token_embedding"]["weight"][ids]
    class_token = np.broadcast_to(text["cls_emb"], (len(ids), 1, words.shape[-1]))
    x = np.concatenate([words, class_token], axis=1)
    return x + text["positional_embedding"][: x.shape[1]]


def attention_mask(ids: np.ndarray, pad_id: int, correct_cls_mask: bool) -> np.ndarray:
    """Ids [B, L] -> bool [B, 1, L + 1, L + 1], True where a position may look: backwards, and not at padding.

    The padding is off by one, as the released weights were trained: key j is hidden where ids[j - 1] is padding,
    so in a padded text the first padding key stays visible and the class key is hidden, even from itself.
    `correct_cls_mask` hides the padding itself; a text must then not begin with it.
    """
    kept, always = ids != pad_id, np.ones((len(ids), 1), bool)
    keys = np.concatenate([kept, always] if correct_cls_mask else [always, kept], axis=1)
    return np.tri(keys.shape[1], dtype=bool) & keys[:, None, None, :]


def tower(
    x: np.ndarray, mask: np.ndarray, text: Params, config, past: list[Past] | None = None
) -> np.ndarray:
    """[B, L, E] -> [B, L, E] through all blocks. past: a cache; its positions come before those of x."""
    act, blocks = activation(config.quick_gelu), text["transformer"]["resblocks"]
    for i, block in enumerate(blocks):
        x = residual_block(x, block, config.heads, act, mask, past=past[i] if past else None)
        x = record_texts(f"text.block.{i}", x)
    return x


def encode_text(ids: np.ndarray, text: Params, config) -> tuple[np.ndarray, np.ndarray]:
    """Ids [B, L], padded with `pad_id` -> latents [B, E] of unit length and token features [B, L, E].

    Only the latent passes `ln_final`. It depends on how far a text is padded, through the class's position
    and the mask.
    """
    x = record_texts("text.embed", embed(ids, text))
    x = tower(x, attention_mask(ids, config.pad_id, config.correct_cls_mask), text, config)
    features = record_texts("text.tokens", x[:, :-1])
    latents = unit(layer_norm(x[:, -1], **text["ln_final"]) @ text["text_projection"])
    return record_texts("text.latent", latents), features


def next_features(ids: np.ndarray, text: Params, config, past: list[Past]) -> np.ndarray:
    """Ids [B, L] -> token features [B, L - M, E] of those after the M that the cache holds, which then holds all.

    The tower is causal: what comes later, the class embedding too, changes no feature before it.
    """
    new = slice(past_length(past), -1)
    mask = attention_mask(ids, config.pad_id, config.correct_cls_mask)[..., new, :-1]
    return tower(embed(ids, text)[:, new], mask, text, config, past)
