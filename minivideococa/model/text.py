"""The unimodal text decoder: a causal transformer that encodes the text alone.

A class embedding follows the last position, padding included; its output is the text's latent. The positions
before it give the token features that the multimodal decoder continues from (arXiv 2205.01917, section 3.2).
"""

import numpy as np

from .config import Array, Callback, Params, TextConfig
from .hooks import block, record_texts, replaceable, tracing
from .kernels import attended, batch_order, map_texts, share_beginning
from .ops import layer_norm, normalize
from .transformer import KVCaches, residual_block


@replaceable
def embed(ids: Array, text: Params) -> Array:
    """Embed ids [B, L] -> [B, L + 1, E]: token embeddings, the class embedding after them, positions."""
    tokens = text["token_embedding"]["weight"][ids]
    class_token = np.broadcast_to(text["cls_emb"], (len(ids), 1, tokens.shape[-1]))
    x = np.concatenate([tokens, class_token], axis=1)
    return x + text["positional_embedding"][: x.shape[1]]


@replaceable
def attention_mask(ids: Array, pad_id: int, correct_cls_mask: bool) -> Array:
    """Return the causal and the padding mask of ids [B, L]: bool [B, 1, L + 1, L + 1], True where to attend.

    The padding mask is shifted by one, as in open_clip: key j is masked where ids[j - 1] is padding. So in a
    padded text the first padding key stays visible, and the class key is masked, even for itself.
    `correct_cls_mask` masks exactly the padding; a text must then not begin with it.
    """
    kept, always = ids != pad_id, np.ones((len(ids), 1), bool)
    keys = np.concatenate([kept, always] if correct_cls_mask else [always, kept], axis=1)
    return np.tri(keys.shape[1], dtype=bool) & keys[:, None, None, :]


@replaceable
def transformer(x: Array, mask: Array, text: Params, config: TextConfig, caches: KVCaches = None) -> Array:
    """Apply all blocks: [B, L, E] -> [B, L, E]. caches: one per block; their positions precede those of x."""
    for i, p in enumerate(text["transformer"]["resblocks"]):
        with block(f"text.block.{i}"):
            x = residual_block(x, p, config, mask, cache=caches[i] if caches else None)
        x = record_texts(f"text.block.{i}", x)
    return x


def encode_text(ids: Array, text: Params, config: TextConfig) -> tuple[Array, Array]:
    """Encode ids [B, L], padded with `pad_id` -> latents [B, E] of unit length and token features [B, L, E].

    Only the latent passes through `ln_final`. It depends on how far a text is padded, through the class
    position and the mask.
    """
    x = record_texts("text.embed", embed(record_texts("ids", ids), text))
    x = transformer(x, attention_mask(ids, config.pad_id, config.correct_cls_mask), text, config)
    features = record_texts("text.tokens", x[:, :-1])
    return record_texts("text.latent", project_class(x[:, -1], text)), features


def encode_latents(ids: Array, text: Params, config: TextConfig, progress: Callback = None) -> Array:
    """Encode ids [B, L] -> latents [B, E] alone, as `encode_text`, without the positions that have no effect.

    These are all of the padding but its first position, which the shifted mask leaves visible. What the texts
    of a batch begin with is computed once. A trace records all positions. progress: called with the number of
    texts just encoded.
    """

    def stack(x: Array, mask: Array, caches: KVCaches) -> Array:
        return transformer(x, mask, text, config, caches)

    def encode(ids: Array) -> Array:
        mask = attention_mask(ids, config.pad_id, config.correct_cls_mask)
        kept = attended(mask)
        x, mask = embed(ids, text)[:, kept], mask[..., kept[:, None], kept]
        x = share_beginning(stack, x, mask, ids[:, kept[:-1]], len(text["transformer"]["resblocks"]))
        return project_class(x[:, -1], text)

    if tracing():
        return encode_text(ids, text, config)[0]
    return map_texts(encode, ids, batch_order(ids, (ids != config.pad_id).sum(axis=1)), progress)


def project_class(x: Array, text: Params) -> Array:
    """Return the latents [B, E], of unit length, of the class position's outputs [B, E]."""
    return normalize(layer_norm(x, **text["ln_final"]) @ text["text_projection"])
