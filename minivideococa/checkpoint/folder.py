"""A checkpoint is a folder: config.json, model.safetensors and, if it has a tokenizer, tokenizer.json.

Tensors are views of their file, which the system reads when they are first used: float32 weights are loaded at once,
and are in memory once, however many processes use them. The float16 and bfloat16 of a file are widened one by one.
"""

import json
import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..inputs import parse_json, path_name, read_json, regular_file
from ..model.config import Config
from ..output import folder_written_whole
from ..resources import require_memory
from .config import parse_config
from .table import check

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
SOURCES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # the files that `convert` takes
RECORD = "minivideococa.source"  # the key of `read_record` in a safetensors file's metadata


class StoredTensor(NamedTuple):
    """A tensor that is still in its file. `read()` gives the array, bfloat16 as float32."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    read: Callable[[], np.ndarray]


def embedded_checkpoint() -> Path:
    """The folder of the tiny checkpoint that comes with the package.

    A wheel holds it inside the package; a checkout, which an editable install points at, has it beside the
    package. Raises FileNotFoundError if it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for parent in (package, package.parent):
        if (parent / "weights" / "tiny" / CONFIG).is_file():
            return parent / "weights" / "tiny"
    raise FileNotFoundError(f"{package}: the embedded checkpoint is not there: install minivideococa anew")


SMALL = 2**18  # elements: tensors up to this size are always checked in full
LARGEST = 1e6  # of a number in a weight: trained ones stay far below


def read_checkpoint(
    folder: str | os.PathLike[str], dtype: str = "float32"
) -> tuple[Config, dict[str, np.ndarray]]:
    """A checkpoint folder -> its configuration, and its tensors by name in `dtype` ("float32" or "float64").

    Raises FileNotFoundError if the folder or one of its files is not there, and ValueError if one is not what
    it should be or the tensors do not fit the configuration.
    """
    if not isinstance(dtype, str) or dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}: give float32 or float64")
    folder = Path(path_name(folder, "give a checkpoint folder, or hf-hub:OWNER/NAME"))
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a checkpoint folder: minivideococa convert makes those")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            convertible = any(
                path.name == "open_clip_config.json" or path.suffix in SOURCES for path in folder.iterdir()
            )
            hint = "run minivideococa convert on it first" if convertible else "not a checkpoint folder"
            raise FileNotFoundError(f"{folder}: {name} is not there: {hint}")
    config = read_config(folder / CONFIG)
    stored = open_safetensors(folder / WEIGHTS)
    check(stored, config, str(folder / WEIGHTS))
    widened = sum(prod(tensor.shape) for tensor in stored.values() if tensor.dtype != dtype)
    require_memory(
        widened * np.dtype(dtype).itemsize,
        f"{folder}: loading it in {dtype}",
        "take a smaller model, or close other programs",
    )
    tensors = {}
    for name, tensor in stored.items():
        tensors[name] = tensor.read().astype(dtype, copy=False)
        # a float32 tensor is not read from its file before it is used, unless it is small
        everything = tensor.dtype != dtype or tensors[name].size <= SMALL
        refuse_unsound(name, tensors[name], str(folder / WEIGHTS), everything)
    return config, tensors


def refuse_unsound(name: str, tensor: np.ndarray, where: str, everything: bool = True) -> None:
    """Raise ValueError for a tensor that no model has.

    That is one with numbers that are not finite or beyond +-LARGEST, a weight of zeros alone, or a `logit_scale` whose
    exponential is infinite or nearly 0. If `everything` is False, only the first 4096 numbers are checked, so that the
    rest of a memory-mapped tensor is not read. `where` is the name of the file.
    """
    first = tensor.reshape(-1)[:4096]
    checked = tensor if everything else first
    largest = float(max(-checked.min(), checked.max()))  # NaN if there is one
    if not np.isfinite(largest):
        raise ValueError(
            f"{where}: {name} holds numbers that are not finite: take other weights, or fetch them anew"
        )
    if largest > LARGEST:
        raise ValueError(
            f"{where}: {name} holds numbers up to {largest:.3g}, and no weight is beyond {LARGEST:g}: "
            "the file is damaged, fetch it anew"
        )
    if (tensor.ndim > 1 or name.endswith("weight")) and not first.any() and not tensor.any():
        raise ValueError(f"{where}: {name} holds nothing but zeros: the file is damaged, or was never filled")
    if name == "logit_scale" and not -20 < tensor.max() < 80:
        size = "large" if tensor.max() > 0 else "small"
        raise ValueError(
            f"{where}: logit_scale is {tensor.max():g}, too {size} to be exponentiated: the file is damaged"
        )


def write_checkpoint(
    folder: str | os.PathLike[str],
    config: Config,
    tensors: Mapping[str, np.ndarray],
    tokenizer_json: str | None = None,
    record: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint folder, as a whole or not at all, and return it. The arrays keep their dtype.

    `record` says where the weights came from; `read_record` returns it. If another process has written the same
    checkpoint there meanwhile, that one stays.
    Raises ValueError if `folder` holds something else, OSError if it cannot be written.
    """
    with folder_written_whole(folder, same=_same_checkpoint) as partial:
        (partial / CONFIG).write_text(json.dumps(config.source, indent=2) + "\n", encoding="utf-8")
        # under one name, since the library writes several in any order
        save_tensors(partial / WEIGHTS, tensors, {RECORD: json.dumps(record)} if record else None)
        if tokenizer_json is not None:
            (partial / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    return Path(folder).absolute()


def _same_checkpoint(ours: Path, theirs: Path) -> bool:
    """Whether two folders hold the same checkpoint: equal files, of the weights the header, which has their record."""

    def content(folder: Path, name: str) -> bytes | None:
        if not (folder / name).is_file():
            return None
        with open(folder / name, "rb") as file:
            return file.read(8 + int.from_bytes(file.read(8), "little")) if name == WEIGHTS else file.read()

    return all(content(ours, name) == content(theirs, name) for name in (CONFIG, WEIGHTS, TOKENIZER))


def read_record(weights: Path) -> dict[str, str]:
    """Return where the weights in a safetensors file came from, as far as it says so.

    Keys: "weights", the name of the file that they were converted from; "sha256", its SHA-256 (of several shards, one
    after the other); and, if it came from the hub, "repository" and "revision".
    """
    try:
        record = parse_json(_header(weights)[0].get("__metadata__", {}).get(RECORD, "{}"), str(weights), "")
    except ValueError:  # another program's
        return {}
    return record if isinstance(record, dict) else {}


def save_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file that whoever may read new files here may read. Raises OSError if that fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode  # the library lets nobody else read its file
    try:
        save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from None
    path.chmod(mode)


def read_config(path: Path) -> Config:
    """Read the configuration in a JSON file.

    Raises FileNotFoundError if it is not there, ValueError if it is no JSON or no configuration of a CoCa.
    """
    return parse_config(
        read_json(path, "give open_clip's configuration of the model, a JSON file"), str(path)
    )


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, not yet read. Raises ValueError if it is no such file.

    The library checks the file; the tensors are views of it as it lies on disk, which the library does not give. The
    format: a header's size, the header, which is JSON, the data.
    """
    header, data = _header(path)
    return {name: _stored(entry, data) for name, entry in header.items() if name != "__metadata__"}


def _header(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """A safetensors file's header, and the bytes of all tensors as they lie on disk."""
    from safetensors import SafetensorError, safe_open

    regular_file(path, "give a safetensors file")
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    memory = np.asarray(np.memmap(path, np.uint8, mode="c"))  # private: what is written stays out of the file
    start = 8 + int(memory[:8].view("<u8")[0])
    return json.loads(memory[8:start].tobytes()), memory[start:]


def _stored(entry: dict[str, Any], data: np.ndarray) -> StoredTensor:
    """A tensor's entry in the header, and the bytes of all tensors -> the tensor."""
    names = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}
    kind = entry["dtype"].rstrip("0123456789")
    dtype = names.get(kind, kind) + entry["dtype"].removeprefix(kind)

    def read() -> np.ndarray:
        begin, end = entry["data_offsets"]
        x = data[begin:end].view("<u2" if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<"))
        return (widen_bfloat16(x) if dtype == "bfloat16" else x).reshape(entry["shape"])

    return StoredTensor(tuple(entry["shape"]), dtype, read)


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32: it is the upper half of a float32's bits."""
    return (bits.astype(np.uint32, order="C") << 16).view(np.float32)
