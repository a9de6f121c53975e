"""Conversion of open_clip's CoCa weights to a checkpoint folder, and back.

The source is a downloaded repository, another checkpoint folder, or a file of weights, such as a training
checkpoint. See `sources` for the files, and `released` for weights without a configuration. A tuned part can
be laid over the source. See `export` for the way back.
"""

from __future__ import annotations

import os
import re
import warnings
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..inputs import path_name, read_text, require_exists
from ..model.config import Array, Config, check_choice
from ..output import require_empty, require_writable
from ..progress import Progress, no_progress
from ..resources import require_memory
from .export import write_open_clip
from .folder import (
    CLIP_VOCABULARY,
    LONE_PART,
    NEW_LAYERS,
    TOKENIZER,
    TUNED,
    StoredTensor,
    cast_tensor,
    check_values,
    read_config,
    read_origin,
    write_checkpoint,
)
from .released import config_names, fitting_config, named_config
from .sources import CONFIG_NAMES, config_name, read_weights, sha256, shard_files, weights_name
from .table import check_tensors, parameter_shapes
from .tuned import TunedPart, base_name, read_tuned

TARGETS = {  # what `convert` writes
    "minivideococa": "a checkpoint folder",
    "open_clip": "a folder that open_clip loads",
}


class _Content(NamedTuple):
    """What a source holds. The tensors are not read yet."""

    config: Config
    stored: dict[str, StoredTensor]
    tokenizer: str | None
    files: dict[str, str]  # of each tensor, for messages


def convert(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    dtype: str | None = None,
    config: str | os.PathLike[str] | None = None,
    *,
    tuned: str | os.PathLike[str] | None = None,
    to: str = "minivideococa",
    progress: Progress = no_progress,
) -> Path:
    """Convert `source`, a folder or a file of weights, to the checkpoint folder `dest`, and return its path.

    `config` is a configuration file, or the name of a configuration that comes with the package:
    "coca_ViT-B-32" or "coca_ViT-L-14". By default it is the configuration in the source folder; if there is
    none, the one of these two that has the shapes of all tensors, with a warning that names it. `dtype` is
    "float16" or "float32"; None keeps the dtype of each tensor, except that bfloat16 becomes float32. `dest`
    gets CLIP's tokenizer if the vocabulary is CLIP's, otherwise the tokenizer.json of the source, if there is
    one. `tuned` is a tuned part that is laid over the source first, see `checkpoint.load`. With `to`
    "open_clip", `dest` is a folder that open_clip loads, see `export`. With one of these two, `source` may
    also be "hf-hub:OWNER/NAME". `progress` counts tensors.

    Raises FileNotFoundError for a missing file; PermissionError for one that cannot be read, or if `dest`
    cannot be written; ValueError if `dest` is not empty, the configuration is not supported, the weights do
    not fit it or are damaged, a value is out of the range of `dtype`, or the source is not the base of
    `tuned`.
    """
    if not (dtype is None or (isinstance(dtype, str) and dtype in ("float16", "float32"))):
        raise ValueError(f"dtype is {dtype!r}: give float16 or float32")
    check_choice("to", to, TARGETS)
    part = None if tuned is None else read_tuned(tuned)
    from_hub = part is not None or to == "open_clip"  # otherwise there is no need: see `hub.fetch`
    name, place = str(source), _existing(source, from_hub, progress)
    dest = _free(dest)
    weights = _weights(place)
    content = _read(place, weights, config)
    if part is None and NEW_LAYERS in _files(place):
        warnings.warn(
            f"{place}: {NEW_LAYERS} is left out: give it to --tuned (tuned), to have its layers", stacklevel=2
        )
    if part:
        content = _lay_over(content, part, name if name.startswith("hf-hub:") else base_name(place))
    _require_memory(content.stored, dtype, weights)
    origin = _origin(weights) | ({"tuned_for": part.task} if part and part.task else {})
    tensors = {}
    with progress(len(content.stored), "tensors") as update:
        for name, tensor in content.stored.items():
            tensors[name] = _cast(name, tensor, dtype, content.files[name])
            update(1)
    write = write_open_clip if to == "open_clip" else write_checkpoint
    return write(dest, content.config, tensors, content.tokenizer, origin)


def _existing(source: str | os.PathLike[str], from_hub: bool, progress: Progress) -> Path:
    """Return the source if it exists; with `from_hub`, also the checkpoint folder of a repository."""
    hint = "give a folder, or a file of weights"
    name = path_name(source, hint, "source")
    if name.startswith("hf-hub:") and from_hub:
        from .hub import fetch  # which imports this module

        return fetch(name.removeprefix("hf-hub:"), progress=progress)
    if name.startswith("hf-hub:"):
        raise ValueError(f"{name}: convert takes local files; give hf-hub:... to --weights directly")
    require_exists(name, "file or folder", hint)
    return Path(name)


def _free(dest: str | os.PathLike[str]) -> Path:
    path = Path(path_name(dest, "give a folder to make", "dest"))
    require_empty(path)
    require_writable(path if path.is_dir() else path.parent, path)
    return path


def _weights(source: Path) -> Path:
    """Return the file of the weights of a source, or the index of their shards."""
    files = _files(source)
    if TUNED in (*files, source.name) and not config_name(files):
        raise ValueError(f"{source}: {LONE_PART}: give it to --tuned, and its base as the source")
    return source / weights_name(files, str(source)) if source.is_dir() else source


def _files(source: Path) -> list[str]:
    """Return the names of the files in a folder; of a file, nothing."""
    return sorted(path.name for path in source.iterdir() if path.is_file()) if source.is_dir() else []


def _read(source: Path, weights: Path, config: str | os.PathLike[str] | None) -> _Content:
    """Return what a source holds, after checking that weights and configuration fit each other."""
    parsed, stored = _config_and_weights(source, config_name(_files(source)), weights, config)
    check_tensors(stored, parsed, str(weights))
    return _Content(parsed, stored, _tokenizer(parsed, source), dict.fromkeys(stored, str(weights)))


def _lay_over(content: _Content, part: TunedPart, name: str) -> _Content:
    """Return the content of the tuned model. `name` is that of the checkpoint in `content`, for messages."""
    part.require_base(content.stored, name)
    part.tokenizer()  # checked before it is written
    merged = content.stored | part.stored
    return _Content(
        part.config,
        {name: merged[name] for name in parameter_shapes(part.config)},
        part.tokenizer_json or content.tokenizer,
        content.files | dict.fromkeys(part.stored, str(part.path)),
    )


def _config_and_weights(
    source: Path, found: str | None, weights: Path, config: str | os.PathLike[str] | None
) -> tuple[Config, dict[str, StoredTensor]]:
    """Return the configuration and the tensors, not yet read.

    `found` is the name of the configuration in the source folder, and `config` the one that the caller gave.
    """
    if config is not None:
        return _find_config(config), read_weights(weights)
    if found:
        return read_config(source / found), read_weights(weights)
    stored = read_weights(weights)
    try:
        name, fitting = fitting_config(stored)
    except ValueError as error:
        if source.is_dir():
            raise FileNotFoundError(f"{source}: it has none of {', '.join(CONFIG_NAMES)}; {error}") from None
        raise ValueError(f"{weights}: it has no configuration; {error}") from None
    warnings.warn(
        f"{weights}: no configuration beside it; using open_clip's {name}, which has the same shapes",
        stacklevel=4,
    )
    return fitting, stored


def _find_config(config: str | os.PathLike[str]) -> Config:
    """Return the configuration of this name or in this file."""
    if named := named_config(os.fspath(config)):
        return named
    if not os.path.exists(config):
        raise FileNotFoundError(
            f"{config}: neither a file nor the name of a configuration: give a file or "
            + " or ".join(config_names())
        )
    return read_config(Path(config))


def _tokenizer(config: Config, source: Path) -> str | None:
    """Return the tokenizer.json of the checkpoint; None if there is none."""
    from ..media.tokenizer import clip_tokenizer_json, load_tokenizer

    if config.text.vocab_size == CLIP_VOCABULARY:
        return clip_tokenizer_json()
    path = source / TOKENIZER
    if not path.exists():
        return None
    text = config.text
    load_tokenizer(path, text.context_length, text.pad_id, config.tokenizer_clean, text.vocab_size)
    return read_text(path, "give the tokenizer of the checkpoint")


def _require_memory(stored: dict[str, StoredTensor], dtype: str | None, weights: Path) -> None:
    """Raise ValueError unless the converted tensors fit into memory."""

    def itemsize(tensor: StoredTensor) -> int:
        stored_dtype = "float32" if tensor.dtype == "bfloat16" else tensor.dtype
        return np.dtype(dtype or stored_dtype).itemsize

    require_memory(
        sum(prod(tensor.shape) * itemsize(tensor) for tensor in stored.values()),
        f"{weights}: converting it",
        "close other programs" if dtype == "float16" else "use --dtype float16, or close other programs",
    )


def _cast(name: str, tensor: StoredTensor, dtype: str | None, file: str) -> Array:
    """Read a tensor and convert it to `dtype`. `file` is the file's name in messages."""
    array = tensor.read()
    check_values(name, array, file)
    return cast_tensor(name, array, dtype, file)


def _origin(weights: Path) -> dict[str, str]:
    """Return where the weights come from, see `read_origin`. A checkpoint folder keeps its first origin.

    Raises ValueError for a file in huggingface_hub's cache that was damaged in transfer.
    """
    if weights.suffix == ".safetensors" and "sha256" in (origin := read_origin(weights)):
        return origin
    files = shard_files(weights)
    hashes = {file: sha256([file]) for file in files}
    for file, actual in hashes.items():
        # in huggingface_hub's cache a file is a link to one that is named by the SHA-256 the hub announced
        blob = file.resolve()
        if blob.parent.name == "blobs" and len(blob.name) == 64 and blob.name != actual:
            raise ValueError(
                f"{file}: its SHA-256 is not what the hub announced: remove {blob} and download it again"
            )
    origin = {"weights": weights.name, "sha256": hashes[files[0]] if len(files) == 1 else sha256(files)}
    # huggingface_hub's cache: models--OWNER--NAME/snapshots/COMMIT/FILE
    pattern = r"models--([\w.-]+?)--([\w.-]+)/snapshots/(\w+)$"
    if match := re.search(pattern, weights.absolute().parent.as_posix()):
        origin |= {"repository": f"{match[1]}/{match[2]}", "revision": match[3]}
    return origin
