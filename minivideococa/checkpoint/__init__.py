"""Checkpoints: a model's configuration and tensors, and reading, converting and downloading them.

config      the configuration, in open_clip's layout
table       the names and shapes of all tensors
folder      reading and writing a checkpoint folder
unpickler   reading PyTorch's files without PyTorch
sources     the files of a downloaded repository
released    the configurations of open_clip's released weights, and the weights' known defects
convert     from open_clip's files to a checkpoint folder
hub         from the Hugging Face hub to a checkpoint folder
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..progress import Progress, no_progress

if TYPE_CHECKING:
    from typing import Any

    from ..media.tokenizer import Tokenizer
    from ..model.config import Array, Config, Params, Time
    from ..model.videococa import VideoCoCa

HUB = "hf-hub:"


def load(
    source: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    *,
    progress: Progress = no_progress,
) -> VideoCoCa:
    """Load a model in `dtype`: "float32" or "float64".

    `source` is a checkpoint folder, "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION" for a repository that
    is downloaded and converted once, or None for the embedded checkpoint. A model without a tokenizer.json
    accepts token ids only. `model.origin` says where the weights came from. `progress` counts the tensors of
    a conversion.

    Raises FileNotFoundError, PermissionError or IsADirectoryError for a folder or a file that cannot be read;
    ValueError for an invalid name, a folder that is not a checkpoint, files that do not fit each other or the
    memory, weights with values that are not finite, and a repository that cannot be downloaded.
    """
    from .folder import WEIGHTS, embedded_checkpoint, read_checkpoint, read_origin
    from .released import weights_caveat
    from .table import nest

    repository = str(source).removeprefix(HUB) if str(source).startswith(HUB) else None
    if repository is not None:
        from .hub import fetch

        source = fetch(repository, progress=progress)
    folder = embedded_checkpoint() if source is None else source
    config, tensors = read_checkpoint(folder, dtype)
    model = assemble(config, nest(tensors), _tokenizer(Path(folder), config))
    model.origin = read_origin(Path(folder) / WEIGHTS)
    if repository:  # a checkpoint that was converted by version 0.1 may lack its origin
        model.origin.setdefault("repository", repository.partition("@")[0])
    model.caveat = weights_caveat(model.origin)
    return model


def assemble(config: Config, params: Params, tokenizer: Tokenizer | None = None) -> VideoCoCa:
    """Return a model with this package's video reader and preprocessing. `params`: see `table.nest`."""
    from ..media.preprocess import preprocess
    from ..media.sampling import frame_count
    from ..media.video import to_frames
    from ..model.videococa import VideoCoCa
    from ..resources import require_memory_for

    required = config.bytes_to_encode("attentional", params["logit_scale"].dtype)

    def read_frames(
        source: Any, num_frames: int = 8, start: Time = None, end: Time = None, *, name: str = "video"
    ) -> Array:
        num_frames = frame_count(num_frames)
        if isinstance(source, str | os.PathLike):  # checked before the file is read
            require_memory_for(num_frames, required, f"encoding {num_frames} frames", "frames")
        return to_frames(source, num_frames, start, end, name=name)

    return VideoCoCa(
        config,
        params,
        tokenizer,
        to_frames=read_frames,
        preprocess=preprocess,
        require_memory_for=require_memory_for,
    )


def _tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint folder, None if it has none."""
    from ..media.tokenizer import load_tokenizer
    from .folder import TOKENIZER

    path, text = folder / TOKENIZER, config.text
    if not path.exists():
        return None
    return load_tokenizer(path, text.context_length, text.pad_id, config.tokenizer_clean, text.vocab_size)
