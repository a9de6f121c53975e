"""The model of all competitors: CoCa in a released shape, float32, with random weights from a seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from race import Racer

CHECKPOINT = "checkpoint"  # in the folder of a model's files


def cached_checkpoint(folder: Path, model: str) -> Path:
    """Return the checkpoint of `model`, "L-14" or "B-32", in `folder`; write it there if it is missing."""
    checkpoint = folder / model / CHECKPOINT
    if not checkpoint.exists():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with Racer("models.make", str(checkpoint), model, threads=1) as make:
            make()
    return checkpoint


def make(checkpoint: str, model: str) -> Callable[[], None]:
    """Return a function that writes the checkpoint, with memory for two models."""
    from common import random_weights

    from minivideococa.checkpoint.folder import write_checkpoint
    from minivideococa.checkpoint.released import named_config
    from minivideococa.checkpoint.table import parameter_shapes
    from minivideococa.media.tokenizer import clip_tokenizer_json

    config = named_config(f"coca_ViT-{model}")
    weights = random_weights(parameter_shapes(config), seed=0)

    def run() -> None:
        write_checkpoint(Path(checkpoint), config, weights, clip_tokenizer_json())

    return run


def tune() -> None:
    """Tune the memory allocator, as the command line does. Versions before 0.2 do so by themselves."""
    try:
        from minivideococa.model.kernels import keep_freed_memory
    except ImportError:
        return
    keep_freed_memory()


def threads() -> int:
    """Return the number of threads that `race.environment` has set for this process."""
    return int(os.environ["OMP_NUM_THREADS"])


def model_config(folder: str | Path):
    """Return the configuration of the checkpoint."""
    from minivideococa.checkpoint.config import parse_config

    return parse_config(json.loads((Path(folder) / CHECKPOINT / "config.json").read_text()))


def load_minivideococa(folder: str):
    """Return our model, in a process that is tuned as the command line's."""
    import minivideococa

    tune()
    return minivideococa.load(Path(folder) / CHECKPOINT)


def load_open_clip(folder: str, model: str):
    """Return open_clip's model in evaluation mode."""
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
    """Return random pixels float32 [T, 3, S, S], the same for all competitors."""
    from common import random_pixels

    return random_pixels(frames, model_config(folder).vision.image_size, seed=0)
