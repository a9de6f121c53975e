"""A tuned part: the tensors that finetuning has changed, without the rest of the checkpoint.

tuned.safetensors holds these tensors under their names and, in its metadata, one JSON object:

    base        the checkpoint below: {"name": for messages, "sha256": the hash of `kept_hash`}
    config      the whole config.json of the tuned model
    tokenizer   the text of its tokenizer.json; null for CLIP's, which comes with the package, and for none
    task        what the model was tuned for: "qa", "caption", ...
    options     the options of the finetuning, for the record
    version     of this package

At load the part is laid over its base. The hash covers the tensors that the part does not replace, and no
others: they are all that is taken from the base, so the tuned model is exactly the one that was stored if and
only if they are the same. Two bases that differ only in replaced tensors are equally good. SHA-256 takes
1.2 GB/s, one second for the image encoder of L/14, whose weights the first frame would read anyway. A hash of
the base's file would take twice as long, and refuse a copy in another dtype that has the same values. The
recorded origin is no substitute: a finetuned checkpoint keeps that of its base.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..inputs import parse_json, path_name, require_exists
from ..model.config import Array, Config
from ..output import atomic_write, json_text, resolve_output
from ..resources import require_memory
from .config import parse_config
from .folder import (
    CLIP_VOCABULARY,
    EMBEDDED_PART,
    TUNED,
    StoredTensor,
    cast_tensor,
    check_values,
    embedded_checkpoint,
    is_embedded,
    open_safetensors,
    read_metadata,
    save_tensors,
    write_checkpoint,
)
from .table import check_tensors, find_mismatches, format_mismatches, parameter_shapes, unnest

if TYPE_CHECKING:
    from ..media.tokenizer import Tokenizer
    from ..model.videococa import VideoCoCa

QUESTIONS = "questions"  # the name of the embedded part, which answers questions about coloured shapes
EMBEDDED = "the embedded checkpoint"
ABOUT = "minivideococa.tuned"  # key of the JSON object in the metadata
HINT = "give the tuned.safetensors of a finetuned model, or its folder"


@dataclass(frozen=True)
class TunedPart:
    """A tuned part in a file. Made by `read_tuned`; its tensors are not read yet."""

    path: Path
    stored: dict[str, StoredTensor] = field(repr=False)
    config: Config = field(repr=False)
    tokenizer_json: str | None = field(repr=False)
    base: str  # the name of the checkpoint below, for messages
    sha256: str  # of the base's other tensors, see `kept_hash`
    task: str | None
    options: dict[str, Any] = field(repr=False)

    def require_base(self, tensors: Mapping[str, Array | StoredTensor], name: str) -> None:
        """Raise ValueError unless these are the tensors of the part's base, and fit its configuration.

        `name` is their checkpoint's.
        """
        kept = [x for x in parameter_shapes(self.config) if x not in self.stored]
        if tensors.keys() >= set(kept) and kept_hash({x: tensors[x] for x in kept}) == self.sha256:
            check_tensors({x: tensors[x] for x in kept} | self.stored, self.config, str(self.path))
            return
        if self.base == name:
            raise ValueError(f"{self.path}: tuned from another version of {name}: give that one to --weights")
        hint = "leave out --weights" if self.base == EMBEDDED else f"give {self.base} to --weights"
        raise ValueError(f"{self.path}: tuned from {self.base}, and {name} has other weights: {hint}")

    def tokenizer(self) -> Tokenizer | None:
        """Return the part's tokenizer; None if it is the base's. Raises ValueError for a damaged one."""
        from ..media.tokenizer import parse_tokenizer

        if self.tokenizer_json is None:
            return None
        text, where = self.config.text, f"{self.path}: its tokenizer"
        clean = self.config.tokenizer_clean
        return parse_tokenizer(
            self.tokenizer_json, where, text.context_length, text.pad_id, clean, text.vocab_size
        )


def base_name(folder: str | os.PathLike[str]) -> str:
    """Return how messages call the checkpoint in a folder. The folder's place says nothing elsewhere."""
    return EMBEDDED if is_embedded(folder) else f"the checkpoint {Path(folder).resolve().name}"


def kept_hash(tensors: Mapping[str, Array | StoredTensor]) -> str:
    """Return the SHA-256 of tensors: names, sizes, and values as float32, in the order of the names.

    It is the same for a copy in float16 that holds the same values, and for a model in float64.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        values = tensor.read() if isinstance(tensor, StoredTensor) else tensor
        values = np.ascontiguousarray(values, "<f4")  # a scalar becomes [1], logit_scale's other form
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()


# Reading ----------------------------------------------------------------------------------------------------


def read_tuned(tuned: str | os.PathLike[str]) -> TunedPart:
    """Return the tuned part in a file, in a folder that holds tuned.safetensors, or the embedded "questions".

    Raises FileNotFoundError, PermissionError or IsADirectoryError for a file that cannot be read; ValueError
    if it is damaged or not a tuned part, or its tensors do not fit its configuration.
    """
    path = _tuned_file(tuned)
    stored, metadata = open_safetensors(path), read_metadata(path)
    if ABOUT not in metadata:
        raise ValueError(f"{path}: not a tuned part: {HINT}; a whole checkpoint goes to --weights")
    about = parse_json(metadata[ABOUT], f"{path}: its metadata", HINT)
    if not _is_valid(about):
        raise ValueError(f"{path}: its metadata is damaged, or of another version of minivideococa: {HINT}")
    config = parse_config(about["config"], f"{path}: its configuration")
    mismatches = find_mismatches(stored, config) | {"missing": []}  # those are the base's
    if any(mismatches.values()):
        raise ValueError(f"{path}: the tensors do not fit its configuration: {format_mismatches(mismatches)}")
    return TunedPart(
        path,
        stored,
        config,
        about["tokenizer"],
        base=about["base"]["name"],
        sha256=about["base"]["sha256"],
        task=about["task"],
        options=about["options"],
    )


def _tuned_file(tuned: str | os.PathLike[str]) -> Path:
    if tuned == QUESTIONS:
        path = embedded_checkpoint() / EMBEDDED_PART
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the embedded part for questions is missing: reinstall minivideococa"
            )
        return path
    path = Path(path_name(tuned, HINT, "tuned"))
    require_exists(str(path), "file or folder", HINT)
    if path.is_dir() and not (path / TUNED).exists():
        raise FileNotFoundError(f"{path}: {TUNED} is missing: {HINT}")
    return path / TUNED if path.is_dir() else path


def _is_valid(about: Any) -> bool:
    """Return whether the JSON object has its fields, each of its type. The configuration is checked later."""
    if not isinstance(about, dict) or not {"base", "config", "tokenizer", "task", "options"} <= about.keys():
        return False
    base, options = about["base"], about["options"]
    return (
        isinstance(base, dict)
        and all(isinstance(base.get(key), str) for key in ("name", "sha256"))
        and all(about[key] is None or isinstance(about[key], str) for key in ("tokenizer", "task"))
        and isinstance(options, dict)
    )


def lay_over(model: VideoCoCa, part: TunedPart) -> VideoCoCa:
    """Return the tuned model of a part and its base.

    Raises ValueError if `model` is not the part's base, the part does not fit into memory, its values are
    ones that no weight has (see `check_values`), or its tokenizer does not fit its configuration.
    """
    from . import with_tensors

    part.require_base(unnest(model.params), model.base)
    require_memory(
        sum(prod(tensor.shape) for tensor in part.stored.values()) * model.dtype.itemsize,
        f"{part.path}: loading it",
        "close other programs",
    )
    tensors = {name: tensor.read().astype(model.dtype) for name, tensor in part.stored.items()}
    for name, tensor in tensors.items():
        check_values(name, tensor, str(part.path))
    tuned = with_tensors(model, tensors, config=part.config, tokenizer=part.tokenizer(), tuned_for=part.task)
    tuned.base = part.base  # the same weights may have another name here
    return tuned


# Writing ----------------------------------------------------------------------------------------------------


def write_tuned(
    path: str | os.PathLike[str],
    model: VideoCoCa,
    dtype: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Write what distinguishes a tuned model from its base, `model.changed`, as a whole or not at all.

    dtype: "float16" or "float32"; None is the model's. options: a JSON object for the record.
    Raises ValueError if a value is out of the range of `dtype`, and OSError if the file cannot be written.
    """
    tensors = unnest(model.params)
    changed = {x: cast_tensor(x, tensors[x], dtype, str(path)) for x in tensors if x in model.changed}
    kept = {x: tensors[x] for x in tensors if x not in model.changed}
    clip = model.config.text.vocab_size == CLIP_VOCABULARY
    tokenizer = model.tokenizer.json_text() if model.tokenizer and not clip else None
    destination = resolve_output(path)
    with atomic_write(destination) as partial:
        save_part(partial, changed, kept, model.config, tokenizer, model.base, model.tuned_for, options)
    return destination


def save_part(
    path: Path,
    tensors: Mapping[str, Array],
    kept: Mapping[str, Array],
    config: Config,
    tokenizer_json: str | None,
    base: str,
    task: str | None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a tuned part. `kept` are the tensors of the base below it, which is called `base`."""
    about = {
        "base": {"name": base, "sha256": kept_hash(kept)},
        "config": config.source,
        "tokenizer": tokenizer_json,
        "task": task,
        "options": dict(options or {}),
        "version": __version__,
    }
    save_tensors(path, tensors, {ABOUT: json_text(about)})


def write_whole(folder: str | os.PathLike[str], model: VideoCoCa, dtype: str | None = None) -> Path:
    """Write a model, tuned or not, to a checkpoint folder, which needs no base. `dtype` as in `write_tuned`.

    Raises as `write_checkpoint`, and ValueError if a value is out of the range of `dtype`.
    """
    tensors = {
        name: cast_tensor(name, tensor, dtype, str(folder)) for name, tensor in unnest(model.params).items()
    }
    origin = dict(model.origin or {}) | ({"tuned_for": model.tuned_for} if model.tuned_for else {})
    tokenizer = model.tokenizer.json_text() if model.tokenizer else None
    return write_checkpoint(folder, model.config, tensors, tokenizer, origin)
