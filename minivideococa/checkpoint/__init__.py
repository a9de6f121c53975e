"""Checkpoints: what a model is made of, where it comes from, and how it gets here.

config      the configuration, in open_clip's layout
table       the names and shapes of all tensors
folder      a checkpoint folder, read and written
unpickler   PyTorch's files, without PyTorch
sources     which file is which in a folder or repository of weights
released    the configurations of open_clip's released weights, and what these are good for
convert     open_clip's files -> a checkpoint folder
hub         the same from a repository on the Hugging Face hub
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ..media.tokenizer import Tokenizer
    from ..model.config import Array, Config, Params, Time
    from ..model.videococa import VideoCoCa

HUB = "hf-hub:"


def load(source: str | os.PathLike[str] | None = None, dtype: str = "float32") -> VideoCoCa:
    """Load the model of a checkpoint, in `dtype`: "float32" or "float64".

    `source` is None for the embedded tiny checkpoint, "hf-hub:OWNER/NAME" (or "hf-hub:OWNER/NAME@REVISION")
    for one that is fetched and converted once, or a checkpoint folder. Without a tokenizer.json in it the
    model has no tokenizer, and takes token ids only. The model's `origin` says where its weights came from.

    Raises FileNotFoundError, PermissionError or IsADirectoryError for a folder or a file that cannot be read;
    ValueError for an impossible name, for one that is no checkpoint or does not fit its configuration, for weights
    that are not finite, and for more than fits into memory.
    """
    from ..media.tokenizer import load_tokenizer
    from .folder import TOKENIZER, WEIGHTS, embedded_checkpoint, read_checkpoint, read_record
    from .released import weights_caveat
    from .table import nest

    repository = None
    place: str | os.PathLike[str]
    if source is None:
        place = embedded_checkpoint()
    elif str(source).startswith(HUB):
        from .hub import fetch

        repository = str(source).removeprefix(HUB)
        place = fetch(repository)
    else:
        place = source
    config, tensors = read_checkpoint(place, dtype)
    tokenizer, folder = None, Path(place)
    if (folder / TOKENIZER).exists():
        tokenizer = load_tokenizer(
            folder / TOKENIZER,
            config.text.context_length,
            config.text.pad_id,
            config.tokenizer_clean,
            config.text.vocab_size,
        )
    model = assemble(config, nest(tensors), tokenizer)
    record = read_record(folder / WEIGHTS)
    if repository:  # a folder that an older version converted has no record
        record.setdefault("repository", repository.partition("@")[0])
    model.origin, model.caveat = record, weights_caveat(record)
    return model


def assemble(config: Config, params: Params, tokenizer: Tokenizer | None = None) -> VideoCoCa:
    """Return a `VideoCoCa` of these weights that reads files, preprocesses frames, and compares memory with its needs."""
    from ..media.preprocess import preprocess
    from ..media.sampling import frame_count
    from ..media.video import to_frames
    from ..model.videococa import VideoCoCa
    from ..resources import require_memory_for

    need = config.bytes_to_encode("attentional", params["logit_scale"].dtype)

    def frames_of(
        source: Any, num_frames: int = 8, start: Time = None, end: Time = None, *, name: str = "video"
    ) -> Array:
        num_frames = frame_count(num_frames)
        if isinstance(source, str | os.PathLike):  # before the file is read
            require_memory_for(num_frames, need, f"encoding {num_frames} frames", "frames")
        return to_frames(source, num_frames, start, end, name=name)

    return VideoCoCa(
        config,
        params,
        tokenizer,
        to_frames=frames_of,
        preprocess=preprocess,
        require_memory_for=require_memory_for,
    )
