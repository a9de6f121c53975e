"""The operations that everything else is made of: pure functions over arrays, in the dtype they are given.

Axis letters, here and everywhere: T frames, N tokens per frame, W vision width, Q queries, Q' caption tokens,
E embedding width, B batch, L text length, V vocabulary. `...` stands for any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

Params = dict[str, Any]  # a branch of the parameter tree: names -> arrays, branches or lists
Activation = Callable[[np.ndarray], np.ndarray]


PIECE = 2**20  # so many numbers, and a few arrays of them, stay in the cache
FEW = 8  # rows: up to so many, a product takes as long as its weights are read
MANY = 128  # rows: from so many on, a product takes as long as it is computed
PART = 512  # terms that `in_parts` sums in a row


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """[..., n_in] -> [..., n_out] for a weight [n_out, n_in], stored the way PyTorch stores it."""
    rows = x.reshape(
        -1, x.shape[-1]
    )  # one matrix: NumPy would multiply [..., L, n_in] one [L, n_in] at a time
    if len(rows) <= FEW:
        y = row_by_row(rows, weight)
    elif len(rows) < MANY:
        y = in_parts(rows, weight)
    else:
        y = rows @ weight.T
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], -1)


def row_by_row(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A few rows [R, n_in] -> [R, n_out]. BLAS would copy the weights first; so each piece of them is read once."""
    y = np.empty((len(rows), len(weight)), rows.dtype)
    step = max(1, PIECE // weight.shape[1])
    for i in range(0, len(weight), step):
        np.matmul(rows[:, None], weight[i : i + step].T, out=y[:, None, i : i + step])
    return y


def in_parts(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A text's rows [R, n_in] -> [R, n_out], each sum in parts, which round less: the longer a sum, the more it rounds.

    In L/14's text stacks the float32 error is 1.1 times PyTorch's so, in one part 1.3 to 1.4 times. For frames, whose
    error is 1.2 times PyTorch's in one part, it would cost 5 to 10% of the time.
    """
    y = rows[:, :PART] @ weight[:, :PART].T
    for i in range(PART, rows.shape[1], PART):
        y += rows[:, i : i + PART] @ weight[:, i : i + PART].T
    return y


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """[..., n] -> [..., n], each row to mean 0 and variance 1, then scaled and shifted (arXiv 1607.06450)."""
    y = x - x.mean(axis=-1, keepdims=True)
    y /= np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + eps)
    y *= weight
    y += bias
    return y


# erf(x) = x P(x^2) / Q(x^2) up to the |x| where erf rounds to 1: coefficients of P and Q, highest power first.
# A minimax fit; all coefficients are positive, so no sum cancels. Made by tests/oracle/fit_erf.py.
ERF = {
    np.dtype("float32"): (
        3.95,
        (
            2.02774500669558e-06,
            2.8438601031534826e-04,
            3.79566376604763e-03,
            5.283631067479817e-02,
            1.9126152709473382e-01,
            1.1283791465862476,
        ),
        (
            3.783532534250401e-05,
            1.167668697477656e-03,
            1.5029895979861357e-02,
            1.1443942880976286e-01,
            5.028338458215028e-01,
            1.0,
        ),
    ),
    np.dtype("float64"): (
        5.9,
        (
            1.599839050438136e-17,
            2.2521957854215244e-14,
            3.3441903312218364e-12,
            1.7111979766837512e-10,
            6.731689452394401e-09,
            1.6843029011213086e-07,
            3.884278363973259e-06,
            5.663555771528774e-05,
            8.53207993903697e-04,
            6.861877014267516e-03,
            6.603220670888005e-02,
            2.1966024186350439e-01,
            1.1283791670955126,
        ),
        (
            8.983479135565623e-16,
            3.3429719461527686e-13,
            2.5431311695224506e-11,
            1.1193881724995962e-09,
            3.4970465175192355e-08,
            8.307027286636202e-07,
            1.5425333326250945e-05,
            2.2516986051628502e-04,
            2.5561516231771405e-03,
            2.1930567757448248e-02,
            1.3452023757391043e-01,
            5.28002154124234e-01,
            1.0,
        ),
    ),
}


def polynomial(u: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """Horner's rule, highest power first."""
    y = u * coefficients[0]
    for c in coefficients[1:-1]:
        y += c
        y *= u
    y += coefficients[-1]
    return y


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, within 6 units of the dtype's rounding (float32 or float64)."""
    limit, p, q = ERF[x.dtype]
    x = np.clip(x, -limit, limit)
    u = x * x
    x *= polynomial(u, p)
    x /= polynomial(u, q)
    return np.clip(x, -1, 1, out=x)  # so that gelu is 0, and not a rounding error, far below 0


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function, exactly: x (1 + erf(x / sqrt 2)) / 2 (arXiv 1606.08415)."""
    y = erf(x * (1 / sqrt(2)))
    y += 1
    y *= x
    y *= 0.5
    return y


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with (arXiv 1606.08415, section 2)."""
    with np.errstate(over="ignore"):  # exp overflows to inf where the quotient is rightly 0
        return x / (1 + np.exp(-1.702 * x))


def in_pieces(elementwise: Activation, x: np.ndarray) -> np.ndarray:
    """`elementwise` of x, C-contiguous, written over it piece by piece: what it makes on the way stays in the cache."""
    flat = x.reshape(-1)
    for i in range(0, len(flat), PIECE):
        flat[i : i + PIECE] = elementwise(flat[i : i + PIECE])
    return x


def activation(quick: bool) -> Activation:
    """The activation that a configuration's `quick_gelu` asks for."""
    return quick_gelu if quick else gelu


def softmax(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """[..., n] -> [..., n], positive and summing to 1; -inf becomes 0. out: an array to write it to, x itself too."""
    y = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def log_softmax(x: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., n], the logarithm of `softmax`."""
    y = x - x.max(axis=-1, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
    return y


def unit(x: np.ndarray) -> np.ndarray:
    """[..., n] -> [..., n] of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def attention(
    x: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    p: Params,
    heads: int,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """x [..., L, E] asks, `keys_and_values` of a context answer -> [..., L, E] (arXiv 1706.03762, section 3.2).

    L and E stand for the length and the width of the asking side, whatever they are: in the image encoder N and W.
    mask: bool, broadcast to [..., heads, L, M]; True where a query may look at a key.
    """
    queries = split_heads(linear(x, *projection(p, "q")), heads)
    queries *= 1 / sqrt(queries.shape[-1])
    scores = queries @ keys.swapaxes(-1, -2)  # [..., heads, L, M]
    if mask is not None:
        np.copyto(scores, -np.inf, where=~mask)
    return linear(merge_heads(softmax(scores, out=scores) @ values), **p["out_proj"])


def keys_and_values(context: np.ndarray, p: Params, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """What a context [..., M, C] offers to attention: keys and values, each [..., heads, M, E / heads]."""
    keys, values = (split_heads(linear(context, *projection(p, which)), heads) for which in "kv")
    return keys, values


def projection(p: Params, which: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight [E, C] and bias [E] of the "q", "k" or "v" of attention; one [3E, E] array holds all three where C = E."""
    i, width = "qkv".index(which), len(p["in_proj_bias"]) // 3
    part = slice(i * width, (i + 1) * width)
    weight = p["in_proj_weight"][part] if "in_proj_weight" in p else p[f"{which}_proj_weight"]
    return weight, p["in_proj_bias"][part]


def split_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """[..., L, E] -> [..., heads, L, E / heads]."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """[..., heads, L, E / heads] -> [..., L, E]."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)
