"""Traces as files: safetensors, a tensor a name, written by us or by anybody."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .. import __version__
from ..checkpoint import load
from ..checkpoint.config import parse_config
from ..checkpoint.folder import StoredTensor, open_safetensors, save_tensors
from ..inputs import parse_json, regular_file
from ..model.config import Config
from ..model.videococa import VideoCoCa
from ..output import atomic_write, resolve_output
from .blame import compare
from .path import names_of
from .precision import EPSILON
from .rows import Report


def write_trace(path: str | os.PathLike[str], tape: Mapping[str, np.ndarray], model: VideoCoCa) -> None:
    """Write what `minivideococa.model.hooks` collected, with the model's configuration and our version in the metadata.

    Raises as `resolve_output`, and OSError if it cannot be written.
    """
    metadata = {"config": json.dumps(model.config.source), "version": __version__, "made_by": "minivideococa"}
    with atomic_write(resolve_output(path)) as partial:
        save_tensors(partial, tape, metadata)


def verify_file(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, dtype: str | None = None
) -> Report:
    """`verify` of a trace file that any program wrote, by a checkpoint (None: the embedded one).

    dtype: what it was computed in, if that is not what it is stored in: then, the coarsest of its tensors' dtypes.
    Raises OSError if the file is not there or may not be read, ValueError if it is no trace, one of another
    configuration, or one that takes more memory than there is.
    """
    from safetensors import safe_open

    path = regular_file(path, "give a trace, a safetensors file such as minivideococa trace makes")
    stored = open_safetensors(path)
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    model = load(weights, dtype="float64")
    known = [name for name in names_of(model.config) if name in dtypes]
    odd = [
        f"{name} is {dtypes[name]}"
        for name in known
        if dtypes[name] not in (*EPSILON, "uint8", "int32", "int64")
    ]
    if odd:
        raise ValueError(
            f"{path}: {', '.join(odd)}: write float64, float32, float16 or bfloat16, frames as uint8, "
            "ids as int64"
        )
    with safe_open(path, framework="numpy") as file:
        config = _config((file.metadata() or {}).get("config"), path)
    if config not in (None, model.config):
        raise ValueError(f"{path}: of a model of another configuration: give its checkpoint with --weights")
    try:
        return compare(model, {name: _read(name, stored[name]) for name in known}, dtypes, dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(name: str, tensor: StoredTensor) -> np.ndarray:
    try:
        return tensor.read()
    except (ValueError, OverflowError):
        shape = f"{len(tensor.shape)} axes" if len(tensor.shape) > 8 else f"the shape {list(tensor.shape)}"
        raise ValueError(f"{name} has {shape}, as no array can: write it again") from None


def _config(text: str | None, path: Path) -> Config | None:
    """The configuration in a trace's metadata; other programs may write there what they like, or nothing."""
    try:
        return parse_config(parse_json(text or "null", str(path), ""))
    except (ValueError, OverflowError):
        return None
