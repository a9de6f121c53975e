"""The calls of `generate` in tests/golden/generate.json: small models, their videos, the keywords."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

MODELS, VIDEOS = 54, 4  # VIDEOS of each model
POOLERS = [True, True, "parallel", "cascade"]
PAD_IDS = [(0, 0), (0, 0), (3, 0), (0, 3), (3, 7)]  # of generation, and of the mask

# Every pair of a model and a video is run with these two ...
USUAL: list[dict[str, Any]] = [{"top_k": 1}, {}]
# ... and each of these with some pairs.
UNUSUAL: list[dict[str, Any]] = [
    {"beams": 2, "beam_groups": 1},
    {"beams": 4, "beam_groups": 2},
    {"beams": 6, "beam_groups": 1},
    {"beams": 6, "beam_groups": 2},
    {"beams": 3, "beam_groups": 3},
    {"min_length": 0},
    {"min_length": 12},
    {"min_length": 12, "top_k": 1},
    {"repetition_penalty": 1.6},
    {"repetition_penalty": 1.6, "top_k": 1},
    {"repetition_penalty": 0.8},
    {"repetition_penalty": 0.8, "top_k": 1},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0},
    {"length_penalty": -1.0},
    {"diversity_penalty": 0.5},
    {"diversity_penalty": 4.0},
    {"diversity_penalty": 1.5, "beam_groups": 2},
    {"diversity_penalty": 1.5, "beams": 4, "beam_groups": 4},
    {"diversity_penalty": 1.5, "min_length": 0, "length_penalty": 0.5, "beams": 8, "beam_groups": 2},
]
PAIRS_FOR_AN_UNUSUAL = 6


class Model(NamedTuple):
    """A small model: its weights are common.random_weights of this seed, then `shift_logits`."""

    seed: int
    model_cfg: dict[str, Any]
    start_id: int
    end_id: int
    shift: float  # added to all logits ...
    raised: dict[int, float]  # ... and to the logits of single ids


class Run(NamedTuple):
    """One call of `generate`: the index in `models`, the index of the video, and our keywords."""

    model: int
    video: int
    how: dict[str, Any]


@cache
def models() -> list[Model]:
    """Return all models.

    Half of them are made to end early, a third to generate the id that the mask takes for padding. A third
    has negative logits, so that their sum decreases with each id, as with log-probabilities.
    """
    return [_model(seed) for seed in range(MODELS)]


def _model(seed: int) -> Model:
    rng = np.random.RandomState(seed)

    def choice(choices: list) -> Any:
        return choices[rng.randint(len(choices))]

    pooler, (pad_id, masked_id) = POOLERS[seed % 4], PAD_IDS[seed % 5]
    width, vocabulary, ends_early = choice([16, 24, 32]), rng.randint(20, 301), seed // 2 % 2 == 1
    both = {"context_length": 6 + seed * 11 % 35, "vocab_size": vocabulary, "width": width}
    model_cfg = {
        "embed_dim": width,
        "quick_gelu": seed % 3 == 0,
        "pad_id": pad_id,
        "vision_cfg": {
            "image_size": 12,
            "patch_size": 4,
            "layers": 1,
            "head_width": 8,
            "width": 16 if pooler is True else width,
            "attentional_pool": pooler,
            "attn_pooler_queries": rng.randint(3, 9),
            "attn_pooler_heads": choice([1, 2, 4]),
        },
        "text_cfg": both
        | {
            "heads": choice([1, 2, 4]),
            "layers": rng.randint(1, 3),
            "pad_id": masked_id,
            "embed_cls": True,
            "correct_cls_mask": seed % 7 == 0,
        },
        "multimodal_cfg": both | {"heads": choice([1, 2, 4]), "layers": rng.randint(1, 3)},
    }
    start_id, end_id = vocabulary - 2, vocabulary - 1  # CLIP's
    if seed % 6 == 0:
        start_id, end_id = (8 + rng.permutation(vocabulary - 8)[:2]).tolist()
    raised = {end_id: rng.uniform(2.5, 5.5)} if ends_early else {}
    if seed % 3 == 1:
        raised[masked_id] = rng.uniform(1, 3)
    return Model(seed, model_cfg, start_id, end_id, choice([0.0, 0.0, -7.0]), raised)


def shift_logits(weights: dict[str, np.ndarray], model: Model) -> None:
    """Add a constant to a model's logits, whatever the text and the video. Changes the weights in place.

    The first feature before the vocabulary projection becomes 1 for every token; its weights then are a bias.
    """
    weights["text_decoder.ln_final.weight"][0] = 0
    weights["text_decoder.ln_final.bias"][0] = 1
    bias = weights["text_decoder.text_projection"][0]
    bias += np.float32(model.shift)
    for token, by in model.raised.items():
        bias[token] += np.float32(by)


def video(model: int, index: int) -> tuple[int, int]:
    """Return the number of frames and the seed of a video's pixels (see common.random_pixels)."""
    return (model + 3 * index) % 8 + 1, MODELS + VIDEOS * model + index


def runs() -> list[Run]:
    """Return all calls. The first video of a model gets the full length, the others a shorter one."""
    cases = models()
    lengths = [model.model_cfg["text_cfg"]["context_length"] for model in cases]
    calls = [
        Run(i, j, how | {"max_length": longest if j == 0 else 6 + (7 * i + 13 * j) % (longest - 5)})
        for i, longest in enumerate(lengths)
        for j in range(VIDEOS)
        for how in USUAL
    ]
    long = [i for i, longest in enumerate(lengths) if longest > 13]
    for k, how in enumerate(UNUSUAL):
        about_ends = not how.keys().isdisjoint({"min_length", "length_penalty"})
        fit = [i for i in long if not about_ends or cases[i].end_id in cases[i].raised]
        chosen = [fit[(5 * k + 3 * n) % len(fit)] for n in range(PAIRS_FOR_AN_UNUSUAL)]
        calls += [Run(i, 0, how | {"max_length": lengths[i]}) for i in chosen]
    return calls
