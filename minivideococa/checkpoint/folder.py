"""A checkpoint is a folder: config.json, model.safetensors and, if it has a tokenizer, tokenizer.json.

Tensors are views of their file, which the system reads when they are first used: float32 weights are loaded at once,
and are in memory once, however many processes use them. The float16 and bfloat16 of a file are widened one by one.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..output import folder_written_whole
from .config import Config
from .table import check

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


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


def read_checkpoint(folder: str | os.PathLike[str],
                    dtype: str = "float32") -> tuple[Config, dict[str, np.ndarray]]:
    """A checkpoint folder -> its configuration, and its tensors by name in `dtype` ("float32" or "float64").

    Raises FileNotFoundError if the folder or one of its files is not there, and ValueError if one is not what
    it should be or the tensors do not fit the configuration.
    """
    folder = Path(folder)
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype is {dtype!r}: give float32 or float64")
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if not folder.is_dir():
        raise ValueError(f"{folder}: a file, not a checkpoint folder: minivideococa convert makes those")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            convertible = (folder / "open_clip_config.json").is_file()
            hint = "run minivideococa convert on it first" if convertible else "not a checkpoint folder"
            raise FileNotFoundError(f"{folder}: {name} is not there: {hint}")
    config = read_config(folder / CONFIG)
    stored = open_safetensors(folder / WEIGHTS)
    check(stored, config, str(folder / WEIGHTS))
    return config, {name: tensor.read().astype(dtype, copy=False) for name, tensor in stored.items()}


def write_checkpoint(folder: str | os.PathLike[str], config: Config, tensors: Mapping[str, np.ndarray],
                     tokenizer_json: str | None = None) -> Path:
    """Writes a checkpoint folder, as a whole or not at all, and returns it. The arrays keep their dtype.

    Raises ValueError if `folder` holds something, OSError if it cannot be written.
    """
    with folder_written_whole(folder) as partial:
        (partial / CONFIG).write_text(json.dumps(config.source, indent=2) + "\n", encoding="utf-8")
        save_tensors(partial / WEIGHTS, tensors)
        if tokenizer_json is not None:
            (partial / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
    return Path(folder).absolute()


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that whoever may read new files here may read. Raises OSError if that fails."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.touch()
    mode = path.stat().st_mode  # the library lets nobody else read its file
    try:
        save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path.parent}: {path.name} cannot be written there: {error}") from None
    path.chmod(mode)


def read_config(path: Path) -> Config:
    """The configuration in a JSON file.

    Raises FileNotFoundError if it is not there, ValueError if it is no JSON or no configuration of a CoCa.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        source: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path}: not a JSON file: {error}") from None
    return Config.parse(source, str(path))


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name, not yet read. Raises ValueError if it is no such file.

    The library checks the file; the tensors are views of it as it lies on disk, which the library does not give. The
    format: a header's size, the header, which is JSON, the data.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    memory = np.asarray(np.memmap(path, np.uint8, mode="c"))      # private: what is written stays out of the file
    start = 8 + int(memory[:8].view("<u8")[0])
    header = json.loads(memory[8:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _stored(entry, memory[start:]) for name, entry in header.items()}


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
