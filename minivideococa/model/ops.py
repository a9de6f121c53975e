"""The formulas, each as in its paper: pure functions over arrays, in the dtype they are given.

Axis letters, here and everywhere: T frames, N tokens per frame, W vision width, Q queries, Q' caption tokens,
E embedding width, B batch, L text length, V vocabulary, H heads, D = E / H; C any width, M any number of
keys, R rows of ids. `...` stands for any leading axes. Caption tokens are pooled visual tokens, which the
decoder attends to. `record_inside` does nothing outside of a trace, and `replaceable` is a mark: see `hooks`.
"""

from math import sqrt

import numpy as np

from .config import Array, Params
from .hooks import record_inside, replaceable
from .kernels import blockwise, erf, matmul

Mask = Array | None  # bool, True where a query attends to a key; None: everywhere


@replaceable
def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x W^T + b: [..., n_in] -> [..., n_out], for a weight [n_out, n_in] as PyTorch stores it."""
    return matmul(x, weight, bias)


@replaceable
@blockwise
def layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Normalize each row of [..., n] to mean 0 and variance 1, then scale and shift it (arXiv 1607.06450)."""
    x = x - x.mean(axis=-1, keepdims=True)
    x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    return x * weight + bias


@replaceable
@blockwise
def gelu(x: Array) -> Array:
    """Return x times the standard normal CDF: x (1 + erf(x / sqrt 2)) / 2 (arXiv 1606.08415)."""
    return (erf(x * sqrt(0.5)) + 1) * x * 0.5


@replaceable
@blockwise
def quick_gelu(x: Array) -> Array:
    """Return x sigmoid(1.702 x), the approximation of GELU in OpenAI's CLIP (arXiv 1606.08415, section 2)."""
    with np.errstate(over="ignore"):  # exp overflows to inf where the quotient is 0
        return x / (1 + np.exp(-1.702 * x))


@replaceable
@blockwise
def softmax(x: Array) -> Array:
    """Return exp(x) / sum(exp(x)) over the last axis: [..., n] -> [..., n]; -inf becomes 0."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    """Return the logarithm of `softmax`: [..., n] -> [..., n]."""
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@replaceable
def normalize(x: Array) -> Array:
    """Scale each row of [..., n] to unit length."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@replaceable
def attention(x: Array, keys: Array, values: Array, p: Params, heads: int, mask: Mask = None) -> Array:
    """Attend from x [..., L, E] to keys and values of a context: softmax(Q K^T / sqrt D) V -> [..., L, E].

    Multi-head attention (arXiv 1706.03762, section 3.2) with its query and output projections; the caller has
    projected the context. keys, values: [..., H, M, D], from
    `keys_and_values`. mask: broadcast to [..., H, L, M].
    """
    queries = record_inside("q", split_heads(linear(x, *in_projection(p, "q")), heads))  # [..., H, L, D]
    scores = (queries / sqrt(queries.shape[-1])) @ keys.swapaxes(-1, -2)  # [..., H, L, M]
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = record_inside("weights", softmax(scores))
    return record_inside("attention", linear(merge_heads(weights @ values), **p["out_proj"]))  # [..., L, E]


def keys_and_values(context: Array, p: Params, heads: int) -> tuple[Array, Array]:
    """Project a context [..., M, C] to the keys and the values of attention, each [..., H, M, D]."""
    keys, values = (split_heads(linear(context, *in_projection(p, name)), heads) for name in "kv")
    return record_inside("k", keys), record_inside("v", values)


@replaceable
def in_projection(p: Params, name: str) -> tuple[Array, Array]:
    """Return weight [E, C] and bias [E] of "q", "k" or "v"; one array [3E, E] holds all three where C = E."""
    i, width = "qkv".index(name), len(p["in_proj_bias"]) // 3
    rows = slice(i * width, (i + 1) * width)
    weight = p["in_proj_weight"][rows] if "in_proj_weight" in p else p[f"{name}_proj_weight"]
    return weight, p["in_proj_bias"][rows]


@replaceable
def split_heads(x: Array, heads: int) -> Array:
    """Split the last axis into heads and move them forward: [..., L, E] -> [..., H, L, D]."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


@replaceable
def merge_heads(x: Array) -> Array:
    """Undo `split_heads`: [..., H, L, D] -> [..., L, E]."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)
