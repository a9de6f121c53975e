"""Checkpoints: a model's configuration and tensors, and reading, converting and downloading them.

config      the configuration, in open_clip's layout
table       the names and shapes of all tensors
folder      reading and writing a checkpoint folder
unpickler   reading PyTorch's files without PyTorch
sources     the files of a downloaded repository
released    the configurations of open_clip's released weights, and the weights' known defects
convert     from open_clip's files to a checkpoint folder, and back
tuned       a tuned part: the tensors that finetuning has changed, laid over the rest at load
vocabulary  adding words to a vocabulary of whole words
hub         from the Hugging Face hub to a checkpoint folder
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    tuned: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> VideoCoCa:
    """Load a model in `dtype`: "float32", "float64", or "stored", the narrower of them that loses nothing.

    `source` is a checkpoint folder, "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION" for a repository that
    is downloaded and converted once, or None for the embedded checkpoint. A model without a tokenizer.json
    accepts token ids only. `model.origin` says where the weights came from. `progress` counts the tensors of
    a conversion.

    `tuned` is a tuned part that is laid over the checkpoint: a tuned.safetensors, a folder that holds one, or
    "questions", which answers questions about the embedded checkpoint's coloured shapes. `model.tuned_for` is
    the task that it was tuned for.

    Raises FileNotFoundError, PermissionError or IsADirectoryError for a folder or a file that cannot be read;
    ValueError for an invalid name, a folder that is not a checkpoint, files that do not fit each other or the
    memory, weights with values that are not finite, a repository that cannot be downloaded, and a tuned part
    of another checkpoint.
    """
    from .folder import WEIGHTS, read_checkpoint, read_origin
    from .released import weights_caveat
    from .table import nest
    from .tuned import base_name, lay_over, read_tuned

    part = None if tuned is None else read_tuned(tuned)
    repository = str(source).removeprefix(HUB) if str(source).startswith(HUB) else None
    folder = _folder_of(source, progress)
    config, tensors = read_checkpoint(folder, dtype)
    model = assemble(config, nest(tensors), _tokenizer(Path(folder), config))
    model.origin = read_origin(Path(folder) / WEIGHTS)
    if repository:  # a checkpoint that was converted by version 0.1 may lack its origin
        model.origin.setdefault("repository", repository.partition("@")[0])
    model.caveat = weights_caveat(model.origin)
    model.tuned_for = model.origin.get("tuned_for")
    model.base = f"{HUB}{repository}" if repository else base_name(folder)
    return model if part is None else lay_over(model, part)


def files_of(
    source: str | os.PathLike[str] | None = None,
    tuned: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
) -> list[Path]:
    """Return the paths of the files that `load` reads; some may not exist. Downloads and raises as `load`."""
    from .folder import CONFIG, TOKENIZER, WEIGHTS
    from .tuned import read_tuned

    part = [] if tuned is None else [read_tuned(tuned).path]
    folder = Path(_folder_of(source, progress))
    return [*(folder / name for name in (CONFIG, WEIGHTS, TOKENIZER)), *part]


def _folder_of(source: str | os.PathLike[str] | None, progress: Progress) -> str | os.PathLike[str]:
    """Return the checkpoint folder of a `source` of `load`."""
    from .folder import embedded_checkpoint

    if str(source).startswith(HUB):
        from .hub import fetch

        return fetch(str(source).removeprefix(HUB), progress=progress)
    return embedded_checkpoint() if source is None else source


def assemble(config: Config, params: Params, tokenizer: Tokenizer | None = None) -> VideoCoCa:
    """Return a model with this package's video reader and preprocessing. `params`: see `table.nest`."""
    from ..media.preprocess import preprocess
    from ..media.sampling import frame_count
    from ..media.video import timed_frames
    from ..model.videococa import VideoCoCa
    from ..resources import require_memory_for

    required = config.bytes_to_encode("attentional", params["logit_scale"].dtype)

    def read_timed(
        source: Any, num_frames: int = 8, start: Time = None, end: Time = None, *, name: str = "video"
    ) -> tuple[Array, tuple[float, ...] | None]:
        num_frames = frame_count(num_frames)
        if isinstance(source, str | os.PathLike):  # checked before the file is read
            require_memory_for(num_frames, required, f"encoding {num_frames} frames", "frames")
        return timed_frames(source, num_frames, start, end, name=name)

    return VideoCoCa(
        config,
        params,
        tokenizer,
        to_frames=lambda *args, **keywords: read_timed(*args, **keywords)[0],
        timed_frames=read_timed,
        preprocess=preprocess,
        require_memory_for=require_memory_for,
    )


def with_tensors(
    model: VideoCoCa,
    tensors: Mapping[str, Array],
    *,
    config: Config | None = None,
    tokenizer: Tokenizer | None = None,
    tuned_for: str | None = None,
) -> VideoCoCa:
    """Return a model with `tensors`, by name, in place of `model`'s or in addition to them.

    The others are shared with `model`, not copied. `config`, `tokenizer` and `tuned_for` are `model`'s unless
    given. Raises ValueError if the tensors do not fit the configuration.
    """
    from .table import check_tensors, nest, parameter_shapes, unnest

    config = config or model.config
    own = unnest(model.params)
    merged = {name: own[name] for name in parameter_shapes(config) if name in own} | dict(tensors)
    check_tensors(merged, config, "the new tensors")
    new = assemble(config, nest(merged), tokenizer or model.tokenizer)
    new.origin, new.caveat, new.base = model.origin, model.caveat, model.base
    new.changed = model.changed | tensors.keys()
    new.tuned_for = tuned_for or model.tuned_for
    if "contrastive" in (tuned_for or ""):  # the caveat is about latents, which have been trained since
        new.caveat = None
    return new


def _tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint folder, None if it has none."""
    from ..media.tokenizer import load_tokenizer
    from .folder import TOKENIZER

    path, text = folder / TOKENIZER, config.text
    if not path.exists():
        return None
    return load_tokenizer(path, text.context_length, text.pad_id, config.tokenizer_clean, text.vocab_size)
