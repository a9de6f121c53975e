"""Write tests/golden/trace_*.npz: small VideoCoCa models with random weights, run by open_clip in float64.

    python tests/oracle/make_golden.py

A file holds the configuration, the seed of the weights (see common.random_weights) and their checksum, the
inputs, the greedy caption, and every intermediate under its name in a trace.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import reference
from common import Arrays, cast, checksum, random_pixels, random_weights

GOLDEN = Path(__file__).parents[1] / "golden"
START, END = 38, 39  # of 40 ids, as the last two are CLIP's
TEXT = [START, 5, 9, 21, 11, END, 0, 0, 0]


def small(
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """Return a small model_cfg with the given fields changed."""
    both = {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2}
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 20,
            "patch_size": 5,
            "width": 24,
            "layers": 2,
            "head_width": 8,
            "attentional_pool": True,
            "attn_pooler_queries": 6,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        }
        | (vision or {}),
        "text_cfg": both | {"embed_cls": True, "output_tokens": True} | (text or {}),
        "multimodal_cfg": both | (decoder or {}),
    } | top


# name -> the configuration, T, the ids of the text, and keywords of the greedy caption that differ
CASES: dict[str, tuple[dict[str, Any], int, list[int], dict[str, int]]] = {
    "as_released": (small(), 3, TEXT, {}),
    "one_frame": (small(), 1, TEXT, {}),
    "same_width": (small({"width": 16}), 3, TEXT, {}),
    "parallel": (small({"width": 16, "attentional_pool": "parallel"}), 3, TEXT, {}),
    "cascade": (small({"width": 16, "attentional_pool": "cascade"}), 3, TEXT, {}),
    "quick_gelu": (small(quick_gelu=True), 2, TEXT, {"end_id": 18, "min_length": 1}),
    "odd_sizes": (
        small(
            {"image_size": 17, "width": 15, "head_width": 5, "attn_pooler_queries": 7},
            {"layers": 1},
            {"layers": 3, "context_length": 15},
        ),
        5,
        TEXT,
        {"end_id": 18},
    ),
    "unpadded": (small(), 1, [START, 5, 9, 21, END], {"end_id": 17}),
    "exclamation": (small(), 1, [START, 0, 9, 0, 0, 11, END, 0, 0, 0], {}),
    "pad_ids": (small(text={"pad_id": 7}, pad_id=3), 1, [START, 3, 7, 21, 0, END, 7, 7], {}),
    "correct_cls_mask": (small(text={"correct_cls_mask": True}), 1, TEXT, {}),
    "no_ln_pre": (small({"no_ln_pre": True}), 2, TEXT, {}),
    "mlp_ratio": (small({"mlp_ratio": 2.7}, {"mlp_ratio": 1.5}), 2, TEXT, {}),
    "heads": (
        small({"width": 27, "head_width": 8, "attn_pooler_heads": 8}, {"heads": 1}, {"heads": 4}),
        2,
        TEXT,
        {},
    ),
    "logit_scale_1": (small(nonscalar_logit_scale=True), 1, TEXT, {"end_id": 9}),
}


def make(name: str) -> Arrays:
    """Return the content of the golden file of a case."""
    model_cfg, frames, ids, options = CASES[name]
    seed = list(CASES).index(name)
    weights = random_weights(reference.shapes(model_cfg), seed)
    model = reference.load(reference.video_coca(model_cfg), cast(weights, "float64"))
    pixels = random_pixels(frames, model_cfg["vision_cfg"]["image_size"], seed)
    generate = {"start_id": START, "end_id": END, "min_length": 5, "max_length": 12} | options
    return {
        "config": np.array(json.dumps(model_cfg)),
        "seed": np.array(seed),
        "weights_crc32": np.array(checksum(weights)),
        "pixels": pixels,
        "generate": np.array(json.dumps(generate)),
        "greedy": reference.greedy(model, pixels, **generate),
        "logit_scale": model.logit_scale.detach().exp().numpy(),
    } | {f"trace/{name}": x for name, x in reference.trace(model, pixels, np.array([ids])).items()}


def main() -> None:
    for name in CASES:
        np.savez_compressed(GOLDEN / f"trace_{name}.npz", **make(name))


if __name__ == "__main__":
    main()
