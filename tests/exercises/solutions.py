"""A solution of each exercise, written as a learner would, from the template."""

import numpy as np

from minivideococa.model import ops


def patchify(pixels, patch_size):
    T, C, S, _ = pixels.shape
    P = patch_size
    n = S // P
    patches = []
    for i in range(n):
        for j in range(n):
            patch = pixels[:, :, i * P : (i + 1) * P, j * P : (j + 1) * P]  # [T, 3, P, P]
            patches.append(patch.reshape(T, C * P * P))
    return np.stack(patches, axis=1)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(queries, keys, values, heads, mask=None):
    def split(x):  # [..., L, E] -> [..., H, L, D]
        return np.moveaxis(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)

    q, k, v = split(queries), split(keys), split(values)
    scores = np.einsum("...ld,...md->...lm", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    out = np.moveaxis(softmax(scores) @ v, -3, -2)  # [..., L, H, D]
    return out.reshape(*out.shape[:-2], queries.shape[-1])


def pooler(tokens, p, heads):
    flat = tokens.reshape(-1, tokens.shape[-1])  # [T N, W]
    q = ops.layer_norm(p["query"], **p["ln_q"])
    context = ops.layer_norm(flat, **p["ln_k"])
    q = ops.linear(q, *ops.in_projection(p["attn"], "q"))
    k = ops.linear(context, *ops.in_projection(p["attn"], "k"))
    v = ops.linear(context, *ops.in_projection(p["attn"], "v"))
    return ops.linear(attention(q, k, v, heads), **p["attn"]["out_proj"])


def shifted_mask(ids, pad_id):
    B, L = ids.shape
    mask = np.zeros((B, 1, L + 1, L + 1), bool)
    for i in range(L + 1):
        for j in range(i + 1):
            mask[:, 0, i, j] = True if j == 0 else ids[:, j - 1] != pad_id
    return mask


def greedy(next_logits, start_id, end_id, max_length):
    ids = [start_id]
    while len(ids) < max_length and ids[-1] != end_id:
        ids.append(int(next_logits(ids).argmax()))
    return ids


def cached_attention(queries, keys, values, cache, heads):
    if cache:
        keys = np.concatenate([cache["keys"], keys], axis=-2)
        values = np.concatenate([cache["values"], values], axis=-2)
    cache["keys"], cache["values"] = keys, values
    L, M = queries.shape[-2], keys.shape[-2]
    mask = np.arange(M) <= np.arange(M - L, M)[:, None]
    return attention(queries, keys, values, heads, mask)


def log_softmax(x):
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def beam_search(next_logits, start_id, end_id, beams, max_length):
    running, finished = [([start_id], 0.0)], []
    while running:
        extended = []
        for ids, total in running:
            for token, log_p in enumerate(log_softmax(next_logits(ids))):
                extended.append(([*ids, token], total + log_p))
        extended.sort(key=lambda text: -text[1])
        running = []
        for ids, total in extended:
            if ids[-1] == end_id or len(ids) == max_length:
                finished.append((total / len(ids), ids))
            else:
                running.append((ids, total))
            if len(running) == beams or len(finished) > 10 * beams * max_length:
                break
        if len(finished) and len(extended[0][0]) == max_length:
            break
    return max(finished)[1]


def pooler_gradient(dpooled, queries, keys, values):
    scale = queries.shape[-1] ** -0.5
    weights = softmax(queries @ keys.swapaxes(1, 2) * scale)
    dvalues = weights.swapaxes(1, 2) @ dpooled
    dweights = dpooled @ values.swapaxes(1, 2)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    return scale * dscores @ keys, scale * dscores.swapaxes(1, 2) @ queries, dvalues


def sample_frames(frames, num_frames):
    usual = np.median(frames, axis=0)
    surprise = np.abs(frames - usual).mean(axis=(1, 2, 3))
    return np.argsort(surprise)[-num_frames:]
