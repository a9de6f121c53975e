"""A folder that open_clip loads, so that a model can be finetuned here and served there.

open_clip_config.json         open_clip's configuration: none of our extensions
open_clip_model.safetensors   a state dict that `load_state_dict(strict=True)` accepts
tokenizer.json                the tokenizer, if there is one; open_clip itself only knows CLIP's
new_layers.safetensors        what open_clip does not have, if there is any: a tuned part (see `tuned`) over
                              the rest, with the new layers' tensors and the whole configuration

`convert` makes a checkpoint folder of such a folder again; with --tuned new_layers.safetensors it is the same
as before the export.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..model.config import Array, Config
from ..output import atomic_folder
from .config import parse_config
from .folder import CLIP_VOCABULARY, NEW_LAYERS, ORIGIN, TOKENIZER, save_tensors
from .table import ADDED
from .tuned import save_part

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def write_open_clip(
    folder: str | os.PathLike[str],
    config: Config,
    tensors: Mapping[str, Array],
    tokenizer_json: str | None = None,
    origin: Mapping[str, str] | None = None,
) -> Path:
    """Write a model to a folder for open_clip, completely or not at all, and return its path.

    Arrays keep their dtype. Warn of what open_clip does not have. Raises ValueError if `folder` is not empty,
    and OSError if it cannot be written.
    """
    source, origin = open_clip_config(config), dict(origin or {})
    new = {name: tensor for name, tensor in tensors.items() if name.startswith(ADDED)}
    shared = {name: tensor for name, tensor in tensors.items() if name not in new}
    scale_shape = (1,) if source["model_cfg"].get("nonscalar_logit_scale") else ()
    shared["logit_scale"] = shared["logit_scale"].reshape(scale_shape)
    with atomic_folder(folder) as partial:
        (partial / CONFIG).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        save_tensors(partial / WEIGHTS, shared, {ORIGIN: json.dumps(origin)} if origin else None)
        if tokenizer_json is not None:
            (partial / TOKENIZER).write_text(tokenizer_json, encoding="utf-8")
        if new or parse_config(source) != config:
            base = "the open_clip folder beside it"
            save_part(partial / NEW_LAYERS, new, shared, config, None, base, origin.get("tuned_for"))
    for message in _missing_there(config):
        warnings.warn(f"{folder}: {message}", stacklevel=3)
    return Path(folder).absolute()


def open_clip_config(config: Config) -> dict[str, Any]:
    """Return a configuration from which open_clip builds a CoCa: without our extensions."""
    source: dict[str, Any] = copy.deepcopy(config.source)
    model = source["model_cfg"] | {"custom_text": True}  # without it open_clip's factory builds a CLIP
    for tower in ("vision_cfg", "text_cfg"):  # without it the towers return no caption tokens, no features
        model[tower]["output_tokens"] = True
    model["text_cfg"].pop("correct_cls_mask", None)
    return {"model_cfg": model, "preprocess_cfg": source["preprocess_cfg"]}


def _missing_there(config: Config) -> Iterator[str]:
    """Yield a message for each part of a model that open_clip does not have, or has elsewhere."""
    new = [("factorized layers", config.factorized), ("question head", config.answers)]
    if names := [name for name, present in new if present]:
        yield (
            f"open_clip has no {' and no '.join(names)}: stored apart, in {NEW_LAYERS}, which minivideococa "
            "takes as --tuned"
        )
    if config.text.correct_cls_mask:
        yield "set model.text.correct_cls_mask = True in open_clip, whose configuration has no such field"
    if config.text.vocab_size != CLIP_VOCABULARY:
        yield f"open_clip's tokenizer is CLIP's: tokenize with {TOKENIZER}"
