"""The block of all stacks: pre-norm attention, then a pre-norm MLP, each added to the residual stream."""

import numpy as np

from .config import Array, Params, StackConfig
from .hooks import record_inside, replaceable
from .ops import Mask, attention, gelu, keys_and_values, layer_norm, linear, quick_gelu

KV = tuple[Array, Array]  # keys and values, each [..., H, M, D]
# "keys" and "values" of the earlier positions of a self-attention block; {} at the start
KVCache = dict[str, Array]
KVCaches = list[KVCache] | None  # of a stack, one per block; None: nothing is cached


def mlp(x: Array, p: Params, quick: bool) -> Array:
    """Apply two linear layers with GELU or QuickGELU in between: [..., C] -> [..., mlp_width] -> [..., C]."""
    activation = quick_gelu if quick else gelu
    hidden = record_inside("mlp.hidden", activation(linear(x, **p["c_fc"])))
    return record_inside("mlp", linear(hidden, **p["c_proj"]))


@replaceable
def residual_block(
    x: Array,
    p: Params,
    config: StackConfig,
    mask: Mask = None,
    kv: KV | None = None,
    cache: KVCache | None = None,
) -> Array:
    """Apply attention and an MLP to the residual stream [..., L, C], whose width C is W in vision and else E.

    Self-attention; or cross-attention, where `kv` holds the keys and values of a context
    (`cross_attention_kv`). mask: as in `ops.attention`. cache: earlier positions' keys and values; those of x
    are appended to it.
    """
    normed = layer_norm(x, **p["ln_1"])
    if kv is None:
        kv = extend_cache(cache, *keys_and_values(normed, p["attn"], config.heads))
    x = x + attention(normed, *kv, p["attn"], config.heads, mask)
    return x + mlp(layer_norm(x, **p["ln_2"]), p["mlp"], config.quick_gelu)


@replaceable
def cross_attention_kv(context: Array, p: Params, heads: int) -> KV:
    """Return a cross-attention block's keys and values of a context [..., M, E], normalized by `ln_1_kv`."""
    return keys_and_values(layer_norm(context, **p["ln_1_kv"]), p["attn"], heads)


def extend_cache(cache: KVCache | None, keys: Array, values: Array) -> KV:
    """Append keys and values [..., H, L, D] to a cache, if there is one; return all [..., H, M, D]."""
    if cache:
        keys = np.concatenate([cache["keys"], keys], axis=-2)
        values = np.concatenate([cache["values"], values], axis=-2)
    if cache is not None:
        cache.update(keys=keys, values=values)
    return keys, values


def cache_length(caches: KVCaches) -> int:
    """Return the number of positions in the caches of a stack."""
    return caches[0]["keys"].shape[-2] if caches and caches[0] else 0
