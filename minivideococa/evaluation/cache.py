"""What was computed is kept on disk by content, so that a second run is immediate and one that was ended goes on.

A file's name is the hash of all that its content follows from, so nothing in the folder is ever out of date. A file is
written whole, and one that is damaged counts as not there. The folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..checkpoint.folder import open_safetensors, save_tensors
from ..inputs import path_name
from ..media.video import files_of
from ..model.videococa import VideoCoCa
from ..output import atomic_write


def content(video: str | os.PathLike[str]) -> list[Any]:
    """Return the hash of a video's file, or the names and hashes of the images in its folder.

    Of a file's name only its ending counts, which tells Motion JPEG from a JPEG image. Raises OSError or ValueError if
    there is nothing to read.
    """
    hashes = []
    for path in files_of(video):
        with open(path, "rb") as file:
            name = os.path.basename(path) if os.path.isdir(video) else os.path.splitext(path)[1].lower()
            hashes.append([name, hashlib.file_digest(file, "sha256").hexdigest()])
    return hashes


def identity(model: VideoCoCa) -> str:
    """What a model is: its configuration, its weights as they are in memory, their dtype, and its tokenizer."""
    digest = hashlib.sha256(json.dumps(model.config.source, sort_keys=True).encode())
    if model.tokenizer:
        digest.update(model.tokenizer.vocabulary.to_str().encode())

    def add(node: Any, name: str) -> None:
        if isinstance(node, np.ndarray):
            digest.update(f"{name} {node.dtype} {node.shape}".encode())
            digest.update(np.ascontiguousarray(node))
        else:
            for key, child in node.items() if isinstance(node, Mapping) else enumerate(node):
                add(child, f"{name}.{key}")

    add(model.params, "")
    return digest.hexdigest()


def folder_for(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a cache, which need not be there. Raises ValueError for an impossible name, and if something else
    is there."""
    folder = Path(path_name(path, "give a folder, or None for no cache", "cache"))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{path}: is no folder: give another place for the cache")
    return folder


def get(folder: Path | None, facts: Any) -> dict[str, np.ndarray] | None:
    """Return the arrays that `put` kept under these facts; None if there are none, they are damaged, or there is no cache."""
    if folder is None or not (place := _place(folder, facts)).is_file():  # to open a FIFO would never end
        return None
    try:
        arrays = {name: tensor.read().copy() for name, tensor in open_safetensors(place).items()}
    except Exception:  # a damaged header raises many kinds
        return None
    check = arrays.pop("sha256", None)
    return arrays if check is not None and check.tobytes() == _sha256(arrays) else None


def put(folder: Path | None, facts: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under the facts that they follow from, JSON values. Raises OSError if they cannot be written."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(_place(folder, facts)) as partial:
            save_tensors(partial, {**arrays, "sha256": np.frombuffer(_sha256(arrays), np.uint8)})
    except OSError as error:
        raise OSError(
            f"{folder}: the cache cannot be written ({error}): give another folder with --cache or "
            "MINIVIDEOCOCA_CACHE, or --no-cache"
        ) from None


def kept(folder: Path | None, facts: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` gives, an array or a text; or what it gave when these facts were the same. Raises as `put`."""
    if (found := get(folder, facts)) is not None:
        return found["text"].tobytes().decode() if "text" in found else found["array"]
    value = compute()
    put(
        folder,
        facts,
        {"text": np.frombuffer(value.encode(), np.uint8)} if isinstance(value, str) else {"array": value},
    )
    return value


def _place(folder: Path, facts: Any) -> Path:
    text = json.dumps([__version__, facts], sort_keys=True, default=str)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


def _sha256(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Of names and contents, so that a file whose bytes have changed on the disk is found out."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.digest()
