"""A checkpoint is a folder: config.json, model.safetensors and, if it has a tokenizer, tokenizer.json.

Tensors are read from their file one by one, when they are asked for, so that no second copy of the weights is
ever in memory. The float16 and bfloat16 of a file are widened on the way.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import Config
from .table import check

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


class StoredTensor(NamedTuple):
    """A tensor that is still in its file. `read()` brings it into memory, bfloat16 as float32."""

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

    It is made beside its place and moved there at the end. Raises ValueError if `folder` holds something.
    """
    from safetensors.numpy import save_file

    folder = Path(folder).absolute()
    refuse_occupied(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        (partial / CONFIG).write_text(json.dumps(config.source, indent=2) + "\n", encoding="utf-8")
        save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, partial / WEIGHTS)
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # the library lets nobody else read its file
        if tokenizer_json is not None:
            (partial / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
        refuse_occupied(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def refuse_occupied(folder: Path) -> None:
    """Raises ValueError unless a checkpoint can be put at `folder`: nothing is there, or an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already and not empty: give another place, or remove it first")


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
    """The tensors of a safetensors file by name, not yet read. Raises ValueError if it is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    stored = {}
    for name in file.keys():
        header = file.get_slice(name)
        dtype = header.get_dtype()
        read = (lambda name=name: _read_bfloat16(path, name)) if dtype == "BF16" else \
            (lambda name=name: file.get_tensor(name))
        stored[name] = StoredTensor(tuple(header.get_shape()), names.get(dtype, dtype), read)
    return stored


def _read_bfloat16(path: Path, name: str) -> np.ndarray:
    """Past the library, which asks NumPy for the dtype. The format: a header's size, the header, the data."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        begin, end = entry["data_offsets"]
        file.seek(8 + size + begin)
        return widen_bfloat16(np.frombuffer(file.read(end - begin), "<u2")).reshape(entry["shape"])


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32: it is the upper half of a float32's bits."""
    return (bits.astype(np.uint32, order="C") << 16).view(np.float32)
