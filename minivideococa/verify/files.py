"""Traces as safetensors files, one tensor per name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .. import __version__
from ..checkpoint import load
from ..checkpoint.config import parse_config
from ..checkpoint.folder import StoredTensor, open_safetensors, save_tensors
from ..inputs import parse_json, regular_file
from ..model.config import Array, Config
from ..model.videococa import VideoCoCa
from ..output import atomic_write, resolve_output
from ..progress import Progress, no_progress
from .compare import compare
from .names import activation_names
from .precision import EPSILON
from .report import Report

DTYPES = (*EPSILON, "uint8", "int32", "int64")


def write_trace(
    path: str | os.PathLike[str], activations: Mapping[str, Array], model: VideoCoCa | None = None
) -> None:
    """Write activations; with the model that made them, its configuration and our version as metadata.

    The bfloat16 tensors of a `Recording` are written as float32, and named in the metadata.
    Raises the errors of `resolve_output`, and OSError if the file cannot be written.
    """
    metadata = {}
    if model is not None:
        config = json.dumps(model.config.source)
        metadata = {"config": config, "version": __version__, "made_by": "minivideococa"}
    dtypes = getattr(activations, "dtypes", {})
    if narrow := [name for name in activations if dtypes.get(name) == "bfloat16"]:
        metadata["bfloat16"] = " ".join(narrow)
    with atomic_write(resolve_output(path)) as partial:
        save_tensors(partial, activations, metadata)


def verify_file(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    *,
    tuned: str | os.PathLike[str] | None = None,
    tolerance: float | None = None,
    progress: Progress = no_progress,
) -> Report:
    """`verify` for a trace file, written by any program.

    weights: a checkpoint; None is the embedded one. tuned: a tuned part over it, see `checkpoint.load`.
    dtype: the precision that the trace was computed in; the default is the coarsest dtype that its tensors
    are stored in. tolerance: see `verify`.
    Raises OSError if the file does not exist or cannot be read; ValueError if it is not a trace, is of
    another configuration, or needs more memory than there is.
    """
    from safetensors import safe_open

    path = regular_file(path, "give a trace, a safetensors file such as minivideococa trace writes")
    stored = open_safetensors(path)
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    model = load(weights, dtype="stored", tuned=tuned)
    known = [name for name in activation_names(model.config) if name in dtypes]
    if refused := [f"{name} is {dtypes[name]}" for name in known if dtypes[name] not in DTYPES]:
        raise ValueError(
            f"{path}: {', '.join(refused)}: write float64, float32, float16 or bfloat16, frames as uint8, "
            "ids as int64"
        )
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    config = _config(metadata.get("config"), path)
    if config not in (None, model.config):
        raise ValueError(f"{path}: the trace of a model with another configuration: pass its --weights")
    held = metadata.get("bfloat16", "").split()  # as float32, see `write_trace`
    dtypes |= {name: "bfloat16" for name in held if dtypes.get(name) == "float32"}
    try:
        return compare(model, _Tensors(stored), dtypes, dtype, progress, tolerance)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Tensors(Mapping[str, Array]):
    """The tensors of a file by name, each read when it is needed."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __getitem__(self, name: str) -> Array:
        tensor = self.stored[name]
        try:
            return tensor.read()
        except (ValueError, OverflowError):
            axes = len(tensor.shape)
            shape = f"{axes} axes" if axes > 8 else f"the shape {list(tensor.shape)}"
            raise ValueError(f"{name} has {shape}, which no array can have: write it again") from None


def _config(text: str | None, path: Path) -> Config | None:
    """Return the configuration in a trace's metadata; None if there is none, or other text."""
    try:
        return parse_config(parse_json(text or "null", str(path), ""))
    except (ValueError, OverflowError):
        return None
