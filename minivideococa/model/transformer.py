"""The block that all stacks are built from: attention, then an MLP, each on a normed input and added to it."""

from __future__ import annotations

import numpy as np

from .ops import Activation, Params, attention, in_pieces, keys_and_values, layer_norm, linear

Past = dict[str, np.ndarray]  # a self-attention block's cache: "keys" and "values" of past positions


def mlp(x: np.ndarray, p: Params, activation: Activation) -> np.ndarray:
    """[..., E] -> [..., E] by way of a wider layer (4E unless configured)."""
    return linear(in_pieces(activation, linear(x, **p["c_fc"])), **p["c_proj"])


def residual_block(
    x: np.ndarray,
    p: Params,
    heads: int,
    activation: Activation,
    mask: np.ndarray | None = None,
    context: tuple[np.ndarray, np.ndarray] | None = None,
    past: Past | None = None,
) -> np.ndarray:
    """x [..., L, E] -> [..., L, E]: self-attention; with a context (of `look_at`), cross-attention to it.

    mask: as in `ops.attention`. past: what earlier positions left, and these leave theirs (a key-value cache).
    """
    normed = layer_norm(x, **p["ln_1"])
    if context is None:
        context = remember(past, *keys_and_values(normed, p["attn"], heads))
    x = x + attention(normed, *context, p["attn"], heads, mask)
    x += mlp(layer_norm(x, **p["ln_2"]), p["mlp"], activation)
    return x


def look_at(context: np.ndarray, p: Params, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """A context [..., M, E], normed by `ln_1_kv`, as the keys and values of a cross-attention block."""
    return keys_and_values(layer_norm(context, **p["ln_1_kv"]), p["attn"], heads)


def remember(past: Past | None, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The past's keys and values [..., heads, M, E / heads] with the new ones behind; the past then holds these."""
    if past:
        keys = np.concatenate([past["keys"], keys], axis=-2)
        values = np.concatenate([past["values"], values], axis=-2)
    if past is not None:
        past.update(keys=keys, values=values)
    return keys, values


def no_past(blocks: list[Params]) -> list[Past]:
    """An empty cache for a stack."""
    return [{} for _ in blocks]


def past_length(past: list[Past]) -> int:
    """How many positions a stack's cache holds."""
    return past[0]["keys"].shape[-2] if past[0] else 0


def reorder(past: list[Past], rows: np.ndarray) -> None:
    """Row i of the cache [B, ...] goes on from what was row rows[i]."""
    for block in past:
        block.update((name, x[rows]) for name, x in block.items())
