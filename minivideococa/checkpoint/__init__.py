"""Checkpoints: what a model is made of, where it comes from, and how it gets here.

config      the configuration, in open_clip's layout
table       the names and shapes of all tensors
folder      a checkpoint folder, read and written
unpickler   PyTorch's files, without PyTorch
convert     open_clip's files -> a checkpoint folder
hub         the same from a repository on the Hugging Face hub
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model import VideoCoCa

HUB = "hf-hub:"


def load(source: str | os.PathLike[str] | None = None, dtype: str = "float32") -> VideoCoCa:
    """The model of a checkpoint, in `dtype`: "float32" or "float64".

    `source` is None for the embedded tiny checkpoint, "hf-hub:OWNER/NAME" (or "hf-hub:OWNER/NAME@REVISION")
    for one that is fetched and converted once, or a checkpoint folder. Without a tokenizer.json in it the
    model has no tokenizer, and takes token ids only.

    Raises FileNotFoundError for a folder or a file that is not there; ValueError for one that is no
    checkpoint, or does not fit its configuration.
    """
    from ..model import VideoCoCa
    from ..tokenizer import load_tokenizer
    from .folder import TOKENIZER, embedded_checkpoint, read_checkpoint
    from .table import nest

    if source is None:
        folder = embedded_checkpoint()
    elif str(source).startswith(HUB):
        from .hub import fetch
        folder = fetch(str(source).removeprefix(HUB))
    else:
        folder = Path(source)
    config, tensors = read_checkpoint(folder, dtype)
    tokenizer = None
    if (folder / TOKENIZER).is_file():
        tokenizer = load_tokenizer(folder / TOKENIZER, context_length=config.text.context_length,
                                   pad_id=config.text.pad_id, clean=config.tokenizer_clean)
    return VideoCoCa(config, nest(tensors), tokenizer)
