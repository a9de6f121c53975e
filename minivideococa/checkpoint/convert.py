"""open_clip's CoCa checkpoints -> a checkpoint folder.

The source is what a hub repository holds (open_clip_config.json and open_clip_model.safetensors or
open_clip_pytorch_model.bin), another checkpoint folder, or a bare file of weights with a configuration beside
it: also a training checkpoint, its weights under `state_dict` and its names prefixed if the run was
distributed.
"""

import os
import re
from pathlib import Path

import numpy as np

from ..output import refuse_occupied
from ..progress import advance, progress
from .config import Config
from .folder import CONFIG, TOKENIZER, WEIGHTS, StoredTensor, open_safetensors, read_config, write_checkpoint
from .table import check
from .unpickler import read_pickle

CONFIG_NAMES = ("open_clip_config.json", CONFIG)
WEIGHT_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", WEIGHTS)  # in this order
CLIP_VOCABULARY = 49408

# Causal masks that older versions of open_clip kept among the weights; here they are computed.
MASKS = {"text.attn_mask", "text_decoder.attn_mask"}


def convert(source: str | os.PathLike[str], dest: str | os.PathLike[str], dtype: str | None = None,
            config: str | os.PathLike[str] | None = None) -> Path:
    """Makes the checkpoint folder `dest` from `source`, a folder or a file of weights, and returns its path.

    `config` is the configuration's file; a file of weights needs one. `dtype` is "float16" or "float32"; None
    keeps every tensor's own, but bfloat16, unknown to NumPy, becomes float32. `dest` gets CLIP's tokenizer if
    the vocabulary is CLIP's, otherwise the source's tokenizer.json if there is one.

    Raises FileNotFoundError for a file that is not there; ValueError if `dest` is not empty, the
    configuration asks for what is not built here, the weights do not fit it, or a number is not finite (or
    not in `dtype`).
    """
    source, dest = Path(source), Path(dest)
    if dtype not in (None, "float16", "float32"):
        raise ValueError(f"dtype is {dtype!r}: give float16 or float32")
    refuse_occupied(dest)
    if not source.exists():
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    if source.is_dir():
        weights = _first(source, WEIGHT_NAMES)
        config_path = Path(config) if config else _first(source, CONFIG_NAMES)
    elif config:
        weights, config_path = source, Path(config)
    else:
        raise ValueError(f"{source}: a bare file of weights needs its configuration: give --config FILE")

    parsed = read_config(config_path)
    stored = read_weights(weights)
    check(stored, parsed, str(weights))
    with progress(len(stored), "tensors"):
        tensors = {}
        for name, tensor in stored.items():
            tensors[name] = _cast(tensor, dtype, f"{weights}: {name}")
            advance()
    return write_checkpoint(dest, parsed, tensors, _tokenizer(parsed, source))


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """The state dict in a .safetensors file or one of `torch.save`, by open_clip's names and not yet read."""
    with open(path, "rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise ValueError(f"{path}: only Git LFS's pointer to the weights: fetch them with `git lfs pull`")
    if path.suffix == ".safetensors":
        found = open_safetensors(path)
    else:
        found = read_pickle(path)
        if isinstance(found, dict):
            found = found.get("state_dict", found)
        if not isinstance(found, dict) or not found:
            raise ValueError(f"{path}: no state dict is in it")
    for name, tensor in found.items():
        if not (isinstance(name, str) and isinstance(tensor, StoredTensor)):
            raise ValueError(f"{path}: not a state dict: its entry {name!r} is no tensor")
    # a distributed run prefixes every name with "module.", torch.compile with "_orig_mod."
    plain = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in plain.items() if name not in MASKS}


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: none of {', '.join(names)} is there")


def _cast(tensor: StoredTensor, dtype: str | None, where: str) -> np.ndarray:
    array = tensor.read()
    with np.errstate(over="ignore"):  # told below, by name
        cast = array.astype(dtype or array.dtype, copy=False)
    if not np.isfinite(cast).all():
        reason = f"too large for {dtype}" if np.isfinite(array).all() else "that are not finite"
        raise ValueError(f"{where} holds numbers {reason}")
    return cast


def _tokenizer(config: Config, source: Path) -> str | None:
    if config.text.vocab_size == CLIP_VOCABULARY:
        from ..tokenizer import clip_tokenizer_json
        return clip_tokenizer_json()
    path = source / TOKENIZER
    return path.read_text(encoding="utf-8") if path.is_file() else None
