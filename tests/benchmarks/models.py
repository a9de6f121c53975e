"""The model that all competitors load: CoCa in a released shape, float32, with random weights from a seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

CHECKPOINT = "checkpoint"  # within the folder that a model's files are made in


def make(folder: str, model: str) -> Callable[[], None]:
    """FOLDER/checkpoint of `model`, "L-14" or "B-32". For a child process: it needs memory for two models."""
    import open_clip
    from common import random_weights

    from minivideococa.checkpoint.config import parse_config
    from minivideococa.checkpoint.folder import write_checkpoint
    from minivideococa.checkpoint.table import parameter_shapes
    from minivideococa.media.tokenizer import clip_tokenizer_json

    config = parse_config({"model_cfg": open_clip.get_model_config(f"coca_ViT-{model}")})
    weights = random_weights(parameter_shapes(config), seed=0)

    def run() -> None:
        write_checkpoint(Path(folder) / CHECKPOINT, config, weights, clip_tokenizer_json())

    return run


def threads() -> int:
    """As many as `race.environment` has set for this process."""
    return int(os.environ["OMP_NUM_THREADS"])


def model_config(folder: str | Path):
    """The `minivideococa.checkpoint.config.Config` of the checkpoint."""
    from minivideococa.checkpoint.config import parse_config

    return parse_config(json.loads((Path(folder) / CHECKPOINT / "config.json").read_text()))


def load_minivideococa(folder: str):
    """Ours."""
    import minivideococa

    return minivideococa.load(Path(folder) / CHECKPOINT)


def load_open_clip(folder: str, model: str):
    """open_clip's own model, in evaluation mode."""
    import open_clip
    import reference
    import torch
    from safetensors.numpy import load_file

    torch.set_num_threads(threads())
    return reference.load(
        open_clip.create_model(f"coca_ViT-{model}").eval(),
        load_file(Path(folder) / CHECKPOINT / "model.safetensors"),
    )


def pixels(folder: str, frames: int) -> np.ndarray:
    """Random pixels float32 [T, 3, S, S], the same for all."""
    from common import random_pixels

    return random_pixels(frames, model_config(folder).vision.image_size, seed=0)
