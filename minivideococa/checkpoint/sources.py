"""What a folder or a repository of weights holds: which file is which, and the weights in it.

open_clip_config.json                       the configuration; or config.json, or none
open_clip_model.safetensors                 the weights; or open_clip_pytorch_model.bin, epoch_9.pt, ...
model.safetensors.index.json                or their index, where they are cut into several files ("shards")
tokenizer.json                              unless the vocabulary is CLIP's
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..inputs import read_json, regular_file
from ..model.arguments import shown
from ..progress import say
from .folder import CONFIG, StoredTensor, open_safetensors
from .unpickler import read_pickle

CONFIG_NAMES = ("open_clip_config.json", CONFIG)  # in this order
WEIGHT_STEMS = ("open_clip_model", "open_clip_pytorch_model", "model")  # in this order, then any other
WEIGHT_SUFFIX = re.compile(r"\.(safetensors|bin|pt|pth|ckpt)(\.index\.json)?$")
SHARD = re.compile(r"-\d+-of-(?!0*1\.)\d+\.\w+$")  # the only shard is the whole

# Causal masks that older versions of open_clip kept among the weights; here they are computed.
MASKS = {"text.attn_mask", "text_decoder.attn_mask"}


def config_name(files: Iterable[str]) -> str | None:
    """Return the file of the configuration, None if there is none."""
    found = set(files)
    return next((name for name in CONFIG_NAMES if name in found), None)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights, or the index of their shards; a shard alone does not."""
    return bool(WEIGHT_SUFFIX.search(name)) and not SHARD.search(name) and "/" not in name


def weights_name(files: Iterable[str], where: str) -> str:
    """Return the file of the weights, or of their index. Where there are several, a message says which is taken.

    The names of open_clip come first, then safetensors before pickles, then the last in natural order ("epoch_10.pt").
    Raises FileNotFoundError if there is none; `where` names the folder or repository.
    """
    files = list(files)
    found = [name for name in files if is_weights(name)]
    if not found and any(map(SHARD.search, files)):
        raise FileNotFoundError(
            f"{where}: shards without their index (model.safetensors.index.json): fetch it too"
        )
    if not found:
        raise FileNotFoundError(
            f"{where}: none of open_clip_model.safetensors, open_clip_pytorch_model.bin, "
            "model.safetensors is there, nor another file of weights (.safetensors, .bin, .pt)"
        )
    chosen = max(found, key=_preference)
    if len(found) > 1:
        others = ", ".join(sorted(name for name in found if name != chosen))
        say(f"{where}: the weights are taken from {chosen}, not from {others}")
    return chosen


def _preference(name: str) -> tuple[Any, ...]:
    stem = WEIGHT_SUFFIX.sub("", name)
    known = -WEIGHT_STEMS.index(stem) if stem in WEIGHT_STEMS else -len(WEIGHT_STEMS)
    natural = [(part.zfill(20) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]
    return known, ".safetensors" in name, natural


def shard_files(weights: Path) -> list[Path]:
    """Return the file of the weights itself, or of an index the files that it names, in order.

    Raises ValueError for what is no index of files beside it.
    """
    if not weights.name.endswith(".json"):
        return [weights]
    shards = sorted(set(_weight_map(weights).values()))
    return [weights.parent / shard for shard in shards]


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index: {"weight_map": {tensor: file, ...}}."""
    hint = "give the weights themselves or the index of their shards"
    found = read_json(index, hint)
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: no index of weights: it has no weight_map; {hint}")
    for file in weight_map.values():
        if not isinstance(file, str) or Path(file).name != file or "\0" in file:
            raise ValueError(f"{index}: weight_map names {file!r:.60}, which is no file beside it; {hint}")
    return weight_map


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """Return the state dict in a file of weights or in the shards of an index, by open_clip's names and not yet read.

    Raises FileNotFoundError for a file that is not there, and ValueError for what is no state dict.
    """
    if path.name.endswith(".json"):
        shards = {file.name: _state_dict(file) for file in shard_files(path)}
        weight_map = _weight_map(path)
        if missing := [name for name, file in weight_map.items() if name not in shards[file]]:
            raise ValueError(
                f"{path}: {missing[0]!r:.80} is not in {weight_map[missing[0]]}: fetch the shards anew"
            )
        found = {name: shards[file][name] for name, file in weight_map.items()}
    else:
        found = _state_dict(path)
    # a distributed run prefixes every name with "module.", torch.compile with "_orig_mod."
    plain = {re.sub(r"^((module|_orig_mod)\.)+", "", name): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in plain.items() if name not in MASKS}


def _state_dict(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by their names: of safetensors or of torch.save, whichever it is by its first bytes."""
    with open(regular_file(path, "give the file of the weights"), "rb") as file:
        head = file.read(24)
    if head == b"version https://git-lfs.":
        raise ValueError(f"{path}: only Git LFS's pointer to the weights: fetch them with `git lfs pull`")
    if (
        head[4:9] == b"\0\0\0\0{"
        or path.suffix == ".safetensors"
        and not head.startswith((b"PK\x03\x04", b"\x80"))
    ):
        return open_safetensors(path)
    found = read_pickle(path)
    if isinstance(found, dict):
        found = found.get("state_dict", found)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path}: no state dict is in it")
    for name, tensor in found.items():
        if not (isinstance(name, str) and isinstance(tensor, StoredTensor)):
            raise ValueError(f"{path}: not a state dict: its entry {shown(name)} is no tensor")
    return found


def sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of a file, or of several one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
