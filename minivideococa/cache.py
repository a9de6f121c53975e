"""A cache on disk for encoded videos, frame tokens and generated texts, addressed by content.

The name of a file is the hash of its key: everything that the content depends on. No file is ever out of
date, and the folder may be removed at any time. Files are written as a whole; a damaged file is treated as
missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .checkpoint.folder import open_safetensors, save_tensors
from .checkpoint.table import POOLERS, unnest
from .inputs import path_name
from .media.video import files_of
from .model.config import Array
from .model.videococa import VideoCoCa
from .output import atomic_write


def content_hashes(video: str | os.PathLike[str]) -> list[list[str]]:
    """Return the suffix and the SHA-256 of a video's file, or the name and SHA-256 of each image in a folder.

    Nothing but the suffix of a file's name counts; it distinguishes Motion JPEG from a JPEG image. Raises
    OSError or ValueError if there is nothing to read.
    """
    hashes = []
    for path in files_of(video):
        with open(path, "rb") as file:
            name = os.path.basename(path) if os.path.isdir(video) else os.path.splitext(path)[1].lower()
            hashes.append([name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashes


def model_hash(model: VideoCoCa) -> str:
    """Return the SHA-256 of a model: configuration, weights in memory with their dtype, and tokenizer."""
    digest = hashlib.sha256(json.dumps(model.config.source, sort_keys=True).encode())
    if model.tokenizer:
        digest.update(model.tokenizer.vocabulary.to_str().encode())
    _add_tensors(digest, model.params)
    return digest.hexdigest()


def encoder_hash(model: VideoCoCa) -> str:
    """Return the SHA-256 of what frame tokens depend on: preprocessing, dimensions and the image encoder.

    The poolers are not part of it: models that differ only in them, or in their text, have the same hash.
    """
    pooler = ("attentional_pool", "queries", "pooler_heads")
    vision = {name: value for name, value in asdict(model.config.vision).items() if name not in pooler}
    facts = [vision, asdict(model.config.preprocess)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    tensors = unnest({"visual": model.params["visual"]})
    _add_tensors(digest, {name: tensors[name] for name in tensors if not name.startswith(POOLERS)})
    return digest.hexdigest()


def visual_hash(model: VideoCoCa) -> str:
    """Return the SHA-256 of what the latents of videos depend on, poolers included; not of the text side."""
    parts = (model.config.vision, model.config.preprocess, model.config.factorized)
    facts = [asdict(part) if part else None for part in parts]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    names = [name for name in ("visual", "factorized") if name in model.params]
    _add_tensors(digest, {name: model.params[name] for name in names})
    return digest.hexdigest()


def _add_tensors(digest: Any, node: Any, name: str = "") -> None:
    """Add the names, dtypes, shapes and contents of a tree of arrays to a digest, whatever their order."""
    if isinstance(node, np.ndarray):
        digest.update(f"{name} {node.dtype} {node.shape}".encode())
        digest.update(np.ascontiguousarray(node).data)
    else:
        for key, child in sorted(node.items()) if isinstance(node, Mapping) else enumerate(node):
            _add_tensors(digest, child, f"{name}.{key}")


def folder_for(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a cache; it need not exist.

    Raises ValueError for an impossible name and for a file.
    """
    folder = Path(path_name(path, "give a folder, or None for no cache", "cache"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{path}: is not a folder: give another place for the cache")
    return folder


def get(folder: Path | None, key: Any) -> dict[str, Array] | None:
    """Return the arrays stored under a key; None if they are missing or damaged, or without a folder."""
    arrays = open_arrays(file_of(folder, key)) if folder is not None else None
    if arrays is None:
        return None
    arrays = {name: array.copy() for name, array in arrays.items()}
    return arrays if _verify(arrays) else None


def open_arrays(path: Path) -> dict[str, Array] | None:
    """Return the memory-mapped arrays of a file of the cache and their checksum, which is not verified.

    None if the file is missing or its header is damaged. The contents are read when they are used.
    """
    if not path.is_file():  # opening a FIFO would block forever
        return None
    try:
        return {name: tensor.read() for name, tensor in open_safetensors(path).items()}
    except Exception:  # a damaged header raises errors of many kinds
        return None


def is_intact(path: Path) -> bool:
    """Tell whether a file of the cache is there and its contents are those that were written.

    The contents are read once, and not copied.
    """
    arrays = open_arrays(path)
    return arrays is not None and _verify(arrays)


def put(folder: Path | None, key: Any, arrays: Mapping[str, Array], way_out: str = "") -> None:
    """Store arrays under a key, which is a JSON value.

    Raises OSError if they cannot be written; `way_out` is what else the message offers.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file_of(folder, key)) as partial:
            save_tensors(partial, {**arrays, "sha256": np.frombuffer(_sha256(arrays), np.uint8)})
    except OSError as error:
        raise OSError(
            f"{folder}: the cache cannot be written ({error}): give another folder with --cache or "
            f"MINIVIDEOCOCA_CACHE{way_out}"
        ) from None


def cached(folder: Path | None, key: Any, compute: Callable[[], Any], way_out: str = "") -> Any:
    """Return the array or text stored under a key, or else compute and store it. Raises as `put`."""
    if (value := get_value(folder, key)) is None:
        value = compute()
        put_value(folder, key, value, way_out)
    return value


def get_value(folder: Path | None, key: Any) -> Any:
    """Return the array or text stored under a key; None as `get`."""
    if (arrays := get(folder, key)) is None:
        return None
    return arrays["text"].tobytes().decode() if "text" in arrays else arrays["array"]


def put_value(folder: Path | None, key: Any, value: Array | str, way_out: str = "") -> None:
    """Store an array or a text under a key. Raises as `put`."""
    arrays = {"text": np.frombuffer(value.encode(), np.uint8)} if isinstance(value, str) else {"array": value}
    put(folder, key, arrays, way_out)


def file_of(folder: Path, key: Any) -> Path:
    """Return the path of the file that holds, or would hold, the arrays of a key."""
    text = json.dumps([__version__, key], sort_keys=True, default=str)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _verify(arrays: dict[str, Array]) -> bool:
    """Remove the checksum from arrays, and tell whether it is theirs."""
    checksum = arrays.pop("sha256", None)
    return checksum is not None and checksum.tobytes() == _sha256(arrays)


def _sha256(arrays: Mapping[str, Array]) -> bytes:
    """Return a checksum of names and contents, which detects bytes that have changed on disk."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.digest()
