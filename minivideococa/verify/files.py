"""Traces as safetensors files, one tensor per name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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


def write_trace(path: str | os.PathLike[str], activations: Mapping[str, Array], model: VideoCoCa) -> None:
    """Write activations, with the model's configuration and our version as metadata.

    Raises the errors of `resolve_output`, and OSError if the file cannot be written.
    """
    metadata = {"config": json.dumps(model.config.source), "version": __version__, "made_by": "minivideococa"}
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
        config = _config((file.metadata() or {}).get("config"), path)
    if config not in (None, model.config):
        raise ValueError(f"{path}: the trace of a model with another configuration: pass its --weights")
    try:
        tensors = {name: _read(name, stored[name]) for name in known}
        return compare(model, tensors, dtypes, dtype, progress, tolerance)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(name: str, tensor: StoredTensor) -> Array:
    try:
        return tensor.read()
    except (ValueError, OverflowError):
        shape = f"{len(tensor.shape)} axes" if len(tensor.shape) > 8 else f"the shape {list(tensor.shape)}"
        raise ValueError(f"{name} has {shape}, which no array can have: write it again") from None


def _config(text: str | None, path: Path) -> Config | None:
    """Return the configuration in a trace's metadata; None if there is none, or other text."""
    try:
        return parse_config(parse_json(text or "null", str(path), ""))
    except (ValueError, OverflowError):
        return None
