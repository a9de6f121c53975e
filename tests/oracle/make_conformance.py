"""Write tests/conformance: small VideoCoCa models from frames to logits, computed by open_clip in float64.

    python tests/oracle/make_conformance.py

A model's folder is a checkpoint (with the weights of the golden file of the same name, if there is one) and
truth.safetensors: the inputs and every intermediate under its name in a trace. `smallest` holds the same
models with the sizes of `SIZES`. tests/conformance/README.md says how to use them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import reference
import torch
from common import Arrays, cast, random_weights
from make_golden import CASES
from open_clip.transform import PreprocessCfg
from safetensors.numpy import save

KIT = Path(__file__).parents[1] / "conformance"
NAMES = (
    "as_released",
    "one_frame",
    "same_width",
    "parallel",
    "cascade",
    "quick_gelu",
    "odd_sizes",
    "unpadded",
    "pad_ids",
    "correct_cls_mask",
    "no_ln_pre",
    "factorized",
)
FOLDERS = [*NAMES, *(f"smallest/{name}" for name in NAMES)]
# Of folders that have no golden file: the case whose model and inputs they have, and their video_cfg
VIDEO_CFGS = {
    "factorized": (
        "as_released",
        {"adapter": "factorized", "factorized": {"layers": 2, "heads": 8, "positions": 5}},
    )
}
# Numbers of heads that differ from those of the golden file, whose weights are kept, so that each part of the
# model has its own. None: the key is left out, and open_clip's default counts, 8.
HEADS = {"odd_sizes": {"vision_cfg": {"attn_pooler_heads": None}, "multimodal_cfg": {"heads": 4}}}
# The sizes of a model and of its smallest form. Two layers, two heads and two patches a side are kept: with
# one, a wrong order or number of them would change nothing.
SIZES = {
    "image_size": {20: 8, 17: 9},
    "patch_size": {5: 4},
    "width": {24: 12, 16: 8, 15: 9},
    "head_width": {8: 4, 5: 3},
    "embed_dim": {16: 8},
    "attn_pooler_queries": {6: 4, 7: 5},
    "attn_pooler_heads": {4: 2},
    "heads": {8: 4},
    "layers": {3: 2},
    "vocab_size": {40: 16},
}


def smallest(value: Any, name: str = "") -> Any:
    """Return a model_cfg in its smallest form, or one of its values."""
    if isinstance(value, dict):
        return {key: smallest(child, key) for key, child in value.items()}
    return SIZES.get(name, {}).get(value, value)


def smallest_id(token: int) -> int:
    """Return an id in a vocabulary of 16: the last two stay the last two."""
    return token - 24 if token >= 38 else token % 14


def changed(model_cfg: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a model_cfg with the given fields of its parts changed, or left out if None."""
    return model_cfg | {
        part: {key: value for key, value in (model_cfg[part] | fields).items() if value is not None}
        for part, fields in changes.items()
    }


def make(folder: str) -> tuple[dict[str, Any], Arrays, Arrays]:
    """Return the configuration, the weights and the tensors of a folder, such as smallest/cascade."""
    *form, name = folder.split("/")
    case, video_cfg = VIDEO_CFGS.get(name, (name, None))
    model_cfg, T, ids, _ = CASES[case]
    model_cfg = changed(model_cfg, HEADS.get(name, {}))
    if form:
        model_cfg, video_cfg = smallest(model_cfg), smallest(video_cfg)
        ids = [smallest_id(token) for token in ids]
    seed, S = list(CASES).index(case), model_cfg["vision_cfg"]["image_size"]
    config = {"model_cfg": model_cfg, "preprocess_cfg": asdict(PreprocessCfg(size=S))}
    config |= {"video_cfg": video_cfg} if video_cfg else {}
    weights = random_weights(reference.shapes(model_cfg, video_cfg), seed)
    model = reference.load(reference.video_coca(model_cfg, video_cfg), cast(weights, "float64"))
    frames = np.random.RandomState(seed).randint(0, 256, (T, S, S, 3), np.uint8)
    pixels = reference.preprocess(frames, config)
    truth = {"frames": frames, "pixels": pixels} | reference.trace(model, pixels, np.array([ids]))
    return config, weights, truth


def metadata(config: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of truth.safetensors."""
    version = torch.__version__.split("+")[0]  # without the build, such as +cpu
    return {
        "config": json.dumps(config),
        "made_by": f"open_clip {open_clip.__version__}, torch {version}, float64",
    }


def dumps(tensors: Arrays, about: dict[str, str]) -> bytes:
    """Return a safetensors file with the same bytes every time; the library writes metadata in any order."""
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    data = save(contiguous, about)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = about
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def main() -> None:
    torch.set_num_threads(1)  # the last bits depend on how sums are split
    for name in FOLDERS:
        config, weights, truth = make(name)
        folder = KIT / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "model.safetensors").write_bytes(save(weights))
        (folder / "truth.safetensors").write_bytes(dumps(truth, metadata(config)))


if __name__ == "__main__":
    main()
