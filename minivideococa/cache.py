"""A cache on disk for encoded videos and texts, frame tokens and generated texts, addressed by content.

The name of a file has the hash of its key: everything that the content depends on. No file is ever out of
date, and the folder may be removed at any time. Files are written as a whole; a damaged file is treated as
missing. The folder is kept below `size_limit`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, eviction
from .checkpoint.folder import open_safetensors, save_tensors
from .checkpoint.table import POOLERS, unnest
from .inputs import path_name
from .media.sampling import RULE
from .media.video import files_of
from .model.config import Array, Video
from .model.videococa import VideoCoCa
from .output import atomic_write
from .progress import Update

LIMIT = 10 * 10**9  # bytes: encoded by L/14, the 10,000 videos of MSR-VTT take 8 GB
LARGE = 2**20  # bytes: the SHA-256 of larger files is remembered; that of others takes a millisecond
SETTLED = 2  # seconds, the coarsest time stamps of file systems: a later change of a file has other times


def default_folder() -> Path:
    """Return the folder of the cache unless another one is given: beside converted checkpoints."""
    from .checkpoint.hub import cache_folder

    return cache_folder() / "videos"


def size_limit() -> int | None:
    """Return the number of bytes that a cache may take: $MINIVIDEOCOCA_CACHE_LIMIT, or else `LIMIT`.

    None if it is 0: no limit. Raises ValueError for anything but a size.
    """
    text = os.environ.get("MINIVIDEOCOCA_CACHE_LIMIT", "").strip()
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?) ?([kMGT]?)(i?)B?", text or str(LIMIT), re.IGNORECASE)
    if not match or (match[3] and not match[2]):
        raise ValueError(
            f"MINIVIDEOCOCA_CACHE_LIMIT is {text[:40]!r}: give a size, such as 20GB, or 0 for no limit"
        )
    unit = (1024 if match[3] else 1000) ** " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * unit) or None


# Keys


def video_key(
    folder: Path | None,
    model_key: str | None,
    video: str | os.PathLike[str],
    num_frames: int,
    adapter: str,
    start: float | None = None,
    end: float | None = None,
) -> list[Any]:
    """Return the key of an encoded video. `model_key` is the model's `model_hash`.

    The content of the video counts, not its place; `folder` is where hashes are remembered. Raises as
    `content_hashes`.
    """
    return _video_key(model_key, content_hashes(video, folder), num_frames, adapter, start, end)


def _video_key(
    model_key: str | None,
    hashes: list[list[str]],
    num_frames: int,
    adapter: str,
    start: float | None,
    end: float | None,
) -> list[Any]:
    part = [None if time is None else float(time) for time in (start, end)]
    return ["video", model_key, hashes, num_frames, adapter, RULE, *part]


def content_hashes(video: str | os.PathLike[str], folder: Path | None = None) -> list[list[str]]:
    """Return the suffix and the SHA-256 of a video's file, or the name and SHA-256 of each image in a folder.

    Nothing but the suffix of a file's name counts; it distinguishes Motion JPEG from a JPEG image. `folder`
    is a cache, where the hashes of large files are remembered. Raises OSError or ValueError if there is
    nothing to read.
    """
    hashes = []
    for path in files_of(video):
        name = os.path.basename(path) if os.path.isdir(video) else os.path.splitext(path)[1].lower()
        hashes.append([name, file_hash(path, folder)])
    return hashes


def file_hash(path: str, folder: Path | None = None) -> str:
    """Return the SHA-256 of a file. `folder` is a cache, where that of a large file is remembered."""

    def sha256() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    if os.path.getsize(path) < LARGE:
        return sha256()
    return remembered(folder, "file", file_states([path]), sha256)


def file_states(paths: Sequence[str | os.PathLike[str]]) -> list[list[Any]]:
    """Return what changes when a file is changed or replaced: its size, inode and times; None if missing.

    The time of the last change, `st_ctime`, cannot be set by a program, unlike that of the modification.
    """
    states: list[list[Any]] = []
    for path in map(os.path.realpath, paths):
        try:
            stat = os.stat(path)
            states.append([path, stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns])
        except OSError:
            states.append([path, None, None, 0, 0])
    return states


def remembered(folder: Path | None, what: str, states: list[list[Any]], compute: Callable[[], str]) -> str:
    """Return `compute()`, a hash of files, or what it was when their `file_states` were the same.

    It is remembered in the cache, unless a file has changed meanwhile or in the `SETTLED` seconds before.
    """
    key = ["hash", what, [path for path, *_ in states]]
    known = get_value(folder, key)
    if known is not None and (value := json.loads(known))[0] == states:
        return str(value[1])
    settled = are_settled(states)
    computed = compute()
    if settled and file_states(key[2]) == states:
        put_value(folder, key, json.dumps([states, computed]))
    return computed


def are_settled(states: list[list[Any]]) -> bool:
    """Tell whether files have not changed in the last `SETTLED` seconds, so that another change shows."""
    changed = max(time for *_, modified, changed in states for time in (modified, changed))
    return time.time() - changed / 1e9 > SETTLED


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


# Encoded videos


def cached_video(
    model: VideoCoCa,
    video: str | os.PathLike[str],
    num_frames: int,
    adapter: str | None = None,
    start: float | None = None,
    end: float | None = None,
    *,
    folder: Path | None,
    model_key: str | None,
    progress: Update | None = None,
) -> Video:
    """Encode a video as `VideoCoCa.encode`, unless the cache in `folder` has it. Raises as that function."""
    adapter = model.config.check_adapter(adapter)
    key = video_key(folder, model_key, video, num_frames, adapter, start, end) if folder else []
    encoded = get_video(folder, key)
    if encoded is None:
        encoded = model.encode(video, num_frames, adapter, start=start, end=end, progress=progress)
        put_video(folder, key, video, encoded)
    elif progress:
        progress(num_frames)
    return encoded


def cached_stretches(
    model: VideoCoCa,
    video: str | os.PathLike[str],
    stretches: Iterable[tuple[float, float, Array]],
    num_frames: int,
    adapter: str | None = None,
    *,
    folder: Path | None,
    model_key: str | None,
) -> Iterator[tuple[float, float, Video]]:
    """Encode stretches (start, end, frames) of a video file, unless the cache has these parts of it.

    The file is hashed once, and nothing is kept from the moment on when it changes. Raises as
    `VideoCoCa.encode`.
    """
    adapter = model.config.check_adapter(adapter)
    states = file_states([video])
    hashes = content_hashes(video, folder) if folder else []
    for start, end, frames in stretches:
        key = _video_key(model_key, hashes, num_frames, adapter, start, end)
        encoded = get_video(folder, key)
        if encoded is None:
            encoded = model.encode(frames, adapter=adapter)
            if file_states([video]) == states:
                put(folder, key, vars(encoded))
        yield start, end, encoded


def get_video(folder: Path | None, key: list[Any]) -> Video | None:
    """Return the encoded video with a `video_key`; None as `get`."""
    arrays = get(folder, key)
    return None if arrays is None else Video(**arrays)


def put_video(folder: Path | None, key: list[Any], path: str | os.PathLike[str], video: Video) -> None:
    """Store an encoded video under its `video_key`, as `put`, unless the file at `path` has changed since."""
    if folder is None:
        return
    try:
        changed = content_hashes(path, folder) != key[2]
    except (OSError, ValueError):  # removed
        return
    if not changed:
        put(folder, key, vars(video))


# Files


def folder_for(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a cache; it need not exist.

    Raises ValueError for an impossible name and for a file, and as `size_limit`.
    """
    size_limit()
    folder = path_name(path, "give a folder, or None for no cache", "cache")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"{path}: is not a folder: give another place for the cache")
    return Path(folder)


def get(folder: Path | None, key: Any) -> dict[str, Array] | None:
    """Return the arrays stored under a key; None if they are missing or damaged, or without a folder."""
    arrays = open_arrays(file_of(folder, key)) if folder is not None else None
    if arrays is None:
        return None
    arrays = {name: array.copy() for name, array in arrays.items()}
    return arrays if _verify(arrays) else None


def open_arrays(path: Path) -> dict[str, Array] | None:
    """Return the memory-mapped arrays of a file of the cache and their checksum, which is not verified.

    None if the file is missing or its header is damaged. The contents are read when they are used. The file
    counts as used now.
    """
    if not os.path.isfile(path):  # opening a FIFO would block forever
        return None
    eviction.mark_used(path)
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


def write(folder: Path, key: Any, arrays: Mapping[str, Array]) -> None:
    """Store arrays under a key, and keep the folder below its limit. Raises OSError if that fails.

    A key is a list, a JSON value, that begins with a word: the kind of what is stored.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file_of(folder, key)) as partial:
            save_tensors(partial, {**arrays, "sha256": np.frombuffer(_sha256(arrays), np.uint8)})
            size = partial.stat().st_size
        _keep_limit(folder, size)
    except OSError as error:
        reason = error.strerror or str(error).rpartition(": ")[2]
        raise OSError(
            f"{folder}: the cache cannot be written ({reason}): give another folder with --cache or "
            "MINIVIDEOCOCA_CACHE"
        ) from None


_written: dict[Path, int] = {}  # bytes that this process has written to a folder since it was listed


def _keep_limit(folder: Path, size: int) -> None:
    """Count bytes that have been written, and now and then list the folder and remove files from it.

    It is listed after the first file of a process and each time that 1/STEPS of the limit has been written,
    so a folder can exceed the limit by this much for each further process that writes.
    """
    if (limit := size_limit()) is None:
        return
    _written[folder] = _written.get(folder, limit) + size
    if _written[folder] > limit // eviction.STEPS:
        eviction.evict(folder, limit)
        _written[folder] = 0


def put(folder: Path | None, key: Any, arrays: Mapping[str, Array]) -> None:
    """Store arrays under a key as `write`, but warn if that fails: what was computed is not lost."""
    try:
        if folder is not None:
            write(folder, key, arrays)
    except OSError as error:
        warnings.warn(f"{error}, or --no-cache; the next run computes this again", stacklevel=2)


def cached(folder: Path | None, key: Any, compute: Callable[[], Any]) -> Any:
    """Return the array or text stored under a key, or else compute and store it."""
    if (value := get_value(folder, key)) is None:
        value = compute()
        put_value(folder, key, value)
    return value


def get_value(folder: Path | None, key: Any) -> Any:
    """Return the array or text stored under a key; None as `get`."""
    if (arrays := get(folder, key)) is None:
        return None
    return arrays["text"].tobytes().decode() if "text" in arrays else arrays["array"]


def put_value(folder: Path | None, key: Any, value: Array | str) -> None:
    """Store an array or a text under a key, as `put`."""
    arrays = {"text": np.frombuffer(value.encode(), np.uint8)} if isinstance(value, str) else {"array": value}
    put(folder, key, arrays)


def file_of(folder: Path, key: Any) -> Path:
    """Return the path of the file that holds, or would hold, the arrays of a key."""
    text = json.dumps([__version__, key], sort_keys=True, default=str)
    return folder / f"{key[0]}-{hashlib.sha256(text.encode()).hexdigest()}.safetensors"


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
