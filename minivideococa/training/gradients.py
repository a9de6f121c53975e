"""The gradient of each formula of `model.ops`, in the same order and under the same names.

For a formula y = f(x), each function takes dy, the gradient of the loss with respect to y, and what the tape
has kept of the forward pass. It returns dx, the gradient with respect to x, which always has the shape of x.
So dy and dx, dW and so on are arrays of derivatives of the loss; a derivative of a formula is written with ∂.
By the chain rule, dx_i = sum_j dy_j ∂y_j/∂x_i. [i = j] is 1 where i = j, else 0.

The gradients of parameters are added to the arrays in `grads`, a branch of a tree of the same shape as the
parameters. None in place of an array means that the parameter is frozen, and its gradient is not computed.
Axis letters as in `model.ops`; R is the number of all rows of [..., n] together.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from ..model import ops
from ..model.config import Array, Params
from .tape import Tape, pop


def linear(dy: Array, grads: Params, x: Array, weight: Array) -> Array:
    """Back-propagate through y = x W^T + b: dy [..., n_out] -> dx [..., n_in].

    y_o = sum_i x_i W_oi + b_o, so ∂y_o/∂x_i = W_oi and dx_i = sum_o dy_o W_oi, that is dx = dy W.
    """
    linear_parameters(dy, grads, x)
    return ops.linear(dy, weight.T)


def linear_parameters(dy: Array, grads: Params, x: Array) -> None:
    """Add the gradients of W and b of y = x W^T + b, for dy [..., n_out] and x [..., n_in].

    For one row, ∂y_o/∂W_oi = x_i and ∂y_o/∂b_o = 1. All R rows share W and b, so their gradients add up:
    dW = dy^T x with dy [R, n_out] and x [R, n_in], and db = sum over the rows of dy.
    """
    dy = rows(dy)  # [R, n_out]
    if grads["weight"] is not None:
        grads["weight"] += dy.T @ rows(x)  # [n_out, n_in]
    if grads.get("bias") is not None:
        grads["bias"] += dy.sum(axis=0)  # [n_out]


def layer_norm(dy: Array, grads: Params, x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Back-propagate through y = w z + b, z = (x - mean(x)) / s, s = sqrt(var(x) + eps): dy -> dx [..., n].

    dw = sum over the rows of dy z, db = sum of dy, and dz = dy w. Each z_j depends on x_i directly, through
    the mean, ∂mean/∂x_i = 1/n, and through s, ∂s/∂x_i = z_i / n. So ∂z_j/∂x_i = ([i = j] - 1/n - z_i z_j / n)
    / s, and the sum over j of dz_j ∂z_j/∂x_i is dx = (dz - mean(dz) - z mean(dz z)) / s.
    """
    z, s = standardize(x, eps)
    if grads["weight"] is not None:
        grads["weight"] += rows(dy * z).sum(axis=0)
    if grads["bias"] is not None:
        grads["bias"] += rows(dy).sum(axis=0)
    dz = dy * weight
    z *= (dz * z).mean(axis=-1, keepdims=True)
    dz -= dz.mean(axis=-1, keepdims=True)
    dz -= z
    dz /= s
    return dz


def standardize(x: Array, eps: float) -> tuple[Array, Array]:
    """Return the z [..., n] and the s [..., 1] of `layer_norm`."""
    z = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt(np.einsum("...i,...i->...", z, z)[..., None] / x.shape[-1] + eps)
    z /= s
    return z, s


def gelu(dy: Array, x: Array, y: Array) -> Array:
    """Back-propagate through y = x P(x), P the standard normal CDF: dy [...] -> dx [...].

    By the product rule ∂y/∂x = P(x) + x P'(x), and P' is the normal density: exp(-x^2 / 2) / sqrt(2 pi).
    """
    return dy * (gate(x, y) + x * np.exp(x * x * -0.5) / sqrt(2 * pi))


def quick_gelu(dy: Array, x: Array, y: Array) -> Array:
    """Back-propagate through y = x g, g = sigmoid(1.702 x): dy [...] -> dx [...].

    The derivative of the sigmoid is g (1 - g), so ∂y/∂x = g + 1.702 x g (1 - g).
    """
    g = gate(x, y)
    return dy * (g + 1.702 * x * g * (1 - g))


def gate(x: Array, y: Array) -> Array:
    """Return the factor of x in y, P or g above: y / x, and 1/2 where x = 0. A division replaces the erf."""
    with np.errstate(invalid="ignore"):  # 0 / 0 where x = 0
        return np.where(x == 0, x.dtype.type(0.5), y / x)


def softmax(dy: Array, y: Array, mean: Array | None = None) -> Array:
    """Back-propagate through y = exp(x) / sum(exp(x)) over the last axis: dy [..., n] -> dx [..., n].

    ∂y_j/∂x_i = y_j ([i = j] - y_i), so dx_i = y_i (dy_i - mean), where mean = sum_j dy_j y_j [..., 1] is
    computed unless it is given. Where a mask has made y zero, dx is zero too.
    """
    dx = dy - ((dy * y).sum(axis=-1, keepdims=True) if mean is None else mean)
    dx *= y
    return dx


def normalize(dy: Array, x: Array) -> Array:
    """Back-propagate through y = x / |x|: dy [..., n] -> dx [..., n].

    ∂|x|/∂x_i = y_i, so ∂y_j/∂x_i = ([i = j] - y_i y_j) / |x| and dx = (dy - y (dy . y)) / |x|: the part of dy
    along y is removed, since a step along x changes its length and not y.
    """
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / length
    return (dy - y * (dy * y).sum(axis=-1, keepdims=True)) / length


def attention(dy: Array, tape: Tape, heads: int, grads: Params) -> tuple[Array, Array, Array]:
    """Back-propagate through attention: dy [..., L, E] -> dx [..., L, E], dkeys and dvalues [..., H, M, D].

    The forward pass is S = Q K^T / sqrt D, A = softmax(S), O = A V, and a projection of all heads' O. A mask
    only makes some of A zero, so it needs no step of its own.

    From O = A V follow dV = A^T dO and dA = dO V^T, as for any matrix product. The softmax leads from dA to
    dS; its mean is sum_m dA_m A_m = sum_m (dO . V_m) A_m = dO . O, for each query. From S follow
    dQ = dS K / sqrt D and dK = dS^T Q / sqrt D. Queries that several contexts share, as a pooler's, receive
    the sum of their gradients.
    """
    keys, values = pop(tape, "attention")  # [..., H, M, D]
    merged, weight = pop(tape, "linear")  # O, all heads' [..., L, E]
    d = split_heads(linear(dy, grads["out_proj"], merged, weight), heads)  # dO [..., H, L, D]
    (weights,) = pop(tape, "softmax")  # A [..., H, L, M]
    (queries,) = pop(tape, "split_heads")  # [..., H, L, D]
    dvalues = weights.swapaxes(-1, -2) @ d
    mean = (d * split_heads(merged, heads)).sum(axis=-1, keepdims=True)  # [..., H, L, 1]
    dscores = softmax(d @ values.swapaxes(-1, -2), weights, mean)  # dS [..., H, L, M]
    scale = 1 / sqrt(queries.shape[-1])
    dkeys = dscores.swapaxes(-1, -2) @ (queries * scale)
    dqueries = sum_to(dscores @ keys, queries.shape) * scale
    dx = linear(merge_heads(dqueries), in_projection(grads, "q"), *pop(tape, "linear"))
    return dx, dkeys, dvalues


def keys_and_values(dkeys: Array, dvalues: Array, tape: Tape, grads: Params) -> Array:
    """Back-propagate through the projections of a context: dkeys, dvalues [..., H, M, D] -> [..., M, C].

    The context is used twice, so its gradient is the sum of both.
    """
    pop(tape, "split_heads")
    dcontext = linear(merge_heads(dvalues), in_projection(grads, "v"), *pop(tape, "linear"))
    pop(tape, "split_heads")
    dcontext += linear(merge_heads(dkeys), in_projection(grads, "k"), *pop(tape, "linear"))
    return dcontext


def in_projection(grads: Params, name: str) -> Params:
    """Return the branch of "q", "k" or "v": views of the rows that `ops.in_projection` takes."""

    def part(grad: Array | None) -> Array | None:
        return None if grad is None else np.split(grad, 3)["qkv".index(name)]

    weight = part(grads["in_proj_weight"]) if "in_proj_weight" in grads else grads[f"{name}_proj_weight"]
    return {"weight": weight, "bias": part(grads["in_proj_bias"])}


split_heads, merge_heads = ops.split_heads, ops.merge_heads  # permutations: each one's gradient is the other


# What is not in `model.ops`: projections, sums, copies and look-ups


def rows(x: Array) -> Array:
    """Return [..., n] as [R, n]."""
    return x.reshape(-1, x.shape[-1])


def projection(dy: Array, x: Array, weight: Array, grad: Array | None) -> Array:
    """Back-propagate through y = x P, for a projection P [n_in, n_out]: dy [..., n_out] -> dx [..., n_in].

    P is stored the other way round than the weight of `linear`: P = W^T.
    """
    return linear(dy, {"weight": None if grad is None else grad.T}, x, weight.T)


def sum_to(dx: Array, shape: tuple[int, ...]) -> Array:
    """Back-propagate through broadcasting from `shape`: each copy's gradient adds to that of the original."""
    return dx.sum(axis=tuple(range(dx.ndim - len(shape))))


def embedding(dx: Array, ids: Array, grads: Any) -> None:
    """Add the gradient of a look-up x = table[ids], for dx [B, L, E] and ids [B, L], to that of the table.

    A row receives the sum of the gradients at all places where its id stands; rows without a place, nothing.
    """
    if grads is not None:
        np.add.at(grads, ids, dx)
