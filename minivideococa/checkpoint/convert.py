"""open_clip's CoCa checkpoints -> a checkpoint folder.

The source is what a hub repository holds, another checkpoint folder, or a file of weights: also a training checkpoint,
its weights under `state_dict` and its names prefixed if the run was distributed. See `sources` for the files, and
`released` for weights without a configuration.
"""

import os
import re
from math import prod
from pathlib import Path

import numpy as np

from ..inputs import path_name, read_text
from ..model.config import Config
from ..output import refuse_occupied, writable
from ..progress import advance, progress, say
from ..resources import require_memory
from .folder import TOKENIZER, StoredTensor, read_config, read_record, refuse_unsound, write_checkpoint
from .released import fitting_config, named_config, names
from .sources import CONFIG_NAMES, config_name, read_weights, sha256, shard_files, weights_name
from .table import check

CLIP_VOCABULARY = 49408


def convert(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    dtype: str | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Path:
    """Make the checkpoint folder `dest` from `source`, a folder or a file of weights, and return its path.

    `config` is the configuration: its file, or the name of one of open_clip's that come with the package,
    "coca_ViT-B-32" or "coca_ViT-L-14". By default it is the one in the folder; if there is none, that of the two
    whose every shape agrees with the weights. `dtype` is "float16" or "float32"; None keeps every tensor's own, but
    bfloat16, unknown to NumPy, becomes float32. `dest` gets CLIP's tokenizer if the vocabulary is CLIP's, otherwise
    the source's tokenizer.json if there is one. Messages on standard error say what was chosen.

    Raises FileNotFoundError for a file that is not there; PermissionError for one that cannot be read, or if `dest`
    cannot be written; ValueError if `dest` is not empty, the configuration asks for what is not built here, the
    weights do not fit it or are damaged, or a number is not in `dtype`.
    """
    if not (dtype is None or isinstance(dtype, str) and dtype in ("float16", "float32")):
        raise ValueError(f"dtype is {dtype!r}: give float16 or float32")
    source = Path(path_name(source, "give a folder, or a file of weights", "source"))
    dest = Path(path_name(dest, "give a folder to make", "dest"))
    refuse_occupied(dest)
    if not writable(dest if dest.is_dir() else dest.parent):
        raise PermissionError(f"{dest}: nothing can be written there; give another place")
    try:
        source.stat()
    except PermissionError:
        raise PermissionError(f"{source}: permission denied; check the permissions of its folder") from None
    except OSError as error:  # also a name that is too long, or a link to itself
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "there is no such file or folder" if absent else error.strerror
        raise FileNotFoundError(f"{source}: {reason}") from None
    files = sorted(path.name for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    weights = source / weights_name(files, str(source)) if source.is_dir() else source

    beside = config_name(files)
    if config is not None:
        parsed = _config(config)
    elif beside:
        parsed = read_config(source / beside)
    stored = read_weights(weights)
    if config is None and not beside:
        try:
            name, parsed = fitting_config(stored)
        except ValueError as error:
            if source.is_dir():
                raise FileNotFoundError(
                    f"{source}: none of {', '.join(CONFIG_NAMES)} is there; {error}"
                ) from None
            raise ValueError(f"{weights}: its configuration is not known; {error}") from None
        say(
            f"{weights}: no configuration is beside it; every shape agrees with open_clip's {name}, "
            "which is taken"
        )
    check(stored, parsed, str(weights))
    tokenizer = _tokenizer(parsed, source)
    size = sum(prod(tensor.shape) * _itemsize(tensor, dtype) for tensor in stored.values())
    require_memory(
        size,
        f"{weights}: converting it",
        "close other programs" if dtype == "float16" else "use --dtype float16, or close other programs",
    )
    record = _record(weights)
    with progress(len(stored), "tensors"):
        tensors = {}
        for name, tensor in stored.items():
            tensors[name] = _cast(name, tensor, dtype, str(weights))
            advance()
    return write_checkpoint(dest, parsed, tensors, tokenizer, record)


def _config(config: str | os.PathLike[str]) -> Config:
    """The configuration of a name or in a file."""
    if parsed := named_config(os.fspath(config)):
        return parsed
    if not os.path.exists(config):
        raise FileNotFoundError(
            f"{config}: no such file, nor a configuration's name: give a file or " + " or ".join(names())
        )
    return read_config(Path(config))


def _itemsize(tensor: StoredTensor, dtype: str | None) -> int:
    """Return the bytes that an element of a tensor takes after conversion to `dtype`; NumPy has no bfloat16."""
    return np.dtype(dtype or ("float32" if tensor.dtype == "bfloat16" else tensor.dtype)).itemsize


def _cast(name: str, tensor: StoredTensor, dtype: str | None, where: str) -> np.ndarray:
    array = tensor.read()
    refuse_unsound(name, array, where)
    with np.errstate(over="ignore"):  # told below, by name
        cast = array.astype(dtype or array.dtype, copy=False)
    if not np.isfinite(cast).all():
        raise ValueError(f"{where}: {name} holds numbers too large for {dtype}")
    if array.any() and not cast.any():
        raise ValueError(
            f"{where}: {name} holds nothing but numbers too small for {dtype}: use --dtype float32"
        )
    return cast


def _tokenizer(config: Config, source: Path) -> str | None:
    if config.text.vocab_size == CLIP_VOCABULARY:
        from ..media.tokenizer import clip_tokenizer_json

        return clip_tokenizer_json()
    path = source / TOKENIZER
    if not path.exists():
        return None
    from ..media.tokenizer import load_tokenizer

    load_tokenizer(
        path, config.text.context_length, config.text.pad_id, config.tokenizer_clean, config.text.vocab_size
    )
    return read_text(path, "give the tokenizer of the checkpoint")


def _record(weights: Path) -> dict[str, str]:
    """Where the weights come from, see `read_record`. A checkpoint that was converted once keeps its first record.

    Raises ValueError for a file in huggingface_hub's cache that was damaged in transfer.
    """
    if weights.suffix == ".safetensors" and "sha256" in (record := read_record(weights)):
        return record
    files = shard_files(weights)
    sums = {file: sha256([file]) for file in files}
    for file, found in sums.items():
        # huggingface_hub names the file behind the link by the SHA-256 that the hub announced
        blob = file.resolve()
        if blob.parent.name == "blobs" and len(blob.name) == 64 and blob.name != found:
            raise ValueError(
                f"{file}: its SHA-256 is not what the hub announced: remove {blob} and fetch it anew"
            )
    record = {"weights": weights.name, "sha256": sums[files[0]] if len(files) == 1 else sha256(files)}
    # the cache of huggingface_hub: models--OWNER--NAME/snapshots/COMMIT/FILE
    if found := re.search(
        r"models--([\w.-]+?)--([\w.-]+)/snapshots/(\w+)$", weights.absolute().parent.as_posix()
    ):
        record |= {"repository": f"{found[1]}/{found[2]}", "revision": found[3]}
    return record
