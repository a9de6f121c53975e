"""The block that all stacks are built from: attention, then an MLP, each on a normed input and added to it."""

from __future__ import annotations

import numpy as np

from .ops import Activation, Params, attention, layer_norm, linear


def mlp(x: np.ndarray, p: Params, activation: Activation) -> np.ndarray:
    """[..., E] -> [..., E] by way of a wider layer (4E unless configured)."""
    return linear(activation(linear(x, **p["c_fc"])), **p["c_proj"])


def residual_block(
    x: np.ndarray, p: Params, heads: int, activation: Activation,
    context: np.ndarray | None = None, mask: np.ndarray | None = None,
) -> np.ndarray:
    """x [..., L, E] -> [..., L, E]: self-attention, or cross-attention to a context [..., M, E].

    A context has a norm of its own, `ln_1_kv`. mask: as in `ops.attention`.
    """
    normed = layer_norm(x, **p["ln_1"])
    source = normed if context is None else layer_norm(context, **p["ln_1_kv"])
    x = x + attention(normed, source, p["attn"], heads, mask)
    x += mlp(layer_norm(x, **p["ln_2"]), p["mlp"], activation)
    return x
