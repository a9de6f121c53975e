"""Wrong solutions of the exercises, as learners write them: each is a common mistake that `check` must name.

WRONG: exercise -> name of the mistake in `HINTS` -> the functions that make it.
"""

import numpy as np
import solutions
from solutions import attention, log_softmax, softmax

from minivideococa.model import ops

WRONG = {}


def mistake(exercise, name):
    def add(function):
        WRONG.setdefault(exercise, {}).setdefault(name, []).append(function)
        return function

    return add


# patchify


def cut(pixels, P, axes, rows="top"):
    T, C, S, _ = pixels.shape
    n = S // P
    x = pixels[:, :, : n * P, : n * P] if rows == "top" else pixels[:, :, S - n * P :, S - n * P :]
    return x.reshape(T, C, n, P, n, P).transpose(axes).reshape(T, n * n, C * P * P)


@mistake("patchify", "reshaped_alone")
def patches_by_reshape(pixels, patch_size):
    n = pixels.shape[2] // patch_size
    whole = pixels[:, :, : n * patch_size, : n * patch_size]
    return whole.reshape(len(pixels), n * n, -1)


for name, axes in {
    "channels_last": (0, 2, 4, 3, 5, 1),
    "by_column": (0, 4, 2, 1, 3, 5),
    "patch_turned": (0, 2, 4, 1, 5, 3),
    "all_turned": (0, 4, 2, 1, 5, 3),
    "wrong_axes": (0, 2, 3, 1, 4, 5),
}.items():
    mistake("patchify", name)(lambda pixels, patch_size, axes=axes: cut(pixels, patch_size, axes))


@mistake("patchify", "wrong_border")
def patches_from_the_end(pixels, patch_size):
    return cut(pixels, patch_size, (0, 2, 4, 1, 3, 5), "bottom")


@mistake("patchify", "not_cropped")
def patches_without_a_crop(pixels, patch_size):
    T, C, S, _ = pixels.shape
    P, n = patch_size, S // patch_size
    x = pixels.reshape(T, C, n, P, n, P).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(T, n * n, C * P * P)


@mistake("patchify", "not_cropped")
def patches_in_a_loop_to_the_end(pixels, patch_size):
    P, starts = patch_size, range(0, pixels.shape[-1], patch_size)
    patches = [pixels[..., i : i + P, j : j + P].reshape(len(pixels), -1) for i in starts for j in starts]
    return np.stack(patches, axis=1)


@mistake("patchify", "not_cropped")
def padded_patches(pixels, patch_size):
    extra = -pixels.shape[-1] % patch_size
    padded = np.pad(pixels, [(0, 0), (0, 0), (0, extra), (0, extra)])
    return cut(padded, patch_size, (0, 2, 4, 1, 3, 5))


# attention


def heads_of(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)


def joined(x):
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)


def attend(q, k, v, mask, scale, weights=softmax):
    scores = q @ k.swapaxes(-1, -2) * scale
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return weights(scores) @ v


def with_scale(scale):
    def attention(queries, keys, values, heads, mask=None):
        q, k, v = (heads_of(x, heads) for x in (queries, keys, values))
        return joined(attend(q, k, v, mask, scale(queries.shape[-1], heads)))

    return attention


mistake("attention", "not_scaled")(with_scale(lambda E, heads: 1))
mistake("attention", "scaled_by_width")(with_scale(lambda E, heads: E**-0.5))
mistake("attention", "scaled_by_square")(with_scale(lambda E, heads: heads / E))


@mistake("attention", "one_head")
def attention_of_one_head(queries, keys, values, heads, mask=None):
    return attend(queries, keys, values, mask, queries.shape[-1] ** -0.5)


@mistake("attention", "over_queries")
def attention_over_queries(queries, keys, values, heads, mask=None):
    q, k, v = (heads_of(x, heads) for x in (queries, keys, values))

    def weights(x):
        e = np.exp(x - x.max(axis=-2, keepdims=True))
        return e / e.sum(axis=-2, keepdims=True)

    return joined(attend(q, k, v, mask, q.shape[-1] ** -0.5, weights))


@mistake("attention", "interleaved")
def attention_with_interleaved_heads(queries, keys, values, heads, mask=None):
    def split(x):
        return np.moveaxis(x.reshape(*x.shape[:-1], -1, heads), -1, -3)

    out = attend(*map(split, (queries, keys, values)), mask, (queries.shape[-1] // heads) ** -0.5)
    out = np.moveaxis(out, -3, -1)
    return out.reshape(*out.shape[:-2], -1)


@mistake("attention", "merged_unmoved")
def attention_merged_by_reshape(queries, keys, values, heads, mask=None):
    q, k, v = (heads_of(x, heads) for x in (queries, keys, values))
    out = attend(q, k, v, mask, q.shape[-1] ** -0.5)
    return out.reshape(*out.shape[:-3], -1, queries.shape[-1])


@mistake("attention", "heads_unmoved")
def attention_split_by_reshape(queries, keys, values, heads, mask=None):
    def split(x):
        return x.reshape(*x.shape[:-2], heads, x.shape[-2], -1)

    out = attend(*map(split, (queries, keys, values)), mask, (queries.shape[-1] // heads) ** -0.5)
    return out.reshape(*out.shape[:-3], out.shape[-2], -1)


@mistake("attention", "mask_ignored")
def attention_without_mask(queries, keys, values, heads, mask=None):
    return attention(queries, keys, values, heads)


@mistake("attention", "mask_inverted")
def attention_with_inverted_mask(queries, keys, values, heads, mask=None):
    return attention(queries, keys, values, heads, None if mask is None else ~mask)


@mistake("attention", "masked_with_zero")
def attention_masked_with_zero(queries, keys, values, heads, mask=None):
    q, k, v = (heads_of(x, heads) for x in (queries, keys, values))
    times = 1 if mask is None else mask
    return joined(attend(q, k, v, None, q.shape[-1] ** -0.5, lambda x: softmax(x * times)))


@mistake("attention", "masked_late")
def attention_masked_late(queries, keys, values, heads, mask=None):
    q, k, v = (heads_of(x, heads) for x in (queries, keys, values))
    times = 1 if mask is None else mask
    return joined(attend(q, k, v, None, q.shape[-1] ** -0.5, lambda x: softmax(x) * times))


# the pooler


def pool(tokens, p, heads, *, normed="qk", projected="qkv", out=True, attend=attention):
    q = ops.layer_norm(p["query"], **p["ln_q"]) if "q" in normed else p["query"]
    context = ops.layer_norm(tokens, **p["ln_k"]) if "k" in normed else tokens
    q, k, v = (
        ops.linear(x, *ops.in_projection(p["attn"], name))
        for x, name in zip((q, context, context), projected)
    )
    pooled = attend(q, k, v, heads)
    return ops.linear(pooled, **p["attn"]["out_proj"]) if out else pooled


def turned(p, *names):
    return {name: {"weight": p[name]["bias"], "bias": p[name]["weight"]} for name in names}


def flat(tokens):
    return tokens.reshape(-1, tokens.shape[-1])


for name, function in {
    "mean_pooling": lambda tokens, p, heads: np.mean([pool(frame, p, heads) for frame in tokens], axis=0),
    "tokens_averaged": lambda tokens, p, heads: pool(tokens.mean(axis=0), p, heads),
    "not_flattened": lambda tokens, p, heads: pool(tokens, p, heads),
    "first_frame": lambda tokens, p, heads: pool(tokens[0], p, heads),
    "no_class_tokens": lambda tokens, p, heads: pool(flat(tokens[:, 1:]), p, heads),
    "class_tokens_alone": lambda tokens, p, heads: pool(tokens[:, 0], p, heads),
    "no_ln_q": lambda tokens, p, heads: pool(flat(tokens), p, heads, normed="k"),
    "no_ln_k": lambda tokens, p, heads: pool(flat(tokens), p, heads, normed="q"),
    "no_norms": lambda tokens, p, heads: pool(flat(tokens), p, heads, normed=""),
    "ln_q_turned": lambda tokens, p, heads: pool(flat(tokens), p | turned(p, "ln_q"), heads),
    "ln_k_turned": lambda tokens, p, heads: pool(flat(tokens), p | turned(p, "ln_k"), heads),
    "kv_swapped": lambda tokens, p, heads: pool(flat(tokens), p, heads, projected="qvk"),
    "no_out_proj": lambda tokens, p, heads: pool(flat(tokens), p, heads, out=False),
    "residual": lambda tokens, p, heads: p["query"] + pool(flat(tokens), p, heads),
    "pooler_one_head": lambda tokens, p, heads: pool(flat(tokens), p, 1),
}.items():
    mistake("pooler", name)(function)


@mistake("pooler", "ln_k_turned")
def pooler_with_both_norms_turned(tokens, p, heads):
    return pool(flat(tokens), p | turned(p, "ln_q", "ln_k"), heads)


# the shifted mask


def masks(ids, pad_id):
    """The causal mask [L + 1, L + 1], and which keys the padding leaves, [B, 1, 1, L + 1]."""
    always = np.ones((len(ids), 1), bool)
    keys = np.concatenate([always, ids != pad_id], axis=1)[:, None, None]
    return np.tri(ids.shape[1] + 1, dtype=bool), keys


@mistake("shifted_mask", "not_shifted")
def mask_of_padding_itself(ids, pad_id):
    causal, _ = masks(ids, pad_id)
    always = np.ones((len(ids), 1), bool)
    return causal & np.concatenate([ids != pad_id, always], axis=1)[:, None, None]


@mistake("shifted_mask", "shifted_back")
def mask_shifted_the_other_way(ids, pad_id):
    causal, _ = masks(ids, pad_id)
    always = np.ones((len(ids), 2), bool)
    return causal & np.concatenate([ids[:, 1:] != pad_id, always], axis=1)[:, None, None]


@mistake("shifted_mask", "not_causal")
def mask_of_keys_alone(ids, pad_id):
    causal, keys = masks(ids, pad_id)
    return np.repeat(keys, len(causal), axis=2)


@mistake("shifted_mask", "anticausal")
def mask_of_the_future(ids, pad_id):
    causal, keys = masks(ids, pad_id)
    return np.triu(np.ones_like(causal)) & keys


@mistake("shifted_mask", "causal_alone")
def mask_without_padding(ids, pad_id):
    causal, _ = masks(ids, pad_id)
    return np.stack([causal[None]] * len(ids))


@mistake("shifted_mask", "upside_down")
def mask_of_what_is_hidden(ids, pad_id):
    return ~solutions.shifted_mask(ids, pad_id)


@mistake("shifted_mask", "additive")
def mask_to_add(ids, pad_id):
    return np.where(solutions.shifted_mask(ids, pad_id), 0.0, -np.inf)


@mistake("shifted_mask", "class_visible")
def mask_with_a_visible_class_token(ids, pad_id):
    mask = solutions.shifted_mask(ids, pad_id)
    mask[..., -1, -1] = True
    return mask


@mistake("shifted_mask", "queries_masked")
def mask_of_keys_and_queries(ids, pad_id):
    causal, keys = masks(ids, pad_id)
    return causal & keys & keys.swapaxes(-1, -2)


# greedy decoding


@mistake("greedy", "no_start")
@mistake("beam_search", "greedy_text")
def greedy_in_any_case(next_logits, start_id, end_id, *lengths):
    ids = solutions.greedy(next_logits, start_id, end_id, lengths[-1])
    return ids if len(lengths) > 1 else ids[1:]


@mistake("greedy", "no_end")
def greedy_without_end(next_logits, start_id, end_id, max_length):
    ids = [start_id]
    while len(ids) < max_length:
        token = next_logits(ids).argmax()
        if token == end_id:
            break
        ids.append(token)
    return ids


@mistake("greedy", "never_ends")
def greedy_without_an_end(next_logits, start_id, end_id, max_length):
    ids = [start_id]
    for _ in range(max_length - 1):
        ids.append(next_logits(ids).argmax())
    return ids


@mistake("greedy", "one_too_few")
def greedy_one_too_few(next_logits, start_id, end_id, max_length):
    return solutions.greedy(next_logits, start_id, end_id, max_length - 1)


@mistake("greedy", "least_likely")
def greedy_of_the_least(next_logits, start_id, end_id, max_length):
    return solutions.greedy(lambda ids: -next_logits(ids), start_id, end_id, max_length)


@mistake("greedy", "last_id_alone")
def greedy_without_memory(next_logits, start_id, end_id, max_length):
    return solutions.greedy(lambda ids: next_logits(ids[-1:]), start_id, end_id, max_length)


@mistake("greedy", "first_chosen_again")
def greedy_from_the_start_each_time(next_logits, start_id, end_id, max_length):
    return solutions.greedy(lambda ids: next_logits([start_id]), start_id, end_id, max_length)


# the cache


def cached(keep, mask=lambda L, M: np.tri(L, M, M - L, dtype=bool)):
    def cached_attention(queries, keys, values, cache, heads):
        all_keys, all_values = keep(cache, keys, values)
        return attention(queries, all_keys, all_values, heads, mask(queries.shape[-2], all_keys.shape[-2]))

    return cached_attention


def appended(cache, *new):
    old = cache.get("kv") or tuple(x[..., :0, :] for x in new)
    return tuple(np.concatenate([a, b], axis=-2) for a, b in zip(old, new))


def kept(cache, *new):
    cache["kv"] = appended(cache, *new)
    return cache["kv"]


def replaced(cache, *new):
    result = appended(cache, *new)
    cache["kv"] = new
    return result


def prepended(cache, *new):
    old = cache.get("kv") or tuple(x[..., :0, :] for x in new)
    cache["kv"] = tuple(np.concatenate([b, a], axis=-2) for a, b in zip(old, new))
    return cache["kv"]


mistake("cached_attention", "nothing_kept")(cached(appended))
mistake("cached_attention", "last_call_kept")(cached(replaced))
mistake("cached_attention", "new_first")(cached(prepended))
mistake("cached_attention", "cache_not_causal")(cached(kept, lambda L, M: None))
mistake("cached_attention", "mask_without_offset")(cached(kept, lambda L, M: np.tri(L, M, dtype=bool)))


@mistake("cached_attention", "cached_heads")
def cached_attention_of_one_head(queries, keys, values, cache, heads):
    return solutions.cached_attention(queries, keys, values, cache, 1)


# beam search


def search(next_logits, start_id, end_id, beams, max_length, scores=log_softmax, power=1, first=False):
    running, finished = [([start_id], 0.0)], []
    while running:
        extended = [
            ([*ids, token], total + score)
            for ids, total in running
            for token, score in enumerate(scores(next_logits(ids)))
        ]
        extended.sort(key=lambda text: -text[1])
        ends = [ids[-1] == end_id or len(ids) == max_length for ids, _ in extended]
        finished += [text for text, end in zip(extended[:beams], ends) if end]
        running = [text for text, end in zip(extended, ends) if not end][:beams]
        if first and finished:
            break
    return max(finished, key=lambda text: text[1] / len(text[0]) ** power)[0]


for name, options in {
    "sum_alone": {"power": 0},
    "raw_logits": {"scores": lambda logits: logits},
    "probabilities": {"scores": softmax},
    "lower_score": {"first": True},
}.items():
    mistake("beam_search", name)(lambda *args, options=options: search(*args, **options))


@mistake("beam_search", "no_start")
def search_without_start(*args):
    return solutions.beam_search(*args)[1:]


@mistake("beam_search", "no_end")
def search_without_end(*args):
    return solutions.beam_search(*args)[:-1]


# the pooler's gradient


def gradient(dpooled, queries, keys, values, scale=0.5, axis=-1, sign=1, mean=True):
    """scale: of the gradients, for D = 4."""
    weights = softmax(queries @ keys.swapaxes(1, 2) / np.sqrt(queries.shape[-1]))
    dweights = dpooled @ values.swapaxes(1, 2)
    dscores = weights * (dweights - mean * (weights * dweights).sum(axis=axis, keepdims=True))
    dqueries, dkeys = dscores @ keys, dscores.swapaxes(1, 2) @ queries
    return sign * scale * dqueries, sign * scale * dkeys, weights.swapaxes(1, 2) @ dpooled


for name, options in {
    "gradient_not_scaled": {"scale": 1},
    "gradient_scaled_twice": {"scale": 0.25},
    "mean_over_queries": {"axis": -2},
    "no_mean": {"mean": False},
    "negative": {"sign": -1},
}.items():
    mistake("pooler_gradient", name)(lambda *args, options=options: gradient(*args, **options))


@mistake("pooler_gradient", "other_order")
def gradient_in_another_order(*args):
    dqueries, dkeys, dvalues = solutions.pooler_gradient(*args)
    return dvalues, dqueries, dkeys


# frame sampling


@mistake("sample_frames", "uniform")
def uniform_frames(frames, num_frames):
    return [int((t + 0.5) * len(frames) / num_frames) for t in range(num_frames)]


@mistake("sample_frames", "empty_after")
def random_frames(frames, num_frames):
    return np.random.default_rng(0).choice(len(frames), num_frames, replace=False)


@mistake("sample_frames", "empty_after")
def middle_frames(frames, num_frames):
    return [10, 21]


@mistake("sample_frames", "empty_after")
def frames_after_the_object(frames, num_frames):
    change = np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    last = np.flatnonzero(change > change.max() / 2)[-1] + 1
    return [last, min(last + 1, len(frames) - 1)]


@mistake("sample_frames", "same_frame")
def one_frame_twice(frames, num_frames):
    return [len(frames) // 2] * num_frames
