"""Explanations with random arrays of any size, for the tests of what is drawn from them."""

from types import SimpleNamespace

import numpy as np

WORDS = ("a", "red", "ring", "")


def random_explanation(
    seed=0, words=WORDS, T=3, side=8, grid=4, layers=2, heads=2, pooler_heads=3, queries=5, **fields
):
    """The fields of an Explanation: every map sums to 1, class tokens included."""
    rng = np.random.default_rng(seed)
    L = len(words)

    def shares(*shape, axes):
        x = rng.random(shape) ** 4
        return x / x.sum(axis=axes, keepdims=True)

    tokens = shares(L, T, 1 + grid * grid, axes=(1, 2))
    arrays = {
        "frames": rng.integers(0, 256, (T, side, side, 3), np.uint8),
        "probabilities": rng.random(L),
        "likeliest": tuple(
            ((word, 0.7), ("blue", 0.1), ("star", 0.05), ("", 0.01), ("of", 0.0)) for word in words
        ),
        "maps": tokens[..., 1:].reshape(L, T, grid, grid),
        "frame_weights": tokens.sum(axis=-1),
        "pooler": shares(pooler_heads, queries, T, 1 + grid * grid, axes=(2, 3)),
        "latent": shares(pooler_heads, T, 1 + grid * grid, axes=(1, 2)),
        "cross": shares(layers, heads, L, queries, axes=3),
        "shapes": (("frames", (T, side, side, 3)), ("pool.tokens", (queries, 16)), ("logits", (L, 40))),
    }
    text = " ".join(words).strip()
    about = {
        "text": text,
        "question": None,
        "adapter": "attentional",
        "formula": "gradient",
        "times": tuple(np.arange(T) + 0.5),
    }
    return SimpleNamespace(words=words, **{**arrays, **about, **fields})
