"""The files of a downloaded repository or folder: configuration and weights, and the tensors in them.

open_clip_config.json                       the configuration; or config.json, or none
open_clip_model.safetensors                 the weights; or open_clip_pytorch_model.bin, epoch_9.pt, ...
model.safetensors.index.json                or the index of weights that are split into several files (shards)
tokenizer.json                              unless the vocabulary is CLIP's
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..inputs import natural_key, read_json, regular_file
from ..model.config import shorten
from .folder import CONFIG, EMBEDDED_PART, NEW_LAYERS, TUNED, StoredTensor, open_safetensors
from .unpickler import read_pickle

CONFIG_NAMES = ("open_clip_config.json", CONFIG)  # in order of preference
# in order of preference, before any other
WEIGHT_STEMS = ("open_clip_model", "open_clip_pytorch_model", "model")
WEIGHT_SUFFIX = re.compile(r"\.(safetensors|bin|pt|pth|ckpt)(\.index\.json)?$")
SHARD = re.compile(r"-\d+-of-(?!0*1\.)\d+\.\w+$")  # one of several: a single shard holds everything

# Causal masks that older versions of open_clip stored with the weights; here they are computed.
MASKS = {"text.attn_mask", "text_decoder.attn_mask"}


# Names of files ---------------------------------------------------------------------------------------------


def config_name(files: Iterable[str]) -> str | None:
    """Return the name of the configuration among these names, None if there is none."""
    names = set(files)
    return next((name for name in CONFIG_NAMES if name in names), None)


def is_weights(name: str) -> bool:
    """Return whether a file of this name holds all weights, or is the index of their shards."""
    whole = not SHARD.search(name) and name not in (TUNED, NEW_LAYERS, EMBEDDED_PART)
    return bool(WEIGHT_SUFFIX.search(name)) and whole and "/" not in name


def weights_name(files: Iterable[str], place: str) -> str:
    """Return the name of the weights, or of their index, among these names. Warn if several are candidates.

    open_clip's names are preferred, then safetensors to pickles, then the last in natural order
    ("epoch_10.pt"). `place` names the folder or repository in messages. Raises FileNotFoundError if there are
    no weights.
    """
    files = list(files)
    candidates = [name for name in files if is_weights(name)]
    if not candidates and any(map(SHARD.search, files)):
        raise FileNotFoundError(
            f"{place}: shards without their index (model.safetensors.index.json): download it too"
        )
    if not candidates:
        raise FileNotFoundError(
            f"{place}: no weights: neither open_clip_model.safetensors, open_clip_pytorch_model.bin, "
            "model.safetensors nor another file that ends in .safetensors, .bin or .pt"
        )
    chosen = max(candidates, key=_preference)
    if len(candidates) > 1:
        others = ", ".join(sorted(name for name in candidates if name != chosen))
        warnings.warn(f"{place}: using the weights in {chosen}, not those in {others}", stacklevel=4)
    return chosen


def _preference(name: str) -> tuple[Any, ...]:
    stem = WEIGHT_SUFFIX.sub("", name)
    known = -WEIGHT_STEMS.index(stem) if stem in WEIGHT_STEMS else -len(WEIGHT_STEMS)
    return known, ".safetensors" in name, natural_key(name)


# Content ----------------------------------------------------------------------------------------------------


def shard_files(weights: Path) -> list[Path]:
    """Return the files that hold the weights: those named by an index, in order, or `weights` itself.

    Raises ValueError if an index is malformed or names something other than a file beside it.
    """
    if not weights.name.endswith(".json"):
        return [weights]
    return [weights.parent / shard for shard in sorted(set(_weight_map(weights).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor from an index: {"weight_map": {tensor: file, ...}}."""
    hint = "give the weights themselves or the index of their shards"
    content = read_json(index, hint)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: not an index of weights: it has no weight_map; {hint}")
    for file in weight_map.values():
        if not isinstance(file, str) or Path(file).name != file or "\0" in file:
            raise ValueError(f"{index}: weight_map names {file!r:.60}, which is not a file beside it; {hint}")
    return weight_map


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """Return the state dict in a file of weights or in the shards of an index. Tensors are not read yet.

    Prefixes of distributed training and torch.compile are removed from the names, and masks of older versions
    dropped. Raises FileNotFoundError for a missing file, and ValueError for a file that is not a state dict.
    """
    if path.name.endswith(".json"):
        shards = {file.name: _state_dict(file) for file in shard_files(path)}
        weight_map = _weight_map(path)
        if missing := [name for name, file in weight_map.items() if name not in shards[file]]:
            raise ValueError(
                f"{path}: {missing[0]!r:.80} is not in {weight_map[missing[0]]}: download the shards again"
            )
        tensors = {name: shards[file][name] for name, file in weight_map.items()}
    else:
        tensors = _state_dict(path)
    plain = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in plain.items() if name not in MASKS}


def _state_dict(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors in one file by name. Its first bytes tell safetensors from files of `torch.save`."""
    with open(regular_file(path, "give the file of the weights"), "rb") as file:
        head = file.read(24)
    if head == b"version https://git-lfs.":
        raise ValueError(f"{path}: a Git LFS pointer, not the weights: run `git lfs pull`")
    is_pickle = head.startswith((b"PK\x03\x04", b"\x80"))
    if head[4:9] == b"\0\0\0\0{" or (path.suffix == ".safetensors" and not is_pickle):
        return open_safetensors(path)
    content = read_pickle(path)
    if isinstance(content, dict):  # a training checkpoint has the state dict beside the optimizer's state
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: it holds no state dict")
    for name, tensor in content.items():
        if not (isinstance(name, str) and isinstance(tensor, StoredTensor)):
            raise ValueError(f"{path}: not a state dict: its entry {shorten(name)} is not a tensor")
    return content


def sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the concatenation of files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
