"""A checkpoint folder: config.json, model.safetensors and, if the model has a tokenizer, tokenizer.json.

Tensors are memory-mapped: the system reads them when they are first used, and processes share the memory.
float32 weights therefore load instantly; float16 and bfloat16 ones are converted while loading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..inputs import JSON_GROWTH, one_line, parse_json, path_name, read_json, regular_file
from ..model.config import Array, Config
from ..output import atomic_folder
from ..resources import require_memory
from .config import parse_config
from .header import header_fault
from .table import ADDED, check_tensors

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
TUNED = "tuned.safetensors"  # a tuned part, see `tuned`
NEW_LAYERS = "new_layers.safetensors"  # another, of layers that open_clip does not have, see `export`
EMBEDDED_PART = "questions.safetensors"  # the embedded one, beside the embedded checkpoint
CONVERTIBLE = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # suffixes of what `convert` reads
CLIP_VOCABULARY = 49408  # its tokenizer comes with the package
ORIGIN = "minivideococa.source"  # key of the origin in the metadata of a safetensors file


class StoredTensor(NamedTuple):
    """A tensor in a file. `read()` returns the array; bfloat16 becomes float32."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    read: Callable[[], Array]


def embedded_checkpoint() -> Path:
    """Return the folder of the embedded checkpoint: inside the package in a wheel, beside it in a checkout.

    Raises FileNotFoundError if it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for parent in (package, package.parent):
        if (parent / "weights" / "tiny" / CONFIG).is_file():
            return parent / "weights" / "tiny"
    raise FileNotFoundError(f"{package}: the embedded checkpoint is missing: reinstall minivideococa")


def is_embedded(weights: str | os.PathLike[str] | None) -> bool:
    """Tell whether `load(weights)` loads the embedded checkpoint: None, or the path of its folder."""
    return weights is None or (os.path.isdir(weights) and os.path.samefile(weights, embedded_checkpoint()))


# Reading ----------------------------------------------------------------------------------------------------


def read_checkpoint(
    folder: str | os.PathLike[str], dtype: str = "float32"
) -> tuple[Config, dict[str, Array]]:
    """Return the configuration and the tensors of a checkpoint folder, in `dtype`: "float32" or "float64".

    "stored" is float64 if a tensor is stored so, and else float32, which loses nothing either.

    Raises FileNotFoundError if the folder or one of its files does not exist, and ValueError if a file is
    malformed, the tensors do not fit the configuration or the memory, or a value is one that no weight has
    (see `check_values`).
    """
    if not isinstance(dtype, str) or dtype not in ("float32", "float64", "stored"):
        raise ValueError(f"dtype is {dtype!r}: give float32 or float64")
    folder = Path(path_name(folder, "give a checkpoint folder, or hf-hub:OWNER/NAME"))
    _require_checkpoint(folder)
    config = read_config(folder / CONFIG)
    stored, file = open_safetensors(folder / WEIGHTS), str(folder / WEIGHTS)
    check_tensors(stored, config, file)
    if dtype == "stored":
        dtype = "float64" if any(tensor.dtype == "float64" for tensor in stored.values()) else "float32"
    converted = sum(prod(tensor.shape) for tensor in stored.values() if tensor.dtype != dtype)
    require_memory(
        converted * np.dtype(dtype).itemsize,
        f"{folder}: loading it in {dtype}",
        "take a smaller model, or close other programs",
    )
    tensors = {}
    for name, tensor in stored.items():
        array = tensor.read().astype(dtype, copy=False)
        # a large tensor that stays memory-mapped is not read before it is used
        check_values(name, array, file, full=tensor.dtype != dtype or array.size <= SMALL)
        tensors[name] = array
    return config, tensors


def _require_checkpoint(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder; give a checkpoint folder, or hf-hub:OWNER/NAME")
    if folder.name == TUNED or (not (folder / CONFIG).exists() and (folder / TUNED).exists()):
        raise ValueError(f"{folder}: {LONE_PART}: give it to --tuned, and its base to --weights")
    if not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a checkpoint folder: run minivideococa convert on it first")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            convertible = any(
                path.name == "open_clip_config.json" or path.suffix in CONVERTIBLE
                for path in folder.iterdir()
            )
            hint = (
                "run minivideococa convert on it first"
                if convertible
                else "not a checkpoint folder; give one that minivideococa convert made, or hf-hub:OWNER/NAME"
            )
            raise FileNotFoundError(f"{folder}: {name} is missing: {hint}")


LONE_PART = "a tuned part, with some of a model's tensors only"

SMALL = 2**18  # elements: smaller tensors are always checked in full
LARGEST = 1e6  # magnitude: trained weights stay far below


def check_values(name: str, tensor: Array, file: str, full: bool = True) -> None:
    """Check a tensor for values that no trained weight has. `file` is the file's name in the message.

    If `full` is False, only the first 4096 elements are checked, so that the rest of a memory-mapped tensor
    is not read. Raises ValueError for NaN, infinity, magnitudes above LARGEST, a weight of CoCa that is
    zero everywhere, and a `logit_scale` whose exponential overflows or underflows.
    """
    head = tensor.reshape(-1)[:4096]
    checked = tensor if full else head
    largest = float(max(-checked.min(), checked.max()))  # NaN if there is one
    if not np.isfinite(largest):
        raise ValueError(
            f"{file}: {name} has values that are not finite: download the file again, or use another"
        )
    if largest > LARGEST:
        raise ValueError(
            f"{file}: {name} has values up to {largest:.3g}, and no weight exceeds {LARGEST:g}: "
            "the file is damaged, download it again"
        )
    must_be_filled = (tensor.ndim > 1 or name.endswith("weight")) and not name.startswith(ADDED)
    if must_be_filled and not head.any() and not tensor.any():
        raise ValueError(f"{file}: {name} is zero everywhere: the file is damaged, or was never filled")
    if name == "logit_scale" and not -20 < tensor.max() < 80:
        size = "large" if tensor.max() > 0 else "small"
        raise ValueError(
            f"{file}: logit_scale is {tensor.max():g}, too {size} for its exponential: the file is damaged"
        )


def cast_tensor(name: str, tensor: Array, dtype: str | None, file: str) -> Array:
    """Return a tensor in `dtype`; None keeps its own. `file` is the file's name in the message.

    Raises ValueError if a value overflows, or if the whole tensor would underflow to zero.
    """
    with np.errstate(over="ignore"):
        cast = tensor.astype(dtype or tensor.dtype, copy=False)
    if not np.isfinite(cast).all():
        raise ValueError(f"{file}: {name} has values that overflow {dtype}: use --dtype float32")
    if tensor.any() and not cast.any():
        raise ValueError(f"{file}: {name} would underflow to zero in {dtype}: use --dtype float32")
    return cast


def read_config(path: Path) -> Config:
    """Return the configuration in a JSON file.

    Raises FileNotFoundError if there is no such file, and ValueError if it is not JSON or not a configuration
    of a CoCa.
    """
    return parse_config(
        read_json(path, "give open_clip's configuration of the model, a JSON file"), str(path)
    )


def read_origin(weights: Path) -> dict[str, str]:
    """Return where the weights in a safetensors file came from; {} if it is not recorded.

    Keys: "weights", the name of the file that was converted; "sha256", its SHA-256 (of several shards, of
    their concatenation); for a download from the hub, "repository" and "revision"; and, if they have been
    finetuned, "tuned_for", the task.
    """
    try:
        origin = parse_json(read_metadata(weights).get(ORIGIN, "{}"), str(weights), "")
    except ValueError:  # written by another program
        return {}
    return origin if isinstance(origin, dict) else {}


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises ValueError for any other file."""
    metadata: dict[str, str] = _header(path)[0].get("__metadata__") or {}  # it may be null
    return metadata


# Writing ----------------------------------------------------------------------------------------------------


def write_checkpoint(
    folder: str | os.PathLike[str],
    config: Config,
    tensors: Mapping[str, Array],
    tokenizer_json: str | None = None,
    origin: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint folder, completely or not at all, and return its path. Arrays keep their dtype.

    `origin` is what `read_origin` returns. If another process has written the same checkpoint in the
    meantime, it is kept. Raises ValueError if `folder` is not empty, and OSError if it cannot be written.
    """
    with atomic_folder(folder, is_same=_same_checkpoint) as partial:
        (partial / CONFIG).write_text(json.dumps(config.source, indent=2) + "\n", encoding="utf-8")
        # one metadata entry only: the library writes several in any order
        save_tensors(partial / WEIGHTS, tensors, {ORIGIN: json.dumps(origin)} if origin else None)
        if tokenizer_json is not None:
            (partial / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    return Path(folder).absolute()


def _same_checkpoint(a: Path, b: Path) -> bool:
    """Compare the small files of two checkpoints, and the header of the weights, which holds their origin."""

    def content(folder: Path, name: str) -> bytes | None:
        if not (folder / name).is_file():
            return None
        with open(folder / name, "rb") as file:
            return file.read(8 + int.from_bytes(file.read(8), "little")) if name == WEIGHTS else file.read()

    return all(content(a, name) == content(b, name) for name in (CONFIG, WEIGHTS, TOKENIZER))


def save_tensors(path: Path, tensors: Mapping[str, Array], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of a new file. Raises OSError if that fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode  # the library makes the file unreadable for others
    try:
        save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from None
    path.chmod(mode)


# safetensors ------------------------------------------------------------------------------------------------


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name, memory-mapped. Raises ValueError for any other file.

    The safetensors library checks the file, but it returns copies. The format: the size of the header as a
    64-bit integer, the header as JSON, the data.
    """
    header, data = _header(path)
    return {name: _stored(entry, data) for name, entry in header.items() if name != "__metadata__"}


def _header(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Return the header of a safetensors file, and the bytes of all tensors, memory-mapped."""
    regular_file(path, "give a safetensors file")
    if fault := _fault(path):
        raise ValueError(f"{path}: not a safetensors file, or a damaged one ({fault}): download it again")
    memory = np.asarray(np.memmap(path, np.uint8, mode="c"))  # copy on write: the file never changes
    start = 8 + int(memory[:8].view("<u8")[0])
    require_memory(JSON_GROWTH * start, f"{path}: reading its header", "give a safetensors file of weights")
    return json.loads(memory[8:start].tobytes()), memory[start:]


def _fault(path: Path) -> str | None:
    """Return what is wrong with a safetensors file, None if nothing is."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:  # in a browser
        return header_fault(path)
    try:
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as error:
        return one_line(error)


def _stored(entry: dict[str, Any], data: NDArray[np.uint8]) -> StoredTensor:
    """Return the tensor that an entry of the header describes. `data` holds the bytes of all tensors."""
    names = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}
    kind = entry["dtype"].rstrip("0123456789")
    dtype = names.get(kind, kind) + entry["dtype"].removeprefix(kind)

    def read() -> Array:
        begin, end = entry["data_offsets"]
        x = data[begin:end].view("<u2" if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<"))
        return (widen_bfloat16(x) if dtype == "bfloat16" else x).reshape(entry["shape"])

    return StoredTensor(tuple(entry["shape"]), dtype, read)


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Convert bfloat16, given as uint16, to float32, whose upper half it is."""
    return (bits.astype(np.uint32, order="C") << 16).view(np.float32)
