"""Exercises 1 to 4, steps of the forward pass: patches, attention, the pooler, the shifted mask.

Each is compared with the package's own function in small cases, then runs in its place. What a common mistake
gives is computed with the package's functions, some of their operations replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from ..model import ops
from ..model.config import Array, Params
from ..model.hooks import replace_operations
from ..model.ops import Mask, in_projection, linear, merge_heads, split_heads
from ..model.pooling import attentional_pooler, flatten
from ..model.text import attention_mask
from ..model.vision import patchify as cut_patches
from ..verify import changes
from ..verify.changes import Make, constant
from .comparison import Case, Mistakes, first_mistake
from .learner import Written
from .result import NotWritten, Verdict, Wrong
from .running import RunningModel, in_place_of

# 1. Patches


def patchify(written: Written, running: RunningModel) -> Verdict:
    """Check `patchify`."""
    cases = [
        patchify_case(
            1, 4, 2, "an image of 4 x 4 pixels, its numbers counted from 0 to 47, and patch size 2"
        ),
        patchify_case(2, 7, 3, "two images of 7 x 7 pixels and patch size 3, which leaves a pixel over"),
    ]

    def make(operation: Callable[..., Array]) -> Callable[..., Array]:
        return lambda pixels, size: in_place_of(operation(pixels, size), written, pixels, size)

    return running.judge(first_mistake(written, cases), {"vision.patchify": make})


def patchify_case(T: int, S: int, P: int, says: str) -> Case:
    """Return a case of T images of S x S pixels, in patches of P x P."""
    pixels, n = np.arange(T * 3 * S * S, dtype=np.float32).reshape(T, 3, S, S), S // P
    cut, border, expected = pixels[..., : n * P, : n * P], S - n * P, cut_patches(pixels, P)
    x = expected.reshape(T, n, n, 3, P, P)
    results = {
        "reshaped_alone": cut,
        "channels_last": np.moveaxis(x, 3, -1),
        "by_column": x.swapaxes(1, 2),
        "patch_turned": x.swapaxes(-1, -2),
        "all_turned": x.swapaxes(1, 2).swapaxes(-1, -2),
        "wrong_axes": cut.reshape(T, 3, n, P, n, P).transpose(0, 2, 3, 1, 4, 5),
        "wrong_border": cut_patches(pixels[..., border:, border:], P),
    }
    mistakes: Mistakes = {name: partial(np.reshape, y, expected.shape) for name, y in results.items()}
    return Case(says, (pixels, P), expected, mistakes, "not_cropped" if border else "")


# 2. Attention


def attention(written: Written, running: RunningModel) -> Verdict:
    """Check `attention`."""

    def make(operation: Callable[..., Array]) -> Callable[..., Array]:
        def run(x: Array, keys: Array, values: Array, p: Params, heads: int, mask: Mask = None) -> Array:
            ours, queries = operation(x, keys, values, p, heads, mask), linear(x, *in_projection(p, "q"))
            args = queries, merge_heads(keys), merge_heads(values), heads, mask
            return linear(in_place_of(ours, written, *args), **p["out_proj"])

        return run

    return running.judge(first_mistake(written, attention_cases()), {"ops.attention": make})


def attention_is_wrong(function: Any) -> bool:
    """Return whether a learner's `attention` is wrong in the small cases, and not just unwritten."""
    try:
        return first_mistake(Written("attention", function), attention_cases()) is not None
    except Wrong:
        return True
    except NotWritten:
        return False


def attention_cases() -> list[Case]:
    """Return the cases of `attention`."""
    causal = np.tri(3, 5, 2, dtype=bool)
    masks = np.stack([causal, causal & (np.arange(5) != 1)])[:, None]
    two, one = ((2, 3, 8), (2, 5, 8)), ((3, 8), (5, 8))
    return [
        attention_case(*two, None, "two sequences of 3 queries and 5 keys, 2 heads and no mask"),
        attention_case(*one, causal, "3 queries, 5 keys, 2 heads and a causal mask [3, 5]"),
        attention_case((3, 8), (2, 5, 8), None, "3 queries which two sequences of 5 keys share, and 2 heads"),
        attention_case(
            *two, masks, "two sequences, 2 heads, and a mask [2, 1, 3, 5] with one for each sequence"
        ),
        attention_case(*one, None, "3 queries, 5 keys, 2 heads, and scores in the thousands", scale=80),
    ]


def attend(
    queries: Array, keys: Array, values: Array, heads: int, mask: Mask = None, **replaced: Make
) -> Array:
    """Attend by `ops.attention`, all of it projected before: [..., L, E], [..., M, E] -> [..., L, E].

    replaced: name of an operation of `ops` -> its replacement.
    """
    one, zeros = np.eye(queries.shape[-1]), np.zeros(3 * queries.shape[-1])
    p = {"q_proj_weight": one, "in_proj_bias": zeros, "out_proj": {"weight": one}}
    with replace_operations({f"ops.{name}": make for name, make in replaced.items()}):
        return ops.attention(queries, split_heads(keys, heads), split_heads(values, heads), p, heads, mask)


def attention_case(
    of_queries: tuple[int, ...], of_keys: tuple[int, ...], mask: Mask, says: str, scale: float = 1
) -> Case:
    """Return a case of 2 heads with random numbers."""
    rng = np.random.default_rng(0)
    q, k, v = (scale * rng.standard_normal(shape) for shape in (of_queries, of_keys, of_keys))
    return Case(says, (q, k, v, 2, mask), attend(q, k, v, 2, mask), attention_mistakes(q, k, v, 2, mask))


def attention_mistakes(q: Array, k: Array, v: Array, heads: int, mask: Mask) -> Mistakes:
    """Return the common mistakes in attention."""
    D = q.shape[-1] // heads

    def over_queries(softmax: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda x: softmax(x.swapaxes(-1, -2)).swapaxes(-1, -2)

    def scaled(factor: float) -> Callable[[], Array]:
        return lambda: attend(factor * q, k, v, heads, mask)

    def replaced(**operations: Make) -> Callable[[], Array]:
        return lambda: attend(q, k, v, heads, mask, **operations)

    merge = constant(changes.merge_without_transpose)
    mistakes: Mistakes = {
        "not_scaled": scaled(sqrt(D)),
        "scaled_by_width": scaled(1 / sqrt(heads)),
        "scaled_by_square": scaled(1 / sqrt(D)),
        "one_head": lambda: attend(q, k, v, 1, mask),
        "over_queries": replaced(softmax=over_queries),
        "interleaved": replaced(
            split_heads=constant(changes.split_interleaved), merge_heads=constant(changes.merge_interleaved)
        ),
        "merged_unmoved": replaced(merge_heads=merge),
        "heads_unmoved": replaced(split_heads=constant(changes.split_without_transpose), merge_heads=merge),
    }
    return mistakes | (mask_mistakes(q, k, v, heads, mask) if mask is not None else {})


def mask_mistakes(q: Array, k: Array, v: Array, heads: int, mask: Array) -> Mistakes:
    """Return the common mistakes in the mask of attention."""

    def with_zero(softmax: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda x: softmax(np.where(np.isneginf(x), 0, x))

    def late(softmax: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda x: softmax(x) * mask

    return {
        "mask_ignored": lambda: attend(q, k, v, heads),
        "mask_inverted": lambda: attend(q, k, v, heads, ~mask),
        "masked_with_zero": lambda: attend(q, k, v, heads, mask, softmax=with_zero),
        "masked_late": lambda: attend(q, k, v, heads, None, softmax=late),
    }


# 3. The pooler


def pooler(written: Written, running: RunningModel) -> Verdict:
    """Check `pooler` on the clip's tokens, with the model's own parameters."""
    tokens, heads = running.frame_tokens, running.model.config.vision.pooler_heads
    p, p64 = (model.params["visual"]["attn_pool"] for model in (running.model, running.exact))
    says = f"the clip's tokens {list(tokens.shape)} and the model's parameters"
    args = tokens.astype(np.float64), p64, heads
    case = Case(says, args, attentional_pooler(flatten(args[0]), p64, heads), pooler_mistakes(*args))
    patch = {"pool.attended": lambda ours: in_place_of(ours, written, tokens, p, heads)}
    return running.judge(first_mistake(written, [case]), patch=patch)


def pooler_mistakes(tokens: Array, p: Params, heads: int) -> Mistakes:
    """Return the common mistakes in the pooler."""
    flat, E = flatten(tokens), p["query"].shape[-1]
    no_projection = {"weight": np.eye(E), "bias": np.zeros(E)}

    def pooled(tokens: Array, heads: int = heads, **changed: Any) -> Array:
        return attentional_pooler(tokens, p | changed, heads)

    def turned(norm: Params) -> Params:
        return {"weight": norm["bias"], "bias": norm["weight"]}

    return {
        "mean_pooling": lambda: pooled(tokens).mean(axis=0),
        "tokens_averaged": lambda: pooled(tokens.mean(axis=0)),
        "not_flattened": lambda: pooled(tokens),
        "first_frame": lambda: pooled(tokens[0]),
        "no_class_tokens": lambda: pooled(flatten(tokens[:, 1:])),
        "class_tokens_alone": lambda: pooled(tokens[:, 0]),
        "no_ln_q": lambda: without_norms(flat, p, heads, "ln_q"),
        "no_ln_k": lambda: without_norms(flat, p, heads, "ln_k"),
        "no_norms": lambda: without_norms(flat, p, heads, "ln_q", "ln_k"),
        "ln_q_turned": lambda: pooled(flat, ln_q=turned(p["ln_q"])),
        "ln_k_turned": lambda: pooled(flat, ln_k=turned(p["ln_k"])),  # of both norms the result is the same
        "kv_swapped": lambda: kv_swapped(flat, p, heads),
        "no_out_proj": lambda: pooled(flat, attn=p["attn"] | {"out_proj": no_projection}),
        "residual": lambda: p["query"] + pooled(flat),
        "pooler_one_head": lambda: pooled(flat, heads=1),
    }


def without_norms(flat: Array, p: Params, heads: int, *names: str) -> Array:
    """Pool tokens [M, W] without some of the LayerNorms."""
    left_out = [id(p[name]["weight"]) for name in names]

    def make(layer_norm: Callable[..., Array]) -> Callable[..., Array]:
        return lambda x, weight, bias: x if id(weight) in left_out else layer_norm(x, weight, bias)

    with replace_operations({"ops.layer_norm": make}):
        return attentional_pooler(flat, p, heads)


def kv_swapped(flat: Array, p: Params, heads: int) -> Array:
    """Pool tokens [M, W] with the projections of keys and values exchanged."""
    with replace_operations({"ops.in_projection": changes.swapped("k", "v")}):
        return attentional_pooler(flat, p, heads)


# 4. The shifted mask


def shifted_mask(written: Written, running: RunningModel) -> Verdict:
    """Check `shifted_mask`."""
    cases = [
        mask_case([[5, 6, 0, 0]], 0, "the ids 5 6 0 0, padded with 0"),
        mask_case([[5, 6, 7], [5, 1, 1]], 1, "two texts, 5 6 7 and 5 1 1, padded with 1"),
        mask_case([[5, 0, 6, 7]], 0, "the ids 5 0 6 7: the padding id as a token inside a text"),
    ]

    def make(operation: Callable[..., Array]) -> Callable[..., Array]:
        def run(ids: Array, pad_id: int, correct_cls_mask: bool) -> Array:
            return in_place_of(operation(ids, pad_id, correct_cls_mask), written, ids, pad_id)

        return run

    return running.judge(first_mistake(written, cases), {"text.attention_mask": make})


def mask_case(texts: list[list[int]], pad_id: int, says: str) -> Case:
    """Return a case of a batch of texts."""
    ids = np.array(texts)
    expected, correct = (attention_mask(ids, pad_id, correct) for correct in (False, True))
    keys, own = expected[:, :, -1:], correct[:, :, -1:]  # the last query's: all that the padding mask leaves
    causal, class_key = np.tri(ids.shape[1] + 1, dtype=bool), np.arange(ids.shape[1] + 1) == ids.shape[1]
    mistakes: Mistakes = {
        "not_shifted": lambda: correct,
        "shifted_back": lambda: causal & np.roll(own, -1, axis=-1),
        "not_causal": lambda: np.broadcast_to(keys, expected.shape),
        "anticausal": lambda: causal.T & keys,
        "causal_alone": lambda: np.broadcast_to(causal, expected.shape),
        "upside_down": lambda: ~expected,
        "additive": lambda: np.where(expected, 0, -np.inf),
        "class_visible": lambda: expected | causal & class_key,
        "queries_masked": lambda: expected & keys.swapaxes(-1, -2),
    }
    return Case(says, (ids, pad_id), expected, mistakes)
