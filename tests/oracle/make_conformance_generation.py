"""Write tests/conformance/generation: the ids that open_clip's `generate` returns for a few tiny models.

    python tests/oracle/make_conformance_generation.py

A folder is a checkpoint, with inputs.safetensors, the pixels of its videos, and calls.json: the keywords of
each call, all of them, with the ids of its text. The network runs in float64, see make_generate_golden.py.
Left out are calls with a smaller margin than `MARGIN`, whose ids rounding to float32 might change.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import make_generate_golden as golden
import numpy as np
import torch
from common import Arrays, cast, random_pixels
from generate_cases import UNUSUAL, USUAL, Model
from make_conformance import KIT, dumps, metadata, smallest
from make_golden import small
from open_clip.transform import PreprocessCfg
from safetensors.numpy import save

VIDEOS, CONTEXT = 3, 20
START, END = 14, 15  # of 16 ids
MARGIN = 1e-3
DEFAULTS = {
    "beams": 6,
    "beam_groups": 3,
    "min_length": 5,
    "max_length": CONTEXT,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
}
GREEDY = ("top_k", "min_length", "max_length", "repetition_penalty")  # the others are about beams


def model_cfg(text: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """Return the smallest form of the released architecture with a context of 20 ids."""
    longer = {"context_length": CONTEXT}
    return smallest(small(text=longer | (text or {}), decoder=longer, **top))


# Folder -> the model: its seed, configuration, start and end id, and what is added to its logits
MODELS = {
    "early_endings": Model(3, model_cfg(), START, END, 0.0, {END: 4.0}),
    "negative_logits": Model(8, model_cfg(), START, END, -7.0, {END: 2.0}),  # like log-probabilities
    "padding": Model(4, model_cfg({"pad_id": 3}, pad_id=7), START, END, 0.0, {7: 2.5, 3: 2.5, END: 2.0}),
}
# Where texts end, see `ending`: what the calls of all folders must show
ENDINGS = {
    *(f"beams {where}" for where in ("soon", "within", "limit", "never")),
    *(f"greedy {where}" for where in ("soon", "within", "limit", "padding")),
}


def pixels_of(name: str, video: int) -> np.ndarray:
    """Return the pixels [T, 3, S, S] of a video; T is 1, 2 or 3."""
    return random_pixels(video + 1, 8, 100 * list(MODELS).index(name) + video)


def calls_of(name: str) -> list[dict[str, Any]]:
    """Return the calls of a folder, each with open_clip's ids and their margin."""
    case, calls = MODELS[name], []
    theirs = golden.captioner(case.model_cfg, cast(golden.weights_of(case), "float64"))
    for video in range(VIDEOS):
        encoded = golden.encode(theirs, pixels_of(name, video))
        for how in [*USUAL, *UNUSUAL]:
            options = DEFAULTS | how
            if "top_k" in how:
                options = {key: value for key, value in options.items() if key in GREEDY}
            margin = golden.margin(theirs, encoded, START, END, **options)
            if margin > MARGIN:
                (ids,) = golden.generate(theirs, encoded, START, END, **options)
                calls.append({"video": video, "options": options, "ids": ids.tolist(), "margin": margin})
    return calls


def ending(name: str, call: dict[str, Any]) -> str:
    """Return how a call decodes and where its text ends, see `make_generate_golden.ending`."""
    ids, longest = call["ids"], call["options"]["max_length"]
    strategy = "greedy" if "top_k" in call["options"] else "beams"
    if ids[-1] != MODELS[name].end_id:
        return f"{strategy} {'padding' if len(ids) < longest else 'never'}"
    return f"{strategy} {'limit' if len(ids) == longest else 'soon' if len(ids) <= 6 else 'within'}"


def make(name: str) -> tuple[dict[str, Any], Arrays, Arrays, dict[str, Any]]:
    """Return the configuration, the weights, the pixels and the content of calls.json of a folder."""
    case = MODELS[name]
    config = {"model_cfg": case.model_cfg, "preprocess_cfg": asdict(PreprocessCfg(size=8))}
    pixels = {f"pixels.{i}": pixels_of(name, i) for i in range(VIDEOS)}
    calls = {"start_id": case.start_id, "end_id": case.end_id, "calls": calls_of(name)}
    return config, golden.weights_of(case), pixels, calls


def main() -> None:
    torch.set_num_threads(1)
    seen = set()
    for name in MODELS:
        config, weights, pixels, calls = make(name)
        seen |= {ending(name, call) for call in calls["calls"]}
        folder = KIT / "generation" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "model.safetensors").write_bytes(save(weights))
        (folder / "inputs.safetensors").write_bytes(dumps(pixels, metadata(config)))
        rows = ",\n".join(json.dumps(call) for call in calls["calls"])
        head = f'{{"start_id": {calls["start_id"]}, "end_id": {calls["end_id"]}, "calls": ['
        (folder / "calls.json").write_text(f"{head}\n{rows}\n]}}\n")
    assert seen == ENDINGS, seen ^ ENDINGS


if __name__ == "__main__":
    main()
